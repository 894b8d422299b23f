//! Replicas of the hub in this process, and what they need around them.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use chassis::{
    Peer, Replicas, Runtime, Settings,
    token::{self, Signer},
};
use clap::Parser;
use deadpool_redis::redis::{self, AsyncConnectionConfig, Client, FromRedisValue};
use pg::migrate::Set;
use prost::Message as _;
use proto::{
    agent::v1 as agent,
    auth::v1::guard_service_server::GuardServiceServer,
    query::v1::{self as pb, hub_service_client::HubServiceClient},
    tenant::v1::directory_service_server::DirectoryServiceServer,
    vault::v1::agent_identity_service_server::AgentIdentityServiceServer,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use testkit::{Authority, Database, Identity, Postgres, Redis};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming, service::Routes};
use tonic_types::StatusExt as _;
use types::{AgentId, Context, Plan, Region, Role, Seat, ServerId, SessionId, Subject, TenantId, UserId};

use crate::{
    agent::{Agent, Door},
    neighbours::Neighbours,
};

const SETS: [Set; 4] = [
    auth::MIGRATIONS,
    tenant::MIGRATIONS,
    vault::MIGRATIONS,
    query::MIGRATIONS,
];

pub(crate) const STATUS: &str = "/trailmesh.agent.v1.AgentService/Status";
pub(crate) const CHANGES: &str = "/trailmesh.agent.v1.AgentService/Changes";
pub(crate) const COUNT: &str = "/trailmesh.agent.v1.AgentService/Count";

#[derive(clap::Parser)]
struct Own {
    #[command(flatten)]
    config: query::Config,
}

#[derive(clap::Parser)]
struct Bare {
    #[command(flatten)]
    settings: Settings,
}

pub(crate) fn signer() -> Signer {
    Signer::new("test".to_owned(), &[7; 32]).unwrap()
}

/// A replica that runs.
pub(crate) struct Replica {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    stop: CancellationToken,
    running: JoinHandle<Result<(), chassis::Error>>,
}

impl Replica {
    /// Ends as a process that is killed: nothing is said to anybody.
    pub(crate) async fn kill(self) {
        self.running.abort();
        let _ = self.running.await;
    }

    /// Ends as a process that is told to, and must do so in time.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }

    /// A sample of its metrics.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(self.admin).await.unwrap();
        let ask = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(ask).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

/// Everything around the replicas.
pub(crate) struct World {
    pub(crate) neighbours: Neighbours,
    pub(crate) door: Door,
    pub(crate) redis: Redis,
    pub(crate) agents: Authority,
    mesh: Authority,
    peers: Vec<String>,
    prefix: String,
    recovery: Runtime,
    stops: Vec<CancellationToken>,
    db: Database<'static>,
    _folder: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        for stop in &self.stops {
            stop.cancel();
        }
    }
}

fn flags(authority: &Authority, name: &str, more: &[String]) -> Vec<String> {
    let identity = authority.issue(name);
    let mut flags = vec![
        name.to_owned(),
        "--listen=127.0.0.1:0".to_owned(),
        "--admin-listen=127.0.0.1:0".to_owned(),
        "--region=eu".to_owned(),
        "--drain-timeout=8s".to_owned(),
        "--propagation-delay=0s".to_owned(),
        format!("--identity-cert-file={}", identity.cert_file.display()),
        format!("--identity-key-file={}", identity.key_file.display()),
        format!("--trust-bundle-file={}", identity.bundle_file.display()),
    ];
    if more.iter().any(|flag| flag.starts_with("--listen=")) {
        flags.retain(|flag| !flag.starts_with("--listen="));
    }
    flags.extend(more.iter().cloned());
    flags
}

async fn bind(flags: Vec<String>) -> Runtime {
    let name = flags[0].clone();
    let settings = Bare::parse_from(flags).settings;
    let runtime = Runtime::bind(&name, &settings, proto::DESCRIPTOR_SET)
        .await
        .unwrap();
    runtime.publish_keys(vec![signer().verifying_key()]);
    runtime
}

async fn migrate(admin_url: String) {
    let options = pg::migrate::Options {
        ca_file: Some(Postgres::shared().ca.clone()),
        ..pg::migrate::Options::default()
    };
    pg::migrate::run(&admin_url, &SETS, &options).await.unwrap();
}

