//! Every SQL statement of the crate: rows in, domain values out.

use sqlx::types::chrono::{DateTime, Utc};
use types::Micros;

use crate::Error;

pub(crate) mod account;
pub(crate) mod api_key;
pub(crate) mod credential;
pub(crate) mod factor;
pub(crate) mod grant;
pub(crate) mod history;
pub(crate) mod outbox;
pub(crate) mod ring;
pub(crate) mod session;
pub(crate) mod sweep;
pub(crate) mod token;

/// The database's clock: the only one that decides.
pub(crate) async fn now(tx: &mut pg::Transaction) -> Result<Micros, Error> {
    let now: DateTime<Utc> = sqlx::query_scalar("SELECT clock_timestamp()")
        .fetch_one(&mut **tx)
        .await?;
    Ok(micros(now))
}

/// As domain code takes an instant.
pub(crate) fn micros(instant: DateTime<Utc>) -> Micros {
    Micros(instant.timestamp_micros())
}

/// As PostgreSQL takes an instant; one beyond its calendar becomes the epoch.
pub(crate) fn instant(micros: Micros) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros.0).unwrap_or_default()
}

/// Reads an id that this service wrote.
pub(crate) fn id<T: std::str::FromStr>(what: &'static str, text: &str) -> Result<T, Error> {
    text.parse().map_err(|_| Error::Corrupt {
        what,
        why: format!("{text:?} is no id"),
    })
}
