//! Changes out of a segment, in two steps: first the narrow columns tell which rows are wanted, then the wide ones are read of those
//! rows only. The manifest, bloom filters and the page index of the keys keep even the first step from most of the file.

use std::{fs::File, io, ops::Range, path::Path};

use arrow_array::{
    Array, RecordBatch, StringArray,
    cast::AsArray,
    types::{Int32Type, TimestampMicrosecondType, UInt16Type, UInt32Type, UInt64Type},
};
use binlog::{FileName, LogPos, Op, Position};
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{
            ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
        },
    },
    bloom_filter::Sbbf,
    file::{
        metadata::{PageIndexPolicy, ParquetStatisticsPolicy},
        page_index::column_index::ColumnIndexMetaData,
    },
};
use types::Micros;

use super::{
    Col, SCHEMA,
    sums::{Data, Footer, SUMS},
    write::error,
};
use crate::{Error, Order, manifest::Segment, record::DdlRecord, wanted::Wanted};

/// Rows decoded at once.
const BATCH_ROWS: usize = 8_192;
/// With more keys than this, asking the bloom filter for each costs more than the pages it saves.
const BLOOM_KEYS_MAX: usize = 64;

/// A segment whose footer and indexes are in memory.
#[derive(Debug)]
pub(crate) struct Opened {
    path: std::path::PathBuf,
    data: Data,
    metadata: ArrowReaderMetadata,
}

/// A row that is wanted.
#[derive(Clone, Copy, Debug)]
struct Hit {
    /// Index into [`Hits::files`].
    file: u32,
    offset: u64,
    ordinal: u64,
    row: u32,
    arrival: bool,
}

/// The rows that are wanted, in the order that was asked for, with everything about them.
#[derive(Debug)]
pub(crate) struct Hits {
    epoch: u32,
    files: Vec<FileName>,
    hits: Vec<Hit>,
    /// The rows in the order of the file, and for each hit its place there.
    batches: Vec<RecordBatch>,
    places: Vec<(u32, u32)>,
}

/// A row of a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentRow<'a> {
    batch: &'a RecordBatch,
    row: usize,
}

