//! Who asks, and for which tenant: made from verified facts at the border, and from there on an argument of every operation.

use std::{collections::BTreeMap, str::FromStr, time::Instant};

use crate::{AgentId, KeyId, PoolId, RequestId, SessionId, TenantId, UserId};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $value:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$of])* $value,)* }

        impl $name {
            /// Every value, in order.
            pub const ALL: &[Self] = &[$(Self::$value,)*];

            /// As tokens, tables and messages write it.
            pub fn word(self) -> &'static str {
                match self { $(Self::$value => $word,)* }
            }
        }

        impl FromStr for $name {
            type Err = ();

            fn from_str(text: &str) -> Result<Self, ()> {
                match text { $($word => Ok(Self::$value),)* _ => Err(()) }
            }
        }
    };
}

words! {
    /// What a member may do. Each role has every right of those before it.
    Role {
        /// Sees servers, agents and their state.
        Viewer = "viewer",
        /// Also queries changes and reads the audit log.
        Analyst = "analyst",
        /// Also manages servers and plans recoveries.
        Operator = "operator",
        /// Also manages members, keys, agents and access rules.
        Admin = "admin",
        /// Also makes admins, pays, and deletes the tenant.
        Owner = "owner",
    }
}

words! {
    /// Where a tenant's data lives.
    Region {
        /// United States.
        Us = "us",
        /// European Union.
        Eu = "eu",
    }
}

words! {
    /// What a tenant has bought.
    Plan {
        /// What every tenant starts with.
        Free = "free",
        /// For a team.
        Pro = "pro",
        /// For many teams.
        Premium = "premium",
        /// For an organisation with its own terms.
        Enterprise = "enterprise",
    }
}

/// Who is behind a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A person with a session.
    Person {
        /// Who.
        user: UserId,
        /// By which session.
        session: SessionId,
    },
    /// An API key, acting for the member who made it.
    Key {
        /// Which key.
        key: KeyId,
        /// For whom.
        owner: UserId,
    },
}

impl Subject {
    /// The person who is answerable.
    pub fn user(&self) -> UserId {
        match self {
            Self::Person { user, .. } => *user,
            Self::Key { owner, .. } => *owner,
        }
    }
}

/// What a subject is in a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The tenant.
    pub tenant: TenantId,
    /// Where its data lives.
    pub region: Region,
    /// What it has bought.
    pub plan: Plan,
    /// The role in the whole tenant; none for who has roles in single pools only.
    pub role: Option<Role>,
    /// Roles in single agent pools.
    pub pools: BTreeMap<PoolId, Role>,
    /// An API key's limits: names of permissions such as `servers:manage`. None: all that the role has.
    pub scopes: Option<Vec<String>>,
}

impl Seat {
    /// The highest role in the tenant or in any pool.
    pub fn highest_role(&self) -> Option<Role> {
        self.role.max(self.pools.values().max().copied())
    }

    /// The role that counts for things of `pool`.
    pub fn role_in(&self, pool: PoolId) -> Option<Role> {
        self.role.max(self.pools.get(&pool).copied())
    }
}

/// What a context token says: who asks, and as what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// Who.
    pub subject: Subject,
    /// As what; none for a call that is for no tenant.
    pub seat: Option<Seat>,
    /// Whether the person has a second factor.
    pub mfa_enabled: bool,
}

/// Who makes a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Anyone, through the gateway.
    Anyone,
    /// A person or an API key, through the gateway.
    Subject(Box<Context>),
    /// An enrolled agent.
    Agent {
        /// Whose.
        tenant: TenantId,
        /// Which.
        agent: AgentId,
    },
    /// Another service of the mesh, by the name in its certificate.
    Service(String),
}

/// Proof that a second factor was consumed for exactly this call. Whoever acts on it keeps `id` in the same transaction, so that it is
/// good for one action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Its unique name.
    pub id: String,
    /// When it ends: seconds since 1970.
    pub expires: i64,
}

/// For this tenant, on behalf of this subject: the first argument of everything that touches a tenant's data.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Who acts.
    pub subject: Subject,
    /// As what, in which tenant.
    pub seat: Seat,
    /// The lowest role that the called method takes.
    pub needed: Role,
    /// Present on every method whose rule takes a second factor.
    pub grant: Option<Grant>,
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// The request, for logs and the audit.
    pub request: RequestId,
}

/// Work for a tenant that no person asks for at this moment: what an agent fetches, what a service does by itself. It reaches the tenant's
/// tables as a [`Scope`] does, and whoever makes one has checked by whose right.
#[derive(Clone, Copy, Debug)]
pub struct Errand {
    /// For which tenant.
    pub tenant: TenantId,
    /// When it is given up.
    pub deadline: Instant,
}

impl Scope {
    /// The tenant.
    pub fn tenant(&self) -> TenantId {
        self.seat.tenant
    }

    /// Whether the subject may do this to things of `pool`.
    pub fn covers(&self, pool: PoolId) -> bool {
        self.seat.role_in(pool) >= Some(self.needed)
    }

    /// Whether the subject may do this in the whole tenant.
    pub fn covers_all(&self) -> bool {
        self.seat.role >= Some(self.needed)
    }

    /// The pools to whose things the subject is limited; none is no limit.
    pub fn pools(&self) -> Option<Vec<PoolId>> {
        (!self.covers_all()).then(|| {
            let enough = self.seat.pools.iter().filter(|(_, role)| **role >= self.needed);
            enough.map(|(pool, _)| *pool).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Instant};

    use super::{Plan, PoolId, Region, RequestId, Role, Scope, Seat, SessionId, Subject, TenantId, UserId};

    fn scope(role: Option<Role>, pools: &[(PoolId, Role)], needed: Role) -> Scope {
        Scope {
            subject: Subject::Person {
                user: UserId::fresh(),
                session: SessionId::fresh(),
            },
            seat: Seat {
                tenant: TenantId::fresh(),
                region: Region::Eu,
                plan: Plan::Free,
                role,
                pools: pools.iter().copied().collect::<BTreeMap<_, _>>(),
                scopes: None,
            },
            needed,
            grant: None,
            deadline: Instant::now(),
            request: RequestId::fresh(),
        }
    }

    #[test]
    fn the_higher_of_two_roles_counts() {
        let (mine, other) = (PoolId::fresh(), PoolId::fresh());
        let viewer_and_operator = scope(Some(Role::Viewer), &[(mine, Role::Operator)], Role::Operator);
        assert!(viewer_and_operator.covers(mine));
        assert!(!viewer_and_operator.covers(other));
        assert!(!viewer_and_operator.covers_all());
        assert_eq!(viewer_and_operator.pools(), Some(vec![mine]));
        let admin = scope(Some(Role::Admin), &[(mine, Role::Viewer)], Role::Operator);
        assert!(admin.covers(mine) && admin.covers(other) && admin.covers_all());
        assert_eq!(admin.pools(), None);
        let nobody = scope(None, &[], Role::Viewer);
        assert!(!nobody.covers(mine) && nobody.pools() == Some(vec![]));
    }

    #[test]
    fn roles_are_ordered_and_have_words() {
        assert!(Role::ALL.is_sorted());
        for role in Role::ALL {
            assert_eq!(role.word().parse(), Ok(*role));
        }
        assert_eq!("Owner".parse::<Role>(), Err(()));
    }
}
