//! Every definition that any table had, by the store's number for it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use binlog::Table;
use serde::{Deserialize, Serialize};

use crate::{Error, folder::Files, hash::sha256};

/// How many definitions [`Catalogue::number_of`] remembers by their address: more than the tables that a busy moment touches.
const RECENT: usize = 32;

/// Definitions by number, and numbers by definition. Equal definitions have one number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalogue {
    by_number: BTreeMap<u32, Arc<Table>>,
    by_value: HashMap<Arc<Table>, u32>,
    /// The latest last. The decoder hands out the same `Arc` for the same definition, so most look-ups compare two addresses.
    recent: Vec<(Arc<Table>, u32)>,
}

/// A file of definitions: those that one tail brought with it.
#[derive(Debug, Serialize, Deserialize)]
struct Definitions {
    definitions: Vec<Definition>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Definition {
    version: u32,
    table: Arc<Table>,
}

impl Catalogue {
    /// The definition with this number.
    pub(crate) fn get(&self, version: u32) -> Option<&Arc<Table>> {
        self.by_number.get(&version)
    }

    /// All definitions, in the order of their numbers.
    pub(crate) fn all(&self) -> impl Iterator<Item = (u32, &Arc<Table>)> {
        self.by_number.iter().map(|(version, table)| (*version, table))
    }

    /// The definitions of one table, in the order of their numbers.
    pub(crate) fn of<'a>(
        &'a self,
        schema: &'a str,
        table: &'a str,
    ) -> impl Iterator<Item = (u32, &'a Arc<Table>)> {
        self.all()
            .filter(move |(_, t)| t.schema == schema && t.name == table)
    }

    /// Takes in a definition that has its number already.
    pub(crate) fn insert(&mut self, version: u32, table: &Arc<Table>) {
        self.by_number.insert(version, Arc::clone(table));
        self.by_value.insert(Arc::clone(table), version);
    }

    /// The number of a definition; none if it is new.
    pub(crate) fn number_of(&mut self, table: &Arc<Table>) -> Option<u32> {
        if let Some((_, version)) = self
            .recent
            .iter()
            .rev()
            .find(|(known, _)| Arc::ptr_eq(known, table))
        {
            return Some(*version);
        }
        let version = *self.by_value.get(table)?;
        if self.recent.len() == RECENT {
            self.recent.remove(0);
        }
        self.recent.push((Arc::clone(table), version));
        Some(version)
    }

    /// Gives a new definition the next number.
    pub(crate) fn add(&mut self, table: &Arc<Table>) -> u32 {
        let version = self.by_number.last_key_value().map_or(1, |(last, _)| last + 1);
        self.insert(version, table);
        version
    }

    /// Takes in the definitions of the file `name`, which has this digest.
    pub(crate) fn load(&mut self, files: &Files, name: &str, digest: &str) -> Result<(), Error> {
        let bytes = files.read(name)?;
        let path = files.path(name);
        if sha256(&bytes) != digest {
            return Err(Error::corrupt(&path, "its digest is not the one in the manifest"));
        }
        let file: Definitions =
            serde_json::from_slice(&bytes).map_err(|e| Error::corrupt(&path, e.to_string()))?;
        for Definition { version, table } in file.definitions {
            self.insert(version, &table);
        }
        Ok(())
    }
}

/// Writes definitions to the new file `name`, and returns its digest.
pub(crate) fn save(files: &Files, name: &str, definitions: &[(u32, Arc<Table>)]) -> Result<String, Error> {
    let definitions = definitions
        .iter()
        .map(|(version, table)| Definition {
            version: *version,
            table: Arc::clone(table),
        })
        .collect();
    let bytes = serde_json::to_vec(&Definitions { definitions })
        .map_err(|e| Error::corrupt(&files.path(name), e.to_string()))?;
    files.write(name, &bytes)?;
    Ok(sha256(&bytes))
}
