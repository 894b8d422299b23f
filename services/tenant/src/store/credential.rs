//! Credentials of servers, in the tenant's registry: sealed by the vault, which made the table. Nothing here can open one.

use pg::Transaction;
use types::{Micros, ServerId};

use super::{Time, micros, stored};
use crate::{
    clients::sealer::Sealed,
    domain::credential::{Credential, Kind},
    error::Error,
};

#[derive(sqlx::FromRow)]
struct Row {
    kind: String,
    version: i64,
    key_version: i64,
    set_time: Time,
}

impl TryFrom<Row> for Credential {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        Ok(Self {
            kind: stored(&row.kind, "kind of a credential")?,
            version: row.version,
            key_version: row.key_version,
            set: Micros(micros(row.set_time).0),
        })
    }
}

/// The last version that a server's credential of this kind has had; 0 before the first.
pub(crate) async fn last_version(tx: &mut Transaction, server: ServerId, kind: Kind) -> Result<i64, Error> {
    let last = sqlx::query_scalar("SELECT last FROM credential_version WHERE server_id = $1 AND kind = $2");
    let last: Option<i64> = last
        .bind(server.to_string())
        .bind(kind.word())
        .fetch_optional(&mut **tx)
        .await?;
    Ok(last.unwrap_or(0))
}

/// Keeps what was sealed for this version, if the version is the next one still.
pub(crate) async fn put(
    tx: &mut Transaction,
    server: ServerId,
    kind: Kind,
    version: i64,
    sealed: &Sealed,
) -> Result<Option<Credential>, Error> {
    let counted = sqlx::query(
        "INSERT INTO credential_version AS v (server_id, kind, last) VALUES ($1, $2, $3)
         ON CONFLICT (server_id, kind) DO UPDATE SET last = excluded.last WHERE v.last = excluded.last - 1",
    )
    .bind(server.to_string())
    .bind(kind.word())
    .bind(version)
    .execute(&mut **tx)
    .await?;
    if counted.rows_affected() == 0 {
        return Ok(None);
    }
    let row: Row = sqlx::query_as(
        "INSERT INTO credential (server_id, kind, field, envelope, key_version, version) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (server_id, kind) DO UPDATE
         SET field = excluded.field, envelope = excluded.envelope, key_version = excluded.key_version,
             version = excluded.version, set_time = now()
         RETURNING kind, version, key_version, set_time",
    )
    .bind(server.to_string())
    .bind(kind.word())
    .bind(kind.field())
    .bind(&sealed.envelope)
    .bind(sealed.key_version)
    .bind(version)
    .fetch_one(&mut **tx)
    .await?;
    row.try_into().map(Some)
}

/// What a server has.
pub(crate) async fn list(tx: &mut Transaction, server: ServerId) -> Result<Vec<Credential>, Error> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT kind, version, key_version, set_time FROM credential WHERE server_id = $1 ORDER BY kind COLLATE \"C\"",
    )
    .bind(server.to_string())
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter().map(Credential::try_from).collect()
}

/// Takes one away; its version stays counted.
pub(crate) async fn delete(tx: &mut Transaction, server: ServerId, kind: Kind) -> Result<(), Error> {
    sqlx::query("DELETE FROM credential WHERE server_id = $1 AND kind = $2")
        .bind(server.to_string())
        .bind(kind.word())
        .execute(&mut **tx)
        .await?;
    Ok(())
}
