//! Who may give which role to whom: the page's table, in one place.
//!
//! Owners and admins manage members. Only owners make or unmake admins and owners. Nobody changes or removes their own role. The last
//! owner stays. A role that is limited to an agent pool is at most operator.

use std::collections::BTreeMap;

use types::{PoolId, Role, Seat, UserId};

/// Why a change of a membership is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The actor is the target.
    #[error("nobody changes their own role: another admin or owner can")]
    OwnRole,
    /// The target is the only owner.
    #[error("a tenant keeps at least one owner: make somebody else an owner first")]
    LastOwner,
    /// An admin or an owner would come or go, and the actor is no owner.
    #[error("only owners make or unmake admins and owners")]
    OnlyOwners,
    /// The actor manages no members, or no longer.
    #[error("managing members takes the role admin in the whole tenant")]
    RoleTooLow,
    /// A role above operator was to be limited to a pool.
    #[error("a role in a single agent pool is at most operator")]
    PoolRoleTooHigh,
}

/// A person and what they are in the whole tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Who.
    pub(crate) user: UserId,
    /// As what; none is in some pools only, or not at all.
    pub(crate) role: Option<Role>,
}

impl Standing {
    /// Somebody who is no member.
    pub(crate) fn nobody(user: UserId) -> Self {
        Self { user, role: None }
    }
}

/// What `asked` is worth now that its person is `role` in the whole tenant and this in single pools: no more than either says. So a role
/// that was lost since the request was let in is lost, and an API key is no more than its owner.
pub(crate) fn still(asked: &Seat, role: Option<Role>, pools: BTreeMap<PoolId, Role>) -> Seat {
    let now = Seat {
        role,
        pools,
        ..asked.clone()
    };
    let pools = asked.pools.keys().chain(now.pools.keys());
    let in_pool = |pool: &PoolId| Some((*pool, asked.role_in(*pool).min(now.role_in(*pool))?));
    Seat {
        role: asked.role.min(now.role),
        pools: pools.filter_map(in_pool).collect(),
        ..asked.clone()
    }
}

/// Whether `actor` may make `target` a `new`, in a tenant with this many owners.
pub(crate) fn set_role(actor: Standing, target: Standing, new: Role, owners: u64) -> Result<(), Refusal> {
    if actor.user == target.user {
        return Err(Refusal::OwnRole);
    }
    if target.role == Some(Role::Owner) && new != Role::Owner && owners <= 1 {
        return Err(Refusal::LastOwner);
    }
    manages(actor, target.role.max(Some(new)))
}

/// Whether `actor` may end `target`'s membership, in a tenant with this many owners.
pub(crate) fn remove(actor: Standing, target: Standing, owners: u64) -> Result<(), Refusal> {
    if actor.user == target.user {
        return Err(Refusal::OwnRole);
    }
    if target.role == Some(Role::Owner) && owners <= 1 {
        return Err(Refusal::LastOwner);
    }
    manages(actor, target.role)
}

/// Whether `actor` may give or take a role in one pool. What `target` is in the whole tenant is left alone.
pub(crate) fn bind(actor: Standing, target: UserId, role: Option<Role>) -> Result<(), Refusal> {
    if actor.user == target {
        return Err(Refusal::OwnRole);
    }
    manages(actor, None)?;
    at_most_operator(role)
}

/// Whether `actor` may invite somebody as `role`, limited to a pool or not.
pub(crate) fn invite(actor: Standing, role: Role, in_pool: bool) -> Result<(), Refusal> {
    manages(actor, Some(role))?;
    at_most_operator(in_pool.then_some(role))
}

/// Whether `actor` may take an invitation as `role` back.
pub(crate) fn uninvite(actor: Standing, role: Role) -> Result<(), Refusal> {
    manages(actor, Some(role))
}

/// Whether `actor` may deal with somebody who is or becomes `highest`.
fn manages(actor: Standing, highest: Option<Role>) -> Result<(), Refusal> {
    match actor.role {
        Some(Role::Owner) => Ok(()),
        Some(Role::Admin) if highest < Some(Role::Admin) => Ok(()),
        Some(Role::Admin) => Err(Refusal::OnlyOwners),
        _ => Err(Refusal::RoleTooLow),
    }
}

