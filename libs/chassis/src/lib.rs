//! What every service of the mesh needs that is not its business.
//!
//! A service is a library with `start(config, runtime)`. [`run`] brings a process up in the one right order and hands `start` a
//! [`Runtime`]: listeners that are bound, an identity that is loaded, peers that can be called. `start` builds its handlers and ends in
//! [`Runtime::serve`], which puts this stack before them, outermost first: span, metrics, catch panic, load shed, deadline, caller, policy.
//!
//! * Who may call what stands in the protos; [`policy::Table`] reads it, and a method without a complete rule keeps the service from
//!   starting. What is not listed is refused.
//! * Who calls is proven twice: by the certificate of the peer ([`identity`]) and by a context token that only auth can sign
//!   ([`token`]). Handlers get it as [`scope`], [`account`] or [`origin`].
//! * A [`Peer`] is another service: mutual TLS, what is left of the deadline, retries where they are harmless.
//! * An error becomes a `Status` in one place: [`status`].

mod admin;
pub mod agents;
mod caller;
mod client;
pub mod config;
pub mod deadline;
pub mod directory;
mod error;
mod health;
pub mod identity;
mod keys;
mod metrics;
pub mod places;
pub mod policy;
mod run;
mod runtime;
mod server;
mod shutdown;
mod status;
mod telemetry;
pub mod token;

pub use caller::{Account, AgentCall, Origin, account, agent, context_token, origin, scope, service};
pub use client::Peer;
pub use config::{
    ConfigError, Configuration, LogFormat, PeerAddress, RegionHost, SecretString, Settings, arguments,
    duration, require_tls_url, secrets_from_files,
};
pub use error::Error;
pub use health::{Latch, Readiness};
pub use run::{host, run};
pub use runtime::{Replicas, Runtime};
pub use server::{
    agents::{AGENT_ALPN, AgentConnection, AgentStanding},
    linger::Lingering,
};
pub use status::status;
