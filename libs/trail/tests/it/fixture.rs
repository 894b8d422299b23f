//! Tables, rows and transactions made by hand, and a feeder that tells a writer and a model the same.

use std::sync::Arc;

use binlog::{
    Begin, Change, Charset, Column, ColumnType, Commit, Ddl, DdlTarget, Gtid, GtidSet, Image, KeyPart,
    LogPos, Op, Position, RowChange, RowKey, SchemaChange, Sink, Statement, Table,
};
use trail::{Error, Source, Start, Writer};
use types::Micros;

/// A cell: absent, NULL, or a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Absent,
    Null,
    Int(i32),
    Text(String),
}

pub(crate) use Value::{Absent, Int, Null};

pub(crate) fn text(value: &str) -> Value {
    Value::Text(value.to_owned())
}

fn column(name: &str, ty: ColumnType) -> Column {
    Column {
        name: name.to_owned(),
        ty,
        nullable: true,
        invisible: false,
        generated: None,
        on_update: None,
    }
}

pub(crate) fn int(name: &str) -> Column {
    column(
        name,
        ColumnType::Int {
            bytes: 4,
            unsigned: false,
        },
    )
}

pub(crate) fn varchar(name: &str) -> Column {
    column(
        name,
        ColumnType::Varchar {
            bytes: 200,
            charset: Charset::new(45),
        },
    )
}

pub(crate) fn table(schema: &str, name: &str, columns: Vec<Column>, key: &[u32]) -> Arc<Table> {
    let key = key
        .iter()
        .map(|column| KeyPart {
            column: *column,
            prefix: 0,
        })
        .collect();
    Arc::new(Table {
        schema: schema.to_owned(),
        name: name.to_owned(),
        columns,
        key,
    })
}

/// `shop.orders (id, status, qty)`, keyed by id.
pub(crate) fn orders() -> Arc<Table> {
    table(
        "shop",
        "orders",
        vec![int("id"), varchar("status"), int("qty")],
        &[0],
    )
}

/// An image in its stored form. `ones` sets the bits of the NULL bitmap that belong to no column, as some servers do.
pub(crate) fn image(values: &[Value], ones: bool) -> Vec<u8> {
    let held: Vec<&Value> = values.iter().filter(|value| **value != Absent).collect();
    let mut bytes = vec![0];
    if held.len() < values.len() {
        bytes[0] = 1;
        let start = bytes.len();
        bytes.resize(start + values.len().div_ceil(8), 0);
        for (nth, value) in values.iter().enumerate() {
            bytes[start + nth / 8] |= u8::from(*value != Absent) << (nth % 8);
        }
    }
    let start = bytes.len();
    bytes.resize(start + held.len().div_ceil(8), 0);
    for (nth, value) in held.iter().enumerate() {
        bytes[start + nth / 8] |= u8::from(**value == Null) << (nth % 8);
    }
    if ones && !held.len().is_multiple_of(8) {
        let last = bytes.len() - 1;
        bytes[last] |= 0xFF << (held.len() % 8);
    }
    for value in held {
        match value {
            Int(number) => bytes.extend_from_slice(&number.to_le_bytes()),
            Value::Text(text) => {
                bytes.push(text.len() as u8);
                bytes.extend_from_slice(text.as_bytes());
            }
            Null | Absent => {}
        }
    }
    bytes
}

/// The identity of a full row.
pub(crate) fn key(table: &Table, values: &[Value]) -> RowKey {
    let bytes = image(values, false);
    RowKey::of(table, &Image::from_bytes(&bytes, table).unwrap()).unwrap()
}

/// A row change to be fed.
#[derive(Clone, Debug)]
pub(crate) struct RowSpec {
    pub(crate) table: Arc<Table>,
    pub(crate) before: Option<Vec<Value>>,
    pub(crate) after: Option<Vec<Value>>,
    pub(crate) query: Option<Arc<str>>,
    pub(crate) ones: bool,
}

impl RowSpec {
    pub(crate) fn insert(table: &Arc<Table>, row: &[Value]) -> Self {
        Self {
            table: Arc::clone(table),
            before: None,
            after: Some(row.to_vec()),
            query: None,
            ones: false,
        }
    }

    pub(crate) fn update(table: &Arc<Table>, before: &[Value], after: &[Value]) -> Self {
        Self {
            before: Some(before.to_vec()),
            ..Self::insert(table, after)
        }
    }

