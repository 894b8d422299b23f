//! Short accounts of a store.

use types::Micros;

use crate::{Place, Source};

/// What a store holds about a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSummary {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub table: String,
    /// Rows inserted.
    pub inserts: u64,
    /// Rows updated.
    pub updates: u64,
    /// Rows deleted.
    pub deletes: u64,
    /// Commit time of the earliest change.
    pub first: Micros,
    /// Commit time of the latest change.
    pub last: Micros,
    /// The definition in force at the latest change.
    pub schema_version: u32,
}

/// The state of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Identity of the store, made at its creation.
    pub store: String,
    /// Version of the format on disk.
    pub format: u32,
    /// What it follows; none before the first start.
    pub source: Option<Source>,
    /// Up to where the latest interval came.
    pub position: Option<Place>,
    /// Commit time of the latest transaction.
    pub last_commit: Option<Micros>,
    /// Transactions held.
    pub transactions: u64,
    /// Row changes held.
    pub changes: u64,
    /// Sealed segments.
    pub segments: usize,
    /// Bytes of segments, schemas, tails and manifest on disk.
    pub bytes: u64,
    /// Bytes of those that are not sealed yet.
    pub tail_bytes: u64,
}
