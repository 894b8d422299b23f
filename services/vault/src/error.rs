//! What can go wrong, by name. `reason` is what programs match on and stays the same. No error holds a secret.

use std::time::Duration;

use types::{Code, Fault};

use crate::{
    agents::csr,
    domain::{Invalid, cipher::CipherError},
    root::RootError,
};

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A field cannot be so.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The root key is not at hand.
    #[error("the vault is sealed: it has no root key at the moment")]
    Sealed,
    /// It does not open: changed, moved from its place, or sealed with a key that is gone.
    #[error("the secret cannot be read: set it again")]
    Unreadable,
    /// It was sealed with a version that was given up.
    #[error("the secret was sealed with a version of the key that was revoked: set it again")]
    KeyRevoked,
    /// The tenant was deleted.
    #[error("the keys of this tenant were destroyed")]
    KeysDestroyed,
    /// This kind is for agents only.
    #[error("secrets of this kind are not opened here")]
    KindNotOpenedHere,
    /// Another service keeps secrets of this kind.
    #[error("secrets of this kind are not sealed for this service")]
    KindNotSealedHere,
    /// The tenant's key has no such version.
    #[error("there is no such version of the key")]
    NoSuchVersion,
    /// More versions than a tenant may have at once.
    #[error("at most {most} versions of a key live at once: wait until older ones are retired")]
    TooManyVersions {
        /// How many that is.
        most: usize,
    },
    /// A shorter chain, or another one of the same length.
    #[error("the head is not ahead of the last one that was signed")]
    HeadNotAhead,
    /// A signing request is none.
    #[error("the signing request cannot be used: {0}")]
    Csr(#[from] csr::Problem),
    /// The token enrols nobody: not made here, used, over, or its agent is gone. One answer for all.
    #[error("the enrolment token enrols nobody")]
    EnrolmentToken,
    /// The agent was ended, or shows a certificate that is not its own any more.
    #[error("the agent was revoked")]
    AgentRevoked,
    /// The plan has no room for the agent.
    #[error("the agent is beyond what the tenant's plan allows")]
    AgentFrozen,
    /// The plan has no room for the server.
    #[error("the server is beyond what the tenant's plan allows")]
    ServerFrozen,
    /// It asks more often than an agent may, or all of its tenant's together do.
    #[error("the agent asks too often")]
    AgentTooFast {
        /// Until the next call.
        wait: Duration,
    },
    /// There is no such server, or it is not of the agent's pool.
    #[error("there is no such server")]
    NoSuchServer,
    /// The tenant is suspended, moved or deleted.
    #[error("the tenant is not served here at the moment")]
    TenantNotActive,
    /// The certificate is young.
    #[error("the certificate is renewed in the second half of its life")]
    RenewalTooEarly {
        /// Until then.
        wait: Duration,
    },
    /// None was made yet.
    #[error("there is no authority of agents yet")]
    NoAuthority,
    /// A certificate could not be made.
    #[error("a certificate cannot be made")]
    Certificate(#[from] rcgen::Error),
    /// The caller has left the tenant since the request was let in.
    #[error("you are not a member of this tenant any more")]
    NotAMember,
    /// The caller's role was lowered since the request was let in.
    #[error("the role is too low")]
    RoleTooLow,
    /// The proof of the second factor has done its one action.
    #[error("the confirmation was used already: give a new code")]
    GrantUsed,
    /// Keys that are to be taken in do not fit those that are there.
    #[error("this tenant has other keys here")]
    OtherKeys,
    /// A row is not what this program writes.
    #[error("a stored {0} is not what was written")]
    Stored(&'static str),
    /// Cryptography.
    #[error(transparent)]
    Cipher(#[from] CipherError),
    /// The root.
    #[error(transparent)]
    Root(#[from] RootError),
    /// PostgreSQL.
    #[error(transparent)]
    Database(#[from] pg::Error),
}

impl Fault for Error {
    fn code(&self) -> Code {
        match self {
            Self::Invalid(_) | Self::Csr(_) => Code::Invalid,
            Self::Sealed | Self::NoAuthority => Code::Unavailable,
            Self::EnrolmentToken => Code::Unauthenticated,
            Self::AgentRevoked => Code::Forbidden,
            Self::AgentFrozen | Self::ServerFrozen | Self::TenantNotActive | Self::RenewalTooEarly { .. } => {
                Code::Refused
            }
            Self::NoSuchServer => Code::Missing,
            Self::Certificate(_) => Code::Internal,
            Self::Unreadable | Self::KeyRevoked | Self::KeysDestroyed | Self::HeadNotAhead => Code::Refused,
            Self::KindNotOpenedHere | Self::KindNotSealedHere | Self::NotAMember | Self::RoleTooLow => {
                Code::Forbidden
            }
            Self::NoSuchVersion => Code::Missing,
            Self::TooManyVersions { .. } | Self::AgentTooFast { .. } => Code::Exhausted,
            Self::GrantUsed | Self::OtherKeys => Code::Conflict,
            Self::Stored(_) => Code::Corrupt,
            Self::Cipher(_) => Code::Internal,
            Self::Root(error) => error.code(),
            Self::Database(error) => error.code(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "FIELD_INVALID",
            Self::Sealed => "VAULT_SEALED",
            Self::Csr(_) => "CSR_INVALID",
            Self::EnrolmentToken => "ENROLMENT_TOKEN_INVALID",
            Self::AgentRevoked => "AGENT_REVOKED",
            Self::AgentFrozen => "AGENT_FROZEN",
            Self::ServerFrozen => "SERVER_FROZEN",
            Self::AgentTooFast { .. } => "AGENT_TOO_FAST",
            Self::NoSuchServer => "SERVER_NOT_FOUND",
            Self::TenantNotActive => "TENANT_NOT_ACTIVE",
            Self::RenewalTooEarly { .. } => "RENEWAL_TOO_EARLY",
            Self::NoAuthority => "AGENT_AUTHORITY_MISSING",
            Self::Certificate(_) => "CERTIFICATE_FAILED",
            Self::Unreadable => "SECRET_UNREADABLE",
            Self::KeyRevoked => "KEY_VERSION_REVOKED",
            Self::KeysDestroyed => "TENANT_KEYS_DESTROYED",
            Self::KindNotOpenedHere => "KIND_NOT_OPENED_HERE",
            Self::KindNotSealedHere => "KIND_NOT_SEALED_HERE",
            Self::NoSuchVersion => "KEY_VERSION_NOT_FOUND",
            Self::TooManyVersions { .. } => "KEY_VERSION_LIMIT",
            Self::HeadNotAhead => "HEAD_NOT_AHEAD",
            Self::NotAMember => "NOT_A_MEMBER",
            Self::RoleTooLow => "ROLE_TOO_LOW",
            Self::GrantUsed => "GRANT_USED",
            Self::OtherKeys => "OTHER_KEYS",
            Self::Stored(_) => "STORED_VALUE_WRONG",
            Self::Cipher(_) => "CIPHER_FAILED",
            Self::Root(error) => error.reason(),
            Self::Database(error) => error.reason(),
        }
    }

    fn field(&self) -> Option<&str> {
        match self {
            Self::Invalid(invalid) => Some(invalid.field),
            Self::Csr(_) => Some("csr"),
            Self::Database(error) => error.field(),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Sealed | Self::NoAuthority => Some(Duration::from_secs(1)),
            Self::RenewalTooEarly { wait } | Self::AgentTooFast { wait } => Some(*wait),
            Self::Root(error) => error.retry_after(),
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
