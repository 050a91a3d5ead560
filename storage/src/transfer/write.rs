//! An archive that is written, in the form of POSIX (pax) where a plain header has no room.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use tar::{EntryType, Header};

use crate::image::archive::{Entry, Kind};

use super::{Content, Error, Sink, file};

const BLOCK: usize = 512;
const BUFFER: usize = 256 << 10;
/// Pieces of a sparse file; one with more is written whole.
const PIECES: usize = 1 << 12;

/// Writes entries to a stream.
pub struct Writer<'a> {
    output: &'a mut dyn Write,
}

impl<'a> Writer<'a> {
    /// Begins an archive.
    pub fn new(output: &'a mut dyn Write) -> Writer<'a> {
        Writer { output }
    }

    /// Ends it: two blocks of zeros.
    ///
    /// # Errors
    ///
    /// The stream cannot be written.
    pub fn finish(self) -> io::Result<()> {
        self.output.write_all(&[0; 2 * BLOCK])?;
        self.output.flush()
    }

    fn head(&mut self, entry: &Entry, size: u64, mut records: Vec<(Vec<u8>, Vec<u8>)>) -> io::Result<()> {
        let mut header = Header::new_ustar();
        let kind = match entry.kind {
            Kind::File => EntryType::Regular,
            Kind::Folder => EntryType::Directory,
            Kind::HardLink => EntryType::Link,
            Kind::Symlink => EntryType::Symlink,
            Kind::Fifo => EntryType::Fifo,
            Kind::Character => EntryType::Char,
            Kind::Block => EntryType::Block,
        };
        header.set_entry_type(kind);
        header.set_mode(entry.mode);
        let fits = |value: u64, most: u64| if value <= most { value } else { 0 };
        header.set_size(fits(size, OCTAL_11));
        header.set_uid(fits(entry.owner.0, OCTAL_7));
        header.set_gid(fits(entry.owner.1, OCTAL_7));
        let (seconds, nanoseconds) = entry.modified;
        header.set_mtime(fits(u64::try_from(seconds).unwrap_or(0), OCTAL_11));
        if matches!(entry.kind, Kind::Character | Kind::Block) {
            header.set_device_major(entry.device.0)?;
            header.set_device_minor(entry.device.1)?;
        }
        let mut path = entry.path.clone();
        if entry.kind == Kind::Folder {
            path.push(b'/');
        }
        let mut record = |key: &str, value: Vec<u8>| records.push((key.into(), value));
        if !put(&mut header.as_old_mut().name, &path) {
            record("path", path);
        }
        if !put(&mut header.as_old_mut().linkname, &entry.link) {
            record("linkpath", entry.link.clone());
        }
        for (key, value, most) in
            [("size", size, OCTAL_11), ("uid", entry.owner.0, OCTAL_7), ("gid", entry.owner.1, OCTAL_7)]
        {
            if value > most {
                record(key, value.to_string().into_bytes());
            }
        }
        // Of times before 1970 the fraction counts backward; they keep their seconds.
        if nanoseconds != 0 && seconds >= 0 {
            record("mtime", format!("{seconds}.{nanoseconds:09}").into_bytes());
        } else if seconds < 0 {
            record("mtime", seconds.to_string().into_bytes());
        }
        for (name, value) in &entry.attributes {
            records.push(([b"SCHILY.xattr.", &name[..]].concat(), value.clone()));
        }
        self.records(&records)?;
        header.set_cksum();
        self.output.write_all(header.as_bytes())
    }

    fn records(&mut self, records: &[(Vec<u8>, Vec<u8>)]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let mut text = Vec::new();
        for (key, value) in records {
            // The length counts its own digits.
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            text.extend_from_slice(length.to_string().as_bytes());
            text.push(b' ');
            text.extend_from_slice(key);
            text.push(b'=');
            text.extend_from_slice(value);
            text.push(b'\n');
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        put(&mut header.as_old_mut().name, b"PaxHeaders/x");
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(text.len() as u64);
        header.set_cksum();
        self.output.write_all(header.as_bytes())?;
        self.output.write_all(&text)?;
        self.pad(text.len() as u64)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let rest = (size.next_multiple_of(BLOCK as u64) - size) as usize;
        self.output.write_all(&[0; BLOCK][..rest])
    }

    fn file(&mut self, entry: &Entry, from: &OwnedFd) -> Result<(), Error> {
        let mut pieces = Vec::new();
        file::pieces(from, entry.size, |offset, length| {
            if pieces.len() <= PIECES {
                pieces.push((offset, length));
            }
            Ok(())
        })?;
        let whole = vec![(0, entry.size)];
        let from = File::from(from.try_clone().map_err(Error::read(&entry.path))?);
        if pieces == whole || pieces.len() > PIECES || entry.size == 0 {
            self.head(entry, entry.size, Vec::new()).map_err(output)?;
            return self.pieces(entry, &from, &whole, entry.size);
        }
        // GNU tar's form 0.1 of a sparse file.
        let map: Vec<String> = pieces.iter().map(|(offset, length)| format!("{offset},{length}")).collect();
        let records = [
            ("GNU.sparse.size", entry.size.to_string()),
            ("GNU.sparse.numblocks", pieces.len().to_string()),
            ("GNU.sparse.map", map.join(",")),
        ];
        let records = records.map(|(key, value)| (key.into(), value.into_bytes())).to_vec();
        let size = pieces.iter().map(|(_, length)| length).sum();
        self.head(entry, size, records).map_err(output)?;
        self.pieces(entry, &from, &pieces, size)
    }

    fn pieces(&mut self, entry: &Entry, from: &File, pieces: &[(u64, u64)], size: u64) -> Result<(), Error> {
        let mut buffer = vec![0; BUFFER.min(usize::try_from(size).unwrap_or(BUFFER).max(1))];
        for &(mut offset, mut left) in pieces {
            while left > 0 {
                let length = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let count = from.read_at(&mut buffer[..length], offset).map_err(Error::read(&entry.path))?;
                // The header has told the size: what was cut off meanwhile is zeros.
                let count = if count == 0 {
                    buffer[..length].fill(0);
                    length
                } else {
                    count
                };
                self.output.write_all(&buffer[..count]).map_err(output)?;
                offset += count as u64;
                left -= count as u64;
            }
        }
        self.pad(size).map_err(output)
    }
}

/// The largest numbers of a header's fields.
const OCTAL_7: u64 = (1 << 21) - 1;
const OCTAL_11: u64 = (1 << 33) - 1;

fn output(source: io::Error) -> Error {
    Error::Write { path: "the archive".into(), source }
}

/// Writes a text into a field, as far as it fits; says whether it did.
fn put(field: &mut [u8; 100], text: &[u8]) -> bool {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
    length == text.len()
}

impl Sink for Writer<'_> {
    fn put(&mut self, entry: &Entry, content: Content<'_>) -> Result<(), Error> {
        if entry.path.is_empty() {
            // As tar(1) names the folder itself.
            let entry = Entry { path: b".".to_vec(), ..entry.clone() };
            return self.head(&entry, 0, Vec::new()).map_err(output);
        }
        match content {
            Content::File(from) => self.file(entry, from),
            Content::Nothing => self.head(entry, 0, Vec::new()).map_err(output),
            // Nothing copies an archive to an archive.
            Content::Stream(_) => Err(Error::NoTree),
        }
    }

    fn leave(&mut self, _: &Entry) -> Result<(), Error> {
        Ok(())
    }
}
