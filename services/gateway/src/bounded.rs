//! A map with a bound: when it is full, what has not been used for longest goes.
use std::{collections::HashMap, hash::Hash};

/// Two generations of at most half the bound each. What is used moves to the young one; when that is full it becomes the old one, and
/// the old one is forgotten. Every operation is one or two look-ups.
#[derive(Debug)]
pub(crate) struct Bounded<K, V> {
    half: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Hash + Eq, V> Bounded<K, V> {
    /// An empty map for at most `bound` entries.
    pub(crate) fn new(bound: usize) -> Self {
        Self {
            half: (bound / 2).max(1),
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }

    /// The value of `key`, which counts as used.
    pub(crate) fn get<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        if !self.young.contains_key(key) {
            let (key, value) = self.old.remove_entry(key)?;
            self.put(key, value);
        }
        self.young.get_mut(key)
    }

    /// The value of `key`, which counts as used; made by `make` if there is none.
    pub(crate) fn get_or_put(&mut self, key: &str, make: impl Fn() -> V) -> &mut V
    where
        K: std::borrow::Borrow<str> + From<String>,
    {
        if !self.young.contains_key(key) {
            let value = self.old.remove(key).unwrap_or_else(&make);
            self.put(K::from(key.to_owned()), value);
        }
        self.young.entry(K::from(key.to_owned())).or_insert_with(make)
    }

    /// Sets the value of `key`.
    pub(crate) fn put(&mut self, key: K, value: V) {
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::Bounded;

    #[test]
    fn what_is_used_stays_and_the_rest_goes() {
        let mut map = Bounded::new(10);
        map.put("kept".to_owned(), 0);
        for number in 1..1_000 {
            map.put(number.to_string(), number);
            assert_eq!(map.get("kept"), Some(&mut 0));
            assert!(map.young.len() + map.old.len() <= 10);
        }
        assert_eq!(map.get("1"), None);
        assert_eq!(map.get("999"), Some(&mut 999));
    }
}
