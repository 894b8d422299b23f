//! Decoded values against what the live server selects: signs, character sets and columns between columns, which the tools that print
//! logs leave open.

use binlog::{Image, Value};
use testkit::{Engine, Server};

use crate::collect::read_file;

/// Every kind of column that takes part in one of the table map's counts, in an order that makes a wrong count show.
const SHUFFLED: &str = "CREATE TABLE t (u8 TINYINT UNSIGNED, p POINT NOT NULL, l VARCHAR(20) CHARACTER SET latin1, i8 TINYINT, e ENUM('a','é') CHARACTER SET latin1, \
     k CHAR(9) CHARACTER SET cp1251, y YEAR, u64 BIGINT UNSIGNED, g GEOMETRY, m TEXT CHARACTER SET utf8mb4, d DECIMAL(5,2) UNSIGNED, s SET('x','ы') CHARACTER SET cp1251, \
     f FLOAT, w VARCHAR(9) CHARACTER SET utf16, b BIT(3), i16 SMALLINT, v VARBINARY(4), u24 MEDIUMINT UNSIGNED, z TINYTEXT CHARACTER SET koi8r, i64 BIGINT, x DOUBLE, \
     n VARCHAR(9) CHARACTER SET utf8mb3, u16 SMALLINT UNSIGNED, i24 MEDIUMINT, u32 INT UNSIGNED, id INT PRIMARY KEY)";

const ROWS: &str = "INSERT INTO t VALUES \
     (255, ST_GeomFromText('POINT(1 2)'), 'é', -1, 'é', 'Привет', 2026, 18446744073709551615, NULL, '😀 text', 999.99, 'x,ы', 1.5, 'wide', b'101', -1, 'bin', 16777215, 'ё', -1, 0.5, 'three', 65535, -1, 4294967295, 1), \
     (128, ST_GeomFromText('POINT(0 0)'), NULL, -128, 'a', '', 1901, 9223372036854775808, ST_GeomFromText('POINT(3 4)'), '', 0, '', -2.25, '😀', b'0', -32768, '', 8388608, '', -9223372036854775808, -1e300, 'ü', 32768, -8388608, 2147483648, -5)";

/// What the client prints for each column, in the words of [`shown`].
const SELECT: &str = "SELECT u8, HEX(p), l, i8, e, k, y, u64, HEX(g), m, d, s, f, w, b+0, i16, HEX(v), u24, z, i64, x, n, u16, i24, u32, id FROM t ORDER BY id DESC";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

fn shown(value: &Value<'_>) -> String {
    match value {
        Value::Null => "NULL".into(),
        Value::Int(v) => v.to_string(),
        Value::UInt(v) | Value::Bit(v) => v.to_string(),
        Value::Year(v) => format!("{v:04}"),
        Value::Float(v) => v.to_string(),
        Value::Double(v) => v.to_string(),
        Value::Enum(_, v) | Value::Text(v) => v.to_string(),
        Value::Set(_, v)
        | Value::Decimal(v)
        | Value::Date(v)
        | Value::Time(v)
        | Value::DateTime(v)
        | Value::Timestamp(v)
        | Value::Json(v) => v.clone(),
        Value::Bytes(v) => hex(v),
        Value::Geometry(srid, v) => hex(&[&srid.to_le_bytes()[..], v].concat()),
    }
}

#[test]
fn values_are_those_the_server_selects() {
    for engine in Engine::ALL {
        let server = Server::shared(engine);
        let schema = server.schema("selected");
        let (path, selected) = server.record(&format!("USE `{}`; {SHUFFLED}; {ROWS}; {SELECT}", schema.name));
        let rows: Vec<_> = read_file(&path)
            .rows
            .into_iter()
            .filter(|row| row.table.schema == schema.name)
            .collect();
        let selected: Vec<Vec<&str>> = selected.lines().map(|line| line.split('\t').collect()).collect();
        assert_eq!((rows.len(), selected.len()), (2, 2));
        for (row, selected) in rows.iter().zip(selected) {
            let image =
                Image::from_bytes(row.after.as_deref().expect("an insert"), &row.table).expect("an image");
            let cells = image.to_cells(&row.table).expect("cells");
            for ((column, cell), expected) in row.table.columns.iter().zip(cells).zip(selected) {
                let value = column.value(cell).expect("it decodes").expect("a full image");
                let same = match &value {
                    Value::Float(v) => expected.parse::<f32>() == Ok(*v),
                    Value::Double(v) => expected.parse::<f64>() == Ok(*v),
                    other => shown(other) == expected,
                };
                assert!(
                    same,
                    "{} {}: {value:?}, the server selects {expected:?}",
                    engine.name(),
                    column.name
                );
            }
        }
    }
}
