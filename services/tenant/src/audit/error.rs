//! Why something was not written down or read.

use std::{sync::Arc, time::Duration};

use chassis::places::Full;
use types::{Code, Fault};

/// Why.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The tenant is gone, or never was.
    #[error("there is no such tenant")]
    Gone,
    /// A result for nothing.
    #[error("no such entry was begun")]
    NoIntent,
    /// The vault has signed none yet.
    #[error("no head of this log has been signed yet")]
    NoHead,
    /// More wait to be written than there is room for.
    #[error("too much is waiting to be written to the audit log")]
    Busy,
    /// It was not written in time; it may be yet.
    #[error("the audit log was not written in time")]
    Late,
    /// The database's clock says another hour.
    #[error("a clock is off by more than an hour: the audit log takes no record")]
    Clock,
    /// As many streams are followed as may be.
    #[error("too many streams of audit logs are open")]
    Streams,
    /// As many of this tenant as one may have.
    #[error("{0} streams of this tenant's audit log are open: there is no room for more")]
    OwnStreams(usize),
    /// Retention removed records that were about to be read.
    #[error("retention has removed records meanwhile: begin again")]
    Trimmed,
    /// A row is not what was written.
    #[error("record {0} of the audit log cannot be read")]
    Stored(i64),
    /// What every part of the service may answer.
    #[error(transparent)]
    Service(#[from] Arc<crate::error::Error>),
}

impl From<crate::error::Error> for Error {
    fn from(error: crate::error::Error) -> Self {
        match &error {
            crate::error::Error::Database(database) if is_gone(database) => Self::Gone,
            crate::error::Error::Database(pg::Error::Defect(sqlx::Error::Database(answer)))
                if answer.code().as_deref() == Some("22008") =>
            {
                Self::Clock
            }
            _ => Self::Service(Arc::new(error)),
        }
    }
}

impl From<pg::Error> for Error {
    fn from(error: pg::Error) -> Self {
        crate::error::Error::from(error).into()
    }
}

impl From<crate::domain::Invalid> for Error {
    fn from(invalid: crate::domain::Invalid) -> Self {
        crate::error::Error::from(invalid).into()
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        pg::Error::from(error).into()
    }
}

/// Whether there is no role or no schema of that tenant.
fn is_gone(error: &pg::Error) -> bool {
    match error {
        pg::Error::NoSuchTenant => true,
        pg::Error::Defect(sqlx::Error::Database(answer)) => {
            matches!(answer.code().as_deref(), Some("3F000" | "42P01"))
        }
        _ => false,
    }
}

impl Error {
    /// Whether the same text can never be written: it is not the moment's fault.
    pub(super) fn is_about_the_text(&self) -> bool {
        match self {
            Self::Service(error) => matches!(
                &**error,
                crate::error::Error::Database(pg::Error::Defect(_) | pg::Error::Constraint { .. })
            ),
            _ => false,
        }
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

impl Fault for Error {
    fn code(&self) -> Code {
        match self {
            Self::Gone | Self::NoIntent | Self::NoHead => Code::Missing,
            Self::Busy | Self::Clock => Code::Unavailable,
            Self::Late => Code::Timeout,
            Self::Streams | Self::OwnStreams(_) => Code::Exhausted,
            Self::Trimmed => Code::Conflict,
            Self::Stored(_) => Code::Corrupt,
            Self::Service(error) => error.code(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Gone => "TENANT_NOT_FOUND",
            Self::NoIntent => "AUDIT_ENTRY_NOT_FOUND",
            Self::NoHead => "AUDIT_HEAD_NOT_FOUND",
            Self::Busy => "AUDIT_BUSY",
            Self::Late => "AUDIT_LATE",
            Self::Clock => "AUDIT_CLOCK",
            Self::Streams | Self::OwnStreams(_) => "AUDIT_STREAM_LIMIT",
            Self::Trimmed => "AUDIT_TRIMMED",
            Self::Stored(_) => "STORED_VALUE_WRONG",
            Self::Service(error) => error.reason(),
        }
    }

    fn field(&self) -> Option<&str> {
        match self {
            Self::Service(error) => error.field(),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy | Self::Streams | Self::OwnStreams(_) => Some(Duration::from_secs(1)),
            Self::Service(error) => error.retry_after(),
            _ => None,
        }
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        chassis::status(&error)
    }
}
