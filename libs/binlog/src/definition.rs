//! A table's present definition, as a server's catalogue gives it, for logs that do not name columns.
//!
//! A present definition is good only for rows that no later statement about the table follows, and only if it agrees with what the log
//! does say. The first is kept by [`Survey`](crate::Survey), the second here: every type the catalogue names is turned into the encoding
//! that such a column has in a row, and must be the one the table map announces.

use crate::{Charset, Column, ColumnType};

/// A table as the server has it now (`information_schema`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Definition {
    /// The columns in their order.
    pub columns: Vec<ColumnDefinition>,
    /// The primary key's columns in key order, each with the characters of it that take part, 0 for all.
    pub key: Vec<(String, u32)>,
}

/// One column of a [`Definition`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnDefinition {
    /// `COLUMN_NAME`.
    pub name: String,
    /// `DATA_TYPE`: one word, such as `int`.
    pub data_type: String,
    /// `COLUMN_TYPE`: the whole type, such as `int unsigned` or `enum('a','b')`.
    pub column_type: String,
    /// The number of `COLLATION_NAME`; none for columns that are no text.
    pub collation: Option<u16>,
    /// Whether NULL is allowed.
    pub nullable: bool,
    /// Whether `SELECT *` leaves it out.
    pub invisible: bool,
    /// Whether the server computes it.
    pub generated: bool,
    /// Whether the server sets it on every update of the row.
    pub on_update: bool,
}

impl ColumnDefinition {
    /// The column as a log that names columns would describe it; none if this version cannot tell how the type is encoded.
    pub(crate) fn column(&self) -> Option<Column> {
        Some(Column {
            name: self.name.clone(),
            ty: self.ty()?,
            nullable: self.nullable,
            invisible: self.invisible,
            generated: Some(self.generated),
            on_update: Some(self.on_update),
        })
    }

    /// The words after the type's name and its parenthesis.
    pub(crate) fn is_unsigned(&self) -> bool {
        let attributes = self.column_type.rsplit(')').next().unwrap_or_default();
        // ZEROFILL makes a column UNSIGNED, and the catalogue then says both.
        attributes
            .split_ascii_whitespace()
            .any(|word| word.eq_ignore_ascii_case("unsigned"))
    }

    fn ty(&self) -> Option<ColumnType> {
        let unsigned = self.is_unsigned();
        let int = |bytes| Some(ColumnType::Int { bytes, unsigned });
        let blob = |length| {
            Some(ColumnType::Blob {
                length,
                charset: self.charset(),
            })
        };
        let fsp = || {
            self.numbers()
                .map(|numbers| numbers.first().copied().unwrap_or(0))
        };
        match self.data_type.to_ascii_lowercase().as_str() {
            "tinyint" => int(1),
            "smallint" => int(2),
            "mediumint" => int(3),
            "int" => int(4),
            "bigint" => int(8),
            "float" => Some(ColumnType::Float),
            "double" => Some(ColumnType::Double),
            "decimal" => match self.numbers()?[..] {
                [precision, scale] => Some(ColumnType::Decimal {
                    precision: u8::try_from(precision).ok()?,
                    scale: u8::try_from(scale).ok()?,
                }),
                _ => None,
            },
            "year" => Some(ColumnType::Year),
            "date" => Some(ColumnType::Date),
            "time" => Some(ColumnType::Time {
                fsp: u8::try_from(fsp()?).ok()?,
            }),
            "datetime" => Some(ColumnType::DateTime {
                fsp: u8::try_from(fsp()?).ok()?,
            }),
            "timestamp" => Some(ColumnType::Timestamp {
                fsp: u8::try_from(fsp()?).ok()?,
            }),
            "bit" => Some(ColumnType::Bit {
                bits: u8::try_from(*self.numbers()?.first()?).ok()?,
            }),
            "enum" | "set" => self.labelled(),
            "char" | "binary" => Some(ColumnType::Char {
                bytes: self.bytes()?,
                charset: self.charset(),
            }),
            "varchar" | "varbinary" => Some(ColumnType::Varchar {
                bytes: self.bytes()?,
                charset: self.charset(),
            }),
            "tinytext" | "tinyblob" => blob(1),
            "text" | "blob" => blob(2),
            "mediumtext" | "mediumblob" => blob(3),
            "longtext" | "longblob" => blob(4),
            "json" => Some(ColumnType::Json { length: 4 }),
            "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring"
            | "multipolygon" | "geometrycollection" | "geomcollection" => {
                Some(ColumnType::Geometry { length: 4 })
            }
            "vector" => Some(ColumnType::Vector { length: 4 }),
            _ => None,
        }
    }

    fn labelled(&self) -> Option<ColumnType> {
        let labels = self.labels()?;
        if self.data_type.eq_ignore_ascii_case("enum") {
            let bytes = if labels.len() < 256 { 1 } else { 2 };
            return Some(ColumnType::Enum { bytes, labels });
        }
        let bytes = match labels.len().div_ceil(8) {
            few @ 1..=4 => u8::try_from(few).ok()?,
            _ => 8,
        };
        Some(ColumnType::Set { bytes, labels })
    }

    /// Text has a collation in the catalogue, bytes have none.
    fn charset(&self) -> Charset {
        self.collation.map_or(Charset::BINARY, Charset::new)
    }

    /// Bytes of the longest value of a type that is measured in characters.
    fn bytes(&self) -> Option<u16> {
        let chars = *self.numbers()?.first()?;
        u16::try_from(chars.checked_mul(self.charset().char_bytes_max()?)?).ok()
    }

