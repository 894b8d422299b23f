//! Proofs of a second factor that were used.

use pg::{OnConstraint as _, Transaction};
use sqlx::types::chrono::DateTime;
use types::Grant;

use crate::error::Error;

/// Notes in the tenant's schema that this grant has done its one action, which is that of this transaction. What has ended long ago goes on
/// the way: a grant is refused by its own expiry then.
pub(crate) async fn spend(tx: &mut Transaction, grant: &Grant) -> Result<(), Error> {
    sqlx::query("DELETE FROM used_grant WHERE expire_time < now() - interval '5 minutes'")
        .execute(&mut **tx)
        .await?;
    sqlx::query("INSERT INTO used_grant (id, expire_time) VALUES ($1, $2)")
        .bind(&grant.id)
        .bind(DateTime::from_timestamp(grant.expires, 0))
        .execute(&mut **tx)
        .await
        .on_constraint("used_grant_key", || Error::GrantUsed)?;
    Ok(())
}
