//! Who is behind a credential at this moment: one statement reads the session or key, its person, and their seat. Nothing of it is kept,
//! so that what was revoked a moment ago is refused.

use std::collections::BTreeMap;

use ipnet::IpNet;
use sqlx::types::Json;
use types::{AgentId, KeyId, Plan, PoolId, Role, Seat, ServerId, Subject, TenantId, UserId};

use crate::{
    Error,
    domain::{access_token::Access, api_key::Limits},
    store::{api_key::beyond, id},
};

/// A person with a live session.
pub(crate) struct Person {
    /// Whether they have a second factor.
    pub(crate) mfa_enabled: bool,
    /// Their seat in the tenant that was asked for, or in the only one; several when they have more and none was asked for.
    pub(crate) seats: Vec<Seat>,
}

/// A live key and its owner.
pub(crate) struct Key {
    pub(crate) id: KeyId,
    pub(crate) owner: UserId,
    pub(crate) limits: Limits,
    /// Whether the owner has a second factor.
    pub(crate) mfa_enabled: bool,
    /// The owner's seat.
    pub(crate) seat: Seat,
    /// Whether its last use was written a minute ago or longer.
    pub(crate) stale: bool,
    /// Whether the tenant's plan has no room for it.
    pub(crate) frozen: bool,
}

#[derive(sqlx::FromRow)]
struct SeatRow {
    tenant_id: Option<String>,
    seat_role: Option<String>,
    seat_pools: Option<Json<BTreeMap<String, String>>>,
    plan: Option<String>,
    region: Option<String>,
}

impl SeatRow {
    fn seat(self) -> Result<Option<Seat>, Error> {
        let (Some(tenant), Some(plan), Some(region)) = (self.tenant_id, self.plan, self.region) else {
            return Ok(None);
        };
        let pool = |(pool, role): (String, String)| {
            Ok::<(PoolId, Role), Error>((id("a pool", &pool)?, word("a role", &role)?))
        };
        let pools = self.seat_pools.map(|Json(pools)| pools).unwrap_or_default();
        Ok(Some(Seat {
            tenant: id("a tenant", &tenant)?,
            region: word("a region", &region)?,
            plan: word("a plan", &plan)?,
            role: self.seat_role.map(|role| word("a role", &role)).transpose()?,
            pools: pools.into_iter().map(pool).collect::<Result<_, _>>()?,
            scopes: None,
        }))
    }
}

fn word<T: std::str::FromStr>(what: &'static str, text: &str) -> Result<T, Error> {
    text.parse().map_err(|_| Error::Corrupt {
        what,
        why: format!("{text:?} is no such word"),
    })
}

#[derive(sqlx::FromRow)]
struct PersonRow {
    mfa_enabled: bool,
    #[sqlx(flatten)]
    seat: SeatRow,
}

/// The person of a session that lives; none for one that does not.
pub(crate) async fn person(
    tx: &mut pg::Transaction,
    access: Access,
    tenant: Option<TenantId>,
) -> Result<Option<Person>, Error> {
    let sql = "SELECT EXISTS (SELECT FROM auth.factor AS f WHERE f.account_id = a.id AND f.active) AS mfa_enabled, \
                      s.tenant_id, s.role AS seat_role, s.pools AS seat_pools, s.plan, s.region \
               FROM auth.session AS e \
               INNER JOIN auth.account AS a ON a.id = e.account_id \
               LEFT JOIN LATERAL ( \
                   SELECT * FROM tenant.seat AS t WHERE t.user_id = a.id AND ($3::text IS NULL OR t.tenant_id = $3) LIMIT 2 \
               ) AS s ON true \
               WHERE e.id = $1 AND e.account_id = $2 AND e.revoked_at IS NULL AND e.expires_at > clock_timestamp() \
                     AND e.idle_until > clock_timestamp() AND a.verified_at IS NOT NULL";
    let query = sqlx::query_as(sql)
        .bind(access.session.to_string())
        .bind(access.user.to_string());
    let rows: Vec<PersonRow> = query
        .bind(tenant.map(|tenant| tenant.to_string()))
        .fetch_all(&mut **tx)
        .await?;
    let Some(first) = rows.first() else {
        return Ok(None);
    };
    let mfa_enabled = first.mfa_enabled;
    let seats: Result<Vec<Option<Seat>>, Error> = rows.into_iter().map(|row| row.seat.seat()).collect();
    Ok(Some(Person {
        mfa_enabled,
        seats: seats?.into_iter().flatten().collect(),
    }))
}

