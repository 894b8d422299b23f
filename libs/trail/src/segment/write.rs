//! A sorted chunk into a Parquet file.

use std::{io, path::Path, sync::Arc};

use arrow_array::{
    ArrayRef, BooleanArray, DictionaryArray, Int32Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    UInt16Array, UInt32Array, UInt64Array,
    builder::{BinaryBuilder, StringBuilder},
};
use binlog::{Op, Position};
use parquet::{arrow::ArrowWriter, file::metadata::KeyValue};

use super::{
    OPS, SCHEMA, Texts,
    chunk::{Chunk, Entry, NO_QUERY},
    properties,
    sums::{SUMS, Summed, Written},
};
use crate::{
    Error,
    codec::Malformed,
    folder::Files,
    manifest::{Segment, SegmentTable},
    record::{Record, Row},
    run::Counts,
};

/// Rows turned into columns at once.
const BATCH_ROWS: usize = 4_096;
/// Rows whose bytes are fetched together.
const WARM_ROWS: usize = 128;

/// Writes the sorted `chunk` of timeline `epoch` to the file `name`. The segment's place in the chain is not known yet.
pub(crate) fn write(
    files: &Files,
    name: &str,
    epoch: u32,
    chunk: &Chunk,
    zstd_level: i32,
) -> Result<Segment, Error> {
    let path = files.path(name);
    let failed = |e: parquet::errors::ParquetError| error(&path, e);
    let malformed = |Malformed| Error::corrupt(&path, "a record of the tail it is made from cannot be read");
    let texts = Texts {
        queries: !chunk.queries.is_empty(),
        ddl: chunk.entries.iter().any(|entry| entry.table == 0),
    };
    let sink = Summed::new(files.create(name)?);
    let mut writer =
        ArrowWriter::try_new(sink, SCHEMA.clone(), Some(properties(zstd_level, texts))).map_err(failed)?;
    let words = Words::of(chunk);
    let mut account = Account::new(chunk, epoch);
    for entries in chunk.entries.chunks(BATCH_ROWS) {
        let batch = batch(chunk, entries, epoch, &words, &mut account).map_err(malformed)?;
        writer
            .write(&batch.map_err(|e| Error::corrupt(&path, e.to_string()))?)
            .map_err(failed)?;
    }
    // The row group that is being filled is written out, so that what follows is the footer.
    writer.flush().map_err(failed)?;
    writer.sync().map_err(|e| Error::io(&path, e))?;
    let sums = writer.inner_mut().begin_footer();
    writer.append_key_value_metadata(KeyValue::new(SUMS.to_owned(), sums));
    let written = writer
        .into_inner()
        .map_err(failed)?
        .finish()
        .map_err(|e| Error::io(&path, e))?;
    Ok(account.segment(name, written))
}

/// A Parquet error, or the system's error that is in it.
pub(crate) fn error(path: &Path, error: parquet::errors::ParquetError) -> Error {
    match error {
        parquet::errors::ParquetError::External(cause) => match cause.downcast::<io::Error>() {
            Ok(e) if e.kind() == io::ErrorKind::InvalidData => Error::corrupt(path, e.to_string()),
            Ok(e) if e.kind() == io::ErrorKind::UnexpectedEof => Error::corrupt(path, "it is cut off"),
            Ok(e) => Error::io(path, *e),
            Err(other) => Error::corrupt(path, other.to_string()),
        },
        other => Error::corrupt(path, other.to_string()),
    }
}

/// The dictionaries of a chunk.
struct Words {
    schemas: ArrayRef,
    tables: ArrayRef,
    files: ArrayRef,
    ops: ArrayRef,
    sources: ArrayRef,
    queries: ArrayRef,
}

impl Words {
    fn of(chunk: &Chunk) -> Self {
        fn words<'a>(words: impl Iterator<Item = &'a str>) -> ArrayRef {
            Arc::new(words.map(Some).collect::<StringArray>())
        }
        Self {
            schemas: words(chunk.tables.iter().map(|(schema, _)| schema.as_str())),
            tables: words(chunk.tables.iter().map(|(_, table)| table.as_str())),
            files: words(chunk.files.iter().map(binlog::FileName::as_str)),
            ops: words(OPS.into_iter()),
            sources: words(chunk.sources.iter().map(|(_, text)| text.as_str())),
            queries: words(chunk.queries.iter().map(String::as_str)),
        }
    }
}