impl World {
    pub(crate) async fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let mesh = Authority::new(&folder.path().join("mesh"));
        let agents = Authority::new(&folder.path().join("agents"));
        let neighbours = Neighbours::default();
        let authorities = CertificateDer::pem_file_iter(agents.bundle_file()).unwrap();
        neighbours.trust(authorities.map(|one| one.unwrap().to_vec()).collect());
        let (mut peers, mut stops) = (Vec::new(), Vec::new());
        for name in ["auth", "tenant", "vault"] {
            let runtime = bind(flags(&mesh, name, &[])).await;
            peers.push(format!("--peer={name}=https://{}", runtime.address()));
            stops.push(runtime.stopping());
            let routes = match name {
                "auth" => Routes::new(GuardServiceServer::new(neighbours.clone())),
                "tenant" => Routes::new(DirectoryServiceServer::new(neighbours.clone())),
                _ => Routes::new(AgentIdentityServiceServer::new(neighbours.clone())),
            };
            tokio::spawn(async move { runtime.serve(routes).await.unwrap() });
        }
        let recovery = bind(flags(&mesh, "recovery", &[])).await;
        let db = Postgres::shared().database(&pg::migrate::fingerprint(&SETS), migrate);
        let redis = Redis::private(&folder.path().join("redis"));
        Self {
            neighbours,
            door: Door::default(),
            redis,
            agents,
            mesh,
            peers,
            prefix: Redis::prefix(),
            recovery,
            stops,
            db,
            _folder: folder,
        }
    }

    /// A replica that serves, with these settings too.
    pub(crate) async fn replica(&self, more: &[String]) -> Replica {
        let mut settings = self.peers.clone();
        settings.extend(more.iter().cloned());
        let runtime = bind(flags(&self.mesh, "query", &settings)).await;
        let (address, admin, stop) = (
            runtime.address(),
            runtime.admin_address(),
            CancellationToken::new(),
        );
        runtime.stop_after(stop.clone(), Duration::ZERO);
        let config = Own::parse_from([
            "query".to_owned(),
            format!("--database-url={}", self.db.url("trailmesh_query")),
            format!("--database-ca-file={}", Postgres::shared().ca.display()),
            "--database-max-connections=2".to_owned(),
            format!("--redis-url={}", self.redis.url),
            format!("--redis-prefix={}", self.prefix),
            "--agent-rate=1000".to_owned(),
        ])
        .config;
        Replica {
            address,
            admin,
            stop,
            running: tokio::spawn(query::start(config, runtime)),
        }
    }

    /// Replicas, with the door open to them.
    pub(crate) async fn replicas(&self, count: usize) -> Vec<Replica> {
        let mut replicas = Vec::new();
        for _ in 0..count {
            replicas.push(self.replica(&[]).await);
        }
        self.open(&replicas);
        replicas
    }

    /// From now on agents find these.
    pub(crate) fn open(&self, replicas: &[Replica]) {
        let addresses: Vec<_> = replicas.iter().map(|replica| replica.address).collect();
        self.door.set(&addresses);
    }

    /// A certificate of an agent.
    pub(crate) fn identity(&self, tenant: TenantId, agent: AgentId) -> Identity {
        let uri = format!("spiffe://trailmesh/eu/tenant/{tenant}/agent/{agent}");
        Identity {
            bundle_file: self.mesh.bundle_file(),
            ..self.agents.issue_as(&agent.to_string(), &[&uri], 3_600)
        }
    }

    /// An agent of a new tenant that follows one server, and runs.
    pub(crate) fn agent(&self) -> Followed {
        let (tenant, agent) = (TenantId::fresh(), AgentId::fresh());
        let server = ServerId::fresh().to_string();
        self.neighbours.server(tenant, &server, &[agent]);
        let identity = self.identity(tenant, agent);
        let followed = Followed {
            tenant,
            server: server.clone(),
            id: agent,
            agent: Agent::new((tenant, agent), 1, &[server], &identity, &self.door),
            identity,
        };
        tokio::spawn(followed.agent.clone().run());
        followed
    }

    /// What Redis answers to a command.
    pub(crate) async fn redis_says<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let client = Client::open(self.redis.url.as_str()).unwrap();
        // A machine with thousands of handshakes to make is slow.
        let patience = Some(Duration::from_secs(30));
        let options = AsyncConnectionConfig::new()
            .set_connection_timeout(patience)
            .set_response_timeout(patience);
        let connection = client
            .get_multiplexed_async_connection_with_config(&options)
            .await;
        let mut connection = connection.unwrap();
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        command.query_async(&mut connection).await.unwrap()
    }

    /// What recovery asks with.
    pub(crate) fn asker(&self) -> Asker {
        Asker(self.recovery.peers(), Arc::default())
    }
}

