//! Places for what lasts, such as streams: so many in one process, and so many of these for one tenant, so that none takes them from the others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use types::TenantId;

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The tenant has so many, and these are all that it may have.
    Own(usize),
    /// Everybody together has all that there are.
    All,
}

/// The places. Clones share them.
#[derive(Clone, Debug)]
pub struct Places {
    most: usize,
    own: usize,
    taken: Arc<Mutex<HashMap<TenantId, usize>>>,
}

/// One that is taken; it is free again when this is dropped.
#[derive(Debug)]
pub struct Place {
    places: Places,
    tenant: TenantId,
}

impl Places {
    /// So many, and so many of these for one tenant.
    pub fn new(most: usize, own: usize) -> Self {
        Self {
            most,
            own,
            taken: Arc::default(),
        }
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<TenantId, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one for this tenant.
    ///
    /// # Errors
    /// When there is none.
    pub fn take(&self, tenant: TenantId) -> Result<Place, Full> {
        let mut taken = self.taken();
        if taken.get(&tenant).is_some_and(|own| *own >= self.own) {
            return Err(Full::Own(self.own));
        }
        // At most `most` tenants are in it.
        if taken.values().sum::<usize>() >= self.most {
            return Err(Full::All);
        }
        *taken.entry(tenant).or_default() += 1;
        drop(taken);
        Ok(Place {
            places: self.clone(),
            tenant,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        match taken.get_mut(&self.tenant) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                taken.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use types::TenantId;

    use super::{Full, Places};

    #[test]
    fn one_tenant_has_few_places_and_all_have_not_more_than_there_are() {
        let places = Places::new(20, 8);
        let mut taken = Vec::new();
        for _ in 0..2 {
            let tenant = TenantId::fresh();
            taken.extend((0..8).map(|_| places.take(tenant).unwrap()));
            assert_eq!(places.take(tenant).unwrap_err(), Full::Own(8));
        }
        let last = TenantId::fresh();
        taken.extend((0..4).map(|_| places.take(last).unwrap()));
        assert_eq!(places.take(TenantId::fresh()).unwrap_err(), Full::All);
        taken.pop();
        taken.push(places.take(TenantId::fresh()).unwrap());
        taken.clear();
        assert!(places.taken().is_empty());
    }
}