fn dictionary(keys: Int32Array, words: &ArrayRef) -> ArrayRef {
    Arc::new(DictionaryArray::new(keys, Arc::clone(words)))
}

/// Columns that are made row by row.
#[derive(Default)]
struct Columns {
    table: Vec<Option<i32>>,
    key: BinaryBuilder,
    file: Vec<i32>,
    offset: Vec<u64>,
    ordinal: Vec<u64>,
    op: Vec<i32>,
    arrival: Vec<bool>,
    time: Vec<i64>,
    source: Vec<Option<i32>>,
    number: Vec<Option<u64>>,
    thread: Vec<Option<u32>>,
    version: Vec<Option<u32>>,
    flags: Vec<Option<u16>>,
    changed: BinaryBuilder,
    before: BinaryBuilder,
    after: BinaryBuilder,
    query: Vec<Option<i32>>,
    ddl: StringBuilder,
}

fn batch(
    chunk: &Chunk,
    entries: &[Entry],
    epoch: u32,
    words: &Words,
    account: &mut Account,
) -> Result<Result<RecordBatch, arrow_schema::ArrowError>, Malformed> {
    let mut columns = Columns::default();
    for (nth, entry) in entries.iter().enumerate() {
        if nth % WARM_ROWS == 0 {
            chunk.warm(&entries[nth..entries.len().min(nth + WARM_ROWS)]);
        }
        let record = chunk.record(entry)?;
        columns.transaction(chunk, entry);
        match &record {
            Record::Row(row) => columns.row(chunk.key(entry), entry, row),
            Record::Ddl(json) => columns.statement(json)?,
            _ => return Err(Malformed),
        }
        account.count(chunk, entry, &record);
    }
    Ok(RecordBatch::try_new(SCHEMA.clone(), columns.finish(epoch, words)))
}

impl Columns {
    fn transaction(&mut self, chunk: &Chunk, entry: &Entry) {
        let txn = &chunk.txns[entry.txn as usize];
        self.file.push(txn.file.cast_signed());
        self.offset.push(txn.offset);
        self.ordinal.push(entry.ordinal);
        self.time.push(txn.time.0);
        self.source.push(txn.gtid.map(|(source, _)| source.cast_signed()));
        self.number.push(txn.gtid.map(|(_, number)| number));
        self.thread.push(txn.thread_id);
    }

    fn row(&mut self, key: &[u8], entry: &Entry, row: &Row<'_>) {
        self.table.push(Some(entry.table.cast_signed()));
        self.key.append_value(key);
        self.op.push(match row.op {
            Op::Insert => 0,
            Op::Update => 1,
            Op::Delete => 2,
        });
        self.arrival.push(entry.arrival);
        self.version.push(Some(row.version));
        self.flags.push(Some(row.flags));
        self.changed.append_option(row.changed);
        self.before.append_option(row.before);
        self.after.append_option(row.after);
        self.query
            .push((entry.query != NO_QUERY).then_some(entry.query.cast_signed()));
        self.ddl.append_null();
    }

    fn statement(&mut self, json: &[u8]) -> Result<(), Malformed> {
        self.table.push(None);
        self.key.append_null();
        self.op.push(3);
        self.arrival.push(false);
        self.version.push(None);
        self.flags.push(None);
        self.changed.append_null();
        self.before.append_null();
        self.after.append_null();
        self.query.push(None);
        self.ddl
            .append_value(std::str::from_utf8(json).map_err(|_| Malformed)?);
        Ok(())
    }

