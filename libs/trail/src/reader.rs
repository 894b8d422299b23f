//! Any number of processes that ask, beside the one that writes.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use binlog::{SchemaChange, Table};
use types::Micros;

use crate::{
    Changes, Coverage, Error, Filter, Status, TableSummary,
    find::schema_changes,
    manifest::{FORMAT, MANIFEST},
    run::Counts,
    snapshot::Snapshot,
};

/// A store as it was at one moment. It takes no lock, and what is written afterwards does not change its answers; [`Reader::refresh`]
/// moves it on. So an answer and the coverage that goes with it speak of the same moment.
#[derive(Debug)]
pub struct Reader {
    snapshot: Arc<Snapshot>,
}

impl Reader {
    /// Opens the store in `dir` as it is now.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        Ok(Self {
            snapshot: Arc::new(Snapshot::take(dir)?),
        })
    }

    /// Takes in what was written since; true if there was something.
    pub fn refresh(&mut self) -> Result<bool, Error> {
        let now = self.snapshot.renew()?;
        let changed = !now.same_as(&self.snapshot);
        self.snapshot = Arc::new(now);
        Ok(changed)
    }

    /// The changes `filter` asks for, in its order.
    pub fn find(&self, filter: &Filter) -> Result<Changes, Error> {
        Ok(Changes::new(Arc::clone(&self.snapshot), filter))
    }

    /// The statements that changed definitions, the oldest first unless `filter` says otherwise. Of the filter count tables, times,
    /// position, GTID, transaction, epoch, order and limit.
    pub fn schema_changes(&self, filter: &Filter) -> Result<Vec<SchemaChange>, Error> {
        schema_changes(&self.snapshot, filter)
    }

    /// What the store holds about each table that has changes, by schema and name.
    pub fn tables(&self) -> Result<Vec<TableSummary>, Error> {
        let Snapshot {
            manifest,
            catalogue,
            tails,
            ..
        } = &*self.snapshot;
        let mut all: BTreeMap<(&str, &str), TableSummary> = BTreeMap::new();
        for part in manifest.segments.iter().flat_map(|segment| &segment.tables) {
            let summary = all
                .entry((&part.schema, &part.table))
                .or_insert_with(|| empty(&part.schema, &part.table));
            add(
                summary,
                part.counts,
                Micros(part.first_time),
                Micros(part.last_time),
            );
        }
        for (version, usage) in tails.iter().flat_map(|tail| &tail.run.usage) {
            let Some(table) = catalogue.get(*version) else {
                continue;
            };
            let summary = all
                .entry((&table.schema, &table.name))
                .or_insert_with(|| empty(&table.schema, &table.name));
            add(summary, usage.counts, usage.first_time, usage.last_time);
        }
        let mut last_use = BTreeMap::new();
        for (version, span) in self.snapshot.usage() {
            let Some(table) = catalogue.get(version) else {
                continue;
            };
            let latest = last_use
                .entry((&*table.schema, &*table.name))
                .or_insert_with(|| (span.last.clone(), version));
            if span.last > latest.0 {
                *latest = (span.last, version);
            }
        }
        for (name, summary) in &mut all {
            summary.schema_version = last_use.get(name).map_or(0, |(_, version)| *version);
        }
        Ok(all.into_values().collect())
    }

    /// The definitions a table had, the oldest first, with the store's number for each.
    pub fn versions(&self, schema: &str, table: &str) -> Vec<(u32, Arc<Table>)> {
        let usage = self.snapshot.usage();
        let mut versions: Vec<_> = self
            .snapshot
            .catalogue
            .of(schema, table)
            .filter_map(|(v, t)| Some((usage.get(&v)?, v, t)))
            .collect();
        versions.sort_by(|(a, ..), (b, ..)| a.first.cmp(&b.first));
        versions
            .into_iter()
            .map(|(_, version, table)| (version, Arc::clone(table)))
            .collect()
    }

    /// What the store has read, and whether that is without a gap.
    pub fn coverage(&self) -> Coverage {
        self.coverage_of(&Filter::default())
    }

    /// What an answer to `filter` rests on, and whether it is complete.
    pub fn coverage_of(&self, filter: &Filter) -> Coverage {
        let coverage = Coverage::judge(self.snapshot.intervals(), filter);
        match self.snapshot.damage() {
            Some(damage) => coverage.short_of(&damage, filter),
            None => coverage,
        }
    }

    /// The state of the store.
    pub fn status(&self) -> Status {
        let Snapshot { manifest, tails, .. } = &*self.snapshot;
        let intervals = self.snapshot.intervals();
        let tail_bytes = tails.iter().map(|tail| tail.run.visible).sum();
        let size =
            |name: &str| std::fs::metadata(self.snapshot.dir().join(name)).map_or(0, |file| file.len());
        let small: u64 = manifest
            .schemas
            .iter()
            .map(|schemas| size(&schemas.file))
            .sum::<u64>()
            + size(MANIFEST);
        Status {
            store: manifest.store.clone(),
            format: FORMAT,
            source: tails
                .last()
                .map(|tail| &tail.run.source)
                .or(manifest.source.as_ref())
                .cloned(),
            position: intervals.last().map(crate::Interval::end),
            last_commit: intervals.iter().filter_map(|i| i.to_time).max(),
            transactions: intervals.iter().map(|i| i.transactions).sum(),
            changes: intervals.iter().map(|i| i.changes).sum(),
            segments: manifest.segments.len(),
            bytes: manifest.segments.iter().map(|segment| segment.bytes).sum::<u64>() + small + tail_bytes,
            tail_bytes,
        }
    }
}

fn empty(schema: &str, table: &str) -> TableSummary {
    TableSummary {
        schema: schema.to_owned(),
        table: table.to_owned(),
        inserts: 0,
        updates: 0,
        deletes: 0,
        first: Micros(i64::MAX),
        last: Micros(i64::MIN),
        schema_version: 0,
    }
}

fn add(summary: &mut TableSummary, counts: Counts, first: Micros, last: Micros) {
    summary.inserts += counts.inserts;
    summary.updates += counts.updates;
    summary.deletes += counts.deletes;
    summary.first = summary.first.min(first);
    summary.last = summary.last.max(last);
}
