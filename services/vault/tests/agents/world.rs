//! A cell with two replicas of the vault, service tenant, a gateway that these tests speak through, and agents.

use std::{collections::BTreeMap, path::PathBuf, process::Command};

use chassis::{Peer, Runtime, Settings, token::Signer};
use clap::Parser;
use pg::migrate::Set;
use prost::Message;
use proto::{
    tenant::v1::{
        self as tenant_pb, agent_pool_service_client::AgentPoolServiceClient,
        agent_service_client::AgentServiceClient, server_service_client::ServerServiceClient,
        tenant_service_client::TenantServiceClient,
    },
    vault::v1::{self as pb, agent_identity_service_client::AgentIdentityServiceClient},
};
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ED25519, SanType, SignatureAlgorithm};
use testkit::{Authority, Database, Postgres};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Identity},
};
use tonic_types::StatusExt as _;
use types::{Context, Plan, Region, Role, Seat, SessionId, Subject, TenantId, UserId};

/// All that is in a cell's database.
const SETS: [Set; 3] = [auth::MIGRATIONS, tenant::MIGRATIONS, vault::MIGRATIONS];

const ROOT: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

#[derive(clap::Parser)]
struct OfVault {
    #[command(flatten)]
    config: vault::Config,
}

#[derive(clap::Parser)]
struct OfTenant {
    #[command(flatten)]
    config: tenant::Config,
}

#[derive(clap::Parser)]
struct Bare {
    #[command(flatten)]
    settings: Settings,
}

/// What a service said no with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct No {
    pub(crate) code: Code,
    pub(crate) reason: String,
    pub(crate) message: String,
    /// All of it, for comparison to the byte.
    pub(crate) bytes: Vec<u8>,
}

impl From<Status> for No {
    fn from(status: Status) -> Self {
        let info = status.get_details_error_info();
        Self {
            code: status.code(),
            reason: info.map(|info| info.reason).unwrap_or_default(),
            message: status.message().to_owned(),
            bytes: status.details().to_vec(),
        }
    }
}

/// Everything one test has.
pub(crate) struct World {
    pub(crate) authority: Authority,
    pub(crate) gateway: Runtime,
    pub(crate) replicas: Vec<u16>,
    /// The admin ports of the same.
    pub(crate) admins: Vec<std::net::SocketAddr>,
    stops: Vec<CancellationToken>,
    vaults: Vec<CancellationToken>,
    flags: Vec<String>,
    pub(crate) db: Database<'static>,
    pub(crate) folder: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        for stop in self.stops.iter().chain(&self.vaults) {
            stop.cancel();
        }
    }
}

pub(crate) fn signer() -> Signer {
    Signer::new("test".to_owned(), &[7; 32]).unwrap()
}

