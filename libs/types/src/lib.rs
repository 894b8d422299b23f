//! The words of Trailmesh.
//!
//! Every crate may depend on this one and it depends on none of them: no I/O, no async, no framework. A word belongs here when
//! two crates must mean exactly the same by it.
//!
//! * [`Code`] and [`Fault`]: what went wrong, free of any transport; the edges map a code to an exit status, a gRPC status or an
//!   HTTP status in one place each.
//! * [`UserId`] and its kin: names of things, each of its own type.
//! * [`Caller`], [`Context`], [`Scope`]: who asks, as what, for which tenant.
//! * [`Limits`], [`Feature`], [`PlanLimit`]: what a plan allows.
//! * [`access`]: which tables and columns a role sees.
//! * [`Secret`]: a value that is never printed and is wiped when dropped.
//! * [`Micros`]: an instant in microseconds, as binary logs carry it.

pub mod access;
mod caller;
mod code;
mod id;
mod micros;
mod plan;
mod secret;
mod text;

pub use caller::{Caller, Context, Errand, Grant, Plan, Region, Role, Scope, Seat, Subject};
pub use code::{Code, Fault, chain};
pub use id::{
    AgentId, AuditId, IdError, InvitationId, KeyId, PlanId, PoolId, RequestId, RuleId, ServerId, SessionId,
    SinkId, TenantId, UploadId, UserId,
};
pub use micros::{Micros, MicrosError};
pub use plan::{Feature, Limits, PlanLimit};
pub use secret::Secret;
pub use text::is_shown;
