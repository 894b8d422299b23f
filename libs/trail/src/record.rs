//! The records of a tail: what a [`binlog::Sink`] is told, as bytes.
//!
//! A record is framed as its length and its CRC-32 (four bytes each, little-endian), then its payload: a byte for its kind, then its
//! fields. A transaction is its `Begin`, its `Query`, `Row` and `Ddl` records, and the `Commit` that makes them count; a `Rollback` or
//! an `Abort` makes them not count. `Table` may stand anywhere before the first row that names it.

use binlog::{DdlTarget, GtidSet, LogPos, Op};
use serde::{Deserialize, Serialize};
use types::Micros;

use crate::{
    Source,
    codec::{Malformed, Walk, put_bytes, put_gtid, put_place, put_uint},
};

/// Bytes of a frame before its payload.
pub(crate) const FRAME: usize = 8;

/// One record, borrowing from its payload.
#[derive(Clone, Debug)]
pub(crate) enum Record<'a> {
    /// First in each tail: which tail of which store this is, and whether marks end its head; see `durable`.
    Header {
        store: &'a str,
        number: u64,
        marked: bool,
    },
    /// Everything before this byte of the tail is on disk. Stands only in the head.
    Durable(u64),
    /// A run of the log begins.
    Start(Box<RunStart>),
    /// A definition and its number, as JSON.
    Table { version: u32, definition: &'a [u8] },
    /// A transaction begins.
    Begin(binlog::Begin),
    /// The statement the rows after it belong to.
    Query(&'a str),
    /// A row change.
    Row(Row<'a>),
    /// A statement that is no row change, as JSON of [`DdlRecord`].
    Ddl(&'a [u8]),
    /// The transaction took effect.
    Commit { end: LogPos, time: Micros },
    /// It did not, and the log says so.
    Rollback { end: LogPos },
    /// It was not read to its end and will come again.
    Abort,
    /// Everything up to here was seen.
    Position(LogPos),
    /// What the source had executed before the run.
    Previous(GtidSet),
}

/// How a run begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunStart {
    pub(crate) source: Source,
    pub(crate) epoch: u32,
    pub(crate) at: LogPos,
    pub(crate) gtids_before: GtidSet,
    pub(crate) reason: Option<String>,
    pub(crate) apart: bool,
}

/// A row change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row<'a> {
    pub(crate) version: u32,
    pub(crate) op: Op,
    pub(crate) flags: u16,
    /// Whether the last `Query` of the transaction is its statement.
    pub(crate) has_query: bool,
    pub(crate) key: &'a [u8],
    /// If the change is an update of the key.
    pub(crate) new_key: Option<&'a [u8]>,
    /// The bitmap of an update.
    pub(crate) changed: Option<&'a [u8]>,
    /// In stored form.
    pub(crate) before: Option<&'a [u8]>,
    /// In kept form.
    pub(crate) after: Option<&'a [u8]>,
}

/// A statement, owned, as JSON keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DdlRecord {
    pub(crate) text: String,
    pub(crate) default_schema: String,
    pub(crate) targets: Vec<DdlTarget>,
}

const HEADER: u8 = 1;
const START: u8 = 2;
const TABLE: u8 = 3;
const BEGIN: u8 = 4;
const QUERY: u8 = 5;
const ROW: u8 = 6;
const DDL: u8 = 7;
const COMMIT: u8 = 8;
const ROLLBACK: u8 = 9;
const ABORT: u8 = 10;
const POSITION: u8 = 11;
const PREVIOUS: u8 = 12;
const MARKED_HEADER: u8 = 13;
const DURABLE: u8 = 14;

const HAS_QUERY: u8 = 0x04;
const HAS_NEW_KEY: u8 = 0x08;

/// Appends the framed record to `out`.
pub(crate) fn frame(record: &Record<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME]);
    put(record, out);
    let payload = &out[start + FRAME..];
    // A record is bounded by the largest event (1 GiB), so its length fits.
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let crc = crc32fast::hash(payload);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + FRAME].copy_from_slice(&crc.to_le_bytes());
}

