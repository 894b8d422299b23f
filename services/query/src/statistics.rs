//! The last numbers of each server: what agents report of schemas, tables, counts, positions and lag, and never a value of a row.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::{StreamExt as _, stream};
use pg::Transaction;
use prost::Message as _;
use proto::{agent::v1 as agent, change::v1 as change};
use sqlx::{
    Row as _,
    types::chrono::{DateTime, Utc},
};
use tokio_util::sync::CancellationToken;
use types::{Errand, Fault as _, Scope, ServerId, TenantId};

use crate::{
    resolve::{self, Resolver},
    source::{Agents, Held},
};

/// For one agent's numbers, from the question to the tables.
const AT_MOST: Duration = Duration::from_secs(10);

/// Agents that are asked at a time.
const AT_A_TIME: usize = 8;

/// Servers of one agent.
const SERVERS: usize = 1_000;

/// Tables of one server.
const TABLES: usize = 10_000;

/// What was not reported for so many rounds may be of a server that there is no more.
const STALE: u32 = 20;

/// Servers that are looked at for that at a time.
const LOOKED_AT: i64 = 20;

/// The longest name: 64 characters (MySQL Reference Manual 11.2.1).
const NAME: usize = 256;

type Time = DateTime<Utc>;

/// What was last known of a server.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Last {
    /// When the numbers were taken.
    pub(crate) time: SystemTime,
    /// How following went.
    pub(crate) state: change::FollowState,
    /// By which agent: `agt_…`
    pub(crate) agent: String,
    /// Its version.
    pub(crate) version: String,
    /// When it started.
    pub(crate) started: Option<SystemTime>,
}

/// Where they are kept.
#[derive(Clone, Debug)]
pub(crate) struct Store(pg::Pool);

impl Store {
    /// In this database.
    pub(crate) fn new(pool: pg::Pool) -> Self {
        Self(pool)
    }

    /// What is known of a server.
    pub(crate) async fn last(&self, scope: &Scope, server: ServerId) -> Result<Option<Last>, pg::Error> {
        let mut tx = self.0.tenant(scope).await?;
        let row = sqlx::query(
            "SELECT agent_id, agent_version, agent_start, taken, state FROM server_statistics WHERE server_id = $1",
        )
        .bind(server.to_string())
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let state: Vec<u8> = row.try_get("state")?;
        Ok(Some(Last {
            time: row.try_get::<Time, _>("taken")?.into(),
            // Written by the release before or after this one: what it does not know is left out.
            state: change::FollowState::decode(state.as_slice()).unwrap_or_default(),
            agent: row.try_get("agent_id")?,
            version: row.try_get("agent_version")?,
            started: row
                .try_get::<Option<Time>, _>("agent_start")?
                .map(SystemTime::from),
        }))
    }

    /// Keeps what an agent reports of a server, unless somebody did a moment ago: an agent is connected to several replicas. Answers servers of
    /// the tenant of which nothing was heard for long.
    async fn keep(
        &self,
        held: &Held,
        reported: &agent::ServerStatistics,
        pause: Duration,
        deadline: Instant,
    ) -> Result<Vec<String>, pg::Error> {
        let errand = Errand {
            tenant: held.tenant,
            deadline,
        };
        let mut tx = self.0.errand(&errand).await?;
        let mut state = reported.state.clone().unwrap_or_default();
        // What is kept has no words of an agent's: they may tell more than numbers do.
        crate::redact::plain_problem(&mut state);
        let kept = sqlx::query(
            "INSERT INTO server_statistics AS s
             (server_id, agent_id, agent_version, agent_start, state, tables_left_out) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (server_id) DO UPDATE SET agent_id = excluded.agent_id, agent_version = excluded.agent_version,
             agent_start = excluded.agent_start, state = excluded.state, tables_left_out = excluded.tables_left_out, taken = now()
             WHERE s.taken < now() - $7 * interval '1 second'",
        )
        .bind(&reported.server_id)
        .bind(held.agent.to_string())
        .bind(&held.version)
        .bind(held.start_time.and_then(time))
        .bind(state.encode_to_vec())
        .bind(whole(reported.tables_left_out))
        .bind(pause.as_secs_f64() / 2.0)
        .execute(&mut *tx)
        .await?;
        if kept.rows_affected() == 1 {
            keep_tables(&mut tx, reported).await?;
        }
        let stale = sqlx::query_scalar(
            "SELECT server_id FROM server_statistics WHERE taken < now() - $1 * interval '1 second' ORDER BY random() LIMIT $2",
        )
        .bind((pause * STALE).as_secs_f64())
        .bind(LOOKED_AT)
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(stale)
    }

    /// Forgets a server that there is no more.
    async fn forget(&self, tenant: TenantId, server: &str, deadline: Instant) -> Result<(), pg::Error> {
        let mut tx = self.0.errand(&Errand { tenant, deadline }).await?;
        sqlx::query("DELETE FROM server_statistics WHERE server_id = $1")
            .bind(server)
            .execute(&mut *tx)
            .await?;
        tx.commit().await
    }
}

