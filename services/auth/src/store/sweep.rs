//! Taking away what is over.

use crate::Error;

/// How many rows of one kind a batch takes.
pub(crate) const MOST: u64 = 1_000;

/// What is deleted, and when. A batch takes at most [`MOST`] rows of each kind, so that it is short; the next one goes on.
const SWEEPS: &[&str] = &[
    "DELETE FROM auth.session WHERE id IN (SELECT id FROM auth.session
     WHERE expires_at < clock_timestamp() - interval '1 day' OR revoked_at < clock_timestamp() - interval '7 days' LIMIT 1000)",
    "DELETE FROM auth.email_token WHERE sha256 IN (SELECT sha256 FROM auth.email_token
     WHERE expires_at < clock_timestamp() LIMIT 1000)",
    "DELETE FROM auth.used_grant WHERE id IN (SELECT id FROM auth.used_grant
     WHERE expires_at < clock_timestamp() - interval '5 minutes' LIMIT 1000)",
    "DELETE FROM auth.outbox WHERE id IN (SELECT id FROM auth.outbox
     WHERE done_at < clock_timestamp() - interval '1 day' LIMIT 1000)",
    "DELETE FROM auth.device WHERE sha256 IN (SELECT sha256 FROM auth.device
     WHERE used_at < clock_timestamp() - interval '180 days' LIMIT 1000)",
    "DELETE FROM auth.account WHERE id IN (SELECT id FROM auth.account AS a
     WHERE verified_at IS NULL AND created_at < clock_timestamp() - interval '1 day'
       AND NOT EXISTS (SELECT FROM auth.email_token AS t WHERE t.account_id = a.id) LIMIT 1000)",
];

/// Takes one batch of everything that is over.
pub(crate) async fn sweep(tx: &mut pg::Transaction) -> Result<u64, Error> {
    let mut deleted = 0;
    for statement in SWEEPS {
        deleted += sqlx::query(*statement).execute(&mut **tx).await?.rows_affected();
    }
    Ok(deleted)
}