fn put(record: &Record<'_>, out: &mut Vec<u8>) {
    match record {
        Record::Header {
            store,
            number,
            marked,
        } => {
            out.push(if *marked { MARKED_HEADER } else { HEADER });
            put_bytes(out, store.as_bytes());
            put_uint(out, *number);
        }
        Record::Start(start) => {
            out.push(START);
            out.extend_from_slice(serde_json::json!(start).to_string().as_bytes());
        }
        Record::Table { version, definition } => {
            out.push(TABLE);
            put_uint(out, u64::from(*version));
            out.extend_from_slice(definition);
        }
        Record::Begin(begin) => {
            out.push(BEGIN);
            put_place(out, &begin.at);
            put_gtid(out, begin.gtid.as_ref());
            put_uint(out, begin.thread_id.map_or(0, |id| u64::from(id) + 1));
        }
        Record::Query(text) => {
            out.push(QUERY);
            out.extend_from_slice(text.as_bytes());
        }
        Record::Row(row) => put_row(row, out),
        Record::Ddl(json) => {
            out.push(DDL);
            out.extend_from_slice(json);
        }
        Record::Commit { end, time } => {
            out.push(COMMIT);
            put_place(out, end);
            out.extend_from_slice(&time.0.to_le_bytes());
        }
        Record::Rollback { end } => {
            out.push(ROLLBACK);
            put_place(out, end);
        }
        Record::Abort => out.push(ABORT),
        Record::Durable(length) => {
            out.push(DURABLE);
            out.extend_from_slice(&length.to_le_bytes());
        }
        Record::Position(at) => {
            out.push(POSITION);
            put_place(out, at);
        }
        Record::Previous(gtids) => {
            out.push(PREVIOUS);
            out.extend_from_slice(gtids.to_string().as_bytes());
        }
    }
}

fn put_row(row: &Row<'_>, out: &mut Vec<u8>) {
    let op = match row.op {
        Op::Insert => 0,
        Op::Update => 1,
        Op::Delete => 2,
    };
    let marks =
        op | if row.has_query { HAS_QUERY } else { 0 } | if row.new_key.is_some() { HAS_NEW_KEY } else { 0 };
    out.extend_from_slice(&[ROW, marks]);
    out.extend_from_slice(&row.flags.to_le_bytes());
    put_uint(out, u64::from(row.version));
    put_bytes(out, row.key);
    for part in [row.new_key, row.changed, row.before].into_iter().flatten() {
        put_bytes(out, part);
    }
    out.extend_from_slice(row.after.unwrap_or_default());
}

impl<'a> Record<'a> {
    /// Reads a payload.
    pub(crate) fn parse(payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut walk = Walk(payload);
        let text = |bytes: &'a [u8]| std::str::from_utf8(bytes).map_err(|_| Malformed);
        let record = match walk.byte()? {
            ROW => return parse_row(walk).map(Self::Row),
            QUERY => return text(walk.0).map(Self::Query),
            DDL => return Ok(Self::Ddl(walk.0)),
            START => {
                return serde_json::from_slice(walk.0)
                    .map(Self::Start)
                    .map_err(|_| Malformed);
            }
            TABLE => {
                return Ok(Self::Table {
                    version: walk.u32()?,
                    definition: walk.0,
                });
            }
            PREVIOUS => return Ok(Self::Previous(text(walk.0)?.parse().map_err(|_| Malformed)?)),
            kind @ (HEADER | MARKED_HEADER) => Self::Header {
                store: walk.text()?,
                number: walk.uint()?,
                marked: kind == MARKED_HEADER,
            },
            DURABLE => {
                let length = walk.take(8)?.try_into().map_err(|_| Malformed)?;
                Self::Durable(u64::from_le_bytes(length))
            }
            BEGIN => Self::Begin(binlog::Begin {
                at: walk.place()?,
                gtid: walk.gtid()?,
                thread_id: parse_thread(&mut walk)?,
            }),
            COMMIT => {
                let end = walk.place()?;
                let time = walk.take(8)?.try_into().map_err(|_| Malformed)?;
                Self::Commit {
                    end,
                    time: Micros(i64::from_le_bytes(time)),
                }
            }
            ROLLBACK => Self::Rollback { end: walk.place()? },
            ABORT => Self::Abort,
            POSITION => Self::Position(walk.place()?),
            _ => return Err(Malformed),
        };
        walk.end()?;
        Ok(record)
    }
}

