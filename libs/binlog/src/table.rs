//! The definition of a table as it was at a position of the log.

use serde::{Deserialize, Serialize};

use crate::Charset;

/// One version of a table's definition. Two equal values are the same version.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Table {
    /// The schema (database) it lives in.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its columns, in the order of the row image.
    pub columns: Vec<Column>,
    /// The primary key's columns in key order; empty if the table has none.
    pub key: Vec<KeyPart>,
}

impl Table {
    /// `schema.table` for messages.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// Memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        let labels = |labels: &[String]| labels.iter().map(|label| size_of::<String>() + label.len()).sum();
        let column = |column: &Column| {
            let more: usize = match &column.ty {
                ColumnType::Enum { labels: all, .. } | ColumnType::Set { labels: all, .. } => labels(all),
                _ => 0,
            };
            size_of::<Column>() + column.name.len() + more
        };
        let columns: usize = self.columns.iter().map(column).sum();
        size_of::<Self>() + self.schema.len() + self.name.len() + columns + size_of_val(&self.key[..])
    }

    /// The index of the column called `name`, compared as MySQL compares column names: without regard to ASCII case.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns
            .iter()
            .position(|c| c.name.eq_ignore_ascii_case(name))
    }
}

/// One column of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyPart {
    /// Index into [`Table::columns`].
    pub column: u32,
    /// Characters of the column that take part (a prefix key); 0 for all.
    pub prefix: u32,
}

/// One column.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Type, width and character set.
    #[serde(flatten)]
    pub ty: ColumnType,
    /// Whether NULL is allowed.
    pub nullable: bool,
    /// Whether `SELECT *` leaves it out.
    #[serde(default)]
    pub invisible: bool,
    /// Whether the server computes it. The log does not say; `None` means nobody has looked it up.
    #[serde(default)]
    pub generated: Option<bool>,
    /// Whether the server sets it on every update of the row (`ON UPDATE CURRENT_TIMESTAMP`); `None` as above.
    #[serde(default)]
    pub on_update: Option<bool>,
}

/// What the log does not say of a column and the server's catalogue does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ColumnFacts {
    /// See [`Column::generated`].
    pub generated: bool,
    /// See [`Column::on_update`].
    pub on_update: bool,
}

/// How a column's values are encoded in a row image, with all that is needed to decode them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ColumnType {
    /// `TINYINT` 1, `SMALLINT` 2, `MEDIUMINT` 3, `INT` 4, `BIGINT` 8 bytes.
    Int {
        /// Width in bytes.
        bytes: u8,
        /// Whether it is `UNSIGNED`.
        unsigned: bool,
    },
    /// `FLOAT`, four bytes.
    Float,
    /// `DOUBLE`, eight bytes.
    Double,
    /// `DECIMAL(precision, scale)`.
    Decimal {
        /// Digits in all.
        precision: u8,
        /// Digits after the point.
        scale: u8,
    },
    /// `YEAR`.
    Year,
    /// `DATE`.
    Date,
    /// `TIME(fsp)`.
    Time {
        /// Digits of fraction.
        fsp: u8,
    },
    /// `DATETIME(fsp)`.
    DateTime {
        /// Digits of fraction.
        fsp: u8,
    },
    /// `TIMESTAMP(fsp)`.
    Timestamp {
        /// Digits of fraction.
        fsp: u8,
    },
    /// `TIME` as tables made before MySQL 5.6 keep it.
    OldTime,
    /// `DATETIME` as tables made before MySQL 5.6 keep it.
    OldDateTime,
    /// `TIMESTAMP` as tables made before MySQL 5.6 keep it.
    OldTimestamp,
    /// `BIT(bits)`.
    Bit {
        /// Width in bits, 1 to 64.
        bits: u8,
    },
    /// `ENUM`.
    Enum {
        /// Width in bytes, 1 or 2.
        bytes: u8,
        /// Labels, the first one for index 1.
        labels: Vec<String>,
    },
    /// `SET`.
    Set {
        /// Width in bytes, 1 to 8.
        bytes: u8,
        /// Labels, the first one for bit 0.
        labels: Vec<String>,
    },
    /// `CHAR(n)`, and `BINARY(n)` when the character set is binary.
    Char {
        /// Bytes at most.
        bytes: u16,
        /// Character set and collation.
        charset: Charset,
    },
    /// `VARCHAR(n)`, and `VARBINARY(n)` when the character set is binary.
    Varchar {
        /// Bytes at most.
        bytes: u16,
        /// Character set and collation.
        charset: Charset,
    },
    /// The `TEXT` types, and the `BLOB` types when the character set is binary.
    Blob {
        /// Bytes of the length before each value, 1 to 4.
        length: u8,
        /// Character set and collation.
        charset: Charset,
    },
    /// MySQL's binary `JSON`. (MariaDB's `JSON` is a text column.)
    Json {
        /// Bytes of the length before each value.
        length: u8,
    },
    /// Spatial types.
    Geometry {
        /// Bytes of the length before each value.
        length: u8,
    },
    /// MySQL's `VECTOR`: little-endian `f32`s.
    Vector {
        /// Bytes of the length before each value.
        length: u8,
    },
}

