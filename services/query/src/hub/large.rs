//! What agents' long messages may take of this replica's memory while they come: so much of all, and so much of one tenant's.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use types::TenantId;

/// Messages up to this are not counted: calls have places, so that there is a bound on them.
const SMALL: usize = 256 << 10;
/// Bytes of longer ones at once, of all tenants and of one.
const OF_ALL: usize = 256 << 20;
const OF_ONE: usize = 64 << 20;
/// What gRPC puts before a message: a flag and its length.
const HEAD: usize = 5;

/// The room there is. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Room(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    of_all: usize,
    of_one: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    of: HashMap<TenantId, usize>,
}

impl Default for Room {
    fn default() -> Self {
        Self::new(OF_ALL, OF_ONE)
    }
}

impl Room {
    fn new(of_all: usize, of_one: usize) -> Self {
        Self(Arc::new(Inner {
            of_all,
            of_one,
            taken: Mutex::default(),
        }))
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, tenant: TenantId, bytes: usize) -> Option<Held> {
        let mut taken = self.taken();
        let of = taken.of.get(&tenant).copied().unwrap_or_default();
        if taken.all + bytes > self.0.of_all || of + bytes > self.0.of_one {
            return None;
        }
        taken.all += bytes;
        taken.of.insert(tenant, of + bytes);
        drop(taken);
        Some(Held {
            room: self.clone(),
            tenant,
            bytes,
        })
    }

    /// For an answer of an agent of `tenant`.
    pub(super) fn scale(&self, tenant: TenantId) -> Scale {
        Scale {
            room: self.clone(),
            tenant,
            head: [0; HEAD],
            read: 0,
            left: 0,
            held: None,
        }
    }
}

/// What a message takes, until it is dropped.
#[derive(Debug)]
struct Held {
    room: Room,
    tenant: TenantId,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut taken = self.room.taken();
        taken.all = taken.all.saturating_sub(self.bytes);
        let of = taken.of.get(&self.tenant).copied().unwrap_or_default();
        if of <= self.bytes {
            taken.of.remove(&self.tenant);
        } else {
            taken.of.insert(self.tenant, of - self.bytes);
        }
    }
}

/// There is no room for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// Reads along how long the messages of an answer are, and takes room for the one that comes. It has it until the next one begins, which is
/// when somebody has read it.
#[derive(Debug)]
pub(super) struct Scale {
    room: Room,
    tenant: TenantId,
    head: [u8; HEAD],
    read: usize,
    left: usize,
    held: Option<Held>,
}

impl Scale {
    /// These bytes have come.
    pub(super) fn put(&mut self, mut bytes: &[u8]) -> Result<(), Full> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let of_message = self.left.min(bytes.len());
                self.left -= of_message;
                bytes = &bytes[of_message..];
                continue;
            }
            self.held = None;
            let of_head = (HEAD - self.read).min(bytes.len());
            self.head[self.read..self.read + of_head].copy_from_slice(&bytes[..of_head]);
            self.read += of_head;
            bytes = &bytes[of_head..];
            if self.read == HEAD {
                self.read = 0;
                let [_, a, b, c, d] = self.head;
                self.left = usize::try_from(u32::from_be_bytes([a, b, c, d])).map_err(|_| Full)?;
                // What is longer than a message may be is refused by who decodes it, before it takes memory.
                if self.left > SMALL && self.left <= super::LONGEST {
                    self.held = Some(self.room.take(self.tenant, self.left).ok_or(Full)?);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use types::TenantId;

    use super::{Full, Room, SMALL, Scale};

    fn head(length: usize) -> Vec<u8> {
        [&[0][..], &u32::try_from(length).unwrap().to_be_bytes()].concat()
    }

    fn message(length: usize) -> Vec<u8> {
        [head(length), vec![7; length]].concat()
    }

    /// In pieces that cut heads and messages anywhere.
    fn put(scale: &mut Scale, bytes: &[u8], piece: usize) -> Result<(), Full> {
        bytes.chunks(piece).try_for_each(|piece| scale.put(piece))
    }

    #[test]
    fn the_next_long_message_of_a_tenant_is_refused_when_its_room_is_taken() {
        let room = Room::new(8 * SMALL, 4 * SMALL);
        let (one, other) = (TenantId::fresh(), TenantId::fresh());
        let long = head(2 * SMALL);
        let mut of_one: Vec<_> = (0..3).map(|_| room.scale(one)).collect();
        assert_eq!(of_one[0].put(&long), Ok(()));
        assert_eq!(of_one[1].put(&long), Ok(()));
        assert_eq!(of_one[2].put(&long), Err(Full));
        let mut of_other: Vec<_> = (0..2).map(|_| room.scale(other)).collect();
        assert_eq!(of_other[0].put(&long), Ok(()));
        assert_eq!(of_other[1].put(&long), Ok(()));
        assert_eq!(room.scale(TenantId::fresh()).put(&long), Err(Full));
        of_one.remove(0);
        assert_eq!(room.scale(one).put(&long), Ok(()));
        drop((of_one, of_other));
        let taken = room.taken();
        assert_eq!((taken.all, taken.of.len()), (0, 0));
    }

    #[test]
    fn room_is_taken_for_one_message_after_the_other_however_they_are_cut() {
        for piece in [1 << 20, 4_099, 7] {
            let room = Room::new(2 * SMALL, 2 * SMALL);
            let mut scale = room.scale(TenantId::fresh());
            for length in [2 * SMALL, 0, 5, SMALL, SMALL + 1, 2 * SMALL] {
                put(&mut scale, &message(length), piece).unwrap();
                let counted = if length > SMALL { length } else { 0 };
                assert_eq!(room.taken().all, counted, "{length} in pieces of {piece}");
            }
            let two = [message(2 * SMALL), message(2 * SMALL)].concat();
            assert_eq!(put(&mut scale, &two, piece), Ok(()));
        }
    }
}
