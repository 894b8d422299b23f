//! Proofs of a second factor, each good for one action.

use types::{Grant, Micros};

use super::instant;
use crate::Error;

/// Uses a grant up, in the transaction of the action it is for.
pub(crate) async fn spend(tx: &mut pg::Transaction, grant: &Grant) -> Result<(), Error> {
    let inserted =
        sqlx::query("INSERT INTO auth.used_grant (id, expires_at) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(&grant.id)
            .bind(instant(Micros::from_secs(grant.expires)))
            .execute(&mut **tx)
            .await?;
    if inserted.rows_affected() == 0 {
        return Err(Error::GrantUsed);
    }
    Ok(())
}