/// An agent with the server that it follows.
pub(crate) struct Followed {
    pub(crate) tenant: TenantId,
    pub(crate) server: String,
    pub(crate) id: AgentId,
    pub(crate) agent: Agent,
    pub(crate) identity: Identity,
}

/// Asks as service recovery does.
#[derive(Clone)]
pub(crate) struct Asker(Replicas, Arc<Mutex<HashMap<SocketAddr, Peer>>>);

/// The first message that an answer has, or why it has none.
pub(crate) type First = Result<Bytes, Status>;

impl Asker {
    pub(crate) fn peer(&self, address: SocketAddr) -> Peer {
        let mut known = self.1.lock().unwrap();
        let peer = known.entry(address);
        peer.or_insert_with(|| self.0.at("query", address).unwrap())
            .clone()
    }

    /// Asks one replica; the answer is a stream.
    pub(crate) async fn begin(
        peer: Peer,
        tenant: TenantId,
        server: &str,
        method: &str,
        deadline: Instant,
    ) -> Result<Streaming<pb::AskResponse>, Status> {
        let request = match method {
            CHANGES => agent::ChangesRequest {
                server_id: server.to_owned(),
                ..Default::default()
            }
            .encode_to_vec(),
            _ => agent::StatusRequest {
                server_id: server.to_owned(),
            }
            .encode_to_vec(),
        };
        let request = pb::AskRequest {
            context_token: context(tenant),
            server_id: server.to_owned(),
            method: method.to_owned(),
            request: request.into(),
        };
        let mut client = HubServiceClient::new(peer);
        let asked = chassis::deadline::within(deadline, client.ask(request));
        Ok(asked.await?.into_inner())
    }

    pub(crate) async fn first(
        &self,
        address: SocketAddr,
        of: &Followed,
        method: &str,
        seconds: u64,
    ) -> First {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let mut answer = Self::begin(self.peer(address), of.tenant, &of.server, method, deadline).await?;
        let message = answer.message().await?;
        Ok(message.expect("a message or a reason").message)
    }

    /// Who answers: tenant, agent and generation.
    pub(crate) async fn who(&self, address: SocketAddr, of: &Followed) -> Result<String, Status> {
        let message = self.first(address, of, STATUS, 10).await?;
        Ok(agent::StatusResponse::decode(message).unwrap().version)
    }

    /// Waits until the agent answers by this replica.
    pub(crate) async fn until_reached(&self, address: SocketAddr, of: &Followed, seconds: u64) -> String {
        let began = Instant::now();
        loop {
            match self.who(address, of).await {
                Ok(who) => return who,
                Err(status) => assert!(
                    began.elapsed() < Duration::from_secs(seconds),
                    "not reached within {seconds} s: {status:?}"
                ),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

pub(crate) fn reason(status: &Status) -> (Code, String) {
    let info = status.get_details_error_info();
    (status.code(), info.map(|info| info.reason).unwrap_or_default())
}

/// A context token of somebody in this tenant.
fn context(tenant: TenantId) -> String {
    let context = Context {
        subject: Subject::Person {
            user: UserId::fresh(),
            session: SessionId::fresh(),
        },
        seat: Some(Seat {
            tenant,
            region: Region::Eu,
            plan: Plan::Free,
            role: Some(Role::Analyst),
            pools: BTreeMap::new(),
            scopes: None,
        }),
        mfa_enabled: true,
    };
    signer().context(&context, Region::Eu, token::now()).unwrap()
}
