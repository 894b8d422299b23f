//! What is fed and stands in the store already, by its place: is it the same?
//!
//! Servers give their logs the same names, so a place alone does not tell whose log it is in. What does:
//!
//! * *MySQL's GTIDs*, which name the server: each known transaction's must be one that was read in that stretch. MariaDB's do not serve
//!   here: servers that were set up alike give the same ones.
//! * *Where it ends*: within the stretch that was read.
//! * *What it did, and when*: the store must have changes or statements of a transaction that begins at that very byte and was committed
//!   at that time. That is a search, so only the first [`COMPARED`] after each start are held against it; in another log already the
//!   first one that is fed is hardly ever found.

use std::sync::Arc;

use binlog::{Begin, Gtid, LogPos};
use types::Micros;

use super::{Txn, Writer};
use crate::{Changes, Error, Filter, Stop, find::schema_changes, snapshot::Snapshot};

/// Transactions that are searched for after each start. A search takes some milliseconds.
pub(super) const COMPARED: u32 = 8;

impl Writer {
    /// Notes that the known transaction being fed does something.
    pub(super) fn note_act(&mut self) {
        if let Txn::Known { acts, .. } = &mut self.txn {
            *acts = true;
        }
    }

    /// Refuses a transaction that is not the one that was read at its place. `time` is that of its commit if it did something.
    pub(super) fn check_known(
        &mut self,
        begin: &Begin,
        end: &LogPos,
        time: Option<Micros>,
    ) -> Result<(), Error> {
        let other = || Error::OtherLog { at: begin.at.clone() };
        let epoch = self.cursor.as_ref().map(|cursor| cursor.epoch);
        // See above for MariaDB.
        let gtid = begin
            .gtid
            .as_ref()
            .filter(|gtid| matches!(gtid, Gtid::Mysql { .. }));
        let is_known = self.pieces().any(|i| {
            Some(i.epoch) == epoch
                && i.covers(&begin.at)
                && *end <= i.to
                && gtid.is_none_or(|gtid| i.gtids.contains(gtid))
        });
        if !is_known {
            return Err(other());
        }
        match (time, epoch) {
            (Some(time), Some(epoch)) if self.compare > 0 => {
                self.compare -= 1;
                if self.time_of(epoch, &begin.at)? == Some(time) {
                    Ok(())
                } else {
                    Err(other())
                }
            }
            _ => Ok(()),
        }
    }

    /// Commit time of the transaction that the store holds at this place; none if it holds nothing of one.
    fn time_of(&mut self, epoch: u32, at: &LogPos) -> Result<Option<Micros>, Error> {
        if let Some(tail) = &mut self.tail {
            tail.flush()?;
        }
        let filter = Filter {
            transaction: Some(at.clone()),
            epoch: Some(epoch),
            limit: Some(1),
            ..Filter::default()
        };
        let snapshot = Arc::new(Snapshot::take(self.files.clone(), &Stop::default())?);
        if let Some(change) = Changes::new(Arc::clone(&snapshot), &filter, &Stop::default()).next() {
            return change.map(|change| Some(change.commit_time));
        }
        let statements = schema_changes(&snapshot, &filter, &Stop::default())?;
        Ok(statements.first().map(|statement| statement.commit_time))
    }
}
