//! Changes out of a tail. It is scanned once for the places of what is wanted; the records are read one by one when they are handed
//! out. So memory grows with the number of hits, not with their size, whatever the size of a transaction.

use std::{collections::VecDeque, ops::Range};

use binlog::{Begin, Position, SchemaChange};
use types::Micros;

use crate::{
    Error, Order,
    codec::Malformed,
    record::{DdlRecord, FRAME, Record, Row},
    run::Run,
    stop::STOP_RECORDS,
    tail::{Frame, Frames, Tail},
    wanted::Wanted,
};

/// A record that is wanted.
#[derive(Clone, Copy, Debug)]
struct Hit {
    /// Index into [`TailHits::txns`].
    txn: u32,
    ordinal: u64,
    /// Where its frame begins, and that of its statement's text.
    at: u64,
    query: Option<u64>,
}

/// The records that are wanted, in the order that was asked for.
#[derive(Debug)]
pub(crate) struct TailHits {
    epoch: u32,
    txns: Vec<(Begin, Micros)>,
    hits: VecDeque<Hit>,
    /// The statement that was read last.
    query: Option<(u64, String)>,
}

/// A row with what its transaction says about it.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    pub(crate) begin: &'a Begin,
    pub(crate) time: Micros,
    pub(crate) query: Option<String>,
    payload: Vec<u8>,
}

impl Found<'_> {
    pub(crate) fn row(&self) -> Option<Row<'_>> {
        match Record::parse(&self.payload) {
            Ok(Record::Row(row)) => Some(row),
            _ => None,
        }
    }
}

/// The transaction that a scan stands in.
struct Inside {
    begin: Begin,
    time: Micros,
    ordinal: u64,
    query: Option<u64>,
}

impl TailHits {
    /// Scans `tail` for changes; at most `limit`.
    pub(crate) fn search(tail: &Tail, wanted: &Wanted, limit: Option<usize>) -> Result<Self, Error> {
        let mut found = Self {
            epoch: tail.run.interval.epoch,
            txns: Vec::new(),
            hits: VecDeque::new(),
            query: None,
        };
        let limit = limit.unwrap_or(usize::MAX);
        scan(tail, wanted, |at, record, inside| {
            let Record::Row(row) = record else { return true };
            if !is_wanted(row, inside, found.epoch, wanted) {
                return true;
            }
            if found
                .txns
                .last()
                .is_none_or(|(begin, _)| begin.at != inside.begin.at)
            {
                found.txns.push((inside.begin.clone(), inside.time));
            }
            let query = if row.has_query { inside.query } else { None };
            found.hits.push_back(Hit {
                txn: found.txns.len() as u32 - 1,
                ordinal: inside.ordinal,
                at,
                query,
            });
            if found.hits.len() > limit {
                match wanted.filter.order {
                    Order::Oldest => found.hits.pop_back(),
                    Order::Newest => found.hits.pop_front(),
                };
            }
            wanted.filter.order == Order::Newest || found.hits.len() < limit
        })?;
        if wanted.filter.order == Order::Newest {
            found.hits.make_contiguous().reverse();
        }
        Ok(found)
    }

    pub(crate) fn len(&self) -> usize {
        self.hits.len()
    }

    /// Where the hit stands.
    pub(crate) fn position(&self, hit: usize) -> Position {
        let Hit { txn, ordinal, .. } = self.hits[hit];
        Position {
            epoch: self.epoch,
            at: self.txns[txn as usize].0.at.clone(),
            ordinal,
        }
    }

    /// Reads the hit.
    pub(crate) fn get(&mut self, tail: &Tail, hit: usize) -> Result<Found<'_>, Error> {
        let Hit { txn, at, query, .. } = self.hits[hit];
        if let Some(place) = query
            && self.query.as_ref().is_none_or(|(known, _)| *known != place)
        {
            let text =
                String::from_utf8_lossy(payload(tail, place)?.get(1..).unwrap_or_default()).into_owned();
            self.query = Some((place, text));
        }
        let (begin, time) = &self.txns[txn as usize];
        let query = query.and_then(|_| self.query.as_ref().map(|(_, text)| text.clone()));
        Ok(Found {
            begin,
            time: *time,
            query,
            payload: payload(tail, at)?,
        })
    }
}

/// Reads one record.
fn payload(tail: &Tail, at: u64) -> Result<Vec<u8>, Error> {
    let mut head = [0; FRAME];
    tail.file
        .read_exact_at(&mut head, at)
        .map_err(|e| Error::io(&tail.path, e))?;
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    let mut payload = vec![0; length as usize];
    tail.file
        .read_exact_at(&mut payload, at + FRAME as u64)
        .map_err(|e| Error::io(&tail.path, e))?;
    Ok(payload)
}

