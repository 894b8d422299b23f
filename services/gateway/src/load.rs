//! How much is under way: more than the gateway can carry is turned away at once, and one tenant gets no more than its share.
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use types::TenantId;

/// Counts requests from their head until nothing is left to do but to read their answer.
#[derive(Debug)]
pub(crate) struct Load {
    limit: usize,
    tenant_limit: usize,
    in_flight: AtomicUsize,
    tenants: Mutex<HashMap<TenantId, usize>>,
}

/// One request's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    load: Arc<Load>,
    tenant: Option<TenantId>,
    given_back: bool,
}

impl Load {
    /// At most `limit` requests, and of one tenant `tenant_percent` of that.
    pub(crate) fn new(limit: usize, tenant_percent: u8) -> Arc<Self> {
        let limit = limit.max(1);
        Arc::new(Self {
            limit,
            tenant_limit: (limit * usize::from(tenant_percent) / 100).max(1),
            in_flight: AtomicUsize::new(0),
            tenants: Mutex::new(HashMap::new()),
        })
    }

    /// A place, or none if all are taken.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Place> {
        if self.in_flight.fetch_add(1, Ordering::Relaxed) >= self.limit {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Place {
            load: Arc::clone(self),
            tenant: None,
            given_back: false,
        })
    }

    /// Requests under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn tenants(&self) -> MutexGuard<'_, HashMap<TenantId, usize>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Takes one of `tenant`'s share; false if it is used up.
    pub(crate) fn claim(&mut self, tenant: TenantId) -> bool {
        let mut tenants = self.load.tenants();
        let count = tenants.entry(tenant).or_insert(0);
        let free = *count < self.load.tenant_limit;
        if free {
            *count += 1;
            self.tenant = Some(tenant);
        }
        free
    }
}

impl Place {
    /// Gives the place back before it is dropped.
    pub(crate) fn give_back(&mut self) {
        if std::mem::replace(&mut self.given_back, true) {
            return;
        }
        self.load.in_flight.fetch_sub(1, Ordering::Relaxed);
        if let Some(tenant) = self.tenant.take() {
            let mut tenants = self.load.tenants();
            if let Some(count) = tenants.get_mut(&tenant) {
                *count -= 1;
                if *count == 0 {
                    tenants.remove(&tenant);
                }
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use types::TenantId;

    use super::Load;

    #[test]
    fn places_and_shares_are_limited_and_given_back() {
        let load = Load::new(4, 50);
        let (mine, other) = (TenantId::fresh(), TenantId::fresh());
        let mut places: Vec<_> = (0..4).map(|_| load.enter().expect("a place")).collect();
        assert!(load.enter().is_none());
        assert!(places[0].claim(mine) && places[1].claim(mine));
        assert!(!places[2].claim(mine) && places[2].claim(other));
        places.remove(0);
        assert!(load.enter().expect("a place").claim(mine));
        places[1].give_back();
        places[1].give_back();
        places.clear();
        assert_eq!(load.in_flight(), 0);
        assert!(load.tenants().is_empty());
    }
}
