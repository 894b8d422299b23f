//! Key-encryption keys.

use std::time::Duration;

use pg::Connection;

use super::seconds;
use crate::error::Error;

/// One that is not destroyed.
#[derive(sqlx::FromRow)]
pub(crate) struct Row {
    pub(crate) version: i64,
    pub(crate) root: String,
    pub(crate) wrapped: Vec<u8>,
}

/// Those that are not destroyed, oldest first.
pub(crate) async fn alive(tx: &mut Connection) -> Result<Vec<Row>, Error> {
    let rows =
        sqlx::query_as("SELECT version, root, wrapped FROM kek WHERE wrapped IS NOT NULL ORDER BY version");
    Ok(rows.fetch_all(&mut *tx).await?)
}

/// The one that wraps new keys. Until the transaction ends it does not go.
pub(crate) async fn active(tx: &mut Connection) -> Result<Option<Row>, Error> {
    let row = sqlx::query_as("SELECT version, root, wrapped FROM kek WHERE state = 'active' FOR KEY SHARE");
    Ok(row.fetch_optional(&mut *tx).await?)
}

/// The newest version there ever was; 0 is none. Whoever makes the next waits here for who makes it now.
pub(crate) async fn newest(tx: &mut Connection) -> Result<i64, Error> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('trailmesh.vault.kek', 0))")
        .execute(&mut *tx)
        .await?;
    let newest = sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM kek");
    Ok(newest.fetch_one(&mut *tx).await?)
}

/// Whether the active one is older than `age`.
pub(crate) async fn due(tx: &mut Connection, age: Duration) -> Result<bool, Error> {
    let due = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM kek WHERE state = 'active' AND create_time < now() - make_interval(secs => $1))",
    );
    Ok(due.bind(seconds(age)).fetch_one(&mut *tx).await?)
}

/// Makes `version` the active one.
pub(crate) async fn add(tx: &mut Connection, version: i64, root: &str, wrapped: &[u8]) -> Result<(), Error> {
    sqlx::query("UPDATE kek SET state = 'draining', supersede_time = now() WHERE state = 'active'")
        .execute(&mut *tx)
        .await?;
    sqlx::query("INSERT INTO kek (version, root, wrapped) VALUES ($1, $2, $3)")
        .bind(version)
        .bind(root)
        .bind(wrapped)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

/// Destroys those that wrap nothing any more, and gives their versions. Who wraps something with one holds its row (see [`active`]), so none is
/// taken from under a new key.
pub(crate) async fn destroy_unused(tx: &mut Connection) -> Result<Vec<i64>, Error> {
    let locked: Vec<i64> =
        sqlx::query_scalar("SELECT version FROM kek WHERE state = 'draining' FOR UPDATE SKIP LOCKED")
            .fetch_all(&mut *tx)
            .await?;
    let gone = sqlx::query_scalar(
        "UPDATE kek SET state = 'destroyed', wrapped = NULL, end_time = now()
         WHERE version = ANY ($1) AND state = 'draining'
         AND NOT EXISTS (SELECT FROM data_key AS d WHERE d.kek_version = kek.version AND d.wrapped IS NOT NULL)
         AND NOT EXISTS (SELECT FROM own_secret AS o WHERE o.kek_version = kek.version)
         RETURNING version",
    );
    Ok(gone.bind(locked).fetch_all(&mut *tx).await?)
}
