//! Any number of processes that ask, beside the one that writes.

use std::{path::Path, sync::Arc};

use binlog::{Change, SchemaChange, Table};

use crate::{Coverage, Error, Filter, Status, TableSummary};

/// A store as it was at one moment. It takes no lock, and what is written afterwards does not change its answers; [`Reader::refresh`]
/// moves it on.
#[derive(Debug)]
pub struct Reader;

impl Reader {
    /// Opens the store in `dir` as it is now.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let _ = dir;
        unimplemented!()
    }

    /// Takes in what was written since; true if there was something.
    pub fn refresh(&mut self) -> Result<bool, Error> {
        unimplemented!()
    }

    /// The changes `filter` asks for, in its order.
    pub fn find(&self, filter: &Filter) -> Result<Changes, Error> {
        let _ = filter;
        unimplemented!()
    }

    /// The statements that changed definitions, the oldest first unless `filter` says otherwise. Of the filter count tables, times,
    /// position, GTID, transaction, epoch, order and limit.
    pub fn schema_changes(&self, filter: &Filter) -> Result<Vec<SchemaChange>, Error> {
        let _ = filter;
        unimplemented!()
    }

    /// What the store holds about each table, by schema and name.
    pub fn tables(&self) -> Result<Vec<TableSummary>, Error> {
        unimplemented!()
    }

    /// The definitions a table had, the oldest first, with the store's number for each.
    pub fn versions(&self, schema: &str, table: &str) -> Vec<(u32, Arc<Table>)> {
        let _ = (schema, table);
        unimplemented!()
    }

    /// What the store has read, and whether that is without a gap.
    pub fn coverage(&self) -> Coverage {
        unimplemented!()
    }

    /// What an answer to `filter` rests on, and whether it is complete.
    pub fn coverage_of(&self, filter: &Filter) -> Coverage {
        let _ = filter;
        unimplemented!()
    }

    /// The state of the store.
    pub fn status(&self) -> Status {
        unimplemented!()
    }
}

/// Changes in the order that was asked for; see [`Reader::find`].
#[derive(Debug)]
pub struct Changes;

impl Iterator for Changes {
    type Item = Result<Change, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        unimplemented!()
    }
}
