//! Tenants that are gone, or going.

use pg::Transaction;
use types::{TenantId, UserId};

use super::{Time, micros, stored};
use crate::{
    domain::deletion::{Certificate, Deletion},
    error::{Error, Noun},
};

#[derive(sqlx::FromRow)]
struct Row {
    tenant_id: String,
    request_time: Time,
    certificate: Option<String>,
    signature: Option<String>,
    key_id: Option<String>,
    end_time: Option<Time>,
}

impl TryFrom<Row> for Deletion {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let certificate = match (row.certificate, row.signature, row.key_id) {
            (Some(statement), Some(signature), Some(key_id)) => Some(Certificate {
                statement,
                signature,
                key_id,
            }),
            _ => None,
        };
        Ok(Self {
            tenant: stored(&row.tenant_id, "tenant id")?,
            requested: micros(row.request_time),
            certificate,
            ended: row.end_time.map(micros),
        })
    }
}

/// Begins the end of a tenant that this transaction has locked: from the commit on nobody has a seat in it, and no service enters its schema.
pub(crate) async fn begin(tx: &mut Transaction, tenant: TenantId, by: UserId) -> Result<(), Error> {
    // Whoever asked has this much time to see it through; then the task goes on with it.
    sqlx::query(
        "WITH ended AS (UPDATE tenant.tenant SET state = 'deleting' WHERE id = $1)
         INSERT INTO tenant.deletion (tenant_id, requested_by, due_time) VALUES ($1, $2, now() + interval '15 seconds')",
    )
    .bind(tenant.to_string())
    .bind(by.to_string())
    .execute(&mut **tx)
    .await?;
    sqlx::query("DELETE FROM tenant.invitation WHERE tenant_id = $1")
        .bind(tenant.to_string())
        .execute(&mut **tx)
        .await?;
    pg::close_tenant_schema(tx, tenant).await?;
    Ok(())
}

/// A deletion; where a person is given, only one that they have asked for.
pub(crate) async fn find(
    tx: &mut Transaction,
    tenant: TenantId,
    by: Option<UserId>,
) -> Result<Option<Deletion>, Error> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT tenant_id, request_time, certificate, signature, key_id, end_time FROM tenant.deletion
         WHERE tenant_id = $1 AND ($2::text IS NULL OR requested_by = $2)",
    )
    .bind(tenant.to_string())
    .bind(by.map(|user| user.to_string()))
    .fetch_optional(&mut **tx)
    .await?;
    row.map(Deletion::try_from).transpose()
}

/// As [`find`]; one that is not there is missing.
pub(crate) async fn get(
    tx: &mut Transaction,
    tenant: TenantId,
    by: Option<UserId>,
) -> Result<Deletion, Error> {
    find(tx, tenant, by).await?.ok_or(Error::Missing(Noun::Deletion))
}

/// Keeps what the vault has signed, unless there is a word of it already.
pub(crate) async fn certify(
    tx: &mut Transaction,
    tenant: TenantId,
    certificate: &Certificate,
) -> Result<(), Error> {
    sqlx::query(
        "UPDATE tenant.deletion SET certificate = $2, signature = $3, key_id = $4 WHERE tenant_id = $1 AND certificate IS NULL",
    )
    .bind(tenant.to_string())
    .bind(&certificate.statement)
    .bind(&certificate.signature)
    .bind(&certificate.key_id)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Forgets every row of a tenant whose keys and schema are gone, here and in other services' schemas, and notes that nothing is left.
pub(crate) async fn finish(tx: &mut Transaction, tenant: TenantId) -> Result<(), Error> {
    sqlx::query("SELECT tenant.forget_tenant($1)")
        .bind(tenant.to_string())
        .execute(&mut **tx)
        .await?;
    sqlx::query("UPDATE tenant.deletion SET end_time = now() WHERE tenant_id = $1 AND end_time IS NULL")
        .bind(tenant.to_string())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Takes the deletion that has waited longest for somebody to go on with it; others leave it alone for a while, longer each time.
pub(crate) async fn take_due(tx: &mut Transaction) -> Result<Option<TenantId>, Error> {
    let id: Option<String> = sqlx::query_scalar(
        "UPDATE tenant.deletion SET attempts = attempts + 1, due_time = now() + interval '10 seconds' * 2 ^ least(attempts, 5)
         WHERE tenant_id = (
             SELECT tenant_id FROM tenant.deletion WHERE end_time IS NULL AND due_time <= now()
             ORDER BY due_time LIMIT 1 FOR UPDATE SKIP LOCKED
         )
         RETURNING tenant_id",
    )
    .fetch_optional(&mut **tx)
    .await?;
    id.map(|id| stored(&id, "tenant id")).transpose()
}

/// Forgets deletions that ended 400 days ago.
pub(crate) async fn sweep(tx: &mut Transaction) -> Result<u64, Error> {
    let swept = sqlx::query("DELETE FROM tenant.deletion WHERE end_time < now() - interval '400 days'")
        .execute(&mut **tx)
        .await?;
    Ok(swept.rows_affected())
}