/// Writes what is new, and forgets the tables that are gone.
async fn keep_tables(tx: &mut Transaction, reported: &agent::ServerStatistics) -> Result<(), pg::Error> {
    let usable = |name: &str| !name.is_empty() && name.len() <= NAME && !name.contains('\0');
    let mut tables: Vec<&agent::TableStatistics> = reported
        .tables
        .iter()
        .filter(|table| usable(&table.schema) && usable(&table.table))
        .take(TABLES)
        .collect();
    // The order in which rows are locked, whoever writes.
    tables.sort_by(|a, b| (&a.schema, &a.table).cmp(&(&b.schema, &b.table)));
    tables.dedup_by(|a, b| (&a.schema, &a.table) == (&b.schema, &b.table));
    let schemas: Vec<&str> = tables.iter().map(|table| table.schema.as_str()).collect();
    let names: Vec<&str> = tables.iter().map(|table| table.table.as_str()).collect();
    let numbers = |of: fn(&agent::TableStatistics) -> u64| -> Vec<i64> {
        tables.iter().map(|table| whole(of(table))).collect()
    };
    let last: Vec<Option<Time>> = tables
        .iter()
        .map(|table| table.last_time.and_then(time))
        .collect();
    sqlx::query(
        "INSERT INTO table_statistics AS t (server_id, schema_name, table_name, inserts, updates, deletes, last_time)
         SELECT $1, n.* FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::timestamptz[]) AS n
         ON CONFLICT (server_id, schema_name, table_name) DO UPDATE
         SET inserts = excluded.inserts, updates = excluded.updates, deletes = excluded.deletes, last_time = excluded.last_time
         WHERE (t.inserts, t.updates, t.deletes, t.last_time)
             IS DISTINCT FROM (excluded.inserts, excluded.updates, excluded.deletes, excluded.last_time)",
    )
    .bind(&reported.server_id)
    .bind(&schemas)
    .bind(&names)
    .bind(numbers(|table| table.inserts))
    .bind(numbers(|table| table.updates))
    .bind(numbers(|table| table.deletes))
    .bind(last)
    .execute(&mut **tx)
    .await?;
    sqlx::query(
        "DELETE FROM table_statistics WHERE server_id = $1
         AND (schema_name, table_name) NOT IN (SELECT * FROM unnest($2::text[], $3::text[]))",
    )
    .bind(&reported.server_id)
    .bind(&schemas)
    .bind(&names)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// An instant that an agent told; none if it is before 1970 or after 9999.
fn time(told: prost_types::Timestamp) -> Option<Time> {
    let nanos = u32::try_from(told.nanos).ok()?;
    let seconds = Some(told.seconds).filter(|seconds| (0..253_402_300_800).contains(seconds))?;
    DateTime::from_timestamp(seconds, nanos)
}

/// Asks the agents that this replica holds each `pause` for their numbers and keeps them, until `stopping`.
pub(crate) async fn collect(
    agents: Arc<dyn Agents>,
    resolver: Resolver,
    store: Store,
    pause: Duration,
    stopping: CancellationToken,
) {
    loop {
        let round = stream::iter(agents.held())
            .for_each_concurrent(AT_A_TIME, |held| one(&*agents, &resolver, &store, held, pause));
        tokio::select! {
            () = stopping.cancelled() => return,
            () = round => {}
        }
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn one(agents: &dyn Agents, resolver: &Resolver, store: &Store, held: Held, pause: Duration) {
    let deadline = Instant::now() + AT_MOST;
    let asked = tokio::time::timeout_at(deadline.into(), agents.statistics(&held, deadline)).await;
    let reported = match asked {
        Ok(Ok(reported)) => reported,
        Ok(Err(status)) => {
            tracing::info!(agent = %held.agent, error = %status.code(), "an agent gave no numbers");
            return;
        }
        Err(_) => {
            tracing::info!(agent = %held.agent, "an agent gave no numbers in time");
            return;
        }
    };
    for server in reported.servers.iter().take(SERVERS) {
        let deadline = Instant::now() + AT_MOST;
        let reason = match of_agent(resolver, &held, server, deadline).await {
            Ok(true) => match store.keep(&held, server, pause, deadline).await {
                Ok(stale) => {
                    sweep(resolver, store, held.tenant, &stale, deadline).await;
                    continue;
                }
                Err(error) => error.reason(),
            },
            Ok(false) => "SERVER_NOT_OF_AGENT",
            Err(error) => error.reason(),
        };
        tracing::info!(agent = %held.agent, server = server.server_id, reason, "numbers of a server were not kept");
    }
}

/// Forgets those of these servers that there are no more.
async fn sweep(resolver: &Resolver, store: &Store, tenant: TenantId, stale: &[String], deadline: Instant) {
    for server in stale {
        let found = resolver.server(tenant, server, deadline).await;
        if !matches!(found, Err(resolve::Error::Missing)) {
            continue;
        }
        if let Err(error) = store.forget(tenant, server, deadline).await {
            tracing::info!(
                server,
                reason = error.reason(),
                "numbers of a server that is gone stay for now"
            );
        }
    }
}

/// Whether the agent is one of those that may follow the server.
async fn of_agent(
    resolver: &Resolver,
    held: &Held,
    server: &agent::ServerStatistics,
    deadline: Instant,
) -> Result<bool, resolve::Error> {
    if server.server_id.parse::<ServerId>().is_err() {
        return Ok(false);
    }
    let found = resolver.server(held.tenant, &server.server_id, deadline).await?;
    Ok(found.agents.contains(&held.agent))
}
