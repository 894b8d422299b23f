//! What can be wrong with a binary log, and where.

use types::{Code, Fault};

use crate::{LogPos, read::Short};

/// A problem and the place where the event that has it begins.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at {at}: {problem}")]
pub struct Error {
    /// Start of the event, or of the first byte that is missing.
    pub at: LogPos,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with an event. The sentences say what to do where something can be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The first four bytes are not a binary log's.
    #[error("this is not a binary log: it does not begin with FE 62 69 6E (\\xfebin)")]
    NotABinlog,
    /// MySQL's encrypted file format, or MariaDB's START_ENCRYPTION event.
    #[error("the binary log is encrypted; read it from the running server with `trail watch` instead")]
    Encrypted,
    /// The bytes end within an event.
    #[error(
        "the log ends in the middle of an event ({have} of {need} bytes): the file was cut, or is still being written"
    )]
    Cut {
        /// Bytes the event says it has.
        need: u64,
        /// Bytes there are.
        have: u64,
    },
    /// The event's length is not possible.
    #[error("an event claims to be {0} bytes long, which no server writes: the file is damaged here")]
    Length(u64),
    /// The event is longer than whoever reads takes ([`Limits`](crate::event::Limits)).
    #[error(
        "an event is {bytes} bytes long, and no more than {most} are taken here; let the agent beside the server read this log"
    )]
    TooLong {
        /// Bytes it has, or opens to.
        bytes: u64,
        /// Bytes that are taken.
        most: u64,
    },
    /// Compressed events open to more than whoever reads takes.
    #[error(
        "what is compressed in this log opens to more than {0} bytes, and no more are taken here; let the agent beside the server read this log"
    )]
    OpensTooFar(u64),
    /// CRC32 does not match.
    #[error(
        "the event's checksum is {found:08x} but its bytes give {computed:08x}: the file is damaged here"
    )]
    Checksum {
        /// In the event.
        found: u32,
        /// Over the event.
        computed: u32,
    },
    /// An event of a type not known here and not marked ignorable.
    #[error("event type {0} is not known to this version; nothing was skipped")]
    UnknownEvent(u8),
    /// A known event that this version cannot decode.
    #[error("{event} cannot be decoded by this version{remedy}; nothing was skipped")]
    Unsupported {
        /// Name of the event as the server's manual spells it.
        event: &'static str,
        /// What to do, beginning with a semicolon or colon, or empty.
        remedy: &'static str,
    },
    /// Statement-based logging.
    #[error(
        "the log holds a statement instead of rows; set binlog_format=ROW on the server (SET GLOBAL binlog_format = 'ROW', then reconnect its clients)"
    )]
    Statement,
    /// No column names in the table map.
    #[error(
        "the log does not name the columns of {table}; set binlog_row_metadata=FULL on the server (SET GLOBAL binlog_row_metadata = 'FULL', no restart needed): it applies to changes from then on"
    )]
    NoNames {
        /// `schema.table`.
        table: String,
    },
    /// The present definition of a table cannot be that of these rows.
    #[error(
        "the log does not name the columns of {table}, and its present definition is not good for these rows, because the statement at {at} defines it anew; nothing was skipped"
    )]
    DefinedLater {
        /// `schema.table`.
        table: String,
        /// Where the last statement that defines the table stands.
        at: LogPos,
    },
    /// What the log does say of a table disagrees with its present definition.
    #[error(
        "the log does not name the columns of {table}, and the table was altered since: {what}; nothing was skipped"
    )]
    Altered {
        /// `schema.table`.
        table: String,
        /// Which column, how it is now and how it was.
        what: String,
    },
    /// The server itself says that events are missing.
    #[error(
        "the server recorded an incident (number {number}): changes are missing from its log here{message}"
    )]
    Incident {
        /// The server's number for it.
        number: u16,
        /// Its own words, after a colon.
        message: String,
    },
    /// Events in an order no server writes.
    #[error("{0}")]
    Order(&'static str),
    /// An event that ends before its fields do.
    #[error("an event is shorter than its own fields")]
    Short,
    /// An event of a known type with impossible content.
    #[error("{event} is not well-formed: {what}")]
    Event {
        /// Name of the event.
        event: &'static str,
        /// What is impossible.
        what: String,
    },
    /// A row that does not fit its table's definition.
    #[error("a row cannot be decoded: {0}")]
    Row(String),
    /// A column type this version does not know.
    #[error(
        "column {column} of {table} has type number {ty}, which is not known to this version; nothing was skipped"
    )]
    ColumnType {
        /// `schema.table`.
        table: String,
        /// Number from 1.
        column: usize,
        /// The type's number.
        ty: u8,
    },
}

impl From<Short> for Problem {
    fn from(_: Short) -> Self {
        Self::Short
    }
}

impl Fault for Problem {
    fn code(&self) -> Code {
        match self {
            Self::NotABinlog => Code::Invalid,
            Self::Encrypted
            | Self::Statement
            | Self::NoNames { .. }
            | Self::DefinedLater { .. }
            | Self::Altered { .. }
            | Self::Unsupported { .. }
            | Self::UnknownEvent(_)
            | Self::TooLong { .. }
            | Self::OpensTooFar(_)
            | Self::ColumnType { .. } => Code::Refused,
            Self::Cut { .. }
            | Self::Length(_)
            | Self::Checksum { .. }
            | Self::Incident { .. }
            | Self::Order(_)
            | Self::Short
            | Self::Event { .. }
            | Self::Row(_) => Code::Corrupt,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NotABinlog => "NOT_A_BINLOG",
            Self::Encrypted => "ENCRYPTED",
            Self::Cut { .. } => "CUT",
            Self::Length(_) => "BAD_LENGTH",
            Self::TooLong { .. } => "EVENT_TOO_LONG",
            Self::OpensTooFar(_) => "OPENS_TOO_FAR",
            Self::Checksum { .. } => "BAD_CHECKSUM",
            Self::UnknownEvent(_) => "UNKNOWN_EVENT",
            Self::Unsupported { .. } => "UNSUPPORTED_EVENT",
            Self::Statement => "STATEMENT_FORMAT",
            Self::NoNames { .. } => "NO_COLUMN_NAMES",
            Self::DefinedLater { .. } => "DEFINED_LATER",
            Self::Altered { .. } => "ALTERED_SINCE",
            Self::Incident { .. } => "INCIDENT",
            Self::Order(_) => "BAD_ORDER",
            Self::Short => "SHORT_EVENT",
            Self::Event { .. } => "BAD_EVENT",
            Self::Row(_) => "BAD_ROW",
            Self::ColumnType { .. } => "UNKNOWN_COLUMN_TYPE",
        }
    }
}

impl Fault for Error {
    fn code(&self) -> Code {
        self.problem.code()
    }

    fn reason(&self) -> &'static str {
        self.problem.reason()
    }
}
