//! Reads the entries of a tar archive with bounded memory. The `tar` crate parses the header blocks; what goes beyond
//! them (long names, pax records, sparse maps) is put together here, because each of it must have a limit.

use std::io::{self, Read};

use tar::{EntryType, GnuExtSparseHeader, Header};

const BLOCK: u64 = 512;
/// Names, links and pax records of one entry together, in bytes.
const LARGEST_METADATA: u64 = 1 << 20;
/// Pieces of a sparse file.
const MOST_PIECES: usize = 1 << 18;
/// Of one entry; file systems take a few dozen.
const MOST_ATTRIBUTES: usize = 1 << 10;
/// Of a number that fits 64 bits.
const MOST_DIGITS: usize = 20;

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream ended early, or its compression is broken.
    #[error("the archive cannot be read{}", after(name))]
    Read {
        /// The entry before or in which it broke; empty before the first.
        name: String,
        /// Cause.
        source: io::Error,
    },
    /// A header that makes no sense.
    #[error("the archive is damaged{}: {reason}", after(name))]
    Damaged {
        /// The entry before or in which it is damaged.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
}

fn after(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!(", at or after {name}") }
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// Another name of an earlier file.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A character device.
    Character,
    /// A block device.
    Block,
}

/// One entry, without its content.
#[derive(Debug, Clone)]
pub struct Entry {
    /// As written.
    pub path: Vec<u8>,
    /// Where a link leads, as written.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Owner: user, group.
    pub owner: (u64, u64),
    /// Seconds and nanoseconds since 1970.
    pub modified: (i64, u32),
    /// Length of the content in the archive, in bytes.
    pub size: u64,
    /// Of a sparse file: its length, and (offset, length) of what is in the archive.
    pub sparse: Option<(u64, Vec<(u64, u64)>)>,
    /// Extended attributes.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
}

impl Entry {
    /// Its name for messages.
    #[must_use]
    pub fn name(&self) -> String {
        printable(&self.path)
    }
}

/// A name as a message shows it: nothing in it can drive a terminal.
pub(super) fn printable(name: &[u8]) -> String {
    String::from_utf8_lossy(name).escape_debug().to_string()
}

/// An archive that is being read.
pub struct Archive<R> {
    input: R,
    /// Of the current entry: content, and padding behind it.
    left: u64,
    padding: u64,
    /// Bytes read so far.
    pub position: u64,
    /// The last entry, for messages.
    last: String,
}

/// What precedes a header and belongs to it.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    user: Option<u64>,
    group: Option<u64>,
    modified: Option<(i64, u32)>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// `GNU.sparse.*`.
    version: (Option<u64>, Option<u64>),
    real_size: Option<u64>,
    real_name: Option<Vec<u8>>,
    map: Option<Vec<u64>>,
    bytes: u64,
}

impl<R: Read> Archive<R> {
    /// Begins at the first header.
    pub fn new(input: R) -> Archive<R> {
        Archive { input, left: 0, padding: 0, position: 0, last: String::new() }
    }