impl ColumnType {
    /// The type as `SHOW CREATE TABLE` would begin it, for people.
    pub fn sql_name(&self) -> String {
        let fsp = |name: &str, fsp: u8| {
            if fsp == 0 {
                name.to_owned()
            } else {
                format!("{name}({fsp})")
            }
        };
        match self {
            Self::Int { bytes, unsigned } => {
                let name = match bytes {
                    1 => "tinyint",
                    2 => "smallint",
                    3 => "mediumint",
                    4 => "int",
                    _ => "bigint",
                };
                if *unsigned {
                    format!("{name} unsigned")
                } else {
                    name.to_owned()
                }
            }
            Self::Float => "float".to_owned(),
            Self::Double => "double".to_owned(),
            Self::Decimal { precision, scale } => format!("decimal({precision},{scale})"),
            Self::Year => "year".to_owned(),
            Self::Date => "date".to_owned(),
            Self::Time { fsp: digits } => fsp("time", *digits),
            Self::DateTime { fsp: digits } => fsp("datetime", *digits),
            Self::Timestamp { fsp: digits } => fsp("timestamp", *digits),
            Self::OldTime => "time".to_owned(),
            Self::OldDateTime => "datetime".to_owned(),
            Self::OldTimestamp => "timestamp".to_owned(),
            Self::Bit { bits } => format!("bit({bits})"),
            Self::Enum { labels, .. } => format!("enum({})", quoted(labels)),
            Self::Set { labels, .. } => format!("set({})", quoted(labels)),
            Self::Char { bytes, charset } if charset.is_binary() => format!("binary({bytes})"),
            Self::Char { bytes, charset } => {
                format!("char({}) {}", charset.chars(u32::from(*bytes)), charset.name())
            }
            Self::Varchar { bytes, charset } if charset.is_binary() => format!("varbinary({bytes})"),
            Self::Varchar { bytes, charset } => {
                format!("varchar({}) {}", charset.chars(u32::from(*bytes)), charset.name())
            }
            Self::Blob { length, charset } => {
                let size = ["", "tiny", "", "medium", "long"][usize::from(*length).min(4)];
                if charset.is_binary() {
                    format!("{size}blob")
                } else {
                    format!("{size}text {}", charset.name())
                }
            }
            Self::Json { .. } => "json".to_owned(),
            Self::Geometry { .. } => "geometry".to_owned(),
            Self::Vector { .. } => "vector".to_owned(),
        }
    }
}

fn quoted(labels: &[String]) -> String {
    labels
        .iter()
        .map(|label| format!("'{}'", label.replace('\'', "''")))
        .collect::<Vec<_>>()
        .join(",")
}
