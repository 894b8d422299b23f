//! Tenants.

use pg::Transaction;
use types::{Plan, TenantId, UserId};

use super::{Time, micros, part, stored, stored_option};
use crate::{
    domain::{
        directory::{Membership, Tenant},
        page::Page,
    },
    error::{Error, Noun},
};

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    name: String,
    region: String,
    cell: String,
    plan: String,
    create_time: Time,
}

impl TryFrom<Row> for Tenant {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        Ok(Self {
            id: stored(&row.id, "tenant id")?,
            name: row.name,
            region: stored(&row.region, "region")?,
            cell: row.cell,
            plan: stored(&row.plan, "plan")?,
            created: micros(row.create_time),
        })
    }
}

#[derive(sqlx::FromRow)]
struct MembershipRow {
    #[sqlx(flatten)]
    tenant: Row,
    role: Option<String>,
    frozen: bool,
}

/// How many tenants the person owns, without those that are being deleted or have moved away. Others who count for the same person wait until this transaction ends.
pub(crate) async fn count_owned(tx: &mut Transaction, owner: UserId) -> Result<i64, Error> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('tenant.create:' || $1, 0))")
        .bind(owner.to_string())
        .execute(&mut **tx)
        .await?;
    let count = sqlx::query_scalar(
        "SELECT count(*) FROM tenant.member AS m JOIN tenant.tenant AS t ON t.id = m.tenant_id
         WHERE m.user_id = $1 AND m.role = 'owner' AND t.state IN ('active', 'suspended')",
    );
    Ok(count.bind(owner.to_string()).fetch_one(&mut **tx).await?)
}

/// Writes a new tenant. Its schema is another matter.
pub(crate) async fn insert(tx: &mut Transaction, tenant: &Tenant) -> Result<Tenant, Error> {
    let row: Row = sqlx::query_as(
        "INSERT INTO tenant.tenant (id, name, region, cell, plan, agreed_plan) VALUES ($1, $2, $3, $4, $5, $5)
         RETURNING id, name, region, cell, plan, create_time",
    )
    .bind(tenant.id.to_string())
    .bind(&tenant.name)
    .bind(tenant.region.word())
    .bind(&tenant.cell)
    .bind(tenant.plan.word())
    .fetch_one(&mut **tx)
    .await?;
    row.try_into()
}

/// One tenant.
pub(crate) async fn get(tx: &mut Transaction, tenant: TenantId) -> Result<Tenant, Error> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT id, name, region, cell, plan, create_time FROM tenant.tenant WHERE id = $1 AND state = 'active'",
    )
    .bind(tenant.to_string())
    .fetch_optional(&mut **tx)
    .await?;
    row.ok_or(Error::Missing(Noun::Tenant))?.try_into()
}

/// Whether the tenant is here and is not served at the moment, but may be again.
pub(crate) async fn rests(tx: &mut Transaction, tenant: TenantId) -> Result<bool, Error> {
    let rests =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM tenant.tenant WHERE id = $1 AND state = 'suspended')");
    Ok(rests.bind(tenant.to_string()).fetch_one(&mut **tx).await?)
}

/// Holds the tenant for this transaction: whoever else wants to change something of it waits. Tells its plan.
pub(crate) async fn lock(tx: &mut Transaction, tenant: TenantId) -> Result<Plan, Error> {
    let plan: Option<String> = sqlx::query_scalar(
        "SELECT plan FROM tenant.tenant WHERE id = $1 AND state = 'active' FOR NO KEY UPDATE",
    )
    .bind(tenant.to_string())
    .fetch_optional(&mut **tx)
    .await?;
    stored(&plan.ok_or(Error::Missing(Noun::Tenant))?, "plan")
}

/// Gives a tenant another name.
pub(crate) async fn rename(tx: &mut Transaction, tenant: TenantId, name: &str) -> Result<(), Error> {
    sqlx::query("UPDATE tenant.tenant SET name = $2 WHERE id = $1")
        .bind(tenant.to_string())
        .bind(name)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// The active tenants that the person is a member of, by id.
pub(crate) async fn of_person(
    tx: &mut Transaction,
    user: UserId,
    page: &Page,
) -> Result<Vec<Membership>, Error> {
    let rows: Vec<MembershipRow> = sqlx::query_as(
        "SELECT t.id, t.name, t.region, t.cell, t.plan, t.create_time, m.role, m.frozen_time IS NOT NULL AS frozen
         FROM tenant.member AS m JOIN tenant.tenant AS t ON t.id = m.tenant_id
         WHERE m.user_id = $1 AND t.state = 'active' AND ($2::text IS NULL OR t.id COLLATE \"C\" > $2)
         ORDER BY t.id COLLATE \"C\" LIMIT $3",
    )
    .bind(user.to_string())
    .bind(part(page.after.as_ref(), 0))
    .bind(page.limit())
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Membership {
                tenant: row.tenant.try_into()?,
                role: stored_option(row.role.as_deref(), "role")?,
                frozen: row.frozen,
            })
        })
        .collect()
}
