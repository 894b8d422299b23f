//! A gateway with its neighbours, each a service of the mesh with mutual TLS, in this process.
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use chassis::{PeerAddress, Runtime, Settings, identity::AgentTrust};
use gateway::Config;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tempfile::TempDir;
use testkit::{Authority, ChaosProxy, Identity};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use types::Region;

use crate::{client::Client, echo, guard::Guard, record::Record};

/// Everything, until it is dropped.
pub(crate) struct House {
    /// The public port.
    pub(crate) address: SocketAddr,
    /// Probes and metrics.
    pub(crate) admin: SocketAddr,
    /// Auth, as the test orders it.
    pub(crate) guard: Guard,
    /// The service behind.
    pub(crate) echo: echo::Echo,
    /// Tenant, who keeps the record.
    pub(crate) record: Record,
    /// Between gateway and tenant.
    pub(crate) record_line: ChaosProxy,
    /// Between gateway and auth.
    pub(crate) auth_line: ChaosProxy,
    /// Between gateway and echo.
    pub(crate) echo_line: ChaosProxy,
    /// Begins the gateway's drain.
    pub(crate) stopping: CancellationToken,
    /// The gateway, which ends after its drain.
    pub(crate) ended: JoinHandle<Result<(), chassis::Error>>,
    /// Who signed the gateway's certificate.
    pub(crate) authority: Authority,
    /// Who signs those of agents.
    pub(crate) agents: Authority,
    /// Whom the gateway trusts for agents.
    pub(crate) trust: AgentTrust,
    services: Vec<CancellationToken>,
    _folder: TempDir,
}

impl Drop for House {
    fn drop(&mut self) {
        self.stopping.cancel();
        self.services.iter().for_each(CancellationToken::cancel);
    }
}

/// How a test wants it.
pub(crate) struct Plan {
    pub(crate) config: Config,
    pub(crate) max_in_flight: usize,
    pub(crate) drain_timeout: Duration,
    pub(crate) region_hosts: &'static [&'static str],
    /// Other neighbours of the gateway.
    pub(crate) peers: Vec<(&'static str, SocketAddr)>,
}

impl House {
    /// As a customer would have it, but with room for many tests a minute.
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// With what `change` makes of the plan.
    pub(crate) async fn with(change: impl FnOnce(&mut Plan)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::new(folder.path());
        let guard = Guard::new();
        let (auth, auth_stop) = serve(&authority, "auth", guard.routes()).await;
        let auth_line = ChaosProxy::start(auth);
        let record = Record::default();
        let (tenant, tenant_stop) = serve(&authority, "tenant", record.routes()).await;
        let record_line = ChaosProxy::start(tenant);
        let mut echo = echo::Echo::new();
        echo.record = record.clone();
        let (echo_address, echo_stop) = serve(&authority, "echo", Routes::new(echo.clone())).await;
        let echo_line = ChaosProxy::start(echo_address);
        let edge = authority.issue("edge");
        let mut plan = Plan {
            config: config(&edge),
            max_in_flight: 1_000,
            drain_timeout: Duration::from_secs(10),
            region_hosts: &[],
            peers: Vec::new(),
        };
        change(&mut plan);
        let mut peers = vec![
            ("auth", auth_line.address()),
            ("echo", echo_line.address()),
            ("tenant", record_line.address()),
        ];
        peers.append(&mut plan.peers);
        let mut settings = settings(&authority.issue("gateway"), &peers);
        settings.max_in_flight = plan.max_in_flight;
        settings.drain_timeout = plan.drain_timeout;
        let hosts = plan.region_hosts.iter().map(|host| host.parse());
        settings.region_hosts = hosts.collect::<Result<_, _>>().expect("hosts of regions");
        let runtime = bind("gateway", &settings).await;
        let (address, admin, stopping) = (runtime.address(), runtime.admin_address(), runtime.stopping());
        let trust = runtime.agent_trust().expect("an identity");
        let agents = Authority::new(&folder.path().join("agents"));
        let pem = std::fs::read(agents.bundle_file()).expect("a bundle");
        let agents_root = CertificateDer::from_pem_slice(&pem).expect("a certificate");
        trust.replace(&[agents_root.to_vec()]).expect("an authority");
        let ended = tokio::spawn(gateway::start(plan.config, runtime));
        let house = Self {
            address,
            admin,
            guard,
            echo,
            record,
            record_line,
            auth_line,
            echo_line,
            stopping,
            ended,
            authority,
            agents,
            trust,
            services: vec![auth_stop, echo_stop, tenant_stop],
            _folder: folder,
        };
        house.ready().await;
        house
    }

