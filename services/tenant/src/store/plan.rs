//! What a tenant's plan has room for. The rule is one: of each kind the oldest as many as the plan has room for do their work, the rest is
//! frozen; owners are never. It is put into force by writing what follows from it, whatever was before.

use pg::Transaction;
use types::{Plan, TenantId, UserId};

use super::stored;
use crate::{
    domain::plan::{Count, Use},
    error::{Error, Noun},
};

/// Gives the tenant, which this transaction holds, another plan, and tells the one it had. The transaction ends in the directory.
pub(crate) async fn set(tx: &mut Transaction, tenant: TenantId, plan: Plan) -> Result<Plan, Error> {
    tx.enter_shared().await?;
    let before: Option<String> = sqlx::query_scalar(
        "UPDATE tenant.tenant AS t SET plan = $2 FROM (SELECT id, plan FROM tenant.tenant WHERE id = $1) AS b
         WHERE t.id = b.id RETURNING b.plan",
    )
    .bind(tenant.to_string())
    .bind(plan.word())
    .fetch_optional(&mut **tx)
    .await?;
    let before = stored(&before.ok_or(Error::Missing(Noun::Tenant))?, "plan")?;
    settle_members(tx, tenant, plan).await?;
    tx.enter_tenant().await?;
    settle_servers(tx, plan).await?;
    settle_agents(tx, plan).await?;
    tx.enter_shared().await?;
    Ok(before)
}

/// Freezes the newest members beyond the plan's limit, and thaws those that it has room for; in the directory.
pub(crate) async fn settle_members(tx: &mut Transaction, tenant: TenantId, plan: Plan) -> Result<(), Error> {
    sqlx::query(
        "UPDATE tenant.member AS m SET frozen_time = CASE WHEN r.frozen THEN now() END
         FROM (
             SELECT user_id, role IS DISTINCT FROM 'owner'
                 AND row_number() OVER (ORDER BY role IS DISTINCT FROM 'owner', create_time, user_id COLLATE \"C\") > $2 AS frozen
             FROM tenant.member WHERE tenant_id = $1
         ) AS r
         WHERE m.tenant_id = $1 AND m.user_id = r.user_id AND (m.frozen_time IS NOT NULL) <> r.frozen",
    )
    .bind(tenant.to_string())
    .bind(i64::from(plan.limits().members))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The same for servers; in the registry.
pub(crate) async fn settle_servers(tx: &mut Transaction, plan: Plan) -> Result<(), Error> {
    sqlx::query(
        "UPDATE server AS s SET frozen_time = CASE WHEN r.frozen THEN now() END
         FROM (SELECT id, row_number() OVER (ORDER BY create_time, id COLLATE \"C\") > $1 AS frozen FROM server) AS r
         WHERE s.id = r.id AND (s.frozen_time IS NOT NULL) <> r.frozen",
    )
    .bind(i64::from(plan.limits().servers))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The same for agents, of which those that are revoked do not count; in the registry.
pub(crate) async fn settle_agents(tx: &mut Transaction, plan: Plan) -> Result<(), Error> {
    sqlx::query(
        "UPDATE agent AS a SET frozen_time = CASE WHEN r.frozen THEN now() END
         FROM (
             SELECT id, state <> 'revoked'
                 AND row_number() OVER (ORDER BY state = 'revoked', create_time, id COLLATE \"C\") > $1 AS frozen
             FROM agent
         ) AS r
         WHERE a.id = r.id AND (a.frozen_time IS NOT NULL) <> r.frozen",
    )
    .bind(i64::from(plan.limits().agents))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Whether the member is one that the plan has no room for; in the directory.
pub(crate) async fn is_frozen(tx: &mut Transaction, tenant: TenantId, user: UserId) -> Result<bool, Error> {
    let frozen: Option<bool> = sqlx::query_scalar(
        "SELECT frozen_time IS NOT NULL FROM tenant.member WHERE tenant_id = $1 AND user_id = $2",
    )
    .bind(tenant.to_string())
    .bind(user.to_string())
    .fetch_optional(&mut **tx)
    .await?;
    Ok(frozen.unwrap_or_default())
}

/// Writes down the operator's word.
pub(crate) async fn agree(tx: &mut Transaction, tenant: TenantId, plan: Plan) -> Result<(), Error> {
    sqlx::query("UPDATE tenant.tenant SET agreed_plan = $2 WHERE id = $1")
        .bind(tenant.to_string())
        .bind(plan.word())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// The operator's word.
pub(crate) async fn agreed(tx: &mut Transaction, tenant: TenantId) -> Result<Plan, Error> {
    let plan: Option<String> = sqlx::query_scalar("SELECT agreed_plan FROM tenant.tenant WHERE id = $1")
        .bind(tenant.to_string())
        .fetch_optional(&mut **tx)
        .await?;
    stored(&plan.ok_or(Error::Missing(Noun::Tenant))?, "plan")
}

/// How much of the plan the tenant uses. The transaction begins and ends in the directory.
pub(crate) async fn used(tx: &mut Transaction, tenant: TenantId, plan: Plan) -> Result<Use, Error> {
    let members: (i64, i64) = sqlx::query_as(
        "SELECT count(*) + (SELECT count(*) FROM tenant.invitation WHERE tenant_id = $1 AND expire_time > now()), count(frozen_time)
         FROM tenant.member WHERE tenant_id = $1",
    )
    .bind(tenant.to_string())
    .fetch_one(&mut **tx)
    .await?;
    let keys: Option<i64> = sqlx::query_scalar("SELECT live FROM auth.api_key_count WHERE tenant_id = $1")
        .bind(tenant.to_string())
        .fetch_optional(&mut **tx)
        .await?;
    let keys = keys.unwrap_or_default();
    tx.enter_tenant().await?;
    let servers: (i64, i64) = sqlx::query_as("SELECT count(*), count(frozen_time) FROM server")
        .fetch_one(&mut **tx)
        .await?;
    let agents: (i64, i64) =
        sqlx::query_as("SELECT count(*), count(frozen_time) FROM agent WHERE state <> 'revoked'")
            .fetch_one(&mut **tx)
            .await?;
    let sinks: i64 = sqlx::query_scalar("SELECT count(*) FROM audit_sink")
        .fetch_one(&mut **tx)
        .await?;
    // The vault's table, which has a row for each upload.
    let uploads: i64 = sqlx::query_scalar("SELECT count(*) FROM upload_key")
        .fetch_one(&mut **tx)
        .await?;
    tx.enter_shared().await?;
    let count = |(used, frozen)| Count { used, frozen };
    let limits = plan.limits();
    // Whose are beyond the plan is found out where they are asked for: nothing of them says that they are frozen.
    let beyond = |used: i64, most: u32| (used, (used - i64::from(most)).max(0));
    Ok(Use {
        servers: count(servers),
        members: count(members),
        api_keys: count(beyond(keys, limits.api_keys)),
        agents: count(agents),
        audit_sinks: count((sinks, 0)),
        uploads: count(beyond(uploads, limits.uploads)),
    })
}
