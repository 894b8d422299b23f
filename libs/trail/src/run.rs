//! What a tail amounts to: one unbroken run of the log, summed up record by record. The writer keeps it while it appends, and recovery
//! and readers get the same by scanning; there is one way to understand a tail.

use std::{collections::BTreeMap, sync::Arc};

use binlog::{Gtid, LogPos, Op, Position, Table};
use serde::{Deserialize, Serialize};
use types::Micros;

use crate::{
    Interval, Source,
    codec::Malformed,
    record::{Record, RunStart},
};

/// Counts of changes by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) inserts: u64,
    pub(crate) updates: u64,
    pub(crate) deletes: u64,
}

impl Counts {
    pub(crate) fn count(&mut self, op: Op) {
        match op {
            Op::Insert => self.inserts += 1,
            Op::Update => self.updates += 1,
            Op::Delete => self.deletes += 1,
        }
    }

    pub(crate) fn add(&mut self, other: Counts) {
        self.inserts += other.inserts;
        self.updates += other.updates;
        self.deletes += other.deletes;
    }

    pub(crate) fn all(&self) -> u64 {
        self.inserts + self.updates + self.deletes
    }
}

/// Where and how often a definition was in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) first: Position,
    pub(crate) last: Position,
    pub(crate) first_time: Micros,
    pub(crate) last_time: Micros,
    pub(crate) counts: Counts,
}

/// See the module's description.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) source: Source,
    pub(crate) interval: Interval,
    /// Commit time of each transaction in order; none for one that did not take effect.
    pub(crate) outcomes: Vec<Option<Micros>>,
    /// Definitions that the tail brings with it.
    pub(crate) definitions: Vec<(u32, Arc<Table>)>,
    /// Definitions that its rows use.
    pub(crate) usage: BTreeMap<u32, Usage>,
    /// Where the records after the head begin.
    pub(crate) body: u64,
    /// Bytes up to the end of the last record outside a transaction: what counts.
    pub(crate) visible: u64,
    /// How many of the definitions stand in what counts.
    visible_definitions: usize,
    open: Option<Open>,
}

/// A transaction that has begun.
#[derive(Clone, Debug)]
struct Open {
    at: LogPos,
    gtid: Option<Gtid>,
    /// The next change's number.
    ordinal: u64,
    /// Per definition: the numbers of the first and the last change, and the counts.
    touched: Vec<(u32, u64, u64, Counts)>,
}

impl Run {
    pub(crate) fn new(start: &RunStart, body: u64) -> Self {
        let mut interval = Interval::starting(start.epoch, start.at.clone(), start.gtids_before.clone());
        interval.reason.clone_from(&start.reason);
        interval.apart = start.apart;
        Self {
            source: start.source.clone(),
            interval,
            outcomes: Vec::new(),
            definitions: Vec::new(),
            usage: BTreeMap::new(),
            body,
            visible: body,
            visible_definitions: 0,
            open: None,
        }
    }

    /// Whether a transaction has begun and not ended.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether reading began and nothing came, so that the tail says nothing that is not known without it.
    pub(crate) fn is_worthless(&self) -> bool {
        self.interval.from == self.interval.to && !self.interval.apart && self.definitions.is_empty()
    }

    /// Forgets what does not count: a transaction that has no end, and what came with it.
    pub(crate) fn close(&mut self) {
        self.open = None;
        self.definitions.truncate(self.visible_definitions);
    }

    /// Takes in the next record, which ends at byte `end` of the tail. An error means that no writer wrote it here.
    pub(crate) fn apply(&mut self, record: &Record<'_>, end: u64) -> Result<(), Malformed> {
        match record {
            Record::Header { .. } | Record::Durable(_) => return Err(Malformed),
            Record::Start(start) => self.restart(start)?,
            Record::Table { version, definition } => {
                let table: Table = serde_json::from_slice(definition).map_err(|_| Malformed)?;
                self.definitions.push((*version, Arc::new(table)));
            }
            Record::Begin(begin) => {
                self.outside()?;
                self.open = Some(Open {
                    at: begin.at.clone(),
                    gtid: begin.gtid.clone(),
                    ordinal: 0,
                    touched: Vec::new(),
                });
            }
            Record::Query(_) => {
                self.inside()?;
            }
            Record::Row(row) => self.inside()?.touch(row.version, row.op),
            Record::Ddl(_) => self.inside()?.ordinal += 1,
            Record::Commit { end, time } => self.commit(end, *time)?,
            Record::Rollback { end } => {
                let open = self.open.take().ok_or(Malformed)?;
                self.end_at(&open, end);
                self.outcomes.push(None);
            }
            Record::Abort => {
                self.open.take().ok_or(Malformed)?;
                self.outcomes.push(None);
            }
            Record::Position(at) => {
                self.outside()?;
                self.interval.to = at.clone();
            }
            Record::Previous(gtids) => {
                self.outside()?;
                self.interval.gtids_before.clone_from(gtids);
            }
        }
        if self.open.is_none() {
            self.visible = end;
            self.visible_definitions = self.definitions.len();
        }
        Ok(())
    }

    /// The source may change its version within a run; nothing else may.
    fn restart(&mut self, start: &RunStart) -> Result<(), Malformed> {
        self.outside()?;
        if start.epoch != self.interval.epoch || start.at != self.interval.to {
            return Err(Malformed);
        }
        self.source = start.source.clone();
        Ok(())
    }

    fn outside(&self) -> Result<(), Malformed> {
        if self.open.is_some() {
            Err(Malformed)
        } else {
            Ok(())
        }
    }

    fn inside(&mut self) -> Result<&mut Open, Malformed> {
        self.open.as_mut().ok_or(Malformed)
    }

    fn end_at(&mut self, open: &Open, end: &LogPos) {
        self.interval.to = end.clone();
        if let Some(gtid) = &open.gtid {
            self.interval.gtids.add(gtid);
        }
    }

    fn commit(&mut self, end: &LogPos, time: Micros) -> Result<(), Malformed> {
        let open = self.open.take().ok_or(Malformed)?;
        self.end_at(&open, end);
        self.outcomes.push(Some(time));
        self.interval.saw(time);
        self.interval.transactions += 1;
        let epoch = self.interval.epoch;
        for (version, first, last, counts) in open.touched {
            self.interval.changes += counts.all();
            let position = |ordinal| Position {
                epoch,
                at: open.at.clone(),
                ordinal,
            };
            let usage = self.usage.entry(version).or_insert_with(|| Usage {
                first: position(first),
                last: position(last),
                first_time: time,
                last_time: time,
                counts: Counts::default(),
            });
            usage.last = position(last);
            usage.first_time = usage.first_time.min(time);
            usage.last_time = usage.last_time.max(time);
            usage.counts.add(counts);
        }
        Ok(())
    }
}

impl Open {
    fn touch(&mut self, version: u32, op: Op) {
        let ordinal = self.ordinal;
        self.ordinal += 1;
        // The rows of a statement come together, so the definition is nearly always the last one.
        let known = self
            .touched
            .iter_mut()
            .rev()
            .find(|(known, ..)| *known == version);
        if let Some((_, _, last, counts)) = known {
            *last = ordinal;
            counts.count(op);
            return;
        }
        let mut counts = Counts::default();
        counts.count(op);
        self.touched.push((version, ordinal, ordinal, counts));
    }
}
