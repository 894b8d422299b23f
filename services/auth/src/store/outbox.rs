//! Mails that are to go out, and requests for mails.

use crate::Error;

/// Something to send or to decide about.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) id: i64,
    /// What the body is sealed for.
    pub(crate) seal_id: String,
    pub(crate) is_letter: bool,
    /// The sealed body.
    pub(crate) body: Vec<u8>,
    /// How often it was tried, this time included.
    pub(crate) attempts: i32,
}

/// A new entry.
#[derive(Debug)]
pub(crate) struct New {
    pub(crate) seal_id: String,
    pub(crate) is_letter: bool,
    /// SHA-256 of the address in the form in which two of them are compared.
    pub(crate) to_key: [u8; 32],
    /// What it counts against.
    pub(crate) allowance: Option<Allowance>,
    pub(crate) body: Vec<u8>,
}

/// A kind of letter that strangers can cause, and how many an address gets of it. One kind takes nothing away from another: who signs up in
/// somebody's name does not keep them from resetting their password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allowance {
    /// A link that verifies the address, or what came of asking for it again.
    Verification,
    /// The address has an account already.
    AccountExists,
    /// A link that sets a new password.
    Reset,
    /// An invitation to a tenant.
    Invitation,
}

impl Allowance {
    fn word(self) -> &'static str {
        match self {
            Self::Verification => "verification",
            Self::AccountExists => "account-exists",
            Self::Reset => "reset",
            Self::Invitation => "invitation",
        }
    }

    /// The most in an hour and in a day.
    fn most(self) -> (i64, i64) {
        match self {
            Self::Verification | Self::Reset => (5, 120),
            Self::AccountExists => (1, 1),
            Self::Invitation => (5, 20),
        }
    }
}

/// How long who took an entry has to send it, before somebody else takes it. Longer than a mail server is waited for.
const LEASE: &str = "2 minutes";

/// Adds an entry.
pub(crate) async fn put(tx: &mut pg::Transaction, new: &New) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO auth.outbox (seal_id, kind, to_key, allowance, body) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(&new.seal_id)
    .bind(if new.is_letter { "letter" } else { "request" })
    .bind(Vec::from(new.to_key))
    .bind(new.allowance.map_or("none", Allowance::word))
    .bind(&new.body)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Takes up to `most` entries that are due, invitations last; nobody else gets them for a while. They are chosen once: a subquery in the place of
/// `due` may be asked again for each row, and chooses others then.
pub(crate) async fn take(tx: &mut pg::Transaction, most: i64) -> Result<Vec<Entry>, Error> {
    let rows: Vec<(i64, String, bool, Vec<u8>, i32)> = sqlx::query_as(
        "WITH due AS MATERIALIZED (
             SELECT id FROM auth.outbox WHERE done_at IS NULL AND due_at <= clock_timestamp()
             ORDER BY allowance = 'invitation', due_at LIMIT $1 FOR UPDATE SKIP LOCKED
         )
         UPDATE auth.outbox AS o SET due_at = clock_timestamp() + $2::interval, attempts = attempts + 1
         FROM due WHERE o.id = due.id
         RETURNING o.id, o.seal_id, o.kind = 'letter', o.body, o.attempts",
    )
    .bind(most)
    .bind(LEASE)
    .fetch_all(&mut **tx)
    .await?;
    let entry = |(id, seal_id, is_letter, body, attempts)| Entry {
        id,
        seal_id,
        is_letter,
        body,
        attempts,
    };
    Ok(rows.into_iter().map(entry).collect())
}

/// Marks an entry as done and wipes its body.
pub(crate) async fn finish(tx: &mut pg::Transaction, id: i64) -> Result<(), Error> {
    sqlx::query("UPDATE auth.outbox SET done_at = clock_timestamp(), body = NULL WHERE id = $1")
        .bind(id)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Puts an entry back for so many seconds; false if it is a day old and was given up instead.
pub(crate) async fn postpone(tx: &mut pg::Transaction, id: i64, seconds: f64) -> Result<bool, Error> {
    let given_up: Option<bool> = sqlx::query_scalar(
        "UPDATE auth.outbox
         SET due_at = clock_timestamp() + make_interval(secs => $2),
             done_at = CASE WHEN created_at < clock_timestamp() - interval '1 day' THEN clock_timestamp() END,
             body = CASE WHEN created_at < clock_timestamp() - interval '1 day' THEN NULL ELSE body END
         WHERE id = $1 RETURNING done_at IS NOT NULL",
    )
    .bind(id)
    .bind(seconds)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(!given_up.unwrap_or(true))
}

/// Whether an address gets one more letter of a kind. Who asks for the same address waits until the transaction ends, so that letters that are
/// asked for together count too.
pub(crate) async fn allows(
    tx: &mut pg::Transaction,
    to_key: [u8; 32],
    allowance: Allowance,
) -> Result<bool, Error> {
    let to_key = Vec::from(to_key);
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended(encode($1, 'hex'), 0))")
        .bind(&to_key)
        .execute(&mut **tx)
        .await?;
    let (hour, day): (i64, i64) = sqlx::query_as(
        "SELECT count(*) FILTER (WHERE created_at > clock_timestamp() - interval '1 hour'), count(*) FROM auth.outbox
         WHERE to_key = $1 AND allowance = $2 AND kind = 'letter' AND created_at > clock_timestamp() - interval '1 day'",
    )
    .bind(&to_key)
    .bind(allowance.word())
    .fetch_one(&mut **tx)
    .await?;
    let (most_hour, most_day) = allowance.most();
    Ok(hour < most_hour && day < most_day)
}
