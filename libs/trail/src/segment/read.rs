//! Changes out of a segment, in two steps: first the narrow columns tell which rows are wanted, then the wide ones are read of those
//! rows only. The manifest, bloom filters and the page index of the keys keep even the first step from most of the file.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use arrow_array::{RecordBatch, cast::AsArray};
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{
            ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
            ParquetRecordBatchReaderBuilder, RowSelection, RowSelectionPolicy,
        },
    },
    file::{
        metadata::{PageIndexPolicy, ParquetStatisticsPolicy},
        page_index::column_index::ColumnIndexMetaData,
    },
};

use super::{
    Col, SCHEMA,
    batch::Batch,
    bloom::Probe,
    hits::Hits,
    sums::{Data, Footer, SUMS},
    write::error,
};
use crate::{Error, Stop, folder::Files, manifest::Segment, wanted::Wanted};

/// Rows decoded at once.
const BATCH_ROWS: usize = 8_192;
/// So few rows are read with all their columns at once: a second step would cost more than it saves.
const FEW_ROWS: usize = 512;
/// Rows passed over by turns that are cheaper to decode than to skip.
const SKIP_ROWS_MIN: usize = 128;

/// A segment whose footer and indexes are in memory.
#[derive(Debug)]
pub(crate) struct Opened {
    path: PathBuf,
    data: Data,
    metadata: ArrowReaderMetadata,
}

