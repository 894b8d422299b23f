//! Agents: whose certificates are accepted where, and what they may call.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use chassis::{AgentCall, agent, identity::AgentTrust};
use proto::{
    auth::v1::guard_service_server::GuardServiceServer,
    vault::v1::{
        self as pb, agent_identity_service_client::AgentIdentityServiceClient,
        agent_identity_service_server as agents,
    },
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tempfile::TempDir;
use testkit::{Authority, Identity};
use tokio::{io::AsyncReadExt as _, net::TcpStream};
use tokio_rustls::TlsConnector;
use tonic::{
    Code, Request, Response, Status,
    service::Routes,
    transport::{Certificate, Channel, ClientTlsConfig},
};
use types::{AgentId, TenantId};

use crate::scene::{AUTHENTICATE, CONSUME, GET_TENANT, Guard, Mesh, Service, bind, reason, settings, signer};

const OPEN: &str = "/trailmesh.vault.v1.AgentIdentityService/OpenCredentials";
const RENEW: &str = "/trailmesh.vault.v1.AgentIdentityService/RenewCertificate";
const ENROL: &str = "/trailmesh.vault.v1.AgentIdentityService/EnrolAgent";
const ASSIGNMENT: &str = "/trailmesh.vault.v1.AgentIdentityService/GetAssignment";
const AUTHORITIES: &str = "/trailmesh.vault.v1.AgentIdentityService/GetAgentAuthorities";
const CHECK: &str = "/trailmesh.vault.v1.AgentIdentityService/CheckAgents";
const SEAL: &str = "/trailmesh.vault.v1.SecretService/SealSecret";

/// Answers with what it learned of the caller, and with authorities.
#[derive(Clone, Default)]
struct Handlers(Arc<Mutex<Vec<Vec<u8>>>>);

fn told<T>(request: &Request<T>) -> Result<String, Status> {
    let AgentCall {
        tenant,
        agent,
        serial,
        request,
        ..
    } = agent(request)?;
    Ok(format!("{tenant} {agent} {serial} {request}"))
}

#[tonic::async_trait]
impl agents::AgentIdentityService for Handlers {
    async fn enrol_agent(
        &self,
        request: Request<pb::EnrolAgentRequest>,
    ) -> Result<Response<pb::EnrolAgentResponse>, Status> {
        told(&request).map(|_| Response::new(Default::default()))
    }

    async fn renew_certificate(
        &self,
        request: Request<pb::RenewCertificateRequest>,
    ) -> Result<Response<pb::RenewCertificateResponse>, Status> {
        told(&request).map(|_| Response::new(Default::default()))
    }

    async fn open_credentials(
        &self,
        request: Request<pb::OpenCredentialsRequest>,
    ) -> Result<Response<pb::OpenCredentialsResponse>, Status> {
        let value = told(&request)?.into_bytes().into();
        Ok(Response::new(pb::OpenCredentialsResponse {
            credentials: vec![pb::Credential { kind: 0, value }],
        }))
    }

    async fn get_assignment(
        &self,
        request: Request<pb::GetAssignmentRequest>,
    ) -> Result<Response<pb::GetAssignmentResponse>, Status> {
        told(&request).map(|_| Response::new(Default::default()))
    }

    async fn get_agent_authorities(
        &self,
        request: Request<pb::GetAgentAuthoritiesRequest>,
    ) -> Result<Response<pb::GetAgentAuthoritiesResponse>, Status> {
        let caller = chassis::service(&request)?;
        assert!(["gateway", "query"].contains(&caller.as_str()), "{caller}");
        let authorities = self.0.lock().unwrap().clone();
        Ok(Response::new(pb::GetAgentAuthoritiesResponse {
            authorities: authorities.into_iter().map(Into::into).collect(),
        }))
    }

    async fn check_agents(
        &self,
        _: Request<pb::CheckAgentsRequest>,
    ) -> Result<Response<pb::CheckAgentsResponse>, Status> {
        Ok(Response::new(Default::default()))
    }
}

/// A vault, and two authorities: the mesh's and the agents'.
struct Scene {
    mesh: Mesh,
    agents: Authority,
    files: Identity,
    address: SocketAddr,
    trust: AgentTrust,
    admin: SocketAddr,
    told: Arc<Mutex<Vec<Vec<u8>>>>,
    _vault: Service,
    _folder: TempDir,
}

fn der(authority: &Authority) -> Vec<Vec<u8>> {
    let all = CertificateDer::pem_file_iter(authority.bundle_file()).unwrap();
    all.map(|one| one.unwrap().to_vec()).collect()
}

fn name(tenant: TenantId, agent: AgentId) -> String {
    format!("spiffe://trailmesh/eu/tenant/{tenant}/agent/{agent}")
}

fn fresh_name() -> String {
    name(TenantId::fresh(), AgentId::fresh())
}

impl Scene {
    async fn new() -> Self {
        let (mesh, folder) = (Mesh::new(), tempfile::tempdir().unwrap());
        let agents = Authority::new(&folder.path().join("agents"));
        let files = mesh.authority.issue("vault");
        let serving = bind("vault", &settings(&files, &[])).await;
        serving.publish_keys(vec![signer().verifying_key()]);
        let trust = serving.agent_trust().unwrap();
        trust.replace(&der(&agents)).unwrap();
        let handlers = Handlers::default();
        let told = handlers.0.clone();
        let routes = Routes::new(agents::AgentIdentityServiceServer::new(handlers))
            .add_service(GuardServiceServer::new(Guard::default()));
        Self {
            address: serving.address(),
            mesh,
            agents,
            files,
            trust,
            admin: serving.admin_address(),
            told,
            _vault: Service::start(serving, routes),
            _folder: folder,
        }
    }

    /// A certificate of the agents' authority with these URIs.
    fn issue(&self, uris: &[&str], seconds: i64) -> Identity {
        self.with_bundle(self.agents.issue_as("agent", uris, seconds))
    }

    fn with_bundle(&self, identity: Identity) -> Identity {
        Identity {
            bundle_file: self.mesh.authority.bundle_file(),
            ..identity
        }
    }

    fn channel(&self, identity: &Identity) -> Channel {
        channel(identity, self.address)
    }
}

/// tonic's own, made when it is first used.
fn channel(identity: &Identity, address: SocketAddr) -> Channel {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let read = |path: &std::path::Path| std::fs::read(path).unwrap();
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read(&identity.bundle_file)))
        .identity(tonic::transport::Identity::from_pem(
            read(&identity.cert_file),
            read(&identity.key_file),
        ))
        .domain_name("localhost");
    Channel::from_shared(format!("https://{address}"))
        .unwrap()
        .timeout(Duration::from_secs(20))
        .tls_config(tls)
        .unwrap()
        .connect_lazy()
}

