//! What a subject must be and hold for each method of an agent that is served to it.

use chassis::policy::Table;
use types::{Context, PoolId, Role, Seat};

use crate::Error;

const VIEW: &str = "tenant:view";
const QUERY: &str = "changes:query";
const PLAN: &str = "recovery:plan";

/// A method of an agent, and the permissions of which who is served has one.
struct Served(&'static str, &'static [&'static str]);

/// The methods of agents that take a delegation; all others are delegated to nobody. They answer what methods of query and recovery ask for, so
/// they take what those take.
const SERVED: &[Served] = &[
    Served("Status", &[VIEW, QUERY, PLAN]),
    Served("Coverage", &[VIEW, QUERY, PLAN]),
    Served("Tables", &[QUERY, PLAN]),
    Served("Changes", &[QUERY]),
    Served("Count", &[QUERY]),
    Served("History", &[QUERY]),
    Served("Transaction", &[QUERY]),
    Served("SchemaChanges", &[QUERY]),
    Served("PlanUndo", &[PLAN]),
    Served("WatchUndo", &[PLAN]),
];

/// Somebody to whom a method may be served where their role is high enough.
#[derive(Debug)]
pub(crate) struct Wanted<'c> {
    /// As what they ask.
    pub(crate) seat: &'c Seat,
    /// The lowest role that has one of the permissions.
    lowest: Role,
}

/// Whether `method`, a whole path, of an agent of its tenant may be served to the subject of `context` at all. Which tables and columns it sees is
/// decided where they are known.
pub(crate) fn may_be_served<'c>(
    policy: &Table,
    context: &'c Context,
    method: &str,
) -> Result<Wanted<'c>, Error> {
    let name = method.strip_prefix("/trailmesh.agent.v1.AgentService/");
    let served = name.and_then(|name| SERVED.iter().find(|served| served.0 == name));
    let Served(_, permissions) = served.ok_or_else(|| Error::FieldInvalid {
        field: "method".to_owned(),
        reason: "METHOD_NOT_DELEGATED",
        problem: "the method is none of an agent that takes a delegation",
    })?;
    let giving = policy
        .rules()
        .filter(|rule| permissions.contains(&rule.permission.as_str()));
    let lowest = giving.filter_map(|rule| rule.lowest_role).min();
    let lowest = lowest.ok_or(Error::RoleTooLow)?;
    let seat = context.seat.as_ref().ok_or(Error::RoleTooLow)?;
    if seat.highest_role() < Some(lowest) {
        return Err(Error::RoleTooLow);
    }
    let held = |scopes: &Vec<String>| {
        permissions
            .iter()
            .any(|one| scopes.iter().any(|scope| scope == one))
    };
    if seat.scopes.as_ref().is_some_and(|scopes| !held(scopes)) {
        return Err(Error::ScopeMissing);
    }
    Ok(Wanted { seat, lowest })
}

