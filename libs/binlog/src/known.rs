//! The definitions that a decoder keeps, within a bound.

use std::{collections::HashMap, sync::Arc};

use crate::{Table, error::Problem};

/// Definitions kept, and maps of one statement: memory is bounded on servers with very many tables.
pub(crate) const DEFINITIONS_MAX: usize = 10_000;

/// Bytes that either take.
const DEFINITIONS_BYTES_MAX: usize = 64 << 20;

/// A definition, and the memory it takes.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) table: Arc<Table>,
    bytes: usize,
}

/// Definitions by the bytes of their table map after the table id, so that each is parsed once. Cleared when full.
#[derive(Debug, Default)]
pub(crate) struct Definitions {
    known: HashMap<Vec<u8>, Known>,
    bytes: usize,
}

impl Definitions {
    pub(crate) fn get(&self, definition: &[u8]) -> Option<&Known> {
        self.known.get(definition)
    }

    pub(crate) fn keep(&mut self, definition: &[u8], table: Table) -> Known {
        let bytes = definition.len() + table.bytes();
        if self.known.len() >= DEFINITIONS_MAX || self.bytes.saturating_add(bytes) > DEFINITIONS_BYTES_MAX {
            self.known.clear();
            self.bytes = 0;
        }
        let known = Known {
            table: Arc::new(table),
            bytes,
        };
        // One that is not kept is parsed anew each time.
        if bytes <= DEFINITIONS_BYTES_MAX {
            self.bytes += bytes;
            self.known.insert(definition.to_vec(), known.clone());
        }
        known
    }

    pub(crate) fn retain(&mut self, wanted: impl Fn(&Table) -> bool) {
        self.known.retain(|_, known| wanted(&known.table));
        self.bytes = self.known.values().map(|known| known.bytes).sum();
    }
}

/// What the rows events of the current statement refer to, by table id.
#[derive(Debug, Default)]
pub(crate) struct Maps {
    maps: HashMap<u64, Result<Known, Problem>>,
    bytes: usize,
}

impl Maps {
    pub(crate) fn get(&self, id: u64) -> Option<&Result<Known, Problem>> {
        self.maps.get(&id)
    }

    pub(crate) fn put(&mut self, id: u64, map: Result<Known, Problem>) -> Result<(), Problem> {
        let bytes = |map: &Result<Known, Problem>| map.as_ref().map_or(0, |known| known.bytes);
        self.bytes += bytes(&map);
        if let Some(before) = self.maps.insert(id, map) {
            self.bytes -= bytes(&before);
        }
        if self.maps.len() > DEFINITIONS_MAX || self.bytes > DEFINITIONS_BYTES_MAX {
            return Err(Problem::Order("more table maps than a statement can have"));
        }
        Ok(())
    }

    pub(crate) fn clear(&mut self) {
        self.maps.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::{DEFINITIONS_BYTES_MAX, Definitions, Maps};
    use crate::{Problem, Table};

    /// A definition of some 20 MiB.
    fn large(name: u8) -> Table {
        Table {
            schema: "s".to_owned(),
            name: char::from(name).to_string().repeat(20 << 20),
            columns: Vec::new(),
            key: Vec::new(),
        }
    }

    #[test]
    fn kept_definitions_are_bounded_by_their_bytes() {
        let mut definitions = Definitions::default();
        for name in b'a'..=b'f' {
            definitions.keep(&[name], large(name));
            assert!(
                definitions.bytes <= DEFINITIONS_BYTES_MAX,
                "{}",
                definitions.bytes
            );
            assert!(definitions.get(&[name]).is_some());
        }
        definitions.retain(|table| !table.name.starts_with('f'));
        assert!(definitions.get(b"f").is_none());
        assert!(definitions.bytes < 60 << 20);
    }

    #[test]
    fn one_statement_cannot_refer_to_definitions_without_end() {
        let (mut definitions, mut maps) = (Definitions::default(), Maps::default());
        let known = definitions.keep(b"a", large(b'a'));
        // The same table mapped again takes nothing more.
        for _ in 0..10 {
            assert_eq!(maps.put(1, Ok(known.clone())), Ok(()));
        }
        assert_eq!(maps.put(2, Ok(known.clone())), Ok(()));
        assert_eq!(maps.put(3, Ok(known.clone())), Ok(()));
        assert!(matches!(maps.put(4, Ok(known.clone())), Err(Problem::Order(_))));
        maps.clear();
        assert_eq!(maps.put(4, Ok(known)), Ok(()));
    }
}
