//! Uploads whose tables may be those of another one under other names.

use sqlx::AssertSqlSafe;
use types::Errand;

use super::{Files, ROW, Row, Store};
use crate::uploads::{error::Error, upload::Upload};

impl Store {
    /// The files of the others that can be asked, the newest first, at most so many: if it is said whose log it is, those of the same server and
    /// those of which it is not said; else all.
    pub(in crate::uploads) async fn kin(
        &self,
        errand: &Errand,
        upload: &Upload,
        most: u32,
    ) -> Result<Vec<Files>, Error> {
        let mut tx = self.0.errand(errand).await?;
        let rows: Vec<Row> = sqlx::query_as(AssertSqlSafe(format!(
            "{ROW} WHERE state = 'ready' AND id <> $1 AND expire_time > now()
             AND ($2::text IS NULL OR server_id IS NULL OR server_id = $2) ORDER BY id DESC LIMIT $3"
        )))
        .bind(upload.id.to_string())
        .bind(upload.server.map(|id| id.to_string()))
        .bind(i64::from(most))
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        let uploads = rows.into_iter().map(Upload::try_from);
        let files = uploads.map(|upload| {
            upload.map(|upload| Files {
                upload: upload.id,
                attempt: upload.attempt,
            })
        });
        files.collect()
    }
}