    /// In the order of [`super::Col`].
    fn finish(mut self, epoch: u32, words: &Words) -> Vec<ArrayRef> {
        let tables = Int32Array::from(self.table);
        let rows = tables.len();
        vec![
            dictionary(tables.clone(), &words.schemas),
            dictionary(tables, &words.tables),
            Arc::new(self.key.finish()),
            Arc::new(UInt32Array::from_value(epoch, rows)),
            dictionary(Int32Array::from(self.file), &words.files),
            Arc::new(UInt64Array::from(self.offset)),
            Arc::new(UInt64Array::from(self.ordinal)),
            dictionary(Int32Array::from(self.op), &words.ops),
            Arc::new(BooleanArray::from(self.arrival)),
            Arc::new(TimestampMicrosecondArray::from(self.time).with_timezone("UTC")),
            dictionary(Int32Array::from(self.source), &words.sources),
            Arc::new(UInt64Array::from(self.number)),
            Arc::new(UInt32Array::from(self.thread)),
            Arc::new(UInt32Array::from(self.version)),
            Arc::new(UInt16Array::from(self.flags)),
            Arc::new(self.changed.finish()),
            Arc::new(self.before.finish()),
            Arc::new(self.after.finish()),
            dictionary(Int32Array::from(self.query), &words.queries),
            Arc::new(self.ddl.finish()),
        ]
    }
}

/// What the manifest will say about the segment.
struct Account {
    first: Position,
    last: Position,
    first_time: i64,
    last_time: i64,
    gtids: Option<(u64, u64)>,
    /// By the table's place; the first counts statements.
    tables: Vec<SegmentTable>,
    rows: u64,
}

impl Account {
    fn new(chunk: &Chunk, epoch: u32) -> Self {
        // The chunk was filled in the order of the log, so its first and its last transaction hold its first and last change.
        let position = |entry: Option<&Entry>| {
            let (txn, ordinal) = entry.map_or((0, 0), |entry| (entry.txn as usize, entry.ordinal));
            let txn = &chunk.txns[txn];
            let at = binlog::LogPos {
                file: chunk.files[txn.file as usize].clone(),
                offset: txn.offset,
            };
            Position { epoch, at, ordinal }
        };
        let order = |entry: &&Entry| (entry.txn, entry.ordinal);
        let times = || {
            chunk
                .entries
                .iter()
                .map(|entry| chunk.txns[entry.txn as usize].time.0)
        };
        let tables = chunk.tables.iter().map(|(schema, table)| SegmentTable {
            schema: schema.clone(),
            table: table.clone(),
            rows: 0,
            counts: Counts::default(),
            first_time: i64::MAX,
            last_time: i64::MIN,
        });
        Self {
            first: position(chunk.entries.iter().min_by_key(order)),
            last: position(chunk.entries.iter().max_by_key(order)),
            first_time: times().min().unwrap_or_default(),
            last_time: times().max().unwrap_or_default(),
            gtids: None,
            tables: tables.collect(),
            rows: 0,
        }
    }

    fn count(&mut self, chunk: &Chunk, entry: &Entry, record: &Record<'_>) {
        let txn = &chunk.txns[entry.txn as usize];
        let table = &mut self.tables[entry.table as usize];
        self.rows += 1;
        table.rows += 1;
        if let (Record::Row(row), false) = (record, entry.arrival) {
            table.counts.count(row.op);
        }
        table.first_time = table.first_time.min(txn.time.0);
        table.last_time = table.last_time.max(txn.time.0);
        if let Some((_, number)) = txn.gtid {
            let (least, greatest) = self.gtids.unwrap_or((number, number));
            self.gtids = Some((least.min(number), greatest.max(number)));
        }
    }

    fn segment(mut self, name: &str, written: Written) -> Segment {
        let statements = self.tables.remove(0);
        Segment {
            file: name.to_owned(),
            bytes: written.bytes,
            rows: self.rows,
            sha256: written.sha256,
            footer_at: written.footer_at,
            footer_crc32: written.footer_crc32,
            chain: String::new(),
            first: self.first,
            last: self.last,
            first_time: self.first_time,
            last_time: self.last_time,
            gtids: self.gtids,
            statements: statements.rows,
            tables: self.tables,
        }
    }
}