    /// The authority's certificate.
    pub(crate) fn bundle(&self) -> PathBuf {
        self.authority.bundle_file()
    }

    /// A new HTTP/2 connection.
    pub(crate) async fn h2(&self) -> Client {
        Client::connect(self.address, &self.bundle(), "h2").await
    }

    /// A new HTTP/1.1 connection.
    pub(crate) async fn h1(&self) -> Client {
        Client::connect(self.address, &self.bundle(), "http/1.1").await
    }

    async fn ready(&self) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while !self.probe("/readyz").await.starts_with("HTTP/1.1 200") {
            assert!(
                tokio::time::Instant::now() < deadline,
                "the gateway did not become ready"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until so many requests are under way.
    pub(crate) async fn has_in_flight(&self, count: usize) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let metrics = self.probe("/metrics").await;
            let line = metrics.lines().find(|line| line.starts_with("gateway_in_flight"));
            if line.is_some_and(|line| line.ends_with(&format!(" {count}"))) {
                return;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "waited a minute for {count}: {line:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What the admin port answers, head and body.
    pub(crate) async fn probe(&self, path: &str) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        let Ok(mut stream) = tokio::net::TcpStream::connect(self.admin).await else {
            return String::new();
        };
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        let mut answer = Vec::new();
        let _ = stream.write_all(request.as_bytes()).await;
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn config(edge: &Identity) -> Config {
    use clap::{Args as _, FromArgMatches as _};

    let arguments = [
        "gateway".to_owned(),
        format!("--tls-cert-file={}", edge.cert_file.display()),
        format!("--tls-key-file={}", edge.key_file.display()),
        "--strict-rate=1000000".to_owned(),
        "--cors-origins=https://app.example.com".to_owned(),
    ];
    let command = Config::augment_args(clap::Command::new("gateway"));
    Config::from_arg_matches(&command.get_matches_from(arguments)).expect("a configuration")
}

async fn serve(authority: &Authority, name: &str, routes: Routes) -> (SocketAddr, CancellationToken) {
    let runtime = bind(name, &settings(&authority.issue(name), &[])).await;
    let (address, stopping) = (runtime.address(), runtime.stopping());
    runtime.publish_keys(vec![Guard::verifying_key()]);
    tokio::spawn(runtime.serve(routes));
    (address, stopping)
}

pub(crate) fn settings(identity: &Identity, peers: &[(&str, SocketAddr)]) -> Settings {
    let peers = peers.iter().map(|(name, address)| PeerAddress {
        name: (*name).to_owned(),
        url: format!("https://{address}").parse().expect("a URL"),
    });
    Settings {
        listen: ([127, 0, 0, 1], 0).into(),
        admin_listen: ([127, 0, 0, 1], 0).into(),
        identity_cert_file: Some(identity.cert_file.clone()),
        identity_key_file: Some(identity.key_file.clone()),
        trust_bundle_file: Some(identity.bundle_file.clone()),
        region: Region::Eu,
        peers: peers.collect(),
        propagation_delay: Duration::ZERO,
        ..Settings::default()
    }
}

pub(crate) async fn bind(name: &str, settings: &Settings) -> Runtime {
    Runtime::bind(name, settings, descriptors())
        .await
        .expect("a service that can be bound")
}

/// The descriptor set of this mesh: echo, and what the gateway asks of auth.
pub(crate) fn descriptors() -> &'static [u8] {
    static SET: OnceLock<Vec<u8>> = OnceLock::new();
    SET.get_or_init(|| {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folders = [here.join("tests/protos"), here.join("../../proto")];
        let mut compiler = protox::Compiler::new(folders).expect("folders");
        compiler.include_imports(true);
        let auth = ["guard_service", "session_service"].map(|file| format!("trailmesh/auth/v1/{file}.proto"));
        let tenant =
            ["audit_service", "billing_service"].map(|file| format!("trailmesh/tenant/v1/{file}.proto"));
        let files = ["echo.proto".to_owned()].into_iter().chain(auth).chain(tenant);
        compiler.open_files(files).expect("protos");
        compiler.encode_file_descriptor_set()
    })
}
