//! Whose upload is read next: each tenant has one reading of a replica at most, and who was served longest ago comes first.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use types::TenantId;

/// Tenants that are remembered. Who is forgotten counts as never served.
const KNOWN: usize = 10_000;

/// Who is being served, and who was when.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// By the number of the serving.
    served: HashMap<TenantId, u64>,
    servings: u64,
    reading: Reading,
}

type Reading = Arc<Mutex<HashSet<TenantId>>>;

fn has(reading: &Reading) -> MutexGuard<'_, HashSet<TenantId>> {
    reading.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A tenant's one reading, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    tenant: TenantId,
    reading: Reading,
}

impl Drop for Turn {
    fn drop(&mut self) {
        has(&self.reading).remove(&self.tenant);
    }
}

impl Turns {
    /// Who waits longest for a turn comes first; those who had none yet stay in their order.
    pub(super) fn order(&self, tenants: &mut [TenantId]) {
        tenants.sort_by_key(|tenant| self.served.get(tenant).copied().unwrap_or_default());
    }

    /// How many uploads of this tenant may be read from now on, where `most` are at a time.
    pub(super) fn room(&self, tenant: TenantId, most: usize) -> usize {
        let reading = has(&self.reading);
        // Not more when nobody waits either: a reading may last for hours, and who comes next would wait as long.
        usize::from(reading.len() < most && !reading.contains(&tenant))
    }

    /// An upload of this tenant is being read.
    pub(super) fn begin(&mut self, tenant: TenantId) -> Turn {
        self.servings += 1;
        if self.served.len() >= KNOWN {
            let early = self.servings.saturating_sub(KNOWN as u64 / 2);
            self.served.retain(|_, serving| *serving > early);
        }
        self.served.insert(tenant, self.servings);
        has(&self.reading).insert(tenant);
        Turn {
            tenant,
            reading: self.reading.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use types::TenantId;

    use super::{KNOWN, Turns};

    #[test]
    fn a_tenant_has_one_turn_at_a_time_and_then_it_is_the_others() {
        let [one, two, three] = [(); 3].map(|()| TenantId::fresh());
        let mut turns = Turns::default();
        let order = |turns: &Turns| {
            let mut waiting = [one, two, three];
            turns.order(&mut waiting);
            waiting
        };
        assert_eq!(order(&turns), [one, two, three]);
        assert_eq!(turns.room(one, 2), 1);
        let first = turns.begin(one);
        assert_eq!((turns.room(one, 2), turns.room(two, 2)), (0, 1));
        assert_eq!(order(&turns), [two, three, one]);
        let second = turns.begin(two);
        assert_eq!(turns.room(three, 2), 0);
        assert_eq!(order(&turns), [three, one, two]);
        drop(first);
        // It is free, and still not first.
        assert_eq!((turns.room(one, 2), turns.room(two, 2)), (1, 0));
        assert_eq!(order(&turns), [three, one, two]);
        let _third = turns.begin(three);
        assert_eq!(order(&turns), [one, two, three]);
        drop(second);
        assert_eq!(turns.room(two, 2), 1);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut turns = Turns::default();
        for _ in 0..3 * KNOWN {
            drop(turns.begin(TenantId::fresh()));
        }
        let last = TenantId::fresh();
        drop(turns.begin(last));
        assert!(turns.served.len() <= KNOWN);
        let mut waiting = [last, TenantId::fresh()];
        turns.order(&mut waiting);
        assert_eq!(waiting[1], last);
    }
}
