//! The one-time tokens of mails. Only their SHA-256 is kept.

use sqlx::types::chrono::{DateTime, Utc};
use types::{Micros, UserId};

use super::{id, instant, micros};
use crate::Error;

/// What a token of a sign-up will make of the account.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) display_name: String,
    /// The sealed hash.
    pub(crate) password: Vec<u8>,
    /// When it was asked for.
    pub(crate) signed_up_at: Micros,
}

/// What waits for an address to be verified.
#[derive(Debug)]
pub(crate) enum Waiting {
    Nothing,
    /// One sign-up, whose mail may have been sent several times.
    One(Pending),
    /// Sign-ups by different people, for all that is known.
    Several,
}

/// Keeps a token that verifies the address, with what comes into force then. Good for 24 hours.
pub(crate) async fn keep_verification(
    tx: &mut pg::Transaction,
    user: UserId,
    sha256: [u8; 32],
    pending: &Pending,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO auth.email_token (sha256, account_id, purpose, display_name, password, signed_up_at, expires_at)
         VALUES ($1, $2, 'verify', $3, $4, $5, clock_timestamp() + interval '24 hours')",
    )
    .bind(Vec::from(sha256))
    .bind(user.to_string())
    .bind(&pending.display_name)
    .bind(&pending.password)
    .bind(instant(pending.signed_up_at))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The sign-ups that wait for an unverified account. Each has sealed its password once, so that the bytes tell them apart.
pub(crate) async fn waiting(tx: &mut pg::Transaction, user: UserId) -> Result<Waiting, Error> {
    let rows: Vec<(String, Vec<u8>, DateTime<Utc>)> = sqlx::query_as(
        "SELECT DISTINCT display_name, password, signed_up_at FROM auth.email_token
         WHERE account_id = $1 AND purpose = 'verify' AND expires_at > clock_timestamp() LIMIT 2",
    )
    .bind(user.to_string())
    .fetch_all(&mut **tx)
    .await?;
    let mut rows = rows.into_iter();
    Ok(match (rows.next(), rows.next()) {
        (None, _) => Waiting::Nothing,
        (Some((display_name, password, signed_up_at)), None) => Waiting::One(Pending {
            display_name,
            password,
            signed_up_at: micros(signed_up_at),
        }),
        (Some(_), Some(_)) => Waiting::Several,
    })
}

/// Verifies the account of a token and brings its sign-up into force; every other token of the account is void.
pub(crate) async fn verify(tx: &mut pg::Transaction, sha256: [u8; 32]) -> Result<UserId, Error> {
    let row: Option<String> = sqlx::query_scalar(
        "WITH token AS (
           DELETE FROM auth.email_token WHERE sha256 = $1 AND purpose = 'verify' AND expires_at > clock_timestamp()
           RETURNING account_id, display_name, password)
         UPDATE auth.account AS a
         SET verified_at = clock_timestamp(), password_at = clock_timestamp(), password = token.password,
             display_name = token.display_name
         FROM token WHERE a.id = token.account_id AND a.verified_at IS NULL RETURNING a.id",
    )
    .bind(Vec::from(sha256))
    .fetch_optional(&mut **tx)
    .await?;
    let user: UserId = id("account", &row.ok_or(Error::TokenInvalid)?)?;
    sqlx::query("DELETE FROM auth.email_token WHERE account_id = $1")
        .bind(user.to_string())
        .execute(&mut **tx)
        .await?;
    Ok(user)
}

/// Keeps a token that sets a new password. Good for one hour.
pub(crate) async fn keep_reset(
    tx: &mut pg::Transaction,
    user: UserId,
    sha256: [u8; 32],
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO auth.email_token (sha256, account_id, purpose, expires_at)
         VALUES ($1, $2, 'reset', clock_timestamp() + interval '1 hour')",
    )
    .bind(Vec::from(sha256))
    .bind(user.to_string())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Whose password a token may set, and that account's address. With `lock`, nobody else uses the token until the transaction ends.
pub(crate) async fn find_reset(
    tx: &mut pg::Transaction,
    sha256: [u8; 32],
    lock: bool,
) -> Result<(UserId, String), Error> {
    let statement = if lock {
        "SELECT a.id, a.email FROM auth.email_token AS t JOIN auth.account AS a ON a.id = t.account_id
         WHERE t.sha256 = $1 AND t.purpose = 'reset' AND t.expires_at > clock_timestamp() AND a.verified_at IS NOT NULL
         FOR UPDATE OF t"
    } else {
        "SELECT a.id, a.email FROM auth.email_token AS t JOIN auth.account AS a ON a.id = t.account_id
         WHERE t.sha256 = $1 AND t.purpose = 'reset' AND t.expires_at > clock_timestamp() AND a.verified_at IS NOT NULL"
    };
    let row: Option<(String, String)> = sqlx::query_as(statement)
        .bind(Vec::from(sha256))
        .fetch_optional(&mut **tx)
        .await?;
    let (user, email) = row.ok_or(Error::TokenInvalid)?;
    Ok((id("account", &user)?, email))
}