/// The statements of `tail` that are wanted, apart from their tables.
pub(crate) fn statements(tail: &Tail, wanted: &Wanted) -> Result<Vec<SchemaChange>, Error> {
    let mut found = Vec::new();
    let mut odd = false;
    scan(tail, wanted, |_, record, inside| {
        let Record::Ddl(json) = record else { return true };
        let Begin { at, gtid, thread_id } = inside.begin.clone();
        let position = Position {
            epoch: tail.run.interval.epoch,
            at,
            ordinal: inside.ordinal,
        };
        let Ok(DdlRecord {
            text,
            default_schema,
            targets,
        }) = serde_json::from_slice(json)
        else {
            odd = true;
            return false;
        };
        if wanted.filter.wants_position(&position) {
            found.push(SchemaChange {
                position,
                gtid,
                commit_time: inside.time,
                thread_id,
                targets,
                default_schema,
                text,
            });
        }
        true
    })?;
    if odd {
        Err(Error::corrupt(&tail.path, "a statement cannot be read"))
    } else {
        Ok(found)
    }
}

/// Shows `see` the rows and statements of transactions that took effect and may be wanted, until it says no.
fn scan(
    tail: &Tail,
    wanted: &Wanted,
    mut see: impl FnMut(u64, &Record<'_>, &Inside) -> bool,
) -> Result<(), Error> {
    let keyed = if wanted.keys().is_empty() {
        None
    } else {
        tail.places.of(wanted.keys(), tail.run.visible)
    };
    let parts = keyed.unwrap_or_else(|| vec![(0, tail.run.body..tail.run.visible)]);
    for (txn, bytes) in parts {
        if !scan_part(tail, txn, bytes, wanted, &mut see)? {
            break;
        }
    }
    Ok(())
}

/// The same in a part of the tail that begins with, or before, transaction `first`. Whether to go on.
fn scan_part(
    tail: &Tail,
    first: usize,
    bytes: Range<u64>,
    wanted: &Wanted,
    see: &mut impl FnMut(u64, &Record<'_>, &Inside) -> bool,
) -> Result<bool, Error> {
    let damaged = |Malformed| Error::corrupt(&tail.path, "a record cannot be read");
    let Run {
        outcomes, interval, ..
    } = &tail.run;
    let mut outcomes = outcomes.iter().skip(first);
    let mut inside: Option<Inside> = None;
    let mut frames: Frames<'_> = tail.frames_in(bytes);
    let mut seen = 0_u32;
    while let Some(Frame { at, payload, .. }) = frames.next()? {
        seen = seen.wrapping_add(1);
        if seen.is_multiple_of(STOP_RECORDS) {
            wanted.stop.check()?;
        }
        let record = Record::parse(payload).map_err(damaged)?;
        match record {
            Record::Begin(begin) => {
                let time = outcomes.next().copied().flatten();
                let filter = &wanted.filter;
                inside = time
                    .filter(|time| {
                        filter.wants_time(*time)
                            && filter.wants_transaction(interval.epoch, &begin.at.file, begin.at.offset)
                            && wanted.gtid(begin.gtid.as_ref())
                    })
                    .map(|time| Inside {
                        begin,
                        time,
                        ordinal: 0,
                        query: None,
                    });
            }
            Record::Query(_) => {
                if let Some(inside) = &mut inside {
                    inside.query = Some(at);
                }
            }
            Record::Row(_) | Record::Ddl(_) => {
                let Some(inside) = &mut inside else { continue };
                if !see(at, &record, inside) {
                    return Ok(false);
                }
                inside.ordinal += 1;
            }
            _ => {}
        }
    }
    match frames.damage() {
        Some((at, what)) => Err(Error::corrupt(&tail.path, format!("at byte {at} {what}"))),
        None => Ok(true),
    }
}

fn is_wanted(row: &Row<'_>, inside: &Inside, epoch: u32, wanted: &Wanted) -> bool {
    let after = |after: &Position| {
        (epoch, &inside.begin.at, inside.ordinal) > (after.epoch, &after.at, after.ordinal)
    };
    let before = |before: &Position| {
        (epoch, &inside.begin.at, inside.ordinal) < (before.epoch, &before.at, before.ordinal)
    };
    wanted.table(row.version)
        && wanted.filter.wants_op(row.op)
        && (wanted.key(row.key) || row.new_key.is_some_and(|key| wanted.key(key)))
        && wanted.column(row.version, row.changed)
        && wanted.filter.after.as_ref().is_none_or(after)
        && wanted.filter.before.as_ref().is_none_or(before)
}

impl Tail {
    /// Where its changes begin, and the place before which they end; none if no transaction took effect in it.
    pub(crate) fn bounds(&self) -> Option<(Position, Position)> {
        let Run { interval, .. } = &self.run;
        let place = |at: &binlog::LogPos| Position {
            epoch: interval.epoch,
            at: at.clone(),
            ordinal: 0,
        };
        (interval.transactions > 0).then(|| (place(&interval.from), place(&interval.to)))
    }
}
