//! Every SQL statement of the service, one file a noun.
//!
//! The schema `vault` is shared by all tenants, and each statement on it names the tenant. Envelopes are in the tenants' own schemas, in the
//! tables that [`sealed`] lists; only a transaction that was begun for a tenant reaches them.

pub(crate) mod agent;
pub(crate) mod carried;
pub(crate) mod data_key;
pub(crate) mod epoch;
pub(crate) mod grant;
pub(crate) mod head;
pub(crate) mod kek;
pub(crate) mod own;
pub(crate) mod ring;
pub(crate) mod sealed;

use std::{str::FromStr, time::Duration};

use sqlx::types::chrono::{DateTime, Utc};

use crate::error::Error;

/// An instant as columns have it.
pub(crate) type Time = DateTime<Utc>;

/// A column that this program wrote from a value of `T`.
fn stored<T: FromStr>(text: &str, what: &'static str) -> Result<T, Error> {
    text.parse().map_err(|_| Error::Stored(what))
}

/// As statements that are signed write it.
pub(crate) fn text(time: Time) -> String {
    time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// A time span to bind: `make_interval(secs => $n)`.
fn seconds(span: Duration) -> f64 {
    span.as_secs_f64()
}