async fn bind(authority: &Authority, name: &str, peers: &[(&str, u16)]) -> Runtime {
    let identity = authority.issue(name);
    let mut flags = vec![
        name.to_owned(),
        "--listen=127.0.0.1:0".to_owned(),
        "--admin-listen=127.0.0.1:0".to_owned(),
        "--region=eu".to_owned(),
        "--drain-timeout=2s".to_owned(),
        "--propagation-delay=0s".to_owned(),
        format!("--identity-cert-file={}", identity.cert_file.display()),
        format!("--identity-key-file={}", identity.key_file.display()),
        format!("--trust-bundle-file={}", identity.bundle_file.display()),
    ];
    for (peer, port) in peers {
        flags.push(format!("--peer={peer}=https://localhost:{port}"));
    }
    let settings = Bare::parse_from(flags).settings;
    let runtime = Runtime::bind(name, &settings, proto::DESCRIPTOR_SET)
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
        let world = Self::with(&[&format!("--root-key={ROOT}")]).await;
        world.wait_for_authority();
        world
    }

    /// As [`World::new`], but the vault has no root key.
    pub(crate) async fn sealed() -> Self {
        Self::with(&[]).await
    }

    async fn with(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path());
        let postgres = Postgres::shared();
        let db = postgres.database(&pg::migrate::fingerprint(&SETS), migrate);
        let mut world = Self {
            gateway: bind(&authority, "gateway", &[]).await,
            replicas: Vec::new(),
            admins: Vec::new(),
            stops: Vec::new(),
            vaults: Vec::new(),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            authority,
            db,
            folder,
        };
        let first = world.start_vault(&[]).await;
        let nobody = testkit::free_port();
        let runtime = bind(&world.authority, "tenant", &[("auth", nobody), ("vault", first)]).await;
        let own = OfTenant::parse_from([
            "tenant".to_owned(),
            format!("--database-url={}", world.db.url("trailmesh_tenant")),
            "--database-max-connections=8".to_owned(),
            "--tenant-audit-pause=50ms".to_owned(),
            "--tenant-prepared=0".to_owned(),
        ]);
        let at = runtime.address().port();
        world.stops.push(runtime.stopping());
        tokio::spawn(async move { tenant::start(own.config, runtime).await.unwrap() });
        let peers = [("tenant", at), ("vault", first)];
        world.gateway = bind(&world.authority, "gateway", &peers).await;
        world
    }

    /// One more replica; gives its port.
    pub(crate) async fn start_vault(&mut self, more: &[&str]) -> u16 {
        let mut flags = vec![
            "vault".to_owned(),
            format!("--database-url={}", self.db.url("trailmesh_vault")),
            "--agent-authority-settle=1s".to_owned(),
        ];
        if !more.iter().any(|flag| flag.contains("max-connections")) {
            flags.push("--database-max-connections=6".to_owned());
        }
        flags.extend(self.flags.iter().cloned());
        flags.extend(more.iter().map(|flag| (*flag).to_owned()));
        let own = OfVault::parse_from(flags);
        let runtime = bind(&self.authority, "vault", &[]).await;
        let port = runtime.address().port();
        self.replicas.push(port);
        self.admins.push(runtime.admin_address());
        self.vaults.push(runtime.stopping());
        tokio::spawn(async move { vault::start(own.config, runtime).await.unwrap() });
        port
    }

    pub(crate) fn port(&self) -> u16 {
        self.replicas[0]
    }

    /// The vault in the hands of its operator.
    pub(crate) async fn operator(&self) -> vault::operator::Operator {
        let mut flags = vec![
            "vault".to_owned(),
            format!("--database-url={}", self.db.url("trailmesh_vault")),
            "--database-max-connections=2".to_owned(),
        ];
        flags.extend(self.flags.iter().cloned());
        let config = OfVault::parse_from(flags).config;
        let settings = Bare::parse_from(["vault", "--region=eu"]).settings;
        vault::operator::Operator::open(&config, &settings).await.unwrap()
    }

    /// A service of this name that calls a replica.
    pub(crate) async fn service(&self, name: &str, port: u16) -> Runtime {
        bind(&self.authority, name, &[("vault", port)]).await
    }

    /// Ends the replicas, as one ends a service.
    pub(crate) fn stop_vaults(&mut self) {
        for stop in &self.vaults {
            stop.cancel();
        }
    }

    /// Waits until there is an authority of agents.
    pub(crate) fn wait_for_authority(&self) {
        testkit::eventually("an authority of agents", || {
            (self
                .db
                .sql("SELECT count(*) FROM vault.agent_authority WHERE state = 'active'")
                == "1")
                .then_some(())
        });
    }

    pub(crate) fn vault(&self) -> AgentIdentityServiceClient<Peer> {
        AgentIdentityServiceClient::new(self.gateway.peer("vault").unwrap())
    }

    /// The owner of a new tenant of any size.
    pub(crate) async fn owner(&self) -> Owner<'_> {
        let user = UserId::fresh();
        self.db.sql(&format!(
            "INSERT INTO auth.account (id, email, email_key, display_name, password, verified_at)
             VALUES ('{user}', '{user}@example.com', '{user}@example.com', 'Anna', '', now())"
        ));
        let mut owner = Owner {
            world: self,
            context: Context {
                subject: Subject::Person {
                    user,
                    session: SessionId::fresh(),
                },
                seat: None,
                mfa_enabled: true,
            },
        };
        let create = tenant_pb::CreateTenantRequest {
            name: "Acme".to_owned(),
            region: proto::common::v1::Region::Eu.into(),
        };
        let request = owner.request("tenant.v1.TenantService/CreateTenant", create);
        let mut client = TenantServiceClient::new(self.gateway.peer("tenant").unwrap());
        let tenant = client.create_tenant(request).await.unwrap().into_inner().tenant;
        let tenant: TenantId = tenant.unwrap().id.parse().unwrap();
        self.db.sql(&format!(
            "UPDATE tenant.tenant SET plan = 'enterprise', agreed_plan = 'enterprise' WHERE id = '{tenant}'"
        ));
        owner.context.seat = Some(Seat {
            tenant,
            region: Region::Eu,
            plan: Plan::Enterprise,
            role: Some(Role::Owner),
            pools: BTreeMap::new(),
            scopes: None,
        });
        owner
    }

    /// Enrols with this token and a new key.
    pub(crate) async fn enrol(&self, token: &str) -> Result<Agent, No> {
        self.enrol_with(token, Keys::new(&PKCS_ED25519)).await
    }

    pub(crate) async fn enrol_with(&self, token: &str, keys: Keys) -> Result<Agent, No> {
        let request = pb::EnrolAgentRequest {
            enrolment_token: token.to_owned(),
            csr: keys.csr(),
        };
        let answer = self.vault().enrol_agent(request).await?.into_inner();
        Ok(Agent {
            id: answer.agent_id,
            tenant: answer.tenant_id,
            certificate: answer.certificate.unwrap(),
            key: keys.key.serialize_pem(),
        })
    }

    /// A service of this name that asks the first replica.
    pub(crate) async fn asking(&self, name: &str) -> Asking {
        let runtime = self.service(name, self.port()).await;
        Asking {
            client: AgentIdentityServiceClient::new(runtime.peer("vault").unwrap()),
            _runtime: runtime,
        }
    }

    /// Enrols at one of the replicas, once it is unsealed.
    pub(crate) async fn enrol_at(&self, port: u16, token: &str) -> Agent {
        self.enrol_trusting(port, token).await.0
    }

    /// As [`Self::enrol_at`], with what the agent is told to trust.
    pub(crate) async fn enrol_trusting(&self, port: u16, token: &str) -> (Agent, pb::MeshTrust) {
        let gateway = self.service("gateway", port).await;
        let mut client = AgentIdentityServiceClient::new(gateway.peer("vault").unwrap());
        let keys = Keys::new(&PKCS_ED25519);
        let request = pb::EnrolAgentRequest {
            enrolment_token: token.to_owned(),
            csr: keys.csr(),
        };
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let answer = loop {
            match client.enrol_agent(request.clone()).await {
                Ok(answer) => break answer.into_inner(),
                Err(status) => assert!(
                    status.code() == Code::Unavailable && std::time::Instant::now() < limit,
                    "{status:?}"
                ),
            }
        };
        let agent = Agent {
            id: answer.agent_id,
            tenant: answer.tenant_id,
            certificate: answer.certificate.unwrap(),
            key: keys.key.serialize_pem(),
        };
        (agent, answer.trust.unwrap())
    }

    /// The agent's connection to one of the replicas.
    pub(crate) fn connect_to(&self, agent: &Agent, port: u16) -> Connection {
        let bundle = std::fs::read(self.authority.bundle_file()).unwrap();
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(bundle))
            .identity(Identity::from_pem(&agent.certificate.chain, &agent.key))
            .domain_name("localhost");
        let _ = rustls::crypto::ring::default_provider().install_default();
        let channel = Channel::from_shared(format!("https://127.0.0.1:{port}"))
            .unwrap()
            .tls_config(tls)
            .unwrap()
            .connect_lazy();
        Connection(AgentIdentityServiceClient::new(channel))
    }

    pub(crate) fn connect(&self, agent: &Agent) -> Connection {
        self.connect_to(agent, self.replicas[0])
    }

    /// Waits until a replica is unsealed and trusts the agent's authority.
    pub(crate) async fn connect_when_trusted(&self, agent: &Agent, port: u16, server: &str) -> Connection {
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            let connection = self.connect_to(agent, port);
            match connection.open(server).await {
                Err(no) if no.reason.is_empty() || no.reason == "VAULT_SEALED" => {
                    assert!(std::time::Instant::now() < limit, "never trusted: {no:?}");
                }
                _ => return connection,
            }
        }
    }

    /// What the audit log of a tenant has of this method: bodies, oldest first.
    pub(crate) fn audited(&self, tenant: &str, method: &str) -> Vec<serde_json::Value> {
        let schema = format!("t_{}", tenant.strip_prefix("tnt_").unwrap());
        let bodies = self.db.sql(&format!(
            "SELECT body FROM {schema}.audit_record WHERE body LIKE '%AgentIdentityService/{method}%' ORDER BY seq"
        ));
        let bodies = bodies.lines().filter(|line| !line.is_empty());
        bodies.map(|body| serde_json::from_str(body).unwrap()).collect()
    }
}