fn at_most_operator(role: Option<Role>) -> Result<(), Refusal> {
    match role {
        Some(role) if role > Role::Operator => Err(Refusal::PoolRoleTooHigh),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use types::{Plan, PoolId, Region, Role, Seat, TenantId, UserId};

    use super::{Refusal, Standing, bind, invite, remove, set_role, still, uninvite};

    #[test]
    fn a_seat_is_worth_the_lesser_of_what_was_asked_as_and_what_is() {
        let (eu, us) = (PoolId::fresh(), PoolId::fresh());
        let (viewer, operator, owner) = (Some(Role::Viewer), Some(Role::Operator), Some(Role::Owner));
        let only = |pool, role| BTreeMap::from([(pool, role)]);
        let none = BTreeMap::new;
        for (asked, now, left) in [
            ((owner, none()), (operator, none()), (operator, none())),
            ((operator, none()), (owner, none()), (operator, none())),
            (
                (operator, none()),
                (None, only(eu, Role::Operator)),
                (None, only(eu, Role::Operator)),
            ),
            // An owner's key for one pool.
            (
                (None, only(eu, Role::Admin)),
                (owner, none()),
                (None, only(eu, Role::Admin)),
            ),
            (
                (None, only(eu, Role::Admin)),
                (viewer, only(us, Role::Operator)),
                (None, only(eu, Role::Viewer)),
            ),
            (
                (None, only(eu, Role::Operator)),
                (None, only(us, Role::Operator)),
                (None, none()),
            ),
            (
                (viewer, only(eu, Role::Operator)),
                (viewer, none()),
                (viewer, only(eu, Role::Viewer)),
            ),
            ((owner, none()), (None, none()), (None, none())),
        ] {
            let seat = Seat {
                tenant: TenantId::fresh(),
                region: Region::Eu,
                plan: Plan::Free,
                role: asked.0,
                pools: asked.1,
                scopes: Some(vec!["servers:manage".to_owned()]),
            };
            let found = still(&seat, now.0, now.1);
            assert_eq!((found.role, &found.pools), (left.0, &left.1), "{seat:?}");
            assert_eq!(found.scopes, seat.scopes);
        }
    }

    fn somebody(role: Option<Role>) -> Standing {
        Standing {
            user: UserId::fresh(),
            role,
        }
    }

    #[test]
    fn nobody_changes_or_removes_their_own_role() {
        for role in Role::ALL {
            let me = somebody(Some(*role));
            for new in Role::ALL {
                assert_eq!(set_role(me, me, *new, 2), Err(Refusal::OwnRole));
                assert_eq!(bind(me, me.user, Some(*new)), Err(Refusal::OwnRole));
            }
            assert_eq!(remove(me, me, 2), Err(Refusal::OwnRole));
        }
    }

    #[test]
    fn the_last_owner_stays_whoever_asks() {
        let last = somebody(Some(Role::Owner));
        for role in [Role::Admin, Role::Owner] {
            let actor = somebody(Some(role));
            assert_eq!(set_role(actor, last, Role::Admin, 1), Err(Refusal::LastOwner));
            assert_eq!(remove(actor, last, 1), Err(Refusal::LastOwner));
        }
        let other = somebody(Some(Role::Owner));
        assert_eq!(set_role(other, last, Role::Viewer, 2), Ok(()));
        assert_eq!(remove(other, last, 2), Ok(()));
        assert_eq!(set_role(other, last, Role::Owner, 1), Ok(()));
    }

    #[test]
    fn only_owners_make_or_unmake_admins_and_owners() {
        let (owner, admin) = (somebody(Some(Role::Owner)), somebody(Some(Role::Admin)));
        for high in [Role::Admin, Role::Owner] {
            let (them, low) = (somebody(Some(high)), somebody(Some(Role::Viewer)));
            assert_eq!(set_role(admin, low, high, 2), Err(Refusal::OnlyOwners));
            assert_eq!(set_role(admin, them, Role::Viewer, 2), Err(Refusal::OnlyOwners));
            assert_eq!(remove(admin, them, 2), Err(Refusal::OnlyOwners));
            assert_eq!(invite(admin, high, false), Err(Refusal::OnlyOwners));
            assert_eq!(uninvite(admin, high), Err(Refusal::OnlyOwners));
            assert_eq!(set_role(owner, low, high, 2), Ok(()));
            assert_eq!(remove(owner, them, 2), Ok(()));
            assert_eq!(invite(owner, high, false), Ok(()));
        }
        for role in [Role::Viewer, Role::Analyst, Role::Operator] {
            assert_eq!(set_role(admin, somebody(None), role, 1), Ok(()));
            assert_eq!(invite(admin, role, false), Ok(()));
            assert_eq!(remove(admin, somebody(Some(role)), 1), Ok(()));
        }
    }

    #[test]
    fn who_is_below_admin_manages_nobody() {
        for role in [
            None,
            Some(Role::Viewer),
            Some(Role::Analyst),
            Some(Role::Operator),
        ] {
            let actor = somebody(role);
            let target = somebody(Some(Role::Viewer));
            assert_eq!(set_role(actor, target, Role::Viewer, 1), Err(Refusal::RoleTooLow));
            assert_eq!(remove(actor, target, 1), Err(Refusal::RoleTooLow));
            assert_eq!(
                bind(actor, target.user, Some(Role::Viewer)),
                Err(Refusal::RoleTooLow)
            );
            assert_eq!(bind(actor, target.user, None), Err(Refusal::RoleTooLow));
            assert_eq!(invite(actor, Role::Viewer, true), Err(Refusal::RoleTooLow));
        }
    }

    #[test]
    fn a_role_in_one_pool_is_at_most_operator() {
        let (owner, target) = (somebody(Some(Role::Owner)), UserId::fresh());
        for role in Role::ALL {
            let expected = if *role > Role::Operator {
                Err(Refusal::PoolRoleTooHigh)
            } else {
                Ok(())
            };
            assert_eq!(bind(owner, target, Some(*role)), expected);
            assert_eq!(invite(owner, *role, true), expected);
            assert_eq!(invite(owner, *role, false), Ok(()));
        }
    }
}
