//! What is to be done for which tenant: the tables that all logs share.

use audit::{Hash, SignedHead};
use opentelemetry::metrics::{Counter, Gauge, Meter};
use pg::Transaction;
use sqlx::types::chrono::{DateTime, Utc};
use types::{Micros, TenantId};

use super::Error;

/// What is counted.
#[derive(Clone, Debug)]
pub(super) struct Measure {
    /// Events and intents of tenants that are gone.
    pub(super) dropped: Counter<u64>,
    /// Events that cannot be understood.
    pub(super) set_aside: Counter<u64>,
    /// Intents that nobody answered.
    pub(super) unknown: Counter<u64>,
    /// Records that retention removed.
    pub(super) trimmed: Counter<u64>,
    /// Chains that have grown since they were signed.
    pub(super) unsigned: Gauge<u64>,
    /// For how many seconds the longest of them.
    pub(super) behind: Gauge<f64>,
}

impl Measure {
    pub(super) fn new(meter: &Meter) -> Self {
        let counter = |name, text| meter.u64_counter(name).with_description(text).build();
        Self {
            dropped: counter(
                "tenant.audit.dropped",
                "Audit events and intents of tenants that are gone",
            ),
            set_aside: counter(
                "tenant.audit.set_aside",
                "Audit events in the inbox that cannot be understood",
            ),
            unknown: counter(
                "tenant.audit.unknown",
                "Intents that were closed because nobody told how they ended",
            ),
            trimmed: counter("tenant.audit.trimmed", "Records that retention removed"),
            unsigned: meter
                .u64_gauge("tenant.audit.unsigned_chains")
                .with_description("Audit logs that have grown since the vault signed their end")
                .build(),
            behind: meter
                .f64_gauge("tenant.audit.unsigned_age")
                .with_unit("s")
                .with_description("For how long the audit log has grown that waits longest for a signature")
                .build(),
        }
    }
}

/// Takes the lock of a task for the transaction; whoever does not get it leaves the task to another replica.
pub(super) async fn try_lock(tx: &mut Transaction, task: &str) -> Result<bool, Error> {
    Ok(
        sqlx::query_scalar("SELECT pg_try_advisory_xact_lock(hashtextextended('tenant ' || $1, 0))")
            .bind(task)
            .fetch_one(&mut **tx)
            .await?,
    )
}

/// An event on its way.
pub(super) struct Waiting {
    pub(super) id: String,
    pub(super) tenant: Option<String>,
    pub(super) event: String,
    pub(super) tenants: Vec<String>,
}

/// The events that are due, each with the tenants that there are among those it is for.
pub(super) async fn due_events(tx: &mut Transaction, limit: i64) -> Result<Vec<Waiting>, Error> {
    let rows: Vec<(String, Option<String>, String, Vec<String>)> = sqlx::query_as(
        "SELECT i.id, i.tenant_id, i.event::text,
             CASE WHEN i.tenant_id IS NOT NULL THEN ARRAY(SELECT t.id FROM tenant.tenant AS t WHERE t.id = i.tenant_id)
             ELSE ARRAY(SELECT s.tenant_id FROM tenant.seat AS s WHERE s.user_id = i.user_id ORDER BY s.tenant_id LIMIT 100) END
         FROM tenant.audit_inbox AS i WHERE i.problem IS NULL AND i.due_time <= now() ORDER BY i.due_time, i.id LIMIT $1",
    )
    .bind(limit)
    .fetch_all(&mut **tx)
    .await?;
    let waiting = |(id, tenant, event, tenants)| Waiting {
        id,
        tenant,
        event,
        tenants,
    };
    Ok(rows.into_iter().map(waiting).collect())
}

