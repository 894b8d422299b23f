//! How a tenant's schema begins and ends. All of it happens on the service's own side, in the caller's transaction.

use types::TenantId;

use crate::{Error, Transaction, entrance::Side};

/// Makes the schema of a new tenant, at the newest version.
///
/// # Errors
/// When the tenant has one already, or the database does not answer.
pub async fn create_tenant_schema(transaction: &mut Transaction, tenant: TenantId) -> Result<(), Error> {
    sqlx::query("SELECT trailmesh.create_tenant_schema($1)")
        .bind(Side::Tenant(tenant).to_string())
        .execute(&mut **transaction)
        .await?;
    transaction.knows(tenant);
    Ok(())
}

/// Makes a schema ahead, for whoever comes next, unless there are `most` of them; tells whether it did. Migrations keep it up to date.
///
/// # Errors
/// When the database does not answer.
pub async fn prepare_tenant_schema(
    transaction: &mut Transaction,
    tenant: TenantId,
    most: u32,
) -> Result<bool, Error> {
    let made = sqlx::query_scalar("SELECT trailmesh.prepare_tenant_schema($1, $2)")
        .bind(Side::Tenant(tenant).to_string())
        .bind(i32::try_from(most).unwrap_or(i32::MAX))
        .fetch_one(&mut **transaction)
        .await?;
    transaction.knows(tenant);
    Ok(made)
}

/// Takes a schema that was made ahead, and so the id of its tenant; none, when there is none that nobody else is taking.
///
/// # Errors
/// When the database does not answer.
pub async fn take_prepared_schema(transaction: &mut Transaction) -> Result<Option<TenantId>, Error> {
    let name: Option<String> = sqlx::query_scalar("SELECT trailmesh.take_prepared_schema()")
        .fetch_one(&mut **transaction)
        .await?;
    Ok(name.and_then(|name| format!("tnt_{}", name.strip_prefix("t_")?).parse().ok()))
}

/// Closes a tenant's schema: from the commit on no service enters it, and who tries is told [`Error::NoSuchTenant`]. Transactions that
/// were in it then go on to their end.
///
/// # Errors
/// When the tenant has no schema, or the database does not answer.
pub async fn close_tenant_schema(transaction: &mut Transaction, tenant: TenantId) -> Result<(), Error> {
    sqlx::query("SELECT trailmesh.close_tenant_schema($1)")
        .bind(Side::Tenant(tenant).to_string())
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

/// Drops the closed schema of a tenant, with all that is in it, its role, and its lines in the ledger; tells whether there was one.
/// The function `tenant.schema_may_go(text)`, which is the service's, has the last word.
///
/// # Errors
/// When the schema is not closed or may not go, or the database does not answer.
pub async fn drop_tenant_schema(transaction: &mut Transaction, tenant: TenantId) -> Result<bool, Error> {
    let dropped = sqlx::query_scalar("SELECT trailmesh.drop_tenant_schema($1)")
        .bind(Side::Tenant(tenant).to_string())
        .fetch_one(&mut **transaction)
        .await?;
    Ok(dropped)
}
