//! Accounts and the devices they were signed in from.

use sqlx::types::chrono::{DateTime, Utc};
use types::{Micros, Secret, UserId};

use super::{id, instant, micros};
use crate::{Error, domain::email::Email, seal::Sealer};

/// An account as its owner sees it.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) id: UserId,
    pub(crate) email: String,
    pub(crate) display_name: String,
    pub(crate) created_at: Micros,
}

/// What a login begins with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Candidate {
    /// The account, if it is verified.
    pub(crate) account: Option<(UserId, Secret<String>)>,
    /// Whether the device that came along signed in to this address before.
    pub(crate) known_device: bool,
}

/// How many devices of an account are remembered.
const MOST_DEVICES: i64 = 20;

/// Seals a password hash; the same bytes serve in `account` and in `email_token`, which both name the account.
pub(crate) fn seal_password(sealer: &Sealer, account: UserId, phc: &str) -> Result<Vec<u8>, Error> {
    Ok(sealer.seal("account", &account.to_string(), "password", phc.as_bytes())?)
}

fn open_password(sealer: &Sealer, account: UserId, sealed: &[u8]) -> Result<Secret<String>, Error> {
    let clear = sealer.open("account", &account.to_string(), "password", sealed)?;
    let text = str::from_utf8(clear.expose()).map_err(|error| Error::Corrupt {
        what: "password hash",
        why: error.to_string(),
    })?;
    Ok(Secret::new(text.to_owned()))
}

/// Who may be signing in, in one statement whose work does not depend on the answer's contents.
pub(crate) async fn candidate(
    tx: &mut pg::Transaction,
    sealer: &Sealer,
    email: &Email,
    device: Option<[u8; 32]>,
) -> Result<Candidate, Error> {
    let row: Option<(String, Option<Vec<u8>>, bool)> = sqlx::query_as(
        "SELECT a.id, CASE WHEN a.verified_at IS NOT NULL THEN a.password END,
                EXISTS (SELECT FROM auth.device AS d WHERE d.sha256 = $2 AND d.account_id = a.id)
         FROM auth.account AS a WHERE a.email_key = $1",
    )
    .bind(email.key())
    .bind(device.map(Vec::from))
    .fetch_optional(&mut **tx)
    .await?;
    let Some((user, password, known_device)) = row else {
        return Ok(Candidate::default());
    };
    let user: UserId = id("account", &user)?;
    let account = password.map(|sealed| open_password(sealer, user, &sealed).map(|phc| (user, phc)));
    Ok(Candidate {
        account: account.transpose()?,
        known_device,
    })
}

/// The hash of a signed-in person's password, and their address.
pub(crate) async fn password(
    tx: &mut pg::Transaction,
    sealer: &Sealer,
    user: UserId,
) -> Result<(Email, Secret<String>), Error> {
    let row: Option<(String, Vec<u8>)> =
        sqlx::query_as("SELECT email, password FROM auth.account WHERE id = $1 AND verified_at IS NOT NULL")
            .bind(user.to_string())
            .fetch_optional(&mut **tx)
            .await?;
    let (email, sealed) = row.ok_or(Error::AccountNotFound)?;
    Ok((stored_email(&email)?, open_password(sealer, user, &sealed)?))
}

/// Reads an address that was valid when it was stored.
pub(crate) fn stored_email(text: &str) -> Result<Email, Error> {
    text.parse().map_err(|_| Error::Corrupt {
        what: "account",
        why: "its address is none".to_owned(),
    })
}

/// A verified account.
pub(crate) async fn get(tx: &mut pg::Transaction, user: UserId) -> Result<Account, Error> {
    let row: Option<(String, String, DateTime<Utc>)> = sqlx::query_as(
        "SELECT email, display_name, created_at FROM auth.account WHERE id = $1 AND verified_at IS NOT NULL",
    )
    .bind(user.to_string())
    .fetch_optional(&mut **tx)
    .await?;
    let (email, display_name, created_at) = row.ok_or(Error::AccountNotFound)?;
    Ok(Account {
        id: user,
        email,
        display_name,
        created_at: micros(created_at),
    })
}

