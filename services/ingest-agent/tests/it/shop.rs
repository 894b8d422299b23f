//! Stores of a small shop, written as the agent would write them, from hand-made transactions.

use std::{path::Path, sync::Arc};

use binlog::{
    Begin, Charset, Column, ColumnType, Commit, Ddl, DdlTarget, Gtid, GtidSet, Image, KeyPart, LogPos, Op,
    RowChange, Sink, Statement, Table,
};
use tempfile::TempDir;
use trail::{Options, Source, Start, Writer};
use types::Micros;

/// 2026-11-21T10:00:00Z: when the first transaction is committed; each further one comes a second later.
pub(crate) const TEN: i64 = 1_795_255_200_000_000;
pub(crate) const FILE: &str = "binlog.000003";
/// Bytes of every transaction.
const SIZE: u64 = 1_000;

/// A store that is still being written.
pub(crate) struct Shop {
    dir: TempDir,
    writer: Writer,
    orders: Arc<Table>,
    next: LogPos,
    count: u64,
    mysql: bool,
    query: Option<Arc<str>>,
}

/// A row of `shop.orders(id INT PRIMARY KEY, status VARCHAR(20), note VARCHAR(250) NULL)`.
pub(crate) type Order<'a> = (i32, &'a str, Option<&'a str>);

/// What a transaction does to it: before, after.
pub(crate) type Row<'a> = (Option<Order<'a>>, Option<Order<'a>>);

/// A row's images in their stored form: before, after.
pub(crate) type Images = (Option<Vec<u8>>, Option<Vec<u8>>);

pub(crate) fn insert(order: Order<'_>) -> Row<'_> {
    (None, Some(order))
}

pub(crate) fn update<'a>(before: Order<'a>, after: Order<'a>) -> Row<'a> {
    (Some(before), Some(after))
}

pub(crate) fn delete(order: Order<'_>) -> Row<'_> {
    (Some(order), None)
}

/// Where a transaction begins, and its GTID.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    pub(crate) at: String,
    pub(crate) gtid: String,
    pub(crate) time: Micros,
}

pub(crate) fn table(name: &str, columns: Vec<(&str, ColumnType, bool)>, key: &[u32]) -> Arc<Table> {
    let column = |(name, ty, nullable): (&str, ColumnType, bool)| Column {
        name: name.into(),
        ty,
        nullable,
        invisible: false,
        generated: Some(false),
        on_update: Some(false),
    };
    Arc::new(Table {
        schema: "shop".into(),
        name: name.into(),
        columns: columns.into_iter().map(column).collect(),
        key: key
            .iter()
            .map(|column| KeyPart {
                column: *column,
                prefix: 0,
            })
            .collect(),
    })
}

pub(crate) fn int() -> ColumnType {
    ColumnType::Int {
        bytes: 4,
        unsigned: false,
    }
}

pub(crate) fn text() -> ColumnType {
    ColumnType::Varchar {
        bytes: 200,
        charset: Charset::new(45),
    }
}

fn image((id, status, note): Order<'_>) -> Vec<u8> {
    let mut raw = vec![0, if note.is_some() { 0 } else { 0b100 }];
    raw.extend(id.to_le_bytes());
    for text in [Some(status), note].into_iter().flatten() {
        raw.push(u8::try_from(text.len()).expect("a short text"));
        raw.extend(text.as_bytes());
    }
    raw
}

fn view<'a>(raw: &'a Option<Vec<u8>>, table: &Table) -> Option<Image<'a>> {
    raw.as_deref()
        .map(|raw| Image::from_bytes(raw, table).expect("an image"))
}

impl Shop {
    pub(crate) fn mariadb() -> Self {
        Self::open("mariadb", "10.11.6-MariaDB", "1", false, Options::default())
    }

    /// One whose tails become segments soon.
    pub(crate) fn sealing() -> Self {
        let options = Options {
            tail_bytes_max: 2_000,
            ..Options::default()
        };
        Self::open("mariadb", "10.11.6-MariaDB", "1", false, options)
    }

    pub(crate) fn mysql() -> Self {
        Self::open(
            "mysql",
            "8.0.45",
            "3e11fa47-71ca-11e1-9e33-c80aa9429562",
            true,
            Options::default(),
        )
    }

    fn open(engine: &str, version: &str, server: &str, mysql: bool, options: Options) -> Self {
        let dir = TempDir::new().expect("a folder");
        let mut writer = Writer::open(&dir.path().join("store"), options).expect("a new store");
        let at = LogPos::new(FILE, 4);
        let source = Source {
            engine: engine.into(),
            version: version.into(),
            server: server.into(),
            host: Some("db1:3306".into()),
        };
        let start = Start {
            source,
            epoch: 0,
            at: at.clone(),
            gtids_before: GtidSet::default(),
            reason: None,
        };
        writer.start(start).expect("a start");
        let orders = table(
            "orders",
            vec![
                ("id", int(), false),
                ("status", text(), false),
                ("note", text(), true),
            ],
            &[0],
        );
        Self {
            dir,
            writer,
            orders,
            next: at,
            count: 0,
            mysql,
            query: None,
        }
    }

