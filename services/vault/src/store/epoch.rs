//! The number that grows with every change of keys, and whose keys are to be forgotten because of it.

use pg::Connection;

use crate::error::Error;

/// All tenants.
pub(crate) const ALL: &str = "*";

/// Tells every replica to forget what it has of `who` (a tenant's id, or [`ALL`]) once this transaction is committed. The row stays locked until
/// then, so numbers become visible in order.
pub(crate) async fn bump(tx: &mut Connection, who: &str) -> Result<(), Error> {
    let told = sqlx::query(
        "WITH next AS (UPDATE epoch SET number = number + 1 RETURNING number)
         INSERT INTO purge (tenant_id, number) SELECT $1, number FROM next
         ON CONFLICT (tenant_id) DO UPDATE SET number = excluded.number",
    )
    .bind(who)
    .execute(&mut *tx)
    .await?;
    // Whoever changes keys must be heard.
    if told.rows_affected() == 1 {
        Ok(())
    } else {
        Err(Error::Stored("epoch"))
    }
}

/// The number now, and who has changed since `seen`.
pub(crate) async fn since(tx: &mut Connection, seen: i64) -> Result<(i64, Vec<String>), Error> {
    let (now, who): (i64, Vec<String>) = sqlx::query_as(
        "SELECT coalesce(max(e.number), 0),
                coalesce(array_agg(p.tenant_id) FILTER (WHERE p.tenant_id IS NOT NULL), '{}')
         FROM epoch AS e LEFT JOIN purge AS p ON p.number > $1",
    )
    .bind(seen)
    .fetch_one(&mut *tx)
    .await?;
    Ok((now, who))
}
