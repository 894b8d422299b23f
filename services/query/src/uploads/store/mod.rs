//! Every SQL statement about uploads: rows in, values out. What is about a tenant is in its own schema; whose uploads are to be looked at when is
//! in schema `query`.

mod chunks;
mod files;
mod kin;
mod rest;
mod work;

use std::time::{Duration, SystemTime};

use pg::{OnConstraint as _, Transaction};
use sqlx::{
    AssertSqlSafe,
    types::chrono::{DateTime, Utc},
};
use types::{Errand, Plan, UploadId};

use super::{
    error::Error,
    upload::{DAYS, New, State, Upload},
};

pub(super) use chunks::Chunk;
pub(super) use files::Files;
pub(super) use work::{Claim, Outcome, given_up};

type Time = DateTime<Utc>;

/// How a problem begins that is not known to be the file's.
const GIVEN_UP: &str = "the reading of the file ended ";

const DAY: Duration = Duration::from_hours(24);

/// Where uploads are kept.
#[derive(Clone, Debug)]
pub(super) struct Store(pg::Pool);

/// The key of an upload, as the vault sealed it.
#[derive(Clone, Debug)]
pub(super) struct Envelope {
    pub(super) envelope: String,
    pub(super) key_version: i64,
    pub(super) version: i64,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    name: String,
    file: String,
    state: String,
    bytes: i64,
    size: i64,
    transactions: i64,
    changes: i64,
    problem: String,
    create_time: Time,
    expire_time: Time,
    server_id: Option<String>,
    attempt: i64,
    /// Where it is not asked for, nobody is told of it.
    #[sqlx(default)]
    newer: i64,
}

/// An upload, and how many newer ones there are.
const ROW: &str = "SELECT u.*, (SELECT count(*) FROM upload AS n WHERE n.id > u.id AND n.expire_time > now()) AS newer FROM upload AS u";

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn count(number: i64, what: &'static str) -> Result<u64, Error> {
    u64::try_from(number).map_err(|_| Error::Stored(what))
}

impl TryFrom<Row> for Upload {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        Ok(Self {
            id: row.id.parse().map_err(|_| Error::Stored("id"))?,
            name: row.name,
            file: row.file,
            state: State::from_word(&row.state)?,
            bytes: count(row.bytes, "length")?,
            size: count(row.size, "size")?,
            transactions: count(row.transactions, "count of transactions")?,
            changes: count(row.changes, "count of changes")?,
            problem: row.problem,
            created: SystemTime::from(row.create_time),
            expires: SystemTime::from(row.expire_time),
            server: match row.server_id {
                Some(id) => Some(id.parse().map_err(|_| Error::Stored("server"))?),
                None => None,
            },
            attempt: row.attempt,
            newer: count(row.newer, "number of newer uploads")?,
        })
    }
}

/// What there is to wait for after a file has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finish {
    /// It is read from now on.
    Begun,
    /// It is being read, or was.
    Was,
}

/// Whether the plan has room for a file of so many bytes.
pub(super) fn room_for(plan: Plan, bytes: u64) -> Result<(), Error> {
    let most = plan.limits().upload_bytes;
    let plan = plan.word();
    (bytes <= most)
        .then_some(())
        .ok_or(Error::PlanBytes { plan, most })
}

/// For how many days an upload is kept: as many as were asked for, of which the plan may not have room, or [`DAYS`] if it has room for those.
fn days(plan: Plan, asked: u32) -> Result<u32, Error> {
    if asked == 0 {
        return Ok(DAYS.min(plan.limits().change_days));
    }
    plan.room("days of an upload", i64::from(asked) - 1, |limits| {
        limits.change_days
    })?;
    Ok(asked)
}

/// The row of an upload, locked.
async fn locked(tx: &mut Transaction, upload: UploadId) -> Result<Upload, Error> {
    let row: Option<Row> = sqlx::query_as(AssertSqlSafe(format!("{ROW} WHERE id = $1 FOR UPDATE")))
        .bind(upload.to_string())
        .fetch_optional(&mut **tx)
        .await?;
    row.ok_or(Error::Missing)?.try_into()
}

/// Notes that something is to be looked at by then. An earlier time stays: who looks then finds the next one. It comes before any row of
/// an upload is locked, as with who sweeps. Begins and ends in the tenant's schema.
async fn due(tx: &mut Transaction, errand: &Errand, after: Duration) -> Result<(), Error> {
    tx.enter_shared().await?;
    sqlx::query(
        "INSERT INTO upload_due AS d (tenant_id, due_time) VALUES ($1, now() + make_interval(secs => $2))
         ON CONFLICT (tenant_id) DO UPDATE SET due_time = least(d.due_time, excluded.due_time)",
    )
    .bind(errand.tenant.to_string())
    .bind(after.as_secs_f64())
    .execute(&mut **tx)
    .await?;
    Ok(tx.enter_tenant().await?)
}

impl Store {
    /// In this database.
    pub(super) fn new(pool: pg::Pool) -> Self {
        Self(pool)
    }

