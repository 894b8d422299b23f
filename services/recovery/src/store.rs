//! Every SQL statement of the service: rows in, domain values out. Plans are in the tenant's own schema; when to sweep whose is in schema `recovery`.

use std::{
    str::FromStr,
    time::{Duration, Instant},
};

use futures_util::TryStreamExt as _;
use prost::Message;
use proto::{change::v1::Position, recovery::v1::PlanState};
use sqlx::types::chrono::{DateTime, Utc};
use types::{Errand, Micros, PlanId, Scope, TenantId};

use crate::{
    domain::{
        page::Page,
        plan::{Dialect, Digest, Mode, Plan},
    },
    error::Error,
};

/// The most plans of one tenant. Several that are made at once may pass it by a few.
const MOST_PLANS: i64 = 10_000;

/// The most bytes of filters and numbers on one page of a list; it ends before, if it has at least one plan.
const PAGE_BYTES: usize = 1 << 20;

/// Plans that one transaction sweeps away.
const AT_ONCE: i64 = 1_000;

type Time = DateTime<Utc>;

/// Where the service keeps things.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pool: pg::Pool,
    keep: Duration,
}

/// A plan, and when it was read: by the database's clock, which is that of all replicas, and by this process'.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) plan: Plan,
    now: Micros,
    read: Instant,
}

impl Kept {
    /// The time now, by the database's clock.
    pub(crate) fn now(&self) -> Micros {
        let since = i64::try_from(self.read.elapsed().as_micros()).unwrap_or(i64::MAX);
        Micros(self.now.0.saturating_add(since))
    }

    /// Whether the plan holds, as far as is known.
    pub(crate) fn state(&self) -> PlanState {
        self.plan.state(self.now())
    }

    /// Whether its script cannot be had any more.
    pub(crate) fn is_expired(&self) -> bool {
        self.plan.expires <= self.now()
    }

    /// When it expires, by this process' clock; none if that is further away than clocks go.
    pub(crate) fn expires(&self) -> Option<Instant> {
        let left = self.plan.expires.0.saturating_sub(self.now.0);
        self.read
            .checked_add(Duration::from_micros(u64::try_from(left).unwrap_or(0)))
    }
}

/// What a list is narrowed to.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Of this server only; empty is all.
    pub(crate) server: String,
    /// Of servers in these pools only; none is all.
    pub(crate) pools: Option<Vec<String>>,
    /// Which page.
    pub(crate) page: Page,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    server_id: String,
    filter: Vec<u8>,
    mode: String,
    summary: Vec<u8>,
    digest: Vec<u8>,
    script_bytes: i64,
    dialect: String,
    complete: bool,
    because: String,
    author_id: String,
    create_time: Time,
    expire_time: Time,
    stale_since: Option<Vec<u8>>,
    seen: Time,
}

fn micros(time: Time) -> Micros {
    Micros(time.timestamp_micros())
}

fn time(micros: Micros) -> Result<Time, Error> {
    DateTime::from_timestamp_micros(micros.0).ok_or(Error::Stored("time"))
}

/// A column that this program wrote from a value of `T`.
fn stored<T: FromStr>(text: &str, what: &'static str) -> Result<T, Error> {
    text.parse().map_err(|_| Error::Stored(what))
}

fn message<T: Message + Default>(bytes: &[u8], what: &'static str) -> Result<T, Error> {
    T::decode(bytes).map_err(|_| Error::Stored(what))
}

impl TryFrom<Row> for Kept {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let digest = row.digest.try_into().map_err(|_| Error::Stored("digest"))?;
        let stale_since = row.stale_since.as_deref();
        let plan = Plan {
            id: stored(&row.id, "plan id")?,
            place: stored(&row.server_id, "server id")?,
            filter: message(&row.filter, "filter")?,
            mode: Mode::from_word(&row.mode).ok_or(Error::Stored("mode"))?,
            summary: message(&row.summary, "summary")?,
            digest: Digest(digest),
            script_bytes: u64::try_from(row.script_bytes).map_err(|_| Error::Stored("size"))?,
            dialect: Dialect::from_word(&row.dialect).ok_or(Error::Stored("dialect"))?,
            complete: row.complete,
            because: row.because,
            author: stored(&row.author_id, "user id")?,
            created: micros(row.create_time),
            expires: micros(row.expire_time),
            stale_since: stale_since.map(|bytes| message(bytes, "position")).transpose()?,
        };
        Ok(Self {
            plan,
            now: micros(row.seen),
            read: Instant::now(),
        })
    }
}

