//! Rows on their way from a tail into a segment: as many as memory allows, sorted.

use std::collections::BTreeMap;

use binlog::{Begin, FileName, Gtid};
use types::Micros;

use crate::{
    catalogue::Catalogue,
    codec::Malformed,
    record::{Record, Row},
};

/// One transaction, or the part of one, in a chunk.
#[derive(Clone, Debug)]
pub(crate) struct Txn {
    /// Index into [`Chunk::files`].
    pub(crate) file: u32,
    pub(crate) offset: u64,
    /// Index into [`Chunk::sources`], and the number.
    pub(crate) gtid: Option<(u32, u64)>,
    pub(crate) thread_id: Option<u32>,
    pub(crate) time: Micros,
}

/// A place in [`Chunk::bytes`].
#[derive(Clone, Copy, Debug)]
struct Range {
    start: u32,
    length: u32,
}

/// One row of the segment to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// While it is collected the row's definition, once sorted the place of its table among the tables; 0 for a statement.
    pub(crate) table: u32,
    pub(crate) txn: u32,
    pub(crate) ordinal: u64,
    /// Index into [`Chunk::queries`], or [`NO_QUERY`].
    pub(crate) query: u32,
    pub(crate) arrival: bool,
    /// The first bytes of the key, so that most comparisons need not go to the key itself.
    prefix: u64,
    key: Range,
    payload: Range,
}

/// The row's statement is not known.
pub(crate) const NO_QUERY: u32 = u32::MAX;

/// See the module's description.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    /// Payloads of records, and keys.
    bytes: Vec<u8>,
    query_bytes: u64,
    pub(crate) entries: Vec<Entry>,
    pub(crate) txns: Vec<Txn>,
    pub(crate) files: Vec<FileName>,
    /// One transaction of each source of GTIDs, and the source's text.
    pub(crate) sources: Vec<(Gtid, String)>,
    pub(crate) queries: Vec<String>,
    /// Schema and table of each table, sorted; the first one stands for statements.
    pub(crate) tables: Vec<(String, String)>,
}

impl Chunk {
    /// Bytes of memory it needs.
    pub(crate) fn size(&self) -> u64 {
        let entries = self.entries.len() * size_of::<Entry>() + self.txns.len() * size_of::<Txn>();
        (self.bytes.len() + entries) as u64 + self.query_bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The rows that follow belong to this transaction.
    pub(crate) fn begin(&mut self, begin: &Begin, time: Micros) {
        let file = index_of(
            &mut self.files,
            |known| *known == begin.at.file,
            || begin.at.file.clone(),
        );
        let gtid = begin.gtid.as_ref().map(|gtid| {
            let source = index_of(
                &mut self.sources,
                |(known, _)| same_source(known, gtid),
                || (gtid.clone(), gtid.source()),
            );
            (source, gtid.number())
        });
        self.txns.push(Txn {
            file,
            offset: begin.at.offset,
            gtid,
            thread_id: begin.thread_id,
            time,
        });
    }

    /// The rows that say so belong to this statement.
    pub(crate) fn query(&mut self, text: &str) {
        self.query_bytes += text.len() as u64;
        self.queries.push(text.to_owned());
    }

    /// Takes a row; `payload` is its record.
    pub(crate) fn row(&mut self, payload: &[u8], row: &Row<'_>, ordinal: u64) {
        let payload = self.keep(payload);
        let query = if row.has_query {
            (self.queries.len() as u32).saturating_sub(1)
        } else {
            NO_QUERY
        };
        self.push(row.version, row.key, payload, ordinal, query, false);
        if let Some(key) = row.new_key {
            self.push(row.version, key, payload, ordinal, query, true);
        }
    }

    /// Takes a statement; `payload` is its record.
    pub(crate) fn ddl(&mut self, payload: &[u8], ordinal: u64) {
        let payload = self.keep(payload);
        self.push(0, &[], payload, ordinal, NO_QUERY, false);
    }

    fn push(&mut self, table: u32, key: &[u8], payload: Range, ordinal: u64, query: u32, arrival: bool) {
        let mut prefix = [0; 8];
        let known = key.len().min(8);
        prefix[..known].copy_from_slice(&key[..known]);
        let key = self.keep(key);
        let txn = (self.txns.len() as u32).saturating_sub(1);
        self.entries.push(Entry {
            table,
            txn,
            ordinal,
            query,
            arrival,
            prefix: u64::from_be_bytes(prefix),
            key,
            payload,
        });
    }

    /// A chunk stays below 4 GiB: it is full at [`crate::Options::chunk_bytes_max`], and one record is at most 1 GiB.
    fn keep(&mut self, bytes: &[u8]) -> Range {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        Range {
            start,
            length: bytes.len() as u32,
        }
    }

    fn at(&self, range: Range) -> &[u8] {
        &self.bytes[range.start as usize..][..range.length as usize]
    }

    pub(crate) fn key(&self, entry: &Entry) -> &[u8] {
        self.at(entry.key)
    }

    /// Brings the entries' bytes into the processor's cache. They lie all over the chunk, and one after the other each would be waited
    /// for; here nothing depends on what was read before, so the waits overlap.
    pub(crate) fn warm(&self, entries: &[Entry]) {
        let byte = |range: Range| self.bytes.get(range.start as usize).copied().unwrap_or_default();
        let touch = |entry: &Entry| byte(entry.payload) ^ byte(entry.key);
        std::hint::black_box(entries.iter().fold(0, |all, entry| all ^ touch(entry)));
    }

    pub(crate) fn record(&self, entry: &Entry) -> Result<Record<'_>, Malformed> {
        Record::parse(self.at(entry.payload))
    }

