//! The binary form of messages: tags, varints, records.

use super::Broken;

/// How a record's value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WireType {
    Varint,
    Fixed64,
    Length,
    Fixed32,
}

impl WireType {
    fn code(self) -> u64 {
        match self {
            Self::Varint => 0,
            Self::Fixed64 => 1,
            Self::Length => 2,
            Self::Fixed32 => 5,
        }
    }
}

/// What stands before a record's value.
pub(crate) fn tag(number: u32, wire_type: WireType) -> u64 {
    (u64::from(number) << 3) | wire_type.code()
}

/// Writes a varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Writes bytes after their length.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Where a record of a length not yet known begins: one byte is kept for the length.
pub(crate) fn open(out: &mut Vec<u8>) -> usize {
    out.push(0);
    out.len()
}

/// Writes the length of what came after `open`; a length beyond 127 bytes moves it.
pub(crate) fn close(out: &mut Vec<u8>, start: usize) {
    let length = out.len() - start;
    if length < 0x80 {
        out[start - 1] = length as u8;
        return;
    }
    let mut prefix = Vec::with_capacity(5);
    put_varint(&mut prefix, length as u64);
    let more = prefix.len() - 1;
    let end = out.len();
    out.resize(end + more, 0);
    out.copy_within(start..end, start + more);
    out[start - 1..start + more].copy_from_slice(&prefix);
}

/// `i32` as `sint32` has it.
pub(crate) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// The inverse of [`zigzag`].
pub(crate) fn unzigzag(value: u64) -> i64 {
    ((value >> 1) as i64) ^ -((value & 1) as i64)
}

/// Reads an encoded message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'m> {
    rest: &'m [u8],
}

impl<'m> Reader<'m> {
    /// From its first byte.
    pub(crate) fn new(message: &'m [u8]) -> Self {
        Self { rest: message }
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// A varint of at most ten bytes.
    pub(crate) fn varint(&mut self) -> Result<u64, Broken> {
        let mut value = 0_u64;
        for (place, byte) in self.rest.iter().enumerate().take(10) {
            if place == 9 && *byte > 1 {
                return Err(Broken::Malformed("a number is longer than 64 bits"));
            }
            value |= u64::from(byte & 0x7f) << (7 * place);
            if *byte < 0x80 {
                self.rest = &self.rest[place + 1..];
                return Ok(value);
            }
        }
        Err(Broken::Malformed("a number has no end"))
    }

    /// The next field's number and how its value is written.
    pub(crate) fn key(&mut self) -> Result<(u32, WireType), Broken> {
        let key = self.varint()?;
        let number = u32::try_from(key >> 3)
            .ok()
            .filter(|number| (1..1 << 29).contains(number));
        let number = number.ok_or(Broken::Malformed("a field's number is out of range"))?;
        let wire_type = match key & 7 {
            0 => WireType::Varint,
            1 => WireType::Fixed64,
            2 => WireType::Length,
            5 => WireType::Fixed32,
            _ => return Err(Broken::Malformed("a group, or no wire type at all")),
        };
        Ok((number, wire_type))
    }

    /// A record's bytes after its length.
    pub(crate) fn bytes(&mut self) -> Result<&'m [u8], Broken> {
        let length = usize::try_from(self.varint()?).ok();
        let split = length.and_then(|length| self.rest.split_at_checked(length));
        let (bytes, rest) = split.ok_or(Broken::Malformed("a record ends too early"))?;
        self.rest = rest;
        Ok(bytes)
    }

    /// Four bytes.
    pub(crate) fn fixed32(&mut self) -> Result<[u8; 4], Broken> {
        let (bytes, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(Broken::Malformed("a number ends too early"))?;
        self.rest = rest;
        Ok(*bytes)
    }

    /// Eight bytes.
    pub(crate) fn fixed64(&mut self) -> Result<[u8; 8], Broken> {
        let (bytes, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(Broken::Malformed("a number ends too early"))?;
        self.rest = rest;
        Ok(*bytes)
    }

    /// The value as it is written, its length before it where it has one.
    pub(crate) fn value(&mut self, wire_type: WireType) -> Result<&'m [u8], Broken> {
        let before = self.rest;
        match wire_type {
            WireType::Varint => self.varint().map(drop)?,
            WireType::Fixed64 => self.fixed64().map(drop)?,
            WireType::Length => self.bytes().map(drop)?,
            WireType::Fixed32 => self.fixed32().map(drop)?,
        }
        Ok(&before[..before.len() - self.rest.len()])
    }
}
