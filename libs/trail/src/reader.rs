//! Any number of processes that ask, beside the one that writes.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use binlog::{Position, SchemaChange, Table};
use types::Micros;

use crate::{
    Changes, Coverage, Descents, Error, Filter, Status, Stop, TableSummary,
    descents::Told,
    find::schema_changes,
    folder::{Directory, Files, Folder},
    manifest::{FORMAT, MANIFEST},
    run::Counts,
    snapshot::Snapshot,
};

/// A store as it was at one moment, which clones share. It takes no lock, and what is written afterwards does not change its answers; [`Reader::refresh`]
/// moves it on. So an answer and the coverage that goes with it speak of the same moment.
#[derive(Clone, Debug)]
pub struct Reader {
    snapshot: Arc<Snapshot>,
    descents: Told,
    stop: Stop,
}

impl Reader {
    /// Opens the store in `dir` as it is now.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        Self::open_until(dir, Stop::default())
    }

    /// The same for somebody who may not wait for the end, neither of this nor of an answer.
    pub fn open_until(dir: &Path, stop: Stop) -> Result<Self, Error> {
        Self::open_in(Arc::new(Directory::new(dir)), stop)
    }

    /// The same for a store in any folder.
    pub fn open_in(folder: Arc<dyn Folder>, stop: Stop) -> Result<Self, Error> {
        Ok(Self {
            snapshot: Arc::new(Snapshot::take(Files::new(folder), &stop)?),
            descents: Told::default(),
            stop,
        })
    }

    /// The same moment of the store, for somebody who may not wait for the end of an answer.
    #[must_use]
    pub fn stopped_by(&self, stop: Stop) -> Self {
        Self {
            snapshot: Arc::clone(&self.snapshot),
            descents: self.descents.clone(),
            stop,
        }
    }

    /// Takes in what was written since; true if there was something.
    pub fn refresh(&mut self) -> Result<bool, Error> {
        let now = self.snapshot.renew(&self.stop)?;
        let changed = !now.same_as(&self.snapshot);
        if changed {
            self.snapshot = Arc::new(now);
        }
        Ok(changed)
    }

    /// Whether both speak of the same moment, without a look at the disk.
    pub fn is_as_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.snapshot, &other.snapshot)
    }

    /// The changes `filter` asks for, in its order.
    pub fn find(&self, filter: &Filter) -> Result<Changes, Error> {
        Ok(Changes::new(Arc::clone(&self.snapshot), filter, &self.stop))
    }

    /// The statements that changed definitions, the oldest first unless `filter` says otherwise. Of the filter count tables, times,
    /// position, GTID, transaction, epoch, order and limit.
    pub fn schema_changes(&self, filter: &Filter) -> Result<Vec<SchemaChange>, Error> {
        schema_changes(&self.snapshot, filter, &self.stop)
    }

    /// Which tables and columns came from others: of this moment, and perhaps of later ones that somebody has looked at.
    pub fn descents(&self) -> Result<Arc<Descents>, Error> {
        self.descents.of(&self.snapshot, &self.stop)
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

    /// The same of those that were in use at `until` or before.
    pub fn versions_until(&self, schema: &str, table: &str, until: &Position) -> Vec<(u32, Arc<Table>)> {
        let usage = self.snapshot.usage();
        let mut versions = self.versions(schema, table);
        versions.retain(|(version, _)| usage.get(version).is_some_and(|span| span.first <= *until));
        versions
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
        let files = self.snapshot.files();
        let size = |name: &str| {
            let length = files.open(name).ok().and_then(|file| file.length().ok());
            length.unwrap_or(0)
        };
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
