//! A segment of several row groups and many pages, which made-up worlds are too small for.

use binlog::{LogPos, Op};
use trail::{Filter, Options, Order, Reader, Writer};
use types::Micros;

use crate::fixture::{
    Act, Int, Null, RowSpec, TxnSpec, changes_of, feed, found, gtid, int, key, orders, simple, start_at,
    table, text, varchar,
};

const TXNS: u64 = 1_400;
const ROWS: u64 = 100;

/// Transaction `number`: rows of two tables, the keys all over the place, every ninth one moved.
fn transaction(number: u64) -> TxnSpec {
    let tables = [
        orders(),
        table("logs", "events", vec![int("id"), varchar("what"), int("n")], &[0]),
    ];
    let row = |nth: u64| {
        let id = (number * ROWS + nth).wrapping_mul(2_654_435_761) % 40_000;
        let cells = |id: u64, n: u64| {
            vec![
                Int(id as i32),
                text(["a", "bb", "ccc"][n as usize % 3]),
                Int(n as i32),
            ]
        };
        let (before, after) = (
            cells(id, nth),
            cells(if nth % 9 == 8 { id + 1 } else { id }, nth + 1),
        );
        let table = &tables[usize::from(nth % 4 == 3)];
        Act::Row(match nth % 3 {
            0 => RowSpec::insert(table, &after),
            1 => RowSpec::delete(table, &before),
            _ => RowSpec::update(table, &before, &after),
        })
    };
    TxnSpec {
        acts: (0..ROWS).map(row).collect(),
        ..simple(&tables[0], number)
    }
}

#[test]
fn several_row_groups_answer_as_one_list() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(
        dir.path(),
        Options {
            tail_bytes_max: 1 << 30,
            chunk_bytes_max: 1 << 30,
            ..Options::default()
        },
    )
    .unwrap();
    writer
        .start(start_at(0, &LogPos::new("binlog.000001", 4)))
        .unwrap();
    let txns: Vec<TxnSpec> = (0..TXNS).map(transaction).collect();
    txns.iter().for_each(|txn| feed(&mut writer, txn).unwrap());
    writer.sync().unwrap();
    drop(writer);
    // Opened with a smaller bound, the tail is large enough to be sealed.
    let sealing = Options {
        tail_bytes_max: 1,
        chunk_bytes_max: 1 << 30,
        ..Options::default()
    };
    Writer::open(dir.path(), sealing).unwrap().finish().unwrap();
    let reader = Reader::open(dir.path()).unwrap();
    assert_eq!(
        (reader.status().segments, reader.status().changes),
        (1, TXNS * ROWS)
    );
    let all: Vec<_> = txns.iter().flat_map(|txn| changes_of(0, txn)).collect();
    let filters = (0..6).flat_map(|n| questions(n * 6_997));
    for filter in filters {
        let mut expected: Vec<_> = all
            .iter()
            .filter(|change| crate::model::matches(change, &filter))
            .cloned()
            .collect();
        if filter.order == Order::Newest {
            expected.reverse();
        }
        expected.truncate(filter.limit.unwrap_or(usize::MAX));
        let found = found(&reader, &filter);
        assert!(
            found == expected,
            "{} instead of {} for {filter:?}",
            found.len(),
            expected.len()
        );
    }
    assert!(found(&reader, &Filter::default()) == all);
}

fn questions(id: u64) -> Vec<Filter> {
    let of = |id: u64| key(&orders(), &[Int(id as i32), Null, Null]);
    let newest = Filter {
        order: Order::Newest,
        limit: Some(7),
        ..Filter::default()
    };
    let time = Micros::from_secs(1_000_000 + (id % TXNS) as i64);
    vec![
        Filter {
            keys: vec![of(id)],
            ..Filter::table("shop", "orders")
        },
        Filter {
            keys: vec![of(id), of(id + 1), of(39_999 - id)],
            ..Filter::default()
        },
        Filter {
            keys: (0..200).map(|n| of(id + n * 7)).collect(),
            ..Filter::table("logs", "events")
        },
        // In row groups that do not begin with the first.
        Filter {
            keys: (0..200).map(|n| of(39_000 - n * 90)).collect(),
            ..Filter::table("shop", "orders")
        },
        Filter {
            since: Some(time),
            ops: vec![Op::Delete],
            ..newest.clone()
        },
        Filter {
            until: Some(time),
            order: Order::Oldest,
            ..newest.clone()
        },
        Filter {
            gtid: Some(gtid(id % TXNS + 1)),
            ..Filter::table("logs", "events")
        },
        Filter {
            column: Some("N".into()),
            ..newest
        },
    ]
}
