//! The store as a sink that remembers whether anything was committed to it.

use binlog::{Begin, Commit, Ddl, GtidSet, LogPos, RowChange, Sink};
use trail::{Error, Writer};

/// The store.
pub(super) struct Intake<'a> {
    pub(super) writer: &'a mut Writer,
    /// A transaction was committed: the session got somewhere.
    pub(super) advanced: &'a mut bool,
}

impl Sink for Intake<'_> {
    type Error = Error;

    fn begin(&mut self, begin: &Begin) -> Result<(), Error> {
        self.writer.begin(begin)
    }

    fn row(&mut self, row: &RowChange<'_>) -> Result<(), Error> {
        self.writer.row(row)
    }

    fn ddl(&mut self, ddl: &Ddl<'_>) -> Result<(), Error> {
        self.writer.ddl(ddl)
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), Error> {
        self.writer.commit(commit)?;
        *self.advanced = true;
        Ok(())
    }

    fn rollback(&mut self, end: &LogPos) -> Result<(), Error> {
        self.writer.rollback(end)
    }

    fn position(&mut self, next: &LogPos) -> Result<(), Error> {
        self.writer.position(next)
    }

    fn previous(&mut self, gtids: &GtidSet) -> Result<(), Error> {
        self.writer.previous(gtids)
    }
}
