//! The rows of a segment that are wanted, in the order that was asked for.

use std::ops::Range;

use binlog::{FileName, LogPos, Op, Position};

use super::batch::{Batch, SegmentRow};
use crate::{Order, wanted::Wanted};

/// Rows that are in memory at once with all their columns.
const WINDOW: usize = 32_768;

/// A row that is wanted.
#[derive(Clone, Copy, Debug)]
struct Hit {
    /// Index into [`Hits::files`].
    file: u32,
    offset: u64,
    ordinal: u64,
    /// Its number in the segment.
    row: u32,
    arrival: bool,
    /// Where it is in [`Hits::batches`].
    place: (u32, u32),
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Hits {
    epoch: u32,
    files: Vec<FileName>,
    hits: Vec<Hit>,
    /// All columns of some of the hits, in the order of the segment.
    pub(super) batches: Vec<Batch>,
    /// Of which: memory is for a part of a segment, not for all of it.
    window: Range<usize>,
}

impl Hits {
    pub(super) fn new(epoch: u32) -> Self {
        Self {
            epoch,
            files: Vec::new(),
            hits: Vec::new(),
            batches: Vec::new(),
            window: 0..0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.hits.len()
    }

    /// Where the hit stands.
    pub(crate) fn position(&self, hit: usize) -> Position {
        let Hit {
            file,
            offset,
            ordinal,
            ..
        } = self.hits[hit];
        Position {
            epoch: self.epoch,
            at: LogPos {
                file: self.files[file as usize].clone(),
                offset,
            },
            ordinal,
        }
    }

    /// Whether the hit's row has been read.
    pub(crate) fn holds(&self, hit: usize) -> bool {
        self.window.contains(&hit)
    }

    /// The hit's row, which must have been read.
    pub(crate) fn row(&self, hit: usize) -> SegmentRow<'_> {
        let (batch, row) = self.hits[hit].place;
        self.batches[batch as usize].row(row as usize)
    }

    /// Takes from a batch the rows that are wanted; `rows` numbers them. None if the batch is odd.
    pub(super) fn sift(
        &mut self,
        batch: &Batch,
        rows: &mut impl Iterator<Item = usize>,
        wanted: &Wanted,
        statements: bool,
    ) -> Option<()> {
        let files = batch.file.as_ref()?;
        let numbers: Vec<u32> = files
            .words
            .iter()
            .map(|name| self.number(name.unwrap_or_default()))
            .collect();
        let ops = batch.op.as_ref()?;
        let kinds: Vec<bool> = ops
            .words
            .iter()
            .map(|name| wants_kind(name.unwrap_or_default(), wanted, statements))
            .collect();
        let (offsets, ordinals) = (batch.offset.as_ref()?.values(), batch.ordinal.as_ref()?.values());
        let arrivals = batch.arrival.as_ref()?;
        let nth = u32::try_from(self.batches.len()).ok()?;
        for index in 0..batch.rows() {
            let row = u32::try_from(rows.next()?).ok()?;
            let arrival = arrivals.value(index);
            if (arrival && wanted.keys().is_empty()) || !kinds[ops.place(index)?] {
                continue;
            }
            let (file, offset, ordinal) = (numbers[files.place(index)?], offsets[index], ordinals[index]);
            let hit = Hit {
                file,
                offset,
                ordinal,
                row,
                arrival,
                place: (nth, index as u32),
            };
            if self.stands_well(&hit, wanted) && is_wanted(&batch.row(index), wanted, statements)? {
                self.hits.push(hit);
            }
        }
        Some(())
    }

    fn stands_well(&self, hit: &Hit, wanted: &Wanted) -> bool {
        let file = &self.files[hit.file as usize];
        let after = |p: &Position| {
            (self.epoch, file, hit.offset, hit.ordinal) > (p.epoch, &p.at.file, p.at.offset, p.ordinal)
        };
        let before = |p: &Position| {
            (self.epoch, file, hit.offset, hit.ordinal) < (p.epoch, &p.at.file, p.at.offset, p.ordinal)
        };
        wanted.filter.wants_transaction(self.epoch, file, hit.offset)
            && wanted.filter.after.as_ref().is_none_or(after)
            && wanted.filter.before.as_ref().is_none_or(before)
    }

    fn number(&mut self, name: &str) -> u32 {
        let known = self.files.iter().position(|file| file.as_str() == name);
        known.unwrap_or_else(|| {
            self.files.push(FileName::new(name));
            self.files.len() - 1
        }) as u32
    }

    /// Puts the hits into order. A change that was found under its old and its new key is one hit.
    pub(super) fn sort(&mut self, order: Order, limit: Option<usize>) {
        let mut names: Vec<u32> = (0..self.files.len() as u32).collect();
        names.sort_by_key(|file| &self.files[*file as usize]);
        let mut ranks = vec![0_u32; names.len()];
        for (rank, file) in (0..).zip(names) {
            ranks[file as usize] = rank;
        }
        self.hits
            .sort_unstable_by_key(|hit| (ranks[hit.file as usize], hit.offset, hit.ordinal, hit.arrival));
        self.hits.dedup_by_key(|hit| (hit.file, hit.offset, hit.ordinal));
        if order == Order::Newest {
            self.hits.reverse();
        }
        if let Some(limit) = limit {
            self.hits.truncate(limit);
        }
    }

    /// Lets go of the rows that were read, and gives the numbers in the segment, ascending, of those to be read from `hit` on.
    pub(super) fn turn_to(&mut self, hit: usize) -> impl Iterator<Item = usize> + use<> {
        self.batches.clear();
        self.window = hit..self.hits.len().min(hit + WINDOW);
        let mut rows: Vec<u32> = self.hits[self.window.clone()].iter().map(|hit| hit.row).collect();
        rows.sort_unstable();
        rows.into_iter().map(|row| row as usize)
    }

    /// All rows have been read along with what tells whether they are wanted.
    pub(super) fn are_all_read(&mut self) {
        self.window = 0..self.hits.len();
    }

    /// Says where in the batches the hits of the window are, which have been read in the order of the segment.
    pub(super) fn settle(&mut self) {
        let places = (0..)
            .zip(&self.batches)
            .flat_map(|(nth, batch)| (0..batch.rows() as u32).map(move |row| (nth, row)));
        let mut order: Vec<usize> = self.window.clone().collect();
        order.sort_unstable_by_key(|hit| self.hits[*hit].row);
        for (hit, place) in order.into_iter().zip(places) {
            self.hits[hit].place = place;
        }
    }
}

fn wants_kind(name: &str, wanted: &Wanted, statements: bool) -> bool {
    match name {
        "insert" => !statements && wanted.filter.wants_op(Op::Insert),
        "update" => !statements && wanted.filter.wants_op(Op::Update),
        "delete" => !statements && wanted.filter.wants_op(Op::Delete),
        "ddl" => statements,
        _ => false,
    }
}

/// Those parts of a filter that need columns which are not read otherwise. None if the row is odd.
fn is_wanted(row: &SegmentRow<'_>, wanted: &Wanted, statements: bool) -> Option<bool> {
    let filter = &wanted.filter;
    let timed = filter.since.is_some() || filter.until.is_some();
    Some(
        (!timed || filter.wants_time(row.time()?))
            && filter.gtid.as_ref().is_none_or(|gtid| {
                row.gtid_number() == Some(gtid.number())
                    && row.gtid_source().is_some_and(|source| source == gtid.source())
            })
            && (statements || filter.column.is_none() || wanted.column(row.version()?, row.changed())),
    )
}
