//! Changes of made-up tables: any type, any bytes, whole and partial images, keys of any columns or none.

use std::sync::Arc;

use binlog::{Change, Charset, Column, ColumnType, KeyPart, LogPos, Op, Position, RowKey, Table};
use proptest::{collection::vec, prelude::*, sample::Index};
use types::Micros;

use super::both;

/// A type, and how its values are stored.
fn column_type() -> impl Strategy<Value = (ColumnType, Size)> {
    let labels = || vec(".{0,8}", 1..9);
    prop_oneof![
        (prop::sample::select(vec![1_u8, 2, 3, 4, 8]), any::<bool>())
            .prop_map(|(bytes, unsigned)| (ColumnType::Int { bytes, unsigned }, Size::Of(bytes.into()))),
        Just((ColumnType::Float, Size::Of(4))),
        Just((ColumnType::Double, Size::Of(8))),
        Just((ColumnType::Year, Size::Of(1))),
        Just((ColumnType::Date, Size::Of(3))),
        Just((ColumnType::Time { fsp: 0 }, Size::Of(3))),
        Just((ColumnType::DateTime { fsp: 6 }, Size::Of(8))),
        Just((ColumnType::Timestamp { fsp: 3 }, Size::Of(6))),
        (1_u8..=64).prop_map(|bits| (ColumnType::Bit { bits }, Size::Of(usize::from(bits).div_ceil(8)))),
        labels().prop_map(|labels| (ColumnType::Enum { bytes: 1, labels }, Size::Of(1))),
        labels().prop_map(|labels| (ColumnType::Set { bytes: 1, labels }, Size::Of(1))),
        prop::sample::select(vec![8_u16, 33, 45, 63, 255]).prop_map(|id| {
            let charset = Charset::new(id);
            (ColumnType::Varchar { bytes: 200, charset }, Size::After(1))
        }),
        prop::sample::select(vec![45_u16, 63]).prop_map(|id| {
            let charset = Charset::new(id);
            (ColumnType::Blob { length: 2, charset }, Size::After(2))
        }),
        Just((ColumnType::Geometry { length: 4 }, Size::After(4))),
    ]
}

/// How many bytes a value has.
#[derive(Clone, Copy, Debug)]
enum Size {
    /// So many.
    Of(usize),
    /// As many as a number of so many bytes before them says.
    After(usize),
}

/// Names of columns may be hostile.
fn table() -> impl Strategy<Value = (Arc<Table>, Vec<Size>)> {
    (
        vec((column_type(), ".{0,6}"), 1..10),
        vec(any::<Index>(), 0..3),
        ".{1,8}",
        ".{1,8}",
    )
        .prop_map(|(columns, key, schema, name)| {
            let (mut all, mut sizes) = (Vec::new(), Vec::new());
            for (number, ((ty, size), name)) in columns.into_iter().enumerate() {
                sizes.push(size);
                all.push(Column {
                    name: format!("{number}{name}"),
                    ty,
                    nullable: true,
                    invisible: false,
                    generated: None,
                    on_update: None,
                });
            }
            let mut key: Vec<u32> = key
                .into_iter()
                .map(|index| u32::try_from(index.index(all.len())).expect("few"))
                .collect();
            key.sort_unstable();
            key.dedup();
            let key = key.into_iter().map(|column| KeyPart { column, prefix: 0 });
            let table = Table {
                schema,
                name,
                columns: all,
                key: key.collect(),
            };
            (Arc::new(table), sizes)
        })
}

/// A stored image: the first byte says that every column is there, then a bit per column says what is NULL.
fn image(sizes: &[Size]) -> impl Strategy<Value = Vec<u8>> + use<> {
    let sizes = sizes.to_vec();
    let cells = vec((prop::bool::weighted(0.2), vec(any::<u8>(), 0..64)), sizes.len());
    cells.prop_map(move |cells| {
        let mut raw = vec![0];
        let mut nulls = vec![0_u8; cells.len().div_ceil(8)];
        for (index, (null, _)) in cells.iter().enumerate() {
            nulls[index / 8] |= u8::from(*null) << (index % 8);
        }
        raw.extend(nulls);
        for ((null, bytes), size) in cells.into_iter().zip(&sizes) {
            match size {
                _ if null => {}
                Size::Of(count) => raw.extend(bytes.into_iter().chain(std::iter::repeat(7)).take(*count)),
                Size::After(width) => {
                    raw.extend(&u32::try_from(bytes.len()).expect("few").to_le_bytes()[..*width]);
                    raw.extend(bytes);
                }
            }
        }
        raw
    })
}

fn change() -> impl Strategy<Value = Change> {
    table()
        .prop_flat_map(|(table, sizes)| {
            let images = (image(&sizes), image(&sizes), 0..3_u8);
            (
                Just(table),
                images,
                any::<(u32, u64, u64, i32, Option<u32>)>(),
                ".{0,9}",
                any::<bool>(),
            )
        })
        .prop_map(
            |(table, (before, after, op), (epoch, offset, ordinal, time, thread_id), query, asked)| {
                let (op, before, after) = match op {
                    0 => (Op::Insert, None, Some(after)),
                    1 => (Op::Update, Some(before), Some(after)),
                    _ => (Op::Delete, Some(before), None),
                };
                Change {
                    position: Position {
                        epoch,
                        at: LogPos::new("binlog.000042", offset),
                        ordinal,
                    },
                    gtid: asked.then(|| "0-1-42".parse().expect("a GTID")),
                    commit_time: Micros(i64::from(time) * 1_000_003),
                    thread_id,
                    table,
                    schema_version: 3,
                    op,
                    key: RowKey(Vec::new()),
                    new_key: None,
                    before,
                    after,
                    query: asked.then(|| query.into()),
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_json_of_a_message_is_that_of_its_change(change in change()) {
        let (stored, sent) = both(&change);
        prop_assert_eq!(sent, stored);
    }
}
