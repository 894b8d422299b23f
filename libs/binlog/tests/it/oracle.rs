//! Decoded rows against what the server's own tool prints of the same file: row by row, column by column.

use binlog::{Cell, Column, ColumnType, Image, Op, Value};
use testkit::{Engine, Server};

use crate::{
    collect::{Row, read_file},
    workload,
};

/// A row as the tool prints it: `### UPDATE`, `### WHERE`, `###   @1=…`.
#[derive(Debug, Default)]
struct Printed {
    head: Vec<u8>,
    before: Vec<Vec<u8>>,
    after: Vec<Vec<u8>>,
}

fn parse(output: &[u8], schema: &str) -> Vec<Printed> {
    let mut rows: Vec<Printed> = Vec::new();
    let mut after = false;
    let mut column = false;
    for line in output.split(|byte| *byte == b'\n') {
        let Some(text) = line.strip_prefix(b"### ") else {
            column = false;
            continue;
        };
        if let Some(cell) = text.strip_prefix(b"  @") {
            let value = cell
                .iter()
                .position(|byte| *byte == b'=')
                .map(|at| cell[at + 1..].to_vec())
                .expect("@n=value");
            let row = rows.last_mut().expect("a column belongs to a row");
            if after {
                row.after.push(value)
            } else {
                row.before.push(value)
            }
            column = true;
        } else if text == b"SET" || text == b"WHERE" {
            after = text == b"SET";
        } else {
            assert!(
                !column
                    || text.starts_with(b"INSERT")
                    || text.starts_with(b"UPDATE")
                    || text.starts_with(b"DELETE")
            );
            rows.push(Printed {
                head: text.to_vec(),
                ..Printed::default()
            });
        }
    }
    let ours = format!("`{schema}`.");
    rows.retain(|row| row.head.windows(ours.len()).any(|part| part == ours.as_bytes()));
    rows
}

/// Checks every printed cell of one image.
fn compare(engine: Engine, row: &Row, image: &[u8], printed: &[Vec<u8>], what: &str) {
    let image = Image::from_bytes(image, &row.table).expect("a stored image");
    let cells = image.to_cells(&row.table).expect("cells");
    assert_eq!(cells.len(), printed.len(), "{what}: number of columns");
    for ((column, cell), text) in row.table.columns.iter().zip(cells).zip(printed) {
        let text = String::from_utf8_lossy(text);
        assert!(
            same(engine, column, cell, &text),
            "{what}, column {}: {cell:?} is {:?}, the tool prints {text}",
            column.name,
            column.value(cell)
        );
    }
}

fn same(engine: Engine, column: &Column, cell: Cell<'_>, text: &str) -> bool {
    let raw = match cell {
        Cell::Absent => return false,
        Cell::Null => return text == "NULL",
        Cell::Value(raw) => raw,
    };
    let value = column.decode(raw).expect("a value");
    if let (ColumnType::Vector { .. }, Value::Bytes(bytes)) = (&column.ty, &value) {
        let floats: Vec<f32> = bytes
            .as_chunks()
            .0
            .iter()
            .map(|raw| f32::from_le_bytes(*raw))
            .collect();
        let printed: Vec<f32> = text
            .trim_matches(['[', ']'])
            .split(',')
            .map(|number| number.parse().expect("a number"))
            .collect();
        return floats == printed;
    }
    match &value {
        // Without knowing the sign the tool prints both readings, -1 (255): signs are left to the test `selected`.
        Value::Int(v) => text.split(' ').next() == Some(&v.to_string()),
        Value::UInt(v) => text == v.to_string() || text.ends_with(&format!("({v})")),
        // The zero year is stored as 0; the tools add 1900 to it, the servers do not.
        Value::Year(0) => text == "1900" || text == "0",
        Value::Year(v) => text.parse() == Ok(*v),
        Value::Float(v) => close(f64::from(*v), text),
        Value::Double(v) => close(*v, text),
        Value::Decimal(v) | Value::Time(v) | Value::DateTime(v) => unquote(text) == v,
        Value::Date(v) => unquote(text).replace(':', "-") == *v,
        Value::Timestamp(v) => epoch(v) == unquote(text),
        Value::Bit(v) => bits(text) == Some(*v),
        Value::Enum(index, _) => text.split(' ').next() == Some(&index.to_string()),
        // MariaDB's tool prints a SET's bytes in the order they are stored.
        Value::Set(set, _) => {
            bits(text) == Some(*set) || bits(text) == Some(set.to_be() >> (64 - 8 * raw.len()))
        }
        Value::Json(v) => json(v) == json(&unescape_text(engine, text)),
        Value::Text(_) | Value::Bytes(_) => unescape(engine, unquote(text)) == printable(column, raw),
        Value::Geometry(..) => unescape(engine, unquote(text)) == lossy(&raw[4..]),
        Value::Null => false,
    }
}

