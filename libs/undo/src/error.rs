//! Why there is no plan.

use binlog::{Position, Problem};
use types::{Code, Fault};

/// Why a plan cannot be made. A row that cannot be undone is no error: the plan lists it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The caller must feed changes as the log has them.
    #[error("a change was fed out of the order of the log")]
    Order {
        /// The later of the two, fed first.
        after: Box<Position>,
        /// The earlier one.
        at: Box<Position>,
    },
    /// A stored image does not fit its table's definition.
    #[error("the change at {}:{} cannot be read: {problem}", at.at, at.ordinal)]
    Image {
        /// The change.
        at: Box<Position>,
        /// What is wrong with it.
        problem: Problem,
    },
    /// A schema, table or column whose name cannot be written in SQL text.
    #[error("the name {name:?} cannot be written in a script: {why}; leave its table out of the selection")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// More rows or bytes than the plan's numbers can count.
    #[error("the selection is too large for one plan: {0}; undo it in parts")]
    TooLarge(&'static str),
}

impl Fault for Error {
    fn code(&self) -> Code {
        match self {
            Self::Order { .. } => Code::Internal,
            Self::Image { .. } => Code::Corrupt,
            Self::Name { .. } => Code::Refused,
            Self::TooLarge(_) => Code::Exhausted,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Order { .. } => "OUT_OF_ORDER",
            Self::Image { .. } => "BAD_ROW",
            Self::Name { .. } => "UNWRITABLE_NAME",
            Self::TooLarge(_) => "PLAN_TOO_LARGE",
        }
    }
}