impl Opened {
    pub(crate) fn open(dir: &Path, segment: &Segment) -> Result<Self, Error> {
        let path = dir.join(&segment.file);
        let file = File::open(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::corrupt(&path, "the manifest names it, and it is not there"),
            _ => Error::io(&path, e),
        })?;
        let footer = Footer::read(&file, segment.footer_at, segment.bytes, segment.footer_crc32);
        let footer = footer.map_err(|e| error(&path, e.into()))?;
        let options = ArrowReaderOptions::new()
            .with_page_index_policy(PageIndexPolicy::Optional)
            .with_column_stats_policy(ParquetStatisticsPolicy::SkipAll)
            .with_size_stats_policy(ParquetStatisticsPolicy::SkipAll);
        let metadata = ArrowReaderMetadata::load(&footer, options).map_err(|e| error(&path, e))?;
        if metadata.schema().fields() != SCHEMA.fields() {
            return Err(Error::corrupt(&path, "its columns are not those of a segment"));
        }
        let entries = metadata
            .metadata()
            .file_metadata()
            .key_value_metadata()
            .into_iter()
            .flatten();
        let sums = entries
            .filter(|entry| entry.key == SUMS)
            .find_map(|entry| entry.value.as_deref());
        let data = sums.and_then(|sums| Data::new(file, segment.footer_at, sums));
        let data = data.ok_or_else(|| Error::corrupt(&path, "its checksums are missing"))?;
        Ok(Self { path, data, metadata })
    }

    /// The changes that are wanted; at most `limit` of them.
    pub(crate) fn changes(
        &self,
        segment: &Segment,
        wanted: &Wanted,
        limit: Option<usize>,
    ) -> Result<Hits, Error> {
        let mut ranges = Vec::new();
        let mut start = segment.statements;
        for table in &segment.tables {
            if wanted.may_be_of(table) {
                ranges.push(start as usize..(start + table.rows) as usize);
            }
            start += table.rows;
        }
        if !wanted.keys().is_empty() {
            ranges = self.narrow(&ranges, wanted)?;
        }
        self.search(segment, wanted, ranges, limit, false)
    }

    /// The statements that are wanted.
    pub(crate) fn statements(&self, segment: &Segment, wanted: &Wanted) -> Result<Hits, Error> {
        let all = 0..segment.statements as usize;
        self.search(segment, wanted, vec![all], None, true)
    }

    /// All columns of all rows, batch by batch.
    pub(crate) fn all(&self) -> Result<impl Iterator<Item = Result<RecordBatch, Error>> + '_, Error> {
        let builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(self.data.clone(), self.metadata.clone());
        let reader = builder
            .with_batch_size(BATCH_ROWS)
            .build()
            .map_err(|e| error(&self.path, e))?;
        Ok(reader.map(|batch| batch.map_err(|e| odd_batch(&self.path, e))))
    }

    /// The pages within `ranges` that may hold a wanted key.
    fn narrow(&self, ranges: &[Range<usize>], wanted: &Wanted) -> Result<Vec<Range<usize>>, Error> {
        let metadata = self.metadata.metadata();
        let mut pages = Vec::new();
        let mut start = 0;
        for (nth, group) in metadata.row_groups().iter().enumerate() {
            let rows = start..start + usize::try_from(group.num_rows()).unwrap_or_default();
            start = rows.end;
            if !ranges.iter().any(|range| overlap(range, &rows).is_some()) || !self.bloom(nth, wanted)? {
                continue;
            }
            let column = metadata
                .column_index()
                .and_then(|index| index.get(nth)?.get(Col::Key as usize));
            let offset = metadata
                .offset_index()
                .and_then(|index| index.get(nth)?.get(Col::Key as usize));
            let (Some(ColumnIndexMetaData::BYTE_ARRAY(column)), Some(offset)) = (column, offset) else {
                pages.push(rows);
                continue;
            };
            let firsts = offset
                .page_locations()
                .iter()
                .map(|page| rows.start + usize::try_from(page.first_row_index).unwrap_or_default());
            let firsts: Vec<usize> = firsts.chain([rows.end]).collect();
            for (page, bounds) in firsts.windows(2).enumerate() {
                if let (Some(least), Some(greatest)) = (column.min_value(page), column.max_value(page))
                    && wanted.key_between(least, greatest)
                {
                    pages.push(bounds[0]..bounds[1]);
                }
            }
        }
        Ok(pages
            .iter()
            .flat_map(|page| ranges.iter().filter_map(|range| overlap(range, page)))
            .collect())
    }

    /// Whether a row group may hold a wanted key.
    fn bloom(&self, group: usize, wanted: &Wanted) -> Result<bool, Error> {
        if wanted.keys().len() > BLOOM_KEYS_MAX {
            return Ok(true);
        }
        let column = self
            .metadata
            .metadata()
            .row_group(group)
            .column(Col::Key as usize);
        let filter = Sbbf::read_from_column_chunk(column, &self.data).map_err(|e| error(&self.path, e))?;
        Ok(filter.is_none_or(|filter| wanted.keys().iter().any(|key| filter.check(key.as_slice()))))
    }

    fn search(
        &self,
        segment: &Segment,
        wanted: &Wanted,
        mut ranges: Vec<Range<usize>>,
        limit: Option<usize>,
        statements: bool,
    ) -> Result<Hits, Error> {
        ranges.retain(|range| !range.is_empty());
        ranges.sort_by_key(|range| range.start);
        let mut found = Hits {
            epoch: segment.first.epoch,
            files: Vec::new(),
            hits: Vec::new(),
            batches: Vec::new(),
            places: Vec::new(),
        };
        if ranges.is_empty() {
            return Ok(found);
        }
        let mut rows = ranges.iter().cloned().flatten();
        for batch in self.read(&ranges, &narrow_columns(wanted, statements), segment.rows)? {
            let batch = batch?;
            found
                .sift(&batch, &mut rows, wanted, statements)
                .ok_or_else(|| self.odd())?;
        }
        found.sort(wanted.filter.order, limit);
        self.fetch(&mut found, segment.rows)?;
        Ok(found)
    }

    /// Reads all columns of the hits.
    fn fetch(&self, found: &mut Hits, rows: u64) -> Result<(), Error> {
        let mut order: Vec<u32> = (0..found.hits.len() as u32).collect();
        order.sort_unstable_by_key(|hit| found.hits[*hit as usize].row);
        let ranges = consecutive(order.iter().map(|hit| found.hits[*hit as usize].row as usize));
        if ranges.is_empty() {
            return Ok(());
        }
        let all: Vec<usize> = (0..SCHEMA.fields().len()).collect();
        found.places = vec![(0, 0); order.len()];
        let mut order = order.into_iter();
        for batch in self.read(&ranges, &all, rows)? {
            let batch = batch?;
            for (row, hit) in (0..batch.num_rows() as u32).zip(order.by_ref()) {
                found.places[hit as usize] = (found.batches.len() as u32, row);
            }
            found.batches.push(batch);
        }
        Ok(())
    }

    /// Reads some columns of some rows.
    fn read(
        &self,
        ranges: &[Range<usize>],
        columns: &[usize],
        rows: u64,
    ) -> Result<impl Iterator<Item = Result<RecordBatch, Error>> + '_, Error> {
        let builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(self.data.clone(), self.metadata.clone());
        let mask = ProjectionMask::roots(builder.parquet_schema(), columns.iter().copied());
        let selection = RowSelection::from_consecutive_ranges(
            ranges.iter().cloned(),
            usize::try_from(rows).unwrap_or_default(),
        );
        let reader = builder
            .with_projection(mask)
            .with_row_selection(selection)
            .with_batch_size(BATCH_ROWS)
            .build();
        let reader = reader.map_err(|e| error(&self.path, e))?;
        Ok(reader.map(|batch| batch.map_err(|e| odd_batch(&self.path, e))))
    }

    fn odd(&self) -> Error {
        Error::corrupt(&self.path, "a column is not what it must be")
    }
}

