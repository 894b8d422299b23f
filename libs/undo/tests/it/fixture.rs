//! Histories written by hand.

use std::sync::Arc;

use binlog::{
    Change, Charset, Column, ColumnType, DdlTarget, Image, KeyPart, LogPos, Op, Position, RowKey,
    SchemaChange, Statement, Table,
};
use types::Micros;
use undo::{Dialect, Error, Mode, Plan, PlannedChange, Planner};

/// A value of a test row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum V {
    Null,
    /// Not in the image.
    Absent,
    Int(i64),
    Text(Vec<u8>),
}

pub(crate) fn int(value: i64) -> V {
    V::Int(value)
}

pub(crate) fn text(value: &str) -> V {
    V::Text(value.into())
}

pub(crate) fn int_type() -> ColumnType {
    ColumnType::Int {
        bytes: 4,
        unsigned: false,
    }
}

pub(crate) fn text_type() -> ColumnType {
    ColumnType::Varchar {
        bytes: 400,
        charset: Charset::new(45),
    }
}

pub(crate) fn column(name: &str, ty: ColumnType) -> Column {
    Column {
        name: name.into(),
        ty,
        nullable: true,
        invisible: false,
        generated: Some(false),
        on_update: Some(false),
    }
}

/// `shop.NAME` whose primary key is its first `key` columns.
pub(crate) fn table(name: &str, key: usize, columns: Vec<Column>) -> Arc<Table> {
    let part = |column| KeyPart { column, prefix: 0 };
    Arc::new(Table {
        schema: "shop".into(),
        name: name.into(),
        columns,
        key: (0..).take(key).map(part).collect(),
    })
}

/// `orders(id, status, note, total)`.
pub(crate) fn orders() -> Arc<Table> {
    let columns = vec![
        column("id", int_type()),
        column("status", text_type()),
        column("note", text_type()),
        column("total", int_type()),
    ];
    table("orders", 1, columns)
}

pub(crate) fn order(id: i64, status: &str, note: &str, total: i64) -> Vec<V> {
    vec![int(id), text(status), text(note), int(total)]
}

/// An image in the form `binlog::Image` stores.
pub(crate) fn image(table: &Table, row: &[V]) -> Vec<u8> {
    let present: Vec<&V> = row.iter().filter(|value| **value != V::Absent).collect();
    let bits = |flags: Vec<bool>| {
        let mut bytes = vec![0_u8; flags.len().div_ceil(8)];
        for (nth, _) in flags.iter().enumerate().filter(|(_, flag)| **flag) {
            bytes[nth / 8] |= 1 << (nth % 8);
        }
        bytes
    };
    let mut out = vec![u8::from(present.len() < row.len())];
    if present.len() < row.len() {
        out.extend(bits(row.iter().map(|value| *value != V::Absent).collect()));
    }
    out.extend(bits(present.iter().map(|value| **value == V::Null).collect()));
    for (column, value) in table.columns.iter().zip(row) {
        match (&column.ty, value) {
            (_, V::Null | V::Absent) => {}
            (ColumnType::Int { bytes, .. }, V::Int(v)) => {
                out.extend_from_slice(&v.to_le_bytes()[..usize::from(*bytes)]);
            }
            (ColumnType::Varchar { bytes, .. } | ColumnType::Char { bytes, .. }, V::Text(v)) => {
                let length = u16::try_from(v.len()).expect("short").to_le_bytes();
                out.extend_from_slice(&length[..1 + usize::from(*bytes > 255)]);
                out.extend_from_slice(v);
            }
            // Types of fixed length are given as the log has them.
            (_, V::Text(v)) => out.extend_from_slice(v),
            (ty, value) => panic!("{value:?} in {ty:?}"),
        }
    }
    out
}

/// A log being written, and the planner reading it.
pub(crate) struct Log {
    pub(crate) table: Arc<Table>,
    planner: Planner,
    transactions: u64,
    pub(crate) latest: Option<Arc<Table>>,
}

impl Log {
    pub(crate) fn new(table: &Arc<Table>) -> Self {
        Self::with(table, Dialect::Mariadb, Mode::Safe)
    }

    pub(crate) fn forced(table: &Arc<Table>) -> Self {
        Self::with(table, Dialect::Mariadb, Mode::Force)
    }

