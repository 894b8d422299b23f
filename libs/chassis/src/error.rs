//! Why a service cannot start or go on.

use std::{io, net::SocketAddr};

use types::{Code, Fault};

use crate::{ConfigError, identity, telemetry};

/// Why a service cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting cannot be used.
    #[error("the configuration cannot be used")]
    Config(#[from] ConfigError),
    /// A port cannot be taken.
    #[error("cannot listen on {address}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The certificate, its key or the trust bundle cannot be used.
    #[error("the identity cannot be used")]
    Identity(#[from] identity::Error),
    /// Traces or metrics cannot be sent.
    #[error("telemetry cannot start")]
    Telemetry(#[from] telemetry::Error),
    /// The descriptor set does not decode.
    #[error("the descriptor set cannot be read: {0}")]
    Descriptor(String),
    /// A method has no complete rule.
    #[error("the rule of {path} is not complete: {problem}")]
    Rule {
        /// The method.
        path: String,
        /// What is missing or contradictory.
        problem: String,
    },
    /// No address is configured for a peer.
    #[error("no address of service {0} is configured")]
    UnknownPeer(String),
    /// A peer's address is plain text.
    #[error("the address of service {0} is not https")]
    PlainPeer(String),
    /// A peer's address is not `https://host:port`.
    #[error("the address of service {0} has no host and port")]
    PeerAddress(String),
    /// A task ended by a panic.
    #[error("task {0} panicked")]
    Task(&'static str),
    /// The service's own reason.
    #[error("the service failed")]
    Service(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Wraps a service's own reason.
    pub fn service(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Service(reason.into())
    }
}

impl Fault for Error {
    fn code(&self) -> Code {
        match self {
            Self::Config(_)
            | Self::Bind { .. }
            | Self::Identity(_)
            | Self::Telemetry(_)
            | Self::UnknownPeer(_)
            | Self::PlainPeer(_)
            | Self::PeerAddress(_) => Code::Refused,
            Self::Descriptor(_) | Self::Rule { .. } | Self::Task(_) | Self::Service(_) => Code::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Config(_) => "CONFIG_INVALID",
            Self::Bind { .. } => "PORT_NOT_AVAILABLE",
            Self::Identity(_) => "IDENTITY_INVALID",
            Self::Telemetry(_) => "TELEMETRY_INVALID",
            Self::Descriptor(_) => "DESCRIPTOR_INVALID",
            Self::Rule { .. } => "RULE_INCOMPLETE",
            Self::UnknownPeer(_) => "PEER_UNKNOWN",
            Self::PlainPeer(_) => "PEER_PLAIN",
            Self::PeerAddress(_) => "PEER_ADDRESS_INVALID",
            Self::Task(_) => "TASK_PANICKED",
            Self::Service(_) => "SERVICE_FAILED",
        }
    }
}