    /// The next entry; the rest of the one before is skipped.
    ///
    /// # Errors
    ///
    /// The archive ends early or is damaged, or an entry needs more than a MiB for its names and attributes.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        let mut extension = Extension::default();
        loop {
            self.skip()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let kind = header.entry_type();
            match kind {
                EntryType::GNULongName => extension.path = Some(text(&self.metadata(&mut extension)?)),
                EntryType::GNULongLink => extension.link = Some(text(&self.metadata(&mut extension)?)),
                EntryType::XHeader => {
                    let records = self.metadata(&mut extension)?;
                    self.pax(&records, &mut extension)?;
                }
                // Defaults for all that follows, such as the commit that `git archive` notes: none that we take.
                EntryType::XGlobalHeader => {
                    self.metadata(&mut extension)?;
                }
                _ => return self.entry(&header, extension).map(Some),
            }
        }
    }

    /// The content of the current entry; for a sparse file one piece behind the other.
    ///
    /// # Errors
    ///
    /// The archive ends early.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let length = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if length == 0 {
            return Ok(0);
        }
        let result = self.input.read(&mut buffer[..length]);
        match result {
            Ok(0) => Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => {
                self.left -= count as u64;
                self.position += count as u64;
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.read(buffer),
            Err(error) => Err(self.broken(error)),
        }
    }

    /// The caller has moved the input to the next header itself.
    pub(super) fn moved_on(&mut self) {
        self.position += self.left + self.padding;
        (self.left, self.padding) = (0, 0);
    }

    /// Length of what is left of the current entry, with its padding.
    pub(super) fn remaining(&self) -> u64 {
        self.left + self.padding
    }

    /// The input, for what lies behind the end of the archive.
    pub fn into_input(self) -> R {
        self.input
    }

    fn broken(&self, source: io::Error) -> Error {
        Error::Read { name: self.last.clone(), source }
    }

    fn damaged(&self, reason: &'static str) -> Error {
        Error::Damaged { name: self.last.clone(), reason }
    }

    fn skip(&mut self) -> Result<(), Error> {
        let length = self.remaining();
        let skipped = io::copy(&mut self.input.by_ref().take(length), &mut io::sink());
        let skipped = skipped.map_err(|error| self.broken(error))?;
        // The padding of the last entry may be missing.
        if skipped < self.left {
            return Err(self.broken(io::ErrorKind::UnexpectedEof.into()));
        }
        self.position += skipped;
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    fn block(&mut self, block: &mut [u8; BLOCK as usize]) -> Result<bool, Error> {
        let mut length = 0;
        while length < block.len() {
            match self.input.read(&mut block[length..]) {
                Ok(0) if length == 0 => return Ok(false),
                Ok(0) => return Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
        self.position += BLOCK;
        Ok(true)
    }

    /// The next header block; nothing at the end, which is a block of zeros or that of the file.
    fn header(&mut self) -> Result<Option<Header>, Error> {
        let mut header = Header::new_old();
        let mut block = [0; BLOCK as usize];
        if !self.block(&mut block)? || block.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        header.as_mut_bytes().copy_from_slice(&block);
        let sum = |byte: fn(u8) -> i64| -> i64 {
            let outside = block[..148].iter().chain(&block[156..]);
            outside.map(|&one| byte(one)).sum::<i64>() + 8 * i64::from(b' ')
        };
        let wanted = header.cksum().map(i64::from).map_err(|_| self.damaged("a header has no checksum"))?;
        if wanted != sum(i64::from) && wanted != sum(|byte| i64::from(byte as i8)) {
            return Err(self.damaged("a header's checksum is wrong"));
        }
        let is_blank = header.as_old().size.iter().all(|byte| matches!(byte, 0 | b' '));
        let size = if is_blank { Ok(0) } else { header.entry_size() };
        let size = size.map_err(|_| self.damaged("a header's size is no number"))?;
        self.set_content(size)?;
        Ok(Some(header))
    }

    fn set_content(&mut self, size: u64) -> Result<(), Error> {
        if size > i64::MAX as u64 {
            return Err(self.damaged("an entry is larger than any file"));
        }
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK) - size;
        Ok(())
    }

    /// The content of an extension header.
    fn metadata(&mut self, extension: &mut Extension) -> Result<Vec<u8>, Error> {
        extension.bytes = extension.bytes.saturating_add(self.left.max(BLOCK));
        if extension.bytes > LARGEST_METADATA {
            return Err(self.damaged("an entry's names and attributes are larger than 1 MiB"));
        }
        let mut bytes = vec![0; self.left as usize];
        let mut length = 0;
        while length < bytes.len() {
            length += self.read(&mut bytes[length..])?;
        }
        Ok(bytes)
    }

    /// Records `LENGTH KEY=VALUE\n` (pax(1), "pax Extended Header").
    fn pax(&self, mut records: &[u8], extension: &mut Extension) -> Result<(), Error> {
        let damaged = || self.damaged("a pax record is malformed");
        while !records.is_empty() {
            let blank = records.iter().take(20).position(|&byte| byte == b' ').ok_or_else(damaged)?;
            let length = number(&records[..blank]).and_then(|length| usize::try_from(length).ok());
            let length = length.filter(|&length| length > blank + 1).ok_or_else(damaged)?;
            let record = records.get(blank + 1..length).and_then(|record| record.strip_suffix(b"\n"));
            let record = record.ok_or_else(damaged)?;
            let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(damaged)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            records = &records[length..];
            let needed = || number(value).map(Some).ok_or_else(damaged);
            match key {
                b"path" => extension.path = Some(value.into()),
                b"linkpath" => extension.link = Some(value.into()),
                b"size" => extension.size = needed()?,
                b"uid" => extension.user = needed()?,
                b"gid" => extension.group = needed()?,
                b"mtime" => extension.modified = Some(time(value).ok_or_else(damaged)?),
                b"GNU.sparse.major" => extension.version.0 = needed()?,
                b"GNU.sparse.minor" => extension.version.1 = needed()?,
                b"GNU.sparse.name" => extension.real_name = Some(value.into()),
                b"GNU.sparse.size" | b"GNU.sparse.realsize" => extension.real_size = needed()?,
                b"GNU.sparse.map" => {
                    let numbers = value.split(|&byte| byte == b',').map(number).collect::<Option<_>>();
                    extension.map = Some(numbers.ok_or_else(damaged)?);
                }
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                    extension.map.get_or_insert_default().push(number(value).ok_or_else(damaged)?);
                }
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        extension.attributes.retain(|(before, _)| before != name);
                        extension.attributes.push((name.into(), value.into()));
                        if extension.attributes.len() > MOST_ATTRIBUTES {
                            return Err(self.damaged("an entry has more than 1024 attributes"));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, header: &Header, extension: Extension) -> Result<Entry, Error> {
        let path = extension.path.clone().unwrap_or_else(|| header.path_bytes().into_owned());
        self.last = printable(&path);
        let kind = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                // Before POSIX a slash at the end made a folder.
                if path.ends_with(b"/") { Kind::Folder } else { Kind::File }
            }
            EntryType::Directory => Kind::Folder,
            EntryType::Link => Kind::HardLink,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Fifo => Kind::Fifo,
            EntryType::Char => Kind::Character,
            EntryType::Block => Kind::Block,
            _ => return Err(self.damaged("an entry is of an unknown type")),
        };
        let bad = |_| self.damaged("a header's field is no number");
        let field =
            |bytes: &[u8], value: io::Result<u64>| match bytes.iter().all(|byte| matches!(byte, 0 | b' ')) {
                true => Ok(0),
                false => value.map_err(bad),
            };
        let old = header.as_old();
        let link = header.link_name_bytes().map(|link| link.into_owned()).unwrap_or_default();
        let device = |number: io::Result<Option<u32>>| number.map(Option::unwrap_or_default).map_err(bad);
        let is_device = matches!(kind, Kind::Character | Kind::Block);
        let mut entry = Entry {
            kind,
            link: extension.link.clone().unwrap_or(link),
            mode: field(&old.mode, header.mode().map(u64::from))? as u32 & 0o7777,
            owner: (
                extension.user.map_or_else(|| field(&old.uid, header.uid()), Ok)?,
                extension.group.map_or_else(|| field(&old.gid, header.gid()), Ok)?,
            ),
            modified: match extension.modified {
                Some(time) => time,
                // Times before 1970 are negative numbers in base 256.
                None => (field(&old.mtime, header.mtime())? as i64, 0),
            },
            device: if is_device {
                (device(header.device_major())?, device(header.device_minor())?)
            } else {
                (0, 0)
            },
            size: 0,
            sparse: None,
            attributes: Vec::new(),
            path,
        };
        if kind == Kind::File {
            self.set_content(extension.size.unwrap_or(self.left))?;
        } else {
            // Some writers note the size of the file that a link leads to.
            self.set_content(0)?;
        }
        self.sparse(header, extension, &mut entry)?;
        entry.size = self.left;
        Ok(entry)
    }

    fn sparse(&mut self, header: &Header, extension: Extension, entry: &mut Entry) -> Result<(), Error> {
        entry.attributes = extension.attributes;
        let mut numbers = extension.map;
        let mut length = extension.real_size;
        if header.entry_type() == EntryType::GNUSparse {
            let gnu = header.as_gnu().ok_or_else(|| self.damaged("a sparse file has no map"))?;
            let mut list = Vec::new();
            let bad = |_| self.damaged("a sparse file's map is malformed");
            for piece in gnu.sparse.iter().filter(|piece| !piece.is_empty()) {
                list.extend([piece.offset().map_err(bad)?, piece.length().map_err(bad)?]);
            }
            length = Some(gnu.real_size().map_err(bad)?);
            let mut more = gnu.is_extended();
            while more {
                let mut next = GnuExtSparseHeader::new();
                if !self.block(next.as_mut_bytes())? || list.len() > 2 * MOST_PIECES {
                    return Err(self.damaged("a sparse file's map has no end"));
                }
                let bad = |_| self.damaged("a sparse file's map is malformed");
                for piece in next.sparse.iter().filter(|piece| !piece.is_empty()) {
                    list.extend([piece.offset().map_err(bad)?, piece.length().map_err(bad)?]);
                }
                more = next.is_extended();
            }
            numbers = Some(list);
        } else if extension.version == (Some(1), Some(0)) {
            numbers = Some(self.map_in_content()?);
        }
        if let Some(name) = extension.real_name {
            entry.path = name;
        }
        let Some(numbers) = numbers else { return Ok(()) };
        let length = length.ok_or_else(|| self.damaged("a sparse file has no length"))?;
        let pieces: Vec<(u64, u64)> =
            numbers.chunks(2).map(|two| (two[0], *two.get(1).unwrap_or(&0))).collect();
        let mut end = 0;
        let ordered = pieces.iter().all(|&(offset, piece)| {
            let fits = offset >= end && offset.checked_add(piece).is_some_and(|end| end <= length);
            end = offset.saturating_add(piece);
            fits
        });
        let sum = pieces.iter().try_fold(0u64, |sum, (_, piece)| sum.checked_add(*piece));
        if !ordered || sum != Some(self.left) || length > i64::MAX as u64 || entry.kind != Kind::File {
            return Err(self.damaged("a sparse file's map does not fit it"));
        }
        entry.sparse = Some((length, pieces));
        Ok(())
    }

    /// A map before the data: decimal numbers, one a line, padded to whole blocks (GNU tar, "PAX Format, Version 1.0").
    fn map_in_content(&mut self) -> Result<Vec<u64>, Error> {
        let (mut numbers, mut digits, mut wanted) = (Vec::new(), Vec::new(), None);
        while wanted.is_none_or(|wanted| numbers.len() < wanted) {
            let mut block = [0; BLOCK as usize];
            if self.left < BLOCK || !self.block(&mut block)? {
                return Err(self.damaged("a sparse file's map is malformed"));
            }
            self.left -= BLOCK;
            for &byte in &block {
                if wanted.is_some_and(|wanted| numbers.len() == wanted) {
                    break;
                }
                if byte != b'\n' {
                    if digits.len() == MOST_DIGITS {
                        return Err(self.damaged("a sparse file's map is malformed"));
                    }
                    digits.push(byte);
                    continue;
                }
                let value =
                    number(&digits).ok_or_else(|| self.damaged("a sparse file's map is malformed"))?;
                digits.clear();
                match wanted {
                    Some(_) => numbers.push(value),
                    None if value <= MOST_PIECES as u64 => wanted = Some(2 * value as usize),
                    None => return Err(self.damaged("a sparse file's map has no end")),
                }
            }
        }
        Ok(numbers)
    }
}

fn text(bytes: &[u8]) -> Vec<u8> {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default().to_vec()
}

fn number(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| std::str::from_utf8(digits).ok()?.parse().ok()).flatten()
}