#[derive(sqlx::FromRow)]
struct KeyRow {
    id: String,
    owner_id: String,
    role: String,
    scopes: Vec<String>,
    pools: Vec<String>,
    networks: Vec<String>,
    stale: bool,
    older: i64,
    mfa_enabled: bool,
    #[sqlx(flatten)]
    seat: SeatRow,
}

/// The key that hashes to `sha256`, if it lives and its owner still has a seat in its tenant.
///
/// The keys of a tenant are counted only where they may be too many: no tenant has more than the largest plan allows.
pub(crate) async fn key(tx: &mut pg::Transaction, sha256: &[u8]) -> Result<Option<Key>, Error> {
    let sql = "SELECT k.id, k.owner_id, k.role, k.scopes, k.pools, k.networks, \
                      k.last_use_time IS NULL OR k.last_use_time < clock_timestamp() - interval '1 minute' AS stale, \
                      CASE WHEN s.plan = $2 THEN 0 ELSE ( \
                          SELECT count(*) FROM auth.api_key AS o WHERE o.tenant_id = k.tenant_id AND o.id < k.id \
                              AND o.revoke_time IS NULL AND o.expire_time > clock_timestamp() \
                      ) END AS older, \
                      EXISTS (SELECT FROM auth.factor AS f WHERE f.account_id = a.id AND f.active) AS mfa_enabled, \
                      s.tenant_id, s.role AS seat_role, s.pools AS seat_pools, s.plan, s.region \
               FROM auth.api_key AS k \
               INNER JOIN auth.account AS a ON a.id = k.owner_id \
               INNER JOIN tenant.seat AS s ON s.user_id = k.owner_id AND s.tenant_id = k.tenant_id \
               WHERE k.sha256 = $1 AND k.revoke_time IS NULL AND k.expire_time > clock_timestamp() AND a.verified_at IS NOT NULL";
    let query = sqlx::query_as(sql).bind(sha256).bind(Plan::Enterprise.word());
    let Some(row): Option<KeyRow> = query.fetch_optional(&mut **tx).await? else {
        return Ok(None);
    };
    let limits = limits(&row.role, row.scopes, &row.pools, &row.networks)?;
    let Some(seat) = row.seat.seat()? else {
        return Ok(None);
    };
    Ok(Some(Key {
        id: id("an API key", &row.id)?,
        owner: id("an account", &row.owner_id)?,
        limits,
        mfa_enabled: row.mfa_enabled,
        frozen: beyond(seat.plan, row.older),
        seat,
        stale: row.stale,
    }))
}

/// Where `tenant` lives now, for a member of it after it has moved.
pub(crate) async fn moved(
    tx: &mut pg::Transaction,
    user: UserId,
    tenant: TenantId,
) -> Result<Option<String>, Error> {
    let sql = "SELECT host FROM tenant.moved_seat WHERE user_id = $1 AND tenant_id = $2";
    let query = sqlx::query_scalar(sql)
        .bind(user.to_string())
        .bind(tenant.to_string());
    Ok(query.fetch_optional(&mut **tx).await?)
}

