//! The wire form of criu's messages (protobuf, "Encoding"): tagged numbers and byte strings, and nothing else is needed.

/// A message that is being written.
#[derive(Debug, Default)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

const NUMBER: u64 = 0;
const BYTES: u64 = 2;

impl Message {
    pub(super) fn number(&mut self, field: u32, value: u64) -> &mut Message {
        self.varint(u64::from(field) << 3 | NUMBER);
        self.varint(value);
        self
    }

    /// A signed number; one below zero takes all ten bytes.
    pub(super) fn signed(&mut self, field: u32, value: i32) -> &mut Message {
        self.number(field, i64::from(value) as u64)
    }

    /// A flag, written only when it is set: none of criu's defaults is true.
    pub(super) fn flag(&mut self, field: u32, value: bool) -> &mut Message {
        if value { self.number(field, 1) } else { self }
    }

    pub(super) fn text(&mut self, field: u32, value: impl AsRef<[u8]>) -> &mut Message {
        let value = value.as_ref();
        self.varint(u64::from(field) << 3 | BYTES);
        self.varint(value.len() as u64);
        self.bytes.extend_from_slice(value);
        self
    }

    pub(super) fn message(&mut self, field: u32, value: &Message) -> &mut Message {
        self.text(field, &value.bytes)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number, a flag or an enumeration.
    Number(u64),
    /// Bytes, a text or a message.
    Bytes(&'a [u8]),
}

/// Reads the fields of a message in their order; none when it is no message.
#[must_use]
pub fn fields(bytes: &[u8]) -> Option<Vec<(u32, Value<'_>)>> {
    let mut rest = bytes;
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let value = match tag & 7 {
            NUMBER => Value::Number(varint(&mut rest)?),
            BYTES => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                Value::Bytes(take(&mut rest, length)?)
            }
            // Numbers of a fixed width.
            1 => Value::Bytes(take(&mut rest, 8)?),
            5 => Value::Bytes(take(&mut rest, 4)?),
            _ => return None,
        };
        fields.push((u32::try_from(tag >> 3).ok()?, value));
    }
    Some(fields)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *take(rest, 1)?.first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back() {
        let mut inner = Message::default();
        inner.text(1, "key").signed(2, -1);
        let mut message = Message::default();
        message.number(1, 300).flag(2, false).flag(3, true).message(70, &inner);
        let read = fields(message.as_bytes()).unwrap();
        assert_eq!(read[..2], [(1, Value::Number(300)), (3, Value::Number(1))]);
        let (70, Value::Bytes(bytes)) = read[2] else { panic!("{read:?}") };
        assert_eq!(fields(bytes).unwrap(), [(1, Value::Bytes(b"key")), (2, Value::Number(u64::MAX))]);
    }

    #[test]
    fn what_is_cut_off_is_no_message() {
        let mut message = Message::default();
        message.number(1, 300).text(2, "text");
        let whole = message.as_bytes();
        for length in [1, 2, 4, 5, whole.len() - 1] {
            assert_eq!(fields(&whole[..length]), None, "{length}");
        }
        assert_eq!(fields(&[0xff; 12]), None);
        assert_eq!(fields(&[0x0b]), None);
    }
}
