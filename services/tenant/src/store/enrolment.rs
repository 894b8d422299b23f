//! Where enrolment tokens lead, in the directory: for the vault, which has nothing but the token.

use pg::Transaction;
use types::{AgentId, TenantId};

use crate::{domain::token::Token, error::Error};

/// From now on `token`, and no other, leads to the agent, for 24 hours.
pub(crate) async fn put(
    tx: &mut Transaction,
    tenant: TenantId,
    agent: AgentId,
    token: &Token,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO enrolment (agent_id, tenant_id, sha256, expire_time) VALUES ($1, $2, $3, now() + interval '24 hours')
         ON CONFLICT (agent_id) DO UPDATE SET sha256 = excluded.sha256, expire_time = excluded.expire_time",
    )
    .bind(agent.to_string())
    .bind(tenant.to_string())
    .bind(token.sha256())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// No token leads to the agent any more.
pub(crate) async fn remove(tx: &mut Transaction, agent: AgentId) -> Result<(), Error> {
    sqlx::query("DELETE FROM enrolment WHERE agent_id = $1")
        .bind(agent.to_string())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Forgets what has led nowhere for a day.
pub(crate) async fn sweep(tx: &mut Transaction) -> Result<u64, Error> {
    let done = sqlx::query("DELETE FROM enrolment WHERE expire_time < now() - interval '1 day'");
    Ok(done.execute(&mut **tx).await?.rows_affected())
}
