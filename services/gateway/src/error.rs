//! Why a request goes no further: one type for all layers.
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use tonic::Status;
use types::{Code, Fault};

use crate::json;

/// What was asked for is in another region, and its data does not leave it.
pub(crate) const WRONG_REGION: &str = "WRONG_REGION";
/// A tenant has moved to another cell.
pub(crate) const TENANT_MOVED: &str = "TENANT_MOVED";

/// The layers of the chain, by the names that metrics use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    /// Too much at once.
    Shed,
    /// CORS.
    Cors,
    /// Sizes, repetition, time.
    Limits,
    /// Finding the method.
    Route,
    /// Who asks.
    Authenticate,
    /// Whether they may.
    Permit,
    /// How often.
    RateLimit,
    /// What they ask.
    Decode,
    /// The second factor.
    StepUp,
    /// The record of what is about to be done.
    Audit,
    /// The service.
    Call,
    /// Its answer.
    Answer,
}

impl Layer {
    /// Its name.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Shed => "shed",
            Self::Cors => "cors",
            Self::Limits => "limits",
            Self::Route => "route",
            Self::Authenticate => "authenticate",
            Self::Permit => "permit",
            Self::RateLimit => "rate_limit",
            Self::Decode => "decode",
            Self::StepUp => "step_up",
            Self::Audit => "audit",
            Self::Call => "call",
            Self::Answer => "answer",
        }
    }
}

