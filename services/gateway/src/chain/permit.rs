//! Whether the caller may. Services decide again, down to the single pool; here nothing passes that none of them could allow.
use chassis::policy::{CallerKind, Rule};
use types::{Context, Feature, Plan, Subject};

use crate::error::{Cause, Layer, Refusal};

/// Checks `caller` against the method's rule.
pub(crate) fn check(rule: &Rule, caller: Option<&Context>) -> Result<(), Refusal> {
    verdict(rule, caller).map_err(|cause| Refusal::new(Layer::Permit, cause))
}

fn verdict(rule: &Rule, caller: Option<&Context>) -> Result<(), Cause> {
    if rule.caller == CallerKind::Public {
        return Ok(());
    }
    let caller = caller
        .filter(|_| rule.caller == CallerKind::User)
        .ok_or(Cause::CredentialMissing)?;
    if rule.session_only && matches!(caller.subject, Subject::Key { .. }) {
        return Err(Cause::SessionRequired);
    }
    if let Some(needed) = rule.lowest_role {
        let seat = caller.seat.as_ref().ok_or(Cause::TenantRequired)?;
        let role = if rule.tenant_wide {
            seat.role
        } else {
            seat.highest_role()
        };
        if role < Some(needed) {
            return Err(Cause::RoleTooLow(needed.word()));
        }
    }
    let scopes = caller.seat.as_ref().and_then(|seat| seat.scopes.as_ref());
    if scopes.is_some_and(|scopes| !scopes.contains(&rule.permission)) {
        return Err(Cause::ScopeMissing(rule.permission.clone()));
    }
    match &rule.feature {
        None => Ok(()),
        Some(feature) => has(caller, feature),
    }
}

