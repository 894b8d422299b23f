//! API keys at rest, and the notes of their use.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use types::{KeyId, Micros, Plan, PoolId, Role, TenantId, UserId};

use crate::{
    Error,
    domain::api_key::{ApiKey, Limits},
    store::{credential::limits, id, instant, micros},
};

use sqlx::types::chrono::{DateTime, Utc};

/// Ended keys are listed for so many days.
const LISTED: i32 = 30;
/// Notes of use are written together, so often.
const WRITE_EVERY: Duration = Duration::from_secs(5);
/// So many keys are noted between two writings; the use of further ones is noted by their next.
const NOTES_MOST: usize = 4_096;
/// A writing takes no longer.
const WRITING: Duration = Duration::from_secs(5);

/// A key as its tenant sees it.
pub(crate) struct Described {
    pub(crate) id: KeyId,
    pub(crate) name: String,
    pub(crate) prefix: String,
    pub(crate) owner: UserId,
    pub(crate) limits: Limits,
    pub(crate) created: Micros,
    pub(crate) expires: Micros,
    pub(crate) last_use: Option<(Micros, String)>,
    pub(crate) revoked: Option<Micros>,
    /// The plan has no room for it.
    pub(crate) frozen: bool,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    name: String,
    prefix: String,
    owner_id: String,
    role: String,
    scopes: Vec<String>,
    pools: Vec<String>,
    networks: Vec<String>,
    create_time: DateTime<Utc>,
    expire_time: DateTime<Utc>,
    revoke_time: Option<DateTime<Utc>>,
    last_use_time: Option<DateTime<Utc>>,
    last_use_from: Option<String>,
    older: i64,
    plan: String,
}

impl Row {
    fn described(self) -> Result<Described, Error> {
        let plan = self.plan.parse().unwrap_or(Plan::Free);
        Ok(Described {
            frozen: self.revoke_time.is_none() && beyond(plan, self.older),
            id: id("an API key", &self.id)?,
            owner: id("an account", &self.owner_id)?,
            limits: limits(&self.role, self.scopes, &self.pools, &self.networks)?,
            name: self.name,
            prefix: self.prefix,
            created: micros(self.create_time),
            expires: micros(self.expire_time),
            last_use: self.last_use_time.map(micros).zip(self.last_use_from),
            revoked: self.revoke_time.map(micros),
        })
    }
}

/// What a maker may give a key at this moment.
pub(crate) struct Room {
    /// Their role in the whole tenant.
    pub(crate) role: Option<Role>,
    /// How many of the named pools are the tenant's.
    pub(crate) pools: usize,
    /// How many live keys the tenant has.
    pub(crate) keys: i64,
    /// What the tenant has bought; of who has no seat any more, nothing.
    pub(crate) plan: Plan,
}

/// Reads it. Others who make keys of the same tenant wait until this transaction ends.
pub(crate) async fn room(
    tx: &mut pg::Transaction,
    tenant: TenantId,
    maker: UserId,
    pools: &[PoolId],
) -> Result<Room, Error> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('auth.api_key:' || $1, 0))")
        .bind(tenant.to_string())
        .execute(&mut **tx)
        .await?;
    let sql = "SELECT s.role, s.plan, \
                      (SELECT count(*) FROM tenant.pool_of WHERE tenant_id = $2 AND pool_id = ANY($3)), \
                      (SELECT count(*) FROM auth.api_key WHERE tenant_id = $2 AND revoke_time IS NULL AND expire_time > clock_timestamp()) \
               FROM (VALUES (1)) AS one LEFT JOIN tenant.seat AS s ON s.user_id = $1 AND s.tenant_id = $2";
    let pools: Vec<String> = pools.iter().map(PoolId::to_string).collect();
    let query = sqlx::query_as(sql)
        .bind(maker.to_string())
        .bind(tenant.to_string())
        .bind(pools);
    let (role, plan, known, keys): (Option<String>, Option<String>, i64, i64) =
        query.fetch_one(&mut **tx).await?;
    Ok(Room {
        role: role.and_then(|role| role.parse().ok()),
        pools: usize::try_from(known).unwrap_or(0),
        keys,
        plan: plan.and_then(|plan| plan.parse().ok()).unwrap_or(Plan::Free),
    })
}

/// Keeps a new key's hash and limits.
pub(crate) async fn create(
    tx: &mut pg::Transaction,
    tenant: TenantId,
    key: &ApiKey,
    described: &Described,
) -> Result<(), Error> {
    let limits = &described.limits;
    let sql = "INSERT INTO auth.api_key \
                   (id, sha256, prefix, tenant_id, owner_id, name, role, scopes, pools, networks, create_time, expire_time) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
    let query = sqlx::query(sql)
        .bind(described.id.to_string())
        .bind(key.sha256())
        .bind(&described.prefix)
        .bind(tenant.to_string())
        .bind(described.owner.to_string())
        .bind(&described.name)
        .bind(limits.role.word())
        .bind(&limits.scopes)
        .bind(limits.pools.iter().map(PoolId::to_string).collect::<Vec<_>>())
        .bind(
            limits
                .networks
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
        )
        .bind(instant(described.created))
        .bind(instant(described.expires));
    query.execute(&mut **tx).await?;
    Ok(())
}

