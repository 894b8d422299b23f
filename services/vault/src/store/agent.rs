//! Agents: their authorities and certificates on the shared side, they themselves and what they open in their tenant's schema.

use std::collections::BTreeSet;

use audit::Event;
use pg::Connection;
use sqlx::types::Json;
use types::{AgentId, ServerId, TenantId};

use super::{Time, seconds, stored};
use crate::{
    agents::authority::{Fresh, Issued},
    domain::place::Kind,
    error::Error,
};

/// Held by whoever changes authorities.
const LOCK: i64 = 0x7472_6d5f_6167_656e;

fn time(time: time::OffsetDateTime) -> Result<Time, Error> {
    Time::from_timestamp(time.unix_timestamp(), time.nanosecond()).ok_or(Error::Stored("time"))
}

/// An authority as it is trusted.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Authority {
    pub(crate) id: String,
    pub(crate) certificate: Vec<u8>,
    /// `next`, `active` or `retired`.
    pub(crate) state: String,
    /// It is `next`, and it is time.
    pub(crate) due: bool,
    /// It is active for longer than it should be.
    pub(crate) old: bool,
}

/// All authorities that are trusted, oldest first.
pub(crate) async fn authorities(
    tx: &mut Connection,
    rotate_after: std::time::Duration,
) -> Result<Vec<Authority>, Error> {
    let rows = sqlx::query_as(
        "SELECT id, certificate, state, state = 'next' AND activate_time <= now() AS due,
             state = 'active' AND activate_time < now() - make_interval(secs => $1) AS old
         FROM agent_authority ORDER BY create_time, id",
    );
    Ok(rows.bind(seconds(rotate_after)).fetch_all(&mut *tx).await?)
}