/// Whether the plan of the tenant has the feature. One that is not known is in no plan; rules with such do not load.
fn has(caller: &Context, feature: &str) -> Result<(), Cause> {
    let plan = caller.seat.as_ref().ok_or(Cause::TenantRequired)?.plan;
    let feature = Feature::ALL.iter().find(|known| known.word() == feature);
    let missing = |feature: &Feature| {
        let with = Plan::ALL.iter().find(|plan| plan.has(*feature));
        Cause::FeatureMissing {
            feature: feature.word(),
            plan: plan.word(),
            with: with.map_or("no other", |plan| plan.word()),
        }
    };
    match feature {
        Some(feature) if plan.has(*feature) => Ok(()),
        Some(feature) => Err(missing(feature)),
        None => Err(Cause::Internal("a rule takes an unknown feature".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use chassis::policy::{Audit, CallerKind, Idempotency, Rule, StepUp};
    use types::{
        Context, Fault as _, KeyId, Plan, PoolId, Region, Role, Seat, SessionId, Subject, TenantId, UserId,
    };

    use super::check;

    fn rule(caller: CallerKind, lowest_role: Option<Role>) -> Rule {
        Rule {
            path: "/p.S/M".to_owned(),
            caller,
            lowest_role,
            permission: "servers:manage".to_owned(),
            step_up: StepUp::None,
            audit: Audit::None,
            cost: 1,
            strict_rate: false,
            feature: None,
            session_only: false,
            tenant_wide: false,
            timeout: Duration::from_secs(15),
            idempotency: Idempotency::Unknown,
            no_step_up_because: String::new(),
            client_streaming: false,
            server_streaming: false,
        }
    }

    fn person(seat: Option<Seat>) -> Context {
        Context {
            subject: Subject::Person {
                user: UserId::fresh(),
                session: SessionId::fresh(),
            },
            seat,
            mfa_enabled: false,
        }
    }

    fn seat(role: Option<Role>, pool: Option<Role>, scopes: Option<&[&str]>) -> Seat {
        Seat {
            tenant: TenantId::fresh(),
            region: Region::Eu,
            plan: Plan::Free,
            role,
            pools: pool
                .into_iter()
                .map(|role| (PoolId::fresh(), role))
                .collect::<BTreeMap<_, _>>(),
            scopes: scopes.map(|scopes| scopes.iter().map(ToString::to_string).collect()),
        }
    }

    fn reason(rule: &Rule, caller: Option<&Context>) -> Option<&'static str> {
        check(rule, caller).err().map(|refusal| refusal.cause.reason())
    }

    #[test]
    fn the_role_must_be_high_enough_in_the_tenant_or_in_some_pool() {
        let operator = rule(CallerKind::User, Some(Role::Operator));
        for role in Role::ALL {
            let refused = reason(&operator, Some(&person(Some(seat(Some(*role), None, None)))));
            assert_eq!(
                refused,
                (*role < Role::Operator).then_some("ROLE_TOO_LOW"),
                "{role:?}"
            );
        }
        assert_eq!(
            reason(
                &operator,
                Some(&person(Some(seat(Some(Role::Viewer), Some(Role::Admin), None))))
            ),
            None
        );
        assert_eq!(
            reason(&operator, Some(&person(Some(seat(None, None, None))))),
            Some("ROLE_TOO_LOW")
        );
        assert_eq!(reason(&operator, Some(&person(None))), Some("TENANT_REQUIRED"));
        assert_eq!(reason(&operator, None), Some("CREDENTIAL_MISSING"));
        assert_eq!(reason(&rule(CallerKind::User, None), Some(&person(None))), None);
    }

    #[test]
    fn what_concerns_the_whole_tenant_takes_the_role_in_the_whole_tenant() {
        let mut wide = rule(CallerKind::User, Some(Role::Operator));
        let of_pool = person(Some(seat(Some(Role::Viewer), Some(Role::Admin), None)));
        let of_tenant = person(Some(seat(Some(Role::Operator), None, None)));
        assert_eq!(reason(&wide, Some(&of_pool)), None);
        wide.tenant_wide = true;
        assert_eq!(reason(&wide, Some(&of_pool)), Some("ROLE_TOO_LOW"));
        assert_eq!(reason(&wide, Some(&of_tenant)), None);
        let nowhere = person(Some(seat(None, Some(Role::Owner), None)));
        assert_eq!(reason(&wide, Some(&nowhere)), Some("ROLE_TOO_LOW"));
    }

    #[test]
    fn a_key_has_its_scopes_only_and_no_session() {
        let mut manage = rule(CallerKind::User, Some(Role::Operator));
        let with = |scopes: &[&str]| Context {
            subject: Subject::Key {
                key: KeyId::fresh(),
                owner: UserId::fresh(),
            },
            ..person(Some(seat(Some(Role::Owner), None, Some(scopes))))
        };
        assert_eq!(reason(&manage, Some(&with(&["servers:manage"]))), None);
        assert_eq!(
            reason(&manage, Some(&with(&["tenant:view"]))),
            Some("SCOPE_MISSING")
        );
        assert_eq!(reason(&manage, Some(&with(&[]))), Some("SCOPE_MISSING"));
        manage.session_only = true;
        assert_eq!(
            reason(&manage, Some(&with(&["servers:manage"]))),
            Some("SESSION_REQUIRED")
        );
    }

    #[test]
    fn only_what_is_public_is_for_everyone_and_nothing_is_for_agents_and_peers_here() {
        let owner = person(Some(seat(Some(Role::Owner), None, None)));
        assert_eq!(reason(&rule(CallerKind::Public, None), None), None);
        for caller in [CallerKind::Agent, CallerKind::Peers(vec!["gateway".to_owned()])] {
            assert_eq!(
                reason(&rule(caller, None), Some(&owner)),
                Some("CREDENTIAL_MISSING")
            );
        }
    }

    #[test]
    fn what_only_some_plans_have_takes_one_of_them() {
        let mut dear = rule(CallerKind::User, Some(Role::Admin));
        dear.feature = Some("audit-export".to_owned());
        let mut owner = person(Some(seat(Some(Role::Owner), None, None)));
        let refusal = check(&dear, Some(&owner)).expect_err("a free plan");
        assert_eq!(refusal.cause.reason(), "PLAN_FEATURE");
        assert_eq!(
            refusal.cause.to_string(),
            "the plan free does not have audit-export, the plan pro does"
        );
        for plan in Plan::ALL {
            owner.seat.as_mut().expect("a seat").plan = *plan;
            let refused = (*plan == Plan::Free).then_some("PLAN_FEATURE");
            assert_eq!(reason(&dear, Some(&owner)), refused, "{plan:?}");
        }
        owner.seat.as_mut().expect("a seat").role = Some(Role::Viewer);
        assert_eq!(reason(&dear, Some(&owner)), Some("ROLE_TOO_LOW"));
    }
}
