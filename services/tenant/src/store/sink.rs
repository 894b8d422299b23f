//! Sinks of the audit log: what they are in the tenant's registry, how far they have come in the directory.

use std::collections::HashMap;

use audit::format::Format;
use pg::{OnConstraint as _, Transaction};
use types::{Plan, SinkId, TenantId};

use super::{Time, micros, part, stored};
use crate::{
    clients::{sealer::Sealed, sink_secret::Envelope},
    domain::{
        page::Page,
        sink::{Progress, Sink, Target},
    },
    error::{Error, Noun},
};

/// The most waiting entries that are counted.
const MOST_COUNTED: i64 = 100_000;

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    name: String,
    kind: String,
    url: String,
    format: String,
    create_time: Time,
}

impl TryFrom<Row> for Sink {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        Ok(Self {
            id: stored(&row.id, "sink id")?,
            name: row.name,
            target: Target::stored(&row.kind, &row.url).ok_or(Error::Stored("place of a sink"))?,
            format: Format::parse(&row.format).ok_or(Error::Stored("format of a sink"))?,
            created: micros(row.create_time),
        })
    }
}

/// How many sinks there are; in the registry.
pub(crate) async fn count(tx: &mut Transaction) -> Result<i64, Error> {
    let count = sqlx::query_scalar("SELECT count(*) FROM audit_sink");
    Ok(count.fetch_one(&mut **tx).await?)
}

/// Writes a new sink, and tells when; in the registry.
pub(crate) async fn insert(
    tx: &mut Transaction,
    sink: &Sink,
    secret: Option<&Sealed>,
) -> Result<Sink, Error> {
    let row: Row = sqlx::query_as(
        "INSERT INTO audit_sink (id, name, kind, url, format, secret_envelope, secret_key_version)
         VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id, name, kind, url, format, create_time",
    )
    .bind(sink.id.to_string())
    .bind(&sink.name)
    .bind(sink.target.word())
    .bind(sink.target.url())
    .bind(sink.format.word())
    .bind(secret.map(|secret| secret.envelope.as_str()))
    .bind(secret.map_or(0, |secret| secret.key_version))
    .fetch_one(&mut **tx)
    .await
    .on_constraint("audit_sink_name_key", || Error::NameTaken(Noun::Sink))?;
    row.try_into()
}

/// Has a new sink begin after this sequence; in the directory.
pub(crate) async fn begin(
    tx: &mut Transaction,
    tenant: TenantId,
    sink: SinkId,
    after: i64,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO tenant.audit_delivery (tenant_id, sink_id, delivered_sequence) VALUES ($1, $2, $3)",
    )
    .bind(tenant.to_string())
    .bind(sink.to_string())
    .bind(after)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The sinks by name; in the registry.
pub(crate) async fn list(tx: &mut Transaction, page: &Page) -> Result<Vec<Sink>, Error> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT id, name, kind, url, format, create_time FROM audit_sink
         WHERE $1::text IS NULL OR name > $1 ORDER BY name LIMIT $2",
    )
    .bind(part(page.after.as_ref(), 0))
    .bind(page.limit())
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter().map(Sink::try_from).collect()
}

/// How many entries ended after this sequence; in the registry.
pub(crate) async fn behind(tx: &mut Transaction, after: i64) -> Result<i64, Error> {
    let count = sqlx::query_scalar(
        "SELECT count(*) FROM (
             SELECT FROM audit_record WHERE seq > $1 AND part IN ('result', 'event') LIMIT $2
         ) AS waiting",
    );
    Ok(count.bind(after).bind(MOST_COUNTED).fetch_one(&mut **tx).await?)
}

/// How far the tenant's sinks have come; in the directory.
pub(crate) async fn progress(
    tx: &mut Transaction,
    tenant: TenantId,
) -> Result<HashMap<SinkId, Progress>, Error> {
    let rows: Vec<(String, i64, String, Option<Time>)> = sqlx::query_as(
        "SELECT sink_id, delivered_sequence, last_error, last_attempt_time FROM tenant.audit_delivery WHERE tenant_id = $1",
    )
    .bind(tenant.to_string())
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter()
        .map(|(sink, delivered, last_error, last_attempt)| {
            let progress = Progress {
                delivered,
                behind: 0,
                last_error,
                last_attempt: last_attempt.map(micros),
            };
            Ok((stored(&sink, "sink id")?, progress))
        })
        .collect()
}

/// Forgets a sink; in the registry.
pub(crate) async fn delete(tx: &mut Transaction, sink: SinkId) -> Result<(), Error> {
    let done = sqlx::query("DELETE FROM audit_sink WHERE id = $1")
        .bind(sink.to_string())
        .execute(&mut **tx)
        .await?;
    if done.rows_affected() == 0 {
        return Err(Error::Missing(Noun::Sink));
    }
    Ok(())
}

/// Forgets how far it had come; in the directory.
pub(crate) async fn end(tx: &mut Transaction, tenant: TenantId, sink: SinkId) -> Result<(), Error> {
    sqlx::query("DELETE FROM tenant.audit_delivery WHERE tenant_id = $1 AND sink_id = $2")
        .bind(tenant.to_string())
        .bind(sink.to_string())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// A sink for which entries wait, leased to this process.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) tenant: TenantId,
    pub(crate) sink: SinkId,
    pub(crate) plan: Plan,
    pub(crate) delivered: i64,
    pub(crate) attempts: u32,
    pub(crate) file_mark: String,
    pub(crate) lease: String,
}

