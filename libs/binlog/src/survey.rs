//! What logs say about tables beside their rows, found without decoding a row: which tables their maps do not describe, and where each
//! table was last defined anew. With a server's present definitions it tells what such rows mean, and of which rows nobody can tell.

use std::collections::{BTreeSet, HashMap};

use crate::{
    Definition, Error, LogPos, Statement,
    error::Problem,
    event::{Event, Limits, kind},
    payload,
    query::Query,
    table_map,
};

/// An event: where it stands, and its number inside a transaction payload (0 outside of one).
pub(crate) type Place = (LogPos, usize);

/// Reads events, all of every file in any order of files, before rows are decoded.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    nameless: BTreeSet<(String, String)>,
    /// By schema and table in lower case: servers may be set to disregard case, and to take two tables for one only refuses more.
    tables: HashMap<(String, String), Place>,
    schemas: HashMap<String, Place>,
}

impl Survey {
    /// Takes one event that begins at `at`.
    pub fn event(&mut self, at: &LogPos, event: &Event<'_>) -> Result<(), Error> {
        self.look(at, 0, event).map_err(|problem| Error {
            at: at.clone(),
            problem,
        })
    }

    /// The tables some of whose maps do not name columns, as (schema, table).
    pub fn nameless(&self) -> impl Iterator<Item = &(String, String)> {
        self.nameless.iter()
    }

    fn look(&mut self, at: &LogPos, inner: usize, event: &Event<'_>) -> Result<(), Problem> {
        match event.header.kind {
            kind::TABLE_MAP if table_map::is_nameless(event.body)? => {
                let (_, schema, table) = table_map::names(event.body)?;
                self.nameless.insert((schema, table));
            }
            kind::QUERY => self.statement(at, inner, event.body)?,
            kind::MARIADB_QUERY_COMPRESSED => {
                self.statement(
                    at,
                    inner,
                    &payload::mariadb_query(event.body, &Limits::default())?,
                )?;
            }
            kind::TRANSACTION_PAYLOAD if inner == 0 => {
                let mut events = payload::Payload::open(event.body, Limits::default())?;
                let mut nth = 0;
                while let Some(event) = events.next_event()? {
                    nth += 1;
                    self.look(at, nth, &event)?;
                }
            }
            kind::MARIADB_START_ENCRYPTION => return Err(Problem::Encrypted),
            // Whatever cannot be read is refused when its turn comes to be decoded.
            _ => {}
        }
        Ok(())
    }

    fn statement(&mut self, at: &LogPos, inner: usize, body: &[u8]) -> Result<(), Problem> {
        let query = Query::parse(body)?;
        let place = (at.clone(), inner);
        for target in query.targets() {
            // TRUNCATE takes rows away and leaves their definition.
            if target.kind == Statement::Truncate {
                continue;
            }
            let schema = target.schema.to_lowercase();
            let last = match target.table {
                Some(table) => self
                    .tables
                    .entry((schema, table.to_lowercase()))
                    .or_insert_with(|| place.clone()),
                None => self.schemas.entry(schema).or_insert_with(|| place.clone()),
            };
            if *last < place {
                *last = place.clone();
            }
        }
        Ok(())
    }

    /// The last statement that defines the table anew.
    fn last(&self, schema: &str, table: &str) -> Option<&Place> {
        let (schema, table) = (schema.to_lowercase(), table.to_lowercase());
        let whole = self.schemas.get(&schema);
        self.tables.get(&(schema, table)).max(whole)
    }
}

/// The present definitions of tables whose maps do not name columns, and the rows they are good for.
#[derive(Clone, Debug)]
pub struct Present {
    survey: Survey,
    definitions: HashMap<(String, String), Definition>,
}

impl Present {
    /// `definitions` by (schema, table), asked of the server; `survey` must have read everything that stands in the log between the rows
    /// and the moment they were asked.
    pub fn new(survey: Survey, definitions: HashMap<(String, String), Definition>) -> Self {
        Self { survey, definitions }
    }

    /// What the rows of a table that follow its map at `place` mean.
    pub(crate) fn of(&self, schema: &str, table: &str, place: &Place) -> Result<&Definition, Problem> {
        let full_name = || format!("{schema}.{table}");
        let Some(definition) = self.definitions.get(&(schema.to_owned(), table.to_owned())) else {
            return Err(Problem::NoNames { table: full_name() });
        };
        match self.survey.last(schema, table) {
            Some(last) if place < last => Err(Problem::DefinedLater {
                table: full_name(),
                at: last.0.clone(),
            }),
            _ => Ok(definition),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{Definition, Present, Survey};
    use crate::{LogPos, Problem};

    /// A QUERY event's body.
    fn query(text: &str) -> Vec<u8> {
        let mut body = vec![0; 8];
        body.extend([4, 0, 0, 0, 0]);
        body.extend(b"shop\0");
        body.extend(text.as_bytes());
        body
    }

    /// Whether rows of `shop.t` at offset 100 of the second of three files can be told after these statements.
    fn told(statements: &[(&str, u64, &str)], inner: usize) -> Result<(), Problem> {
        let mut survey = Survey::default();
        for (file, offset, text) in statements {
            let read = survey.statement(&LogPos::new(file, *offset), 1, &query(text));
            assert_eq!(read, Ok(()));
        }
        let tables = HashMap::from([(("shop".to_owned(), "t".to_owned()), Definition::default())]);
        let place = (LogPos::new("b.000002", 100), inner);
        Present::new(survey, tables).of("shop", "t", &place).map(|_| ())
    }

    #[test]
    fn rows_are_told_only_after_the_last_statement_about_their_table() {
        let later = |file: &str, offset| {
            Err(Problem::DefinedLater {
                table: "shop.t".into(),
                at: LogPos::new(file, offset),
            })
        };
        assert_eq!(told(&[], 0), Ok(()));
        assert_eq!(
            told(
                &[
                    ("b.000002", 99, "ALTER TABLE t ADD a INT"),
                    ("b.000001", 500, "DROP TABLE t")
                ],
                0
            ),
            Ok(())
        );
        assert_eq!(
            told(&[("b.000002", 101, "ALTER TABLE t ADD a INT")], 0),
            later("b.000002", 101)
        );
        // Whatever the order the files are looked through in, the last one counts.
        assert_eq!(
            told(
                &[
                    ("b.000010", 4, "RENAME TABLE u TO t"),
                    ("b.000003", 4, "DROP TABLE t")
                ],
                0
            ),
            later("b.000010", 4)
        );
        assert_eq!(
            told(&[("b.000003", 4, "alter table SHOP.T add a int")], 0),
            later("b.000003", 4)
        );
        assert_eq!(
            told(&[("b.000003", 4, "DROP DATABASE shop")], 0),
            later("b.000003", 4)
        );
        assert_eq!(told(&[("b.000003", 4, "TRUNCATE t")], 0), Ok(()));
        assert_eq!(
            told(&[("b.000003", 4, "ALTER TABLE other.t ADD a INT")], 0),
            Ok(())
        );
        // Inside one payload the events' numbers tell.
        assert_eq!(told(&[("b.000002", 100, "CREATE TABLE t (a INT)")], 2), Ok(()));
        assert_eq!(
            told(&[("b.000002", 100, "CREATE TABLE t (a INT)")], 0),
            later("b.000002", 100)
        );
        assert_eq!(
            Present::new(Survey::default(), HashMap::new())
                .of("shop", "t", &(LogPos::new("b.000001", 4), 0))
                .err(),
            Some(Problem::NoNames {
                table: "shop.t".into()
            })
        );
    }
}