/// Why.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    #[error("the gateway has as many requests as it can carry")]
    Overloaded,
    #[error("the tenant has as many requests under way as it may")]
    TenantOverloaded,
    #[error("too much of earlier answers on this connection was not read")]
    AnswersUnread,
    #[error("this origin may not call")]
    OriginRefused,
    #[error("the address of the request is longer than 8 KiB")]
    UriTooLong,
    #[error("the headers are longer than 16 KiB or more than 100")]
    HeadersTooLarge,
    #[error("header {0} is repeated")]
    HeaderRepeated(&'static str),
    #[error("header {0} cannot be used")]
    HeaderInvalid(&'static str),
    #[error("the request body is larger than {0} bytes")]
    BodyTooLarge(u64),
    #[error("the request body came too slowly")]
    BodyTooSlow,
    #[error("the request body ended before it was complete")]
    BodyBroken,
    #[error("there is nothing at this address")]
    NoRoute,
    #[error("the path has an escape that cannot be read")]
    PathMalformed,
    #[error("this address does not take this method")]
    MethodNotAllowed,
    #[error("there is no such method")]
    NoMethod,
    #[error("the content type must be {0}")]
    MediaType(&'static str),
    #[error("messages must not be compressed")]
    Compressed,
    #[error("the message is not one gRPC frame")]
    FrameInvalid,
    #[error("credentials are needed")]
    CredentialMissing,
    #[error("the credential is not valid")]
    CredentialInvalid,
    #[error("credentials cannot be checked at the moment")]
    AuthUnavailable,
    #[error("the request must name a tenant in header x-trailmesh-tenant")]
    TenantRequired,
    #[error("this takes the role {0} or a higher one")]
    RoleTooLow(&'static str),
    #[error("the API key does not have the scope {0}")]
    ScopeMissing(String),
    #[error("this takes a session and no API key")]
    SessionRequired,
    #[error("the plan {plan} does not have {feature}, the plan {with} does")]
    FeatureMissing {
        feature: &'static str,
        plan: &'static str,
        with: &'static str,
    },
    #[error("what is done here must be written down first, and that is not possible at the moment")]
    AuditUnavailable,
    #[error("the data of this credential is in region {region}")]
    WrongRegion {
        region: &'static str,
        host: Option<String>,
    },
    #[error("too many requests")]
    RateExceeded(Duration),
    #[error("the request is not valid")]
    Invalid(json::Invalid),
    #[error("the time for this request is over")]
    DeadlineExceeded,
    #[error("{0}")]
    Internal(String),
    #[error("the service answered with an error")]
    Service(Box<Status>),
}

impl Cause {
    /// What HTTP says about it, where HTTP has a finer word than the code.
    pub(crate) fn http(&self) -> Option<StatusCode> {
        Some(match self {
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::MediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            _ => return None,
        })
    }
}

impl Fault for Cause {
    fn code(&self) -> Code {
        match self {
            Self::Overloaded
            | Self::TenantOverloaded
            | Self::AnswersUnread
            | Self::AuthUnavailable
            | Self::AuditUnavailable => Code::Unavailable,
            Self::OriginRefused | Self::RoleTooLow(_) | Self::ScopeMissing(_) | Self::SessionRequired => {
                Code::Forbidden
            }
            Self::FeatureMissing { .. } | Self::WrongRegion { .. } => Code::Refused,
            Self::CredentialMissing | Self::CredentialInvalid => Code::Unauthenticated,
            Self::NoRoute | Self::NoMethod | Self::MethodNotAllowed => Code::Missing,
            Self::RateExceeded(_) => Code::Exhausted,
            Self::DeadlineExceeded | Self::BodyTooSlow => Code::Timeout,
            Self::Internal(_) | Self::Service(_) => Code::Internal,
            Self::UriTooLong
            | Self::HeadersTooLarge
            | Self::HeaderRepeated(_)
            | Self::HeaderInvalid(_)
            | Self::BodyTooLarge(_)
            | Self::BodyBroken
            | Self::PathMalformed
            | Self::MediaType(_)
            | Self::Compressed
            | Self::FrameInvalid
            | Self::TenantRequired
            | Self::Invalid(_) => Code::Invalid,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Overloaded => "OVERLOADED",
            Self::TenantOverloaded => "TENANT_OVERLOADED",
            Self::AnswersUnread => "ANSWERS_UNREAD",
            Self::OriginRefused => "ORIGIN_REFUSED",
            Self::UriTooLong => "URI_TOO_LONG",
            Self::HeadersTooLarge => "HEADERS_TOO_LARGE",
            Self::HeaderRepeated(_) => "HEADER_REPEATED",
            Self::HeaderInvalid(_) => "HEADER_INVALID",
            Self::BodyTooLarge(_) => "BODY_TOO_LARGE",
            Self::BodyTooSlow => "BODY_TOO_SLOW",
            Self::BodyBroken => "BODY_BROKEN",
            Self::NoRoute => "ROUTE_NOT_FOUND",
            Self::PathMalformed => "PATH_INVALID",
            Self::MethodNotAllowed => "METHOD_NOT_ALLOWED",
            Self::NoMethod => "METHOD_NOT_FOUND",
            Self::MediaType(_) => "CONTENT_TYPE_UNSUPPORTED",
            Self::Compressed => "COMPRESSION_UNSUPPORTED",
            Self::FrameInvalid => "FRAME_INVALID",
            Self::CredentialMissing => "CREDENTIAL_MISSING",
            Self::CredentialInvalid => "CREDENTIAL_INVALID",
            Self::AuthUnavailable => "AUTH_UNAVAILABLE",
            Self::TenantRequired => "TENANT_REQUIRED",
            Self::RoleTooLow(_) => "ROLE_TOO_LOW",
            Self::ScopeMissing(_) => "SCOPE_MISSING",
            Self::SessionRequired => "SESSION_REQUIRED",
            Self::FeatureMissing { .. } => "PLAN_FEATURE",
            Self::AuditUnavailable => "AUDIT_UNAVAILABLE",
            Self::WrongRegion { .. } => WRONG_REGION,
            Self::RateExceeded(_) => "RATE_LIMITED",
            Self::Invalid(invalid) => invalid.reason(),
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::Internal(_) => "INTERNAL",
            Self::Service(_) => "SERVICE_FAILED",
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
            Self::Overloaded
            | Self::TenantOverloaded
            | Self::AnswersUnread
            | Self::AuthUnavailable
            | Self::AuditUnavailable => Some(Duration::from_secs(1)),
            Self::RateExceeded(after) => Some(*after),
            _ => None,
        }
    }
}

/// Headers of an answer.
pub(crate) type Said = Vec<(HeaderName, HeaderValue)>;

/// A request that goes no further.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Where.
    pub(crate) layer: Layer,
    /// Why.
    pub(crate) cause: Cause,
    /// What the answer's headers say besides.
    pub(crate) headers: Said,
}

impl Refusal {
    /// Refused by `layer`.
    pub(crate) fn new(layer: Layer, cause: Cause) -> Self {
        Self {
            layer,
            cause,
            headers: Said::new(),
        }
    }

    /// Says besides what `headers` say.
    pub(crate) fn saying(mut self, headers: Said) -> Self {
        self.headers.extend(headers);
        self
    }

    /// The stable reason, of a service's own error too.
    pub(crate) fn reason(&self) -> String {
        match &self.cause {
            Cause::Service(status) => reason_of(status).unwrap_or_else(|| format!("{:?}", status.code())),
            cause => cause.reason().to_owned(),
        }
    }
}

/// The reason that a status carries.
pub(crate) fn reason_of(status: &Status) -> Option<String> {
    use tonic_types::StatusExt as _;

    status.get_details_error_info().map(|info| info.reason)
}

/// Why the gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The certificate or its key.
    #[error("the certificate {file} cannot be used: {problem}")]
    Certificate {
        /// Which file.
        file: String,
        /// Why.
        problem: String,
    },
    /// Redis.
    #[error("the Redis URL or its authority cannot be used")]
    Redis(#[source] deadpool_redis::redis::RedisError),
    /// Redis of another cell.
    #[error("TRAILMESH_REDIS_URL leads to another installation")]
    ForeignRedis(#[source] crate::rate::Absence),
    /// A file.
    #[error("cannot read {file}")]
    File {
        /// Which.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// The routes.
    #[error("the routes cannot be made from the protos")]
    Routes(#[source] crate::routes::Error),
    /// A second start.
    #[error("the listener is taken")]
    NoListener,
}
