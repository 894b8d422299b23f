//! A change as the forms of this folder see it, whether it was read from the store beside us or came through the mesh.

use std::fmt;

use binlog::{Change, Gtid, Op, Problem, SchemaChange};
use change::write_change;
use proto::change::v1 as pb;
use types::Micros;

/// A borrowed change.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shown<'a> {
    /// From a store.
    Stored(&'a Change),
    /// From a message, which was looked at by [`Shown::sent`].
    Sent(&'a pb::Change, &'a pb::Position, Op),
}

/// What a change and a statement have in common: where, by which transaction, when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    /// The timeline.
    pub(crate) epoch: u32,
    /// The log file.
    pub(crate) file: &'a str,
    /// Where in it.
    pub(crate) offset: u64,
    /// The number within the transaction.
    pub(crate) ordinal: u64,
    /// The transaction's GTID.
    pub(crate) gtid: Option<Name<'a>>,
    /// When it was committed.
    pub(crate) commit_time: Micros,
    /// The connection that made it.
    pub(crate) thread_id: Option<u32>,
}

/// A GTID that is written only where it is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Name<'a> {
    /// From a store.
    Gtid(&'a Gtid),
    /// From a message.
    Text(&'a str),
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gtid(gtid) => gtid.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl<'a> From<&'a Change> for Shown<'a> {
    fn from(change: &'a Change) -> Self {
        Self::Stored(change)
    }
}

impl<'a> Shown<'a> {
    /// A change of a message; none if it does not say where it stands or what it did.
    pub(crate) fn sent(change: &'a pb::Change) -> Option<Self> {
        let op = match change.op() {
            pb::Op::Unspecified => return None,
            pb::Op::Insert => Op::Insert,
            pb::Op::Update => Op::Update,
            pb::Op::Delete => Op::Delete,
        };
        Some(Self::Sent(change, change.position.as_ref()?, op))
    }

    /// Where, by which transaction, when.
    pub(crate) fn head(self) -> Head<'a> {
        match self {
            Self::Stored(change) => Head {
                epoch: change.position.epoch,
                file: change.position.at.file.as_str(),
                offset: change.position.at.offset,
                ordinal: change.position.ordinal,
                gtid: change.gtid.as_ref().map(Name::Gtid),
                commit_time: change.commit_time,
                thread_id: change.thread_id,
            },
            Self::Sent(change, position, _) => Head {
                gtid: Some(&*change.gtid)
                    .filter(|gtid| !gtid.is_empty())
                    .map(Name::Text),
                commit_time: Micros(change.commit_micros),
                thread_id: change.thread_id,
                ..Head::at(position)
            },
        }
    }

    /// The table's schema.
    pub(crate) fn schema(self) -> &'a str {
        match self {
            Self::Stored(change) => &change.table.schema,
            Self::Sent(change, ..) => &change.schema,
        }
    }

    /// The table.
    pub(crate) fn table(self) -> &'a str {
        match self {
            Self::Stored(change) => &change.table.name,
            Self::Sent(change, ..) => &change.table,
        }
    }

    /// What it did.
    pub(crate) fn op(self) -> Op {
        match self {
            Self::Stored(change) => change.op,
            Self::Sent(.., op) => op,
        }
    }

    /// The text of the statement.
    pub(crate) fn query(self) -> Option<&'a str> {
        match self {
            Self::Stored(change) => change.query.as_deref(),
            Self::Sent(change, ..) => change.query.as_deref(),
        }
    }

    /// The number of the table's definition.
    pub(crate) fn schema_version(self) -> u32 {
        match self {
            Self::Stored(change) => change.schema_version,
            Self::Sent(change, ..) => change.schema_version,
        }
    }

    /// Appends it as one JSON object.
    pub(crate) fn write_json(self, out: &mut String) -> Result<(), Problem> {
        match self {
            Self::Stored(change) => change.write_json(out),
            Self::Sent(change, ..) => {
                write_change(change, out);
                Ok(())
            }
        }
    }
}

impl<'a> Head<'a> {
    fn at(position: &'a pb::Position) -> Self {
        Self {
            epoch: position.epoch,
            file: &position.file,
            offset: position.offset,
            ordinal: position.ordinal,
            gtid: None,
            commit_time: Micros(0),
            thread_id: None,
        }
    }
}

/// A borrowed statement that changed definitions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShownStatement<'a> {
    /// Where, by which transaction, when.
    pub(crate) head: Head<'a>,
    /// The statement.
    pub(crate) text: &'a str,
}

impl<'a> From<&'a SchemaChange> for ShownStatement<'a> {
    fn from(change: &'a SchemaChange) -> Self {
        Self {
            head: Head {
                epoch: change.position.epoch,
                file: change.position.at.file.as_str(),
                offset: change.position.at.offset,
                ordinal: change.position.ordinal,
                gtid: change.gtid.as_ref().map(Name::Gtid),
                commit_time: change.commit_time,
                thread_id: change.thread_id,
            },
            text: &change.text,
        }
    }
}

impl<'a> ShownStatement<'a> {
    /// A statement of a message; none if it does not say where it stands.
    pub(crate) fn sent(change: &'a pb::SchemaChange) -> Option<Self> {
        Some(Self {
            head: Head {
                gtid: Some(&*change.gtid)
                    .filter(|gtid| !gtid.is_empty())
                    .map(Name::Text),
                commit_time: change.commit_time.map_or(Micros(0), |time| micros(&time)),
                thread_id: change.thread_id,
                ..Head::at(change.position.as_ref()?)
            },
            text: &change.text,
        })
    }
}

/// The instant of a message.
pub(crate) fn micros(time: &prost_types::Timestamp) -> Micros {
    let seconds = time.seconds.saturating_mul(1_000_000);
    Micros(seconds.saturating_add(i64::from(time.nanos) / 1_000))
}
