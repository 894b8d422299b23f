//! Sealed, immutable Parquet files, readable by anything that reads Parquet.
//!
//! A segment holds the changes of one stretch of the log, sorted by (schema, table, key) and within a key as they happened. So the
//! history of a row is one place in it. A change that moves a row to another key stands twice: under the old key, and, marked
//! `arrival`, under the new one. Statements that changed definitions stand first, without schema, table and key.

pub(crate) mod batch;
pub(crate) mod bloom;
pub(crate) mod chunk;
pub(crate) mod hits;
pub(crate) mod read;
mod sums;
pub(crate) mod write;

use std::sync::{Arc, LazyLock};

use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::{
    basic::{Compression, Encoding, ZstdLevel},
    file::{
        metadata::SortingColumn,
        properties::{EnabledStatistics, WriterProperties},
    },
    schema::types::ColumnPath,
};

/// The columns, by their place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Col {
    Schema,
    Table,
    Key,
    Epoch,
    File,
    Offset,
    Ordinal,
    Op,
    Arrival,
    CommitTime,
    GtidSource,
    GtidNumber,
    ThreadId,
    SchemaVersion,
    Flags,
    Changed,
    Before,
    After,
    Query,
    Ddl,
}

/// Rows per row group. What is being encoded is held in memory, and a reader takes a row group at a time.
const GROUP_ROWS: usize = 65_536;
/// Rows per page. A look-up decodes a page of each column: against 2,048 rows it is a fifth quicker, and files are a fiftieth larger.
const PAGE_ROWS: usize = 1_024;
/// One row group in thirty is looked into for nothing; the filter takes a byte per key. (At 1 in 100 its size doubles.)
const BLOOM_FALSE_POSITIVES: f64 = 0.03;

/// The Arrow form of the columns. The order is that of [`Col`].
pub(crate) static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let name = || DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    Arc::new(Schema::new(vec![
        Field::new("schema", name(), true),
        Field::new("table", name(), true),
        Field::new("key", DataType::Binary, true),
        Field::new("epoch", DataType::UInt32, false),
        Field::new("file", name(), false),
        Field::new("offset", DataType::UInt64, false),
        Field::new("ordinal", DataType::UInt64, false),
        Field::new("op", name(), false),
        Field::new("arrival", DataType::Boolean, false),
        Field::new(
            "commit_time",
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            false,
        ),
        Field::new("gtid_source", name(), true),
        Field::new("gtid_number", DataType::UInt64, true),
        Field::new("thread_id", DataType::UInt32, true),
        Field::new("schema_version", DataType::UInt32, true),
        Field::new("flags", DataType::UInt16, true),
        Field::new("changed", DataType::Binary, true),
        Field::new("before", DataType::Binary, true),
        Field::new("after", DataType::Binary, true),
        Field::new("query", name(), true),
        Field::new("ddl", DataType::Utf8, true),
    ]))
});

/// What the column `op` says, by number.
pub(crate) const OPS: [&str; 4] = ["insert", "update", "delete", "ddl"];

/// Which columns a chunk needs that most chunks do not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Texts {
    /// Texts of statements.
    pub(crate) queries: bool,
    /// Statements that changed definitions.
    pub(crate) ddl: bool,
}

/// How the columns are written.
///
/// Only columns with much to gain are compressed with zstd. Each column of each look-up makes a decompressor, which asks the processor
/// what it can; in a virtual machine that question takes 20 microseconds, and it once took two thirds of a look-up. The other columns
/// are packed by their encodings: dictionaries and differences.
fn properties(zstd_level: i32, texts: Texts) -> WriterProperties {
    let path = |col: Col| ColumnPath::from(SCHEMA.field(col as usize).name().as_str());
    let zstd = Compression::ZSTD(ZstdLevel::try_new(zstd_level).unwrap_or_default());
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::UNCOMPRESSED)
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_column_statistics_enabled(path(Col::Key), EnabledStatistics::Page)
        .set_column_bloom_filter_enabled(path(Col::Key), true)
        .set_column_bloom_filter_fpp(path(Col::Key), BLOOM_FALSE_POSITIVES)
        .set_created_by(concat!("trailmesh ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_sorting_columns(Some(
            [Col::Schema, Col::Table, Col::Key]
                .map(|col| SortingColumn {
                    column_idx: col as i32,
                    descending: false,
                    nulls_first: true,
                })
                .to_vec(),
        ));
    let compressed = [
        (Col::Before, true),
        (Col::After, true),
        (Col::Query, texts.queries),
        (Col::Ddl, texts.ddl),
    ];
    for (col, _) in compressed.into_iter().filter(|(_, needed)| *needed) {
        builder = builder.set_column_compression(path(col), zstd);
    }
    // Nearly every value is its own: a dictionary would be built and thrown away.
    for col in [Col::Before, Col::After, Col::Ddl] {
        builder = builder.set_column_dictionary_enabled(path(col), false);
    }
    // Images say nothing by their smallest and greatest.
    for col in [Col::Changed, Col::Before, Col::After, Col::Query, Col::Ddl] {
        builder = builder.set_column_statistics_enabled(path(col), EnabledStatistics::None);
    }
    // Sorted keys begin as the one before does.
    let encodings = [(Col::Key, Encoding::DELTA_BYTE_ARRAY)];
    // Rows of one transaction share these, and rows that were made one after the other have neighbouring ones.
    let numbers = [
        Col::Epoch,
        Col::Offset,
        Col::Ordinal,
        Col::CommitTime,
        Col::GtidNumber,
        Col::SchemaVersion,
        Col::Flags,
    ];
    for (col, encoding) in encodings
        .into_iter()
        .chain(numbers.map(|col| (col, Encoding::DELTA_BINARY_PACKED)))
    {
        builder = builder
            .set_column_dictionary_enabled(path(col), false)
            .set_column_encoding(path(col), encoding);
    }
    builder.build()
}