/// The account of an address, and whether it is verified; it stays as it is until the transaction ends.
pub(crate) async fn lock(tx: &mut pg::Transaction, email: &Email) -> Result<Option<(UserId, bool)>, Error> {
    let row: Option<(String, bool)> = sqlx::query_as(
        "SELECT id, verified_at IS NOT NULL FROM auth.account WHERE email_key = $1 FOR UPDATE",
    )
    .bind(email.key())
    .fetch_optional(&mut **tx)
    .await?;
    row.map(|(user, verified)| Ok((id("account", &user)?, verified)))
        .transpose()
}

/// The account of an address, made if there is none; and whether it is verified.
pub(crate) async fn lock_or_create(tx: &mut pg::Transaction, email: &Email) -> Result<(UserId, bool), Error> {
    sqlx::query("INSERT INTO auth.account (id, email, email_key) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING")
        .bind(UserId::fresh().to_string())
        .bind(email.as_str())
        .bind(email.key())
        .execute(&mut **tx)
        .await?;
    lock(tx, email)
        .await?
        .ok_or_else(|| Error::Internal("an account vanished while it was locked".to_owned()))
}

/// Sets a verified account's password to a sealed hash; false if it was set anew since `checked_at`. Tokens that would set another one are
/// void, and devices have to prove themselves anew.
pub(crate) async fn set_password(
    tx: &mut pg::Transaction,
    user: UserId,
    sealed: &[u8],
    checked_at: Option<Micros>,
) -> Result<bool, Error> {
    let updated = sqlx::query(
        "UPDATE auth.account SET password = $2, password_at = clock_timestamp()
         WHERE id = $1 AND verified_at IS NOT NULL AND ($3::timestamptz IS NULL OR password_at IS NULL OR password_at < $3)",
    )
    .bind(user.to_string())
    .bind(sealed)
    .bind(checked_at.map(instant))
    .execute(&mut **tx)
    .await?;
    for statement in [
        "DELETE FROM auth.email_token WHERE account_id = $1",
        "DELETE FROM auth.device WHERE account_id = $1",
    ] {
        sqlx::query(statement)
            .bind(user.to_string())
            .execute(&mut **tx)
            .await?;
    }
    Ok(updated.rows_affected() == 1)
}

/// Replaces the hash of an unchanged password by one of today's cost, unless the password was changed meanwhile.
pub(crate) async fn rehash(
    tx: &mut pg::Transaction,
    user: UserId,
    sealed: &[u8],
    checked_at: Micros,
) -> Result<(), Error> {
    sqlx::query(
        "UPDATE auth.account SET password = $2 WHERE id = $1 AND (password_at IS NULL OR password_at < $3)",
    )
    .bind(user.to_string())
    .bind(sealed)
    .bind(instant(checked_at))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Whether the password was not set anew since `checked_at`; the account stays as it is until the transaction ends.
pub(crate) async fn password_unchanged(
    tx: &mut pg::Transaction,
    user: UserId,
    checked_at: Micros,
) -> Result<bool, Error> {
    let row: Option<bool> = sqlx::query_scalar(
        "SELECT coalesce(password_at < $2, true) FROM auth.account WHERE id = $1 AND verified_at IS NOT NULL FOR SHARE",
    )
    .bind(user.to_string())
    .bind(instant(checked_at))
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.unwrap_or(false))
}

/// Remembers a device, and forgets those not used for longest.
pub(crate) async fn remember_device(
    tx: &mut pg::Transaction,
    user: UserId,
    sha256: [u8; 32],
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO auth.device AS d (sha256, account_id) VALUES ($1, $2)
         ON CONFLICT (sha256) DO UPDATE SET used_at = clock_timestamp() WHERE d.account_id = $2",
    )
    .bind(Vec::from(sha256))
    .bind(user.to_string())
    .execute(&mut **tx)
    .await?;
    sqlx::query(
        "DELETE FROM auth.device WHERE sha256 IN
           (SELECT sha256 FROM auth.device WHERE account_id = $1 ORDER BY used_at DESC OFFSET $2)",
    )
    .bind(user.to_string())
    .bind(MOST_DEVICES)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The address of a verified account.
pub(crate) async fn email(tx: &mut pg::Transaction, user: UserId) -> Result<String, Error> {
    Ok(get(tx, user).await?.email)
}
