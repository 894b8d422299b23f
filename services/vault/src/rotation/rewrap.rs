//! Sealing values anew: open with the version that sealed it, seal with the active one for the same place, and put it where the old envelope
//! still is. The value leaves this process' memory no more than when it was sealed.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::{Duration, Instant},
};

use types::{Errand, TenantId};

use super::{AT_MOST, Rotation};
use crate::{
    domain::envelope::Envelope,
    error::Error,
    keys::{DataKey, open_with, seal_with},
    store::{
        self,
        sealed::{Renewed, Row, SEALED, Sealed},
    },
};

/// Values of one transaction.
const BATCH: i64 = 500;

/// What one pass over a tenant's tables met.
#[derive(Default)]
pub(super) struct Pass {
    /// Another worker has the tenant.
    pub(super) busy: bool,
    /// Values that were sealed anew.
    pub(super) rewrapped: u64,
    /// Values that do not open, by version.
    pub(super) unreadable: HashMap<i64, i64>,
    /// Versions that were met, open.
    keys: HashMap<i64, Option<Arc<DataKey>>>,
}

/// Where a pass is in a table: after this id and kind.
type Mark = (String, String);

impl Rotation {
    /// Goes over everything of a tenant that is not sealed with its active version.
    pub(super) async fn pass(&self, tenant: TenantId) -> Result<Pass, Error> {
        let mut pass = Pass::default();
        for table in SEALED {
            let mut mark = Some((String::new(), String::new()));
            while let Some(after) = mark.take() {
                let began = Instant::now();
                let before = pass.rewrapped;
                mark = self.batch(tenant, table, &after, &mut pass).await?;
                self.pace(pass.rewrapped - before, began).await;
            }
        }
        let unreadable: i64 = pass.unreadable.values().sum();
        if unreadable > 0 {
            self.meters.unreadable.add(unreadable.unsigned_abs(), &[]);
            tracing::error!(%tenant, unreadable, "values do not open and cannot be sealed anew: they are to be set again");
        }
        Ok(pass)
    }

    async fn batch(
        &self,
        tenant: TenantId,
        table: &'static Sealed,
        after: &Mark,
        pass: &mut Pass,
    ) -> Result<Option<Mark>, Error> {
        let errand = Errand {
            tenant,
            deadline: Instant::now() + AT_MOST,
        };
        let mut tx = self.pool.errand(&errand).await?;
        tx.enter_shared().await?;
        let Some(active) = store::data_key::get(&mut tx, tenant, None).await? else {
            return Ok(None);
        };
        if !store::ring::try_work(&mut tx, tenant).await? {
            pass.busy = true;
            return Ok(None);
        }
        tx.enter_tenant().await?;
        let rows = store::sealed::behind(&mut tx, table, tenant, active.version, after, BATCH).await?;
        let Some(mark) = rows.last().map(Row::mark) else {
            return Ok(None);
        };
        tx.enter_shared().await?;
        let fresh = self.keys.unwrap(tenant, &active).await?;
        for row in &rows {
            if let Entry::Vacant(place) = pass.keys.entry(row.key_version) {
                place.insert(self.old_key(&mut tx, tenant, row.key_version).await?);
            }
        }
        let keys = pass.keys.clone();
        let sealing = tokio::task::spawn_blocking(move || seal_anew(rows, &keys, &fresh));
        let (renewed, lost) = sealing.await.map_err(|_| Error::Stored("batch of values"))?;
        for version in lost {
            *pass.unreadable.entry(version).or_default() += 1;
        }
        store::sealed::note_was_under(&mut tx, &renewed).await?;
        tx.enter_tenant().await?;
        let count = store::sealed::renew(&mut tx, table, &renewed).await?;
        tx.commit().await?;
        pass.rewrapped += count;
        self.meters.rewrapped.add(count, &[]);
        Ok(Some(mark))
    }

    /// A version that sealed something; none if it opens nothing any more.
    async fn old_key(
        &self,
        tx: &mut pg::Transaction,
        tenant: TenantId,
        version: i64,
    ) -> Result<Option<Arc<DataKey>>, Error> {
        let Some(row) = store::data_key::get(tx, tenant, Some(version)).await? else {
            return Ok(None);
        };
        match self.keys.unwrap(tenant, &row).await {
            Ok(key) => Ok(Some(key)),
            Err(Error::Unreadable | Error::Stored(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits as long as so many values may take.
    async fn pace(&self, count: u64, began: Instant) {
        let worth = Duration::from_secs_f64(count as f64 / f64::from(self.rules.rate));
        tokio::time::sleep(worth.saturating_sub(began.elapsed())).await;
    }
}

/// The rows with new envelopes, and the versions of those that do not open.
fn seal_anew(
    rows: Vec<Row>,
    keys: &HashMap<i64, Option<Arc<DataKey>>>,
    fresh: &DataKey,
) -> (Vec<Renewed>, Vec<i64>) {
    let (mut renewed, mut lost) = (Vec::with_capacity(rows.len()), Vec::new());
    for row in rows {
        match seal_one_anew(&row, keys, fresh) {
            Ok(sealed) => renewed.push(Renewed {
                key_version: sealed.key_version,
                envelope: sealed.envelope,
                row,
            }),
            Err(_) => lost.push(row.key_version),
        }
    }
    (renewed, lost)
}

fn seal_one_anew(
    row: &Row,
    keys: &HashMap<i64, Option<Arc<DataKey>>>,
    fresh: &DataKey,
) -> Result<crate::keys::Sealed, Error> {
    let envelope: Envelope = row.envelope.parse().map_err(|_| Error::Unreadable)?;
    let old = keys.get(&envelope.key_version).and_then(Option::as_ref);
    let value = open_with(old.ok_or(Error::Unreadable)?, &row.place, &envelope)?;
    seal_with(fresh, &row.place, envelope.body.form(), value.expose())
}
