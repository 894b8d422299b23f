//! Changes of a small shop, for the tests of this folder.

use std::sync::Arc;

use binlog::{Change, Charset, Column, ColumnType, Image, KeyPart, LogPos, Op, Position, RowKey, Table};
use types::Micros;

/// `shop.orders(id INT PRIMARY KEY, status VARCHAR(20), note VARCHAR(250) NULL)`.
pub(crate) fn orders() -> Arc<Table> {
    let column = |name: &str, ty, nullable| Column {
        name: name.into(),
        ty,
        nullable,
        invisible: false,
        generated: None,
        on_update: None,
    };
    let text = |bytes| ColumnType::Varchar {
        bytes,
        charset: Charset::new(45),
    };
    Arc::new(Table {
        schema: "shop".into(),
        name: "orders".into(),
        columns: vec![
            column(
                "id",
                ColumnType::Int {
                    bytes: 4,
                    unsigned: false,
                },
                false,
            ),
            column("status", text(80), false),
            column("note", text(250), true),
        ],
        key: vec![KeyPart { column: 0, prefix: 0 }],
    })
}

/// A row of it in its stored form.
pub(crate) fn row(id: i32, status: &str, note: Option<&str>) -> Vec<u8> {
    let mut raw = vec![0, if note.is_some() { 0 } else { 0b100 }];
    raw.extend(id.to_le_bytes());
    for text in [Some(status), note].into_iter().flatten() {
        raw.push(u8::try_from(text.len()).expect("a short text"));
        raw.extend(text.as_bytes());
    }
    raw
}

/// A change of it, committed at 10:00 and `offset` microseconds.
pub(crate) fn change(offset: u64, ordinal: u64, before: Option<Vec<u8>>, after: Option<Vec<u8>>) -> Change {
    let table = orders();
    let image = before.as_ref().or(after.as_ref()).expect("a row");
    let key = RowKey::of(&table, &Image::from_bytes(image, &table).expect("an image")).expect("a key");
    let op = match (&before, &after) {
        (None, _) => Op::Insert,
        (_, None) => Op::Delete,
        _ => Op::Update,
    };
    Change {
        position: Position {
            epoch: 0,
            at: LogPos::new("binlog.000003", offset),
            ordinal,
        },
        gtid: None,
        commit_time: Micros(1_795_255_200_000_000 + offset.cast_signed()),
        thread_id: Some(8),
        table,
        schema_version: 3,
        op,
        key,
        new_key: None,
        before,
        after,
        query: None,
    }
}
