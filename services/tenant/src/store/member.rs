//! Members and their roles in single pools.

use std::collections::BTreeMap;

use pg::{OnConstraint as _, Transaction};
use sqlx::types::Json;
use types::{PoolId, Role, TenantId, UserId};

use super::{Time, micros, part, stored, stored_option, time};
use crate::{
    domain::{directory::Member, email::Address, member::Standing, page::Page},
    error::{Error, Noun},
};

#[derive(sqlx::FromRow)]
struct Row {
    user_id: String,
    email: String,
    display_name: String,
    role: Option<String>,
    bindings: Json<BTreeMap<String, String>>,
    create_time: Time,
    frozen: bool,
}

impl TryFrom<Row> for Member {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        Ok(Self {
            user: stored(&row.user_id, "user id")?,
            email: row.email,
            display_name: row.display_name,
            role: stored_option(row.role.as_deref(), "role")?,
            bindings: bindings(row.bindings.0)?,
            joined: micros(row.create_time),
            frozen: row.frozen,
        })
    }
}

fn bindings(pools: BTreeMap<String, String>) -> Result<BTreeMap<PoolId, Role>, Error> {
    let binding = |(pool, role): (String, String)| Ok((stored(&pool, "pool id")?, stored(&role, "role")?));
    pools.into_iter().map(binding).collect()
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT m.user_id, coalesce(p.email, '') AS email, coalesce(p.display_name, '') AS display_name, m.role, m.create_time,
                m.frozen_time IS NOT NULL AS frozen,
                coalesce((SELECT jsonb_object_agg(b.pool_id, b.role) FROM tenant.binding AS b
                          WHERE b.tenant_id = m.tenant_id AND b.user_id = m.user_id), '{}') AS bindings
             FROM tenant.member AS m LEFT JOIN auth.person AS p ON p.user_id = m.user_id
             WHERE m.tenant_id = $1 AND ",
            $rest
        )
    };
}

/// Writes a new member.
pub(crate) async fn insert(
    tx: &mut Transaction,
    tenant: TenantId,
    user: UserId,
    role: Option<Role>,
) -> Result<(), Error> {
    sqlx::query("INSERT INTO tenant.member (tenant_id, user_id, role) VALUES ($1, $2, $3)")
        .bind(tenant.to_string())
        .bind(user.to_string())
        .bind(role.map(Role::word))
        .execute(&mut **tx)
        .await
        .on_constraint("member_key", || Error::MemberExists)?;
    Ok(())
}

/// How many members the tenant has.
pub(crate) async fn count(tx: &mut Transaction, tenant: TenantId) -> Result<i64, Error> {
    let count = sqlx::query_scalar("SELECT count(*) FROM tenant.member WHERE tenant_id = $1");
    Ok(count.bind(tenant.to_string()).fetch_one(&mut **tx).await?)
}

/// How many owners the tenant has.
pub(crate) async fn owners(tx: &mut Transaction, tenant: TenantId) -> Result<u64, Error> {
    let count: i64 =
        sqlx::query_scalar("SELECT count(*) FROM tenant.member WHERE tenant_id = $1 AND role = 'owner'")
            .bind(tenant.to_string())
            .fetch_one(&mut **tx)
            .await?;
    Ok(u64::try_from(count).unwrap_or_default())
}

/// What the person is in the whole tenant; none is no member.
pub(crate) async fn standing(
    tx: &mut Transaction,
    tenant: TenantId,
    user: UserId,
) -> Result<Option<Standing>, Error> {
    let row: Option<(Option<String>,)> =
        sqlx::query_as("SELECT role FROM tenant.member WHERE tenant_id = $1 AND user_id = $2")
            .bind(tenant.to_string())
            .bind(user.to_string())
            .fetch_optional(&mut **tx)
            .await?;
    let Some((role,)) = row else { return Ok(None) };
    let role = stored_option(role.as_deref(), "role")?;
    Ok(Some(Standing { user, role }))
}

