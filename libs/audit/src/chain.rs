//! The chain: each record's hash is taken over its number, the hash before it and its body, so that no record can be changed, removed,
//! added or moved without the next one, and so on to the end, which the vault signs.

use std::fmt;

use ring::digest::{SHA256, digest};

/// Sets these hashes apart from all others.
const RECORD: &[u8] = b"trailmesh.audit.record.v1\0";
const GENESIS: &[u8] = b"trailmesh.audit.genesis.v1\0";

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    fn of(parts: &[&[u8]]) -> Self {
        let mut context = ring::digest::Context::new(&SHA256);
        for part in parts {
            context.update(part);
        }
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        Self(bytes)
    }

    /// From 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// From 64 hexadecimal digits in lower case.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let value = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = value(pair[0])? << 4 | value(pair[1])?;
        }
        Some(Self(bytes))
    }

    /// Its digest, for those who only need to tell texts apart.
    pub fn of_text(text: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
        Self(bytes)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What stands before the first record of a tenant (`tnt_…`): a chain fits no other one.
pub fn genesis(tenant: &str) -> Hash {
    Hash::of(&[GENESIS, tenant.as_bytes()])
}

/// The hash of record number `sequence`, which comes after the one with the hash `prev`.
pub fn link(sequence: i64, prev: Hash, body: &str) -> Hash {
    Hash::of(&[RECORD, &sequence.to_be_bytes(), &prev.0, body.as_bytes()])
}
