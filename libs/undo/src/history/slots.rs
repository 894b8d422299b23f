//! Key values, found by hash.

use std::hash::{BuildHasher, RandomState};

use super::{
    NONE,
    arena::{Arena, Span},
};

/// Which rows a key value can belong to: those of a generation of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Realm {
    pub(super) table: u32,
    pub(super) generation: u32,
}

/// A key value.
#[derive(Clone, Copy, Debug)]
struct Slot {
    key: Span,
    realm: Realm,
    /// A row that is in it.
    head: u32,
}

/// All key values. Open addressing with linear probing: a bucket holds nothing but a slot's number, a fourth of what a map from hashes
/// would take. The hash is keyed at random, because keys are other people's data.
#[derive(Debug, Default)]
pub(super) struct Slots {
    all: Vec<Slot>,
    /// A power of two, at most three quarters of them in use.
    buckets: Vec<u32>,
    hasher: RandomState,
}

impl Slots {
    pub(super) fn heads(&self) -> impl Iterator<Item = u32> + '_ {
        self.all.iter().map(|slot| slot.head)
    }

    pub(super) fn head(&self, slot: u32) -> u32 {
        self.all[slot as usize].head
    }

    pub(super) fn set_head(&mut self, slot: u32, row: u32) {
        self.all[slot as usize].head = row;
    }

    pub(super) fn find(&self, arena: &Arena, realm: Realm, key: &[u8]) -> Option<u32> {
        let mut at = self.start(realm, key);
        loop {
            let found = *self.buckets.get(at)?;
            let slot = self.all.get(found as usize)?;
            if slot.realm == realm && arena.get(slot.key) == Some(key) {
                return Some(found);
            }
            at = (at + 1) & (self.buckets.len() - 1);
        }
    }

    /// Adds a key value that is not there yet; none if there are too many.
    pub(super) fn add(&mut self, arena: &mut Arena, realm: Realm, key: &[u8]) -> Option<u32> {
        let id = u32::try_from(self.all.len()).ok().filter(|id| *id != NONE)?;
        let slot = Slot {
            key: arena.put(key)?,
            realm,
            head: NONE,
        };
        self.all.push(slot);
        if self.all.len() * 4 > self.buckets.len() * 3 {
            self.grow(arena);
        } else {
            self.enter(id, realm, key);
        }
        Some(id)
    }

    fn start(&self, realm: Realm, key: &[u8]) -> usize {
        let hash = self.hasher.hash_one((realm, key));
        // The low bits are as good as any.
        usize::try_from(hash & (self.buckets.len() as u64).wrapping_sub(1)).unwrap_or_default()
    }

    fn enter(&mut self, id: u32, realm: Realm, key: &[u8]) {
        let mut at = self.start(realm, key);
        while self.buckets[at] != NONE {
            at = (at + 1) & (self.buckets.len() - 1);
        }
        self.buckets[at] = id;
    }

    fn grow(&mut self, arena: &Arena) {
        self.buckets = vec![NONE; (self.buckets.len() * 2).max(16)];
        for (id, nth) in (0..).zip(0..self.all.len()) {
            let Slot { key, realm, .. } = self.all[nth];
            self.enter(id, realm, arena.get(key).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Arena, Realm, Slots};

    #[test]
    fn every_key_is_found_again_in_its_own_realm() {
        let (mut slots, mut arena) = (Slots::default(), Arena::default());
        let realm = |table| Realm { table, generation: 0 };
        for n in 0_u32..1_000 {
            let key = n.to_be_bytes();
            assert_eq!(slots.find(&arena, realm(0), &key), None);
            assert_eq!(slots.add(&mut arena, realm(0), &key), Some(n));
        }
        assert_eq!(slots.add(&mut arena, realm(1), &7_u32.to_be_bytes()), Some(1_000));
        for n in 0_u32..1_000 {
            assert_eq!(slots.find(&arena, realm(0), &n.to_be_bytes()), Some(n));
        }
        assert_eq!(slots.find(&arena, realm(1), &7_u32.to_be_bytes()), Some(1_000));
        assert_eq!(slots.find(&arena, realm(1), &8_u32.to_be_bytes()), None);
    }
}
