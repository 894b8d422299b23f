//! Secrets of the cell itself, sealed by a KEK.

use pg::Connection;

use crate::{error::Error, keys::Own};

/// One, with its KEK as it is stored.
#[derive(sqlx::FromRow)]
pub(crate) struct Row {
    pub(crate) purpose: String,
    pub(crate) id: String,
    pub(crate) kek_version: i64,
    pub(crate) sealed: Vec<u8>,
}

impl Row {
    pub(crate) fn own(&self) -> Own {
        Own {
            kek_version: self.kek_version,
            sealed: self.sealed.clone(),
        }
    }
}

/// Keeps a new one, which was sealed in this transaction: its KEK is there until this ends.
pub(crate) async fn insert(tx: &mut Connection, purpose: &str, id: &str, own: &Own) -> Result<(), Error> {
    sqlx::query("INSERT INTO own_secret (purpose, id, kek_version, sealed) VALUES ($1, $2, $3, $4)")
        .bind(purpose)
        .bind(id)
        .bind(own.kek_version)
        .bind(&own.sealed)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

/// Those of a purpose, newest first.
pub(crate) async fn read(tx: &mut Connection, purpose: &str) -> Result<Vec<(String, Own)>, Error> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT purpose, id, kek_version, sealed FROM own_secret WHERE purpose = $1 ORDER BY create_time DESC, id DESC",
    )
    .bind(purpose)
    .fetch_all(&mut *tx)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let own = row.own();
            (row.id, own)
        })
        .collect())
}

/// Some, after this purpose and id, that are not sealed by the KEK `active`, in order. They stay locked.
pub(crate) async fn behind(
    tx: &mut Connection,
    active: i64,
    after: &(String, String),
    most: i64,
) -> Result<Vec<Row>, Error> {
    let rows = sqlx::query_as(
        "SELECT purpose, id, kek_version, sealed FROM own_secret
         WHERE kek_version <> $1 AND (purpose, id) > ($2, $3)
         ORDER BY purpose, id LIMIT $4 FOR UPDATE SKIP LOCKED",
    );
    let rows = rows.bind(active).bind(&after.0).bind(&after.1).bind(most);
    Ok(rows.fetch_all(&mut *tx).await?)
}

/// The same secret under another KEK.
pub(crate) async fn rewrap(tx: &mut Connection, row: &Row, own: &Own) -> Result<(), Error> {
    sqlx::query("UPDATE own_secret SET kek_version = $3, sealed = $4 WHERE purpose = $1 AND id = $2")
        .bind(&row.purpose)
        .bind(&row.id)
        .bind(own.kek_version)
        .bind(&own.sealed)
        .execute(&mut *tx)
        .await?;
    Ok(())
}
