//! Words of the command line that are checked before anything runs.

use std::time::{SystemTime, UNIX_EPOCH};

use types::{Micros, MicrosError};

/// The present instant.
pub(super) fn now() -> Micros {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
}

/// An instant or an age.
pub(super) fn time(text: &str) -> Result<Micros, MicrosError> {
    Micros::parse_relative(text, now())
}

/// How many changes are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// No more than so many.
    Of(usize),
    /// As many as there are.
    All,
}

/// A number, or `all`.
pub(super) fn limit(text: &str) -> Result<Limit, String> {
    match text {
        "all" => Ok(Limit::All),
        _ => text
            .parse()
            .map(Limit::Of)
            .map_err(|_| "write a number, or all".to_owned()),
    }
}
