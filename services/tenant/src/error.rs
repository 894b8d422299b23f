//! What can go wrong, by name. `reason` is what programs match on and stays the same.

use std::time::Duration;

use types::{Code, Fault, PlanLimit};

use crate::{
    clients::sealer,
    domain::{Invalid, member::Refusal},
};

/// Kinds of things that requests name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noun {
    /// A tenant.
    Tenant,
    /// A member.
    Member,
    /// An invitation.
    Invitation,
    /// An agent pool.
    Pool,
    /// A server.
    Server,
    /// An agent.
    Agent,
    /// An access rule.
    Rule,
    /// The deletion of a tenant.
    Deletion,
    /// A sink of the audit log.
    Sink,
}

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A field cannot be so.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// There is no such thing, or the caller may not see it: one answer for both, that does not repeat the id.
    #[error("there is no such {}", .0.word())]
    Missing(Noun),
    /// Another has the name.
    #[error("the name is taken by another {} of this tenant", .0.word())]
    NameTaken(Noun),
    /// The server was changed since the caller read it.
    #[error("the server was changed in the meantime: read it again")]
    ServerChanged,
    /// Others set the same credential, again and again.
    #[error("the credential was set by others in the meantime: try again")]
    CredentialChanged,
    /// A sink would be inside the installation.
    #[error("the address is inside the installation or not of the internet")]
    SinkAddressForbidden,
    /// The vault did not seal a credential.
    #[error("{}", .0.words())]
    Vault(sealer::Refusal),
    /// The caller has left the tenant since the request was let in.
    #[error("you are not a member of this tenant any more")]
    NotAMember,
    /// The caller's role was lowered since the request was let in, or is in single pools only.
    #[error("the role is too low")]
    RoleTooLow,
    /// The rules of membership forbid it.
    #[error(transparent)]
    Member(#[from] Refusal),
    /// The invited or accepting person is a member.
    #[error("this person is a member already")]
    MemberExists,
    /// The invitation is for another address than the caller's verified one.
    #[error("the invitation is for another address than the one this account has proven")]
    InvitationForAnother,
    /// Servers or agents are in the pool.
    #[error("the pool has servers or agents: move or delete them first")]
    PoolInUse,
    /// The agent was ended.
    #[error("the agent was revoked, which is for good: make a new one")]
    AgentRevoked,
    /// The tenant's data cannot live here.
    #[error("this installation is of the region {here}: make the tenant in the other one")]
    WrongRegion {
        /// Where this installation is.
        here: &'static str,
        /// Where the other one is.
        host: Option<String>,
    },
    /// What is to be deleted has another name.
    #[error("the tenant has another name")]
    NameDiffers,
    /// The person owns as many tenants as one may.
    #[error("one person owns at most {most} tenants")]
    TenantLimit {
        /// How many that is.
        most: u32,
    },
    /// The tenant has as many of these as it may.
    #[error("a tenant has at most {most} {}s", .of.word())]
    Limit {
        /// Of what.
        of: Noun,
        /// How many that is.
        most: u32,
    },
    /// The plan has no room for one more.
    #[error(transparent)]
    Plan(#[from] PlanLimit),
    /// Plans are the operator's word here.
    #[error("nothing is sold here: the operator of this installation sets plans")]
    BillingNotConfigured,
    /// There is nothing to manage.
    #[error("the tenant has never had a subscription")]
    NoSubscription,
    /// Another one would be paid for twice.
    #[error("the tenant has a subscription: change it on the provider's page")]
    SubscriptionExists,
    /// The payment provider does not answer as it should.
    #[error("the payment provider cannot be reached: try again in a moment")]
    BillingUnavailable,
    /// It is not proven that Stripe sent it. There is one answer for all that may be wrong.
    #[error("the event is refused")]
    EventRefused,
    /// The tenant has had as many invitations mailed as it may in an hour.
    #[error("a tenant sends at most {most} invitations an hour")]
    InvitationsSpent {
        /// How many that is.
        most: u32,
        /// When there is room for one more.
        wait: Duration,
    },
    /// The proof of the second factor has done its one action.
    #[error("the confirmation was used already: give a new code")]
    GrantUsed,
    /// A row is not what this program writes.
    #[error("a stored {0} is not what was written")]
    Stored(&'static str),
    /// PostgreSQL.
    #[error(transparent)]
    Database(#[from] pg::Error),
}

impl Noun {
    fn word(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Member => "member",
            Self::Invitation => "invitation",
            Self::Pool => "agent pool",
            Self::Server => "server",
            Self::Agent => "agent",
            Self::Rule => "access rule",
            Self::Deletion => "deletion",
            Self::Sink => "audit sink",
        }
    }

    fn missing(self) -> &'static str {
        match self {
            Self::Tenant => "TENANT_NOT_FOUND",
            Self::Member => "MEMBER_NOT_FOUND",
            Self::Invitation => "INVITATION_NOT_FOUND",
            Self::Pool => "POOL_NOT_FOUND",
            Self::Server => "SERVER_NOT_FOUND",
            Self::Agent => "AGENT_NOT_FOUND",
            Self::Rule => "ACCESS_RULE_NOT_FOUND",
            Self::Deletion => "DELETION_NOT_FOUND",
            Self::Sink => "SINK_NOT_FOUND",
        }
    }

    fn taken(self) -> &'static str {
        match self {
            Self::Pool => "POOL_NAME_TAKEN",
            Self::Server => "SERVER_NAME_TAKEN",
            Self::Agent => "AGENT_NAME_TAKEN",
            Self::Sink => "SINK_NAME_TAKEN",
            _ => "NAME_TAKEN",
        }
    }

    fn limit(self) -> &'static str {
        match self {
            Self::Tenant => "TENANT_LIMIT",
            Self::Member => "MEMBER_LIMIT",
            Self::Invitation => "INVITATION_LIMIT",
            Self::Pool => "POOL_LIMIT",
            Self::Server => "SERVER_LIMIT",
            Self::Agent => "AGENT_LIMIT",
            Self::Rule => "ACCESS_RULE_LIMIT",
            Self::Deletion => "DELETION_LIMIT",
            Self::Sink => "SINK_LIMIT",
        }
    }
}

