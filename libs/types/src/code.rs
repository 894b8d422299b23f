//! The closed set of outcomes that change what a caller does.

use std::{error::Error, time::Duration};

/// What kind of failure an error is. A new code is justified only if a caller would act differently on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The request itself is wrong; repeating it cannot help.
    Invalid,
    /// Who asks has not been established: sign in, or give the code that is asked for.
    Unauthenticated,
    /// Who asks is known and may not.
    Forbidden,
    /// What was asked for does not exist, or may not be seen.
    Missing,
    /// The thing is already there, or somebody else holds it.
    Conflict,
    /// The state of the system forbids it until a person changes something: configuration, credentials, rights.
    Refused,
    /// A limit or a resource (disk, memory, quota) is used up.
    Exhausted,
    /// The other side cannot be reached; trying again later may help.
    Unavailable,
    /// There was not enough time; whether it happened may be unknown.
    Timeout,
    /// Stored or received data is not what it must be.
    Corrupt,
    /// Everything else: a defect of ours, or an environment that broke a promise.
    Internal,
}

/// An error that knows its [`Code`] and a reason that stays the same across releases.
///
/// Its `Display` is what a stranger may read, except with [`Code::Corrupt`] and [`Code::Internal`], whose words stay in the log.
pub trait Fault: Error {
    /// The kind of failure.
    fn code(&self) -> Code;
    /// A stable UPPER_SNAKE word that programs may match on.
    fn reason(&self) -> &'static str;
    /// The field of the request that is wrong, as its proto path, for example `server.port`.
    fn field(&self) -> Option<&str> {
        None
    }
    /// When trying again makes sense.
    fn retry_after(&self) -> Option<Duration> {
        None
    }
    /// Where else to ask, for what lives in another region or cell: `https://host`.
    fn host(&self) -> Option<&str> {
        None
    }
}

/// The sentence of `error` followed by those of its sources, separated by colons.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
