//! Tenants' data keys that are open in this process' memory.
//!
//! An entry serves for five minutes and a thousand uses, and only while this process has looked at the epoch in the last second (`trust`): a
//! key that was changed anywhere is forgotten here within that second, or is not used. What leaves the cache is wiped when its last use ends.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use types::TenantId;

use super::DataKey;

/// How long an entry serves.
const LIFE: Duration = Duration::from_secs(300);

/// How often an entry serves.
const USES: u32 = 1_000;

/// For how long after its beginning a look at the epoch is good.
pub(crate) const TRUST: Duration = Duration::from_secs(1);

/// A version of a tenant's key; without a number, the active one.
type Name = (TenantId, Option<i64>);

struct Entry {
    key: Arc<DataKey>,
    since: Instant,
    uses: u32,
}

struct State {
    entries: HashMap<Name, Entry>,
    /// Counts purges: a key that was loaded before one is not kept after it.
    purges: u64,
    trusted_until: Option<Instant>,
}

/// The cache.
pub(crate) struct Cache {
    most: usize,
    state: Mutex<State>,
}

impl Cache {
    /// An empty one for at most `most` entries.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            state: Mutex::new(State {
                entries: HashMap::new(),
                purges: 0,
                trusted_until: None,
            }),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A key that may be used now.
    pub(crate) fn get(&self, name: Name, now: Instant) -> Option<Arc<DataKey>> {
        let mut state = self.state();
        if state.trusted_until.is_none_or(|until| until <= now) {
            return None;
        }
        let entry = state.entries.get_mut(&name)?;
        if now.duration_since(entry.since) >= LIFE || entry.uses >= USES {
            state.entries.remove(&name);
            return None;
        }
        entry.uses += 1;
        Some(entry.key.clone())
    }

    /// To be asked before a key is read from the database, and given to [`Self::put`].
    pub(crate) fn purges(&self) -> u64 {
        self.state().purges
    }

    /// Keeps a key that was read after `purges` was asked; its first use is the present one.
    pub(crate) fn put(&self, name: Name, key: &Arc<DataKey>, purges: u64, now: Instant) {
        let mut state = self.state();
        if state.purges != purges {
            return;
        }
        if state.entries.len() >= self.most && !state.entries.contains_key(&name) {
            let victim = state.entries.keys().next().copied();
            victim.and_then(|victim| state.entries.remove(&victim));
        }
        let entry = Entry {
            key: key.clone(),
            since: now,
            uses: 1,
        };
        state.entries.insert(name, entry);
    }

    /// A look at the epoch that began at `began` has succeeded.
    pub(crate) fn trust(&self, began: Instant) {
        self.state().trusted_until = Some(began + TRUST);
    }

    /// Forgets everything if nobody could look at the epoch for too long, and everything that has served its time.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut state = self.state();
        if state.trusted_until.is_none_or(|until| until <= now) {
            state.entries.clear();
        }
        state
            .entries
            .retain(|_, entry| now.duration_since(entry.since) < LIFE && entry.uses < USES);
    }

    /// Forgets the keys of one tenant.
    pub(crate) fn purge(&self, tenant: TenantId) {
        let mut state = self.state();
        state.purges += 1;
        state.entries.retain(|(of, _), _| *of != tenant);
    }

    /// Forgets all keys.
    pub(crate) fn purge_all(&self) {
        let mut state = self.state();
        state.purges += 1;
        state.entries.clear();
    }

    /// How many there are.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.state().entries.len()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, Instant},
    };

    use types::TenantId;

    use super::{Cache, LIFE, TRUST, USES};
    use crate::{domain::cipher::Key, keys::DataKey};

    fn key(tenant: TenantId) -> Arc<DataKey> {
        Arc::new(DataKey {
            tenant,
            version: 1,
            key: Key::fresh().unwrap(),
        })
    }

    #[test]
    fn a_key_serves_a_thousand_times() {
        let (cache, now, tenant) = (Cache::new(8), Instant::now(), TenantId::fresh());
        cache.trust(now);
        cache.put((tenant, Some(1)), &key(tenant), cache.purges(), now);
        let served = (0..2 * USES).filter(|_| cache.get((tenant, Some(1)), now).is_some());
        assert_eq!(served.count() as u32 + 1, USES);
        assert_eq!(cache.len(), 0);
    }

    #[test]
    fn a_key_serves_five_minutes_and_only_for_who_looks_at_the_epoch() {
        let (cache, now, tenant) = (Cache::new(8), Instant::now(), TenantId::fresh());
        let name = (tenant, None);
        cache.put(name, &key(tenant), cache.purges(), now);
        assert!(cache.get(name, now).is_none(), "nobody has looked");
        cache.trust(now);
        assert!(cache.get(name, now).is_some());
        assert!(cache.get(name, now + TRUST).is_none());
        let later = now + LIFE - Duration::from_millis(1);
        cache.trust(later);
        assert!(cache.get(name, later).is_some());
        cache.trust(now + LIFE);
        assert!(cache.get(name, now + LIFE).is_none());
    }

    #[test]
    fn a_key_that_was_read_before_a_purge_is_not_kept_after_it() {
        let (cache, now) = (Cache::new(8), Instant::now());
        let (tenant, other) = (TenantId::fresh(), TenantId::fresh());
        cache.trust(now);
        let before = cache.purges();
        cache.put((other, Some(1)), &key(other), before, now);
        cache.purge(tenant);
        cache.put((tenant, Some(1)), &key(tenant), before, now);
        assert!(cache.get((tenant, Some(1)), now).is_none());
        assert!(cache.get((other, Some(1)), now).is_some());
        cache.purge_all();
        assert_eq!(cache.len(), 0);
    }

    #[test]
    fn the_cache_is_bounded_and_forgets_when_the_epoch_is_out_of_sight() {
        let (cache, now) = (Cache::new(8), Instant::now());
        cache.trust(now);
        for _ in 0..100 {
            let tenant = TenantId::fresh();
            cache.put((tenant, None), &key(tenant), cache.purges(), now);
        }
        assert_eq!(cache.len(), 8);
        cache.sweep(now);
        assert_eq!(cache.len(), 8);
        cache.sweep(now + TRUST);
        assert_eq!(cache.len(), 0);
    }
}