/// What the system or a checksum said is wrapped several times on its way through Arrow.
fn odd_batch(path: &Path, error: arrow_schema::ArrowError) -> Error {
    let mut text = error.to_string();
    if let Some(place) = text.find("the checksum of what begins") {
        text.drain(..place);
    }
    Error::corrupt(path, text)
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> Option<Range<usize>> {
    let both = a.start.max(b.start)..a.end.min(b.end);
    (!both.is_empty()).then_some(both)
}

/// Ascending numbers as ranges.
fn consecutive(rows: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for row in rows {
        match ranges.last_mut() {
            Some(last) if last.end == row => last.end += 1,
            _ => ranges.push(row..row + 1),
        }
    }
    ranges
}

/// The columns that tell whether a row is wanted and where it stands.
fn narrow_columns(wanted: &Wanted, statements: bool) -> Vec<usize> {
    let filter = &wanted.filter;
    let mut columns = vec![Col::File, Col::Offset, Col::Ordinal, Col::Op, Col::Arrival];
    if filter.since.is_some() || filter.until.is_some() {
        columns.push(Col::CommitTime);
    }
    if filter.gtid.is_some() {
        columns.extend([Col::GtidSource, Col::GtidNumber]);
    }
    if !wanted.keys().is_empty() {
        columns.push(Col::Key);
    }
    if filter.column.is_some() && !statements {
        columns.extend([Col::SchemaVersion, Col::Changed]);
    }
    columns.into_iter().map(|col| col as usize).collect()
}

impl Hits {
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

    /// The hit's row.
    pub(crate) fn row(&self, hit: usize) -> SegmentRow<'_> {
        let (batch, row) = self.places[hit];
        SegmentRow {
            batch: &self.batches[batch as usize],
            row: row as usize,
        }
    }

    /// Takes from a batch of narrow columns the rows that are wanted; `rows` numbers them. None if the batch is odd.
    fn sift(
        &mut self,
        batch: &RecordBatch,
        rows: &mut impl Iterator<Item = usize>,
        wanted: &Wanted,
        statements: bool,
    ) -> Option<()> {
        let files = Words::of(batch, Col::File)?;
        let numbers: Vec<u32> = files
            .words
            .iter()
            .map(|name| self.number(name.unwrap_or_default()))
            .collect();
        let ops = Words::of(batch, Col::Op)?;
        let kinds: Vec<bool> = ops
            .words
            .iter()
            .map(|name| wants_kind(name.unwrap_or_default(), wanted, statements))
            .collect();
        let offsets = column(batch, Col::Offset)?
            .as_primitive_opt::<UInt64Type>()?
            .values();
        let ordinals = column(batch, Col::Ordinal)?
            .as_primitive_opt::<UInt64Type>()?
            .values();
        let arrivals = column(batch, Col::Arrival)?.as_boolean_opt()?;
        for index in 0..batch.num_rows() {
            let row = u32::try_from(rows.next()?).ok()?;
            let arrival = arrivals.value(index);
            if (arrival && wanted.keys().is_empty()) || !kinds[ops.key(index)?] {
                continue;
            }
            let (file, offset, ordinal) = (numbers[files.key(index)?], offsets[index], ordinals[index]);
            if !wanted
                .filter
                .wants_transaction(self.epoch, &self.files[file as usize], offset)
            {
                continue;
            }
            let hit = Hit {
                file,
                offset,
                ordinal,
                row,
                arrival,
            };
            if SegmentRow::new(batch, index).is_wanted(wanted, statements)? && self.is_after(&hit, wanted) {
                self.hits.push(hit);
            }
        }
        Some(())
    }

    fn is_after(&self, hit: &Hit, wanted: &Wanted) -> bool {
        let place = |after: &Position| {
            (
                self.epoch,
                &self.files[hit.file as usize],
                hit.offset,
                hit.ordinal,
            ) > (after.epoch, &after.at.file, after.at.offset, after.ordinal)
        };
        wanted.filter.after.as_ref().is_none_or(place)
    }

    fn number(&mut self, name: &str) -> u32 {
        let known = self.files.iter().position(|file| file.as_str() == name);
        known.unwrap_or_else(|| {
            self.files.push(FileName::new(name));
            self.files.len() - 1
        }) as u32
    }

    /// Puts the hits into order. A change that was found under its old and its new key is one hit.
    fn sort(&mut self, order: Order, limit: Option<usize>) {
        let mut names: Vec<u32> = (0..self.files.len() as u32).collect();
        names.sort_by_key(|file| &self.files[*file as usize]);
        let mut ranks = vec![0_u32; names.len()];
        for (rank, file) in (0..).zip(names) {
            ranks[file as usize] = rank;
        }
        let place = |hit: &Hit| (ranks[hit.file as usize], hit.offset, hit.ordinal, hit.arrival);
        self.hits.sort_unstable_by_key(place);
        self.hits.dedup_by_key(|hit| (hit.file, hit.offset, hit.ordinal));
        if order == Order::Newest {
            self.hits.reverse();
        }
        if let Some(limit) = limit {
            self.hits.truncate(limit);
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

fn column(batch: &RecordBatch, col: Col) -> Option<&dyn Array> {
    batch
        .column_by_name(SCHEMA.field(col as usize).name())
        .map(AsRef::as_ref)
}

/// A column of words, and the dictionary of those words.
struct Words<'a> {
    keys: &'a arrow_array::Int32Array,
    words: &'a StringArray,
}

impl<'a> Words<'a> {
    fn of(batch: &'a RecordBatch, col: Col) -> Option<Self> {
        let column = column(batch, col)?.as_dictionary_opt::<Int32Type>()?;
        Some(Self {
            keys: column.keys(),
            words: column.values().as_string_opt()?,
        })
    }

    fn key(&self, row: usize) -> Option<usize> {
        usize::try_from(self.keys.value(row))
            .ok()
            .filter(|key| *key < self.words.len())
    }

    fn get(&self, row: usize) -> Option<&'a str> {
        if self.keys.is_null(row) {
            None
        } else {
            Some(self.words.value(self.key(row)?))
        }
    }
}

impl<'a> SegmentRow<'a> {
    pub(crate) fn new(batch: &'a RecordBatch, row: usize) -> Self {
        Self { batch, row }
    }

    /// Those parts of a filter that need columns which are not read otherwise.
    fn is_wanted(&self, wanted: &Wanted, statements: bool) -> Option<bool> {
        let filter = &wanted.filter;
        Some(
            (filter.since.is_none() && filter.until.is_none() || filter.wants_time(self.time()?))
                && (statements || wanted.keys().is_empty() || wanted.key(self.bytes(Col::Key)?))
                && filter.gtid.as_ref().is_none_or(|gtid| {
                    self.u64(Col::GtidNumber) == Some(gtid.number())
                        && self
                            .word(Col::GtidSource)
                            .is_some_and(|source| source == gtid.source())
                })
                && (statements
                    || filter.column.is_none()
                    || wanted.column(self.u32(Col::SchemaVersion)?, self.bytes(Col::Changed))),
        )
    }

    pub(crate) fn time(&self) -> Option<Micros> {
        let times = column(self.batch, Col::CommitTime)?.as_primitive_opt::<TimestampMicrosecondType>()?;
        Some(Micros(times.value(self.row)))
    }

    pub(crate) fn op(&self) -> Option<Op> {
        match self.word(Col::Op)? {
            "insert" => Some(Op::Insert),
            "update" => Some(Op::Update),
            "delete" => Some(Op::Delete),
            _ => None,
        }
    }

    pub(crate) fn arrival(&self) -> Option<bool> {
        Some(
            column(self.batch, Col::Arrival)?
                .as_boolean_opt()?
                .value(self.row),
        )
    }

    pub(crate) fn word(&self, col: Col) -> Option<&'a str> {
        Words::of(self.batch, col)?.get(self.row)
    }

    pub(crate) fn bytes(&self, col: Col) -> Option<&'a [u8]> {
        let column = column(self.batch, col)?.as_binary_opt::<i32>()?;
        column.is_valid(self.row).then(|| column.value(self.row))
    }

    pub(crate) fn u64(&self, col: Col) -> Option<u64> {
        let column = column(self.batch, col)?.as_primitive_opt::<UInt64Type>()?;
        column.is_valid(self.row).then(|| column.value(self.row))
    }

    pub(crate) fn u32(&self, col: Col) -> Option<u32> {
        let column = column(self.batch, col)?.as_primitive_opt::<UInt32Type>()?;
        column.is_valid(self.row).then(|| column.value(self.row))
    }

    pub(crate) fn flags(&self) -> Option<u16> {
        let column = column(self.batch, Col::Flags)?.as_primitive_opt::<UInt16Type>()?;
        column.is_valid(self.row).then(|| column.value(self.row))
    }

    pub(crate) fn position(&self) -> Option<Position> {
        let at = LogPos {
            file: FileName::new(self.word(Col::File)?),
            offset: self.u64(Col::Offset)?,
        };
        Some(Position {
            epoch: self.u32(Col::Epoch)?,
            at,
            ordinal: self.u64(Col::Ordinal)?,
        })
    }

    pub(crate) fn statement(&self) -> Option<DdlRecord> {
        let column = column(self.batch, Col::Ddl)?.as_string_opt::<i32>()?;
        if column.is_null(self.row) {
            None
        } else {
            serde_json::from_str(column.value(self.row)).ok()
        }
    }
}