/// Only one transaction at a time goes on from here.
pub(crate) async fn lock_authorities(tx: &mut Connection) -> Result<(), Error> {
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(LOCK)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

/// Keeps a new authority: active if it is the first, else next, and to be active after `settle`. False if there is a next one already.
pub(crate) async fn add_authority(
    tx: &mut Connection,
    fresh: &Fresh,
    settle: std::time::Duration,
) -> Result<bool, Error> {
    let done = sqlx::query(
        "INSERT INTO agent_authority (id, certificate, state, activate_time, expire_time)
         SELECT $1, $2, CASE WHEN first THEN 'active' ELSE 'next' END,
             now() + CASE WHEN first THEN interval '0' ELSE make_interval(secs => $4) END, $3
         FROM (SELECT NOT EXISTS (SELECT FROM agent_authority WHERE state = 'active') AS first) AS f
         WHERE NOT EXISTS (SELECT FROM agent_authority WHERE state = 'next')",
    )
    .bind(&fresh.id)
    .bind(&fresh.certificate)
    .bind(time(fresh.ends)?)
    .bind(seconds(settle))
    .execute(&mut *tx)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// The next authority issues from now on, if it is time; the one of before is trusted only, and its private key is gone.
pub(crate) async fn promote(tx: &mut Connection) -> Result<bool, Error> {
    let due: Option<String> = sqlx::query_scalar(
        "SELECT id FROM agent_authority WHERE state = 'next' AND activate_time <= now() FOR UPDATE",
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(next) = due else { return Ok(false) };
    let retired: Vec<String> = sqlx::query_scalar(
        "UPDATE agent_authority SET state = 'retired' WHERE state = 'active' RETURNING id",
    )
    .fetch_all(&mut *tx)
    .await?;
    sqlx::query("UPDATE agent_authority SET state = 'active' WHERE id = $1")
        .bind(next)
        .execute(&mut *tx)
        .await?;
    sqlx::query("DELETE FROM own_secret WHERE purpose = $1 AND id = ANY ($2)")
        .bind(crate::agents::PURPOSE)
        .bind(retired)
        .execute(&mut *tx)
        .await?;
    Ok(true)
}

/// Forgets certificates that ended a month ago, and retired authorities whose last certificate has ended.
pub(crate) async fn sweep(tx: &mut Connection) -> Result<u64, Error> {
    let certificates = sqlx::query(
        "DELETE FROM agent_certificate AS c USING agent_authority AS a
         WHERE a.id = c.authority_id AND c.expire_time < now() - interval '30 days'",
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "WITH over AS (
             SELECT a.id FROM agent_authority AS a
             WHERE a.state = 'retired'
                 AND NOT EXISTS (SELECT FROM agent_certificate AS c WHERE c.authority_id = a.id AND c.expire_time > now())
         )
         DELETE FROM agent_certificate AS c USING over WHERE c.authority_id = over.id",
    )
    .execute(&mut *tx)
    .await?;
    let authorities = sqlx::query(
        "DELETE FROM agent_authority AS a
         WHERE a.state = 'retired' AND NOT EXISTS (SELECT FROM agent_certificate AS c WHERE c.authority_id = a.id)",
    )
    .execute(&mut *tx)
    .await?;
    Ok(certificates.rows_affected() + authorities.rows_affected())
}

/// Whom a token leads to, in a tenant that is served.
pub(crate) async fn led_to(tx: &mut Connection, sha256: &[u8]) -> Result<Option<(TenantId, AgentId)>, Error> {
    let row: Option<(String, String)> = sqlx::query_as(
        "SELECT e.tenant_id, e.agent_id FROM tenant.enrolment AS e
         INNER JOIN tenant.standing AS s ON s.tenant_id = e.tenant_id
         WHERE e.sha256 = $1 AND s.state = 'active'",
    )
    .bind(sha256)
    .fetch_optional(&mut *tx)
    .await?;
    row.map(|(tenant, agent)| Ok((stored(&tenant, "tenant id")?, stored(&agent, "agent id")?)))
        .transpose()
}

/// In the tenant's schema: spends the token. False if it enrols nobody any more. Of all who try at once one succeeds.
pub(crate) async fn enrol(tx: &mut Connection, agent: AgentId, sha256: &[u8]) -> Result<bool, Error> {
    let done = sqlx::query(
        "UPDATE agent SET state = 'enrolled', enrolment_sha256 = NULL, enrolment_expire_time = NULL
         WHERE id = $1 AND enrolment_sha256 = $2 AND state = 'pending' AND enrolment_expire_time > now() AND frozen_time IS NULL",
    )
    .bind(agent.to_string())
    .bind(sha256)
    .execute(&mut *tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// On the shared side: only one transaction of this agent's at a time goes on from here.
pub(crate) async fn lock(tx: &mut Connection, agent: AgentId) -> Result<(), Error> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('trailmesh.vault.' || $1, 0))")
        .bind(agent.to_string())
        .execute(&mut *tx)
        .await?;
    Ok(())
}

/// On the shared side: what was issued to whom.
pub(crate) async fn add_certificate(
    tx: &mut Connection,
    (tenant, agent): (TenantId, AgentId),
    authority: &str,
    issued: &Issued,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO agent_certificate (serial, tenant_id, agent_id, authority_id, expire_time) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(&issued.serial)
    .bind(tenant.to_string())
    .bind(agent.to_string())
    .bind(authority)
    .bind(time(issued.ends)?)
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// On the shared side: what was issued to the agent before is void.
pub(crate) async fn void_certificates(
    tx: &mut Connection,
    (tenant, agent): (TenantId, AgentId),
) -> Result<(), Error> {
    sqlx::query(
        "UPDATE agent_certificate SET revoke_time = now() WHERE tenant_id = $1 AND agent_id = $2 AND revoke_time IS NULL",
    )
    .bind(tenant.to_string())
    .bind(agent.to_string())
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// What is known of a certificate that an agent shows.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct Shown {
    /// It was revoked, or has ended.
    pub(crate) over: bool,
    /// Its tenant is served.
    pub(crate) active: bool,
    /// Seconds until it may be renewed; negative afterwards.
    pub(crate) early: f64,
}

/// On the shared side: the certificate with this serial number, if it was issued to this agent. A new one may be had from half of its life on,
/// and a minute after the last.
pub(crate) async fn shown(
    tx: &mut Connection,
    (tenant, agent): (TenantId, AgentId),
    serial: &str,
) -> Result<Option<Shown>, Error> {
    let row = sqlx::query_as(
        "SELECT c.revoke_time IS NOT NULL OR c.expire_time <= now() AS over, coalesce(s.state = 'active', false) AS active,
             extract(epoch FROM greatest(
                 c.issue_time + (c.expire_time - c.issue_time) / 2,
                 (SELECT max(l.issue_time) FROM agent_certificate AS l
                  WHERE l.tenant_id = c.tenant_id AND l.agent_id = c.agent_id) + interval '1 minute'
             ) - now())::float8 AS early
         FROM agent_certificate AS c LEFT JOIN tenant.standing AS s ON s.tenant_id = c.tenant_id
         WHERE c.serial = $1 AND c.tenant_id = $2 AND c.agent_id = $3",
    )
    .bind(serial)
    .bind(tenant.to_string())
    .bind(agent.to_string());
    Ok(row.fetch_optional(&mut *tx).await?)
}

/// From now on the certificate is nobody's. False if there is none of this serial number.
pub(crate) async fn revoke_certificate(tx: &mut Connection, serial: &str) -> Result<bool, Error> {
    let done = sqlx::query(
        "UPDATE agent_certificate SET revoke_time = coalesce(revoke_time, now()) WHERE serial = $1",
    );
    Ok(done.bind(serial).execute(&mut *tx).await?.rows_affected() > 0)
}

/// An agent in its tenant's schema, and the server that it asks for, if that is of its pool.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct Standing {
    pub(crate) enrolled: bool,
    pub(crate) frozen: bool,
    pub(crate) server: bool,
    pub(crate) server_frozen: bool,
}

/// Both, in the tenant's schema.
pub(crate) async fn standing(
    tx: &mut Connection,
    agent: AgentId,
    server: Option<ServerId>,
) -> Result<Option<Standing>, Error> {
    let row = sqlx::query_as(
        "SELECT a.state = 'enrolled' AS enrolled, a.frozen_time IS NOT NULL AS frozen, s.id IS NOT NULL AS server,
             s.frozen_time IS NOT NULL AS server_frozen
         FROM agent AS a LEFT JOIN server AS s ON s.id = $2 AND s.pool_id = a.pool_id
         WHERE a.id = $1",
    );
    let row = row.bind(agent.to_string()).bind(server.map(|id| id.to_string()));
    Ok(row.fetch_optional(&mut *tx).await?)
}

/// In the tenant's schema: whether the agent is enrolled, which it stays until the end of the transaction.
pub(crate) async fn hold(tx: &mut Connection, agent: AgentId) -> Result<bool, Error> {
    let state: Option<String> = sqlx::query_scalar("SELECT state FROM agent WHERE id = $1 FOR SHARE")
        .bind(agent.to_string())
        .fetch_optional(&mut *tx)
        .await?;
    Ok(state.as_deref() == Some("enrolled"))
}

/// A server of an agent's pool.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct Assigned {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) host: String,
    pub(crate) port: i32,
    pub(crate) username: String,
    pub(crate) tls_mode: String,
    /// Its credentials, by kind, each with its version.
    pub(crate) credentials: String,
}

/// In the tenant's schema: the servers of the agent's pool that the plan has room for, by id.
pub(crate) async fn assigned(tx: &mut Connection, agent: AgentId) -> Result<Vec<Assigned>, Error> {
    let rows = sqlx::query_as(
        "SELECT s.id, s.name, s.host, s.port, s.username, s.tls_mode, coalesce(
             (SELECT string_agg(c.kind || ':' || c.version, ',' ORDER BY c.kind COLLATE \"C\") FROM credential AS c WHERE c.server_id = s.id),
             ''
         ) AS credentials
         FROM agent AS a INNER JOIN server AS s ON s.pool_id = a.pool_id
         WHERE a.id = $1 AND s.frozen_time IS NULL
         ORDER BY s.id COLLATE \"C\"",
    );
    Ok(rows.bind(agent.to_string()).fetch_all(&mut *tx).await?)
}

/// On the shared side: the places of those certificates that hold, of tenants that are served.
pub(crate) async fn counting(
    tx: &mut Connection,
    shown: &[crate::agents::follow::Shown],
) -> Result<BTreeSet<i64>, Error> {
    let tenants: Vec<String> = shown.iter().map(|one| one.tenant.to_string()).collect();
    let agents: Vec<String> = shown.iter().map(|one| one.agent.to_string()).collect();
    let serials: Vec<&str> = shown.iter().map(|one| one.serial.as_str()).collect();
    let places: Vec<i64> = sqlx::query_scalar(
        "SELECT w.place - 1 FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS w (tenant_id, agent_id, serial, place)
         INNER JOIN agent_certificate AS c ON c.serial = w.serial AND c.tenant_id = w.tenant_id AND c.agent_id = w.agent_id
         INNER JOIN tenant.standing AS s ON s.tenant_id = c.tenant_id
         WHERE c.revoke_time IS NULL AND c.expire_time > now() AND s.state = 'active'",
    )
    .bind(tenants)
    .bind(agents)
    .bind(serials)
    .fetch_all(&mut *tx)
    .await?;
    Ok(places.into_iter().collect())
}

/// In the tenant's schema: those of these agents that are enrolled and within the plan.
pub(crate) async fn enrolled(tx: &mut Connection, agents: &[AgentId]) -> Result<BTreeSet<AgentId>, Error> {
    let ids: Vec<String> = agents.iter().map(AgentId::to_string).collect();
    let rows: Vec<String> = sqlx::query_scalar(
        "SELECT id FROM agent WHERE id = ANY ($1) AND state = 'enrolled' AND frozen_time IS NULL",
    )
    .bind(ids)
    .fetch_all(&mut *tx)
    .await?;
    rows.iter().map(|id| stored(id, "agent id")).collect()
}

/// One sealed credential.
pub(crate) struct Credential {
    pub(crate) kind: Kind,
    pub(crate) field: String,
    pub(crate) envelope: String,
    pub(crate) version: i64,
}

/// All of a server, in the tenant's schema.
pub(crate) async fn credentials(tx: &mut Connection, server: ServerId) -> Result<Vec<Credential>, Error> {
    let rows: Vec<(String, String, String, i64)> = sqlx::query_as(
        "SELECT kind, field, envelope, version FROM credential WHERE server_id = $1 ORDER BY kind COLLATE \"C\"",
    )
    .bind(server.to_string())
    .fetch_all(&mut *tx)
    .await?;
    let read = rows.into_iter().map(|(kind, field, envelope, version)| {
        Ok(Credential {
            kind: kind.parse().map_err(|()| Error::Stored("kind"))?,
            field,
            envelope,
            version,
        })
    });
    read.collect()
}

/// On the shared side: waits while the tenant is being taken to another cell, and fails once it is gone, where no log learns of anything.
pub(crate) async fn not_behind_a_move(tx: &mut Connection, tenant: TenantId) -> Result<(), Error> {
    sqlx::query("SELECT tenant.not_behind_a_move($1)")
        .bind(tenant.to_string())
        .execute(&mut *tx)
        .await?;
    Ok(())
}

/// On the shared side: on its way into the tenant's audit log.
pub(crate) async fn tell(tx: &mut Connection, tenant: TenantId, event: &Event) -> Result<(), Error> {
    sqlx::query("INSERT INTO tenant.audit_inbox (id, tenant_id, event) VALUES ($1, $2, $3)")
        .bind(&event.id)
        .bind(tenant.to_string())
        .bind(Json(event))
        .execute(&mut *tx)
        .await?;
    Ok(())
}
