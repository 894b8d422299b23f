//! What is left of uploads that are gone, of files that were read, and of attempts that came to no end: it goes some rows at a time, each time in a
//! transaction of its own, because a gigabyte takes longer than anybody may wait.

use pg::Transaction;
use types::Errand;

use super::Store;
use crate::uploads::error::Error;

/// Rows of 1 MiB that go at a time.
const AT_ONCE: i64 = 32;

/// Everything of these uploads is to go, and their keys go now.
pub(super) async fn all(tx: &mut Transaction, uploads: &[String]) -> Result<(), Error> {
    sqlx::query("DELETE FROM upload_key WHERE upload_id = ANY($1)")
        .bind(uploads)
        .execute(&mut **tx)
        .await?;
    parts(tx, uploads).await?;
    files(tx, uploads, i64::MAX, &[]).await
}

/// The parts of these uploads are to go.
pub(super) async fn parts(tx: &mut Transaction, uploads: &[String]) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO upload_rest (upload_id, what) SELECT id, 'parts' FROM unnest($1::text[]) AS id ON CONFLICT DO NOTHING",
    )
    .bind(uploads)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The files of attempts before this one are to go, and of this one those with these names.
pub(super) async fn files(
    tx: &mut Transaction,
    uploads: &[String],
    attempt: i64,
    names: &[String],
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO upload_rest AS r (upload_id, what, attempt, names) SELECT id, 'files', $2, $3 FROM unnest($1::text[]) AS id
         ON CONFLICT (upload_id, what) DO UPDATE SET attempt = greatest(r.attempt, excluded.attempt), names = excluded.names",
    )
    .bind(uploads)
    .bind(attempt)
    .bind(names)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

impl Store {
    /// Deletes some rows of what is to go; whether there may be more.
    pub(in crate::uploads) async fn clear(&self, errand: &Errand) -> Result<bool, Error> {
        let mut tx = self.0.errand(errand).await?;
        let rest: Option<(String, String, i64, Vec<String>)> = sqlx::query_as(
            "SELECT upload_id, what, attempt, names FROM upload_rest LIMIT 1 FOR UPDATE SKIP LOCKED",
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some((upload, what, attempt, names)) = rest else {
            return Ok(false);
        };
        let gone = if what == "parts" {
            sqlx::query(
                "DELETE FROM upload_part WHERE upload_id = $1
                 AND number IN (SELECT number FROM upload_part WHERE upload_id = $1 LIMIT $2)",
            )
            .bind(&upload)
            .bind(AT_ONCE)
        } else {
            sqlx::query(
                "DELETE FROM upload_piece WHERE (upload_id, attempt, name, number) IN (
                     SELECT upload_id, attempt, name, number FROM upload_piece
                     WHERE upload_id = $1 AND (attempt < $3 OR attempt = $3 AND name = ANY($4)) LIMIT $2
                 )",
            )
            .bind(&upload)
            .bind(AT_ONCE)
            .bind(attempt)
            .bind(&names)
        };
        if gone.execute(&mut *tx).await?.rows_affected() == 0 {
            if what == "files" {
                sqlx::query(
                    "DELETE FROM upload_file WHERE upload_id = $1 AND (attempt < $2 OR attempt = $2 AND name = ANY($3))",
                )
                .bind(&upload)
                .bind(attempt)
                .bind(&names)
                .execute(&mut *tx)
                .await?;
            }
            sqlx::query("DELETE FROM upload_rest WHERE upload_id = $1 AND what = $2")
                .bind(&upload)
                .bind(&what)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(true)
    }
}