/// A person who owns a tenant.
#[derive(Clone)]
pub(crate) struct Owner<'w> {
    pub(crate) world: &'w World,
    pub(crate) context: Context,
}

impl<'w> Owner<'w> {
    /// Another member of the tenant, put there by hand.
    pub(crate) fn member(&self, role: Option<Role>, pools: &[(&str, Role)]) -> Owner<'w> {
        let (tenant, user) = (self.tenant(), UserId::fresh());
        let word = role.map_or_else(|| "NULL".to_owned(), |role| format!("'{}'", role.word()));
        let db = &self.world.db;
        db.sql(&format!(
            "INSERT INTO tenant.member (tenant_id, user_id, role) VALUES ('{tenant}', '{user}', {word})"
        ));
        let mut member = self.clone();
        member.context.subject = Subject::Person {
            user,
            session: SessionId::fresh(),
        };
        let seat = member.context.seat.as_mut().unwrap();
        seat.role = role;
        for (pool, role) in pools {
            let word = role.word();
            db.sql(&format!(
                "INSERT INTO tenant.binding VALUES ('{tenant}', '{user}', '{pool}', '{word}')"
            ));
            seat.pools.insert(pool.parse().unwrap(), *role);
        }
        member
    }

    pub(crate) fn tenant(&self) -> TenantId {
        self.context.seat.as_ref().unwrap().tenant
    }

    pub(crate) fn schema(&self) -> String {
        format!("t_{}", self.tenant().digits())
    }

    /// With the metadata of the gateway, and the proof of a second factor where the method takes one.
    pub(crate) fn request<Q: Message>(&self, method: &str, message: Q) -> Request<Q> {
        let path = format!("/trailmesh.{method}");
        let bytes = message.encode_to_vec();
        let now = chassis::token::now();
        let mut request = Request::new(message);
        let token = signer().context(&self.context, Region::Eu, now).unwrap();
        let metadata = request.metadata_mut();
        metadata.insert("authorization", format!("Bearer {token}").parse().unwrap());
        let policy = self.world.gateway.policy();
        if policy.rule(&path).unwrap().step_up == chassis::policy::StepUp::Totp {
            let sha256 = ring::digest::digest(&ring::digest::SHA256, &bytes);
            let sha256 = sha256.as_ref().try_into().unwrap();
            let grant = signer()
                .grant(&self.context, Region::Eu, &path, &sha256, now)
                .unwrap();
            metadata.insert("trailmesh-grant", grant.parse().unwrap());
        }
        request
    }

    pub(crate) fn servers(&self) -> ServerServiceClient<Peer> {
        ServerServiceClient::new(self.world.gateway.peer("tenant").unwrap())
    }

    pub(crate) fn agents(&self) -> AgentServiceClient<Peer> {
        AgentServiceClient::new(self.world.gateway.peer("tenant").unwrap())
    }

    pub(crate) async fn pool(&self, name: &str) -> String {
        let request = tenant_pb::CreateAgentPoolRequest {
            name: name.to_owned(),
        };
        let request = self.request("tenant.v1.AgentPoolService/CreateAgentPool", request);
        let mut client = AgentPoolServiceClient::new(self.world.gateway.peer("tenant").unwrap());
        let answer = client.create_agent_pool(request).await.unwrap().into_inner();
        answer.pool.unwrap().id
    }

    /// A server with this password.
    pub(crate) async fn server(&self, name: &str, pool_id: &str, password: &str) -> String {
        let server = Some(tenant_pb::Server {
            name: name.to_owned(),
            host: "db.example.com".to_owned(),
            username: "replica".to_owned(),
            pool_id: pool_id.to_owned(),
            ..tenant_pb::Server::default()
        });
        let request = tenant_pb::RegisterServerRequest {
            server,
            password: password.to_owned(),
        };
        let request = self.request("tenant.v1.ServerService/RegisterServer", request);
        let answer = self.servers().register_server(request).await.unwrap();
        answer.into_inner().server.unwrap().id
    }

    pub(crate) async fn set(&self, server_id: &str, kind: pb::SecretKind, value: &str) {
        let request = tenant_pb::SetServerCredentialRequest {
            server_id: server_id.to_owned(),
            kind: kind.into(),
            value: value.to_owned(),
        };
        let request = self.request("tenant.v1.ServerService/SetServerCredential", request);
        self.servers().set_server_credential(request).await.unwrap();
    }

    /// A new agent: its id and its token.
    pub(crate) async fn agent(&self, name: &str, pool_id: &str) -> (String, String) {
        let request = tenant_pb::CreateAgentRequest {
            name: name.to_owned(),
            pool_id: pool_id.to_owned(),
        };
        let request = self.request("tenant.v1.AgentService/CreateAgent", request);
        let answer = self.agents().create_agent(request).await.unwrap().into_inner();
        (answer.agent.unwrap().id, answer.enrolment_token)
    }

    /// A new agent that has enrolled.
    pub(crate) async fn enrolled(&self, name: &str, pool_id: &str) -> Agent {
        self.world.wait_for_authority();
        let (_, token) = self.agent(name, pool_id).await;
        self.world.enrol(&token).await.unwrap()
    }

    /// Another token for an agent.
    pub(crate) async fn renew_enrolment(&self, agent_id: &str) -> String {
        let agent_id = agent_id.to_owned();
        let request = tenant_pb::RenewEnrolmentRequest { agent_id };
        let request = self.request("tenant.v1.AgentService/RenewEnrolment", request);
        let answer = self.agents().renew_enrolment(request).await.unwrap();
        answer.into_inner().enrolment_token
    }

    pub(crate) async fn revoke(&self, agent_id: &str) {
        let agent_id = agent_id.to_owned();
        let request = tenant_pb::RevokeAgentRequest { agent_id };
        let request = self.request("tenant.v1.AgentService/RevokeAgent", request);
        self.agents().revoke_agent(request).await.unwrap();
    }
}