    /// Puts the entries into the order of a segment. The order in which they came, that of the log, stays within a key.
    pub(crate) fn sort(&mut self, catalogue: &Catalogue) -> Result<(), Malformed> {
        let mut names: BTreeMap<(&str, &str), u32> = BTreeMap::new();
        let mut versions: BTreeMap<u32, u32> = self
            .entries
            .iter()
            .filter(|e| e.table != 0)
            .map(|e| (e.table, 0))
            .collect();
        for version in versions.keys() {
            let table = catalogue.get(*version).ok_or(Malformed)?;
            names.insert((&table.schema, &table.name), 0);
        }
        for (place, rank) in names.values_mut().zip(1..) {
            *place = rank;
        }
        for (version, place) in &mut versions {
            let table = catalogue.get(*version).ok_or(Malformed)?;
            *place = names
                .get(&(&*table.schema, &*table.name))
                .copied()
                .unwrap_or_default();
        }
        self.tables = std::iter::once(("", ""))
            .chain(names.into_keys())
            .map(|(s, t)| (s.to_owned(), t.to_owned()))
            .collect();
        for entry in &mut self.entries {
            entry.table = versions.get(&entry.table).copied().unwrap_or_default();
        }
        let mut entries = std::mem::take(&mut self.entries);
        entries.sort_by(|a, b| {
            (a.table, a.prefix)
                .cmp(&(b.table, b.prefix))
                .then_with(|| self.key(a).cmp(self.key(b)))
        });
        self.entries = entries;
        Ok(())
    }
}

/// The place of what is looked for, which is put at the end if it is not there. There are few of them, and the last one is the likeliest.
fn index_of<T>(list: &mut Vec<T>, is: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> u32 {
    let place = list.iter().rposition(is).unwrap_or_else(|| {
        list.push(make());
        list.len() - 1
    });
    place as u32
}

fn same_source(a: &Gtid, b: &Gtid) -> bool {
    match (a, b) {
        (Gtid::Mysql { uuid, tag, .. }, Gtid::Mysql { uuid: u, tag: t, .. }) => uuid == u && tag == t,
        (
            Gtid::Mariadb { domain, server, .. },
            Gtid::Mariadb {
                domain: d, server: s, ..
            },
        ) => domain == d && server == s,
        _ => false,
    }
}
