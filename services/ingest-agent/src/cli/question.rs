//! The filters of the command line as a question, and what is wrong with one in the words of the command line.

use answer::{
    names::{Tables, Transaction},
    question::{Question, Refused, Wrong},
};
use binlog::{KeyError, Op};
use types::Code;

use super::args::{Filters, OpName};
use crate::{error::Error, render::text::visible};

/// What the words of a command line ask for.
pub(super) fn question(
    tables: &[Tables],
    keys: &[String],
    filters: &Filters,
    transaction: Option<&Transaction>,
) -> Question {
    Question {
        tables: tables.to_vec(),
        keys: keys.to_vec(),
        ops: filters.ops.iter().map(|op| op.op()).collect(),
        since: filters.since,
        until: filters.until,
        gtid: filters.gtid.clone(),
        column: filters.column.clone(),
        transaction: transaction.cloned(),
        ..Question::default()
    }
}

impl OpName {
    fn op(self) -> Op {
        match self {
            Self::Insert => Op::Insert,
            Self::Update => Op::Update,
            Self::Delete => Op::Delete,
        }
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Wrong(wrong) => told(&wrong),
            Refused::Store(error) => Self::from_fault("the store", &error),
        }
    }
}

fn told(wrong: &Wrong) -> Error {
    let invalid = |what: &str| Error::new(Code::Invalid, what, wrong.why());
    match wrong {
        Wrong::Times { since, until } => Error::new(
            Code::Invalid,
            "--since",
            format!("{since} is after --until {until}, so nothing can match"),
        ),
        Wrong::OtherTransaction => invalid("--gtid"),
        Wrong::KeyOfNoTable => {
            invalid("--key").hint("name exactly one table, as in: trail changes shop.orders --key 42")
        }
        Wrong::Key { table, error, .. } => invalid(&wrong.what()).hint(match error {
            KeyError::NoKey(_) => {
                format!("choose its rows by time or transaction instead: trail changes {table} --since 1h")
            }
            _ => format!(
                "see trail schema {table}; JSON works for values with commas: '{{\"column\":\"a,b\"}}'"
            ),
        }),
        Wrong::NoColumn { known, .. } => {
            invalid("--column").hint(format!("the columns are {}", known.join(", ")))
        }
        Wrong::NoTable { nearest, .. } => {
            Error::new(Code::Missing, wrong.what(), wrong.why()).hint(match nearest {
                Some(name) => format!("did you mean {}? trail tables lists all", visible(name)),
                None => "trail tables lists what it has seen, trail coverage from when on".to_owned(),
            })
        }
    }
}
