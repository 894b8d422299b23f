//! The certificate of this service, its key, and the authorities it trusts; all three change while it runs.
//!
//! The three files are read every two seconds (a watch on the file system misses how Kubernetes swaps a folder by a symbolic link). What
//! they hold counts only as a whole: the key fits the certificate, the certificate names exactly this service in exactly one URI, is valid
//! now, and an authority of the bundle vouches for it. Until then the last good identity stays. New connections use the new identity;
//! running ones end with their age, and a [`crate::Peer`] renews its own at once.
//!
//! A service that agents call ([`AgentTrust`]) knows their authorities beside the bundle, never in it. A certificate that
//! names an agent is measured by the former only, one that names a service by the latter only; and an agent's is looked at anew with each call,
//! so that one which ended, or whose authority was given up, does not live on in an open connection.

mod agent;
mod load;
mod outside;
mod spiffe;
mod verify;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use opentelemetry::{KeyValue, metrics::Meter};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, UnixTime},
    server::danger::ClientCertVerifier,
    sign::CertifiedKey,
};
use tokio::sync::watch;
use types::{Region, chain};

pub(crate) use agent::Agent;
pub use agent::{AgentName, LeftOut, check_authority};
pub use outside::connect_as_agent;
pub use spiffe::SpiffeId;
pub(crate) use verify::Party;

use crate::Settings;
use agent::Agents;
use load::Files;
use verify::OnlyAgents;

/// How often the files are read.
const POLL: Duration = Duration::from_secs(2);

/// Why an identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No files are configured.
    #[error("no certificate, key and trust bundle are configured")]
    Missing,
    /// A file cannot be read.
    #[error("cannot read {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file does not hold what it must.
    #[error("{path} holds no usable {what}")]
    Pem {
        /// Which.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// The certificate, its key and the bundle do not fit together, or it is not valid now.
    #[error("the certificate cannot be used")]
    Certificate(#[source] rustls::Error),
    /// An authority of agents cannot be one of the mesh: whom it vouches for could be either.
    #[error("an authority of agents is an authority of the mesh too")]
    SharedAuthority,
    /// It vouches for nobody.
    #[error("the certificate is not that of an authority")]
    NoAuthority,
    /// The certificate names something else than this service.
    #[error("the certificate is not for {wanted}: {problem}")]
    Name {
        /// What it must name.
        wanted: SpiffeId,
        /// What it does instead.
        problem: String,
    },
}

/// Whose identities count: those of this trust domain and region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Realm {
    pub(crate) trust_domain: String,
    pub(crate) region: Region,
}

impl Realm {
    /// The id of a service here.
    pub(crate) fn service(&self, name: &str) -> SpiffeId {
        SpiffeId::service(&self.trust_domain, self.region, name)
    }
}

/// One good identity.
pub(crate) struct Material {
    server: Arc<ServerConfig>,
    certified: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    /// The same authorities as `roots`, PEM.
    bundle: Arc<str>,
    /// Seconds since 1970.
    leaf_ends: i64,
    /// The same of the authority that ends first.
    authority_ends: i64,
}

/// The identity of now. Clones follow the same files.
#[derive(Clone)]
pub(crate) struct Identity {
    current: watch::Receiver<Arc<Material>>,
    realm: Arc<Realm>,
    agents: Agents,
}

/// The authorities of agents that a service trusts. Clones are the same.
#[derive(Clone)]
pub struct AgentTrust(Identity);

impl AgentTrust {
    pub(crate) fn new(identity: Identity) -> Self {
        Self(identity)
    }

    /// From now on exactly these authorities (certificates, DER each) vouch for agents, who may then call the methods that are for agents,
    /// and nothing else. May be called at any time; calls on open connections of agents that are not vouched for any more are refused at
    /// once. What is no certificate of an authority, or vouches for services too, is left out and given back; the others count.
    ///
    /// # Errors
    /// When nothing can be made of the others; then those of before stay.
    pub fn replace(&self, authorities: &[Vec<u8>]) -> Result<Vec<LeftOut>, crate::Error> {
        Ok(self.0.trust_agents(authorities)?)
    }

    /// For a listener that only agents use: it takes the certificates of agents, as they are trusted at the moment, and no other.
    pub fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::new(OnlyAgents {
            realm: self.0.realm.clone(),
            agents: self.0.agents.clone(),
            algorithms: self.0.current().provider.signature_verification_algorithms,
        })
    }

    /// The agent that this certificate is for.
    ///
    /// # Errors
    /// Why it is for none, or for none any more: it has ended, or no authority of this moment vouches for it.
    pub fn name(&self, leaf: &CertificateDer<'_>) -> Result<AgentName, String> {
        let agent = self.0.agents.verify(&self.0.realm, leaf, UnixTime::now())?;
        Ok(agent.name)
    }

    /// Whether it trusts anybody at all.
    pub fn knows_agents(&self) -> bool {
        self.0.agents.any()
    }
}

