//! How many of each thing a tenant has at most, whatever its plan: what a plan allows is in `types::Limits`. They keep lists, rule decisions
//! and one tenant's share of a database bounded; a team that needs more has several tenants.

/// Tenants that one person owns.
pub(crate) const TENANTS: u32 = 10;
/// Invitations that nobody has accepted: each is mail to somebody who may not want it.
pub(crate) const INVITATIONS: u32 = 200;
/// Invitations that are mailed within an hour: what a stranger's mailbox, and the installation's name as a sender, can bear of one tenant.
pub(crate) const INVITATIONS_PER_HOUR: u32 = 50;
/// Agent pools: a context token names those that a member has roles in.
pub(crate) const POOLS: u32 = 100;
/// Access rules: all are read for one decision.
pub(crate) const RULES: u32 = 1_000;
