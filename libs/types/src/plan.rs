//! What a plan allows. The numbers are those of the product; an installation does not change them.

use std::{error, fmt};

use crate::{Code, Fault, Plan};

/// The most of each thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Servers that are registered.
    pub servers: u32,
    /// Members, invitations that are open included.
    pub members: u32,
    /// API keys that are not revoked.
    pub api_keys: u32,
    /// Agents that are not revoked.
    pub agents: u32,
    /// Receivers of the audit log.
    pub audit_sinks: u32,
    /// Days that the audit log is kept.
    pub audit_days: u32,
    /// Days that changes are kept.
    pub change_days: u32,
    /// Uploaded logs.
    pub uploads: u32,
    /// Bytes of an uploaded log; 0 is none.
    pub upload_bytes: u64,
}

/// What only some plans have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Feature {
    /// The audit log is sent on to other systems as it grows.
    AuditExport,
    /// Binary logs can be uploaded.
    Uploads,
}

impl Feature {
    /// Every feature.
    pub const ALL: &[Self] = &[Self::AuditExport, Self::Uploads];

    /// As rules and messages write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::AuditExport => "audit-export",
            Self::Uploads => "uploads",
        }
    }
}

const GIB: u64 = 1 << 30;

impl Plan {
    /// What it allows.
    pub fn limits(self) -> Limits {
        match self {
            Self::Free => Limits {
                servers: 2,
                members: 3,
                api_keys: 3,
                agents: 2,
                audit_sinks: 0,
                audit_days: 30,
                change_days: 7,
                uploads: 0,
                upload_bytes: 0,
            },
            Self::Pro => Limits {
                servers: 20,
                members: 25,
                api_keys: 50,
                agents: 40,
                audit_sinks: 2,
                audit_days: 90,
                change_days: 30,
                uploads: 20,
                upload_bytes: GIB,
            },
            Self::Premium => Limits {
                servers: 100,
                members: 200,
                api_keys: 200,
                agents: 200,
                audit_sinks: 5,
                audit_days: 90,
                change_days: 90,
                uploads: 50,
                upload_bytes: 5 * GIB,
            },
            Self::Enterprise => Limits {
                servers: 2_000,
                members: 5_000,
                api_keys: 2_000,
                agents: 4_000,
                audit_sinks: 10,
                audit_days: 365,
                change_days: 365,
                uploads: 200,
                upload_bytes: 10 * GIB,
            },
        }
    }

    /// Whether it has this feature.
    pub fn has(self, feature: Feature) -> bool {
        match feature {
            Feature::AuditExport | Feature::Uploads => self >= Self::Pro,
        }
    }
}

/// One more of something than a plan has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanLimit {
    /// Of what, in the plural.
    pub what: &'static str,
    /// How many the plan has room for.
    pub most: u32,
    /// The tenant's plan.
    pub plan: Plan,
    /// The smallest plan with room for one more, and for how many it has.
    pub room: Option<(Plan, u32)>,
}

impl fmt::Display for PlanLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, most, plan, .. } = self;
        write!(f, "the plan {} has room for {most} {what}: ", plan.word())?;
        match self.room {
            Some((plan, most)) => write!(f, "the plan {} has room for {most}", plan.word()),
            None => f.write_str("no plan has room for more"),
        }
    }
}

impl error::Error for PlanLimit {}

impl Fault for PlanLimit {
    fn code(&self) -> Code {
        Code::Refused
    }

    fn reason(&self) -> &'static str {
        "PLAN_LIMIT"
    }
}

impl Plan {
    /// Whether there is room for one more where there are `count`, of what `limit` picks.
    ///
    /// # Errors
    /// When there is not.
    pub fn room(
        self,
        what: &'static str,
        count: i64,
        limit: impl Fn(&Limits) -> u32,
    ) -> Result<(), PlanLimit> {
        let most = |plan: Self| limit(&plan.limits());
        let holds = |plan: &Self| count < i64::from(most(*plan));
        if holds(&self) {
            return Ok(());
        }
        let larger = Self::ALL.iter().find(|plan| **plan > self && holds(plan));
        Err(PlanLimit {
            what,
            most: most(self),
            plan: self,
            room: larger.map(|plan| (*plan, most(*plan))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Feature, Plan};

    #[test]
    fn who_has_no_room_hears_which_plan_has() {
        assert_eq!(Plan::Free.room("servers", 1, |limits| limits.servers), Ok(()));
        let says = |plan: Plan, count| {
            plan.room("servers", count, |limits| limits.servers)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            says(Plan::Free, 2),
            "the plan free has room for 2 servers: the plan pro has room for 20"
        );
        assert_eq!(
            says(Plan::Free, 100),
            "the plan free has room for 2 servers: the plan enterprise has room for 2000"
        );
        assert_eq!(
            says(Plan::Enterprise, 2_000),
            "the plan enterprise has room for 2000 servers: no plan has room for more"
        );
    }

    #[test]
    fn a_larger_plan_allows_no_less() {
        for pair in Plan::ALL.windows(2) {
            let (small, large) = (pair[0].limits(), pair[1].limits());
            assert!(small.servers <= large.servers && small.members <= large.members);
            assert!(small.api_keys <= large.api_keys && small.agents <= large.agents);
            assert!(small.audit_sinks <= large.audit_sinks && small.audit_days <= large.audit_days);
            assert!(small.change_days <= large.change_days);
            assert!(small.uploads <= large.uploads && small.upload_bytes <= large.upload_bytes);
            for feature in Feature::ALL {
                assert!(pair[1].has(*feature) || !pair[0].has(*feature));
            }
        }
    }
}
