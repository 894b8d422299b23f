//! The life of a store, step by step.

use binlog::{LogPos, Op, Sink};
use trail::{Error, Filter, Options, Order, Reader, Stop, Writer};

use crate::fixture::{
    Int, Null, all, changes_of, feed, found, key, orders, simple, source, start_at, verified,
};

pub(crate) fn tiny() -> Options {
    Options {
        tail_bytes_max: 2_000,
        chunk_bytes_max: 1_500,
        buffer_bytes_max: 300,
        ..Options::default()
    }
}

#[test]
fn what_is_put_in_comes_out() {
    let dir = tempfile::tempdir().unwrap();
    let table = orders();
    let txns: Vec<_> = (0..200).map(|number| simple(&table, number)).collect();
    let expected: Vec<_> = txns.iter().flat_map(|txn| changes_of(0, txn)).collect();
    let mut writer = Writer::open(dir.path(), tiny()).unwrap();
    assert_eq!(writer.resume(), None);
    writer
        .start(start_at(0, &LogPos::new("binlog.000001", 4)))
        .unwrap();
    for txn in &txns {
        feed(&mut writer, txn).unwrap();
    }
    let resume = writer.sync().unwrap().unwrap();
    assert_eq!(
        (resume.at, resume.source),
        (LogPos::new("binlog.000001", 20_004), source())
    );
    assert_eq!(
        resume.gtids.to_string(),
        "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-200"
    );
    assert_eq!(all(dir.path()), expected);
    writer.finish().unwrap();
    assert_eq!(all(dir.path()), expected);
    assert_eq!(verified(dir.path()).changes, 200);
    let status = Reader::open(dir.path()).unwrap().status();
    assert!(status.segments > 5, "{status:?}");
    assert_eq!((status.changes, status.transactions), (200, 200));
}

#[test]
fn an_answer_that_nobody_waits_for_ends_also_where_nothing_matches() {
    for options in [tiny(), Options::default()] {
        let dir = tempfile::tempdir().unwrap();
        let table = orders();
        let mut writer = Writer::open(dir.path(), options).unwrap();
        writer
            .start(start_at(0, &LogPos::new("binlog.000001", 4)))
            .unwrap();
        (0..3_000).for_each(|number| feed(&mut writer, &simple(&table, number)).unwrap());
        writer.sync().unwrap();
        let stop = Stop::default();
        let reader = Reader::open(dir.path()).unwrap().stopped_by(stop.clone());
        let nothing = Filter {
            column: Some("none".into()),
            ..Filter::default()
        };
        let mut begun = reader.find(&Filter::default()).unwrap();
        assert!(begun.next().unwrap().is_ok());
        assert!(reader.find(&nothing).unwrap().next().is_none());
        stop.stop();
        for filter in [&nothing, &Filter::table("shop", "orders")] {
            let first = reader.find(filter).unwrap().next().unwrap();
            assert!(matches!(first, Err(Error::Stopped)), "{first:?}");
        }
        assert!(matches!(
            reader.schema_changes(&Filter::default()),
            Err(Error::Stopped)
        ));
        let late = Stop::new(Some(std::time::Instant::now()));
        let late = reader.stopped_by(late).find(&nothing).unwrap().next();
        assert!(matches!(late, Some(Err(Error::Stopped))), "{late:?}");
    }
}

#[test]
fn a_row_is_found_by_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let table = orders();
    let mut writer = Writer::open(dir.path(), tiny()).unwrap();
    writer
        .start(start_at(0, &LogPos::new("binlog.000001", 4)))
        .unwrap();
    (0..300).for_each(|number| feed(&mut writer, &simple(&table, number)).unwrap());
    writer.sync().unwrap();
    let reader = Reader::open(dir.path()).unwrap();
    let filter = Filter {
        keys: vec![key(&table, &[Int(7), Null, Null])],
        ..Filter::table("shop", "orders")
    };
    let offsets: Vec<u64> = found(&reader, &filter)
        .iter()
        .map(|change| change.position.at.offset)
        .collect();
    assert_eq!(
        offsets,
        [7, 57, 107, 157, 207, 257].map(|number| 4 + 100 * number)
    );
    let newest = Filter {
        order: Order::Newest,
        limit: Some(2),
        ops: vec![Op::Update],
        ..filter
    };
    let offsets: Vec<u64> = found(&reader, &newest)
        .iter()
        .map(|change| change.position.at.offset)
        .collect();
    assert_eq!(offsets, [157, 7].map(|number| 4 + 100 * number));
}

#[test]
fn calls_out_of_order_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let table = orders();
    let mut writer = Writer::open(dir.path(), tiny()).unwrap();
    assert!(matches!(
        feed(&mut writer, &simple(&table, 0)),
        Err(Error::Order { .. })
    ));
    writer
        .start(start_at(0, &LogPos::new("binlog.000001", 4)))
        .unwrap();
    assert!(matches!(
        writer.rollback(&LogPos::new("binlog.000001", 40)),
        Err(Error::Order { .. })
    ));
    feed(&mut writer, &simple(&table, 5)).unwrap();
    assert!(matches!(
        feed(&mut writer, &simple(&table, 4)),
        Err(Error::Order { .. })
    ));
    feed(&mut writer, &simple(&table, 6)).unwrap();
    writer.finish().unwrap();
    assert_eq!(all(dir.path()).len(), 2);
}