    /// What stands between the type's parentheses.
    fn arguments(&self) -> Option<&str> {
        match self.column_type.split_once('(') {
            Some((_, rest)) => rest.rsplit_once(')').map(|(inside, _)| inside),
            None => Some(""),
        }
    }

    fn numbers(&self) -> Option<Vec<u32>> {
        let arguments = self.arguments()?;
        arguments
            .split(',')
            .filter(|_| !arguments.is_empty())
            .map(|number| number.trim().parse().ok())
            .collect()
    }

    /// The labels of an ENUM or SET; none if the catalogue does not give them faithfully: it writes `?` for what its own character set
    /// does not have, and has no way to show bytes that are no text.
    fn labels(&self) -> Option<Vec<String>> {
        let mut rest = self.arguments()?;
        let mut labels = Vec::new();
        loop {
            let mut label = String::new();
            let mut chars = rest.strip_prefix('\'')?.char_indices().peekable();
            let after = loop {
                match chars.next()? {
                    (_, '\'') if chars.next_if(|(_, c)| *c == '\'').is_some() => label.push('\''),
                    (at, '\'') => break at + 2,
                    (_, '\\') => label.push(match chars.next()?.1 {
                        '0' => '\0',
                        'n' => '\n',
                        'r' => '\r',
                        other => other,
                    }),
                    (_, '?') => return None,
                    (_, c) if self.charset().is_binary() && !c.is_ascii() => return None,
                    (_, c) => label.push(c),
                }
            };
            labels.push(label);
            rest = &rest[after..];
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None if rest.is_empty() => return Some(labels),
                None => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ColumnDefinition;
    use crate::{Charset, ColumnType};

    fn defined(column_type: &str, collation: Option<u16>) -> ColumnDefinition {
        let data_type = column_type.split(['(', ' ']).next().unwrap_or_default();
        ColumnDefinition {
            name: "c".into(),
            data_type: data_type.into(),
            column_type: column_type.into(),
            collation,
            ..ColumnDefinition::default()
        }
    }

    fn ty(column_type: &str, collation: Option<u16>) -> Option<ColumnType> {
        defined(column_type, collation).ty()
    }

    #[test]
    fn types_become_what_a_row_holds() {
        let int = |bytes, unsigned| Some(ColumnType::Int { bytes, unsigned });
        assert_eq!(ty("int(10) unsigned", None), int(4, true));
        assert_eq!(ty("bigint unsigned", None), int(8, true));
        assert_eq!(ty("tinyint(1)", None), int(1, false));
        assert_eq!(
            ty("decimal(10,2)", None),
            Some(ColumnType::Decimal {
                precision: 10,
                scale: 2
            })
        );
        assert_eq!(ty("datetime", None), Some(ColumnType::DateTime { fsp: 0 }));
        assert_eq!(ty("timestamp(6)", None), Some(ColumnType::Timestamp { fsp: 6 }));
        let (latin1, utf8mb4) = (Charset::new(8), Charset::new(255));
        assert_eq!(
            ty("varchar(50)", Some(255)),
            Some(ColumnType::Varchar {
                bytes: 200,
                charset: utf8mb4
            })
        );
        assert_eq!(
            ty("char(10)", Some(8)),
            Some(ColumnType::Char {
                bytes: 10,
                charset: latin1
            })
        );
        assert_eq!(
            ty("varbinary(300)", None),
            Some(ColumnType::Varchar {
                bytes: 300,
                charset: Charset::BINARY
            })
        );
        assert_eq!(
            ty("varchar(50)", Some(9_999)),
            None,
            "an unknown character set has no width"
        );
        for unknown in [
            "inet6",
            "uuid",
            "decimal(10)",
            "datetime(x)",
            "bit",
            "varchar",
            "enum",
        ] {
            assert_eq!(ty(unknown, Some(8)), None, "{unknown}");
        }
    }

    #[test]
    fn labels_are_read_as_the_catalogue_writes_them() {
        let labels = |text: &str, collation| match ty(text, Some(collation)) {
            Some(ColumnType::Enum { labels, bytes: 1 }) => Some(labels),
            _ => None,
        };
        assert_eq!(
            labels(
                r"enum('new','it''s','a,b','(x)','',' unsigned','two\nlines','back\\slash')",
                45
            ),
            Some(
                [
                    "new",
                    "it's",
                    "a,b",
                    "(x)",
                    "",
                    " unsigned",
                    "two\nlines",
                    "back\\slash"
                ]
                .map(String::from)
                .to_vec()
            )
        );
        assert_eq!(
            labels("enum('с пробелом')", 45),
            Some(vec!["с пробелом".to_owned()])
        );
        for (text, collation) in [
            ("enum('?')", 45),
            ("enum('\u{e9}')", 63),
            ("enum('a'", 45),
            ("enum('a' 'b')", 45),
            ("enum('a',)", 45),
        ] {
            assert_eq!(labels(text, collation), None, "{text}");
        }
        let many = |kind: &str, count: usize| {
            let labels: Vec<String> = (0..count).map(|n| format!("'l{n}'")).collect();
            format!("{kind}({})", labels.join(","))
        };
        let width = |kind, count| match ty(&many(kind, count), Some(45)) {
            Some(ColumnType::Enum { bytes, .. } | ColumnType::Set { bytes, .. }) => bytes,
            other => panic!("{other:?}"),
        };
        assert_eq!([255, 256].map(|count| width("enum", count)), [1, 2]);
        assert_eq!(
            [1, 8, 9, 32, 33, 64].map(|count| width("set", count)),
            [1, 1, 2, 4, 8, 8]
        );
        assert!(!defined("enum('x unsigned')", Some(45)).is_unsigned());
    }
}
