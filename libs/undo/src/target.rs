//! A table as the script will find it, and old definitions seen through it.

use std::sync::Arc;

use binlog::{Column, ColumnType, Table};

use crate::value;

/// The newest definition of a table.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) table: Arc<Table>,
    /// Columns of the primary key; empty if there is none.
    pub(crate) key: Vec<usize>,
    /// Columns that may have `ON UPDATE CURRENT_TIMESTAMP`, which the log does not tell: all that could. An UPDATE that does not set one
    /// says so, `c` = `c`, or the server might set it to the time of the undo.
    pub(crate) stamps: Vec<usize>,
    /// Columns that somebody told us the server sets by itself. A later change of any other column counts as somebody's will.
    pub(crate) self_updating: Vec<usize>,
}

impl Target {
    pub(crate) fn new(table: Arc<Table>, self_updating: &[String]) -> Self {
        let mut self_updating: Vec<usize> = self_updating
            .iter()
            .filter_map(|name| table.column(name))
            .collect();
        self_updating.sort_unstable();
        let stamps = (0..table.columns.len())
            .filter(|at| is_stamp(&table.columns[*at]))
            .collect();
        Self {
            key: table.key.iter().map(|part| part.column as usize).collect(),
            stamps,
            self_updating,
            table,
        }
    }
}

/// Only these types may have `ON UPDATE CURRENT_TIMESTAMP`.
fn is_stamp(column: &Column) -> bool {
    use ColumnType as T;
    let timed = matches!(
        column.ty,
        T::Timestamp { .. } | T::DateTime { .. } | T::OldTimestamp | T::OldDateTime
    );
    timed && column.generated != Some(true)
}

/// Where a column of an old definition is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At this index.
    At(usize),
    /// Nowhere.
    Gone,
    /// There is one of its name, but it cannot take the old one's values.
    Misfit,
}

/// An old definition seen through the newest one.
#[derive(Debug)]
pub(crate) struct Lens {
    /// For each old column, where it is.
    pub(crate) places: Vec<Place>,
    /// For each old column, whether the server computes it.
    pub(crate) generated: Vec<bool>,
    /// For each new column, the old one it was.
    pub(crate) old: Vec<Option<usize>>,
}

impl Lens {
    pub(crate) fn new(old: &Table, target: &Target) -> Self {
        let new = &target.table;
        let mut lens = Self {
            places: Vec::with_capacity(old.columns.len()),
            generated: Vec::with_capacity(old.columns.len()),
            old: vec![None; new.columns.len()],
        };
        for (index, column) in old.columns.iter().enumerate() {
            let found = new.column(&column.name).map(|at| (at, &new.columns[at]));
            lens.generated.push(
                column.generated == Some(true) || found.is_some_and(|(_, new)| new.generated == Some(true)),
            );
            lens.places.push(match found {
                None => Place::Gone,
                Some((at, new)) if value::fits(column, new) => {
                    lens.old[at] = Some(index);
                    Place::At(at)
                }
                Some(_) => Place::Misfit,
            });
        }
        lens
    }
}
