//! The files of the store that is made of an upload: their names, and their contents piece by piece.

use sqlx::AssertSqlSafe;
use types::{Errand, UploadId};

use super::{Store, count, whole};
use crate::uploads::error::Error;

/// Whose files are meant: those that one attempt at reading made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::uploads) struct Files {
    pub(in crate::uploads) upload: UploadId,
    pub(in crate::uploads) attempt: i64,
}

impl Store {
    /// The names of all.
    pub(in crate::uploads) async fn names(&self, errand: &Errand, of: Files) -> Result<Vec<String>, Error> {
        let mut tx = self.0.errand(errand).await?;
        let names = sqlx::query_scalar("SELECT name FROM upload_file WHERE upload_id = $1 AND attempt = $2")
            .bind(of.upload.to_string())
            .bind(of.attempt)
            .fetch_all(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(names)
    }

    /// How long a file is; none if there is no such file.
    pub(in crate::uploads) async fn length(
        &self,
        errand: &Errand,
        of: Files,
        name: &str,
    ) -> Result<Option<u64>, Error> {
        let mut tx = self.0.errand(errand).await?;
        let bytes: Option<i64> = sqlx::query_scalar(
            "SELECT bytes FROM upload_file WHERE upload_id = $1 AND attempt = $2 AND name = $3",
        )
        .bind(of.upload.to_string())
        .bind(of.attempt)
        .bind(name)
        .fetch_optional(&mut *tx)
        .await?;
        tx.commit().await?;
        bytes.map(|bytes| count(bytes, "length of a file")).transpose()
    }

    /// A piece, sealed.
    pub(in crate::uploads) async fn piece(
        &self,
        errand: &Errand,
        of: Files,
        name: &str,
        number: u64,
    ) -> Result<Vec<u8>, Error> {
        let mut tx = self.0.errand(errand).await?;
        let sealed: Option<Vec<u8>> = sqlx::query_scalar(
            "SELECT sealed FROM upload_piece WHERE upload_id = $1 AND attempt = $2 AND name = $3 AND number = $4",
        )
        .bind(of.upload.to_string())
        .bind(of.attempt)
        .bind(name)
        .bind(whole(number))
        .fetch_optional(&mut *tx)
        .await?;
        tx.commit().await?;
        // It was deleted while somebody read it, or it was taken away.
        sealed.ok_or(Error::Superseded)
    }

    /// Keeps a piece of a file that is `bytes` long with it. Only the attempt that has the upload may.
    pub(in crate::uploads) async fn put(
        &self,
        errand: &Errand,
        of: Files,
        name: &str,
        bytes: u64,
        piece: Option<(u64, Vec<u8>)>,
    ) -> Result<(), Error> {
        let (upload, attempt) = (of.upload.to_string(), of.attempt);
        let mut tx = self.0.errand(errand).await?;
        let own = sqlx::query(
            "SELECT FROM upload WHERE id = $1 AND attempt = $2 AND state = 'reading' FOR KEY SHARE",
        );
        let own = own.bind(&upload).bind(attempt).fetch_optional(&mut *tx).await?;
        own.ok_or(Error::Superseded)?;
        sqlx::query(
            "INSERT INTO upload_file (upload_id, attempt, name, bytes) VALUES ($1, $2, $3, $4)
             ON CONFLICT (upload_id, attempt, name) DO UPDATE SET bytes = excluded.bytes",
        )
        .bind(&upload)
        .bind(attempt)
        .bind(name)
        .bind(whole(bytes))
        .execute(&mut *tx)
        .await?;
        if let Some((number, sealed)) = piece {
            sqlx::query(
                "INSERT INTO upload_piece (upload_id, attempt, name, number, sealed) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (upload_id, attempt, name, number) DO UPDATE SET sealed = excluded.sealed",
            )
            .bind(&upload)
            .bind(attempt)
            .bind(name)
            .bind(whole(number))
            .bind(sealed)
            .execute(&mut *tx)
            .await?;
        }
        Ok(tx.commit().await?)
    }

    /// Removes a file; that it is gone already is fine.
    pub(in crate::uploads) async fn remove(
        &self,
        errand: &Errand,
        of: Files,
        name: &str,
    ) -> Result<(), Error> {
        let mut tx = self.0.errand(errand).await?;
        for table in ["upload_piece", "upload_file"] {
            let sql = format!("DELETE FROM {table} WHERE upload_id = $1 AND attempt = $2 AND name = $3");
            sqlx::query(AssertSqlSafe(sql))
                .bind(of.upload.to_string())
                .bind(of.attempt)
                .bind(name)
                .execute(&mut *tx)
                .await?;
        }
        Ok(tx.commit().await?)
    }
}
