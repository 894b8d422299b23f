//! Room for large answers of agents while they are read: so much for one tenant, so that what a tenant's agents send takes no more memory than
//! that, however many ask.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use types::TenantId;

/// Large answers that are read for one tenant at a time.
const OF_A_TENANT: usize = 4;

/// Room for one large answer, free again when this is dropped.
pub(super) type Room = OwnedSemaphorePermit;

/// All of it. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Rooms(Arc<Mutex<HashMap<TenantId, Arc<Semaphore>>>>);

impl Rooms {
    /// Waits for room of this tenant's; none only once the process ends.
    pub(super) async fn take(&self, tenant: TenantId) -> Option<Room> {
        let own = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Those whom nobody waits for and nobody has anything of.
            all.retain(|_, own| Arc::strong_count(own) > 1 || own.available_permits() < OF_A_TENANT);
            all.entry(tenant)
                .or_insert_with(|| Arc::new(Semaphore::new(OF_A_TENANT)))
                .clone()
        };
        own.acquire_owned().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use types::TenantId;

    use super::{OF_A_TENANT, Rooms};

    #[test]
    fn a_tenant_waits_for_its_own_answers_only() {
        let (rooms, one, other) = (Rooms::default(), TenantId::fresh(), TenantId::fresh());
        let now = |tenant| rooms.take(tenant).now_or_never().flatten();
        let mut taken: Vec<_> = (0..OF_A_TENANT).map(|_| now(one).unwrap()).collect();
        assert!(now(one).is_none());
        assert!(now(other).is_some());
        taken.pop();
        assert!(now(one).is_some());
        taken.clear();
        drop(now(other));
        assert_eq!(rooms.0.lock().unwrap().len(), 1);
    }
}
