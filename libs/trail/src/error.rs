//! What can go wrong with a store, and what to do about it.

use std::{
    io,
    path::{Path, PathBuf},
};

use binlog::{LogPos, Problem};
use types::{Code, Fault};

/// An operation on a store failed. Whatever it was, what the store held before is still there and still readable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No store in the folder.
    #[error("there is no store in {}; `trail watch` or `trail index` makes one", .dir.display())]
    NoStore {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder holds something else, which is never adopted or deleted.
    #[error("{} holds other files ({found}) and no store; name an empty folder, or one that does not exist yet", .dir.display())]
    NotAStore {
        /// The folder.
        dir: PathBuf,
        /// One of the files.
        found: String,
    },
    /// Another process writes to the store.
    #[error("another process writes to the store in {}; stop it first (reading needs no stop)", .dir.display())]
    Locked {
        /// The folder.
        dir: PathBuf,
    },
    /// The store was written by a later release.
    #[error("the store in {} has format {found}, and this release knows formats up to {known}; use the release that wrote it", .dir.display())]
    NewerVersion {
        /// The folder.
        dir: PathBuf,
        /// The store's format.
        found: u32,
        /// The newest format this release reads.
        known: u32,
    },
    /// A store follows one source.
    #[error(
        "this store follows the server {known}, but the log is one of {found}; use a store of its own for each source"
    )]
    OtherSource {
        /// The source's identity in the store.
        known: String,
        /// The identity it was offered.
        found: String,
    },
    /// What is read is not what was read before under the same name.
    #[error(
        "the store holds another log under the name {}: the transaction at {at} is not the one that was read there; use another --store for this server", .at.file
    )]
    OtherLog {
        /// Start of the transaction.
        at: LogPos,
    },
    /// A file of the store is not what was written.
    #[error("{} is damaged: {what}", .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The disk, or a limit on it, is full.
    #[error("no space to write {}; nothing is torn: free some space and start again, reading goes on where it stopped", .path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The system refused a file operation.
    #[error("cannot use {}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// An earlier write failed, and what is on disk after that failure is only known after a new start.
    #[error("an earlier write to the store failed, so this writer takes nothing more; open the store again")]
    Poisoned,
    /// Whoever asked does not want the answer any more; see [`crate::Stop`].
    #[error("the reading was stopped before its end")]
    Stopped,
    /// A row that does not fit its own table.
    #[error("a row of {table} in the transaction at {at} cannot be stored: {problem}")]
    Row {
        /// Start of the transaction.
        at: LogPos,
        /// `schema.table`.
        table: String,
        /// What is wrong with it.
        problem: Problem,
    },
    /// The calls came in an order that no log gives.
    #[error("{what} (at {at}): this is a defect of the program that feeds the store")]
    Order {
        /// What came when.
        what: &'static str,
        /// Where.
        at: LogPos,
    },
}

impl Error {
    /// Wraps what the system said about `path`.
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            // A file-size limit (ulimit -f) and a quota end a write just as a full disk does.
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::Full { path, source }
            }
            _ => Self::Io { path, source },
        }
    }

    /// Says what is wrong with the file at `path`.
    pub(crate) fn corrupt(path: &Path, what: impl Into<String>) -> Self {
        Self::Corrupt {
            path: path.to_owned(),
            what: what.into(),
        }
    }
}

impl Fault for Error {
    fn code(&self) -> Code {
        match self {
            Self::NoStore { .. } => Code::Missing,
            Self::NotAStore { .. }
            | Self::NewerVersion { .. }
            | Self::OtherSource { .. }
            | Self::OtherLog { .. } => Code::Refused,
            Self::Locked { .. } => Code::Conflict,
            Self::Corrupt { .. } | Self::Row { .. } => Code::Corrupt,
            Self::Full { .. } => Code::Exhausted,
            Self::Stopped => Code::Timeout,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Code::Refused,
            Self::Io { .. } | Self::Poisoned | Self::Order { .. } => Code::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NoStore { .. } => "NO_STORE",
            Self::NotAStore { .. } => "NOT_A_STORE",
            Self::Locked { .. } => "STORE_LOCKED",
            Self::NewerVersion { .. } => "STORE_NEWER",
            Self::OtherSource { .. } => "OTHER_SOURCE",
            Self::OtherLog { .. } => "OTHER_LOG",
            Self::Corrupt { .. } => "STORE_DAMAGED",
            Self::Full { .. } => "STORE_FULL",
            Self::Io { .. } => "STORE_IO",
            Self::Poisoned => "STORE_POISONED",
            Self::Stopped => "READING_STOPPED",
            Self::Row { .. } => "BAD_ROW",
            Self::Order { .. } => "BAD_ORDER",
        }
    }
}