impl Store {
    /// Over this pool. Plans are kept for so long after they have expired.
    pub(crate) fn new(pool: pg::Pool, keep: Duration) -> Self {
        Self { pool, keep }
    }

    /// The database's time, if the tenant may have one more plan.
    pub(crate) async fn room(&self, scope: &Scope) -> Result<Micros, Error> {
        let mut tx = self.pool.tenant(scope).await?;
        let query = sqlx::query_as("SELECT (SELECT count(*) FROM undo_plan), now()");
        let (count, now): (i64, Time) = query.fetch_one(&mut *tx).await?;
        tx.commit().await?;
        if count >= MOST_PLANS {
            return Err(Error::PlanLimit { most: MOST_PLANS });
        }
        Ok(micros(now))
    }

    /// Keeps a new plan.
    pub(crate) async fn insert(&self, scope: &Scope, plan: &Plan) -> Result<(), Error> {
        let mut tx = self.pool.tenant(scope).await?;
        sqlx::query(
            "INSERT INTO undo_plan (id, server_id, filter, mode, summary, digest, script_bytes, dialect, complete, because, author_id, create_time,
                 expire_time)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        )
        .bind(plan.id.to_string())
        .bind(plan.place.to_string())
        .bind(plan.filter.encode_to_vec())
        .bind(plan.mode.word())
        .bind(plan.summary.encode_to_vec())
        .bind(plan.digest.0.to_vec())
        .bind(i64::try_from(plan.script_bytes).unwrap_or(i64::MAX))
        .bind(plan.dialect.word())
        .bind(plan.complete)
        .bind(&plan.because)
        .bind(plan.author.to_string())
        .bind(time(plan.created)?)
        .bind(time(plan.expires)?)
        .execute(&mut *tx)
        .await?;
        tx.enter_shared().await?;
        // An earlier time that is there already stays: who sweeps then finds the next one.
        sqlx::query(
            "INSERT INTO plan_sweep (tenant_id, due_time) VALUES ($1, $2)
             ON CONFLICT (tenant_id) DO UPDATE SET due_time = least(plan_sweep.due_time, excluded.due_time)",
        )
        .bind(scope.tenant().to_string())
        .bind(time(plan.expires)? + self.keep)
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }

    /// A plan that is still kept.
    pub(crate) async fn find(&self, scope: &Scope, id: PlanId) -> Result<Option<Kept>, Error> {
        let mut tx = self.pool.tenant(scope).await?;
        let row: Option<Row> = sqlx::query_as(
            "SELECT *, now() AS seen FROM undo_plan WHERE id = $1 AND expire_time + make_interval(secs => $2) > now()",
        )
        .bind(id.to_string())
        .bind(self.keep.as_secs_f64())
        .fetch_optional(&mut *tx)
        .await?;
        tx.commit().await?;
        row.map(Kept::try_from).transpose()
    }

    /// Notes that a plan is stale. The first change that was found stays.
    pub(crate) async fn stale(&self, errand: &Errand, id: PlanId, since: &Position) -> Result<(), Error> {
        let mut tx = self.pool.errand(errand).await?;
        sqlx::query("UPDATE undo_plan SET stale_since = $2 WHERE id = $1 AND stale_since IS NULL")
            .bind(id.to_string())
            .bind(since.encode_to_vec())
            .execute(&mut *tx)
            .await?;
        Ok(tx.commit().await?)
    }

    /// A page of plans, the newest first, and whether there are more. Those of a server that is gone are not listed.
    pub(crate) async fn list(&self, scope: &Scope, wanted: &Wanted) -> Result<(Vec<Kept>, bool), Error> {
        let mut tx = self.pool.tenant(scope).await?;
        let query = sqlx::query_as(
            "SELECT p.*, now() AS seen FROM undo_plan AS p LEFT JOIN server AS s ON s.id = p.server_id
             WHERE (s.pool_id = ANY($1) OR $1 IS NULL AND (s.id IS NOT NULL OR starts_with(p.server_id, 'upl_')))
                 AND ($2 = '' OR p.server_id = $2) AND ($3::text IS NULL OR p.id < $3)
                 AND p.expire_time + make_interval(secs => $4) > now()
             ORDER BY p.id DESC LIMIT $5",
        )
        .bind(&wanted.pools)
        .bind(&wanted.server)
        .bind(wanted.page.after.map(|after| after.to_string()))
        .bind(self.keep.as_secs_f64())
        .bind(i64::from(wanted.page.size) + 1);
        let mut found: Vec<Kept> = Vec::new();
        let mut more = false;
        let mut bytes = 0;
        {
            let mut rows = query.fetch(&mut *tx);
            while let Some(row) = rows.try_next().await? {
                let row: Row = row;
                bytes += row.filter.len() + row.summary.len();
                if found.len() == wanted.page.size as usize || !found.is_empty() && bytes > PAGE_BYTES {
                    more = true;
                    break;
                }
                found.push(row.try_into()?);
            }
        }
        tx.rollback().await;
        Ok((found, more))
    }

    /// Tenants whose plans are to be looked at, those first that wait longest.
    pub(crate) async fn due(&self, deadline: Instant) -> Result<Vec<TenantId>, Error> {
        let mut tx = self.pool.shared(deadline).await?;
        let query = sqlx::query_scalar(
            "SELECT tenant_id FROM plan_sweep WHERE due_time <= now() ORDER BY due_time LIMIT 100",
        );
        let due: Vec<String> = query.fetch_all(&mut *tx).await?;
        tx.commit().await?;
        due.iter().map(|id| stored(id, "tenant id")).collect()
    }

    /// Deletes plans of a tenant that are kept no longer, and notes when to come again. How many went.
    pub(crate) async fn sweep(&self, errand: &Errand) -> Result<u64, Error> {
        let mut tx = self.pool.errand(errand).await?;
        let tenant = errand.tenant.to_string();
        tx.enter_shared().await?;
        // Who adds a plan meanwhile waits for this row, or is waited for.
        let query = sqlx::query("SELECT FROM plan_sweep WHERE tenant_id = $1 FOR UPDATE SKIP LOCKED");
        if query.bind(&tenant).fetch_optional(&mut *tx).await?.is_none() {
            return Ok(0);
        }
        tx.enter_tenant().await?;
        let query = sqlx::query(
            "DELETE FROM undo_plan WHERE id IN (
                 SELECT id FROM undo_plan WHERE expire_time + make_interval(secs => $1) <= now() LIMIT $2
             )",
        )
        .bind(self.keep.as_secs_f64())
        .bind(AT_ONCE);
        let gone = query.execute(&mut *tx).await?.rows_affected();
        let next: Option<Time> = sqlx::query_scalar("SELECT min(expire_time) FROM undo_plan")
            .fetch_one(&mut *tx)
            .await?;
        tx.enter_shared().await?;
        match next {
            Some(next) => {
                sqlx::query("UPDATE plan_sweep SET due_time = $2 WHERE tenant_id = $1")
                    .bind(&tenant)
                    .bind(next + self.keep)
                    .execute(&mut *tx)
                    .await?;
            }
            None => {
                sqlx::query("DELETE FROM plan_sweep WHERE tenant_id = $1")
                    .bind(&tenant)
                    .execute(&mut *tx)
                    .await?;
            }
        }
        tx.commit().await?;
        Ok(gone)
    }

    /// Forgets when to sweep the plans of a tenant that has no schema. If it comes back, its next plan brings it back here.
    pub(crate) async fn forget(&self, tenant: TenantId, deadline: Instant) -> Result<(), Error> {
        let mut tx = self.pool.shared(deadline).await?;
        sqlx::query("DELETE FROM plan_sweep WHERE tenant_id = $1")
            .bind(tenant.to_string())
            .execute(&mut *tx)
            .await?;
        Ok(tx.commit().await?)
    }
}
