//! A tenant's key ring: its lock, and the proof of its end.

use pg::Connection;
use types::TenantId;

use crate::{error::Error, sign::Signed};

/// Locks the ring until the transaction ends, making it where there is none, and gives the proof if its keys were destroyed.
pub(crate) async fn lock(tx: &mut Connection, tenant: TenantId) -> Result<Option<Signed>, Error> {
    sqlx::query("INSERT INTO key_ring (tenant_id) VALUES ($1) ON CONFLICT DO NOTHING")
        .bind(tenant.to_string())
        .execute(&mut *tx)
        .await?;
    let (statement, signature, key_id): (Option<String>, Option<String>, Option<String>) = sqlx::query_as(
        "SELECT statement, signature, signed_by FROM key_ring WHERE tenant_id = $1 FOR NO KEY UPDATE",
    )
    .bind(tenant.to_string())
    .fetch_one(&mut *tx)
    .await?;
    Ok(match (statement, signature, key_id) {
        (Some(statement), Some(signature), Some(key_id)) => Some(Signed {
            statement,
            signature,
            key_id,
        }),
        _ => None,
    })
}

/// As [`lock`], for what needs keys that are there.
pub(crate) async fn lock_alive(tx: &mut Connection, tenant: TenantId) -> Result<(), Error> {
    match lock(tx, tenant).await? {
        None => Ok(()),
        Some(_) => Err(Error::KeysDestroyed),
    }
}

/// Keeps the proof that the keys are destroyed.
pub(crate) async fn close(tx: &mut Connection, tenant: TenantId, proof: &Signed) -> Result<(), Error> {
    sqlx::query(
        "UPDATE key_ring SET destroy_time = now(), statement = $2, signature = $3, signed_by = $4 WHERE tenant_id = $1",
    )
    .bind(tenant.to_string())
    .bind(&proof.statement)
    .bind(&proof.signature)
    .bind(&proof.key_id)
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// Whether this transaction may seal the tenant's values anew: one at a time does.
pub(crate) async fn try_work(tx: &mut Connection, tenant: TenantId) -> Result<bool, Error> {
    let mine = sqlx::query_scalar(
        "SELECT pg_try_advisory_xact_lock(hashtextextended('trailmesh.vault.rewrap.' || $1, 0))",
    );
    Ok(mine.bind(tenant.to_string()).fetch_one(&mut *tx).await?)
}
