//! What can go wrong between us and PostgreSQL, and what follows from it for who asked.

use std::{io, time::Duration};

use sqlx::error::DatabaseError;
use types::{Code, Fault};

/// Why the database did not do what was asked.
///
/// Every error but [`Error::Unknown`] means that nothing of the transaction was kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection, or it broke; or the server is starting, stopping, or a standby.
    #[error("the database cannot be reached")]
    Unavailable(#[source] sqlx::Error),
    /// The deadline passed before the work was done.
    #[error("the database had not enough time")]
    Timeout(#[source] Option<sqlx::Error>),
    /// The connection or the time was lost while the commit was under way: it may have happened.
    #[error("it is not known whether the database has kept the change")]
    Unknown(#[source] Option<sqlx::Error>),
    /// Two transactions were in each other's way; the same one may succeed when tried again.
    #[error("the database was busy with a conflicting change")]
    Conflict(#[source] sqlx::Error),
    /// Memory, disk or another limit of the server is used up.
    #[error("the database is out of resources")]
    Exhausted(#[source] sqlx::Error),
    /// The server does not let us in, or is not who it should be.
    #[error("the database refuses the connection or cannot be trusted")]
    Refused(#[source] sqlx::Error),
    /// A constraint forbids the row, and nobody has said what that means.
    #[error("a row breaks the constraint '{name}'")]
    Constraint {
        /// The constraint's name.
        name: String,
        /// What the server said.
        #[source]
        source: sqlx::Error,
    },
    /// A statement of this transaction failed before; nothing of it can be kept.
    #[error("the transaction has failed before")]
    Aborted,
    /// The transaction belongs to no tenant.
    #[error("the transaction belongs to no tenant")]
    NoTenant,
    /// The tenant has no schema here, or one that was closed: it is being deleted, or has moved.
    #[error("there is no such tenant")]
    NoSuchTenant,
    /// The database belongs to another part of the installation than the service does.
    #[error("the database is that of region {marked}, and the service was started for {wanted}")]
    Elsewhere {
        /// Region and cell that are written in the database.
        marked: String,
        /// Region and cell that the service was told.
        wanted: crate::Home,
    },
    /// A setting is wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The migrations and the database do not fit together, or a migration failed.
    #[error(transparent)]
    Migration(Box<crate::migrate::Problem>),
    /// Everything else: a defect of ours.
    #[error("the database did not accept a statement")]
    Defect(#[source] sqlx::Error),
}

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {problem}; {remedy}")]
pub struct SettingsError {
    /// The environment variable.
    pub name: &'static str,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

impl Error {
    /// The constraint that was broken.
    pub fn constraint(&self) -> Option<&str> {
        match self {
            Self::Constraint { name, .. } => Some(name),
            _ => None,
        }
    }

    /// Whether the same transaction, done again from its beginning, may succeed.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Conflict(_))
    }

    /// Whether nothing at all has been kept.
    pub fn certainly_not_done(&self) -> bool {
        !matches!(self, Self::Unknown(_))
    }

    /// The same trouble, when it came while a commit was under way.
    pub(crate) fn while_committing(self) -> Self {
        match self {
            Self::Unavailable(source) => Self::Unknown(Some(source)),
            Self::Timeout(source) => Self::Unknown(source),
            other => other,
        }
    }

    /// Whether the connection that gave this error is of no further use.
    pub(crate) fn breaks_connection(error: &sqlx::Error) -> bool {
        match error {
            sqlx::Error::Database(answer) => {
                answer
                    .code()
                    .is_some_and(|code| matches!(&*code, "25P03" | "57P01" | "57P02"))
                    || answer.code().is_some_and(|code| code.starts_with("08"))
            }
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => true,
            _ => false,
        }
    }

    /// What it means that a transaction in a tenant's schema could not begin: the role is not there, or was taken from the service.
    pub(crate) fn while_entering(self) -> Self {
        let code = match &self {
            Self::Defect(sqlx::Error::Database(answer)) => answer.code(),
            _ => None,
        };
        match code.as_deref() {
            Some("22023" | "42501") => {
                tracing::debug!(error = %types::chain(&self), "a tenant's schema cannot be entered");
                Self::NoSuchTenant
            }
            _ => self,
        }
    }

    /// Classes of SQLSTATE: PostgreSQL manual, appendix A.
    fn of_server(answer: &dyn DatabaseError) -> fn(sqlx::Error) -> Self {
        let code = answer.code().unwrap_or_default();
        match &*code {
            "57014" | "25P03" => |source| Self::Timeout(Some(source)),
            "25P02" => |_| Self::Aborted,
            "40001" | "40P01" | "55P03" => Self::Conflict,
            "53300" | "57P01" | "57P02" | "57P03" | "57P05" | "25006" => Self::Unavailable,
            "3D000" => Self::Refused,
            code if code.starts_with("08") => Self::Unavailable,
            code if code.starts_with("28") => Self::Refused,
            code if code.starts_with("53") || code.starts_with("54") => Self::Exhausted,
            _ => Self::Defect,
        }
    }
}

impl From<crate::migrate::Problem> for Error {
    fn from(problem: crate::migrate::Problem) -> Self {
        Self::Migration(Box::new(problem))
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(answer) => {
                if let Some(name) = answer
                    .constraint()
                    .filter(|_| answer.code().is_some_and(|c| c.starts_with("23")))
                {
                    let name = name.to_owned();
                    return Self::Constraint { name, source: error };
                }
                let make = Self::of_server(answer.as_ref());
                make(error)
            }
            sqlx::Error::Io(trouble) if trouble.kind() == io::ErrorKind::TimedOut => {
                Self::Timeout(Some(error))
            }
            // So a certificate that is not trusted comes out of rustls.
            sqlx::Error::Io(trouble) if trouble.kind() == io::ErrorKind::InvalidData => Self::Refused(error),
            // A server that hangs up while a connection is made answers with nothing where a word of the protocol is due.
            sqlx::Error::Io(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed => Self::Unavailable(error),
            sqlx::Error::Tls(_) => Self::Refused(error),
            _ => Self::Defect(error),
        }
    }
}

impl Fault for Error {
    fn code(&self) -> Code {
        match self {
            Self::Unavailable(_) => Code::Unavailable,
            Self::Timeout(_) | Self::Unknown(_) => Code::Timeout,
            Self::Conflict(_) => Code::Conflict,
            Self::Exhausted(_) => Code::Exhausted,
            Self::Refused(_) | Self::Settings(_) | Self::Migration(_) | Self::Elsewhere { .. } => {
                Code::Refused
            }
            Self::NoSuchTenant => Code::Missing,
            Self::Constraint { .. } | Self::Aborted | Self::NoTenant | Self::Defect(_) => Code::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "DATABASE_UNAVAILABLE",
            Self::Timeout(_) => "DATABASE_TIMEOUT",
            Self::Unknown(_) => "COMMIT_UNKNOWN",
            Self::Conflict(_) => "DATABASE_CONFLICT",
            Self::Exhausted(_) => "DATABASE_EXHAUSTED",
            Self::Refused(_) => "DATABASE_REFUSED",
            Self::Constraint { .. } => "CONSTRAINT",
            Self::Aborted => "TRANSACTION_ABORTED",
            Self::NoTenant => "NO_TENANT",
            Self::NoSuchTenant => "TENANT_NOT_FOUND",
            Self::Elsewhere { .. } => "DATABASE_ELSEWHERE",
            Self::Settings(_) => "DATABASE_SETTINGS",
            Self::Migration(_) => "MIGRATION",
            Self::Defect(_) => "DATABASE_DEFECT",
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        self.retryable().then_some(Duration::from_secs(1))
    }
}

/// Says what a broken constraint means.
pub trait OnConstraint<T> {
    /// The value; or, when the constraint `name` was broken, what `meaning` makes of it; or any other error as it is.
    ///
    /// # Errors
    /// As said.
    fn on_constraint<E: From<Error>>(self, name: &str, meaning: impl FnOnce() -> E) -> Result<T, E>;
}

impl<T> OnConstraint<T> for Result<T, Error> {
    fn on_constraint<E: From<Error>>(self, name: &str, meaning: impl FnOnce() -> E) -> Result<T, E> {
        self.map_err(|error| {
            if error.constraint() == Some(name) {
                meaning()
            } else {
                E::from(error)
            }
        })
    }
}

impl<T> OnConstraint<T> for Result<T, sqlx::Error> {
    fn on_constraint<E: From<Error>>(self, name: &str, meaning: impl FnOnce() -> E) -> Result<T, E> {
        self.map_err(Error::from).on_constraint(name, meaning)
    }
}