    pub(crate) fn delete(table: &Arc<Table>, row: &[Value]) -> Self {
        Self {
            before: Some(row.to_vec()),
            after: None,
            ..Self::insert(table, row)
        }
    }

    fn op(&self) -> Op {
        match (&self.before, &self.after) {
            (None, _) => Op::Insert,
            (_, None) => Op::Delete,
            _ => Op::Update,
        }
    }
}

/// What a transaction does.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Row(RowSpec),
    Ddl(String),
}

/// A transaction to be fed.
#[derive(Clone, Debug)]
pub(crate) struct TxnSpec {
    pub(crate) at: LogPos,
    pub(crate) end: LogPos,
    pub(crate) gtid: Option<Gtid>,
    pub(crate) thread_id: Option<u32>,
    pub(crate) time: Micros,
    pub(crate) acts: Vec<Act>,
    pub(crate) committed: bool,
}

pub(crate) fn source() -> Source {
    Source {
        engine: "mysql".into(),
        version: "9.7.4".into(),
        server: "3e11fa47-71ca-11e1-9e33-c80aa9429562".into(),
        host: None,
    }
}

pub(crate) fn gtid(number: u64) -> Gtid {
    format!("3e11fa47-71ca-11e1-9e33-c80aa9429562:{number}")
        .parse()
        .unwrap()
}

pub(crate) fn start_at(epoch: u32, at: &LogPos) -> Start {
    Start {
        source: source(),
        epoch,
        at: at.clone(),
        gtids_before: GtidSet::default(),
        reason: None,
    }
}

pub(crate) fn target(sql: &str) -> DdlTarget {
    let schema = if sql.contains("logs") { "logs" } else { "shop" };
    let table = (!sql.contains("schema")).then(|| sql.rsplit(' ').next().unwrap().to_owned());
    DdlTarget {
        schema: schema.to_owned(),
        table,
        kind: Statement::Alter,
    }
}

/// Feeds a transaction up to its end, which it leaves out if `whole` is false.
pub(crate) fn feed_part(writer: &mut Writer, txn: &TxnSpec, whole: bool) -> Result<(), Error> {
    writer.begin(&Begin {
        at: txn.at.clone(),
        gtid: txn.gtid.clone(),
        thread_id: txn.thread_id,
    })?;
    for act in &txn.acts {
        match act {
            Act::Row(spec) => feed_row(writer, spec)?,
            Act::Ddl(sql) => writer.ddl(&Ddl {
                targets: vec![target(sql)],
                default_schema: "shop",
                text: sql,
            })?,
        }
    }
    match (whole, txn.committed) {
        (false, _) => Ok(()),
        (true, true) => writer.commit(&Commit {
            end: txn.end.clone(),
            time: txn.time,
        }),
        (true, false) => writer.rollback(&txn.end),
    }
}

pub(crate) fn feed(writer: &mut Writer, txn: &TxnSpec) -> Result<(), Error> {
    feed_part(writer, txn, true)
}

fn feed_row(writer: &mut Writer, spec: &RowSpec) -> Result<(), Error> {
    let before = spec.before.as_ref().map(|values| image(values, spec.ones));
    let after = spec.after.as_ref().map(|values| image(values, spec.ones));
    writer.row(&RowChange {
        op: spec.op(),
        table: &spec.table,
        before: before
            .as_deref()
            .map(|bytes| Image::from_bytes(bytes, &spec.table).unwrap()),
        after: after
            .as_deref()
            .map(|bytes| Image::from_bytes(bytes, &spec.table).unwrap()),
        query: spec.query.as_ref(),
        flags: 0,
    })
}

