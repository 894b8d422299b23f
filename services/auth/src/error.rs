//! What can go wrong in this service, in its own words.

use std::time::Duration;

use types::{Code, Fault, PlanLimit};

use crate::{domain::password::Weakness, seal::SealError};

/// Why a request was not served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("this is no address that mail can go to")]
    EmailInvalid,
    #[error("{}", weakness(*.problem))]
    PasswordWeak { field: &'static str, problem: Weakness },
    #[error("a name has at most {0} characters and no control characters")]
    NameInvalid(usize),
    #[error("sign-up is closed")]
    SignUpClosed,
    #[error("the challenge was not passed")]
    ChallengeFailed,
    #[error("the challenge cannot be checked at the moment")]
    ChallengeUnavailable,
    #[error("the token is wrong, was used, or has ended")]
    TokenInvalid,
    #[error("the address or the password is wrong, or the address was not verified")]
    CredentialsWrong,
    #[error("the password of today is wrong")]
    PasswordWrong,
    #[error("too many attempts: try again later")]
    TooManyAttempts { retry_after: Duration },
    #[error("the address got as many invitations as it gets for now: try again later")]
    TooManyInvitations,
    #[error("the session is over: sign in again")]
    InvalidGrant,
    #[error("the session was ended because an old refresh token was used again: sign in again")]
    RefreshTokenReused,
    #[error("no such session")]
    SessionNotFound,
    #[error("no such account")]
    AccountNotFound,
    #[error("the address has an account")]
    AccountExists,
    #[error("a page has 0 to 200 entries")]
    PageSizeInvalid,
    #[error("this is no page token of this list")]
    PageTokenInvalid,
    #[error("the confirmation was used for another action already")]
    GrantUsed,
    #[error("a code of the second factor is needed")]
    MfaCodeRequired,
    #[error("the code is wrong, was used, or has ended")]
    MfaCodeInvalid,
    #[error("too many wrong codes: try again later")]
    MfaLocked { retry_after: Duration },
    #[error("the second factor is suspended after too many wrong codes: replace it with a recovery code")]
    MfaSuspended,
    #[error("after too many wrong codes none is taken with this API key any more: make another one")]
    KeySuspended,
    #[error("an API key does this only when its owner has a second factor, and with its code")]
    MfaRequired,
    #[error("no second factor is active")]
    MfaNotActive,
    #[error("no second factor waits to be activated: enrol one, and activate it within ten minutes")]
    TotpNotPending,
    #[error("the credential is not valid")]
    CredentialInvalid,
    #[error("no such tenant")]
    TenantNotFound,
    #[error("the tenant has moved to another installation")]
    TenantMoved(String),
    #[error("no such agent pool")]
    PoolNotFound,
    #[error("no such server")]
    ServerNotFound,
    #[error("no such agent of the server")]
    AgentNotFound,
    #[error("no such API key")]
    ApiKeyNotFound,
    #[error(transparent)]
    Plan(#[from] PlanLimit),
    #[error("the plan has no room for this API key: revoke older ones, or take a larger plan")]
    KeyFrozen,
    #[error("a key's role is at most that of who makes it")]
    RoleTooHigh,
    #[error("the role is too low")]
    RoleTooLow,
    #[error("the key does not have the permission")]
    ScopeMissing,
    #[error("{problem}")]
    FieldInvalid {
        field: String,
        reason: &'static str,
        problem: &'static str,
    },
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Token(#[from] chassis::token::Error),
    #[error("busy: try again in a moment")]
    Busy,
    #[error("there was not enough time")]
    DeadlineExceeded,
    #[error(transparent)]
    Database(#[from] pg::Error),
    #[error("{what} cannot be read: {why}")]
    Corrupt { what: &'static str, why: String },
    #[error("{0}")]
    Internal(String),
}

fn weakness(problem: Weakness) -> &'static str {
    match problem {
        Weakness::TooShort => "a password has at least 8 characters",
        Weakness::TooLong => "a password has at most 256 characters",
        Weakness::Common => "this password is one of the most common ones",
        Weakness::LikeAddress => "this password is little more than the address",
    }
}

impl Fault for Error {
    fn code(&self) -> Code {
        match self {
            Self::EmailInvalid
            | Self::PasswordWeak { .. }
            | Self::NameInvalid(_)
            | Self::ChallengeFailed
            | Self::TokenInvalid
            | Self::InvalidGrant
            | Self::RefreshTokenReused
            | Self::PageSizeInvalid
            | Self::PageTokenInvalid
            | Self::FieldInvalid { .. } => Code::Invalid,
            Self::CredentialsWrong
            | Self::PasswordWrong
            | Self::MfaCodeRequired
            | Self::MfaCodeInvalid
            | Self::CredentialInvalid => Code::Unauthenticated,
            Self::RoleTooHigh | Self::KeyFrozen | Self::RoleTooLow | Self::ScopeMissing => Code::Forbidden,
            Self::SessionNotFound
            | Self::AccountNotFound
            | Self::TenantNotFound
            | Self::PoolNotFound
            | Self::ServerNotFound
            | Self::AgentNotFound
            | Self::ApiKeyNotFound => Code::Missing,
            Self::GrantUsed | Self::AccountExists => Code::Conflict,
            Self::SignUpClosed
            | Self::MfaSuspended
            | Self::KeySuspended
            | Self::MfaRequired
            | Self::MfaNotActive
            | Self::TotpNotPending
            | Self::TenantMoved(_) => Code::Refused,
            Self::Plan(limit) => limit.code(),
            Self::TooManyAttempts { .. } | Self::TooManyInvitations | Self::MfaLocked { .. } => {
                Code::Exhausted
            }
            Self::Seal(_) => Code::Corrupt,
            Self::Token(error) => error.code(),
            Self::ChallengeUnavailable | Self::Busy => Code::Unavailable,
            Self::DeadlineExceeded => Code::Timeout,
            Self::Database(error) => error.code(),
            Self::Corrupt { .. } => Code::Corrupt,
            Self::Internal(_) => Code::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::EmailInvalid => "EMAIL_INVALID",
            Self::PasswordWeak { problem, .. } => match problem {
                Weakness::TooShort => "PASSWORD_TOO_SHORT",
                Weakness::TooLong => "PASSWORD_TOO_LONG",
                Weakness::Common => "PASSWORD_COMMON",
                Weakness::LikeAddress => "PASSWORD_LIKE_ADDRESS",
            },
            Self::NameInvalid(_) => "NAME_INVALID",
            Self::SignUpClosed => "SIGN_UP_CLOSED",
            Self::ChallengeFailed => "CHALLENGE_FAILED",
            Self::ChallengeUnavailable => "CHALLENGE_UNAVAILABLE",
            Self::TokenInvalid => "TOKEN_INVALID",
            Self::CredentialsWrong => "CREDENTIALS_WRONG",
            Self::PasswordWrong => "PASSWORD_WRONG",
            Self::TooManyAttempts { .. } => "TOO_MANY_ATTEMPTS",
            Self::TooManyInvitations => "TOO_MANY_INVITATIONS",
            Self::InvalidGrant => "INVALID_GRANT",
            Self::RefreshTokenReused => "REFRESH_TOKEN_REUSED",
            Self::SessionNotFound => "SESSION_NOT_FOUND",
            Self::AccountNotFound => "ACCOUNT_NOT_FOUND",
            Self::AccountExists => "ACCOUNT_EXISTS",
            Self::PageSizeInvalid => "PAGE_SIZE_INVALID",
            Self::PageTokenInvalid => "PAGE_TOKEN_INVALID",
            Self::GrantUsed => "GRANT_USED",
            Self::MfaCodeRequired => "MFA_CODE_REQUIRED",
            Self::MfaCodeInvalid => "MFA_CODE_INVALID",
            Self::MfaLocked { .. } => "MFA_LOCKED",
            Self::MfaSuspended => "MFA_SUSPENDED",
            Self::KeySuspended => "KEY_SUSPENDED",
            Self::MfaRequired => "MFA_REQUIRED",
            Self::MfaNotActive => "MFA_NOT_ACTIVE",
            Self::TotpNotPending => "TOTP_NOT_PENDING",
            Self::CredentialInvalid => "CREDENTIAL_INVALID",
            Self::TenantNotFound => "TENANT_NOT_FOUND",
            Self::TenantMoved(_) => "TENANT_MOVED",
            Self::PoolNotFound => "POOL_NOT_FOUND",
            Self::ServerNotFound => "SERVER_NOT_FOUND",
            Self::AgentNotFound => "AGENT_NOT_FOUND",
            Self::ApiKeyNotFound => "API_KEY_NOT_FOUND",
            Self::Plan(limit) => limit.reason(),
            Self::KeyFrozen => "KEY_FROZEN",
            Self::RoleTooHigh => "ROLE_TOO_HIGH",
            Self::RoleTooLow => "ROLE_TOO_LOW",
            Self::ScopeMissing => "SCOPE_MISSING",
            Self::FieldInvalid { reason, .. } => reason,
            Self::Seal(_) => "SEALED_DATA_UNREADABLE",
            Self::Token(error) => error.reason(),
            Self::Busy => "BUSY",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::Database(error) => error.reason(),
            Self::Corrupt { .. } => "STORED_DATA_CORRUPT",
            Self::Internal(_) => "INTERNAL",
        }
    }

    fn field(&self) -> Option<&str> {
        match self {
            Self::EmailInvalid => Some("email"),
            Self::PasswordWeak { field, .. } => Some(field),
            Self::NameInvalid(_) => Some("display_name"),
            Self::ChallengeFailed => Some("turnstile_token"),
            Self::TokenInvalid => Some("token"),
            Self::PageSizeInvalid => Some("page_size"),
            Self::PageTokenInvalid => Some("page_token"),
            Self::RoleTooHigh => Some("role"),
            Self::FieldInvalid { field, .. } => Some(field),
            _ => None,
        }
    }

    fn host(&self) -> Option<&str> {
        match self {
            Self::TenantMoved(host) => Some(host),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyAttempts { retry_after } | Self::MfaLocked { retry_after } => Some(*retry_after),
            Self::TooManyInvitations => Some(Duration::from_secs(3_600)),
            Self::Busy => Some(Duration::from_secs(1)),
            Self::ChallengeUnavailable => Some(Duration::from_secs(5)),
            Self::Database(error) => error.retry_after(),
            _ => None,
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        chassis::status(&error)
    }
}