impl Wanted<'_> {
    /// Whether it is served of a server in `pool`: by the role there, or the one in the whole tenant if that is higher. Who has none there does not
    /// learn that there is such a server.
    pub(crate) fn in_pool(&self, pool: PoolId) -> Result<(), Error> {
        match self.seat.role_in(pool) {
            None => Err(Error::ServerNotFound),
            Some(role) if role < self.lowest => Err(Error::RoleTooLow),
            Some(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use chassis::policy::Table;
    use types::{Context, Plan, PoolId, Region, Role, Seat, SessionId, Subject, TenantId, UserId};

    use super::{Error, SERVED};

    fn policy() -> Table {
        Table::load(proto::DESCRIPTOR_SET).unwrap()
    }

    fn may_be_served(context: &Context, method: &str) -> Result<(), Error> {
        super::may_be_served(&policy(), context, method).map(|_| ())
    }

    fn path(name: &str) -> String {
        format!("/trailmesh.agent.v1.AgentService/{name}")
    }

    fn context(role: Option<Role>, pool: Option<Role>, scopes: Option<&[&str]>) -> Context {
        let scopes = scopes.map(|scopes| scopes.iter().map(|scope| (*scope).to_owned()).collect());
        Context {
            subject: Subject::Person {
                user: UserId::fresh(),
                session: SessionId::fresh(),
            },
            seat: Some(Seat {
                tenant: TenantId::fresh(),
                region: Region::Eu,
                plan: Plan::Pro,
                role,
                pools: pool
                    .map(|role| (PoolId::fresh(), role))
                    .into_iter()
                    .collect::<BTreeMap<_, _>>(),
                scopes,
            }),
            mfa_enabled: false,
        }
    }

    /// Whoever adds a method to agents decides here who is served.
    #[test]
    fn every_method_of_agents_is_listed_or_carries_no_row() {
        let table = policy();
        let all = table
            .rules()
            .filter(|rule| rule.service() == "trailmesh.agent.v1.AgentService");
        let all: BTreeSet<&str> = all.map(|rule| rule.method()).collect();
        let free = ["Hello", "Configure", "Statistics"];
        let listed: BTreeSet<&str> = SERVED.iter().map(|served| served.0).chain(free).collect();
        assert_eq!(all, listed);
        for name in free {
            let owner = context(Some(Role::Owner), None, None);
            assert!(matches!(
                may_be_served(&owner, &path(name)),
                Err(Error::FieldInvalid { .. })
            ));
        }
    }

    #[test]
    fn each_role_is_served_what_it_may_ask_for() {
        for (name, lowest) in [
            ("Status", Role::Viewer),
            ("Coverage", Role::Viewer),
            ("Tables", Role::Analyst),
            ("Changes", Role::Analyst),
            ("Count", Role::Analyst),
            ("History", Role::Analyst),
            ("Transaction", Role::Analyst),
            ("SchemaChanges", Role::Analyst),
            ("PlanUndo", Role::Operator),
            ("WatchUndo", Role::Operator),
        ] {
            for role in Role::ALL {
                let served = may_be_served(&context(Some(*role), None, None), &path(name)).is_ok();
                assert_eq!(served, *role >= lowest, "{name} to {role:?}");
                let in_a_pool = may_be_served(&context(None, Some(*role), None), &path(name)).is_ok();
                assert_eq!(in_a_pool, *role >= lowest, "{name} to {role:?} of a pool");
            }
            assert!(matches!(
                may_be_served(&context(None, None, None), &path(name)),
                Err(Error::RoleTooLow)
            ));
        }
        let nowhere = Context {
            seat: None,
            ..context(None, None, None)
        };
        assert!(matches!(
            may_be_served(&nowhere, &path("Changes")),
            Err(Error::RoleTooLow)
        ));
    }

    #[test]
    fn the_role_in_the_servers_own_pool_counts_or_the_one_in_the_tenant_if_that_is_higher() {
        let (here, there) = (PoolId::fresh(), PoolId::fresh());
        let policy = policy();
        for tenant in [
            None,
            Some(Role::Viewer),
            Some(Role::Analyst),
            Some(Role::Operator),
        ] {
            for pool in [
                None,
                Some(Role::Viewer),
                Some(Role::Analyst),
                Some(Role::Operator),
            ] {
                let mut context = context(tenant, None, None);
                let pools = pool.map(|role| (here, role));
                context.seat.as_mut().unwrap().pools = pools.into_iter().collect();
                let Ok(wanted) = super::may_be_served(&policy, &context, &path("Changes")) else {
                    assert!(tenant.max(pool) < Some(Role::Analyst));
                    continue;
                };
                for (pool, role) in [(here, tenant.max(pool)), (there, tenant)] {
                    let refused = wanted
                        .in_pool(pool)
                        .err()
                        .map(|error| types::Fault::reason(&error));
                    let expected = match role {
                        None => Some("SERVER_NOT_FOUND"),
                        Some(Role::Viewer) => Some("ROLE_TOO_LOW"),
                        _ => None,
                    };
                    assert_eq!(refused, expected, "{role:?}");
                }
            }
        }
    }

    #[test]
    fn a_key_is_served_within_its_scopes() {
        for (scope, name, served) in [
            ("changes:query", "Changes", true),
            ("changes:query", "PlanUndo", false),
            ("recovery:plan", "PlanUndo", true),
            ("recovery:plan", "Tables", true),
            ("recovery:plan", "Changes", false),
            ("tenant:view", "Status", true),
            ("tenant:view", "Tables", false),
            ("servers:manage", "Status", false),
        ] {
            let outcome = may_be_served(&context(Some(Role::Owner), None, Some(&[scope])), &path(name));
            assert_eq!(outcome.is_ok(), served, "{name} with {scope}");
        }
        let none = may_be_served(&context(Some(Role::Owner), None, Some(&[])), &path("Changes"));
        assert!(matches!(none, Err(Error::ScopeMissing)));
    }

    #[test]
    fn other_paths_are_delegated_to_nobody() {
        let owner = context(Some(Role::Owner), None, None);
        for bad in [
            "",
            "Changes",
            "/trailmesh.agent.v1.AgentService/",
            "/trailmesh.agent.v1.AgentService/changes",
            "/trailmesh.agent.v1.AgentService/Changes/",
            "/trailmesh.query.v1.QueryService/QueryChanges",
        ] {
            assert!(
                matches!(may_be_served(&owner, bad), Err(Error::FieldInvalid { .. })),
                "{bad}"
            );
        }
    }
}
