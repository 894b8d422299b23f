//! Names of tables and transactions as people type them.

use std::str::FromStr;

use binlog::{Gtid, LogPos};

/// `schema.table`, or `schema.*`. Backticks around either part let it hold a dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// The schema.
    pub schema: String,
    /// The table; none for all of the schema.
    pub table: Option<String>,
}

impl FromStr for Tables {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (schema, rest) = part(text)?;
        let rest = rest.strip_prefix('.').ok_or_else(|| {
            format!("write schema.table, as in shop.{schema}, or {schema}.* for all tables of a schema called {schema}")
        })?;
        if rest == "*" {
            return Ok(Self { schema, table: None });
        }
        match part(rest)? {
            (table, "") => Ok(Self {
                schema,
                table: Some(table),
            }),
            _ => Err(
                "write schema.table; a name that holds a dot goes in backticks, as in '`my.schema`.orders'"
                    .into(),
            ),
        }
    }
}

impl std::fmt::Display for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.schema, self.table.as_deref().unwrap_or("*"))
    }
}

/// The first name and what follows it.
fn part(text: &str) -> Result<(String, &str), String> {
    let (name, rest) = match text.strip_prefix('`') {
        Some(quoted) => quoted_name(quoted).ok_or("a backtick is not closed")?,
        None => {
            let end = text.find('.').unwrap_or(text.len());
            (text[..end].to_owned(), &text[end..])
        }
    };
    if name.is_empty() {
        Err("write schema.table".into())
    } else {
        Ok((name, rest))
    }
}

/// A name up to its closing backtick; two backticks stand for one.
fn quoted_name(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('`')?;
        name.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('`') {
            Some(more) => rest = more,
            None => return Some((name, rest)),
        }
        name.push('`');
    }
}

/// A transaction by name or by place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// Its GTID.
    Gtid(Gtid),
    /// Where it begins.
    At(LogPos),
}

impl FromStr for Transaction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(gtid) = text.parse() {
            return Ok(Self::Gtid(gtid));
        }
        match text.parse::<LogPos>() {
            Ok(at) if !at.file.as_str().is_empty() => Ok(Self::At(at)),
            _ => Err("write a GTID (0-1-23, or 3e11fa47-71ca-11e1-9e33-c80aa9429562:23), or FILE:POS as in binlog.000003:4711".into()),
        }
    }
}

impl std::fmt::Display for Transaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gtid(gtid) => gtid.fmt(f),
            Self::At(at) => at.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Tables, Transaction};

    #[test]
    fn tables_are_named_with_their_schema() {
        let named = |schema: &str, table: Option<&str>| {
            Ok(Tables {
                schema: schema.into(),
                table: table.map(Into::into),
            })
        };
        assert_eq!("shop.orders".parse(), named("shop", Some("orders")));
        assert_eq!("shop.*".parse(), named("shop", None));
        assert_eq!("`my.shop`.`a``b`".parse(), named("my.shop", Some("a`b")));
        for text in [
            "",
            "orders",
            ".orders",
            "shop.",
            "a.b.c",
            "`shop.orders",
            "`shop`orders",
        ] {
            assert!(text.parse::<Tables>().is_err(), "{text}");
        }
    }

    #[test]
    fn transactions_are_named_by_gtid_or_place() {
        assert!(matches!("0-1-23".parse(), Ok(Transaction::Gtid(_))));
        assert!(matches!(
            "3e11fa47-71ca-11e1-9e33-c80aa9429562:23".parse(),
            Ok(Transaction::Gtid(_))
        ));
        assert!(matches!("binlog.000003:4711".parse(), Ok(Transaction::At(_))));
        for text in ["", "23", ":23", "binlog.000003", "binlog.000003:-4"] {
            assert!(text.parse::<Transaction>().is_err(), "{text}");
        }
    }
}
