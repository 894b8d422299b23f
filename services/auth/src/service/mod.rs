//! gRPC: decode, act, encode. No SQL, no rules, no timers.

use prost_types::Timestamp;
use types::{Micros, Subject};

use crate::Error;

pub(crate) mod account;
pub(crate) mod api_key;
pub(crate) mod guard;
pub(crate) mod mail;
pub(crate) mod mfa;
pub(crate) mod password;
pub(crate) mod session;

/// As messages carry an instant.
pub(crate) fn timestamp(micros: Micros) -> Timestamp {
    Timestamp {
        seconds: micros.0.div_euclid(1_000_000),
        nanos: i32::try_from(micros.0.rem_euclid(1_000_000)).unwrap_or_default() * 1_000,
    }
}

/// The person and the session behind a call whose rule says `session_only`.
pub(crate) fn person(subject: &Subject) -> Result<(types::UserId, types::SessionId), Error> {
    match subject {
        Subject::Person { user, session } => Ok((*user, *session)),
        Subject::Key { .. } => Err(Error::Internal(
            "a key reached a method for sessions only".to_owned(),
        )),
    }
}