/// These have arrived, or have nowhere to go.
pub(super) async fn forget_events(tx: &mut Transaction, ids: &[String]) -> Result<(), Error> {
    sqlx::query("DELETE FROM tenant.audit_inbox WHERE id = ANY($1)")
        .bind(ids)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// These are tried again, the later the oftener they were.
pub(super) async fn put_off_events(tx: &mut Transaction, ids: &[String]) -> Result<(), Error> {
    sqlx::query(
        "UPDATE tenant.audit_inbox SET attempts = attempts + 1, due_time = now() + least(attempts + 1, 60) * interval '1 second'
         WHERE id = ANY($1)",
    )
    .bind(ids)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// This one stays for a person to look at.
pub(super) async fn set_event_aside(tx: &mut Transaction, id: &str, problem: &str) -> Result<(), Error> {
    sqlx::query("UPDATE tenant.audit_inbox SET problem = left($2, 500) WHERE id = $1")
        .bind(id)
        .bind(problem)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Intents whose result is not coming any more, by tenant; of tenants that are here.
pub(super) async fn lost_intents(tx: &mut Transaction, limit: i64) -> Result<Vec<(String, String)>, Error> {
    Ok(sqlx::query_as(
        "SELECT i.tenant_id, i.id FROM tenant.audit_intent AS i
         JOIN tenant.tenant AS t ON t.id = i.tenant_id AND t.state IN ('active', 'suspended')
         WHERE i.due_time <= now() ORDER BY i.due_time LIMIT $1",
    )
    .bind(limit)
    .fetch_all(&mut **tx)
    .await?)
}

/// What is to be closed of these tenants is tried again in a minute.
pub(super) async fn put_off_intents(tx: &mut Transaction, tenants: &[String]) -> Result<(), Error> {
    sqlx::query(
        "UPDATE tenant.audit_intent SET due_time = now() + interval '1 minute' WHERE tenant_id = ANY($1) AND due_time <= now()",
    )
    .bind(tenants)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// This intent waits for nothing any more.
pub(super) async fn forget_intent(tx: &mut Transaction, tenant: &str, id: &str) -> Result<(), Error> {
    sqlx::query("DELETE FROM tenant.audit_intent WHERE tenant_id = $1 AND id = $2")
        .bind(tenant)
        .bind(id)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// The end of a chain that is to be signed.
pub(super) struct End {
    pub(super) tenant: TenantId,
    pub(super) size: i64,
    pub(super) hash: Hash,
}

type Row = (String, i64, Vec<u8>);

fn end((tenant, size, hash): Row) -> Result<End, Error> {
    Ok(End {
        tenant: tenant.parse().map_err(|_| Error::Stored(size))?,
        size,
        hash: Hash::from_bytes(&hash).ok_or(Error::Stored(size))?,
    })
}

/// Takes ends that are ahead of their signature and were not tried since `rest` microseconds, or are a thousand records ahead.
pub(super) async fn take_unsigned(tx: &mut Transaction, rest: i64, limit: i64) -> Result<Vec<End>, Error> {
    let rows: Vec<Row> = sqlx::query_as(
        "WITH due AS MATERIALIZED (
             SELECT g.tenant_id FROM tenant.audit_chain AS g
             JOIN tenant.tenant AS t ON t.id = g.tenant_id AND t.state IN ('active', 'suspended')
             WHERE g.size > g.signed_size
                 AND (g.try_time IS NULL OR g.try_time < now() - $1 * interval '1 microsecond'
                      OR g.size - g.signed_size >= 1000 AND g.try_time < now() - interval '500 milliseconds')
             ORDER BY g.try_time NULLS FIRST LIMIT $2 FOR UPDATE OF g SKIP LOCKED
         )
         UPDATE tenant.audit_chain AS c SET try_time = now() FROM due
         WHERE c.tenant_id = due.tenant_id RETURNING c.tenant_id, c.size, c.hash",
    )
    .bind(rest)
    .bind(limit)
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter().map(end).collect()
}

/// The end of a tenant's chain as it is now.
pub(super) async fn chain_end(tx: &mut Transaction, tenant: TenantId) -> Result<Option<End>, Error> {
    let row: Option<Row> =
        sqlx::query_as("SELECT tenant_id, size, hash FROM tenant.audit_chain WHERE tenant_id = $1")
            .bind(tenant.to_string())
            .fetch_optional(&mut **tx)
            .await?;
    row.map(end).transpose()
}

/// Notes that the vault has signed up to `size`.
pub(super) async fn signed(
    tx: &mut Transaction,
    tenant: TenantId,
    size: i64,
    head: &SignedHead,
) -> Result<(), Error> {
    sqlx::query(
        "UPDATE tenant.audit_chain SET signed_size = $2, statement = $3, signature = $4, key_id = $5,
             ahead_since = CASE WHEN size > $2 THEN now() END WHERE tenant_id = $1 AND signed_size < $2",
    )
    .bind(tenant.to_string())
    .bind(size)
    .bind(&head.statement)
    .bind(&head.signature)
    .bind(&head.key_id)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The last head that the vault gave us.
pub(super) async fn last_signed(tx: &mut Transaction, tenant: TenantId) -> Result<Option<SignedHead>, Error> {
    let row: Option<(String, String, String)> = sqlx::query_as(
        "SELECT statement, signature, key_id FROM tenant.audit_chain
         WHERE tenant_id = $1 AND statement IS NOT NULL AND signature IS NOT NULL AND key_id IS NOT NULL",
    )
    .bind(tenant.to_string())
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|(statement, signature, key_id)| SignedHead {
        statement,
        signature,
        key_id,
    }))
}

/// How many chains are ahead of their signature, and since when the longest.
pub(super) async fn unsigned(tx: &mut Transaction) -> Result<(u64, Option<Micros>), Error> {
    let (count, since): (i64, Option<DateTime<Utc>>) = sqlx::query_as(
        "SELECT count(*), min(c.ahead_since) FROM tenant.audit_chain AS c
         JOIN tenant.tenant AS t ON t.id = c.tenant_id AND t.state IN ('active', 'suspended') WHERE c.size > c.signed_size",
    )
    .fetch_one(&mut **tx)
    .await?;
    Ok((
        u64::try_from(count).unwrap_or_default(),
        since.map(|since| Micros(since.timestamp_micros())),
    ))
}

/// Tenants that are here, and whose logs were not looked at for what is too old since a day.
pub(super) async fn untrimmed(tx: &mut Transaction, limit: i64) -> Result<Vec<String>, Error> {
    Ok(sqlx::query_scalar(
        "SELECT c.tenant_id FROM tenant.audit_chain AS c
         JOIN tenant.tenant AS t ON t.id = c.tenant_id AND t.state IN ('active', 'suspended')
         WHERE c.trim_time <= now() - interval '1 day' ORDER BY c.trim_time LIMIT $1",
    )
    .bind(limit)
    .fetch_all(&mut **tx)
    .await?)
}

/// Whose log is still to be looked at, because that failed, is asked for again in an hour and not at once: the others come first.
pub(super) async fn looked_at(tx: &mut Transaction, tenant: &str) -> Result<(), Error> {
    sqlx::query("UPDATE tenant.audit_chain SET trim_time = greatest(trim_time, now() - interval '23 hours') WHERE tenant_id = $1")
        .bind(tenant)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Forgets what there is of tenants that are gone or have moved away; how many intents were lost so.
pub(super) async fn forget_gone(tx: &mut Transaction) -> Result<u64, Error> {
    let intents = sqlx::query(
        "DELETE FROM tenant.audit_intent AS i WHERE NOT EXISTS (SELECT FROM tenant.tenant AS t WHERE t.id = i.tenant_id)",
    )
    .execute(&mut **tx)
    .await?;
    // Those of a tenant that has moved went along.
    sqlx::query(
        "DELETE FROM tenant.audit_intent AS i WHERE EXISTS (SELECT FROM tenant.tenant AS t WHERE t.id = i.tenant_id AND t.state = 'moved')",
    )
    .execute(&mut **tx)
    .await?;
    sqlx::query(
        "DELETE FROM tenant.audit_chain AS c
         WHERE NOT EXISTS (SELECT FROM tenant.tenant AS t WHERE t.id = c.tenant_id AND t.state <> 'moved')",
    )
    .execute(&mut **tx)
    .await?;
    Ok(intents.rows_affected())
}
