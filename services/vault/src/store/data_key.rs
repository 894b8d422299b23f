//! Tenants' data keys.

use std::time::Duration;

use pg::Connection;
use types::TenantId;

use super::{Time, seconds, stored};
use crate::{
    domain::state::{Looked, State},
    error::Error,
};

/// A wrapped key together with the KEK that wraps it, both as they are at one moment.
#[derive(sqlx::FromRow)]
pub(crate) struct Wrapped {
    pub(crate) version: i64,
    state: String,
    pub(crate) kek_version: i64,
    pub(crate) wrapped: Option<Vec<u8>>,
    pub(crate) kek: Option<Vec<u8>>,
}

impl Wrapped {
    pub(crate) fn state(&self) -> Result<State, Error> {
        stored(&self.state, "state of a key")
    }
}

/// One version; without a number, the active one.
pub(crate) async fn get(
    tx: &mut Connection,
    tenant: TenantId,
    version: Option<i64>,
) -> Result<Option<Wrapped>, Error> {
    let row = sqlx::query_as(
        "SELECT d.version, d.state, d.kek_version, d.wrapped, k.wrapped AS kek
         FROM data_key AS d INNER JOIN kek AS k ON k.version = d.kek_version
         WHERE d.tenant_id = $1 AND CASE WHEN $2::bigint IS NULL THEN d.state = 'active' ELSE d.version = $2 END",
    )
    .bind(tenant.to_string())
    .bind(version)
    .fetch_optional(&mut *tx)
    .await?;
    Ok(row)
}

/// What is known of a version, without its bytes.
#[derive(sqlx::FromRow)]
pub(crate) struct Row {
    pub(crate) version: i64,
    state: String,
    pub(crate) compromised: bool,
    pub(crate) alive: bool,
    pub(crate) create_time: Time,
    pub(crate) end_time: Option<Time>,
    settled: bool,
    ended_long_ago: bool,
}

impl Row {
    pub(crate) fn state(&self) -> Result<State, Error> {
        stored(&self.state, "state of a key")
    }

    /// With how much is under it.
    pub(crate) fn looked(&self, remaining: i64, unreadable: i64) -> Result<Looked, Error> {
        Ok(Looked {
            state: self.state()?,
            compromised: self.compromised,
            wrapped: self.alive,
            remaining,
            unreadable,
            settled: self.settled,
            ended_long_ago: self.ended_long_ago,
        })
    }
}

/// A tenant's versions, newest first; those that ended more than 400 days ago are left out. `settle` is how long a value may be on its way.
pub(crate) async fn all(tx: &mut Connection, tenant: TenantId, settle: Duration) -> Result<Vec<Row>, Error> {
    let rows = sqlx::query_as(
        "SELECT version, state, compromised, wrapped IS NOT NULL AS alive, create_time, end_time,
                coalesce(supersede_time <= now() - make_interval(secs => $2), false) AS settled,
                coalesce(end_time <= now() - make_interval(secs => $2), false) AS ended_long_ago
         FROM data_key
         WHERE tenant_id = $1 AND (end_time IS NULL OR wrapped IS NOT NULL OR end_time > now() - interval '400 days')
         ORDER BY version DESC LIMIT 1000",
    );
    let rows = rows.bind(tenant.to_string()).bind(seconds(settle));
    Ok(rows.fetch_all(&mut *tx).await?)
}