impl Opened {
    pub(crate) fn open(files: &Files, segment: &Segment) -> Result<Self, Error> {
        let path = files.path(&segment.file);
        let file = files.open_kept(&segment.file)?;
        let footer = Footer::read(&*file, segment.footer_at, segment.bytes, segment.footer_crc32);
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
            ranges = self.with_keys(&self.pages_with_keys(&ranges, wanted)?, wanted)?;
        }
        self.search(segment, wanted, &ranges, limit, false)
    }

    /// The statements that are wanted.
    pub(crate) fn statements(&self, segment: &Segment, wanted: &Wanted) -> Result<Hits, Error> {
        let all = 0..segment.statements as usize;
        self.search(segment, wanted, &[all], None, true)
    }

    /// All columns of all rows, batch by batch.
    pub(crate) fn all(&self) -> Result<impl Iterator<Item = Result<Batch, Error>> + '_, Error> {
        let data = self.data.apart();
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(data.clone(), self.metadata.clone());
        Ok(self.batches(data, builder)?.map(|batch| self.batch(&batch?)))
    }

    /// The pages within `ranges` that may hold a wanted key.
    fn pages_with_keys(&self, ranges: &[Range<usize>], wanted: &Wanted) -> Result<Vec<Range<usize>>, Error> {
        let metadata = self.metadata.metadata();
        let mut pages = Vec::new();
        let mut start = 0;
        for (nth, group) in metadata.row_groups().iter().enumerate() {
            let rows = start..start + usize::try_from(group.num_rows()).unwrap_or_default();
            start = rows.end;
            if !ranges.iter().any(|range| overlap(range, &rows).is_some()) {
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
            let place = |first: i64| rows.start + usize::try_from(first).unwrap_or_default();
            let firsts: Vec<usize> = offset
                .page_locations()
                .iter()
                .map(|page| place(page.first_row_index))
                .chain([rows.end])
                .collect();
            let before = pages.len();
            for (page, bounds) in firsts.windows(2).enumerate() {
                if let (Some(least), Some(greatest)) = (column.min_value(page), column.max_value(page))
                    && wanted.key_between(least, greatest)
                {
                    pages.push(bounds[0]..bounds[1]);
                }
            }
            if pages.len() > before && !self.may_hold_keys(nth, wanted)? {
                pages.truncate(before);
            }
        }
        Ok(pages
            .iter()
            .flat_map(|page| ranges.iter().filter_map(|range| overlap(range, page)))
            .collect())
    }

    /// Whether a row group may hold a wanted key, by its bloom filter.
    fn may_hold_keys(&self, group: usize, wanted: &Wanted) -> Result<bool, Error> {
        let Some(probes) = wanted.probes() else {
            return Ok(true);
        };
        let column = self
            .metadata
            .metadata()
            .row_group(group)
            .column(Col::Key as usize);
        let data = self.data.apart();
        Probe::any_in(probes, column, &data)
            .map_err(|e| data.failure(&self.path).unwrap_or_else(|| error(&self.path, e)))
    }

    /// The rows within `ranges` that have a wanted key.
    fn with_keys(&self, ranges: &[Range<usize>], wanted: &Wanted) -> Result<Vec<Range<usize>>, Error> {
        let mut numbers = ranges.iter().cloned().flatten();
        let mut found: Vec<usize> = Vec::new();
        if ranges.is_empty() {
            return Ok(Vec::new());
        }
        for batch in self.read(ranges, &[Col::Key as usize])? {
            wanted.stop.check()?;
            let batch = batch?;
            let keys = batch
                .columns()
                .first()
                .and_then(|keys| keys.as_binary_opt::<i32>())
                .ok_or_else(|| self.odd())?;
            let matches = keys
                .iter()
                .zip(numbers.by_ref())
                .filter(|(key, _)| key.is_some_and(|key| wanted.key(key)));
            found.extend(matches.map(|(_, row)| row));
        }
        Ok(consecutive(found.into_iter()))
    }

    fn search(
        &self,
        segment: &Segment,
        wanted: &Wanted,
        ranges: &[Range<usize>],
        limit: Option<usize>,
        statements: bool,
    ) -> Result<Hits, Error> {
        let mut found = Hits::new(segment.first.epoch);
        let count: usize = ranges.iter().map(Range::len).sum();
        if count == 0 {
            return Ok(found);
        }
        let few = count <= FEW_ROWS;
        let columns = if few {
            (0..SCHEMA.fields().len()).collect()
        } else {
            narrow_columns(wanted, statements)
        };
        let mut rows = ranges.iter().cloned().flatten();
        for batch in self.read(ranges, &columns)? {
            wanted.stop.check()?;
            let batch = self.batch(&batch?)?;
            found
                .sift(&batch, &mut rows, wanted, statements)
                .ok_or_else(|| self.odd())?;
            if few {
                found.batches.push(batch);
            }
        }
        found.sort(wanted.filter.order, limit);
        if few {
            found.are_all_read();
        }
        Ok(found)
    }

    /// Reads the rows from `hit` on that are in memory at once.
    pub(crate) fn fill(&self, found: &mut Hits, hit: usize, stop: &Stop) -> Result<(), Error> {
        let ranges = consecutive(found.turn_to(hit));
        if ranges.is_empty() {
            return Ok(());
        }
        let all: Vec<usize> = (0..SCHEMA.fields().len()).collect();
        for batch in self.read(&ranges, &all)? {
            stop.check()?;
            found.batches.push(self.batch(&batch?)?);
        }
        found.settle();
        Ok(())
    }

    /// Reads some columns of some rows; `ranges` are in order. Row groups without such rows are left out, because even those that are
    /// passed over would have a reader made for each of their columns.
    fn read(&self, ranges: &[Range<usize>], columns: &[usize]) -> Result<Batches<'_>, Error> {
        let (mut groups, mut selected, mut start, mut kept) = (Vec::new(), Vec::new(), 0, 0);
        for (nth, group) in self.metadata.metadata().row_groups().iter().enumerate() {
            let rows = start..start + usize::try_from(group.num_rows()).unwrap_or_default();
            let first = ranges.partition_point(|range| range.end <= rows.start);
            let here = ranges[first..].iter().map_while(|range| overlap(range, &rows));
            let before = selected.len();
            selected.extend(here.map(|range| range.start - rows.start + kept..range.end - rows.start + kept));
            if selected.len() > before {
                groups.push(nth);
                kept += rows.len();
            }
            start = rows.end;
        }
        let data = self.data.apart();
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(data.clone(), self.metadata.clone());
        let mask = ProjectionMask::roots(builder.parquet_schema(), columns.iter().copied());
        let selection = RowSelection::from_consecutive_ranges(selected.into_iter(), kept);
        let builder = builder
            .with_row_groups(groups)
            .with_projection(mask)
            .with_row_selection(selection);
        let policy = RowSelectionPolicy::Auto {
            threshold: SKIP_ROWS_MIN,
        };
        let builder = builder.with_row_selection_policy(policy);
        self.batches(data, builder)
    }

    fn batches(
        &self,
        data: Data,
        builder: ParquetRecordBatchReaderBuilder<Data>,
    ) -> Result<Batches<'_>, Error> {
        let reader = builder.with_batch_size(BATCH_ROWS).build();
        let reader = reader.map_err(|e| data.failure(&self.path).unwrap_or_else(|| error(&self.path, e)))?;
        Ok(Batches {
            path: &self.path,
            data,
            reader,
        })
    }

    fn batch(&self, batch: &RecordBatch) -> Result<Batch, Error> {
        Batch::of(batch).ok_or_else(|| self.odd())
    }

    fn odd(&self) -> Error {
        Error::corrupt(&self.path, "a column is not what it must be")
    }
}

/// Columns as they are decoded.
struct Batches<'a> {
    path: &'a Path,
    /// What `reader` reads.
    data: Data,
    reader: ParquetRecordBatchReader,
}

impl Iterator for Batches<'_> {
    type Item = Result<RecordBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.reader.next()?;
        Some(batch.map_err(|e| {
            let failed = self.data.failure(self.path);
            failed.unwrap_or_else(|| odd_batch(self.path, &e))
        }))
    }
}

/// What a checksum said is wrapped several times on its way through Arrow.
fn odd_batch(path: &Path, error: &arrow_schema::ArrowError) -> Error {
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

/// The columns that tell whether a row is wanted and where it stands. Keys have been looked at before.
fn narrow_columns(wanted: &Wanted, statements: bool) -> Vec<usize> {
    let filter = &wanted.filter;
    let mut columns = vec![Col::File, Col::Offset, Col::Ordinal, Col::Op, Col::Arrival];
    if filter.since.is_some() || filter.until.is_some() {
        columns.push(Col::CommitTime);
    }
    if filter.gtid.is_some() {
        columns.extend([Col::GtidSource, Col::GtidNumber]);
    }
    if filter.column.is_some() && !statements {
        columns.extend([Col::SchemaVersion, Col::Changed]);
    }
    columns.into_iter().map(|col| col as usize).collect()
}