/// Seconds with a fraction, maybe before 1970.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanoseconds: u32 = format!("{fraction:0<9.9}").parse().ok()?;
    match whole.starts_with('-') && nanoseconds > 0 {
        true => Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds)),
        false => Some((seconds, nanoseconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_fractions_and_may_lie_before_1970() {
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"3"), Some((3, 0)));
        assert_eq!(time(b"1.0000000019"), Some((1, 1)));
        assert_eq!((time(b"x"), time(b"1.x")), (None, None));
    }

    #[test]
    fn a_name_of_a_gigabyte_is_refused_before_it_is_read() {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(1 << 30);
        header.set_cksum();
        let endless = io::Read::chain(&header.as_bytes()[..], io::repeat(b'a'));
        assert!(matches!(Archive::new(endless).next_entry(), Err(Error::Damaged { .. })));
    }

    /// A header with these records, and its content in whole blocks.
    fn pax(records: &[(&str, &str)]) -> Vec<u8> {
        let mut content = Vec::new();
        for (key, value) in records {
            // Three digits and a blank, an equals sign and the end of the line.
            let length = key.len() + value.len() + 6;
            assert!((100..1000).contains(&length) || value.len() < 90);
            content.extend(format!("{length:03} {key}={value}\n").bytes());
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_size(content.len() as u64);
        header.set_cksum();
        content.resize(content.len().next_multiple_of(BLOCK as usize), 0);
        [header.as_bytes().to_vec(), content].concat()
    }

    #[test]
    fn a_header_without_a_size_counts_as_one() {
        let mut blank = Header::new_gnu();
        blank.set_entry_type(EntryType::GNULongName);
        blank.as_mut_bytes()[124..136].fill(0);
        blank.set_cksum();
        let input = [pax(&[("uid", "1")]), blank.as_bytes().to_vec()].concat();
        assert!(matches!(Archive::new(&input[..]).next_entry(), Ok(None)));
    }

    #[test]
    fn a_number_without_an_end_is_refused_before_it_is_read() {
        let mut header = Header::new_ustar();
        header.set_size(1 << 24);
        header.set_cksum();
        let sparse = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")];
        let begin = [pax(&sparse), header.as_bytes().to_vec()].concat();
        let mut archive = Archive::new(io::Read::chain(&begin[..], io::repeat(b'1')));
        assert!(matches!(archive.next_entry(), Err(Error::Damaged { .. })));
        assert!(archive.position < 8 * BLOCK, "{} bytes were read", archive.position);
    }

    #[test]
    fn attributes_are_counted() {
        let names: Vec<String> = (0..2000).map(|number| format!("SCHILY.xattr.user.{number}")).collect();
        let records: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
        let mut file = Header::new_ustar();
        file.set_size(0);
        file.set_cksum();
        let end = file.as_bytes().to_vec();
        let few = [pax(&records[..1000]), end.clone()].concat();
        let entry = Archive::new(&few[..]).next_entry().unwrap().unwrap();
        assert_eq!(entry.attributes.len(), 1000);
        let many = [pax(&records), end].concat();
        assert!(matches!(Archive::new(&many[..]).next_entry(), Err(Error::Damaged { .. })));
    }
}
