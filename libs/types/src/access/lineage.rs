//! From which tables and columns others came. A rule names a table as it is called at one moment; its rows stay the same under other names.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Columns, ghost};

/// A schema and a table.
type Name = (String, String);

fn plain(name: (&str, &str)) -> Name {
    (name.0.to_lowercase(), name.1.to_lowercase())
}

/// What an answer says of the descents that were known when it was read, so many of them and whether there are more: a number that grows whenever
/// they do. None of them is no field.
pub fn told(count: usize, left_out: bool) -> u64 {
    count as u64 + 1 + u64::from(left_out)
}

/// From which tables and columns those of one server came, as far as its log tells. Names are compared without case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    unknown: bool,
    from: HashMap<Name, Vec<Name>>,
    into: HashMap<Name, Vec<Name>>,
    columns: HashMap<Name, Vec<(String, String)>>,
}

impl Lineage {
    /// One of which not all is known: any table may have come from any other.
    pub fn unknown() -> Self {
        Self {
            unknown: true,
            ..Self::default()
        }
    }

    /// Whether it is not all known.
    pub fn is_unknown(&self) -> bool {
        self.unknown
    }

    /// A table has rows of another one: it was renamed, or took a partition.
    pub fn renamed(&mut self, from: (&str, &str), to: (&str, &str)) {
        self.made_like(from, to);
        let to = (to.0.to_owned(), to.1.to_owned());
        self.into.entry(plain(from)).or_default().push(to);
    }

    /// A table was made like another one: what is hidden of that one is to be filled into this one.
    pub fn made_like(&mut self, from: (&str, &str), to: (&str, &str)) {
        let from = (from.0.to_owned(), from.1.to_owned());
        self.from.entry(plain(to)).or_default().push(from);
    }

    /// A column of a table was renamed.
    pub fn column(&mut self, table: (&str, &str), from: &str, to: &str) {
        let names = (from.to_lowercase(), to.to_lowercase());
        self.columns.entry(plain(table)).or_default().push(names);
    }

    /// Other names under which rows of a table stand, or stood: what it came from, and what it became.
    pub(super) fn relatives(&self, schema: &str, table: &str) -> Vec<(String, String)> {
        let mut found = BTreeMap::new();
        for next in [&self.from, &self.into] {
            let mut seen = BTreeSet::from([plain((schema, table))]);
            let mut open = vec![plain((schema, table))];
            while let Some(name) = open.pop() {
                for other in next.get(&name).into_iter().flatten() {
                    let key = plain((&other.0, &other.1));
                    if seen.insert(key.clone()) {
                        found.insert(key.clone(), other.clone());
                        open.push(key);
                    }
                }
            }
        }
        found.remove(&plain((schema, table)));
        found.into_values().collect()
    }

    /// The tables that are known for which a tool makes one with this name.
    pub(super) fn behind(&self, schema: &str, table: &str) -> Vec<(String, String)> {
        let (schema, table) = plain((schema, table));
        let known = self.from.keys().chain(self.into.keys());
        let is = |known: &&Name| known.0 == schema && ghost::is_made_of(&table, &known.1);
        known.filter(is).cloned().collect()
    }

    /// These columns with every other name that one of them had or has in these tables.
    pub(super) fn with_other_names<'n>(
        &self,
        tables: impl IntoIterator<Item = (&'n str, &'n str)>,
        mut columns: Columns,
    ) -> Columns {
        let tables = tables.into_iter().map(plain);
        let renamed: Vec<_> = tables
            .filter_map(|table| self.columns.get(&table))
            .flatten()
            .collect();
        let mut open: Vec<String> = columns.keys().cloned().collect();
        while let Some(column) = open.pop() {
            for (from, to) in &renamed {
                let other = match (*from == column, *to == column) {
                    (true, _) => to,
                    (_, true) => from,
                    _ => continue,
                };
                if !columns.contains_key(other) {
                    columns.insert(other.clone(), other.clone());
                    open.push(other.clone());
                }
            }
        }
        columns
    }
}