    /// The statement that the next transactions carry.
    pub(crate) fn query(&mut self, query: &str) {
        self.query = Some(query.into());
    }

    fn begin(&mut self) -> Transaction {
        self.count += 1;
        let gtid = match self.mysql {
            true => format!("3e11fa47-71ca-11e1-9e33-c80aa9429562:{}", self.count),
            false => format!("0-1-{}", self.count),
        };
        let begin = Begin {
            at: self.next.clone(),
            gtid: Some(gtid.parse::<Gtid>().expect("a GTID")),
            thread_id: Some(8),
        };
        self.writer.begin(&begin).expect("begun");
        let time = Micros(TEN + i64::try_from(self.count - 1).expect("few") * 1_000_000);
        Transaction {
            at: self.next.to_string(),
            gtid,
            time,
        }
    }

    fn commit(&mut self, transaction: &Transaction) {
        self.next.offset += SIZE;
        self.writer
            .commit(&Commit {
                end: self.next.clone(),
                time: transaction.time,
            })
            .expect("committed");
    }

    /// One committed transaction on `shop.orders`.
    pub(crate) fn commits(&mut self, rows: &[Row<'_>]) -> Transaction {
        let table = self.orders.clone();
        let images: Vec<_> = rows
            .iter()
            .map(|(before, after)| (before.map(image), after.map(image)))
            .collect();
        self.commits_raw(&table, &images)
    }

    /// One committed transaction on any table, from images in their stored form.
    pub(crate) fn commits_raw(&mut self, table: &Arc<Table>, rows: &[Images]) -> Transaction {
        let transaction = self.begin();
        for (before, after) in rows {
            let op = match (before, after) {
                (None, _) => Op::Insert,
                (_, None) => Op::Delete,
                _ => Op::Update,
            };
            let query = self.query.clone();
            let (before, after) = (view(before, table), view(after, table));
            let row = RowChange {
                op,
                table,
                before,
                after,
                query: query.as_ref(),
                flags: 0,
            };
            self.writer.row(&row).expect("stored");
        }
        self.commit(&transaction);
        transaction
    }

    /// A statement that changes the definition of `table`, or of the whole schema.
    pub(crate) fn runs(&mut self, kind: Statement, table: Option<&str>, text: &str) -> Transaction {
        let transaction = self.begin();
        let targets = vec![DdlTarget {
            schema: "shop".into(),
            table: table.map(Into::into),
            kind,
        }];
        self.writer
            .ddl(&Ddl {
                targets,
                default_schema: "shop",
                text,
            })
            .expect("stored");
        self.commit(&transaction);
        transaction
    }

    /// From here on `shop.orders` has a definition of this shape.
    pub(crate) fn defines(&mut self, orders: Arc<Table>) {
        self.orders = orders;
    }

    /// A part of the log is lost.
    pub(crate) fn loses(&mut self, reason: &str) {
        self.next.offset += SIZE;
        self.writer.gap(&self.next, reason).expect("a gap");
    }

    /// Makes what was committed visible to readers.
    pub(crate) fn sync(&mut self) {
        self.writer.sync().expect("synced");
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("store")
    }

    /// Ends writing.
    pub(crate) fn close(self) -> Closed {
        self.writer.finish().expect("finished");
        Closed { dir: self.dir }
    }
}

/// A store nobody writes to.
pub(crate) struct Closed {
    dir: TempDir,
}

impl Closed {
    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("store")
    }

    /// A folder beside the store.
    pub(crate) fn beside(&self) -> &Path {
        self.dir.path()
    }
}

/// The store most questions are asked about:
///
/// | GTID  | what |
/// |-------|------|
/// | 0-1-1 | three orders are placed |
/// | 0-1-2 | order 1 is paid |
/// | 0-1-3 | an accident: orders 1 and 2 get a wrong status, order 3 is deleted |
/// | 0-1-4 | order 1 gets a note: another column |
/// | 0-1-5 | order 2 is shipped: the same column |
pub(crate) fn accident() -> (Closed, Vec<Transaction>) {
    let mut shop = Shop::mariadb();
    let transactions = vec![
        shop.commits(&[
            insert((1, "new", None)),
            insert((2, "new", None)),
            insert((3, "new", Some("gift"))),
        ]),
        shop.commits(&[update((1, "new", None), (1, "paid", None))]),
        {
            shop.query("UPDATE orders SET status = 'cancelled'");
            shop.commits(&[
                update((1, "paid", None), (1, "cancelled", None)),
                update((2, "new", None), (2, "cancelled", None)),
                delete((3, "new", Some("gift"))),
            ])
        },
        {
            shop.query = None;
            shop.commits(&[update(
                (1, "cancelled", None),
                (1, "cancelled", Some("call back")),
            )])
        },
        shop.commits(&[update((2, "cancelled", None), (2, "shipped", None))]),
    ];
    (shop.close(), transactions)
}
