//! What can go wrong with an upload, by name. `reason` is what programs match on and stays the same.

use std::time::Duration;

use chassis::places::Full;
use tonic::Status;
use types::{Code, Fault, PlanLimit};

use super::upload::PART;

/// An error of UploadService, or of a question about an upload.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is none, or it is another tenant's.
    #[error("there is no such upload")]
    Missing,
    /// A field of the request.
    #[error("{field}: {problem}")]
    Field {
        /// Which.
        field: &'static str,
        /// What is wrong with it, and what would be right.
        problem: &'static str,
    },
    /// Another upload has the name.
    #[error("name: another upload has this name")]
    NameTaken,
    /// More uploads than the plan has room for.
    #[error(transparent)]
    Plan(#[from] PlanLimit),
    /// More bytes than the plan has room for.
    #[error("the plan {plan} has room for uploads of {most} bytes")]
    PlanBytes {
        /// Its name.
        plan: &'static str,
        /// How many.
        most: u64,
    },
    /// The plan has room for newer ones only.
    #[error(
        "the upload is frozen: the plan {plan} has room for {most} uploads, and so many are newer; delete some of those, or change the plan"
    )]
    Frozen {
        /// Its name.
        plan: &'static str,
        /// How many.
        most: u32,
    },
    /// More bytes than were announced.
    #[error("the upload was begun for a file of {0} bytes, and what came goes beyond them")]
    TooLarge(u64),
    /// The bytes do not begin where the file ends so far.
    #[error("the file goes on at offset {right}")]
    Offset {
        /// Where it has to begin.
        right: u64,
    },
    /// Nothing more is taken in.
    #[error("the upload takes no more bytes: it was finished")]
    NotOpen,
    /// A newer stream fills the upload.
    #[error("another stream fills this upload now; one at a time does")]
    Replaced,
    /// The stream was ended by us, and what came is kept.
    #[error("{why}; {bytes} bytes of the file are here: go on at that offset")]
    ToBeContinued {
        /// Why.
        why: &'static str,
        /// The offset to go on at.
        bytes: u64,
    },
    /// The stream ended by no word of its sender.
    #[error("the stream broke off; GetUpload says at which offset to go on")]
    BrokenOff,
    /// The tenant has as many streams as it may have.
    #[error("{0} files are coming for this tenant at the moment, and no more come at a time")]
    OwnStreams(usize),
    /// Everybody together has.
    #[error("too many files are coming at the moment")]
    Streams,
    /// The file is something else.
    #[error("this is not a binary log: it does not begin with FE 62 69 6E")]
    NotABinlog,
    /// It can be read by the server that wrote it only.
    #[error("the binary log is encrypted: only its server can read it")]
    Encrypted,
    /// Not all of the file came, or its end is missing.
    #[error("{0}; send the rest, or finish with keep_what_came")]
    Incomplete(String),
    /// The file cannot be read further.
    #[error("{0}; finish with keep_what_came to keep what came before")]
    Damaged(String),
    /// It cannot be asked yet.
    #[error("the upload is not finished: finish it first, and wait until its state is READY")]
    NotReady,
    /// Somebody asks it, and what is wrong is in the log.
    #[error("the upload cannot be read at the moment")]
    Unreadable,
    /// What is stored of it does not open: it was changed, or moved.
    #[error("what is stored of the upload was changed or moved")]
    Changed,
    /// A row that this program did not write.
    #[error("a stored upload has a wrong {0}")]
    Stored(&'static str),
    /// The vault has no root key, or does not answer.
    #[error("the vault does not open the key of the upload at the moment")]
    VaultAway,
    /// The tenant's keys were destroyed, or the envelope is not what the vault made.
    #[error("the key of the upload cannot be opened")]
    Key,
    /// The store that is made of the file.
    #[error("the store of the upload cannot be made or read")]
    Trail(#[source] trail::Error),
    /// What the file opens to is longer than what is kept for a file of its length.
    #[error("what the file opens to is longer than what is kept for a file of its length")]
    OpensTooFar,
    /// A thread of ours ended early.
    #[error("the reading of the upload broke off")]
    Broken,
    /// Another replica has taken the work over, or the upload is gone.
    #[error("the reading of the upload is somebody else's now")]
    Superseded,
    /// The system has no randomness.
    #[error("the system gives no random bytes")]
    Random,
    /// Who asks is not known.
    #[error("the call says no caller")]
    Caller(Status),
    /// The database.
    #[error(transparent)]
    Database(#[from] pg::Error),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl From<Full> for Error {
    fn from(full: Full) -> Self {
        match full {
            Full::Own(most) => Self::OwnStreams(most),
            Full::All => Self::Streams,
        }
    }
}

impl Error {
    /// A wrong field.
    pub(super) fn field(field: &'static str, problem: &'static str) -> Self {
        Self::Field { field, problem }
    }

    /// A message that is too long.
    pub(super) fn message_length() -> Self {
        const _: () = assert!(PART == 1_048_576);
        Self::field("data", "a message has at most 1,048,576 bytes")
    }
}

impl Fault for Error {
    fn code(&self) -> Code {
        match self {
            Self::Missing => Code::Missing,
            Self::Field { .. } | Self::NotABinlog | Self::Encrypted => Code::Invalid,
            Self::NameTaken | Self::Replaced => Code::Conflict,
            Self::OwnStreams(_) | Self::Streams => Code::Exhausted,
            Self::Plan(limit) => limit.code(),
            Self::PlanBytes { .. }
            | Self::Frozen { .. }
            | Self::TooLarge(_)
            | Self::Offset { .. }
            | Self::NotOpen
            | Self::Incomplete(_)
            | Self::Damaged(_)
            | Self::OpensTooFar
            | Self::NotReady
            | Self::Key => Code::Refused,
            Self::Changed | Self::Stored(_) => Code::Corrupt,
            Self::VaultAway
            | Self::Superseded
            | Self::Unreadable
            | Self::ToBeContinued { .. }
            | Self::BrokenOff => Code::Unavailable,
            Self::Trail(error) => error.code(),
            Self::Random | Self::Broken | Self::Caller(_) => Code::Internal,
            Self::Database(error) => error.code(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "UPLOAD_NOT_FOUND",
            Self::Field { .. } => "FIELD_INVALID",
            Self::NameTaken => "NAME_TAKEN",
            Self::Plan(_) | Self::PlanBytes { .. } => "PLAN_LIMIT",
            Self::Frozen { .. } => "UPLOAD_FROZEN",
            Self::TooLarge(_) => "UPLOAD_TOO_LARGE",
            Self::Offset { .. } => "UPLOAD_OFFSET_WRONG",
            Self::NotOpen => "UPLOAD_NOT_OPEN",
            Self::Replaced => "UPLOAD_STREAM_REPLACED",
            Self::ToBeContinued { .. } | Self::BrokenOff => "UPLOAD_TO_BE_CONTINUED",
            Self::OwnStreams(_) | Self::Streams => "STREAM_LIMIT",
            Self::NotABinlog | Self::Encrypted => "UPLOAD_NOT_A_BINLOG",
            Self::Incomplete(_) => "UPLOAD_INCOMPLETE",
            Self::Damaged(_) | Self::OpensTooFar => "UPLOAD_DAMAGED",
            Self::NotReady => "UPLOAD_NOT_READY",
            Self::Changed | Self::Stored(_) => "UPLOAD_CHANGED",
            Self::VaultAway => "VAULT_UNAVAILABLE",
            Self::Key => "UPLOAD_KEY_UNREADABLE",
            Self::Superseded => "UPLOAD_SUPERSEDED",
            Self::Trail(_) => "UPLOAD_STORE_FAILED",
            Self::Unreadable => "UPLOAD_UNREADABLE",
            Self::Broken => "UPLOAD_BROKEN_OFF",
            Self::Random => "NO_RANDOMNESS",
            Self::Caller(_) => "CALLER_MISSING",
            Self::Database(error) => error.reason(),
        }
    }

    fn field(&self) -> Option<&str> {
        match self {
            Self::Field { field, .. } => Some(field),
            Self::NameTaken => Some("name"),
            Self::NotABinlog | Self::Encrypted => Some("data"),
            Self::Offset { .. } => Some("offset"),
            Self::Database(error) => error.field(),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::VaultAway | Self::Unreadable | Self::OwnStreams(_) | Self::Streams => {
                Some(Duration::from_secs(1))
            }
            Self::Database(error) => error.retry_after(),
            _ => None,
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            Error::Caller(status) => status,
            other => chassis::status(&other),
        }
    }
}
