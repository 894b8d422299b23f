//! The end of a tenant.

use types::{Micros, TenantId};

/// The vault's word that a tenant's keys are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// JSON, to the byte what was signed.
    pub(crate) statement: String,
    pub(crate) signature: String,
    pub(crate) key_id: String,
}

/// A tenant that is gone, or going.
#[derive(Clone, Debug)]
pub(crate) struct Deletion {
    pub(crate) tenant: TenantId,
    pub(crate) requested: Micros,
    /// There once the keys are gone.
    pub(crate) certificate: Option<Certificate>,
    /// When nothing was left.
    pub(crate) ended: Option<Micros>,
}