/// The tool prints reals with six or more significant digits.
fn close(value: f64, text: &str) -> bool {
    let printed: f64 = text
        .split(' ')
        .next()
        .and_then(|first| first.parse().ok())
        .expect("a number");
    printed == value || ((printed - value) / value).abs() < 1e-5
}

fn bits(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("b'").and_then(|rest| rest.split('\'').next())?;
    u64::from_str_radix(digits, 2).ok()
}

/// `2026-11-21 10:00:00.5` in UTC as the tool prints a TIMESTAMP: seconds since the epoch.
fn epoch(text: &str) -> String {
    if text.starts_with("0000") {
        let fraction = text
            .split_once('.')
            .map(|(_, digits)| format!(".{digits}"))
            .unwrap_or_default();
        return format!("0{fraction}");
    }
    let (whole, fraction) = text
        .split_once('.')
        .map_or((text, String::new()), |(whole, digits)| {
            (whole, format!(".{digits}"))
        });
    let micros: types::Micros = whole.parse().expect("a time");
    format!("{}{fraction}", micros.0 / 1_000_000)
}

/// The bytes of a text as the tool prints them: what the image holds, invalid UTF-8 replaced on both sides.
fn printable(column: &Column, raw: &[u8]) -> String {
    let prefix = match &column.ty {
        ColumnType::Char { bytes, .. } | ColumnType::Varchar { bytes, .. } => 1 + usize::from(*bytes > 255),
        ColumnType::Blob { length, .. } | ColumnType::Vector { length } => usize::from(*length),
        _ => 0,
    };
    lossy(&raw[prefix..])
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `\x0a` and the like as MariaDB's tool escapes control characters, quotes and backslashes; `\n` and the like as MySQL's does.
fn unescape(engine: Engine, text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if rest.starts_with(b"\\x") && rest.len() >= 4 {
            let hex = std::str::from_utf8(&rest[2..4]).expect("hex");
            bytes.push(u8::from_str_radix(hex, 16).expect("hex"));
            rest = &rest[4..];
        } else if let (false, b'\\', Some((escaped, after))) =
            (engine.is_mariadb(), *first, after.split_first())
        {
            bytes.push(match escaped {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'b' => 8,
                b'0' => 0,
                other => *other,
            });
            rest = after;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    lossy(&bytes)
}

fn unquote(text: &str) -> &str {
    text.strip_prefix('\'')
        .and_then(|t| t.strip_suffix('\''))
        .unwrap_or(text)
}

fn unescape_text(engine: Engine, text: &str) -> String {
    unescape(engine, unquote(text))
}

/// The tool prints a document that is nothing but a string without its quotes.
fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

fn rows_equal_the_tools(engine: Engine, prepare: &str) {
    let server = Server::shared(engine);
    let schema = server.schema("oracle");
    let (path, _) = server.record(&format!("{prepare} {}", workload::sql(engine, &schema.name)));
    let mut ours: Vec<Row> = read_file(&path).rows;
    ours.retain(|row| row.table.schema == schema.name);
    if !engine.is_mariadb() {
        // mysqlbinlog leaves out rows with spatial columns ("Don't know how to handle column type=255").
        ours.retain(|row| row.table.name != "spots");
    }
    let mut printed = parse(
        &server.print_binlog(&path, &["-v", "--base64-output=DECODE-ROWS"]),
        &schema.name,
    );
    if !engine.is_mariadb() {
        printed.retain(|row| !row.head.ends_with(b"`spots`"));
    }
    assert!(ours.len() > 500, "the workload logged {} rows", ours.len());
    assert_eq!(ours.len(), printed.len(), "number of rows");
    for (nth, (row, text)) in ours.iter().zip(&printed).enumerate() {
        let what = format!(
            "{} row {nth}: {}",
            engine.name(),
            String::from_utf8_lossy(&text.head)
        );
        let verb = match row.op {
            Op::Insert => "INSERT INTO",
            Op::Update => "UPDATE",
            Op::Delete => "DELETE FROM",
        };
        assert_eq!(
            text.head,
            format!("{verb} `{}`.`{}`", row.table.schema, row.table.name).as_bytes(),
            "{what}"
        );
        if let Some(before) = &row.before {
            compare(engine, row, before, &text.before, &what);
        }
        if let Some(after) = &row.after {
            compare(engine, row, after, &text.after, &what);
        }
    }
}

#[test]
fn rows_equal_those_of_mariadb_binlog() {
    rows_equal_the_tools(Engine::Mariadb, "");
}

#[test]
fn rows_equal_those_of_mysqlbinlog_8() {
    rows_equal_the_tools(Engine::Mysql8, "");
}

#[test]
fn rows_equal_those_of_mysqlbinlog_9() {
    rows_equal_the_tools(Engine::Mysql9, "");
}

#[test]
fn rows_of_compressed_mysql_transactions_are_the_same() {
    rows_equal_the_tools(Engine::Mysql8, "SET binlog_transaction_compression = ON;");
    rows_equal_the_tools(Engine::Mysql9, "SET binlog_transaction_compression = ON;");
}
