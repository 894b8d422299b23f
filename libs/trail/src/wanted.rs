//! A filter made ready for looking at many rows.

use std::collections::HashMap;

use binlog::{Gtid, Op};

use crate::{
    Filter,
    catalogue::Catalogue,
    manifest::{Segment, SegmentTable},
    segment::bloom::Probe,
    stop::Stop,
};

/// With more keys than this, hardly a row group has none of them.
const PROBES_MAX: usize = 64;

/// See the module's description.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) filter: Filter,
    /// Whether still.
    pub(crate) stop: Stop,
    /// Sorted, each once.
    keys: Vec<Vec<u8>>,
    /// Of the keys, if they are few.
    probes: Option<Vec<Probe>>,
    /// By definition: whether its table is wanted, and which bit of `changed` must be set.
    versions: HashMap<u32, Version>,
}

#[derive(Clone, Copy, Debug)]
struct Version {
    table: bool,
    /// None if the definition has no such column; no update of it matches then.
    column: Option<usize>,
}

impl Wanted {
    pub(crate) fn new(filter: &Filter, catalogue: &Catalogue, stop: &Stop) -> Self {
        let mut keys: Vec<Vec<u8>> = filter.keys.iter().map(|key| key.0.clone()).collect();
        keys.sort_unstable();
        keys.dedup();
        let versions = catalogue.all().map(|(version, table)| {
            let column = filter.column.as_deref().and_then(|name| table.column(name));
            (
                version,
                Version {
                    table: filter.wants_table(&table.schema, &table.name),
                    column,
                },
            )
        });
        let few = keys.len() <= PROBES_MAX;
        let probes = few.then(|| keys.iter().map(|key| Probe::of(key)).collect());
        Self {
            probes: probes.flatten(),
            keys,
            versions: versions.collect(),
            filter: filter.clone(),
            stop: stop.clone(),
        }
    }

    pub(crate) fn keys(&self) -> &[Vec<u8>] {
        &self.keys
    }

    /// What to ask bloom filters; none if that is more work than it saves.
    pub(crate) fn probes(&self) -> Option<&[Probe]> {
        self.probes.as_deref()
    }

    pub(crate) fn table(&self, version: u32) -> bool {
        self.versions.get(&version).is_some_and(|v| v.table)
    }

    pub(crate) fn key(&self, key: &[u8]) -> bool {
        self.keys.is_empty()
            || self
                .keys
                .binary_search_by(|known| known.as_slice().cmp(key))
                .is_ok()
    }

    /// Whether a key between the two, both included, is wanted.
    pub(crate) fn key_between(&self, least: &[u8], greatest: &[u8]) -> bool {
        let next = self.keys.partition_point(|key| key.as_slice() < least);
        self.keys.get(next).is_some_and(|key| key.as_slice() <= greatest)
    }

    pub(crate) fn gtid(&self, gtid: Option<&Gtid>) -> bool {
        self.filter
            .gtid
            .as_ref()
            .is_none_or(|wanted| Some(wanted) == gtid)
    }

    /// Whether the update with this bitmap changed the column that is asked for, if one is.
    pub(crate) fn column(&self, version: u32, changed: Option<&[u8]>) -> bool {
        if self.filter.column.is_none() {
            return true;
        }
        let Some(column) = self.versions.get(&version).and_then(|v| v.column) else {
            return false;
        };
        changed
            .and_then(|bits| bits.get(column / 8))
            .is_some_and(|byte| byte >> (column % 8) & 1 == 1)
    }

    /// Whether the segment may hold statements or changes of the transactions, times and places that are asked for.
    pub(crate) fn may_be_in(&self, segment: &Segment) -> bool {
        let filter = &self.filter;
        let epoch = segment.first.epoch;
        filter.since.is_none_or(|since| segment.last_time >= since.0)
            && filter.until.is_none_or(|until| segment.first_time < until.0)
            && filter.epoch.is_none_or(|wanted| wanted == epoch)
            && filter
                .transaction
                .as_ref()
                .is_none_or(|at| segment.first.at <= *at && *at <= segment.last.at)
            && filter.after.as_ref().is_none_or(|after| segment.last > *after)
            && filter
                .before
                .as_ref()
                .is_none_or(|before| segment.first < *before)
            && filter.gtid.as_ref().is_none_or(|gtid| {
                segment
                    .gtids
                    .is_some_and(|(least, greatest)| (least..=greatest).contains(&gtid.number()))
            })
    }

    /// Whether the table's part of a segment may hold changes that are asked for.
    pub(crate) fn may_be_of(&self, table: &SegmentTable) -> bool {
        let ops = [
            (Op::Insert, table.counts.inserts),
            (Op::Update, table.counts.updates),
            (Op::Delete, table.counts.deletes),
        ];
        self.filter.wants_table(&table.schema, &table.table)
            && self.filter.since.is_none_or(|since| table.last_time >= since.0)
            && self.filter.until.is_none_or(|until| table.first_time < until.0)
            && ops
                .into_iter()
                .any(|(op, count)| count > 0 && self.filter.wants_op(op))
    }
}
