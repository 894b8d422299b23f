//! What can go wrong, by name. `reason` is what programs match on and stays the same.

use std::time::Duration;

use chassis::places::Full;
use tonic::{Code as Grpc, Status, metadata::MetadataMap};
use tonic_types::StatusExt as _;
use types::{Code, Fault};

/// Why an operation did not happen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The filter is wrong.
    #[error("{problem}")]
    Filter {
        /// The field, as its proto path.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Another field of the request is wrong.
    #[error("{problem}")]
    Field {
        /// The field, as its proto path.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// There is no such plan, or the caller may not see it.
    #[error("no such plan")]
    PlanMissing,
    /// There is no such server, or the caller may not see it.
    #[error("no such server")]
    ServerMissing,
    /// The server is beyond what the tenant's plan allows.
    #[error("the server is frozen: the plan of the tenant allows fewer servers")]
    Frozen,
    /// Access rules hide a table from the caller's role.
    #[error("access rules hide a table of this plan from your role")]
    TableDenied,
    /// Access rules hide a column from the caller's role.
    #[error("access rules hide a column that this plan needs from your role")]
    ColumnDenied,
    /// An answer cannot be judged: what the server's tables are called changed, or its agent was replaced, while it was asked.
    #[error("the server's tables are being renamed, or its agent replaced, at this moment: ask again")]
    Unsettled,
    /// No change was chosen.
    #[error("no change matches, so there is nothing to undo")]
    NothingToUndo,
    /// Its script would be another one now.
    #[error("the history that this plan was made from is another one now: plan again")]
    Stale,
    /// It is too old.
    #[error("the plan has expired: plan again")]
    Expired,
    /// The tenant has as many plans as are kept.
    #[error("the tenant has {most} plans; they go by themselves with time")]
    PlanLimit {
        /// How many that is.
        most: i64,
    },
    /// No room for another one.
    #[error("too many plans are being watched at the moment")]
    TooManyWatchers,
    /// What came is not the script that was announced.
    #[error("the script that came is not that of the plan: {0}")]
    Damaged(&'static str),
    /// The other side answered what it never should.
    #[error("{who} answered what cannot be: {what}")]
    Answer {
        /// Who.
        who: &'static str,
        /// What it was.
        what: String,
    },
    /// A call that came without the token that its rule asks for.
    #[error("the call has no context token")]
    Context,
    /// The other side said no, in words that are meant for the caller.
    #[error("{}", .0.message())]
    Passed(Box<Status>),
    /// An agent said no, in our words.
    #[error("{words}")]
    Said {
        /// The kind.
        code: Code,
        /// The reason.
        reason: &'static str,
        /// Our words.
        words: &'static str,
    },
    /// A row is not what this program writes.
    #[error("a stored {0} is not what was written")]
    Stored(&'static str),
    /// PostgreSQL.
    #[error(transparent)]
    Database(#[from] pg::Error),
}

impl Error {
    /// Metadata is for services, and stays here.
    fn passed(mut status: Status) -> Self {
        *status.metadata_mut() = MetadataMap::new();
        Self::Passed(Box::new(status))
    }

    /// What an agent says no with, to those who do not see its own words.
    pub(crate) fn said(reason: &str) -> Self {
        let said = |code, reason, words| Self::Said { code, reason, words };
        match reason {
            "SERVER_NOT_FOLLOWED" => said(
                Code::Unavailable,
                "SERVER_NOT_FOLLOWED",
                "the agent does not follow the server",
            ),
            "PLAN_TOO_LARGE" => said(
                Code::Exhausted,
                "PLAN_TOO_LARGE",
                "the plan would be too large: choose fewer changes",
            ),
            "STORE_UNAVAILABLE" => said(
                Code::Unavailable,
                "STORE_UNAVAILABLE",
                "the agent cannot read what it stored",
            ),
            "UPLOAD_NOT_FOUND" => said(Code::Missing, "UPLOAD_NOT_FOUND", "there is no such upload"),
            "UPLOAD_NOT_READY" => said(Code::Refused, "UPLOAD_NOT_READY", "the upload is not finished"),
            "UPLOAD_FROZEN" => said(
                Code::Refused,
                "UPLOAD_FROZEN",
                "the upload is frozen: the plan has room for newer ones only",
            ),
            "UPLOAD_UNREADABLE" => said(
                Code::Unavailable,
                "UPLOAD_UNREADABLE",
                "the upload cannot be read at the moment",
            ),
            _ => said(Code::Unavailable, "AGENT_FAILED", "the agent could not answer"),
        }
    }

    /// What `who` said, if it is for the caller; else it is a defect between services and stays in the log.
    pub(crate) fn from_neighbour(who: &'static str, status: Status) -> Self {
        match status.code() {
            Grpc::InvalidArgument
            | Grpc::NotFound
            | Grpc::FailedPrecondition
            | Grpc::ResourceExhausted
            | Grpc::Unavailable
            | Grpc::DeadlineExceeded
            | Grpc::Cancelled
            | Grpc::Aborted => Self::passed(status),
            // The caller's session or role ended while the call was under way: auth delegates nothing then.
            Grpc::Unauthenticated | Grpc::PermissionDenied if ended(&status) => Self::passed(status),
            code => Self::Answer {
                who,
                what: format!("{code:?}: {}", status.message()),
            },
        }
    }
}

fn ended(status: &Status) -> bool {
    let reason = status.get_details_error_info().map(|info| info.reason);
    matches!(
        reason.as_deref(),
        Some("CONTEXT_INVALID" | "ROLE_TOO_LOW" | "SCOPE_MISSING")
    )
}

impl Fault for Error {
    fn code(&self) -> Code {
        match self {
            Self::Filter { .. } | Self::Field { .. } => Code::Invalid,
            Self::PlanMissing | Self::ServerMissing => Code::Missing,
            Self::TableDenied | Self::ColumnDenied => Code::Forbidden,
            Self::NothingToUndo | Self::Stale | Self::Expired | Self::Frozen => Code::Refused,
            Self::PlanLimit { .. } | Self::TooManyWatchers => Code::Exhausted,
            Self::Damaged(_) | Self::Stored(_) => Code::Corrupt,
            Self::Answer { .. } | Self::Context => Code::Internal,
            Self::Passed(_) | Self::Unsettled => Code::Unavailable,
            Self::Said { code, .. } => *code,
            Self::Database(error) => error.code(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Filter { .. } => "FILTER_INVALID",
            Self::Field { .. } => "FIELD_INVALID",
            Self::PlanMissing => "PLAN_NOT_FOUND",
            Self::ServerMissing => "SERVER_NOT_FOUND",
            Self::Frozen => "SERVER_FROZEN",
            Self::TableDenied => "TABLE_DENIED",
            Self::ColumnDenied => "COLUMN_DENIED",
            Self::Unsettled => "TABLES_UNSETTLED",
            Self::NothingToUndo => "NOTHING_TO_UNDO",
            Self::Stale => "PLAN_STALE",
            Self::Expired => "PLAN_EXPIRED",
            Self::PlanLimit { .. } => "PLAN_LIMIT",
            Self::TooManyWatchers => "TOO_MANY_WATCHERS",
            Self::Damaged(_) => "SCRIPT_DAMAGED",
            Self::Answer { .. } => "ANSWER_WRONG",
            Self::Context => "CONTEXT_MISSING",
            Self::Passed(_) => "NEIGHBOUR_REFUSED",
            Self::Said { reason, .. } => reason,
            Self::Stored(_) => "STORED_VALUE_WRONG",
            Self::Database(error) => error.reason(),
        }
    }

    fn field(&self) -> Option<&str> {
        match self {
            Self::Filter { field, .. } | Self::Field { field, .. } => Some(field),
            Self::Database(error) => error.field(),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyWatchers => Some(Duration::from_secs(10)),
            Self::Unsettled => Some(Duration::from_secs(1)),
            Self::Database(error) => error.retry_after(),
            _ => None,
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            Error::Passed(status) => *status,
            error => chassis::status(&error),
        }
    }
}

impl From<Full> for Error {
    fn from(_: Full) -> Self {
        Self::TooManyWatchers
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

#[cfg(test)]
mod tests {
    use types::{Code, Fault as _};

    use super::Error;

    /// Clients match on these words.
    #[test]
    fn every_reason_has_its_code() {
        let filter = Error::Filter {
            field: "filter",
            problem: "empty",
        };
        let field = Error::Field {
            field: "page_size",
            problem: "less than 0",
        };
        for (error, code, reason) in [
            (filter, Code::Invalid, "FILTER_INVALID"),
            (field, Code::Invalid, "FIELD_INVALID"),
            (Error::PlanMissing, Code::Missing, "PLAN_NOT_FOUND"),
            (Error::ServerMissing, Code::Missing, "SERVER_NOT_FOUND"),
            (Error::Frozen, Code::Refused, "SERVER_FROZEN"),
            (Error::TableDenied, Code::Forbidden, "TABLE_DENIED"),
            (Error::ColumnDenied, Code::Forbidden, "COLUMN_DENIED"),
            (Error::Unsettled, Code::Unavailable, "TABLES_UNSETTLED"),
            (Error::NothingToUndo, Code::Refused, "NOTHING_TO_UNDO"),
            (Error::Stale, Code::Refused, "PLAN_STALE"),
            (Error::Expired, Code::Refused, "PLAN_EXPIRED"),
            (Error::PlanLimit { most: 1 }, Code::Exhausted, "PLAN_LIMIT"),
            (Error::TooManyWatchers, Code::Exhausted, "TOO_MANY_WATCHERS"),
            (Error::Damaged("cut"), Code::Corrupt, "SCRIPT_DAMAGED"),
            (Error::Stored("id"), Code::Corrupt, "STORED_VALUE_WRONG"),
        ] {
            assert_eq!((error.code(), error.reason()), (code, reason));
        }
    }
}
