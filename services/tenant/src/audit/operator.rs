//! A tenant's log for whoever proves it in place.

use std::time::{Duration, Instant};

use audit::{Hash, Link, Record, SignedHead};
use types::{Errand, TenantId};

use super::{Error, work};
use crate::store::Store;

/// Rows that are read at a time.
const PART: i64 = 1_000;

/// For one part.
const AT_MOST: Duration = Duration::from_secs(30);

type Row = (i64, Vec<u8>, Vec<u8>, String, String, String, i64);

async fn open(database: &pg::Settings, dev: bool) -> Result<Store, chassis::Error> {
    let pool = pg::Pool::open(database, "tenant", dev).await;
    Ok(Store::new(pool.map_err(chassis::Error::service)?))
}

/// Reads the log of `tenant` from its first record on and gives each to `take`; none is a row whose other columns say something else than
/// its body.
///
/// # Errors
/// When there is no such tenant, or the database cannot be read.
pub async fn read_audit_log(
    database: &pg::Settings,
    dev: bool,
    tenant: TenantId,
    mut take: impl FnMut(Option<Link>),
) -> Result<(), chassis::Error> {
    let store = open(database, dev).await?;
    let mut after = 0;
    loop {
        let rows = part(&store, tenant, after)
            .await
            .map_err(chassis::Error::service)?;
        let Some(last) = rows.last() else {
            return Ok(());
        };
        after = last.0;
        rows.into_iter().for_each(|row| take(link(row)));
    }
}

/// The last head of this tenant's log that the vault has signed, as service tenant keeps it.
///
/// # Errors
/// When the database cannot be read.
pub async fn last_audit_head(
    database: &pg::Settings,
    dev: bool,
    tenant: TenantId,
) -> Result<Option<SignedHead>, chassis::Error> {
    let store = open(database, dev).await?;
    head(&store, tenant).await.map_err(chassis::Error::service)
}

async fn head(store: &Store, tenant: TenantId) -> Result<Option<SignedHead>, Error> {
    let mut tx = store.directory(Instant::now() + AT_MOST).await?;
    work::last_signed(&mut tx, tenant).await
}

async fn part(store: &Store, tenant: TenantId, after: i64) -> Result<Vec<Row>, Error> {
    let deadline = Instant::now() + AT_MOST;
    let mut tx = store.errand(&Errand { tenant, deadline }).await?;
    Ok(sqlx::query_as(
        "SELECT seq, prev, hash, body, id, part, (extract(epoch FROM time) * 1000000)::bigint
         FROM audit_record WHERE seq > $1 ORDER BY seq LIMIT $2",
    )
    .bind(after)
    .bind(PART)
    .fetch_all(&mut *tx)
    .await?)
}

fn link((sequence, prev, hash, body, id, part, time): Row) -> Option<Link> {
    let record = Record::read(&body).ok()?;
    (record.heading() == (id.as_str(), part.as_str(), time)).then_some(())?;
    Some(Link {
        sequence,
        prev: Hash::from_bytes(&prev)?,
        hash: Hash::from_bytes(&hash)?,
        body,
    })
}
