//! What happens to keys by themselves: new versions when they are due, everything sealed anew under them, old versions gone after that.
//!
//! Every step is a transaction of its own, and what is to be done next is read from the tables each time. So a process may end at any step,
//! and another goes on. Several replicas may do this at once: they share KEKs' work by row locks and tenants' work by advisory locks, and a row
//! is changed only where its old envelope still is.

mod rewrap;
mod seen;
#[cfg(test)]
mod tests {
    mod under_load;
}

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use opentelemetry::metrics::{Counter, Meter};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use types::{Errand, TenantId, chain};

use self::seen::Seen;
use crate::{
    Config,
    domain::state::{Next, State},
    error::Error,
    keys::{Keys, Rewrap},
    store,
};

/// For one step.
const AT_MOST: Duration = Duration::from_secs(30);

/// Tenants that are looked up at a time.
const PAGE: i64 = 200;

/// Versions of one tenant's key that are not gone, at most.
pub(crate) const VERSIONS_AT_MOST: usize = 32;

/// How much is to be done how fast.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) data_key_age: Duration,
    pub(crate) kek_age: Duration,
    pub(crate) pause: Duration,
    pub(crate) settle: Duration,
    pub(crate) rate: u32,
}

impl From<&Config> for Rules {
    fn from(config: &Config) -> Self {
        Self {
            data_key_age: config.data_key_rotate_after,
            kek_age: config.kek_rotate_after,
            pause: config.rotation_pause,
            settle: config.settle,
            rate: config.rewrap_rate,
        }
    }
}

struct Meters {
    rewrapped: Counter<u64>,
    unreadable: Counter<u64>,
    unreadable_keys: Counter<u64>,
    destroyed: Counter<u64>,
}

/// The rotation. Clones share it.
#[derive(Clone)]
pub(crate) struct Rotation {
    pub(crate) pool: pg::Pool,
    pub(crate) keys: Keys,
    pub(crate) rules: Rules,
    due: Arc<Notify>,
    seen: Seen,
    meters: Arc<Meters>,
}

impl Rotation {
    pub(crate) fn new(pool: pg::Pool, keys: Keys, rules: Rules, meter: &Meter) -> Self {
        let meters = Meters {
            rewrapped: meter
                .u64_counter("vault.rewrapped")
                .with_description("Values that were sealed anew under a newer version")
                .build(),
            unreadable: meter
                .u64_counter("vault.rewrap.unreadable")
                .with_description("Values met that do not open; each keeps its version from retiring")
                .build(),
            unreadable_keys: meter
                .u64_counter("vault.keys.unreadable")
                .with_description("Keys met that do not open; each keeps its KEK from being destroyed")
                .build(),
            destroyed: meter
                .u64_counter("vault.versions.destroyed")
                .with_description("Versions of keys that were destroyed")
                .build(),
        };
        Self {
            pool,
            keys,
            rules,
            due: Arc::default(),
            seen: Seen::default(),
            meters: Arc::new(meters),
        }
    }