/// Adds a version, which becomes the active one, and gives its number. The ring is locked.
pub(crate) async fn add(
    tx: &mut Connection,
    tenant: TenantId,
    version: i64,
    kek_version: i64,
    wrapped: &[u8],
) -> Result<(), Error> {
    sqlx::query(
        "UPDATE data_key SET state = 'draining', supersede_time = now() WHERE tenant_id = $1 AND state = 'active'",
    )
    .bind(tenant.to_string())
    .execute(&mut *tx)
    .await?;
    sqlx::query("INSERT INTO data_key (tenant_id, version, kek_version, wrapped) VALUES ($1, $2, $3, $4)")
        .bind(tenant.to_string())
        .bind(version)
        .bind(kek_version)
        .bind(wrapped)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

/// The newest version there ever was, and how many are not gone.
pub(crate) async fn counts(tx: &mut Connection, tenant: TenantId) -> Result<(i64, i64), Error> {
    let counts = sqlx::query_as(
        "SELECT coalesce(max(version), 0), count(*) FILTER (WHERE wrapped IS NOT NULL) FROM data_key WHERE tenant_id = $1",
    );
    Ok(counts.bind(tenant.to_string()).fetch_one(&mut *tx).await?)
}

/// Marks a version as known to others.
pub(crate) async fn compromise(tx: &mut Connection, tenant: TenantId, version: i64) -> Result<(), Error> {
    sqlx::query("UPDATE data_key SET compromised = true WHERE tenant_id = $1 AND version = $2")
        .bind(tenant.to_string())
        .bind(version)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

/// Moves a version on in its life. What is destroyed loses its bytes in the same statement.
pub(crate) async fn become_state(
    tx: &mut Connection,
    tenant: TenantId,
    version: i64,
    state: State,
) -> Result<(), Error> {
    sqlx::query(
        "UPDATE data_key SET state = $3,
             wrapped = CASE WHEN $3 = 'destroyed' THEN NULL ELSE wrapped END,
             end_time = CASE WHEN $3 IN ('active', 'draining') THEN NULL ELSE now() END
         WHERE tenant_id = $1 AND version = $2",
    )
    .bind(tenant.to_string())
    .bind(version)
    .bind(state.word())
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// Takes the bytes of a revoked version away.
pub(crate) async fn erase(tx: &mut Connection, tenant: TenantId, version: i64) -> Result<(), Error> {
    sqlx::query("UPDATE data_key SET wrapped = NULL WHERE tenant_id = $1 AND version = $2")
        .bind(tenant.to_string())
        .bind(version)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

/// Notes how many values are still sealed with a version.
pub(crate) async fn note(
    tx: &mut Connection,
    tenant: TenantId,
    version: i64,
    remaining: i64,
) -> Result<(), Error> {
    sqlx::query(
        "UPDATE data_key SET remaining = $3 WHERE tenant_id = $1 AND version = $2 AND remaining <> $3",
    )
    .bind(tenant.to_string())
    .bind(version)
    .bind(remaining)
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// All versions of a tenant with their bytes; for their destruction, and to move them elsewhere.
#[derive(sqlx::FromRow)]
pub(crate) struct Full {
    pub(crate) version: i64,
    state: String,
    pub(crate) compromised: bool,
    pub(crate) wrapped: Option<Vec<u8>>,
}

impl Full {
    pub(crate) fn state(&self) -> Result<State, Error> {
        stored(&self.state, "state of a key")
    }
}

/// All of them, oldest first.
pub(crate) async fn full(tx: &mut Connection, tenant: TenantId) -> Result<Vec<Full>, Error> {
    let rows = sqlx::query_as(
        "SELECT version, state, compromised, wrapped FROM data_key WHERE tenant_id = $1 ORDER BY version",
    );
    Ok(rows.bind(tenant.to_string()).fetch_all(&mut *tx).await?)
}

/// A version that comes from another installation.
pub(crate) struct Arrived<'a> {
    pub(crate) version: i64,
    pub(crate) state: State,
    pub(crate) compromised: bool,
    pub(crate) kek_version: i64,
    pub(crate) wrapped: &'a [u8],
}

/// Keeps it in the state that it had, from now on; also where it was before, and its bytes are gone.
pub(crate) async fn take_in(tx: &mut Connection, tenant: TenantId, key: &Arrived<'_>) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO data_key (tenant_id, version, state, compromised, kek_version, wrapped, supersede_time, end_time)
         VALUES ($1, $2, $3, $4, $5, $6, CASE WHEN $3 <> 'active' THEN now() END,
             CASE WHEN $3 NOT IN ('active', 'draining') THEN now() END)
         ON CONFLICT (tenant_id, version) DO UPDATE SET state = excluded.state, compromised = excluded.compromised,
             kek_version = excluded.kek_version, wrapped = excluded.wrapped, supersede_time = excluded.supersede_time,
             end_time = excluded.end_time
         WHERE data_key.wrapped IS NULL",
    )
    .bind(tenant.to_string())
    .bind(key.version)
    .bind(key.state.word())
    .bind(key.compromised)
    .bind(key.kek_version)
    .bind(key.wrapped)
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// Destroys every version that is not gone.
pub(crate) async fn destroy_all(tx: &mut Connection, tenant: TenantId) -> Result<(), Error> {
    sqlx::query(
        "UPDATE data_key SET wrapped = NULL, remaining = 0, end_time = now(), supersede_time = coalesce(supersede_time, now()),
             state = CASE WHEN state = 'revoked' THEN state ELSE 'destroyed' END
         WHERE tenant_id = $1 AND wrapped IS NOT NULL",
    )
    .bind(tenant.to_string())
    .execute(&mut *tx)
    .await?;
    sqlx::query("DELETE FROM was_under WHERE tenant_id = $1")
        .bind(tenant.to_string())
        .execute(&mut *tx)
        .await?;
    Ok(())
}

/// A key that an older KEK wraps.
#[derive(sqlx::FromRow)]
pub(crate) struct Behind {
    pub(crate) tenant_id: String,
    pub(crate) version: i64,
    pub(crate) kek_version: i64,
    pub(crate) wrapped: Vec<u8>,
}

/// Some keys, after this tenant and version, that the KEK `active` does not wrap, in order. They stay locked.
pub(crate) async fn behind(
    tx: &mut Connection,
    active: i64,
    after: &(String, i64),
    most: i64,
) -> Result<Vec<Behind>, Error> {
    let rows = sqlx::query_as(
        "SELECT tenant_id, version, kek_version, wrapped FROM data_key
         WHERE wrapped IS NOT NULL AND kek_version <> $1 AND (tenant_id, version) > ($2, $3)
         ORDER BY tenant_id, version LIMIT $4 FOR UPDATE SKIP LOCKED",
    );
    let rows = rows.bind(active).bind(&after.0).bind(after.1).bind(most);
    Ok(rows.fetch_all(&mut *tx).await?)
}

/// The same keys under another KEK.
pub(crate) async fn rewrap(
    tx: &mut Connection,
    kek_version: i64,
    tenants: &[String],
    versions: &[i64],
    wrapped: &[Vec<u8>],
) -> Result<u64, Error> {
    let done = sqlx::query(
        "UPDATE data_key AS d SET kek_version = $1, wrapped = n.wrapped
         FROM unnest($2::text[], $3::bigint[], $4::bytea[]) AS n (tenant_id, version, wrapped)
         WHERE d.tenant_id = n.tenant_id AND d.version = n.version AND d.wrapped IS NOT NULL",
    )
    .bind(kek_version)
    .bind(tenants)
    .bind(versions)
    .bind(wrapped)
    .execute(&mut *tx)
    .await?;
    Ok(done.rows_affected())
}

/// Tenants after `after` whose active key is older than `age`, in order.
pub(crate) async fn due(
    tx: &mut Connection,
    age: Duration,
    after: &str,
    most: i64,
) -> Result<Vec<String>, Error> {
    let tenants = sqlx::query_scalar(
        "SELECT tenant_id FROM data_key
         WHERE state = 'active' AND create_time < now() - make_interval(secs => $1) AND tenant_id > $2
         ORDER BY tenant_id LIMIT $3",
    );
    let tenants = tenants.bind(seconds(age)).bind(after).bind(most);
    Ok(tenants.fetch_all(&mut *tx).await?)
}

/// Whether the tenant's active key is older than `age`.
pub(crate) async fn is_due(tx: &mut Connection, tenant: TenantId, age: Duration) -> Result<bool, Error> {
    let due = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM data_key WHERE tenant_id = $1 AND state = 'active'
             AND create_time < now() - make_interval(secs => $2))",
    );
    let due = due.bind(tenant.to_string()).bind(seconds(age));
    Ok(due.fetch_one(&mut *tx).await?)
}

/// Tenants after `after` with superseded versions that are not gone, in order.
pub(crate) async fn in_work(tx: &mut Connection, after: &str, most: i64) -> Result<Vec<String>, Error> {
    let tenants = sqlx::query_scalar(
        "SELECT DISTINCT tenant_id FROM data_key WHERE state <> 'active' AND wrapped IS NOT NULL AND tenant_id > $1
         ORDER BY tenant_id LIMIT $2",
    );
    Ok(tenants.bind(after).bind(most).fetch_all(&mut *tx).await?)
}

/// Tenants with a compromised version that is not refused yet.
pub(crate) async fn compromised(tx: &mut Connection, most: i64) -> Result<Vec<String>, Error> {
    let tenants = sqlx::query_scalar(
        "SELECT DISTINCT tenant_id FROM data_key WHERE compromised AND state IN ('draining', 'retired') LIMIT $1",
    );
    Ok(tenants.bind(most).fetch_all(&mut *tx).await?)
}

/// How many versions are in which state, and how many values are under versions that drain.
pub(crate) async fn census(tx: &mut Connection) -> Result<Vec<(String, i64, i64)>, Error> {
    let rows = sqlx::query_as(
        "SELECT state, count(*), coalesce(sum(remaining), 0)::bigint FROM data_key GROUP BY state ORDER BY state",
    );
    Ok(rows.fetch_all(&mut *tx).await?)
}

/// How many keys each KEK wraps, with its state.
pub(crate) async fn census_of_keks(tx: &mut Connection) -> Result<Vec<(i64, String, String, i64)>, Error> {
    let rows = sqlx::query_as(
        "SELECT k.version, k.state, k.root,
             (SELECT count(*) FROM data_key AS d WHERE d.kek_version = k.version AND d.wrapped IS NOT NULL)
             + (SELECT count(*) FROM own_secret AS o WHERE o.kek_version = k.version)
         FROM kek AS k ORDER BY k.version DESC LIMIT 20",
    );
    Ok(rows.fetch_all(&mut *tx).await?)
}
