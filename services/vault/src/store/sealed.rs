//! The tables of tenants that hold envelopes. All of them are here: what is not listed is not sealed anew, and would be lost with its key.

use pg::Connection;
use sqlx::AssertSqlSafe;

use super::stored;
use crate::{
    domain::place::{Kind, Place},
    error::Error,
};

/// A table of every tenant's schema that holds envelopes.
pub(crate) struct Sealed {
    /// Its name.
    pub(crate) table: &'static str,
    /// What the envelope belongs to.
    id: &'static str,
    /// An expression for the kind.
    kind: &'static str,
    /// An expression for the field.
    field: &'static str,
    envelope: &'static str,
    version: &'static str,
    key_version: &'static str,
}

/// Every such table.
pub(crate) const SEALED: &[Sealed] = &[
    Sealed {
        table: "credential",
        id: "server_id",
        kind: "kind",
        field: "field",
        envelope: "envelope",
        version: "version",
        key_version: "key_version",
    },
    Sealed {
        table: "audit_sink",
        id: "id",
        kind: "'sink_secret'::text",
        field: "'secret'::text",
        envelope: "secret_envelope",
        version: "secret_version",
        key_version: "secret_key_version",
    },
    Sealed {
        table: "upload_key",
        id: "upload_id",
        kind: "'upload_key'::text",
        field: "'key'::text",
        envelope: "envelope",
        version: "version",
        key_version: "key_version",
    },
];

/// Values that are listed as sealed with a version: several times what a plan has room for at once, and no more than an answer holds.
const EXPOSED_AT_MOST: usize = 50_000;

/// One envelope and where it belongs.
pub(crate) struct Row {
    pub(crate) place: Place,
    pub(crate) key_version: i64,
    pub(crate) envelope: String,
}

impl Row {
    /// Where it stands in its table's order.
    pub(crate) fn mark(&self) -> (String, String) {
        (self.place.record.clone(), self.place.kind.word().to_owned())
    }
}

/// What a row becomes.
pub(crate) struct Renewed {
    pub(crate) row: Row,
    pub(crate) key_version: i64,
    pub(crate) envelope: String,
}

/// How many values are sealed with which version.
pub(crate) async fn counts(tx: &mut Connection) -> Result<Vec<(i64, i64)>, Error> {
    let mut all: Vec<(i64, i64)> = Vec::new();
    for table in SEALED {
        let sql = format!(
            "SELECT {}, count(*) FROM {} WHERE {} IS NOT NULL GROUP BY 1",
            table.key_version, table.table, table.envelope
        );
        let found: Vec<(i64, i64)> = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut *tx).await?;
        for (version, count) in found {
            match all.iter_mut().find(|(known, _)| *known == version) {
                Some((_, sum)) => *sum += count,
                None => all.push((version, count)),
            }
        }
    }
    Ok(all)
}

/// Rows of a table that are sealed with a version before `active`, after the key `after` (id, kind), in order.
pub(crate) async fn behind(
    tx: &mut Connection,
    table: &Sealed,
    tenant: types::TenantId,
    active: i64,
    after: &(String, String),
    most: i64,
) -> Result<Vec<Row>, Error> {
    type Columns = (String, String, String, i64, i64, String);
    let sql = format!(
        "SELECT {id}, {kind}, {field}, {version}, {key_version}, {envelope} FROM {name}
         WHERE {key_version} < $1 AND {envelope} IS NOT NULL AND ({id}, {kind}) > ($2, $3)
         ORDER BY {id}, {kind} LIMIT $4",
        id = table.id,
        kind = table.kind,
        field = table.field,
        version = table.version,
        key_version = table.key_version,
        envelope = table.envelope,
        name = table.table,
    );
    let rows: Vec<Columns> = sqlx::query_as(AssertSqlSafe(sql))
        .bind(active)
        .bind(&after.0)
        .bind(&after.1)
        .bind(most)
        .fetch_all(&mut *tx)
        .await?;
    rows.into_iter()
        .map(|(record, kind, field, version, key_version, envelope)| {
            let kind: Kind = stored(&kind, "kind of a secret")?;
            Ok(Row {
                place: Place {
                    tenant,
                    kind,
                    record,
                    field,
                    version,
                },
                key_version,
                envelope,
            })
        })
        .collect()
}

/// Puts the new envelopes where the old ones still are, and gives how many that were.
pub(crate) async fn renew(tx: &mut Connection, table: &Sealed, rows: &[Renewed]) -> Result<u64, Error> {
    let sql = format!(
        "UPDATE {name} AS t SET {envelope} = n.fresh, {key_version} = n.key_version
         FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[]) AS n (id, kind, old, fresh, key_version)
         WHERE t.{id} = n.id AND {kind} = n.kind AND t.{envelope} = n.old",
        name = table.table,
        envelope = table.envelope,
        key_version = table.key_version,
        id = table.id,
        kind = if table.kind.starts_with('\'') {
            table.kind.to_owned()
        } else {
            format!("t.{}", table.kind)
        },
    );
    let texts = |of: fn(&Renewed) -> &str| rows.iter().map(of).collect::<Vec<_>>();
    let done = sqlx::query(AssertSqlSafe(sql))
        .bind(texts(|row| &row.row.place.record))
        .bind(texts(|row| row.row.place.kind.word()))
        .bind(texts(|row| &row.row.envelope))
        .bind(texts(|row| &row.envelope))
        .bind(rows.iter().map(|row| row.key_version).collect::<Vec<_>>())
        .execute(&mut *tx)
        .await?;
    Ok(done.rows_affected())
}

/// On the shared side: notes what was under the versions that rows came from.
pub(crate) async fn note_was_under(tx: &mut Connection, rows: &[Renewed]) -> Result<(), Error> {
    let Some(first) = rows.first() else {
        return Ok(());
    };
    let texts = |of: fn(&Renewed) -> &str| rows.iter().map(of).collect::<Vec<_>>();
    sqlx::query(
        "INSERT INTO was_under (tenant_id, key_version, record_id, kind, version)
         SELECT $1, n.key_version, n.id, n.kind, n.version
         FROM unnest($2::bigint[], $3::text[], $4::text[], $5::bigint[]) AS n (key_version, id, kind, version)
         ON CONFLICT (tenant_id, key_version, record_id, kind) DO UPDATE SET version = excluded.version",
    )
    .bind(first.row.place.tenant.to_string())
    .bind(rows.iter().map(|row| row.row.key_version).collect::<Vec<_>>())
    .bind(texts(|row| &row.row.place.record))
    .bind(texts(|row| row.row.place.kind.word()))
    .bind(rows.iter().map(|row| row.row.place.version).collect::<Vec<_>>())
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// On the shared side: what was sealed with a version. At most [`EXPOSED_AT_MOST`]; where there is more, the log says so.
pub(crate) async fn was_under(
    tx: &mut Connection,
    tenant: types::TenantId,
    version: i64,
) -> Result<Vec<(String, String)>, Error> {
    let rows = sqlx::query_as(
        "SELECT record_id, kind FROM was_under WHERE tenant_id = $1 AND key_version = $2 ORDER BY record_id, kind LIMIT $3",
    );
    let mut rows: Vec<(String, String)> = rows
        .bind(tenant.to_string())
        .bind(version)
        .bind(EXPOSED_AT_MOST as i64 + 1)
        .fetch_all(&mut *tx)
        .await?;
    if rows.len() > EXPOSED_AT_MOST {
        rows.truncate(EXPOSED_AT_MOST);
        tracing::error!(%tenant, version, most = EXPOSED_AT_MOST, "more was sealed with this version than the list has");
    }
    Ok(rows)
}