fn parse_thread(walk: &mut Walk<'_>) -> Result<Option<u32>, Malformed> {
    let id = walk.uint()?.checked_sub(1);
    id.map(|id| u32::try_from(id).map_err(|_| Malformed)).transpose()
}

fn parse_row<'a>(mut walk: Walk<'a>) -> Result<Row<'a>, Malformed> {
    let marks = walk.byte()?;
    let op = match marks & 0x03 {
        0 => Op::Insert,
        1 => Op::Update,
        2 => Op::Delete,
        _ => return Err(Malformed),
    };
    let flags = walk.take(2)?;
    let flags = u16::from_le_bytes([flags[0], flags[1]]);
    let version = walk.u32()?;
    let key = walk.bytes()?;
    let mut part = |wanted: bool| if wanted { walk.bytes().map(Some) } else { Ok(None) };
    let new_key = part(marks & HAS_NEW_KEY != 0)?;
    let changed = part(op == Op::Update)?;
    let before = part(op != Op::Insert)?;
    let after = (op != Op::Delete).then_some(walk.0);
    Ok(Row {
        version,
        op,
        flags,
        has_query: marks & HAS_QUERY != 0,
        key,
        new_key,
        changed,
        before,
        after,
    })
}

#[cfg(test)]
mod tests {
    use binlog::{Begin, GtidSet, LogPos, Op};
    use types::Micros;

    use super::{FRAME, Record, Row, RunStart, frame};
    use crate::Source;

    fn update() -> Row<'static> {
        Row {
            version: 300,
            op: Op::Update,
            flags: 0x11,
            has_query: true,
            key: b"k",
            new_key: Some(b"l"),
            changed: Some(&[5]),
            before: Some(b"before"),
            after: Some(b"after"),
        }
    }

    fn examples() -> Vec<Record<'static>> {
        let at = LogPos::new("binlog.000007", 4711);
        let gtid = "3e11fa47-71ca-11e1-9e33-c80aa9429562:23".parse().ok();
        let start = RunStart {
            source: Source::default(),
            epoch: 3,
            at: at.clone(),
            gtids_before: "0-1-23".parse().unwrap(),
            reason: Some("purged".into()),
            apart: true,
        };
        let row = update();
        let insert = Row {
            op: Op::Insert,
            has_query: false,
            new_key: None,
            changed: None,
            before: None,
            ..row
        };
        let delete = Row {
            op: Op::Delete,
            new_key: None,
            changed: None,
            after: None,
            ..row
        };
        let header = |marked| Record::Header {
            store: "abc",
            number: 9,
            marked,
        };
        vec![
            header(false),
            header(true),
            Record::Durable(4711),
            Record::Start(Box::new(start)),
            Record::Table {
                version: 7,
                definition: b"{}",
            },
            Record::Begin(Begin {
                at: at.clone(),
                gtid,
                thread_id: Some(u32::MAX),
            }),
            Record::Begin(Begin {
                at: at.clone(),
                gtid: None,
                thread_id: None,
            }),
            Record::Query("UPDATE t"),
            Record::Row(row),
            Record::Row(insert),
            Record::Row(delete),
            Record::Ddl(b"{}"),
            Record::Commit {
                end: at.clone(),
                time: Micros(-5),
            },
            Record::Rollback { end: at.clone() },
            Record::Abort,
            Record::Position(at),
            Record::Previous(GtidSet::default()),
        ]
    }

    #[test]
    fn records_are_read_back() {
        for record in examples() {
            let mut bytes = Vec::new();
            frame(&record, &mut bytes);
            let read = Record::parse(&bytes[FRAME..]).map(|record| format!("{record:?}"));
            assert_eq!(read, Ok(format!("{record:?}")));
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        for record in examples() {
            let mut bytes = Vec::new();
            frame(&record, &mut bytes);
            let payload = &bytes[FRAME..];
            for length in 0..payload.len() {
                let _ = Record::parse(&payload[..length]);
            }
            for at in 0..payload.len() {
                let mut damaged = payload.to_vec();
                damaged[at] ^= 0xFF;
                let _ = Record::parse(&damaged);
            }
        }
    }
}
