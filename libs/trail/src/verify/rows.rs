//! The rows of segments and tails, one by one.

use std::collections::HashSet;

use binlog::{FileName, Image, Op, Position, Problem, RowKey, Table};
use types::Micros;

use crate::{
    Error, Interval,
    codec::Malformed,
    delta::{Delta, new_key, restore},
    manifest::{Segment, SegmentTable},
    record::{DdlRecord, Record},
    run::Counts,
    segment::batch::SegmentRow,
    snapshot::Snapshot,
    tail::{Frame, Tail},
};

/// Checks rows against the definitions and the coverage of a snapshot.
pub(super) struct Rows<'a> {
    snapshot: &'a Snapshot,
    intervals: Vec<Interval>,
    delta: Delta,
}

/// A row as a segment or a tail keeps it.
struct Kept<'a> {
    op: Op,
    /// As it is stored: the new one if it is an arrival.
    key: &'a [u8],
    arrival: bool,
    changed: Option<&'a [u8]>,
    before: Option<&'a [u8]>,
    after: Option<&'a [u8]>,
}

/// What is read of a segment, to be held against the manifest.
#[derive(Default)]
struct Tally {
    rows: u64,
    statements: u64,
    arrivals: u64,
    moves: u64,
    tables: Vec<SegmentTable>,
    last_key: Vec<u8>,
    last_position: Option<Position>,
    files: Vec<FileName>,
    seen: HashSet<(usize, u64, u64)>,
}

impl<'a> Rows<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        Self {
            snapshot,
            intervals: snapshot.intervals(),
            delta: Delta::default(),
        }
    }

    /// Checks a segment and returns how many changes it holds.
    pub(super) fn check_segment(&mut self, segment: &Segment) -> Result<u64, Error> {
        let path = self.snapshot.files().path(&segment.file);
        let wrong = |what: String| Error::corrupt(&path, what);
        let mut tally = Tally::default();
        let opened = self.snapshot.open(segment)?;
        for batch in opened.all()? {
            let batch = batch?;
            for row in 0..batch.rows() {
                self.segment_row(segment, batch.row(row), &mut tally)
                    .map_err(|what| wrong(format!("row {}: {what}", tally.rows)))?;
                tally.rows += 1;
            }
        }
        tally.agree(segment).map_err(|what| wrong(what.to_owned()))?;
        Ok(segment.tables.iter().map(|table| table.counts.all()).sum())
    }

    fn segment_row(
        &mut self,
        segment: &Segment,
        row: SegmentRow<'_>,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let odd = || "it lacks what it must have".to_owned();
        let position = row.position().ok_or_else(odd)?;
        let time = row.time().ok_or_else(odd)?;
        if position < segment.first
            || segment.last < position
            || !(segment.first_time..=segment.last_time).contains(&time.0)
        {
            return Err("it stands outside of what the manifest says".to_owned());
        }
        self.check_place(&position)?;
        let arrival = row.arrival().ok_or_else(odd)?;
        if !arrival && !tally.is_first(&position) {
            return Err(format!("a second change at {}", position.at));
        }
        let Some(version) = row.version() else {
            let _: DdlRecord = row.statement().ok_or_else(odd)?;
            tally.statements += 1;
            return if tally.tables.is_empty() {
                Ok(())
            } else {
                Err("a statement among the rows".to_owned())
            };
        };
        let table = self.snapshot.catalogue.get(version).ok_or_else(odd)?;
        if (row.schema(), row.table()) != (Some(&*table.schema), Some(&*table.name)) || row.flags().is_none()
        {
            return Err(odd());
        }
        let kept = Kept {
            op: row.op().ok_or_else(odd)?,
            key: row.key().ok_or_else(odd)?,
            arrival,
            changed: row.changed(),
            before: row.before(),
            after: row.after(),
        };
        let moved = kept.check(table, &mut self.delta)?;
        tally.take(table, &kept, moved.is_some(), position, time)
    }

    /// Checks a tail and returns how many changes it holds.
    pub(super) fn check_tail(&mut self, tail: &Tail) -> Result<u64, Error> {
        let mut frames = tail.frames();
        let mut changes = 0;
        let mut pending = 0;
        let mut inside = Position {
            epoch: tail.run.interval.epoch,
            at: tail.run.interval.from.clone(),
            ordinal: 0,
        };
        while let Some(Frame { at, payload, .. }) = frames.next()? {
            let wrong = |what: String| Error::corrupt(&tail.path, format!("the record at byte {at}: {what}"));
            match Record::parse(payload).map_err(|Malformed| wrong("it cannot be read".to_owned()))? {
                Record::Begin(begin) => {
                    (inside.at, inside.ordinal, pending) = (begin.at, 0, 0);
                }
                Record::Row(row) => {
                    pending += 1;
                    let table = self.snapshot.catalogue.get(row.version);
                    let table = table.ok_or_else(|| wrong("its definition is not known".to_owned()))?;
                    let kept = Kept {
                        op: row.op,
                        key: row.key,
                        arrival: false,
                        changed: row.changed,
                        before: row.before,
                        after: row.after,
                    };
                    let moved = kept.check(table, &mut self.delta).map_err(wrong)?;
                    if moved.as_ref().map(|key| &*key.0) != row.new_key {
                        return Err(wrong("its new key is not that of its row".to_owned()));
                    }
                }
                // One that never ended does not count, and lies beyond what was read.
                Record::Commit { .. } => {
                    self.check_place(&inside).map_err(wrong)?;
                    changes += pending;
                }
                _ => {}
            }
        }
        match frames.damage() {
            Some((at, what)) => Err(Error::corrupt(&tail.path, format!("at byte {at} {what}"))),
            None => Ok(changes),
        }
    }

    fn check_place(&self, position: &Position) -> Result<(), String> {
        let covered = self
            .intervals
            .iter()
            .any(|i| i.epoch == position.epoch && i.covers(&position.at));
        if covered {
            Ok(())
        } else {
            Err(format!(
                "the change at {} lies outside of what was read",
                position.at
            ))
        }
    }
}