impl fmt::Debug for AgentTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AgentTrust")
    }
}

/// The authorities of the mesh's services, as this service trusts them. Clones are the same.
#[derive(Clone)]
pub struct Bundle(Identity);

impl Bundle {
    pub(crate) fn new(identity: Identity) -> Self {
        Self(identity)
    }

    /// All of now, PEM.
    pub fn pem(&self) -> Arc<str> {
        self.0.current().bundle.clone()
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bundle")
    }
}

/// What keeps an [`Identity`] true.
pub(crate) struct Watcher {
    files: Files,
    current: watch::Sender<Arc<Material>>,
    meter: Meter,
}

/// Loads the identity of service `name`; none if no files are configured.
pub(crate) async fn open(
    name: &str,
    settings: &Settings,
    meter: &Meter,
) -> Result<Option<(Identity, Watcher)>, Error> {
    let realm = Arc::new(Realm {
        trust_domain: settings.trust_domain.clone(),
        region: settings.region,
    });
    let agents = Agents::default();
    let Some(mut files) = Files::of(name, settings, realm.clone(), agents.clone())? else {
        return Ok(None);
    };
    let first = Arc::new(files.load().await?);
    let (sender, current) = watch::channel(first);
    observe(meter, &current);
    observe_agents(meter, &agents);
    let identity = Identity {
        current,
        realm,
        agents,
    };
    let watcher = Watcher {
        files,
        current: sender,
        meter: meter.clone(),
    };
    Ok(Some((identity, watcher)))
}

impl Identity {
    /// How to accept connections now.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        self.current.borrow().server.clone()
    }

    /// The identity of now, to connect with.
    pub(crate) fn current(&self) -> Arc<Material> {
        self.current.borrow().clone()
    }

    pub(crate) fn realm(&self) -> &Realm {
        &self.realm
    }

    /// Whom the certificate of a connection shows that was accepted.
    pub(crate) fn party(&self, leaf: &CertificateDer<'_>) -> Result<Party, String> {
        verify::party(&self.realm, &self.agents, leaf)
    }

    /// From now on exactly these authorities, DER each, vouch for agents.
    fn trust_agents(&self, authorities: &[Vec<u8>]) -> Result<Vec<LeftOut>, Error> {
        let authorities: Vec<_> = authorities.iter().cloned().map(CertificateDer::from).collect();
        let material = self.current();
        self.agents
            .replace(&authorities, &material.roots, &material.provider)
    }

    /// Whether `agent` is one still: its certificate has not ended, and its authority is still trusted.
    pub(crate) fn vouches_for(&self, agent: &Agent) -> Result<(), String> {
        self.agents.still(&self.realm, agent)
    }
}

impl Material {
    /// How to connect to `wanted`, and to nobody else.
    pub(crate) fn client(&self, wanted: &SpiffeId) -> Result<ClientConfig, Error> {
        load::client(self, wanted)
    }
}

impl Watcher {
    /// Follows the files; never ends by itself.
    pub(crate) async fn run(mut self) {
        let reloads = self
            .meter
            .u64_counter("trailmesh.identity.reloads")
            .with_description("New certificates or trust bundles, and whether they could be used")
            .build();
        let mut ticks = tokio::time::interval(POLL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let result = match self.files.load_if_changed().await {
                None => continue,
                Some(Ok(material)) => {
                    tracing::info!("a new certificate or trust bundle is in use");
                    self.current.send_replace(Arc::new(material));
                    "loaded"
                }
                Some(Err(error)) => {
                    tracing::error!(
                        error = chain(&error),
                        "a new certificate or trust bundle cannot be used; the last good one stays"
                    );
                    "refused"
                }
            };
            reloads.add(1, &[KeyValue::new("result", result)]);
        }
    }
}

fn observe_agents(meter: &Meter, agents: &Agents) {
    let agents = agents.clone();
    meter
        .u64_observable_gauge("trailmesh.identity.agent_authorities.left_out")
        .with_description("Authorities of agents that the service has and that cannot be trusted")
        .with_callback(move |gauge| gauge.observe(agents.left_out(), &[]))
        .build();
}

fn observe(meter: &Meter, current: &watch::Receiver<Arc<Material>>) {
    let current = current.clone();
    meter
        .f64_observable_gauge("trailmesh.identity.days_left")
        .with_description(
            "Until the certificate, or the first authority of the trust bundle, is no longer valid",
        )
        .with_callback(move |gauge| {
            let material = current.borrow();
            for (what, ends) in [
                ("certificate", material.leaf_ends),
                ("authority", material.authority_ends),
            ] {
                let seconds = i32::try_from(ends - crate::token::now()).unwrap_or(i32::MAX);
                gauge.observe(f64::from(seconds) / 86_400.0, &[KeyValue::new("what", what)]);
            }
        })
        .build();
}
