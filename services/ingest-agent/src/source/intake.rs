//! The store as a sink that is told where it begins when the first transaction shows it.

use binlog::{Begin, Commit, Ddl, GtidSet, LogPos, RowChange, Sink};
use trail::{Error, Start, Writer};

/// When the source was asked by GTID, nobody knows the place before the first transaction comes.
pub(super) struct Intake<'a> {
    pub(super) writer: &'a mut Writer,
    /// What is still to be told, with the place of the first transaction.
    pub(super) begin: &'a mut Option<Start>,
}

impl Sink for Intake<'_> {
    type Error = Error;

    fn begin(&mut self, begin: &Begin) -> Result<(), Error> {
        if let Some(start) = self.begin.take() {
            self.writer.start(Start {
                at: begin.at.clone(),
                ..start
            })?;
        }
        self.writer.begin(begin)
    }

    fn row(&mut self, row: &RowChange<'_>) -> Result<(), Error> {
        self.writer.row(row)
    }

    fn ddl(&mut self, ddl: &Ddl<'_>) -> Result<(), Error> {
        self.writer.ddl(ddl)
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), Error> {
        self.writer.commit(commit)
    }

    fn rollback(&mut self, end: &LogPos) -> Result<(), Error> {
        self.writer.rollback(end)
    }

    fn position(&mut self, next: &LogPos) -> Result<(), Error> {
        if self.begin.is_some() {
            Ok(())
        } else {
            self.writer.position(next)
        }
    }

    fn previous(&mut self, gtids: &GtidSet) -> Result<(), Error> {
        if self.begin.is_some() {
            Ok(())
        } else {
            self.writer.previous(gtids)
        }
    }
}
