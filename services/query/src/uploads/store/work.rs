//! Who reads which upload, and what came of it.

use std::time::{Duration, Instant};

use pg::Transaction;
use types::{Errand, TenantId, UploadId, is_shown};

use super::{GIVEN_UP, Row, Store, Time, due, rest, whole};
use crate::uploads::{error::Error, upload::Upload};

/// Attempts that ended without a word after which an upload is given up: what ends a process each time would end them all.
const TRIES: i64 = 3;

/// Tenants that are looked at in one round.
const ROUND: i64 = 100;

/// An upload that is to be read by whoever holds this, as long as the lease is renewed.
#[derive(Clone, Debug)]
pub(in crate::uploads) struct Claim {
    pub(in crate::uploads) tenant: TenantId,
    pub(in crate::uploads) upload: Upload,
    /// Whether what came before damage is kept.
    pub(in crate::uploads) keep: bool,
}

/// What a sweep did.
#[derive(Debug, Default)]
pub(in crate::uploads) struct Swept {
    /// Uploads that were kept no longer.
    pub(in crate::uploads) gone: Vec<UploadId>,
    /// Uploads to read.
    pub(in crate::uploads) claims: Vec<Claim>,
}

/// What came of reading a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::uploads) enum Outcome {
    /// It is read, or what of it can be.
    Ready {
        transactions: u64,
        changes: u64,
        /// Why not all of it.
        problem: String,
    },
    /// Its end is missing, and may still come.
    Incomplete(String),
    /// It cannot be read to its end.
    Damaged(String),
}

/// What came of reading a file that was ended from here, and what to do about it. Finished again, it is read again.
pub(in crate::uploads) fn given_up(why: &str) -> Outcome {
    Outcome::Damaged(format!("{GIVEN_UP}{why}: {REMEDY}"))
}

/// What to do about a file that was given up.
const REMEDY: &str = "let the agent beside the server read this log, or finish again";

#[derive(sqlx::FromRow)]
struct Claimed {
    #[sqlx(flatten)]
    row: Row,
    keep: bool,
}

/// The longest problem that is kept, in characters.
const WORDS: usize = 2_000;

fn words(problem: &str) -> String {
    let shown = problem.chars().filter(|one| is_shown(*one));
    shown.take(WORDS).collect()
}

/// Deletes what is kept no longer, and gives the ids.
pub(super) async fn expire(tx: &mut Transaction) -> Result<Vec<String>, Error> {
    let gone: Vec<String> = sqlx::query_scalar("DELETE FROM upload WHERE expire_time <= now() RETURNING id")
        .fetch_all(&mut **tx)
        .await?;
    rest::all(tx, &gone).await?;
    Ok(gone)
}

impl Store {
    /// Tenants whose uploads are to be looked at, those first that wait longest.
    pub(in crate::uploads) async fn due(&self, deadline: Instant) -> Result<Vec<TenantId>, Error> {
        let mut tx = self.0.shared(deadline).await?;
        let due: Vec<String> = sqlx::query_scalar(
            "SELECT tenant_id FROM upload_due WHERE due_time <= now() ORDER BY due_time LIMIT $1",
        )
        .bind(ROUND)
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        let read = |id: &String| id.parse().map_err(|_| Error::Stored("tenant id"));
        due.iter().map(read).collect()
    }

