//! What went wrong, in the words of the person at the terminal.

use std::{fmt, io};

use types::{Code, Fault, chain};

/// Why a command ended early.
#[derive(Debug)]
pub enum Error {
    /// Whoever read our output has read enough (`trail changes | head`). Nothing is wrong.
    Closed,
    /// A person has to know about it.
    Failed(Box<Failure>),
}

/// A failure as it is told: what was being done or looked at, why it did not work, and what to do about it.
#[derive(Debug)]
pub struct Failure {
    /// What kind it is; the exit status follows from it.
    pub code: Code,
    /// What it is about: a path, a table, a flag.
    pub what: String,
    /// The reason, in one sentence without a full stop.
    pub why: String,
    /// The remedy, if there is one.
    pub hint: Option<String>,
}

impl Error {
    /// A failure with its own words.
    pub fn new(code: Code, what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::Failed(Box::new(Failure {
            code,
            what: what.to_string(),
            why: why.to_string(),
            hint: None,
        }))
    }

    /// A failure that another crate has already named; its sources are told once, after it.
    pub fn from_fault(what: impl fmt::Display, fault: &impl Fault) -> Self {
        Self::new(fault.code(), what, chain(fault))
    }

    /// A failure of the operating system at `what`.
    pub fn from_io(what: impl fmt::Display, error: &io::Error) -> Self {
        let code = match error.kind() {
            io::ErrorKind::NotFound => Code::Missing,
            io::ErrorKind::AlreadyExists => Code::Conflict,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Code::Refused,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::Exhausted,
            _ => Code::Internal,
        };
        Self::new(code, what, error)
    }

    /// A failure to write to standard output; a closed pipe is none.
    pub fn from_output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::Closed
        } else {
            Self::from_io("standard output", error)
        }
    }

    /// The same with a remedy.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        if let Self::Failed(failure) = &mut self {
            failure.hint = Some(hint.to_string());
        }
        self
    }
}