async fn open(channel: &Channel) -> Result<String, Status> {
    let mut client = AgentIdentityServiceClient::new(channel.clone());
    let answer = client
        .open_credentials(pb::OpenCredentialsRequest::default())
        .await?
        .into_inner();
    Ok(String::from_utf8(answer.credentials[0].value.to_vec()).unwrap())
}

async fn call(channel: &Channel, path: &'static str) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client
        .ready()
        .await
        .map_err(|error| Status::from_error(error.into()))?;
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let path = http::uri::PathAndQuery::from_static(path);
    client.unary(Request::new(()), path, codec).await.map(|_| ())
}

/// Whether the connection itself was refused: nobody answered with a reason.
fn refused_at_the_door(outcome: &Result<String, Status>) -> bool {
    outcome.as_ref().is_err_and(|status| reason(status).is_empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_who_its_certificate_says() {
    let scene = Scene::new().await;
    let (tenant, agent) = (TenantId::fresh(), AgentId::fresh());
    let identity = scene.issue(&[&name(tenant, agent)], 600);
    let told = open(&scene.channel(&identity)).await.unwrap();
    let words: Vec<_> = told.split(' ').collect();
    assert_eq!(words[..2], [tenant.to_string(), agent.to_string()]);
    let leaf = CertificateDer::from_pem_file(&identity.cert_file).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&leaf).unwrap();
    assert_eq!(words[2], format!("{:x}", parsed.serial));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_does_not_say_which_request_it_is() {
    let scene = Scene::new().await;
    let channel = scene.channel(&scene.issue(&[&fresh_name()], 600));
    let foreign = types::RequestId::fresh().to_string();
    let mut request = Request::new(pb::OpenCredentialsRequest::default());
    request
        .metadata_mut()
        .insert("trailmesh-request-id", foreign.parse().unwrap());
    let mut client = AgentIdentityServiceClient::new(channel);
    let answer = client.open_credentials(request).await.unwrap().into_inner();
    let told = String::from_utf8(answer.credentials[0].value.to_vec()).unwrap();
    let own = told.split(' ').nth(3).unwrap();
    assert!(
        own.parse::<types::RequestId>().is_ok() && own != foreign,
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_calls_what_is_for_agents_and_nothing_else() {
    let scene = Scene::new().await;
    let channel = scene.channel(&scene.issue(&[&fresh_name()], 600));
    for path in [OPEN, RENEW, ASSIGNMENT] {
        call(&channel, path).await.unwrap();
    }
    for path in [
        ENROL,
        SEAL,
        AUTHORITIES,
        CHECK,
        AUTHENTICATE,
        CONSUME,
        GET_TENANT,
        "/grpc.health.v1.Health/Check",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/trailmesh.vault.v1.AgentIdentityService/Nothing",
    ] {
        let status = call(&channel, path).await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::PermissionDenied, "CALLER_NOT_ALLOWED"),
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_service_and_no_person_is_an_agent() {
    let scene = Scene::new().await;
    for service in ["gateway", "tenant", "auth", "vault", "agent"] {
        let channel = scene.channel(&scene.mesh.authority.issue(service));
        for path in [OPEN, RENEW, ASSIGNMENT] {
            let status = call(&channel, path).await.unwrap_err();
            assert_eq!(reason(&status), "CALLER_NOT_ALLOWED", "{service} {path}");
        }
    }
    // The gateway with a person's token.
    let gateway = scene.mesh.caller("gateway", &[("vault", scene.address)]).await;
    let bearer = crate::scene::bearer(&crate::scene::person(Some(types::Role::Owner)));
    let peer = gateway.peer("vault").unwrap();
    let status = crate::scene::call(peer, OPEN, &[("authorization", bearer)])
        .await
        .unwrap_err();
    assert_eq!(reason(&status), "CALLER_NOT_ALLOWED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_counts_only_with_its_own_authority() {
    let scene = Scene::new().await;
    let agent = fresh_name();
    let service = "spiffe://trailmesh/eu/service/gateway";
    let other = tempfile::tempdir().unwrap();
    let other = Authority::new(other.path());
    let mesh = &scene.mesh.authority;
    for (what, identity) in [
        ("a service of the agents' authority", scene.issue(&[service], 600)),
        (
            "an agent of the mesh's authority",
            mesh.issue_as("x", &[&agent], 600),
        ),
        ("an agent and a service", scene.issue(&[&agent, service], 600)),
        (
            "a service and an agent",
            mesh.issue_as("y", &[service, &agent], 600),
        ),
        ("two agents", scene.issue(&[&agent, &fresh_name()], 600)),
        ("nobody", scene.issue(&[], 600)),
        ("another authority", other.issue_as("z", &[&agent], 600)),
        ("expired", scene.issue(&[&agent], -60)),
        (
            "another region",
            scene.issue(&[&agent.replace("/eu/", "/us/")], 600),
        ),
        (
            "another trust domain",
            scene.issue(&[&agent.replace("trailmesh", "elsewhere")], 600),
        ),
        (
            "something more",
            scene.issue(&[&format!("{agent}/service/gateway")], 600),
        ),
    ] {
        let outcome = open(&scene.channel(&scene.with_bundle(identity))).await;
        assert!(refused_at_the_door(&outcome), "{what}: {outcome:?}");
    }
    let serving_only = scene.agents.issue_with("serving", &[&agent], true, false);
    let outcome = open(&scene.channel(&scene.with_bundle(serving_only))).await;
    assert!(refused_at_the_door(&outcome), "for serving only: {outcome:?}");
    assert!(open(&scene.channel(&scene.issue(&[&agent], 600))).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_agents_do_not_call_knows_none() {
    let scene = Scene::new().await;
    let tenant = scene.mesh.serve("tenant", Guard::default().routes()).await;
    let identity = scene.issue(&[&fresh_name()], 600);
    let outcome = open(&channel(&identity, tenant.address)).await;
    assert!(refused_at_the_door(&outcome), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_of_agents_come_and_go_while_the_service_runs() {
    let scene = Scene::new().await;
    let second = tempfile::tempdir().unwrap();
    let second = Authority::new(second.path());
    let first_agent = scene.channel(&scene.issue(&[&fresh_name()], 600));
    let second_files = scene.with_bundle(second.issue_as("agent", &[&fresh_name()], 600));
    open(&first_agent).await.unwrap();
    assert!(refused_at_the_door(&open(&scene.channel(&second_files)).await));

    let both = [der(&scene.agents), der(&second)].concat();
    scene.trust.replace(&both).unwrap();
    let second_agent = scene.channel(&second_files);
    open(&first_agent).await.unwrap();
    open(&second_agent).await.unwrap();

    // The first is given up: its connection is open still, and worth nothing.
    scene.trust.replace(&der(&second)).unwrap();
    let status = open(&first_agent).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unauthenticated, "CERTIFICATE_ENDED")
    );
    open(&second_agent).await.unwrap();

    scene.trust.replace(&[]).unwrap();
    assert_eq!(
        reason(&open(&second_agent).await.unwrap_err()),
        "CERTIFICATE_ENDED"
    );
    assert!(refused_at_the_door(&open(&scene.channel(&second_files)).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_service_follows_what_the_vault_says_of_authorities() {
    let scene = Scene::new().await;
    let query = scene.mesh.caller("query", &[("vault", scene.address)]).await;
    let (trust, vault) = (query.agent_trust().unwrap(), query.peer("vault").unwrap());
    query.spawn("agent authorities", chassis::agents::follow(vault, trust));
    let (address, stopping) = (query.address(), query.stopping());
    let (sender, mut taken) = tokio::sync::mpsc::channel(1);
    let serving = tokio::spawn(query.serve_with(Routes::default(), sender, std::future::ready(())));
    let identity = scene.issue(&[&fresh_name()], 600);
    assert!(!serves(&identity, address, Duration::from_secs(10)).await);
    // What is no authority beside the real one does not keep that one out.
    *scene.told.lock().unwrap() = [vec![vec![0; 9]], der(&scene.agents)].concat();
    let until = std::time::Instant::now() + Duration::from_secs(60);
    let connected = loop {
        // Its refusal may be long in coming: what was taken is the proof.
        serves(&identity, address, Duration::from_millis(300)).await;
        if let Ok(connected) = taken.try_recv() {
            break connected;
        }
        assert!(std::time::Instant::now() < until, "the agent is not known");
    };
    assert!(connected.standing().holds());
    // It is there to serve: what agents call is elsewhere.
    let outcome = open(&channel(&identity, address)).await;
    assert!(refused_at_the_door(&outcome), "{outcome:?}");
    scene.told.lock().unwrap().clear();
    crate::rotation::until("the agent to be forgotten", || async {
        !connected.standing().holds()
    })
    .await;
    drop(connected);
    stopping.cancel();
    serving.await.unwrap().unwrap();
}

/// Whether a connection on which the agent serves is still open after `patience`. Nobody speaks on it: it stays open, or is closed.
async fn serves(identity: &Identity, address: SocketAddr, patience: Duration) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    let bundle = CertificateDer::pem_file_iter(&identity.bundle_file).unwrap();
    for one in bundle {
        roots.add(one.unwrap()).unwrap();
    }
    let chain = CertificateDer::pem_file_iter(&identity.cert_file).unwrap();
    let key = PrivateKeyDer::from_pem_file(&identity.key_file).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain.map(Result::unwrap).collect(), key)
        .unwrap();
    config.alpn_protocols = vec![chassis::AGENT_ALPN.to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let connected = connector.connect("localhost".try_into().unwrap(), stream).await;
    let Ok(mut connection) = connected else {
        return false;
    };
    let mut byte = [0];
    tokio::time::timeout(patience, connection.read(&mut byte))
        .await
        .is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_ends_ends_its_open_connection_too() {
    let scene = Scene::new().await;
    let channel = scene.channel(&scene.issue(&[&fresh_name()], 3));
    open(&channel).await.unwrap();
    let limit = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        match open(&channel).await {
            Ok(_) => assert!(std::time::Instant::now() < limit, "it never ends"),
            Err(status) => {
                assert_eq!(reason(&status), "CERTIFICATE_ENDED", "{status:?}");
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_none_is_left_out_and_the_others_count() {
    let scene = Scene::new().await;
    let channel = scene.channel(&scene.issue(&[&fresh_name()], 600));
    let leaf = scene.issue(&[&fresh_name()], 600);
    let leaf = CertificateDer::from_pem_file(&leaf.cert_file).unwrap().to_vec();
    let given = [vec![vec![0; 9]], der(&scene.agents), vec![leaf, Vec::new()]].concat();
    let outcome = scene.trust.replace(&given).unwrap();
    assert_eq!(outcome.iter().map(|one| one.place).collect::<Vec<_>>(), [0, 2, 3]);
    open(&channel).await.unwrap();
    let text = crate::rotation::metrics(scene.admin).await.unwrap();
    let counted = |line: &str| {
        line.starts_with("trailmesh_identity_agent_authorities_left_out") && line.ends_with(" 3")
    };
    assert!(text.lines().any(counted), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_authority_is_never_both() {
    let scene = Scene::new().await;
    let channel = scene.channel(&scene.issue(&[&fresh_name()], 600));
    let mesh = der(&scene.mesh.authority);
    let outcome = scene.trust.replace(&[mesh, der(&scene.agents)].concat()).unwrap();
    assert_eq!(outcome.iter().map(|one| one.place).collect::<Vec<_>>(), [0]);
    // The other one counts, and that of the mesh does not count for agents.
    open(&channel).await.unwrap();
    let forged = scene.mesh.authority.issue_as("agent", &[&fresh_name()], 600);
    assert!(refused_at_the_door(&open(&scene.channel(&forged)).await));
    // Nor by way of the bundle: a new one with the agents' authority in it is refused as a whole.
    let admin = scene.admin;
    let read = |path| std::fs::read_to_string(path).unwrap();
    let bundle = read(&scene.files.bundle_file);
    std::fs::write(
        &scene.files.bundle_file,
        format!("{bundle}{}", read(&scene.agents.bundle_file())),
    )
    .unwrap();
    crate::rotation::until("the bundle to be refused", || async {
        let text = crate::rotation::metrics(admin).await.unwrap_or_default();
        text.lines()
            .any(|line| line.starts_with("trailmesh_identity_reloads") && line.contains("refused"))
    })
    .await;
    let forged = scene.issue(&["spiffe://trailmesh/eu/service/gateway"], 600);
    std::fs::write(&scene.files.bundle_file, bundle).unwrap();
    let outcome = open(&scene.channel(&forged)).await;
    assert!(refused_at_the_door(&outcome), "{outcome:?}");
}
