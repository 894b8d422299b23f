//! A table as the script will find it, and old definitions seen through it.

use std::sync::Arc;

use binlog::{ColumnType, Table};

use crate::value;

/// The newest definition of a table.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) table: Arc<Table>,
    /// Columns of the primary key; empty if there is none.
    pub(crate) key: Vec<usize>,
    /// Columns that the server may set by itself when a row is updated. An UPDATE that does not set them says so: `c` = `c`.
    pub(crate) stamps: Vec<usize>,
    /// Those of them that are known to be set by the server. Without that knowledge none is, and a later change of one counts as
    /// somebody's will.
    pub(crate) self_updating: Vec<usize>,
}

impl Target {
    /// `self_updating` names the columns with `ON UPDATE CURRENT_TIMESTAMP`, if anybody looked; otherwise every column that could have
    /// that clause may have it.
    pub(crate) fn new(table: Arc<Table>, self_updating: Option<&[String]>) -> Self {
        let key = table.key.iter().map(|part| part.column as usize).collect();
        let named: Option<Vec<usize>> =
            self_updating.map(|names| names.iter().filter_map(|name| table.column(name)).collect());
        let possible = || {
            let columns = table.columns.iter().enumerate();
            columns
                .filter(|(_, column)| {
                    let timed = matches!(
                        column.ty,
                        ColumnType::Timestamp { .. }
                            | ColumnType::DateTime { .. }
                            | ColumnType::OldTimestamp
                            | ColumnType::OldDateTime
                    );
                    timed && column.generated != Some(true)
                })
                .map(|(at, _)| at)
                .collect()
        };
        Self {
            key,
            stamps: named.clone().unwrap_or_else(possible),
            self_updating: named.unwrap_or_default(),
            table,
        }
    }
}

/// Where a column of an old definition is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At this index.
    At(usize),
    /// Nowhere.
    Gone,
    /// There is one of its name, but it cannot take the old one's values.
    Misfit(&'static str),
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
                Some((at, new)) => match value::misfit(column, new) {
                    Some(why) => Place::Misfit(why),
                    None => {
                        lens.old[at] = Some(index);
                        Place::At(at)
                    }
                },
            });
        }
        lens
    }
}