impl Fault for Error {
    fn code(&self) -> Code {
        match self {
            Self::Invalid(_)
            | Self::Member(Refusal::PoolRoleTooHigh)
            | Self::NameDiffers
            | Self::SinkAddressForbidden => Code::Invalid,
            Self::Missing(_) => Code::Missing,
            Self::Vault(refusal) => refusal.code(),
            Self::CredentialChanged
            | Self::NameTaken(_)
            | Self::ServerChanged
            | Self::MemberExists
            | Self::GrantUsed => Code::Conflict,
            Self::Member(Refusal::LastOwner) => Code::Refused,
            Self::Member(Refusal::OwnRole | Refusal::OnlyOwners | Refusal::RoleTooLow)
            | Self::InvitationForAnother
            | Self::NotAMember
            | Self::RoleTooLow => Code::Forbidden,
            Self::PoolInUse | Self::AgentRevoked | Self::WrongRegion { .. } => Code::Refused,
            Self::TenantLimit { .. } | Self::Limit { .. } | Self::InvitationsSpent { .. } => Code::Exhausted,
            Self::Plan(limit) => limit.code(),
            Self::BillingNotConfigured | Self::NoSubscription | Self::SubscriptionExists => Code::Refused,
            Self::BillingUnavailable => Code::Unavailable,
            Self::EventRefused => Code::Invalid,
            Self::Stored(_) => Code::Corrupt,
            Self::Database(error) => error.code(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "FIELD_INVALID",
            Self::SinkAddressForbidden => "SINK_ADDRESS_FORBIDDEN",
            Self::NameDiffers => "NAME_DIFFERS",
            Self::Missing(noun) => noun.missing(),
            Self::NameTaken(noun) => noun.taken(),
            Self::ServerChanged => "SERVER_CHANGED",
            Self::CredentialChanged => "CREDENTIAL_CHANGED",
            Self::Vault(refusal) => refusal.reason(),
            Self::NotAMember => "NOT_A_MEMBER",
            Self::RoleTooLow | Self::Member(Refusal::RoleTooLow) => "ROLE_TOO_LOW",
            Self::Member(Refusal::OwnRole) => "OWN_ROLE",
            Self::Member(Refusal::LastOwner) => "LAST_OWNER",
            Self::Member(Refusal::OnlyOwners) => "ONLY_OWNERS",
            Self::Member(Refusal::PoolRoleTooHigh) => "POOL_ROLE_TOO_HIGH",
            Self::MemberExists => "MEMBER_EXISTS",
            Self::InvitationForAnother => "INVITATION_FOR_ANOTHER_ADDRESS",
            Self::PoolInUse => "POOL_IN_USE",
            Self::AgentRevoked => "AGENT_REVOKED",
            Self::WrongRegion { .. } => "WRONG_REGION",
            Self::TenantLimit { .. } => "TENANT_LIMIT",
            Self::Limit { of, .. } => of.limit(),
            Self::InvitationsSpent { .. } => Noun::Invitation.limit(),
            Self::Plan(limit) => limit.reason(),
            Self::BillingNotConfigured => "BILLING_NOT_CONFIGURED",
            Self::NoSubscription => "NO_SUBSCRIPTION",
            Self::SubscriptionExists => "SUBSCRIPTION_EXISTS",
            Self::BillingUnavailable => "BILLING_UNAVAILABLE",
            Self::EventRefused => "EVENT_REFUSED",
            Self::GrantUsed => "GRANT_USED",
            Self::Stored(_) => "STORED_VALUE_WRONG",
            Self::Database(error) => error.reason(),
        }
    }

    fn field(&self) -> Option<&str> {
        match self {
            Self::Invalid(invalid) => Some(&invalid.field),
            Self::Member(Refusal::PoolRoleTooHigh) => Some("role"),
            Self::NameDiffers => Some("name"),
            Self::SinkAddressForbidden => Some("sink.url"),
            Self::Database(error) => error.field(),
            _ => None,
        }
    }

    fn host(&self) -> Option<&str> {
        match self {
            Self::WrongRegion { host, .. } => host.as_deref(),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::InvitationsSpent { wait, .. } => Some(*wait),
            Self::BillingUnavailable => Some(Duration::from_secs(5)),
            Self::Vault(refusal) => refusal.retry_after(),
            Self::Database(error) => error.retry_after(),
            _ => None,
        }
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        chassis::status(&error)
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

#[cfg(test)]
mod tests {
    use types::{Code, Fault as _, Plan};

    use super::{Error, Noun};
    use crate::domain::{Problem, member::Refusal};

    /// Clients match on these words.
    #[test]
    fn every_reason_has_its_code() {
        let limit = |of| Error::Limit { of, most: 7 };
        for (error, code, reason) in [
            (
                Problem::from("wrong").at("server.port").into(),
                Code::Invalid,
                "FIELD_INVALID",
            ),
            (
                Refusal::PoolRoleTooHigh.into(),
                Code::Invalid,
                "POOL_ROLE_TOO_HIGH",
            ),
            (Error::Missing(Noun::Tenant), Code::Missing, "TENANT_NOT_FOUND"),
            (Error::Missing(Noun::Member), Code::Missing, "MEMBER_NOT_FOUND"),
            (
                Error::Missing(Noun::Invitation),
                Code::Missing,
                "INVITATION_NOT_FOUND",
            ),
            (Error::Missing(Noun::Pool), Code::Missing, "POOL_NOT_FOUND"),
            (Error::Missing(Noun::Server), Code::Missing, "SERVER_NOT_FOUND"),
            (Error::Missing(Noun::Agent), Code::Missing, "AGENT_NOT_FOUND"),
            (Error::Missing(Noun::Rule), Code::Missing, "ACCESS_RULE_NOT_FOUND"),
            (Error::NameTaken(Noun::Pool), Code::Conflict, "POOL_NAME_TAKEN"),
            (
                Error::NameTaken(Noun::Server),
                Code::Conflict,
                "SERVER_NAME_TAKEN",
            ),
            (Error::NameTaken(Noun::Agent), Code::Conflict, "AGENT_NAME_TAKEN"),
            (Error::ServerChanged, Code::Conflict, "SERVER_CHANGED"),
            (Error::MemberExists, Code::Conflict, "MEMBER_EXISTS"),
            (Error::GrantUsed, Code::Conflict, "GRANT_USED"),
            (Refusal::OwnRole.into(), Code::Forbidden, "OWN_ROLE"),
            (Refusal::OnlyOwners.into(), Code::Forbidden, "ONLY_OWNERS"),
            (Refusal::RoleTooLow.into(), Code::Forbidden, "ROLE_TOO_LOW"),
            (Error::RoleTooLow, Code::Forbidden, "ROLE_TOO_LOW"),
            (Error::NotAMember, Code::Forbidden, "NOT_A_MEMBER"),
            (Refusal::LastOwner.into(), Code::Refused, "LAST_OWNER"),
            (
                Error::InvitationForAnother,
                Code::Forbidden,
                "INVITATION_FOR_ANOTHER_ADDRESS",
            ),
            (Error::PoolInUse, Code::Refused, "POOL_IN_USE"),
            (Error::AgentRevoked, Code::Refused, "AGENT_REVOKED"),
            (
                Error::WrongRegion {
                    here: "eu",
                    host: None,
                },
                Code::Refused,
                "WRONG_REGION",
            ),
            (Error::TenantLimit { most: 10 }, Code::Exhausted, "TENANT_LIMIT"),
            (limit(Noun::Pool), Code::Exhausted, "POOL_LIMIT"),
            (limit(Noun::Server), Code::Exhausted, "SERVER_LIMIT"),
            (limit(Noun::Agent), Code::Exhausted, "AGENT_LIMIT"),
            (limit(Noun::Rule), Code::Exhausted, "ACCESS_RULE_LIMIT"),
            (limit(Noun::Member), Code::Exhausted, "MEMBER_LIMIT"),
            (limit(Noun::Invitation), Code::Exhausted, "INVITATION_LIMIT"),
            (Error::Stored("role"), Code::Corrupt, "STORED_VALUE_WRONG"),
        ] {
            assert_eq!((error.code(), error.reason()), (code, reason));
        }
        assert_eq!(
            limit(Noun::Pool).to_string(),
            "a tenant has at most 7 agent pools"
        );
    }

    #[test]
    fn every_reason_of_plans_and_billing_has_its_code() {
        for (error, code, reason) in [
            (
                Plan::Free
                    .room("servers", 2, |limits| limits.servers)
                    .unwrap_err()
                    .into(),
                Code::Refused,
                "PLAN_LIMIT",
            ),
            (
                Error::BillingNotConfigured,
                Code::Refused,
                "BILLING_NOT_CONFIGURED",
            ),
            (Error::NoSubscription, Code::Refused, "NO_SUBSCRIPTION"),
            (Error::SubscriptionExists, Code::Refused, "SUBSCRIPTION_EXISTS"),
            (
                Error::BillingUnavailable,
                Code::Unavailable,
                "BILLING_UNAVAILABLE",
            ),
            (Error::EventRefused, Code::Invalid, "EVENT_REFUSED"),
        ] {
            assert_eq!((error.code(), error.reason()), (code, reason));
        }
    }
}
