//! What a script that calls `trail` learns from its exit status. This is the only place that says so.

use std::process::ExitCode;

use types::Code;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything that was asked for was done.
    Done,
    /// It was not; the same call may work later or elsewhere.
    Failed,
    /// The call itself is wrong.
    Usage,
    /// The answer was given, but the store does not hold everything it should be drawn from.
    Incomplete,
    /// Configuration, credentials or rights forbid it until a person changes them (`EX_USAGE` of sysexits, which rivals use
    /// for the same meaning, so that `RestartPreventExitStatus=64` works in a systemd unit).
    Refused,
    /// The mesh refuses this agent: it is revoked, or beyond the plan's limits (as [`Exit::Refused`], rivals use the number for it).
    Barred,
    /// The source cannot be reached (`EX_UNAVAILABLE` of sysexits).
    Unreachable,
}

impl Exit {
    /// The number the process ends with.
    pub fn status(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Incomplete => 3,
            Self::Refused => 64,
            Self::Barred => 65,
            Self::Unreachable => 69,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.status())
    }
}

impl From<Code> for Exit {
    fn from(code: Code) -> Self {
        match code {
            Code::Invalid => Self::Usage,
            Code::Refused | Code::Forbidden | Code::Unauthenticated => Self::Refused,
            Code::Unavailable | Code::Timeout => Self::Unreachable,
            Code::Missing | Code::Conflict | Code::Exhausted | Code::Corrupt | Code::Internal => Self::Failed,
        }
    }
}
