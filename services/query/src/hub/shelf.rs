//! What the scripts of the directory do, as plain values: the simulation runs on it, and a test runs both on the same questions.

use std::{collections::BTreeMap, net::SocketAddr};

use super::model::{Epoch, Key};

/// Milliseconds of Redis' own clock.
pub(super) type Millis = u64;

/// As `lua/` does it.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    leases: BTreeMap<String, Lease>,
    agents: BTreeMap<Key, BTreeMap<String, (u64, Epoch)>>,
}

#[derive(Debug)]
struct Lease {
    address: SocketAddr,
    leaving: bool,
    until: Millis,
}

/// What became of an announcement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shelved {
    Taken(Vec<SocketAddr>),
    Older,
    Stale,
    NoLease,
}

impl Shelf {
    fn lease(&self, replica: &str, now: Millis) -> Option<&Lease> {
        self.leases.get(replica).filter(|lease| now < lease.until)
    }

    /// Whether the replica was known.
    pub(super) fn live(
        &mut self,
        replica: &str,
        address: SocketAddr,
        leaving: bool,
        now: Millis,
        lasts: Millis,
    ) -> bool {
        let known = self.lease(replica, now).is_some();
        let until = now + lasts;
        let lease = Lease {
            address,
            leaving,
            until,
        };
        self.leases.insert(replica.to_owned(), lease);
        known
    }

    pub(super) fn leave(&mut self, replica: &str) {
        self.leases.remove(replica);
    }

    pub(super) fn announce(
        &mut self,
        replica: &str,
        key: Key,
        id: u64,
        epoch: &Epoch,
        now: Millis,
    ) -> Shelved {
        if self.lease(replica, now).is_none() {
            return Shelved::NoLease;
        }
        let all = self.agents.get(&key).cloned().unwrap_or_default();
        if all.get(replica).is_some_and(|(own, _)| *own > id) {
            return Shelved::Stale;
        }
        let mut older = Vec::new();
        let mut left = BTreeMap::new();
        for (other, (id, of)) in all {
            let Some(lease) = self.lease(&other, now) else {
                continue;
            };
            if of > *epoch {
                return Shelved::Older;
            }
            if of < *epoch && other != replica {
                older.push(lease.address);
            } else {
                left.insert(other, (id, of));
            }
        }
        left.insert(replica.to_owned(), (id, epoch.clone()));
        self.agents.insert(key, left);
        Shelved::Taken(older)
    }

    pub(super) fn withdraw(&mut self, replica: &str, key: Key, id: u64) {
        if let Some(all) = self.agents.get_mut(&key)
            && all.get(replica).is_some_and(|(of, _)| *of == id)
        {
            all.remove(replica);
        }
    }

    /// Addresses, epochs, and whether the replica leaves.
    pub(super) fn find(&self, key: Key, now: Millis) -> Vec<(SocketAddr, Epoch, bool)> {
        let all = self.agents.get(&key).into_iter().flatten();
        let found = all.filter_map(|(replica, (_, epoch))| {
            let lease = self.lease(replica, now)?;
            Some((lease.address, epoch.clone(), lease.leaving))
        });
        found.collect()
    }

    pub(super) fn flush(&mut self) {
        *self = Self::default();
    }
}
