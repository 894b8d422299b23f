//! QUERY events.

use serde::{Deserialize, Serialize};

/// A table a statement defines anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DdlTarget {
    /// Its schema.
    pub schema: String,
    /// Its name; none when the statement is about the whole schema.
    pub table: Option<String>,
    /// What the statement does with it.
    pub kind: Statement,
}

/// What kind of statement a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Statement {
    /// CREATE.
    Create,
    /// ALTER (and CREATE or DROP INDEX).
    Alter,
    /// DROP.
    Drop,
    /// RENAME.
    Rename,
    /// TRUNCATE.
    Truncate,
    /// Anything else that changes no row.
    Other,
}
