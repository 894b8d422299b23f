//! A bounds-checked walk over bytes, and reading them.

use std::io::{self, Read};

/// Memory that is taken before a byte is there.
const STEP: usize = 64 << 10;

/// Adds `count` bytes of `input`, fewer at its end. Memory grows with what is really there, so that a wrong length cannot allocate, and never
/// beyond a long event's own length.
pub(crate) fn fill(input: &mut impl Read, count: u64, buffer: &mut Vec<u8>) -> io::Result<u64> {
    let mut have = 0;
    while have < count {
        let held = buffer.len().max(STEP);
        let step = (count - have).min(held as u64);
        // At most `held`, which is a length.
        let room = step as usize;
        if held == STEP {
            buffer.reserve(room);
        } else {
            buffer.reserve_exact(room);
        }
        let read = input.take(step).read_to_end(buffer)? as u64;
        have += read;
        if read < step {
            break;
        }
    }
    Ok(have)
}

/// The bytes end before the value does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Short;

/// What is left of a slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Short> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(Short)?;
        self.0 = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Short)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Short> {
        self.array::<1>().map(|[b]| b)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Short> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Short> {
        self.array().map(u64::from_le_bytes)
    }

    /// A little-endian integer of `width` bytes, at most 8.
    pub(crate) fn uint(&mut self, width: usize) -> Result<u64, Short> {
        Ok(self
            .take(width)?
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    /// A length-encoded integer (MySQL client/server protocol, "Integer Types").
    pub(crate) fn lenenc(&mut self) -> Result<u64, Short> {
        match self.u8()? {
            0xFC => self.uint(2),
            0xFD => self.uint(3),
            0xFE => self.uint(8),
            short @ ..=0xFA => Ok(u64::from(short)),
            _ => Err(Short),
        }
    }

    /// A length-encoded integer that must fit an index.
    pub(crate) fn lenenc_len(&mut self) -> Result<usize, Short> {
        usize::try_from(self.lenenc()?).map_err(|_| Short)
    }

    /// A length-encoded string.
    pub(crate) fn lenenc_bytes(&mut self) -> Result<&'a [u8], Short> {
        let length = self.lenenc_len()?;
        self.take(length)
    }
}

/// A big-endian integer of at most 8 bytes.
pub(crate) fn be_uint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}
