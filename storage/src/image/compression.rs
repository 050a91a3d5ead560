//! What layers are compressed with, told by their first bytes: media types have been seen to lie.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The last three bytes of a skippable frame's number; the first is 0x50 to 0x5f (RFC 8878, 3.1.2).
const SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];
const BUFFER: usize = 128 << 10;

/// How bytes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// A kind that is not read, by its name.
    Other(&'static str),
}

impl Compression {
    /// Of what begins with these bytes, of which six tell all.
    #[must_use]
    pub fn of(head: &[u8]) -> Compression {
        let is_skippable = head.len() >= 4 && head[0] & 0xf0 == 0x50 && head[1..4] == SKIPPABLE;
        if head.starts_with(&GZIP) {
            Compression::Gzip
        } else if head.starts_with(&ZSTD) || is_skippable {
            Compression::Zstd
        } else if head.starts_with(b"\xfd7zXZ\0") {
            Compression::Other("xz")
        } else if head.starts_with(b"BZh") {
            Compression::Other("bzip2")
        } else {
            Compression::None
        }
    }

    /// What is appended to the media type of a layer.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Compression::Gzip => "+gzip",
            Compression::Zstd => "+zstd",
            Compression::None | Compression::Other(_) => "",
        }
    }
}

/// Reads what is compressed, if it is.
///
/// # Errors
///
/// It cannot be read, or is compressed in a way that is not known.
pub fn plain<'a>(input: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut input = BufReader::with_capacity(BUFFER, input);
    match Compression::of(input.fill_buf()?) {
        Compression::None => Ok(Box::new(input)),
        Compression::Gzip => Ok(Box::new(MultiGzDecoder::new(input))),
        Compression::Zstd => {
            let source = Peeked { head: [0; 4], used: 4, source: input };
            Ok(Box::new(Zstd::Between(Box::new((source, FrameDecoder::new())))))
        }
        Compression::Other(name) => {
            Err(io::Error::new(io::ErrorKind::Unsupported, format!("{name} is not read; use gzip or zstd")))
        }
    }
}

/// Frames one after another: parallel compressors and lazy pullers write many, some of them for their own notes.
enum Zstd<R: Read> {
    Between(Box<(Peeked<R>, FrameDecoder)>),
    In(Box<StreamingDecoder<Peeked<R>, FrameDecoder>>),
    /// At its end, or broken.
    Done,
}

impl<R: Read> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match std::mem::replace(self, Zstd::Done) {
                Zstd::Done => return Ok(0),
                Zstd::Between(both) => {
                    let (mut source, decoder) = *both;
                    if !source.at_frame()? {
                        return Ok(0);
                    }
                    let frame = StreamingDecoder::new_with_decoder(source, decoder).map_err(invalid)?;
                    *self = Zstd::In(Box::new(frame));
                }
                Zstd::In(mut frame) => match frame.read(buffer).map_err(invalid)? {
                    0 if !buffer.is_empty() => *self = Zstd::Between(Box::new(frame.into_parts())),
                    count => {
                        *self = Zstd::In(frame);
                        return Ok(count);
                    }
                },
            }
        }
    }
}

fn invalid(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("zstd: {error}"))
}

/// A reader that knows the next four bytes.
struct Peeked<R> {
    head: [u8; 4],
    used: usize,
    source: R,
}

impl<R: Read> Peeked<R> {
    /// Skips skippable frames; false at the end.
    fn at_frame(&mut self) -> io::Result<bool> {
        loop {
            let mut length = 0;
            while length < 4 {
                match self.source.read(&mut self.head[length..])? {
                    0 if length == 0 => return Ok(false),
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    count => length += count,
                }
            }
            self.used = 0;
            if self.head[0] & 0xf0 != 0x50 || self.head[1..] != SKIPPABLE {
                return Ok(true);
            }
            let mut size = [0; 4];
            self.source.read_exact(&mut size)?;
            let size = u64::from(u32::from_le_bytes(size));
            if io::copy(&mut self.source.by_ref().take(size), &mut io::sink())? < size {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

impl<R: Read> Read for Peeked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.used < 4 {
            let count = buffer.len().min(4 - self.used);
            buffer[..count].copy_from_slice(&self.head[self.used..self.used + count]);
            self.used += count;
            return Ok(count);
        }
        self.source.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf hello | zstd`, without and with a checksum's room; a skippable frame of two bytes.
    const HELLO: &[u8] = b"\x28\xb5\x2f\xfd\x20\x05\x29\x00\x00hello";
    const SKIP: &[u8] = b"\x50\x2a\x4d\x18\x02\x00\x00\x00xx";

    fn read(bytes: &[u8]) -> io::Result<String> {
        let mut text = String::new();
        plain(bytes)?.read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn frames_of_zstd_follow_one_another() {
        assert_eq!(read(&[HELLO, SKIP, HELLO].concat()).unwrap(), "hellohello");
        assert_eq!(read(&[SKIP, HELLO].concat()).unwrap(), "hello");
        assert!(read(&HELLO[..11]).is_err());
        assert!(read(&[HELLO, b"\x28\xb5"].concat()).is_err());
    }

    #[test]
    fn members_of_gzip_follow_one_another_and_other_kinds_are_named() {
        use flate2::{Compression, read::GzEncoder};
        let mut gzip = Vec::new();
        GzEncoder::new(&b"hello"[..], Compression::fast()).read_to_end(&mut gzip).unwrap();
        assert_eq!(read(&[&gzip[..], &gzip].concat()).unwrap(), "hellohello");
        assert!(read(&gzip[..gzip.len() - 3]).is_err());
        assert!(read(b"\xfd7zXZ\0").unwrap_err().to_string().contains("xz"));
    }
}
