//! The one process that appends.

use std::path::Path;

use binlog::{Begin, Commit, Ddl, GtidSet, LogPos, RowChange, Sink};
use serde::{Deserialize, Serialize};

use crate::Error;

/// The server whose log a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// `mysql` or `mariadb`.
    pub engine: String,
    /// Its version as it says it.
    pub version: String,
    /// Its identity: MySQL's `server_uuid`, MariaDB's server id. Empty if not known, as in a bare file.
    pub server: String,
    /// Where it was reached; none for files.
    pub host: Option<String>,
}

/// Where reading begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// What is read.
    pub source: Source,
    /// Its timeline; see [`binlog::Position::epoch`].
    pub epoch: u32,
    /// The place from which every transaction will come.
    pub at: LogPos,
    /// What the source had executed before, as far as it is known.
    pub gtids_before: GtidSet,
    /// If this does not continue what is in the store: why, for people. Ignored if it does.
    pub reason: Option<String>,
}

/// Where to go on reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The timeline.
    pub epoch: u32,
    /// The place.
    pub at: LogPos,
    /// Everything the source has executed up to there, as far as it is known.
    pub gtids: GtidSet,
    /// The source.
    pub source: Source,
}

/// Sizes. The defaults are made for an agent that must stay within 128 MB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes after which a tail is sealed, between two transactions.
    pub tail_bytes_max: u64,
    /// Bytes of rows sorted at once, which become one segment. Memory while sealing is about three times as much.
    pub chunk_bytes_max: u64,
    /// Bytes held back before they are written to the tail; one row may be larger.
    pub buffer_bytes_max: usize,
    /// zstd's level for segments.
    pub zstd_level: i32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tail_bytes_max: 32 << 20,
            chunk_bytes_max: 24 << 20,
            buffer_bytes_max: 1 << 20,
            zstd_level: 1,
        }
    }
}

/// Appends transactions to a store. There is one per store, in one process.
#[derive(Debug)]
pub struct Writer;

impl Writer {
    /// Opens the store in `dir` for writing, and makes one if `dir` is missing or empty. What a crash left behind is put right.
    pub fn open(dir: &Path, options: Options) -> Result<Self, Error> {
        let _ = (dir, options);
        unimplemented!()
    }

    /// Where to go on reading: the end of the latest interval. None before the first [`Writer::start`].
    pub fn resume(&self) -> Option<Resume> {
        unimplemented!()
    }

    /// What this store follows; none before the first [`Writer::start`].
    pub fn source(&self) -> Option<&Source> {
        unimplemented!()
    }

    /// Declares where the calls of [`Sink`] that follow begin.
    pub fn start(&mut self, start: Start) -> Result<(), Error> {
        let _ = start;
        unimplemented!()
    }

    /// Whether a transaction that begins at `at` is not in the store yet. Those that are may be fed all the same: they are ignored.
    pub fn wants(&self, at: &LogPos) -> bool {
        let _ = at;
        unimplemented!()
    }

    /// How many transactions were ignored because the store has them already.
    pub fn skipped_transactions(&self) -> u64 {
        unimplemented!()
    }

    /// Records that something is missing just before `next`, where reading goes on, even if nothing lies between by position.
    pub fn gap(&mut self, next: &LogPos, reason: &str) -> Result<(), Error> {
        let _ = (next, reason);
        unimplemented!()
    }

    /// Puts on disk all that was committed so far, and says up to where that is. None before the first [`Writer::start`].
    pub fn sync(&mut self) -> Result<Option<Resume>, Error> {
        unimplemented!()
    }

    /// Syncs, waits for what is being sealed, and seals the rest if it is worth a segment.
    pub fn finish(self) -> Result<(), Error> {
        unimplemented!()
    }
}

impl Sink for Writer {
    type Error = Error;

    fn begin(&mut self, _: &Begin) -> Result<(), Error> {
        unimplemented!()
    }

    fn row(&mut self, _: &RowChange<'_>) -> Result<(), Error> {
        unimplemented!()
    }

    fn ddl(&mut self, _: &Ddl<'_>) -> Result<(), Error> {
        unimplemented!()
    }

    fn commit(&mut self, _: &Commit) -> Result<(), Error> {
        unimplemented!()
    }

    fn rollback(&mut self, _: &LogPos) -> Result<(), Error> {
        unimplemented!()
    }

    fn position(&mut self, _: &LogPos) -> Result<(), Error> {
        unimplemented!()
    }

    fn previous(&mut self, _: &GtidSet) -> Result<(), Error> {
        unimplemented!()
    }
}