/// The changes that a store must give back for a transaction, with `schema_version` 0.
pub(crate) fn changes_of(epoch: u32, txn: &TxnSpec) -> Vec<Change> {
    let numbered = (0..).zip(&txn.acts).filter(|_| txn.committed);
    let rows = numbered.filter_map(|(ordinal, act)| {
        if let Act::Row(spec) = act {
            Some((ordinal, spec))
        } else {
            None
        }
    });
    rows.map(|(ordinal, spec)| {
        let full = |values: &Vec<Value>| {
            // What a partial image leaves out is as it was before.
            let under = spec.before.as_ref().unwrap_or(values);
            values
                .iter()
                .zip(under)
                .map(|(v, u)| if *v == Absent { u.clone() } else { v.clone() })
                .collect::<Vec<_>>()
        };
        let identity =
            |values: &Option<Vec<Value>>| values.as_ref().map(|values| key(&spec.table, &full(values)));
        let old = identity(&spec.before);
        let new = identity(&spec.after);
        let moved = if old.is_some() {
            new.clone().filter(|new| Some(new) != old.as_ref())
        } else {
            None
        };
        Change {
            position: Position {
                epoch,
                at: txn.at.clone(),
                ordinal,
            },
            gtid: txn.gtid.clone(),
            commit_time: txn.time,
            thread_id: txn.thread_id,
            table: Arc::clone(&spec.table),
            schema_version: 0,
            op: spec.op(),
            key: old.or(new).unwrap(),
            new_key: moved,
            before: spec.before.as_ref().map(|values| image(values, spec.ones)),
            after: spec.after.as_ref().map(|values| image(values, spec.ones)),
            query: spec.query.clone(),
        }
    })
    .collect()
}

/// The statements that a store must give back for a transaction.
pub(crate) fn statements_of(epoch: u32, txn: &TxnSpec) -> Vec<SchemaChange> {
    let numbered = (0..).zip(&txn.acts).filter(|_| txn.committed);
    let statements = numbered.filter_map(|(ordinal, act)| {
        if let Act::Ddl(sql) = act {
            Some((ordinal, sql))
        } else {
            None
        }
    });
    statements
        .map(|(ordinal, sql)| SchemaChange {
            position: Position {
                epoch,
                at: txn.at.clone(),
                ordinal,
            },
            gtid: txn.gtid.clone(),
            commit_time: txn.time,
            thread_id: txn.thread_id,
            targets: vec![target(sql)],
            default_schema: "shop".to_owned(),
            text: sql.clone(),
        })
        .collect()
}

/// Transaction `number` of a simple log: one row of `shop.orders`, 100 bytes, one second after the one before.
pub(crate) fn simple(table: &Arc<Table>, number: u64) -> TxnSpec {
    let id = i32::try_from(number % 50).unwrap();
    let row = vec![
        Int(id),
        text(&format!("state {number}")),
        Int(i32::try_from(number).unwrap()),
    ];
    let spec = match number % 3 {
        0 => RowSpec::insert(table, &row),
        1 => RowSpec::update(table, &[Int(id), text("before"), Null], &row),
        _ => RowSpec::delete(table, &row),
    };
    TxnSpec {
        at: LogPos::new("binlog.000001", 4 + 100 * number),
        end: LogPos::new("binlog.000001", 4 + 100 * (number + 1)),
        gtid: Some(gtid(number + 1)),
        thread_id: Some(7),
        time: Micros::from_secs(1_000_000 + i64::try_from(number).unwrap()),
        acts: vec![Act::Row(spec)],
        committed: true,
    }
}

/// All changes of the store in `dir`, oldest first, with `schema_version` 0.
pub(crate) fn all(dir: &std::path::Path) -> Vec<Change> {
    found(&trail::Reader::open(dir).unwrap(), &trail::Filter::default())
}

/// The same of the store in `folder`.
pub(crate) fn all_in(folder: &Arc<dyn trail::Folder>) -> Vec<Change> {
    found(&reader_in(folder), &trail::Filter::default())
}

pub(crate) fn reader_in(folder: &Arc<dyn trail::Folder>) -> trail::Reader {
    trail::Reader::open_in(Arc::clone(folder), trail::Stop::default()).unwrap()
}

pub(crate) fn found(reader: &trail::Reader, filter: &trail::Filter) -> Vec<Change> {
    unversioned(reader.find(filter).unwrap().collect::<Result<_, _>>().unwrap())
}

/// The changes with `schema_version` 0: the store gives numbers as it likes.
pub(crate) fn unversioned(changes: Vec<Change>) -> Vec<Change> {
    changes
        .into_iter()
        .map(|change| Change {
            schema_version: 0,
            ..change
        })
        .collect()
}

pub(crate) fn verified(dir: &std::path::Path) -> trail::Verified {
    trail::verify(dir, &mut |_| {}).unwrap()
}

pub(crate) fn verified_in(folder: &Arc<dyn trail::Folder>) -> trail::Verified {
    trail::verify_in(Arc::clone(folder), &mut |_| {}).unwrap()
}