    /// Does what is due, now and then and when it is told to, until `stopping`.
    pub(crate) async fn run(self, stopping: CancellationToken) {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = self.keys.wait_unsealed() => {}
        }
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = self.round() => {}
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = self.due.notified() => {}
                () = tokio::time::sleep(self.rules.pause) => {}
            }
        }
    }

    /// There is something to do.
    pub(crate) fn hurry(&self) {
        self.due.notify_one();
    }

    async fn round(&self) {
        if let Err(error) = self.keks().await {
            tracing::warn!(error = chain(&error), "KEKs are rotated later");
        }
        if let Err(error) = self.compromised().await {
            tracing::warn!(error = chain(&error), "compromised versions are refused later");
        }
        if let Err(error) = self.data_keys_due().await {
            tracing::warn!(error = chain(&error), "tenants' keys are rotated later");
        }
        if let Err(error) = self.superseded().await {
            tracing::warn!(error = chain(&error), "values are sealed anew later");
        }
    }

    /// A new KEK when it is due; all keys under it; older ones gone.
    pub(crate) async fn keks(&self) -> Result<(), Error> {
        let mut tx = self.pool.shared(Instant::now() + AT_MOST).await?;
        let due = store::kek::due(&mut tx, self.rules.kek_age).await?;
        let newest = if due {
            store::kek::newest(&mut tx).await?
        } else {
            0
        };
        tx.commit().await?;
        if due {
            let version = self.keys.new_kek(newest).await?;
            tracing::info!(version, "a new KEK wraps keys from now on");
        }
        let mut rewrap = Rewrap::default();
        while self.keys.rewrap_some_keys(&mut rewrap).await? {}
        let Rewrap {
            rewrapped: count,
            unreadable,
            ..
        } = rewrap;
        if unreadable > 0 {
            self.meters.unreadable_keys.add(unreadable as u64, &[]);
            tracing::error!(
                unreadable,
                "keys do not open: the KEKs that wrap them are not destroyed"
            );
        }
        let gone = self.keys.destroy_unused_keks().await?;
        if count > 0 || !gone.is_empty() {
            self.meters.destroyed.add(gone.len() as u64, &[]);
            tracing::info!(count, destroyed = ?gone, "keys were wrapped anew");
        }
        Ok(())
    }

    async fn compromised(&self) -> Result<(), Error> {
        let mut tx = self.pool.shared(Instant::now() + AT_MOST).await?;
        let tenants = store::data_key::compromised(&mut tx, PAGE).await?;
        tx.commit().await?;
        for tenant in tenants {
            self.look_after(&tenant).await;
        }
        Ok(())
    }

    async fn data_keys_due(&self) -> Result<(), Error> {
        let mut after = String::new();
        loop {
            let mut tx = self.pool.shared(Instant::now() + AT_MOST).await?;
            let tenants = store::data_key::due(&mut tx, self.rules.data_key_age, &after, PAGE).await?;
            tx.commit().await?;
            let Some(last) = tenants.last() else {
                return Ok(());
            };
            after.clone_from(last);
            for tenant in &tenants {
                let id = tenant.parse().map_err(|_| Error::Stored("tenant's id"))?;
                if let Err(error) = self.rotate_if_due(id).await {
                    tracing::warn!(
                        tenant,
                        error = chain(&error),
                        "this tenant's key is rotated later"
                    );
                }
            }
        }
    }

    async fn superseded(&self) -> Result<(), Error> {
        let mut after = String::new();
        loop {
            let mut tx = self.pool.shared(Instant::now() + AT_MOST).await?;
            let tenants = store::data_key::in_work(&mut tx, &after, PAGE).await?;
            tx.commit().await?;
            let Some(last) = tenants.last() else {
                return Ok(());
            };
            after.clone_from(last);
            for tenant in &tenants {
                self.look_after(tenant).await;
            }
        }
    }

    /// One tenant's trouble is not the others'.
    async fn look_after(&self, tenant: &str) {
        let outcome = match tenant.parse() {
            Ok(id) => self.tend(id).await.map(|_| ()),
            Err(_) => Err(Error::Stored("tenant's id")),
        };
        if let Err(error) = outcome {
            tracing::warn!(
                tenant,
                error = chain(&error),
                "this tenant's values are sealed anew later"
            );
        }
    }

    async fn rotate_if_due(&self, tenant: TenantId) -> Result<(), Error> {
        let mut tx = self.pool.shared(Instant::now() + AT_MOST).await?;
        store::ring::lock_alive(&mut tx, tenant).await?;
        // Another replica may have been here first.
        if store::data_key::is_due(&mut tx, tenant, self.rules.data_key_age).await? {
            self.advance(&mut tx, tenant).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Makes the next version in a transaction that has locked the ring and is on the shared side; gives its number.
    pub(crate) async fn advance(&self, tx: &mut pg::Transaction, tenant: TenantId) -> Result<i64, Error> {
        let (_, alive) = store::data_key::counts(tx, tenant).await?;
        if alive >= VERSIONS_AT_MOST as i64 {
            return Err(Error::TooManyVersions {
                most: VERSIONS_AT_MOST,
            });
        }
        self.advance_anyway(tx, tenant).await
    }

    /// The same, however many versions there are: for when the active one may be known to others.
    async fn advance_anyway(&self, tx: &mut pg::Transaction, tenant: TenantId) -> Result<i64, Error> {
        let key = self.keys.add_data_key(tx, tenant).await?;
        tracing::info!(%tenant, version = key.version, "a new version of a tenant's key");
        Ok(key.version)
    }

    /// Notes, in a transaction that has locked the ring and is on the shared side, that a version is known to others. What is under it is sealed
    /// anew by [`Self::tend`], and then it is refused.
    pub(crate) async fn compromise(
        &self,
        tx: &mut pg::Transaction,
        tenant: TenantId,
        version: i64,
    ) -> Result<(), Error> {
        let row = store::data_key::get(tx, tenant, Some(version)).await?;
        let state = row.ok_or(Error::NoSuchVersion)?.state()?;
        if state == State::Revoked {
            return Ok(());
        }
        store::data_key::compromise(tx, tenant, version).await?;
        match state {
            State::Active => {
                self.advance_anyway(tx, tenant).await?;
            }
            State::Destroyed => {
                store::data_key::become_state(tx, tenant, version, State::Revoked).await?;
            }
            State::Draining | State::Retired | State::Revoked => {}
        }
        store::epoch::bump(tx, &tenant.to_string()).await?;
        tracing::warn!(%tenant, version, "a version of a tenant's key was given up as known to others");
        Ok(())
    }

    /// Seals anew what is under a tenant's superseded versions, and moves these on in their lives. False when another worker has the tenant.
    pub(crate) async fn tend(&self, tenant: TenantId) -> Result<bool, Error> {
        let pass = self.pass(tenant).await?;
        if !pass.busy {
            self.conclude(tenant, &pass.unreadable).await?;
        }
        Ok(!pass.busy)
    }

    /// Seals anew, again and again, until a compromised version is refused; or until the deadline, after which it goes on by itself.
    pub(crate) async fn tend_until_revoked(
        &self,
        tenant: TenantId,
        version: i64,
        deadline: Instant,
    ) -> Result<(), Error> {
        self.hurry();
        let tending = async {
            loop {
                let mut tx = self.pool.shared(deadline).await?;
                let row = store::data_key::get(&mut tx, tenant, Some(version)).await?;
                tx.commit().await?;
                if row.ok_or(Error::NoSuchVersion)?.state()? == State::Revoked {
                    self.keys.forget(tenant);
                    return Ok(());
                }
                if !self.tend(tenant).await? {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        };
        match tokio::time::timeout_at(deadline.into(), tending).await {
            Ok(outcome) => outcome,
            Err(_) => Ok(()),
        }
    }

    async fn conclude(&self, tenant: TenantId, unreadable: &HashMap<i64, i64>) -> Result<(), Error> {
        let errand = Errand {
            tenant,
            deadline: Instant::now() + AT_MOST,
        };
        let mut tx = self.pool.errand(&errand).await?;
        let counts: HashMap<i64, i64> = store::sealed::counts(&mut tx).await?.into_iter().collect();
        tx.enter_shared().await?;
        store::ring::lock_alive(&mut tx, tenant).await?;
        let mut changed = false;
        for row in store::data_key::all(&mut tx, tenant, self.rules.settle).await? {
            let version = row.version;
            let count = |of: &HashMap<i64, i64>| of.get(&version).copied().unwrap_or(0);
            let (remaining, unreadable) = (count(&counts), count(unreadable));
            store::data_key::note(&mut tx, tenant, version, remaining).await?;
            let mut looked = row.looked(remaining, unreadable)?;
            // The database's clock may jump; this process' does not.
            let for_long =
                self.seen
                    .for_long((tenant, version, looked.state), self.rules.settle, Instant::now());
            looked.settled &= for_long;
            looked.ended_long_ago &= for_long;
            match looked.next() {
                Next::Stay => continue,
                Next::Become(state) => {
                    store::data_key::become_state(&mut tx, tenant, version, state).await?;
                    tracing::info!(%tenant, version, state = state.word(), "a version of a tenant's key moved on");
                }
                Next::Erase => store::data_key::erase(&mut tx, tenant, version).await?,
            }
            changed = true;
        }
        if changed {
            store::epoch::bump(&mut tx, &tenant.to_string()).await?;
        }
        tx.commit().await?;
        if changed {
            self.keys.forget(tenant);
        }
        Ok(())
    }
}
