//! What is signed: JSON whose first field says what it is, so that no signature serves for something else. The exact bytes count.

use ring::digest::{SHA256, digest};
use serde::Serialize;
use types::TenantId;

use super::state::State;

/// Bytes as the statements write them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// SHA-256, as the statements write it.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

/// The end of a tenant's audit chain at a time.
#[derive(Serialize)]
pub(crate) struct Head<'a> {
    #[serde(rename = "type")]
    what: &'static str,
    tenant: String,
    region: &'static str,
    cell: &'a str,
    size: i64,
    hash: String,
    time: &'a str,
    /// SHA-256 of the statement of the head before; empty for the first.
    prev: String,
}

impl<'a> Head<'a> {
    /// `previous` is the statement of the head before.
    pub(crate) fn new(
        cell: &'a crate::Cell,
        tenant: TenantId,
        size: i64,
        hash: &[u8],
        time: &'a str,
        previous: Option<&str>,
    ) -> Self {
        Self {
            what: "audit-head",
            tenant: tenant.to_string(),
            region: cell.region.word(),
            cell: &cell.name,
            size,
            hash: hex(hash),
            time,
            prev: previous.map_or_else(String::new, |statement| sha256(statement.as_bytes())),
        }
    }
}

/// A key that was destroyed: its wrapped bytes' digest, where they were still there.
#[derive(Serialize)]
pub(crate) struct Destroyed {
    version: i64,
    state: &'static str,
    sha256: Option<String>,
}

impl Destroyed {
    /// `state` is that before the destruction.
    pub(crate) fn new(version: i64, state: State, wrapped: Option<&[u8]>) -> Self {
        Self {
            version,
            state: state.word(),
            sha256: wrapped.map(sha256),
        }
    }
}

/// That all keys of a tenant are gone.
#[derive(Serialize)]
pub(crate) struct Destruction<'a> {
    #[serde(rename = "type")]
    what: &'static str,
    tenant: String,
    region: &'static str,
    cell: &'a str,
    time: &'a str,
    keys: Vec<Destroyed>,
}

impl<'a> Destruction<'a> {
    /// At `time`.
    pub(crate) fn new(cell: &'a crate::Cell, tenant: TenantId, time: &'a str, keys: Vec<Destroyed>) -> Self {
        Self {
            what: "keys-destroyed",
            tenant: tenant.to_string(),
            region: cell.region.word(),
            cell: &cell.name,
            time,
            keys,
        }
    }
}
