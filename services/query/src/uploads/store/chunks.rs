//! The file as it comes: sealed chunks of [`PART`] bytes, of which only the last may be shorter.

use pg::Transaction;
use types::{Errand, UploadId};

use super::{Store, locked, whole};
use crate::uploads::{
    error::Error,
    seal::{Key, Place},
    upload::{PART, State},
};

/// A chunk of a file that is being filled.
#[derive(Clone, Copy, Debug)]
pub(in crate::uploads) struct Chunk<'a> {
    /// Which, from 0.
    pub(in crate::uploads) number: u64,
    /// All of its bytes so far: 1 to [`PART`].
    pub(in crate::uploads) data: &'a [u8],
    /// How many bytes of the file were there before.
    pub(in crate::uploads) before: u64,
}

fn place(errand: &Errand, upload: UploadId, number: u64) -> Place<'static> {
    Place {
        tenant: errand.tenant,
        upload,
        file: None,
        number,
        last: false,
    }
}

impl Store {
    /// Keeps what has come of a chunk in place of what there was of it. Whoever does not go on where the file ends is too late.
    pub(in crate::uploads) async fn append(
        &self,
        errand: &Errand,
        id: UploadId,
        key: &Key,
        chunk: Chunk<'_>,
    ) -> Result<u64, Error> {
        // Before a connection is taken: sealing is work of ours.
        let sealed = key.seal(&place(errand, id, chunk.number), chunk.data)?;
        let end = chunk.number * PART as u64 + chunk.data.len() as u64;
        let mut tx = self.0.errand(errand).await?;
        let upload = locked(&mut tx, id).await?;
        if upload.state != State::Open {
            return Err(Error::NotOpen);
        }
        if upload.bytes != chunk.before {
            return Err(Error::Offset { right: upload.bytes });
        }
        sqlx::query(
            "INSERT INTO upload_part (upload_id, number, sealed) VALUES ($1, $2, $3)
             ON CONFLICT (upload_id, number) DO UPDATE SET sealed = excluded.sealed",
        )
        .bind(id.to_string())
        .bind(whole(chunk.number))
        .bind(sealed)
        .execute(&mut *tx)
        .await?;
        sqlx::query("UPDATE upload SET bytes = $2, problem = '' WHERE id = $1")
            .bind(id.to_string())
            .bind(whole(end))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(end)
    }

    /// What has come of a chunk that is not full.
    pub(in crate::uploads) async fn begun(
        &self,
        errand: &Errand,
        id: UploadId,
        key: &Key,
        number: u64,
    ) -> Result<Vec<u8>, Error> {
        let mut tx = self.0.errand(errand).await?;
        let sealed = part_of(&mut tx, id, number).await?.ok_or(Error::Changed)?;
        tx.commit().await?;
        key.open(&place(errand, id, number), sealed)
    }

    /// A chunk of the file as it came, sealed.
    pub(in crate::uploads) async fn part(
        &self,
        errand: &Errand,
        id: UploadId,
        number: u64,
    ) -> Result<Vec<u8>, Error> {
        let mut tx = self.0.errand(errand).await?;
        let sealed = part_of(&mut tx, id, number).await?;
        tx.commit().await?;
        sealed.ok_or(Error::Superseded)
    }
}

async fn part_of(tx: &mut Transaction, id: UploadId, number: u64) -> Result<Option<Vec<u8>>, Error> {
    let sealed = sqlx::query_scalar("SELECT sealed FROM upload_part WHERE upload_id = $1 AND number = $2");
    Ok(sealed
        .bind(id.to_string())
        .bind(whole(number))
        .fetch_optional(&mut **tx)
        .await?)
}
