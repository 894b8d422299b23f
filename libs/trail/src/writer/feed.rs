//! How a log's transactions get to their place: what is new is appended, what is known already is passed over, and a hole is noticed.
//!
//! The store's intervals say which transactions it has. The cursor says up to where the log was fed since the last start. As long as the
//! cursor stands at the end of the tail's run, the run goes on. Where it does not (another file was indexed in between, or known ground
//! was passed over), a new tail begins with a run of its own. Runs that touch are one interval.

use binlog::{GtidSet, LogPos};

use super::{Cursor, Source, Start, Txn, Writer, known};
use crate::{
    Error, Interval,
    record::{Record, RunStart},
};

impl Writer {
    /// Declares where the calls of [`binlog::Sink`] that follow begin. A transaction that has no end yet is dropped, as after a lost connection.
    ///
    /// If `start.at` is the end of what was read, or within it, reading goes on there; else a new interval begins, and what lies between
    /// is a gap.
    pub fn start(&mut self, start: Start) -> Result<(), Error> {
        self.check_source(&start)?;
        self.guarded(|writer| {
            writer.abandon()?;
            writer.settle()?;
            let Start {
                source,
                epoch,
                at,
                gtids_before,
                reason,
            } = start;
            let goes_on = writer
                .pieces()
                .any(|i| i.epoch == epoch && i.from <= at && at <= i.to);
            writer.cursor = Some(Cursor {
                epoch,
                at: at.clone(),
                ahead: None,
                source: source.clone(),
            });
            writer.compare = known::COMPARED;
            if !goes_on {
                return writer.begin_tail(&RunStart {
                    source,
                    epoch,
                    at,
                    gtids_before,
                    reason,
                    apart: false,
                });
            }
            writer.renew_source(&source)
        })
    }

    /// A store has one source, unless a new epoch says that the source was replaced.
    fn check_source(&self, start: &Start) -> Result<(), Error> {
        let Some(known) = self.source() else { return Ok(()) };
        let replaced = self.pieces().all(|i| i.epoch < start.epoch);
        let same =
            known.server == start.source.server || known.server.is_empty() || start.source.server.is_empty();
        if same || replaced {
            return Ok(());
        }
        Err(Error::OtherSource {
            known: known.server.clone(),
            found: start.source.server.clone(),
        })
    }

    /// Notes in the tail that the source is another one, or of another version.
    fn renew_source(&mut self, source: &Source) -> Result<(), Error> {
        let Some(run) = self.tail.as_ref().map(|tail| &tail.run) else {
            return Ok(());
        };
        if run.source == *source {
            return Ok(());
        }
        let start = RunStart {
            source: source.clone(),
            epoch: run.interval.epoch,
            at: run.interval.to.clone(),
            gtids_before: GtidSet::default(),
            reason: None,
            apart: false,
        };
        self.append(&Record::Start(Box::new(start)))
    }

    /// Whether a transaction that begins at `at` is not in the store yet. Those that are may be fed all the same: they are ignored.
    pub fn wants(&self, at: &LogPos) -> bool {
        self.cursor
            .as_ref()
            .is_some_and(|cursor| !self.pieces().any(|i| i.epoch == cursor.epoch && i.covers(at)))
    }

    /// Records that something is missing just before `next`, where reading goes on, even if nothing lies between by position.
    pub fn gap(&mut self, next: &LogPos, reason: &str) -> Result<(), Error> {
        self.guarded(|writer| {
            writer.abandon()?;
            writer.settle()?;
            let Some(cursor) = &writer.cursor else {
                return Err(order("a gap comes before the start", next));
            };
            let (source, epoch) = (cursor.source.clone(), cursor.epoch);
            let known = !writer.wants(next);
            writer.move_to(next.clone());
            if known {
                return Ok(());
            }
            let gtids_before = writer
                .intervals()
                .iter()
                .rev()
                .find(|i| i.epoch == epoch && i.to <= *next)
                .map(Interval::executed);
            let gtids_before = gtids_before.unwrap_or_default();
            writer.begin_tail(&RunStart {
                source,
                epoch,
                at: next.clone(),
                gtids_before,
                reason: Some(reason.to_owned()),
                apart: true,
            })
        })
    }

    /// Drops a transaction that was begun and will not be ended.
    pub(super) fn abandon(&mut self) -> Result<(), Error> {
        match std::mem::replace(&mut self.txn, Txn::None) {
            Txn::New { .. } => self.append(&Record::Abort),
            Txn::None | Txn::Known { .. } => Ok(()),
        }
    }

    /// Records how far the log was seen.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        if !matches!(self.txn, Txn::None) {
            return Ok(());
        }
        match self.cursor.as_mut().and_then(|cursor| cursor.ahead.take()) {
            Some(to) => self.walk(&to),
            None => Ok(()),
        }
    }

    /// Moves the cursor to `to`, over ground without new transactions. What of it is not known yet is recorded.
    pub(super) fn walk(&mut self, to: &LogPos) -> Result<(), Error> {
        while let Some(Cursor { epoch, at, .. }) = &self.cursor {
            let (epoch, at) = (*epoch, at.clone());
            if at >= *to {
                break;
            }
            let known_until = self
                .pieces()
                .find(|i| i.epoch == epoch && i.covers(&at))
                .map(|i| i.to.clone());
            if let Some(end) = known_until {
                self.move_to(end.min(to.clone()));
                continue;
            }
            let known = self
                .pieces()
                .filter(|i| i.epoch == epoch && at < i.from && i.from < i.to);
            let border = known.map(|i| i.from.clone()).min();
            let target = border.map_or_else(|| to.clone(), |border| border.min(to.clone()));
            self.ensure_run()?;
            self.append(&Record::Position(target.clone()))?;
            self.move_to(target);
        }
        Ok(())
    }

    pub(super) fn move_to(&mut self, at: LogPos) {
        if let Some(cursor) = &mut self.cursor {
            cursor.at = at;
            cursor.ahead.take_if(|ahead| *ahead <= cursor.at);
        }
    }

    /// Makes sure that the tail's run ends at the cursor, so that what comes next continues it.
    pub(super) fn ensure_run(&mut self) -> Result<(), Error> {
        let Some(Cursor {
            epoch, at, source, ..
        }) = &self.cursor
        else {
            return Ok(());
        };
        if self
            .tail
            .as_ref()
            .is_some_and(|tail| tail.run.interval.epoch == *epoch && tail.run.interval.to == *at)
        {
            return Ok(());
        }
        let before = self
            .intervals()
            .iter()
            .find(|i| i.epoch == *epoch && i.to == *at)
            .map(Interval::executed);
        let start = RunStart {
            source: source.clone(),
            epoch: *epoch,
            at: at.clone(),
            gtids_before: before.unwrap_or_default(),
            reason: None,
            apart: false,
        };
        self.begin_tail(&start)
    }
}

pub(super) fn order(what: &'static str, at: &LogPos) -> Error {
    Error::Order { what, at: at.clone() }
}