    /// Begins an upload.
    pub(super) async fn create(
        &self,
        errand: &Errand,
        plan: Plan,
        id: UploadId,
        new: &New,
        key: &Envelope,
    ) -> Result<Upload, Error> {
        room_for(plan, new.size)?;
        let days = days(plan, new.days)?;
        let mut tx = self.0.errand(errand).await?;
        due(&mut tx, errand, DAY * days).await?;
        // They are in no list any more: nobody could find what takes room, or has the name.
        work::expire(&mut tx).await?;
        let uploads: i64 = sqlx::query_scalar("SELECT count(*) FROM upload")
            .fetch_one(&mut *tx)
            .await?;
        plan.room("uploads", uploads, |limits| limits.uploads)?;
        sqlx::query(
            "INSERT INTO upload_key (upload_id, envelope, key_version, version) VALUES ($1, $2, $3, $4)",
        )
        .bind(id.to_string())
        .bind(&key.envelope)
        .bind(key.key_version)
        .bind(key.version)
        .execute(&mut *tx)
        .await?;
        let row: Row = sqlx::query_as(
            "INSERT INTO upload (id, name, file, size, expire_time, server_id)
             VALUES ($1, $2, $3, $4, now() + make_interval(days => $5), $6) RETURNING *",
        )
        .bind(id.to_string())
        .bind(&new.name)
        .bind(&new.file)
        .bind(whole(new.size))
        .bind(i32::try_from(days).unwrap_or(i32::MAX))
        .bind(new.server.map(|id| id.to_string()))
        .fetch_one(&mut *tx)
        .await
        .on_constraint("upload_name_key", || Error::NameTaken)?;
        tx.commit().await?;
        row.try_into()
    }

    /// The key of an upload, sealed.
    pub(super) async fn envelope(&self, errand: &Errand, id: UploadId) -> Result<Envelope, Error> {
        let mut tx = self.0.errand(errand).await?;
        let row: Option<(String, i64, i64)> =
            sqlx::query_as("SELECT envelope, key_version, version FROM upload_key WHERE upload_id = $1")
                .bind(id.to_string())
                .fetch_optional(&mut *tx)
                .await?;
        tx.commit().await?;
        let (envelope, key_version, version) = row.ok_or(Error::Missing)?;
        Ok(Envelope {
            envelope,
            key_version,
            version,
        })
    }

    /// [`Error::Missing`] if an upload has no key any more.
    pub(super) async fn has_key(&self, errand: &Errand, id: UploadId) -> Result<(), Error> {
        let mut tx = self.0.errand(errand).await?;
        let has = sqlx::query("SELECT FROM upload_key WHERE upload_id = $1")
            .bind(id.to_string())
            .fetch_optional(&mut *tx)
            .await?;
        tx.commit().await?;
        has.map(|_| ()).ok_or(Error::Missing)
    }

    /// Says that all of the file came, and gives what it is now.
    pub(super) async fn finish(
        &self,
        errand: &Errand,
        id: UploadId,
        keep: bool,
        plan: Plan,
    ) -> Result<Finish, Error> {
        let mut tx = self.0.errand(errand).await?;
        due(&mut tx, errand, Duration::ZERO).await?;
        let upload = locked(&mut tx, id).await?;
        upload.open_to(plan)?;
        match upload.state {
            State::Ready | State::Reading => return Ok(Finish::Was),
            // What was given up may be tried again as it is.
            State::Damaged if !keep && !upload.problem.starts_with(GIVEN_UP) => {
                return Err(Error::Damaged(upload.problem));
            }
            State::Open if !keep && (upload.bytes == 0 || upload.bytes < upload.size) => {
                let (bytes, size) = (upload.bytes, upload.size);
                let words = match size {
                    0 => "nothing came".to_owned(),
                    _ => format!("{bytes} of {size} bytes came"),
                };
                return Err(Error::Incomplete(words));
            }
            State::Open | State::Damaged => {}
        }
        sqlx::query(
            "UPDATE upload SET state = 'reading', keep = $2, problem = '', tries = 0, lease_time = NULL WHERE id = $1",
        )
        .bind(id.to_string())
        .bind(keep)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Finish::Begun)
    }

    /// One upload.
    pub(super) async fn find(&self, errand: &Errand, id: UploadId) -> Result<Upload, Error> {
        let mut tx = self.0.errand(errand).await?;
        let row: Option<Row> = sqlx::query_as(AssertSqlSafe(format!(
            "{ROW} WHERE id = $1 AND expire_time > now()"
        )))
        .bind(id.to_string())
        .fetch_optional(&mut *tx)
        .await?;
        tx.commit().await?;
        row.ok_or(Error::Missing)?.try_into()
    }

    /// Those after `after`, the newest first; one more than `most` if there are.
    pub(super) async fn list(
        &self,
        errand: &Errand,
        after: Option<UploadId>,
        most: u32,
    ) -> Result<Vec<Upload>, Error> {
        let mut tx = self.0.errand(errand).await?;
        let rows: Vec<Row> = sqlx::query_as(AssertSqlSafe(format!(
            "{ROW} WHERE ($1::text IS NULL OR id < $1) AND expire_time > now() ORDER BY id DESC LIMIT $2"
        )))
        .bind(after.map(|after| after.to_string()))
        .bind(i64::from(most) + 1)
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        rows.into_iter().map(Upload::try_from).collect()
    }

    /// Deletes an upload: its key, and all that the key opens.
    pub(super) async fn delete(&self, errand: &Errand, id: UploadId) -> Result<(), Error> {
        let mut tx = self.0.errand(errand).await?;
        due(&mut tx, errand, Duration::ZERO).await?;
        let gone = sqlx::query("DELETE FROM upload WHERE id = $1")
            .bind(id.to_string())
            .execute(&mut *tx)
            .await?;
        if gone.rows_affected() == 0 {
            return Err(Error::Missing);
        }
        rest::all(&mut tx, &[id.to_string()]).await?;
        Ok(tx.commit().await?)
    }
}