    pub(crate) fn with(table: &Arc<Table>, dialect: Dialect, mode: Mode) -> Self {
        Self {
            table: Arc::clone(table),
            planner: Planner::new(dialect, mode),
            transactions: 0,
            latest: None,
        }
    }

    pub(crate) fn planner(&mut self) -> &mut Planner {
        &mut self.planner
    }

    /// The position of the next transaction.
    pub(crate) fn position(&mut self) -> Position {
        self.transactions += 1;
        Position {
            epoch: 0,
            at: LogPos::new("binlog.000007", self.transactions * 100),
            ordinal: 0,
        }
    }

    pub(crate) fn change(&mut self, before: Option<&[V]>, after: Option<&[V]>, selected: bool) {
        let position = self.position();
        let change = change(&self.table, position, before, after);
        self.planner.change(&change, selected).expect("a good change");
    }

    /// A change that is to be undone.
    pub(crate) fn bad(&mut self, before: Option<&[V]>, after: Option<&[V]>) {
        self.change(before, after, true);
    }

    /// A change that is to survive.
    pub(crate) fn good(&mut self, before: Option<&[V]>, after: Option<&[V]>) {
        self.change(before, after, false);
    }

    pub(crate) fn ddl(&mut self, kind: Statement, text: &str) {
        let position = self.position();
        let commit_time = Micros::from_secs(1_700_000_000);
        let change = SchemaChange {
            position,
            gtid: None,
            commit_time,
            thread_id: None,
            targets: vec![DdlTarget {
                schema: self.table.schema.clone(),
                table: Some(self.table.name.clone()),
                kind,
            }],
            default_schema: self.table.schema.clone(),
            text: text.into(),
        };
        self.planner.schema_change(&change).expect("in order");
    }

    pub(crate) fn plan(self) -> Plan {
        self.finish().expect("a plan")
    }

    pub(crate) fn finish(self) -> Result<Plan, Error> {
        let latest = self.latest;
        self.planner.finish(&|_, _| latest.clone())
    }
}

pub(crate) fn change(
    table: &Arc<Table>,
    position: Position,
    before: Option<&[V]>,
    after: Option<&[V]>,
) -> Change {
    let images = [before, after].map(|row| row.map(|row| image(table, row)));
    let key = |raw: &[u8]| {
        let image = Image::from_bytes(raw, table).expect("an image");
        RowKey::is_in(table, &image)
            .expect("an image")
            .then(|| RowKey::of(table, &image).expect("a key"))
    };
    let [before, after] = images;
    let (old, new) = (before.as_deref().and_then(key), after.as_deref().and_then(key));
    let op = match (&before, &after) {
        (None, _) => Op::Insert,
        (_, None) => Op::Delete,
        _ => Op::Update,
    };
    let seconds = i64::try_from(position.at.offset).expect("small");
    Change {
        gtid: format!("0-1-{}", position.at.offset).parse().ok(),
        position,
        commit_time: Micros::from_secs(1_700_000_000 + seconds),
        thread_id: Some(8),
        table: Arc::clone(table),
        schema_version: 1,
        op,
        new_key: match op {
            Op::Update if new.is_some() && new != old => new.clone(),
            _ => None,
        },
        key: old.or(new).expect("a key"),
        before,
        after,
        query: None,
    }
}

pub(crate) fn rows(plan: &Plan) -> Vec<PlannedChange> {
    plan.rows().collect()
}

/// The script without its header.
pub(crate) fn body(plan: &Plan) -> String {
    let mut script = Vec::new();
    plan.write_script(&mut script).expect("written");
    strip(&script)
}

pub(crate) fn redo_body(plan: &Plan) -> String {
    let mut script = Vec::new();
    plan.write_redo(&mut script).expect("written");
    strip(&script)
}

fn strip(script: &[u8]) -> String {
    let script = std::str::from_utf8(script).expect("UTF-8");
    let start = script.find("SET NAMES").expect("a body");
    script[start..].to_owned()
}

/// The statements of a script that change rows.
pub(crate) fn statements(body: &str) -> Vec<String> {
    let is_change = |line: &&str| {
        ["UPDATE ", "INSERT ", "DELETE "]
            .iter()
            .any(|verb| line.starts_with(verb))
    };
    body.lines().filter(is_change).map(str::to_owned).collect()
}
