//! The certificate of the public listener, read again when it changes; and how agents are greeted with it.
use std::{io, path::Path, sync::Arc, time::Duration};

use chassis::identity::AgentTrust;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, NoServerSessionStorage},
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use tokio::sync::watch;

use crate::{config::Config, door, error::StartError};

/// Between looks at the files.
const LOOK: Duration = Duration::from_secs(5);

/// The files' bytes.
#[derive(PartialEq, Eq)]
struct Files {
    chain: Vec<u8>,
    key: Vec<u8>,
}

/// How new connections are greeted.
pub(crate) struct Greeting {
    public: Arc<ServerConfig>,
    agents: Option<Arc<ServerConfig>>,
}

impl Greeting {
    /// The configuration for whoever says hello like this. Agents offer their protocol alone.
    pub(crate) fn to(&self, hello: &ClientHello<'_>) -> &Arc<ServerConfig> {
        let mut offered = hello.alpn().into_iter().flatten();
        match &self.agents {
            Some(agents) if offered.next() == Some(door::ALPN) && offered.next().is_none() => agents,
            _ => &self.public,
        }
    }
}

/// The greeting that new connections get; the last good one stays.
pub(crate) struct Certificate {
    config: Config,
    agents: Option<AgentTrust>,
    seen: Files,
    current: watch::Sender<Arc<Greeting>>,
}

impl Certificate {
    /// Reads the files for the first time. Without `agents` theirs is a protocol that is not spoken.
    pub(crate) async fn load(config: &Config, agents: Option<AgentTrust>) -> Result<Self, StartError> {
        let seen = read(config).await?;
        let greeting = greeting(config, &seen, agents.as_ref())?;
        Ok(Self {
            config: config.clone(),
            agents,
            seen,
            current: watch::Sender::new(greeting),
        })
    }

    /// Follows it.
    pub(crate) fn current(&self) -> watch::Receiver<Arc<Greeting>> {
        self.current.subscribe()
    }

    /// Looks at the files again and again. Never ends.
    pub(crate) async fn follow(mut self) {
        loop {
            tokio::time::sleep(LOOK).await;
            match self.renew().await {
                Ok(true) => tracing::info!("the certificate of the public listener was renewed"),
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(error = types::chain(&error), "the old certificate stays in use");
                }
            }
        }
    }

    async fn renew(&mut self) -> Result<bool, StartError> {
        let files = read(&self.config).await?;
        if files == self.seen {
            return Ok(false);
        }
        let greeting = greeting(&self.config, &files, self.agents.as_ref())?;
        self.seen = files;
        self.current.send_replace(greeting);
        Ok(true)
    }
}

async fn read(config: &Config) -> Result<Files, StartError> {
    let read = async |file: &Path| {
        let problem = |source| StartError::File {
            file: file.display().to_string(),
            source,
        };
        tokio::fs::read(file).await.map_err(problem)
    };
    Ok(Files {
        chain: read(&config.tls_cert_file).await?,
        key: read(&config.tls_key_file).await?,
    })
}

fn greeting(
    config: &Config,
    files: &Files,
    agents: Option<&AgentTrust>,
) -> Result<Arc<Greeting>, StartError> {
    let problem = |file: &Path, problem: String| StartError::Certificate {
        file: file.display().to_string(),
        problem,
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&files.chain).collect();
    let chain = chain.map_err(|error| problem(&config.tls_cert_file, error.to_string()))?;
    if chain.is_empty() {
        return Err(problem(
            &config.tls_cert_file,
            "there is no certificate in it".to_owned(),
        ));
    }
    let key = PrivateKeyDer::from_pem_slice(&files.key);
    let key = key.map_err(|error| problem(&config.tls_key_file, error.to_string()))?;
    let certified = CertifiedKey::from_der(chain, key, &ring::default_provider());
    let certified = certified.map_err(|error| problem(&config.tls_cert_file, error.to_string()))?;
    let resolver = Arc::new(SingleCertAndKey::from(certified));
    let unusable = |error: rustls::Error| problem(&config.tls_cert_file, error.to_string());
    let agents = agents.map(|trust| for_agents(&resolver, trust)).transpose();
    Ok(Arc::new(Greeting {
        public: for_all(&resolver).map_err(unusable)?,
        agents: agents.map_err(unusable)?,
    }))
}

fn for_all(resolver: &Arc<SingleCertAndKey>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(resolver.clone());
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(server))
}

/// TLS 1.3 and a certificate in each handshake: nothing is resumed.
fn for_agents(
    resolver: &Arc<SingleCertAndKey>,
    trust: &AgentTrust,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(trust.verifier())
        .with_cert_resolver(resolver.clone());
    server.alpn_protocols = vec![door::ALPN.to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    Ok(Arc::new(server))
}

/// Why a handshake failed, in a word for metrics.
pub(crate) fn failure(error: &io::Error) -> &'static str {
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Some(rustls::Error::InvalidMessage(_)) => "no_tls",
        Some(_) => "tls",
        None => "gone",
    }
}
