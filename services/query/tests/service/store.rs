//! A store as an agent writes it, from hand-made transactions: tables of integers and texts.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use binlog::{
    Begin, Charset, Column, ColumnType, Commit, Ddl, DdlTarget, Gtid, GtidSet, Image, KeyPart, LogPos, Op,
    RowChange, Sink as _, Statement, Table,
};
use trail::{Options, Source, Start, Writer};
use types::Micros;

/// 2026-11-21T10:00:00Z; each transaction is a second later than the one before.
pub(crate) const TEN: i64 = 1_795_255_200_000_000;

/// A row: its number and its texts.
pub(crate) type Row = (i32, Vec<String>);

/// Of which table, before, after.
pub(crate) type Edit<'a> = (&'a str, Option<Row>, Option<Row>);

pub(crate) struct Store {
    writer: Writer,
    path: PathBuf,
    tables: HashMap<String, Arc<Table>>,
    next: LogPos,
    count: i64,
    query: Option<Arc<str>>,
}

pub(crate) fn row(id: i32, texts: &[&str]) -> Row {
    (id, texts.iter().map(|text| (*text).to_owned()).collect())
}

/// `schema.table` with an integer `id` and texts; the key is made of the columns of these numbers.
pub(crate) fn table(name: &str, texts: &[&str], key: &[u32]) -> Arc<Table> {
    let (schema, table) = name.split_once('.').unwrap();
    let column = |name: &str, ty: ColumnType| Column {
        name: name.into(),
        ty,
        nullable: false,
        invisible: false,
        generated: Some(false),
        on_update: Some(false),
    };
    let int = ColumnType::Int {
        bytes: 4,
        unsigned: false,
    };
    let text = ColumnType::Varchar {
        bytes: 60_000,
        charset: Charset::new(45),
    };
    let texts = texts.iter().map(|name| column(name, text.clone()));
    Arc::new(Table {
        schema: schema.into(),
        name: table.into(),
        columns: [column("id", int)].into_iter().chain(texts).collect(),
        key: key
            .iter()
            .map(|column| KeyPart {
                column: *column,
                prefix: 0,
            })
            .collect(),
    })
}

fn image((id, texts): &Row) -> Vec<u8> {
    // No column is NULL.
    let mut raw = vec![0; 1 + (1 + texts.len()).div_ceil(8)];
    raw.extend(id.to_le_bytes());
    for text in texts {
        raw.extend(u16::try_from(text.len()).unwrap().to_le_bytes());
        raw.extend(text.as_bytes());
    }
    raw
}

impl Store {
    pub(crate) fn new(path: &Path) -> Self {
        let mut writer = Writer::open(path, Options::default()).unwrap();
        let at = LogPos::new("binlog.000003", 4);
        let source = Source {
            engine: "mariadb".into(),
            version: "10.11.6-MariaDB".into(),
            server: "1".into(),
            host: Some("db1:3306".into()),
        };
        let start = Start {
            source,
            epoch: 0,
            at: at.clone(),
            gtids_before: GtidSet::default(),
            reason: None,
        };
        writer.start(start).unwrap();
        Self {
            writer,
            path: path.to_owned(),
            tables: HashMap::new(),
            next: at,
            count: 0,
            query: None,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// From here on this table has this shape.
    pub(crate) fn defines(&mut self, table: Arc<Table>) {
        self.tables
            .insert(format!("{}.{}", table.schema, table.name), table);
    }

    /// The statement that the next transactions carry.
    pub(crate) fn query(&mut self, text: Option<&str>) {
        self.query = text.map(Into::into);
    }

    fn begin(&mut self) -> String {
        self.count += 1;
        let gtid = format!("0-1-{}", self.count);
        let begin = Begin {
            at: self.next.clone(),
            gtid: Some(gtid.parse::<Gtid>().unwrap()),
            thread_id: Some(8),
        };
        self.writer.begin(&begin).unwrap();
        gtid
    }

    fn commit(&mut self) {
        self.next.offset += 1_000;
        let commit = Commit {
            end: self.next.clone(),
            time: Micros(TEN + (self.count - 1) * 1_000_000),
        };
        self.writer.commit(&commit).unwrap();
    }

    /// One committed transaction, by its GTID.
    pub(crate) fn commits(&mut self, edits: &[Edit<'_>]) -> String {
        let gtid = self.begin();
        for (name, before, after) in edits {
            let table = self.tables[*name].clone();
            let (before, after) = (before.as_ref().map(image), after.as_ref().map(image));
            let op = match (&before, &after) {
                (None, _) => Op::Insert,
                (_, None) => Op::Delete,
                _ => Op::Update,
            };
            let query = self.query.clone();
            let change = RowChange {
                op,
                table: &table,
                before: before
                    .as_deref()
                    .map(|raw| Image::from_bytes(raw, &table).unwrap()),
                after: after
                    .as_deref()
                    .map(|raw| Image::from_bytes(raw, &table).unwrap()),
                query: query.as_ref(),
                flags: 0,
            };
            self.writer.row(&change).unwrap();
        }
        self.commit();
        gtid
    }

    /// A statement that changes the definition of a table.
    pub(crate) fn runs(&mut self, name: &str, text: &str) -> String {
        let gtid = self.begin();
        let (schema, table) = name.split_once('.').unwrap();
        let targets = vec![DdlTarget {
            schema: schema.into(),
            table: Some(table.into()),
            kind: Statement::Alter,
        }];
        let ddl = Ddl {
            targets,
            default_schema: schema,
            text,
        };
        self.writer.ddl(&ddl).unwrap();
        self.commit();
        gtid
    }

    /// A part of the log is lost.
    pub(crate) fn loses(&mut self, reason: &str) {
        self.next.offset += 1_000;
        self.writer.gap(&self.next, reason).unwrap();
    }

    /// Makes what was committed visible to readers.
    pub(crate) fn sync(&mut self) {
        self.writer.sync().unwrap();
    }
}