impl Kept<'_> {
    /// Whether the row can be read under its definition and is what its other columns say. Returns its new key, if it moved.
    fn check(&self, table: &Table, delta: &mut Delta) -> Result<Option<RowKey>, String> {
        let bad = |problem: Problem| problem.to_string();
        let after = self
            .after
            .map(|kept| restore(table, self.before, kept))
            .transpose()
            .map_err(bad)?;
        for image in [self.before, after.as_deref()].into_iter().flatten() {
            Image::from_bytes(image, table)
                .and_then(|image| image.to_cells(table).map(|_| ()))
                .map_err(bad)?;
        }
        let shape = (
            self.before.is_some(),
            self.after.is_some(),
            self.changed.is_some(),
        );
        let expected = match self.op {
            Op::Insert => (false, true, false),
            Op::Update => (true, true, true),
            Op::Delete => (true, false, false),
        };
        let subject = self.before.or(after.as_deref()).filter(|_| shape == expected);
        let subject = subject.ok_or_else(|| "its images are not those of its operation".to_owned())?;
        let key = Image::from_bytes(subject, table)
            .and_then(|image| RowKey::of(table, &image))
            .map_err(bad)?;
        let mut moved = None;
        if let (Some(before), Some(after), Some(changed)) = (self.before, &after, self.changed) {
            delta.make(table, before, after).map_err(bad)?;
            if delta.changed != changed || Some(&*delta.after) != self.after {
                return Err("what it says has changed is not what differs".to_owned());
            }
            moved = new_key(table, &key, before, after, changed).map_err(bad)?;
        }
        let expected = if self.arrival { moved.as_ref() } else { Some(&key) };
        if expected.is_some_and(|key| key.0 == self.key) {
            Ok(moved)
        } else {
            Err("its key is not that of its row".to_owned())
        }
    }
}

impl Tally {
    /// Whether no other change stands there.
    fn is_first(&mut self, position: &Position) -> bool {
        let file = self
            .files
            .iter()
            .position(|file| *file == position.at.file)
            .unwrap_or_else(|| {
                self.files.push(position.at.file.clone());
                self.files.len() - 1
            });
        self.seen.insert((file, position.at.offset, position.ordinal))
    }

    fn take(
        &mut self,
        table: &Table,
        kept: &Kept<'_>,
        moved: bool,
        position: Position,
        time: Micros,
    ) -> Result<(), String> {
        let same = self
            .tables
            .last()
            .is_some_and(|last| last.schema == table.schema && last.table == table.name);
        if !same {
            let sorted = self
                .tables
                .last()
                .is_none_or(|last| (&last.schema, &last.table) < (&table.schema, &table.name));
            if !sorted {
                return Err("its table is out of order".to_owned());
            }
            self.tables.push(SegmentTable {
                schema: table.schema.clone(),
                table: table.name.clone(),
                rows: 0,
                counts: Counts::default(),
                first_time: time.0,
                last_time: time.0,
            });
        } else if (&*self.last_key, self.last_position.as_ref()) > (kept.key, Some(&position)) {
            return Err("its key is out of order".to_owned());
        }
        self.last_key.clear();
        self.last_key.extend_from_slice(kept.key);
        self.last_position = Some(position);
        if let Some(last) = self.tables.last_mut() {
            last.rows += 1;
            last.first_time = last.first_time.min(time.0);
            last.last_time = last.last_time.max(time.0);
            if !kept.arrival {
                last.counts.count(kept.op);
            }
        }
        self.arrivals += u64::from(kept.arrival);
        self.moves += u64::from(moved && !kept.arrival);
        Ok(())
    }

    fn agree(&self, segment: &Segment) -> Result<(), &'static str> {
        if (self.rows, self.statements) != (segment.rows, segment.statements) || self.tables != segment.tables
        {
            return Err("its counts are not those in the manifest");
        }
        if self.arrivals == self.moves {
            Ok(())
        } else {
            Err("a change of a key does not stand under both keys")
        }
    }
}
