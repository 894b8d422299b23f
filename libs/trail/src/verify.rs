//! Reads every byte of a store again and holds it against what was written.

use std::path::Path;

use crate::Error;

/// How far a verification has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Bytes checked.
    pub done: u64,
    /// Bytes there are.
    pub total: u64,
    /// Name of the file being checked.
    pub file: &'a str,
}

/// What was checked and found whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Segments.
    pub segments: u64,
    /// Row changes in segments and tails.
    pub changes: u64,
    /// Transactions in the tails.
    pub transactions: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Reads every byte of the store in `dir`. The first thing that is wrong ends it as [`Error::Corrupt`] with the file's name.
pub fn verify(dir: &Path, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Verified, Error> {
    let _ = (dir, progress);
    unimplemented!()
}