/// A key pair that never leaves its agent.
pub(crate) struct Keys {
    pub(crate) key: KeyPair,
    params: CertificateParams,
}

impl Keys {
    pub(crate) fn new(algorithm: &'static SignatureAlgorithm) -> Self {
        Self {
            key: KeyPair::generate_for(algorithm).unwrap(),
            params: CertificateParams::default(),
        }
    }

    /// With names that the agent would like to have.
    pub(crate) fn naming(uri: &str, common_name: &str) -> Self {
        let mut keys = Self::new(&PKCS_ED25519);
        let name = &mut keys.params.distinguished_name;
        name.push(DnType::CommonName, common_name);
        keys.params
            .subject_alt_names
            .push(SanType::URI(uri.try_into().unwrap()));
        keys.params
            .subject_alt_names
            .push(SanType::DnsName("vault.example.com".try_into().unwrap()));
        keys
    }

    pub(crate) fn csr(&self) -> String {
        let request = self.params.serialize_request(&self.key).unwrap();
        request.pem().unwrap()
    }
}

/// An agent that has enrolled.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    pub(crate) id: String,
    pub(crate) tenant: String,
    pub(crate) certificate: pb::AgentCertificate,
    pub(crate) key: String,
}

/// An agent's connection.
#[derive(Clone)]
pub(crate) struct Connection(AgentIdentityServiceClient<Channel>);

