//! Rows of a segment as they are decoded: some of the columns, or all.

use arrow_array::{
    Array, BinaryArray, BooleanArray, Int32Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    UInt16Array, UInt32Array, UInt64Array, cast::AsArray, types::Int32Type,
};
use binlog::{FileName, LogPos, Op, Position};
use types::Micros;

use super::{Col, SCHEMA};
use crate::record::DdlRecord;

/// Decoded rows. A column that was not read is not there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    rows: usize,
    schema: Option<Words>,
    table: Option<Words>,
    key: Option<BinaryArray>,
    epoch: Option<UInt32Array>,
    pub(super) file: Option<Words>,
    pub(super) offset: Option<UInt64Array>,
    pub(super) ordinal: Option<UInt64Array>,
    pub(super) op: Option<Words>,
    pub(super) arrival: Option<BooleanArray>,
    commit_time: Option<TimestampMicrosecondArray>,
    gtid_source: Option<Words>,
    gtid_number: Option<UInt64Array>,
    thread_id: Option<UInt32Array>,
    version: Option<UInt32Array>,
    flags: Option<UInt16Array>,
    changed: Option<BinaryArray>,
    before: Option<BinaryArray>,
    after: Option<BinaryArray>,
    query: Option<Words>,
    ddl: Option<StringArray>,
}

/// A column of words, and the dictionary of those words.
#[derive(Clone, Debug)]
pub(super) struct Words {
    keys: Int32Array,
    pub(super) words: StringArray,
}

impl Words {
    fn of(column: &dyn Array) -> Option<Self> {
        let column = column.as_dictionary_opt::<Int32Type>()?;
        Some(Self {
            keys: column.keys().clone(),
            words: column.values().as_string_opt()?.clone(),
        })
    }

    /// The place of the row's word in the dictionary.
    pub(super) fn place(&self, row: usize) -> Option<usize> {
        usize::try_from(self.keys.value(row))
            .ok()
            .filter(|place| *place < self.words.len())
    }

    fn get(&self, row: usize) -> Option<&str> {
        if self.keys.is_null(row) {
            None
        } else {
            Some(self.words.value(self.place(row)?))
        }
    }
}

impl Batch {
    /// None if a column is not of its type.
    pub(crate) fn of(columns: &RecordBatch) -> Option<Self> {
        let column = |col: Col| {
            columns
                .column_by_name(SCHEMA.field(col as usize).name())
                .map(AsRef::as_ref)
        };
        let words = |col| column(col).map(Words::of);
        let bytes = |col| column(col).map(|c| c.as_binary_opt::<i32>().cloned());
        let u32s = |col| column(col).map(|c| c.as_primitive_opt().cloned());
        let u64s = |col| column(col).map(|c| c.as_primitive_opt().cloned());
        Some(Self {
            rows: columns.num_rows(),
            schema: some(words(Col::Schema))?,
            table: some(words(Col::Table))?,
            key: some(bytes(Col::Key))?,
            epoch: some(u32s(Col::Epoch))?,
            file: some(words(Col::File))?,
            offset: some(u64s(Col::Offset))?,
            ordinal: some(u64s(Col::Ordinal))?,
            op: some(words(Col::Op))?,
            arrival: some(column(Col::Arrival).map(|c| c.as_boolean_opt().cloned()))?,
            commit_time: some(column(Col::CommitTime).map(|c| c.as_primitive_opt().cloned()))?,
            gtid_source: some(words(Col::GtidSource))?,
            gtid_number: some(u64s(Col::GtidNumber))?,
            thread_id: some(u32s(Col::ThreadId))?,
            version: some(u32s(Col::SchemaVersion))?,
            flags: some(column(Col::Flags).map(|c| c.as_primitive_opt().cloned()))?,
            changed: some(bytes(Col::Changed))?,
            before: some(bytes(Col::Before))?,
            after: some(bytes(Col::After))?,
            query: some(words(Col::Query))?,
            ddl: some(column(Col::Ddl).map(|c| c.as_string_opt().cloned()))?,
        })
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn row(&self, row: usize) -> SegmentRow<'_> {
        SegmentRow { batch: self, row }
    }
}

/// A column that was not read is fine; one that is not of its type is not.
#[allow(
    clippy::option_option,
    reason = "there is no column, or it has a wrong type, or it is here"
)]
fn some<T>(column: Option<Option<T>>) -> Option<Option<T>> {
    match column {
        None => Some(None),
        Some(typed) => typed.map(Some),
    }
}

/// A row of a segment. A value is none if it is NULL, or if its column was not read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentRow<'a> {
    batch: &'a Batch,
    row: usize,
}

/// The value of a column of fixed width.
macro_rules! fixed {
    ($($(#[$doc:meta])* $name:ident: $column:ident -> $ty:ty;)*) => {
        $($(#[$doc])* pub(crate) fn $name(&self) -> Option<$ty> {
            let column = self.batch.$column.as_ref()?;
            column.is_valid(self.row).then(|| column.value(self.row))
        })*
    };
}

/// The value of a column of bytes or words.
macro_rules! varying {
    ($($name:ident -> $ty:ty;)*) => {
        $(pub(crate) fn $name(&self) -> Option<$ty> {
            let column = self.batch.$name.as_ref()?;
            column.is_valid(self.row).then(|| column.value(self.row))
        })*
    };
}

/// The value of a column of words.
macro_rules! word {
    ($($name:ident)*) => {
        $(pub(crate) fn $name(&self) -> Option<&'a str> {
            self.batch.$name.as_ref()?.get(self.row)
        })*
    };
}

impl<'a> SegmentRow<'a> {
    fixed! {
        arrival: arrival -> bool;
        gtid_number: gtid_number -> u64;
        thread_id: thread_id -> u32;
        version: version -> u32;
        flags: flags -> u16;
    }

    varying! {
        key -> &'a [u8];
        changed -> &'a [u8];
        before -> &'a [u8];
        after -> &'a [u8];
        ddl -> &'a str;
    }

    word! { schema table file gtid_source query }

    pub(crate) fn time(&self) -> Option<Micros> {
        self.batch
            .commit_time
            .as_ref()
            .map(|times| Micros(times.value(self.row)))
    }

    pub(crate) fn op(&self) -> Option<Op> {
        match self.batch.op.as_ref()?.get(self.row)? {
            "insert" => Some(Op::Insert),
            "update" => Some(Op::Update),
            "delete" => Some(Op::Delete),
            _ => None,
        }
    }

    pub(crate) fn position(&self) -> Option<Position> {
        let Batch {
            epoch,
            offset,
            ordinal,
            ..
        } = self.batch;
        let at = LogPos {
            file: FileName::new(self.file()?),
            offset: offset.as_ref()?.value(self.row),
        };
        Some(Position {
            epoch: epoch.as_ref()?.value(self.row),
            at,
            ordinal: ordinal.as_ref()?.value(self.row),
        })
    }

    pub(crate) fn statement(&self) -> Option<DdlRecord> {
        serde_json::from_str(self.ddl()?).ok()
    }
}
