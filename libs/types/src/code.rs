//! The closed set of outcomes that change what a caller does.

use std::error::Error;

/// What kind of failure an error is. A new code is justified only if a caller would act differently on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The request itself is wrong; repeating it cannot help.
    Invalid,
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
    /// Stored or received data is not what it must be.
    Corrupt,
    /// Everything else: a defect of ours, or an environment that broke a promise.
    Internal,
}

/// An error that knows its [`Code`] and a reason that stays the same across releases.
pub trait Fault: Error {
    /// The kind of failure.
    fn code(&self) -> Code;
    /// A stable UPPER_SNAKE word that programs may match on.
    fn reason(&self) -> &'static str;
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
