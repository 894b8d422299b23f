//! Tenants and who is in them.

use std::collections::BTreeMap;

use types::{InvitationId, Micros, Plan, PoolId, Region, Role, TenantId, UserId};

/// A tenant.
#[derive(Clone, Debug)]
pub(crate) struct Tenant {
    pub(crate) id: TenantId,
    pub(crate) name: String,
    pub(crate) region: Region,
    pub(crate) cell: String,
    pub(crate) plan: Plan,
    pub(crate) created: Micros,
}

/// What a person is in a tenant.
#[derive(Clone, Debug)]
pub(crate) struct Membership {
    pub(crate) tenant: Tenant,
    /// In the whole tenant; none is in single pools only.
    pub(crate) role: Option<Role>,
    /// Without a seat until the plan has room.
    pub(crate) frozen: bool,
}

/// A person in a tenant.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) user: UserId,
    /// The verified address; empty where the account is gone.
    pub(crate) email: String,
    pub(crate) display_name: String,
    /// In the whole tenant; none is in single pools only.
    pub(crate) role: Option<Role>,
    pub(crate) bindings: BTreeMap<PoolId, Role>,
    pub(crate) joined: Micros,
    /// Has no seat until the plan has room.
    pub(crate) frozen: bool,
}

/// An agent pool.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    pub(crate) id: PoolId,
    pub(crate) name: String,
    pub(crate) created: Micros,
}

/// The pool that every tenant begins with.
pub(crate) const DEFAULT_POOL: &str = "default";

/// An invitation that nobody has accepted.
#[derive(Clone, Debug)]
pub(crate) struct Invitation {
    pub(crate) id: InvitationId,
    pub(crate) email: String,
    pub(crate) role: Role,
    /// None is the whole tenant.
    pub(crate) pool: Option<PoolId>,
    pub(crate) invited_by: UserId,
    pub(crate) created: Micros,
    pub(crate) expires: Micros,
}