/// What the person is in the whole tenant and in single pools; none is no member, or a frozen one.
pub(crate) async fn roles(
    tx: &mut Transaction,
    tenant: TenantId,
    user: UserId,
) -> Result<Option<(Option<Role>, BTreeMap<PoolId, Role>)>, Error> {
    type Roles = (Option<String>, Json<BTreeMap<String, String>>);
    let row: Option<Roles> = sqlx::query_as(
        "SELECT m.role, coalesce((SELECT jsonb_object_agg(b.pool_id, b.role) FROM tenant.binding AS b
                                  WHERE b.tenant_id = m.tenant_id AND b.user_id = m.user_id), '{}')
         FROM tenant.member AS m WHERE m.tenant_id = $1 AND m.user_id = $2 AND m.frozen_time IS NULL",
    )
    .bind(tenant.to_string())
    .bind(user.to_string())
    .fetch_optional(&mut **tx)
    .await?;
    let Some((role, Json(pools))) = row else {
        return Ok(None);
    };
    Ok(Some((stored_option(role.as_deref(), "role")?, bindings(pools)?)))
}

/// One member.
pub(crate) async fn get(tx: &mut Transaction, tenant: TenantId, user: UserId) -> Result<Member, Error> {
    let row: Option<Row> = sqlx::query_as(select!("m.user_id = $2"))
        .bind(tenant.to_string())
        .bind(user.to_string())
        .fetch_optional(&mut **tx)
        .await?;
    row.ok_or(Error::Missing(Noun::Member))?.try_into()
}

/// The members in the order in which they joined. Keys of a page: the time in microseconds, and the id.
pub(crate) async fn list(tx: &mut Transaction, tenant: TenantId, page: &Page) -> Result<Vec<Member>, Error> {
    let since = part(page.after.as_ref(), 0).and_then(time);
    let rows: Vec<Row> = sqlx::query_as(select!(
        "($2::timestamptz IS NULL OR (m.create_time, m.user_id COLLATE \"C\") > ($2, $3))
         ORDER BY m.create_time, m.user_id COLLATE \"C\" LIMIT $4"
    ))
    .bind(tenant.to_string())
    .bind(since)
    .bind(part(page.after.as_ref(), 1))
    .bind(page.limit())
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter().map(Member::try_from).collect()
}

/// Gives a member another role in the whole tenant.
pub(crate) async fn set_role(
    tx: &mut Transaction,
    tenant: TenantId,
    user: UserId,
    role: Role,
) -> Result<(), Error> {
    sqlx::query("UPDATE tenant.member SET role = $3 WHERE tenant_id = $1 AND user_id = $2")
        .bind(tenant.to_string())
        .bind(user.to_string())
        .bind(role.word())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Ends a membership, the roles in single pools with it.
pub(crate) async fn delete(tx: &mut Transaction, tenant: TenantId, user: UserId) -> Result<(), Error> {
    sqlx::query("DELETE FROM tenant.member WHERE tenant_id = $1 AND user_id = $2")
        .bind(tenant.to_string())
        .bind(user.to_string())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Gives a member a role in one pool.
pub(crate) async fn bind(
    tx: &mut Transaction,
    tenant: TenantId,
    user: UserId,
    pool: PoolId,
    role: Role,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO tenant.binding (tenant_id, user_id, pool_id, role) VALUES ($1, $2, $3, $4)
         ON CONFLICT (tenant_id, user_id, pool_id) DO UPDATE SET role = excluded.role",
    )
    .bind(tenant.to_string())
    .bind(user.to_string())
    .bind(pool.to_string())
    .bind(role.word())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Takes a member's role in one pool away, if there is one.
pub(crate) async fn unbind(
    tx: &mut Transaction,
    tenant: TenantId,
    user: UserId,
    pool: PoolId,
) -> Result<(), Error> {
    sqlx::query("DELETE FROM tenant.binding WHERE tenant_id = $1 AND user_id = $2 AND pool_id = $3")
        .bind(tenant.to_string())
        .bind(user.to_string())
        .bind(pool.to_string())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Whether a member of the tenant has proven this address.
pub(crate) async fn has_address(
    tx: &mut Transaction,
    tenant: TenantId,
    address: &Address,
) -> Result<bool, Error> {
    let found = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM tenant.member AS m JOIN auth.person AS p ON p.user_id = m.user_id
                        WHERE m.tenant_id = $1 AND lower(p.email) = $2)",
    );
    let found = found.bind(tenant.to_string()).bind(&address.key);
    Ok(found.fetch_one(&mut **tx).await?)
}

/// The address that the person has proven.
pub(crate) async fn address(tx: &mut Transaction, user: UserId) -> Result<Option<String>, Error> {
    Ok(
        sqlx::query_scalar("SELECT email FROM auth.person WHERE user_id = $1")
            .bind(user.to_string())
            .fetch_optional(&mut **tx)
            .await?,
    )
}
