//! Signed heads of audit chains, and the keys that sign.

use pg::{Connection, OnConstraint as _};
use types::TenantId;

use super::Time;
use crate::{error::Error, sign::Signed};

/// The last head of a chain.
#[derive(sqlx::FromRow)]
pub(crate) struct Head {
    pub(crate) size: i64,
    pub(crate) hash: Vec<u8>,
    pub(crate) statement: String,
    signature: String,
    signed_by: String,
}

impl Head {
    /// As it was signed.
    pub(crate) fn signed(&self) -> Signed {
        Signed {
            statement: self.statement.clone(),
            signature: self.signature.clone(),
            key_id: self.signed_by.clone(),
        }
    }
}

/// The last one. Within a transaction that signs the next, the tenant's chain is locked until its end.
pub(crate) async fn last(
    tx: &mut Connection,
    tenant: TenantId,
    to_sign: bool,
) -> Result<Option<Head>, Error> {
    if to_sign {
        // There may be no row to lock.
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('trailmesh.vault.head.' || $1, 0))")
            .bind(tenant.to_string())
            .execute(&mut *tx)
            .await?;
    }
    let found = sqlx::query_as(
        "SELECT size, hash, statement, signature, signed_by FROM audit_head WHERE tenant_id = $1",
    )
    .bind(tenant.to_string())
    .fetch_optional(&mut *tx)
    .await?;
    Ok(found)
}

/// Keeps a head that is ahead.
pub(crate) async fn put(
    tx: &mut Connection,
    tenant: TenantId,
    size: i64,
    hash: &[u8],
    signed: &Signed,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO audit_head (tenant_id, size, hash, statement, signature, signed_by) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (tenant_id) DO UPDATE SET size = excluded.size, hash = excluded.hash, statement = excluded.statement,
             signature = excluded.signature, signed_by = excluded.signed_by, time = now()",
    )
    .bind(tenant.to_string())
    .bind(size)
    .bind(hash)
    .bind(&signed.statement)
    .bind(&signed.signature)
    .bind(&signed.key_id)
    .execute(&mut *tx)
    .await
    .on_constraint("audit_head_only_ahead", || Error::HeadNotAhead)?;
    Ok(())
}

/// The public keys, newest first.
pub(crate) async fn signing_keys(tx: &mut Connection) -> Result<Vec<(String, Vec<u8>, Time)>, Error> {
    let keys =
        sqlx::query_as("SELECT id, public, create_time FROM signing_key ORDER BY create_time DESC, id DESC");
    Ok(keys.fetch_all(&mut *tx).await?)
}

/// Publishes a key.
pub(crate) async fn add_signing_key(tx: &mut Connection, id: &str, public: &[u8]) -> Result<(), Error> {
    sqlx::query("INSERT INTO signing_key (id, public) VALUES ($1, $2)")
        .bind(id)
        .bind(public)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

/// The database's clock.
pub(crate) async fn now(tx: &mut Connection) -> Result<Time, Error> {
    Ok(sqlx::query_scalar("SELECT now()").fetch_one(&mut *tx).await?)
}
