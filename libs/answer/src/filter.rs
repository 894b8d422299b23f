//! The filter of a message as a question.

use std::str::FromStr;

use binlog::{FileName, Op};
use proto::change::v1 as pb;
use trail::Order;
use types::Micros;

use crate::{
    error::Error,
    names::{Tables, Transaction},
    question::Question,
};

/// How many of each a filter may have. Of tables there are so many where access rules leave only some of all.
const TABLES: usize = 10_000;
const KEYS: usize = 1_000;
const POSITIONS: usize = 10_000;

/// What `filter` asks for.
pub(crate) fn question(filter: Option<&pb::Filter>) -> Result<Question, Error> {
    let none = pb::Filter::default();
    let filter = filter.unwrap_or(&none);
    at_most("tables", filter.tables.len(), TABLES)?;
    at_most("keys", filter.keys.len(), KEYS)?;
    at_most("positions", filter.positions.len(), POSITIONS)?;
    let at = (!filter.transaction.is_empty()).then_some(&filter.transaction);
    Ok(Question {
        tables: filter.tables.iter().map(tables).collect::<Result<_, _>>()?,
        keys: filter.keys.clone(),
        ops: filter
            .ops
            .iter()
            .map(|number| op(*number))
            .collect::<Result<_, _>>()?,
        since: filter
            .since
            .as_ref()
            .map(|time| micros("since", time))
            .transpose()?,
        until: filter
            .until
            .as_ref()
            .map(|time| micros("until", time))
            .transpose()?,
        gtid: (!filter.gtid.is_empty())
            .then(|| read("gtid", &filter.gtid, "write a GTID, as changes have them"))
            .transpose()?,
        column: Some(filter.column.clone()).filter(|name| !name.is_empty()),
        transaction: at
            .map(|at| match transaction("filter.transaction", at)? {
                at @ Transaction::At(_) => Ok(at),
                Transaction::Gtid(_) => Err(Error::filter("filter.transaction", "write FILE:OFFSET")),
            })
            .transpose()?,
        epoch: filter.epoch,
        positions: filter
            .positions
            .iter()
            .map(|position| position_of("filter.positions", position))
            .collect::<Result<_, _>>()?,
    })
}

fn at_most(field: &str, count: usize, most: usize) -> Result<(), Error> {
    if count > most {
        return Err(Error::filter(
            format!("filter.{field}"),
            format!("there are {count}, and {most} is the most"),
        ));
    }
    Ok(())
}

/// A table of a message.
pub(crate) fn tables(table: &pb::TableFilter) -> Result<Tables, Error> {
    if table.schema.is_empty() {
        return Err(Error::filter("filter.tables", "the schema is missing"));
    }
    Ok(Tables {
        schema: table.schema.clone(),
        table: Some(table.table.clone()).filter(|name| !name.is_empty()),
    })
}

fn op(number: i32) -> Result<Op, Error> {
    match pb::Op::try_from(number) {
        Ok(pb::Op::Insert) => Ok(Op::Insert),
        Ok(pb::Op::Update) => Ok(Op::Update),
        Ok(pb::Op::Delete) => Ok(Op::Delete),
        Ok(pb::Op::Unspecified) | Err(_) => Err(Error::filter("filter.ops", "it is not a kind of change")),
    }
}

fn micros(field: &str, time: &prost_types::Timestamp) -> Result<Micros, Error> {
    let whole = time.seconds.checked_mul(1_000_000);
    whole
        .filter(|_| (0..1_000_000_000).contains(&time.nanos))
        .and_then(|whole| whole.checked_add(i64::from(time.nanos / 1_000)))
        .map(Micros)
        .ok_or_else(|| Error::filter(format!("filter.{field}"), "it is not an instant"))
}

fn read<T: FromStr>(field: &str, text: &str, help: &str) -> Result<T, Error> {
    text.parse()
        .map_err(|_| Error::filter(format!("filter.{field}"), help))
}

/// A transaction by GTID or place.
pub(crate) fn transaction(field: &str, text: &str) -> Result<Transaction, Error> {
    text.parse().map_err(|why: String| Error::filter(field, why))
}

/// A position of a message.
pub(crate) fn position_of(field: &str, position: &pb::Position) -> Result<binlog::Position, Error> {
    if FileName::new(&position.file).as_str().is_empty() {
        return Err(Error::filter(field, "the position names no file"));
    }
    Ok(change::position_of(position))
}

/// The order of an answer.
pub(crate) fn order(number: i32, default: Order) -> Result<Order, Error> {
    match pb::Order::try_from(number) {
        Ok(pb::Order::Unspecified) => Ok(default),
        Ok(pb::Order::Oldest) => Ok(Order::Oldest),
        Ok(pb::Order::Newest) => Ok(Order::Newest),
        Err(_) => Err(Error::filter("order", "it is not an order")),
    }
}
