//! What is answered instead of an answer.

use std::time::Duration;

use types::{Code, Fault};

use crate::{question::Refused, undo::Failed};

/// When somebody who found the agent busy may come again.
const AGAIN: Duration = Duration::from_millis(500);

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The question cannot be answered as it is.
    #[error("{why}")]
    Filter {
        /// The field, from the request on.
        field: String,
        /// What is wrong with it.
        why: String,
    },
    /// Too much at once.
    #[error("the agent is busy with other calls")]
    Busy,
    /// The store cannot be read. The log of whoever holds it says more.
    #[error("what is stored cannot be read now")]
    Store,
    /// The store would have to know it, and does not.
    #[error("the store holds no such transaction")]
    NoTransaction,
    /// There is no plan.
    #[error(transparent)]
    Plan(undo::Error),
    /// A plan over more than is taken at once.
    #[error("the selection is too large for one plan: {0}; undo it in parts")]
    PlanTooLarge(&'static str),
    /// A change of more bytes than a message may have.
    #[error("a change of {0} bytes is larger than the mesh carries; read it where the agent is")]
    ChangeTooLarge(usize),
    /// The caller has no more time, or has gone.
    #[error("the answer was not ready before the deadline")]
    Deadline,
    /// Something that should not happen.
    #[error("{0}")]
    Internal(&'static str),
}

impl Error {
    /// A wrong field of the request.
    pub fn filter(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Filter {
            field: field.into(),
            why: why.into(),
        }
    }
}

impl Fault for Error {
    fn code(&self) -> Code {
        match self {
            Self::NoTransaction => Code::Missing,
            Self::Filter { .. } => Code::Invalid,
            Self::Busy | Self::PlanTooLarge(_) | Self::ChangeTooLarge(_) => Code::Exhausted,
            Self::Store => Code::Unavailable,
            Self::Plan(error) => error.code(),
            Self::Deadline => Code::Timeout,
            Self::Internal(_) => Code::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Filter { .. } => "FILTER_INVALID",
            Self::Busy => "AGENT_BUSY",
            Self::Store => "STORE_UNAVAILABLE",
            Self::NoTransaction => "TRANSACTION_NOT_FOUND",
            Self::Plan(error) => error.reason(),
            Self::PlanTooLarge(_) => "PLAN_TOO_LARGE",
            Self::ChangeTooLarge(_) => "CHANGE_TOO_LARGE",
            Self::Deadline => "DEADLINE_EXCEEDED",
            Self::Internal(_) => "INTERNAL",
        }
    }

    fn field(&self) -> Option<&str> {
        match self {
            Self::Filter { field, .. } => Some(field),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        matches!(self, Self::Busy).then_some(AGAIN)
    }
}

impl From<trail::Error> for Error {
    fn from(error: trail::Error) -> Self {
        if matches!(error, trail::Error::Stopped) {
            return Self::Deadline;
        }
        // The words name folders of this machine.
        tracing::warn!(error = types::chain(&error), "a store cannot be read");
        Self::Store
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Store(error) => error.into(),
            // What could help stays here: it may name what the caller may not see.
            Refused::Wrong(wrong) => Self::filter(format!("filter.{}", wrong.field()), wrong.to_string()),
        }
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Store(error) => error.into(),
            Failed::Plan(undo::Error::Order { .. } | undo::Error::Image { .. }) => {
                tracing::warn!("a plan cannot be made from what is stored");
                Self::Store
            }
            Failed::Plan(error) => Self::Plan(error),
            Failed::NoSuchColumn(_) => Self::Internal("nobody named a column"),
        }
    }
}
