//! Names between backticks.

use binlog::Table;

use crate::Error;

/// A table's names, quoted.
#[derive(Debug)]
pub(crate) struct Names {
    /// `` `schema`.`table` ``
    pub(crate) table: String,
    /// In the order of the table's columns.
    pub(crate) columns: Vec<String>,
}

impl Names {
    pub(crate) fn new(table: &Table) -> Result<Self, Error> {
        Ok(Self {
            table: format!("{}.{}", quote(&table.schema)?, quote(&table.name)?),
            columns: table
                .columns
                .iter()
                .map(|column| quote(&column.name))
                .collect::<Result<_, _>>()?,
        })
    }
}

/// Inside backticks only the backtick is special, in the server and in both clients (which copy a backslash and a newline as they are).
/// A NUL ends the client's line, and U+FFFD says that the name was not valid where it was read: there is no telling what it is.
fn quote(name: &str) -> Result<String, Error> {
    let why = if name.is_empty() {
        Some("it is empty")
    } else if name.contains('\0') {
        Some("it contains a NUL character")
    } else if name.contains("\r\n") {
        Some("it contains a carriage return and line feed, which the clients turn into a line feed")
    } else if name.contains('\u{FFFD}') {
        Some("it is not valid text in the log")
    } else {
        None
    };
    match why {
        Some(why) => Err(Error::Name {
            name: name.to_owned(),
            why,
        }),
        None => Ok(format!("`{}`", name.replace('`', "``"))),
    }
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn backticks_are_doubled_and_nothing_else() {
        assert_eq!(quote("a`b").as_deref(), Ok("`a``b`"));
        assert_eq!(quote("a\\\n'\"; -- */").as_deref(), Ok("`a\\\n'\"; -- */`"));
        assert_eq!(quote("größe").as_deref(), Ok("`größe`"));
    }

    #[test]
    fn names_that_cannot_be_written_are_refused() {
        for name in ["", "a\0b", "a\r\nb", "a\u{FFFD}"] {
            assert!(quote(name).is_err(), "{name:?}");
        }
    }
}