impl Connection {
    /// The credentials of a server: kinds and values.
    pub(crate) async fn open(&self, server_id: &str) -> Result<Vec<(pb::SecretKind, String)>, No> {
        let request = pb::OpenCredentialsRequest {
            server_id: server_id.to_owned(),
        };
        let answer = self.0.clone().open_credentials(request).await?.into_inner();
        let credentials = answer.credentials.into_iter();
        Ok(credentials
            .map(|one| (one.kind(), String::from_utf8(one.value.to_vec()).unwrap()))
            .collect())
    }

    pub(crate) async fn assignment(&self) -> Result<pb::GetAssignmentResponse, No> {
        let mut client = self.0.clone();
        let answer = client.get_assignment(pb::GetAssignmentRequest {}).await?;
        Ok(answer.into_inner())
    }

    pub(crate) async fn renew(&self, keys: &Keys) -> Result<pb::AgentCertificate, No> {
        let csr = keys.csr();
        let request = pb::RenewCertificateRequest { csr };
        let answer = self.0.clone().renew_certificate(request).await?.into_inner();
        Ok(answer.certificate.unwrap())
    }
}

/// A service that asks about agents.
pub(crate) struct Asking {
    client: AgentIdentityServiceClient<Peer>,
    _runtime: Runtime,
}

impl Asking {
    /// The places of those that do not count.
    pub(crate) async fn check(&self, agents: &[pb::AgentRef]) -> Result<Vec<u32>, No> {
        Ok(self.look(agents).await?.void)
    }

    pub(crate) async fn look(&self, agents: &[pb::AgentRef]) -> Result<pb::CheckAgentsResponse, No> {
        let agents = agents.to_vec();
        let mut client = self.client.clone();
        let answer = client.check_agents(pb::CheckAgentsRequest { agents }).await?;
        Ok(answer.into_inner())
    }

    pub(crate) async fn authorities(&self) -> Result<Vec<Vec<u8>>, No> {
        let mut client = self.client.clone();
        let answer = client
            .get_agent_authorities(pb::GetAgentAuthoritiesRequest {})
            .await?;
        Ok(answer
            .into_inner()
            .authorities
            .into_iter()
            .map(Vec::from)
            .collect())
    }
}

/// Runs the openssl program; gives what it printed, or what it complained of.
pub(crate) fn openssl(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("openssl").args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{}{}", text(&output.stdout), text(&output.stderr)))
    }
}

/// A file of the test.
pub(crate) fn file(world: &World, name: &str, text: &str) -> PathBuf {
    let path = world.folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}
