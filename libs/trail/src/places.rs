//! Where in a tail a key may be, so that a look-up need not read the tail from end to end.

use std::ops::Range;

/// Keys remembered per tail: 8 bytes each. A tail with more (one huge transaction makes it so) is scanned whole.
const KEYS_MAX: usize = 2 << 20;

/// The keys of a tail's rows by transaction, hashed. Hashes that collide cost a look, no more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    /// Where each transaction begins in the file.
    starts: Vec<u64>,
    /// A key's hash, and the number of its transaction.
    keys: Vec<(u32, u32)>,
    /// There were too many.
    overflown: bool,
}

impl Places {
    /// A transaction begins at byte `at`.
    pub(crate) fn begin(&mut self, at: u64) {
        self.starts.push(at);
    }

    /// The transaction has a row with this key.
    pub(crate) fn key(&mut self, key: &[u8]) {
        let entry = (crc32fast::hash(key), (self.starts.len() as u32).saturating_sub(1));
        // Rows of one transaction often have few keys between them, or the same one twice.
        if self.keys.last() == Some(&entry) {
            return;
        }
        if self.keys.len() == KEYS_MAX {
            self.overflown = true;
            self.keys = Vec::new();
        }
        if !self.overflown {
            self.keys.push(entry);
        }
    }

    /// Only the first `transactions` have ended; what is known of a later one is forgotten.
    pub(crate) fn keep(&mut self, transactions: usize) {
        self.starts.truncate(transactions);
        let kept = self
            .keys
            .partition_point(|(_, txn)| (*txn as usize) < transactions);
        self.keys.truncate(kept);
    }

    /// The transactions that may have a row with one of `keys`, as their numbers and their bytes, up to byte `end` of the file. None if
    /// that is not known.
    pub(crate) fn of(&self, keys: &[Vec<u8>], end: u64) -> Option<Vec<(usize, Range<u64>)>> {
        if self.overflown {
            return None;
        }
        let mut hashes: Vec<u32> = keys.iter().map(|key| crc32fast::hash(key)).collect();
        hashes.sort_unstable();
        let mut found: Vec<(usize, Range<u64>)> = Vec::new();
        for (_, txn) in self
            .keys
            .iter()
            .filter(|(hash, _)| hashes.binary_search(hash).is_ok())
        {
            let txn = *txn as usize;
            if found.last().is_none_or(|(last, _)| *last != txn) {
                let until = self.starts.get(txn + 1).copied().unwrap_or(end);
                found.push((txn, *self.starts.get(txn)?..until));
            }
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::Places;

    #[test]
    fn a_key_is_looked_for_in_its_transactions_only() {
        let mut places = Places::default();
        for (at, keys) in [(100, "ab"), (200, "b"), (300, "aab"), (400, "c")] {
            places.begin(at);
            keys.bytes().for_each(|key| places.key(&[key]));
        }
        let of = |places: &Places, key: &str| places.of(&[key.as_bytes().to_vec()], 450).unwrap();
        assert_eq!(of(&places, "a"), [(0, 100..200), (2, 300..400)]);
        assert_eq!(of(&places, "c"), [(3, 400..450)]);
        assert_eq!(of(&places, "d"), []);
        places.keep(3);
        assert_eq!(of(&places, "c"), []);
        places.begin(400);
        places.key(b"d");
        assert_eq!(of(&places, "d"), [(3, 400..450)]);
    }

    #[test]
    fn too_many_keys_are_not_remembered() {
        let mut places = Places::default();
        places.begin(1);
        (0..=super::KEYS_MAX as u32).for_each(|n| places.key(&n.to_le_bytes()));
        assert_eq!(places.of(&[vec![1]], 2), None);
    }
}