/// Whether a live key with so many older ones is beyond what the plan has room for.
pub(crate) fn beyond(plan: Plan, older: i64) -> bool {
    older >= i64::from(plan.limits().api_keys)
}

/// The tenant's keys, newest first, from below `before`, for a member of it.
pub(crate) async fn list(
    tx: &mut pg::Transaction,
    tenant: TenantId,
    reader: UserId,
    before: Option<KeyId>,
    most: i64,
) -> Result<Vec<Described>, Error> {
    let sql = "SELECT id, name, prefix, owner_id, role, scopes, pools, networks, create_time, expire_time, revoke_time, \
                      last_use_time, last_use_from, \
                      (SELECT count(*) FROM auth.api_key AS o WHERE o.tenant_id = $1 AND o.id < k.id AND o.revoke_time IS NULL \
                              AND o.expire_time > clock_timestamp()) AS older, \
                      coalesce((SELECT plan FROM tenant.seat WHERE user_id = $5 AND tenant_id = $1), 'free') AS plan \
               FROM auth.api_key AS k \
               WHERE tenant_id = $1 AND ($2::text IS NULL OR id < $2) \
                     AND least(expire_time, revoke_time) > clock_timestamp() - make_interval(days => $3) \
               ORDER BY id DESC LIMIT $4";
    let query = sqlx::query_as(sql)
        .bind(tenant.to_string())
        .bind(before.map(|id| id.to_string()))
        .bind(LISTED)
        .bind(most)
        .bind(reader.to_string());
    let rows: Vec<Row> = query.fetch_all(&mut **tx).await?;
    rows.into_iter().map(Row::described).collect()
}

/// Ends a key of the tenant; tells whether there is such a key. Of a tenant that has moved away there is none: what were revoked here would
/// live on there, so who waited while it moved is refused.
pub(crate) async fn revoke(tx: &mut pg::Transaction, tenant: TenantId, key: KeyId) -> Result<bool, Error> {
    sqlx::query("SELECT pg_advisory_xact_lock_shared(hashtextextended('auth.api_key:' || $1, 0))")
        .bind(tenant.to_string())
        .execute(&mut **tx)
        .await?;
    let sql = "UPDATE auth.api_key SET revoke_time = coalesce(revoke_time, clock_timestamp()) \
               WHERE id = $1 AND tenant_id = $2 AND EXISTS (SELECT FROM tenant.seat AS s WHERE s.tenant_id = $2)";
    let done = sqlx::query(sql)
        .bind(key.to_string())
        .bind(tenant.to_string())
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Notes of which keys were used from where, until they are written.
#[derive(Clone)]
pub(crate) struct Uses(Arc<Mutex<HashMap<KeyId, String>>>);

impl Uses {
    /// Writes notes while `runtime` lives.
    pub(crate) fn start(pool: pg::Pool, runtime: &chassis::Runtime) -> Self {
        let uses = Self(Arc::default());
        let writer = uses.clone();
        let stopping = runtime.stopping();
        runtime.spawn("key uses", async move {
            while tokio::time::timeout(WRITE_EVERY, stopping.cancelled())
                .await
                .is_err()
            {
                writer.write(&pool).await;
            }
            writer.write(&pool).await;
        });
        uses
    }

    /// Notes a use.
    pub(crate) fn note(&self, key: KeyId, network: String) {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if notes.len() < NOTES_MOST || notes.contains_key(&key) {
            notes.insert(key, network);
        }
    }

    async fn write(&self, pool: &pg::Pool) {
        let notes = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if notes.is_empty() {
            return;
        }
        let (keys, networks): (Vec<String>, Vec<String>) = notes
            .into_iter()
            .map(|(key, network)| (key.to_string(), network))
            .unzip();
        if let Err(error) = write(pool, &keys, &networks).await {
            tracing::warn!(
                error = types::chain(&error),
                keys = keys.len(),
                "the use of keys could not be noted"
            );
        }
    }
}

async fn write(pool: &pg::Pool, keys: &[String], networks: &[String]) -> Result<(), Error> {
    let mut tx = pool.shared(Instant::now() + WRITING).await?;
    let sql = "UPDATE auth.api_key AS k \
               SET last_use_time = date_trunc('minute', clock_timestamp()), last_use_from = nullif(n.network, '') \
               FROM unnest($1::text[], $2::text[]) AS n (id, network) \
               WHERE k.id = n.id AND (k.last_use_time IS NULL OR k.last_use_time < clock_timestamp() - interval '1 minute')";
    sqlx::query(sql)
        .bind(keys)
        .bind(networks)
        .execute(&mut *tx)
        .await?;
    Ok(tx.commit().await?)
}

/// What a key is called.
pub(crate) async fn name(tx: &mut pg::Transaction, key: KeyId) -> Result<String, Error> {
    let name: Option<String> = sqlx::query_scalar("SELECT name FROM auth.api_key WHERE id = $1")
        .bind(key.to_string())
        .fetch_optional(&mut **tx)
        .await?;
    name.ok_or(Error::ApiKeyNotFound)
}
