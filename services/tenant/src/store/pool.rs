//! Agent pools, in the directory.

use pg::{OnConstraint as _, Transaction};
use types::{PoolId, TenantId};

use super::{Time, micros, part, stored, texts};
use crate::{
    domain::{
        directory::{DEFAULT_POOL, Pool},
        page::Page,
    },
    error::{Error, Noun},
};

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    name: String,
    create_time: Time,
}

impl TryFrom<Row> for Pool {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        Ok(Self {
            id: stored(&row.id, "pool id")?,
            name: row.name,
            created: micros(row.create_time),
        })
    }
}

/// How many pools the tenant has.
pub(crate) async fn count(tx: &mut Transaction, tenant: TenantId) -> Result<i64, Error> {
    let count = sqlx::query_scalar("SELECT count(*) FROM tenant.pool WHERE tenant_id = $1");
    Ok(count.bind(tenant.to_string()).fetch_one(&mut **tx).await?)
}

/// Writes a new pool.
pub(crate) async fn insert(
    tx: &mut Transaction,
    tenant: TenantId,
    id: PoolId,
    name: &str,
) -> Result<Pool, Error> {
    let row: Row = sqlx::query_as(
        "INSERT INTO tenant.pool (tenant_id, id, name) VALUES ($1, $2, $3) RETURNING id, name, create_time",
    )
    .bind(tenant.to_string())
    .bind(id.to_string())
    .bind(name)
    .fetch_one(&mut **tx)
    .await
    .on_constraint("pool_name_key", || Error::NameTaken(Noun::Pool))?;
    row.try_into()
}

/// The pool of the tenant, if it is one.
pub(crate) async fn find(tx: &mut Transaction, tenant: TenantId, id: PoolId) -> Result<Option<Pool>, Error> {
    let row: Option<Row> =
        sqlx::query_as("SELECT id, name, create_time FROM tenant.pool WHERE tenant_id = $1 AND id = $2")
            .bind(tenant.to_string())
            .bind(id.to_string())
            .fetch_optional(&mut **tx)
            .await?;
    row.map(Pool::try_from).transpose()
}

/// The pool that counts where none is named.
pub(crate) async fn default(tx: &mut Transaction, tenant: TenantId) -> Result<Option<PoolId>, Error> {
    let id: Option<String> =
        sqlx::query_scalar("SELECT id FROM tenant.pool WHERE tenant_id = $1 AND name = $2")
            .bind(tenant.to_string())
            .bind(DEFAULT_POOL)
            .fetch_optional(&mut **tx)
            .await?;
    super::stored_option(id.as_deref(), "pool id")
}

/// The tenant's pools by name, or those of them in `within`.
pub(crate) async fn list(
    tx: &mut Transaction,
    tenant: TenantId,
    within: Option<Vec<PoolId>>,
    page: &Page,
) -> Result<Vec<Pool>, Error> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT id, name, create_time FROM tenant.pool
         WHERE tenant_id = $1 AND ($2::text[] IS NULL OR id = ANY ($2)) AND ($3::text IS NULL OR name > $3)
         ORDER BY name LIMIT $4",
    )
    .bind(tenant.to_string())
    .bind(texts(within))
    .bind(part(page.after.as_ref(), 0))
    .bind(page.limit())
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter().map(Pool::try_from).collect()
}

/// Deletes a pool, the roles bound to it and the invitations into it.
pub(crate) async fn delete(tx: &mut Transaction, tenant: TenantId, id: PoolId) -> Result<(), Error> {
    sqlx::query("DELETE FROM tenant.pool WHERE tenant_id = $1 AND id = $2")
        .bind(tenant.to_string())
        .bind(id.to_string())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Whether a server or a living agent of the tenant whose registry this is belongs to the pool.
pub(crate) async fn in_use(tx: &mut Transaction, id: PoolId) -> Result<bool, Error> {
    let used = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM server WHERE pool_id = $1)
             OR EXISTS (SELECT 1 FROM agent WHERE pool_id = $1 AND state <> 'revoked')",
    );
    Ok(used.bind(id.to_string()).fetch_one(&mut **tx).await?)
}