    /// Deletes what is kept no longer, takes up to `room` uploads that nobody reads, and notes when to come again. What earlier attempts at these
    /// left goes.
    pub(in crate::uploads) async fn sweep(
        &self,
        errand: &Errand,
        room: usize,
        lease: Duration,
    ) -> Result<Swept, Error> {
        let mut tx = self.0.errand(errand).await?;
        let tenant = errand.tenant.to_string();
        tx.enter_shared().await?;
        // Who adds something meanwhile waits for this row, or is waited for.
        let held = sqlx::query("SELECT FROM upload_due WHERE tenant_id = $1 FOR UPDATE SKIP LOCKED");
        if held.bind(&tenant).fetch_optional(&mut *tx).await?.is_none() {
            return Ok(Swept::default());
        }
        tx.enter_tenant().await?;
        let gone = expire(&mut tx).await?;
        sqlx::query(
            "UPDATE upload SET state = 'damaged', lease_time = NULL,
                 problem = $2 || tries || ' times without a result, last with the replica that read it: ' || $3
             WHERE state = 'reading' AND tries >= $1 AND (lease_time IS NULL OR lease_time <= now())",
        )
        .bind(TRIES)
        .bind(GIVEN_UP)
        .bind(REMEDY)
        .execute(&mut *tx)
        .await?;
        let claimed: Vec<Claimed> = sqlx::query_as(
            "WITH due AS MATERIALIZED (
                 SELECT id FROM upload WHERE state = 'reading' AND (lease_time IS NULL OR lease_time <= now())
                 ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED
             )
             UPDATE upload AS u SET attempt = attempt + 1, tries = tries + 1, lease_time = now() + make_interval(secs => $2)
             FROM due WHERE u.id = due.id RETURNING u.*",
        )
        .bind(i64::try_from(room).unwrap_or(i64::MAX))
        .bind(lease.as_secs_f64())
        .fetch_all(&mut *tx)
        .await?;
        for Claimed { row, .. } in &claimed {
            rest::files(&mut tx, std::slice::from_ref(&row.id), row.attempt, &[]).await?;
        }
        let next: Option<Time> = sqlx::query_scalar(
            "SELECT least(min(expire_time), min(coalesce(lease_time, now())) FILTER (WHERE state = 'reading'),
                 (SELECT now() FROM upload_rest LIMIT 1)) FROM upload",
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.enter_shared().await?;
        sqlx::query(match next {
            Some(_) => "UPDATE upload_due SET due_time = $2 WHERE tenant_id = $1",
            None => "DELETE FROM upload_due WHERE tenant_id = $1 AND $2::timestamptz IS NULL",
        })
        .bind(&tenant)
        .bind(next)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        let claim = |claimed: Claimed| {
            let (keep, upload) = (claimed.keep, claimed.row.try_into()?);
            let tenant = errand.tenant;
            Ok(Claim { tenant, upload, keep })
        };
        Ok(Swept {
            gone: gone.iter().filter_map(|id| id.parse().ok()).collect(),
            claims: claimed.into_iter().map(claim).collect::<Result<_, Error>>()?,
        })
    }

    /// Looks at the uploads of a tenant that has no schema later: it may come back. If it does not, service tenant takes it from here too.
    pub(in crate::uploads) async fn later(&self, tenant: TenantId, deadline: Instant) -> Result<(), Error> {
        let mut tx = self.0.shared(deadline).await?;
        sqlx::query("UPDATE upload_due SET due_time = now() + make_interval(mins => 1) WHERE tenant_id = $1")
            .bind(tenant.to_string())
            .execute(&mut *tx)
            .await?;
        Ok(tx.commit().await?)
    }

    /// Goes on reading for so long. [`Error::Superseded`] if it is not this attempt's any more.
    pub(in crate::uploads) async fn renew(
        &self,
        errand: &Errand,
        claim: &Claim,
        lease: Duration,
    ) -> Result<(), Error> {
        let mut tx = self.0.errand(errand).await?;
        let renewed = sqlx::query(
            "UPDATE upload SET lease_time = now() + make_interval(secs => $3) WHERE id = $1 AND attempt = $2 AND state = 'reading'",
        )
        .bind(claim.upload.id.to_string())
        .bind(claim.upload.attempt)
        .bind(lease.as_secs_f64())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        (renewed.rows_affected() == 1)
            .then_some(())
            .ok_or(Error::Superseded)
    }

    /// Gives an upload back, to be read after `pause`. Such an attempt does not count: it ended with a word.
    pub(in crate::uploads) async fn put_off(
        &self,
        errand: &Errand,
        claim: &Claim,
        pause: Duration,
    ) -> Result<(), Error> {
        let mut tx = self.0.errand(errand).await?;
        due(&mut tx, errand, pause).await?;
        sqlx::query(
            "UPDATE upload SET lease_time = now() + make_interval(secs => $3), tries = tries - 1
             WHERE id = $1 AND attempt = $2 AND state = 'reading'",
        )
        .bind(claim.upload.id.to_string())
        .bind(claim.upload.attempt)
        .bind(pause.as_secs_f64())
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }

    /// Says what came of it: of a store that is whole, the file as it came is to go, and the store's temporary files are.
    pub(in crate::uploads) async fn complete(
        &self,
        errand: &Errand,
        claim: &Claim,
        outcome: &Outcome,
        temporary: &[String],
    ) -> Result<(), Error> {
        let (state, transactions, changes, problem) = match outcome {
            Outcome::Ready {
                transactions,
                changes,
                problem,
            } => ("ready", *transactions, *changes, problem),
            Outcome::Incomplete(problem) => ("open", 0, 0, problem),
            Outcome::Damaged(problem) => ("damaged", 0, 0, problem),
        };
        let (id, attempt) = (claim.upload.id.to_string(), claim.upload.attempt);
        let mut tx = self.0.errand(errand).await?;
        due(&mut tx, errand, Duration::ZERO).await?;
        let done = sqlx::query(
            "UPDATE upload SET state = $3, transactions = $4, changes = $5, problem = $6, lease_time = NULL
             WHERE id = $1 AND attempt = $2 AND state = 'reading'",
        )
        .bind(&id)
        .bind(attempt)
        .bind(state)
        .bind(whole(transactions))
        .bind(whole(changes))
        .bind(words(problem))
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() != 1 {
            return Err(Error::Superseded);
        }
        // What is large goes afterwards.
        let upload = [id];
        if state == "ready" {
            rest::parts(&mut tx, &upload).await?;
            rest::files(&mut tx, &upload, attempt, temporary).await?;
        } else {
            rest::files(&mut tx, &upload, attempt.saturating_add(1), &[]).await?;
        }
        Ok(tx.commit().await?)
    }
}