/// The same for the tenant of a key that would be good there.
pub(crate) async fn moved_with(tx: &mut pg::Transaction, sha256: &[u8]) -> Result<Option<String>, Error> {
    let sql = "SELECT m.host FROM auth.api_key AS k \
               INNER JOIN tenant.moved_seat AS m ON m.user_id = k.owner_id AND m.tenant_id = k.tenant_id \
               WHERE k.sha256 = $1 AND k.revoke_time IS NULL AND k.expire_time > clock_timestamp()";
    let query = sqlx::query_scalar(sql).bind(sha256);
    Ok(query.fetch_optional(&mut **tx).await?)
}

/// A key's limits as they are kept.
pub(crate) fn limits(
    role: &str,
    scopes: Vec<String>,
    pools: &[String],
    networks: &[String],
) -> Result<Limits, Error> {
    let network = |text: &String| word::<IpNet>("a network", text);
    Ok(Limits {
        role: word("a role", role)?,
        scopes,
        pools: pools
            .iter()
            .map(|pool| id("a pool", pool))
            .collect::<Result<_, _>>()?,
        networks: networks.iter().map(network).collect::<Result<_, _>>()?,
    })
}

/// Whether a session lives: `$1` is its id, `$2` whose it is. And more.
macro_rules! living_session {
    ($($more:literal)?) => {
        concat!(
            "SELECT EXISTS (SELECT FROM auth.session WHERE id = $1 AND account_id = $2 AND revoked_at IS NULL \
                            AND expires_at > clock_timestamp() AND idle_until > clock_timestamp()) AS lives",
            $($more)?
        )
    };
}

/// The same of an API key.
macro_rules! living_key {
    ($($more:literal)?) => {
        concat!(
            "SELECT EXISTS (SELECT FROM auth.api_key WHERE id = $1 AND owner_id = $2 AND revoke_time IS NULL \
                            AND expire_time > clock_timestamp()) AS lives",
            $($more)?
        )
    };
}

/// Whether the session or key behind a context token of a moment ago still lives.
pub(crate) async fn lives(tx: &mut pg::Transaction, subject: &Subject) -> Result<bool, Error> {
    let (sql, name) = match subject {
        Subject::Person { session, .. } => (living_session!(), session.to_string()),
        Subject::Key { key, .. } => (living_key!(), key.to_string()),
    };
    let query = sqlx::query_scalar(sql)
        .bind(name)
        .bind(subject.user().to_string());
    Ok(query.fetch_one(&mut **tx).await?)
}

/// What a delegation depends on at this moment.
pub(crate) struct Asked {
    /// Whether the session or key behind the context token still lives.
    pub(crate) lives: bool,
    /// The server's pool; none if the tenant has no such server.
    pub(crate) pool: Option<PoolId>,
    /// Whether the agent is one of those that serve there.
    pub(crate) serves: bool,
}

#[derive(sqlx::FromRow)]
struct AskedRow {
    lives: bool,
    pool_id: Option<String>,
    serves: Option<bool>,
}

/// What a delegation for a subject, of an agent, about a server of a tenant depends on.
pub(crate) async fn asked(
    tx: &mut pg::Transaction,
    subject: &Subject,
    tenant: TenantId,
    server: ServerId,
    agent: AgentId,
) -> Result<Asked, Error> {
    let (sql, name) = match subject {
        Subject::Person { session, .. } => (
            living_session!(", q.pool_id, q.serves FROM tenant.asked($3, $4, $5) AS q"),
            session.to_string(),
        ),
        Subject::Key { key, .. } => (
            living_key!(", q.pool_id, q.serves FROM tenant.asked($3, $4, $5) AS q"),
            key.to_string(),
        ),
    };
    let query = sqlx::query_as(sql)
        .bind(name)
        .bind(subject.user().to_string())
        .bind(tenant.to_string())
        .bind(server.to_string())
        .bind(agent.to_string());
    tx.knows(tenant);
    let row: AskedRow = query.fetch_one(&mut **tx).await?;
    Ok(Asked {
        lives: row.lives,
        pool: row.pool_id.map(|pool| id("a pool", &pool)).transpose()?,
        serves: row.serves.unwrap_or_default(),
    })
}
