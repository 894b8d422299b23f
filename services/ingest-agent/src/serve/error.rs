//! What the agent answers instead of an answer.

use std::time::Duration;

use tonic::Status;
use types::{Code, Fault};

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// No delegation that is valid for this call.
    #[error("the delegation is not valid for this call")]
    Delegation,
    /// One that is valid at another time.
    #[error("the delegation is not valid at this time: the clock of this agent differs from the mesh's")]
    Clock,
    /// Another server's.
    #[error("this agent does not follow that server")]
    NotFollowed,
    /// The question has no answer.
    #[error(transparent)]
    Unanswered(#[from] answer::Error),
    /// Something that should not happen.
    #[error("{0}")]
    Internal(&'static str),
}

impl Error {
    /// As it goes over the wire.
    pub(super) fn status(&self) -> Status {
        chassis::status(self)
    }
}

impl Fault for Error {
    fn code(&self) -> Code {
        match self {
            Self::Delegation | Self::Clock => Code::Unauthenticated,
            Self::NotFollowed => Code::Missing,
            Self::Unanswered(error) => error.code(),
            Self::Internal(_) => Code::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Delegation => "DELEGATION_INVALID",
            Self::Clock => "DELEGATION_TIME",
            Self::NotFollowed => "SERVER_NOT_FOLLOWED",
            Self::Unanswered(error) => error.reason(),
            Self::Internal(_) => "INTERNAL",
        }
    }

    fn field(&self) -> Option<&str> {
        match self {
            Self::Unanswered(error) => error.field(),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unanswered(error) => error.retry_after(),
            _ => None,
        }
    }
}