/// Leases at most `most` sinks that are due, for half a minute: those that took the last time, or those that did not. In the directory.
pub(crate) async fn claim(
    tx: &mut Transaction,
    failing: bool,
    most: usize,
    lease: &str,
) -> Result<Vec<Claim>, Error> {
    let rows: Vec<(String, String, String, i64, i32, String)> = sqlx::query_as(
        "WITH due AS MATERIALIZED (
             SELECT w.sink_id, t.plan FROM tenant.audit_delivery AS w
             JOIN tenant.audit_chain AS c ON c.tenant_id = w.tenant_id AND c.size > w.delivered_sequence
             JOIN tenant.tenant AS t ON t.id = w.tenant_id AND t.state = 'active'
             WHERE w.due_time <= now() AND w.lease_until < now() AND (w.attempts > 0) = $1
             ORDER BY w.due_time LIMIT $2 FOR UPDATE OF w SKIP LOCKED
         )
         UPDATE tenant.audit_delivery AS d SET lease = $3, lease_until = now() + interval '30 seconds'
         FROM due WHERE d.sink_id = due.sink_id
         RETURNING d.tenant_id, d.sink_id, due.plan, d.delivered_sequence, d.attempts, d.file_mark",
    )
    .bind(failing)
    .bind(i64::try_from(most).unwrap_or(i64::MAX))
    .bind(lease)
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter()
        .map(|(tenant, sink, plan, delivered, attempts, file_mark)| {
            Ok(Claim {
                tenant: stored(&tenant, "tenant id")?,
                sink: stored(&sink, "sink id")?,
                plan: stored(&plan, "plan")?,
                delivered,
                attempts: u32::try_from(attempts).unwrap_or_default(),
                file_mark,
                lease: lease.to_owned(),
            })
        })
        .collect()
}

/// A sink as delivery needs it.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) sink: Sink,
    pub(crate) secret: Option<Envelope>,
    /// Which of the tenant's sinks it is by age; the oldest is 1.
    pub(crate) rank: i64,
}

/// One sink with its sealed secret; in the registry.
pub(crate) async fn load(
    tx: &mut Transaction,
    tenant: TenantId,
    sink: SinkId,
) -> Result<Option<Loaded>, Error> {
    #[derive(sqlx::FromRow)]
    struct Whole {
        #[sqlx(flatten)]
        row: Row,
        secret_envelope: Option<String>,
        secret_version: i64,
        rank: i64,
    }
    let whole: Option<Whole> = sqlx::query_as(
        "SELECT id, name, kind, url, format, create_time, secret_envelope, secret_version,
             (SELECT count(*) FROM audit_sink AS o WHERE (o.create_time, o.id) <= (s.create_time, s.id)) AS rank
         FROM audit_sink AS s WHERE id = $1",
    )
    .bind(sink.to_string())
    .fetch_optional(&mut **tx)
    .await?;
    whole
        .map(|whole| {
            Ok(Loaded {
                sink: whole.row.try_into()?,
                secret: whole.secret_envelope.map(|text| Envelope {
                    tenant,
                    sink,
                    version: whole.secret_version,
                    text,
                }),
                rank: whole.rank,
            })
        })
        .transpose()
}

/// Notes that everything up to this sequence was taken, and keeps the lease. `notice` is none where nothing had to be brought. False when another has it: then nothing is noted. In the
/// directory.
pub(crate) async fn advance(
    tx: &mut Transaction,
    claim: &Claim,
    through: i64,
    mark: &str,
    notice: Option<&str>,
) -> Result<bool, Error> {
    let done = sqlx::query(
        "UPDATE tenant.audit_delivery SET delivered_sequence = greatest(delivered_sequence, $3), file_mark = $4,
             last_error = coalesce($5, last_error), last_attempt_time = CASE WHEN $5 IS NULL THEN last_attempt_time ELSE now() END, lease_until = now() + interval '30 seconds'
         WHERE sink_id = $1 AND lease = $2",
    )
    .bind(claim.sink.to_string())
    .bind(&claim.lease)
    .bind(through)
    .bind(mark)
    .bind(notice)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Ends the lease of a sink that took what there was. One that is slow goes to those that fail, who have places of their own. In the
/// directory.
pub(crate) async fn release(tx: &mut Transaction, claim: &Claim, slow: bool) -> Result<(), Error> {
    sqlx::query(
        "UPDATE tenant.audit_delivery SET lease = '', lease_until = '-infinity', due_time = now(), attempts = $3 WHERE sink_id = $1 AND lease = $2",
    )
    .bind(claim.sink.to_string())
    .bind(&claim.lease)
    .bind(i32::from(slow))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Ends the lease of a sink that did not take: when it is tried again, and why it did not. In the directory.
pub(crate) async fn failed(
    tx: &mut Transaction,
    claim: &Claim,
    wait_ms: i64,
    why: &str,
) -> Result<(), Error> {
    sqlx::query(
        "UPDATE tenant.audit_delivery SET lease = '', lease_until = '-infinity', attempts = least(attempts + 1, 1000),
             due_time = now() + $3 * interval '1 millisecond', last_attempt_time = now(), last_error = left($4, 300)
         WHERE sink_id = $1 AND lease = $2",
    )
    .bind(claim.sink.to_string())
    .bind(&claim.lease)
    .bind(wait_ms)
    .bind(why)
    .execute(&mut **tx)
    .await?;
    Ok(())
}
