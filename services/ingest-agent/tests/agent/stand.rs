//! What stands in for a mesh: one address with a door for agents, a vault and replicas of the hub behind it. Everything on the wire is real; what
//! the services answer is what a test says.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use http::{Request, Uri};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use ingest_agent::agent::pins::Pin;
use proto::{
    agent::v1::{self as agent, agent_service_client::AgentServiceClient},
    vault::v1::{
        self as pb,
        agent_identity_service_server::{AgentIdentityService, AgentIdentityServiceServer},
    },
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SanType,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::{Response, Status};
use types::{AgentId, Code, Fault, ServerId, TenantId};

pub(crate) const TOKEN: &str = "enr_test-token";
const ALPN: &[u8] = b"trailmesh-agent/1";

/// A connection on which an agent serves.
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) replica: String,
    pub(crate) hello: agent::HelloResponse,
    pub(crate) client: AgentServiceClient<Channel>,
    /// The certificate it came with.
    pub(crate) serial: String,
    pub(crate) closed: watch::Receiver<bool>,
    /// Cuts it.
    pub(crate) cut: Arc<tokio::sync::Notify>,
    /// Connections that were open when this one was greeted.
    pub(crate) beside: usize,
}

impl Held {
    pub(crate) fn is_open(&self) -> bool {
        !*self.closed.borrow()
    }
}

/// What the mesh answers.
pub(crate) struct Says {
    pub(crate) servers: Vec<pb::AssignedServer>,
    pub(crate) password: Option<String>,
    /// Why the vault refuses.
    pub(crate) refusal: Option<&'static str>,
    /// What the door says instead of `ok`.
    pub(crate) no: Option<&'static str>,
    pub(crate) replicas: Vec<String>,
    /// What Hello says of them.
    pub(crate) told_replicas: Option<u32>,
    /// The hub greets nobody.
    pub(crate) silent: bool,
    /// The hub shows another service's certificate.
    pub(crate) impostor: bool,
    pub(crate) pins: Vec<String>,
    /// How long certificates live, in seconds, and how much of it is over when they are given.
    pub(crate) life: (u64, u64),
}

/// What was seen of agents.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) accepted: AtomicUsize,
    /// Handshakes that came about.
    pub(crate) shaken: AtomicUsize,
    pub(crate) prefaces: AtomicUsize,
    pub(crate) enrolments: AtomicUsize,
    pub(crate) assignments: AtomicUsize,
    pub(crate) openings: AtomicUsize,
    pub(crate) renewals: AtomicUsize,
    turn: AtomicUsize,
}

/// A mesh.
#[derive(Clone)]
pub(crate) struct Stand {
    pub(crate) address: SocketAddr,
    pub(crate) tenant: TenantId,
    pub(crate) agent: AgentId,
    pub(crate) seen: Arc<Seen>,
    pub(crate) pin: Pin,
    pub(crate) spare: Pin,
    /// Who vouches for the door's certificate.
    pub(crate) ca: String,
    says: Arc<Mutex<Says>>,
    held: Arc<Mutex<Vec<Held>>>,
    inner: Arc<Inner>,
}

struct Inner {
    mesh_bundle: String,
    query: (Vec<CertificateDer<'static>>, Vec<u8>),
    vault: (Vec<CertificateDer<'static>>, Vec<u8>),
    agents: Issuer<'static, KeyPair>,
    agents_pem: String,
    serials: AtomicUsize,
    signer: [u8; 32],
}

pub(crate) fn pin_of(pem: &str) -> Pin {
    Pin::of(&CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")).expect("a pin")
}

/// A certificate for this machine, its key, and its authority.
fn for_this_machine() -> (String, KeyPair, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let authority = params.self_signed(&key).expect("a certificate").pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
    params
        .subject_alt_names
        .push(SanType::IpAddress([127, 0, 0, 1].into()));
    let certificate = params.signed_by(&key, &issuer).expect("a certificate").pem();
    (certificate, key, authority)
}

impl Stand {
    /// Starts one; its folder holds the certificates of services.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[&rustls::version::TLS13]).await
    }

    pub(crate) async fn start_with(versions: &[&'static rustls::SupportedProtocolVersion]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = testkit::Authority::new(folder.path());
        let read = |name: &str| {
            let identity = authority.issue(name);
            let chain = CertificateDer::pem_file_iter(&identity.cert_file)
                .expect("a file")
                .collect::<Result<_, _>>()
                .expect("PEM");
            (chain, std::fs::read(&identity.key_file).expect("a key"))
        };
        let (query, vault) = (read("query"), read("vault"));
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let agents_pem = params.self_signed(&key).expect("a certificate").pem();
        let (door, door_key, ca) = for_this_machine();
        let (spare, ..) = for_this_machine();
        let (pin, spare) = (pin_of(&door), pin_of(&spare));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let stand = Self {
            address: listener.local_addr().expect("an address"),
            tenant: TenantId::fresh(),
            agent: AgentId::fresh(),
            seen: Arc::default(),
            pin,
            spare,
            ca,
            says: Arc::new(Mutex::new(Says {
                servers: Vec::new(),
                password: None,
                refusal: None,
                no: None,
                replicas: vec!["a".to_owned()],
                told_replicas: None,
                silent: false,
                impostor: false,
                pins: vec![pin.to_string(), spare.to_string()],
                life: (86_400, 0),
            })),
            held: Arc::default(),
            inner: Arc::new(Inner {
                mesh_bundle: std::fs::read_to_string(authority.bundle_file()).expect("a bundle"),
                query,
                vault,
                agents: Issuer::new(params, key),
                agents_pem,
                serials: AtomicUsize::new(1),
                signer: [7; 32],
            }),
        };
        let mut config = stand.server(
            versions,
            vec![CertificateDer::from_pem_slice(door.as_bytes()).expect("PEM")],
            door_key.serialize_pem().as_bytes(),
            true,
        );
        config.alpn_protocols = vec![ALPN.to_vec(), b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let serving = stand.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serving.seen.accepted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serving.clone().enter(acceptor.clone(), stream));
            }
        });
        stand
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub(crate) fn says(&self) -> MutexGuard<'_, Says> {
        self.says.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All connections there were, the oldest first.
    pub(crate) fn held(&self) -> Vec<Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Those that are open.
    pub(crate) fn open(&self) -> Vec<Held> {
        self.held().into_iter().filter(Held::is_open).collect()
    }

    /// Waits for so many open connections.
    pub(crate) fn wait_for_open(&self, count: usize) -> Vec<Held> {
        testkit::eventually("connections", || {
            let open = self.open();
            (open.len() == count).then_some(open)
        })
    }

    fn server(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
        chain: Vec<CertificateDer<'static>>,
        key: &[u8],
        optional: bool,
    ) -> ServerConfig {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(self.inner.agents_pem.as_bytes()).expect("PEM");
        roots.add(authority).expect("an authority");
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let verifier = if optional {
            verifier.allow_unauthenticated().build()
        } else {
            verifier.build()
        };
        ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions")
            .with_client_cert_verifier(verifier.expect("a verifier"))
            .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key).expect("a key"))
            .expect("a certificate")
    }

    async fn enter(self, acceptor: TlsAcceptor, stream: TcpStream) {
        let Ok(mut stream) = acceptor.accept(stream).await else {
            return;
        };
        self.seen.shaken.fetch_add(1, Ordering::SeqCst);
        if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return self.vault(stream).await;
        }
        if stream.get_ref().1.peer_certificates().is_none() {
            return;
        }
        let mut line = Vec::new();
        while let Ok(byte) = stream.read_u8().await {
            if byte == b'\n' {
                break;
            }
            line.push(byte);
        }
        self.seen.prefaces.fetch_add(1, Ordering::SeqCst);
        let no = self.says().no;
        if let Some(no) = no {
            let _ = stream.write_all(format!("no {no}\n").as_bytes()).await;
            let _ = stream.shutdown().await;
            return;
        }
        if stream.write_all(b"ok\n").await.is_err() {
            return;
        }
        let impostor = self.says().impostor;
        let (identity, alpn) = match line.as_slice() {
            b"trailmesh-agent/1 hub" if impostor => (&self.inner.vault, ALPN),
            b"trailmesh-agent/1 hub" => (&self.inner.query, ALPN),
            b"trailmesh-agent/1 vault" => (&self.inner.vault, &b"h2"[..]),
            _ => return,
        };
        let mut config = self.server(&[&rustls::version::TLS13], identity.0.clone(), &identity.1, false);
        config.alpn_protocols = vec![alpn.to_vec()];
        let Ok(inside) = TlsAcceptor::from(Arc::new(config)).accept(stream).await else {
            return;
        };
        if alpn == ALPN {
            Box::pin(self.hub(inside)).await;
        } else {
            self.vault(inside).await;
        }
    }

    async fn vault<T>(self, stream: T)
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let service = AgentIdentityServiceServer::new(self);
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
            .await;
    }

    /// A replica of the hub: the roles flip.
    async fn hub(self, stream: TlsStream<TlsStream<TcpStream>>) {
        let serial = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| Some(serial(chain.first()?)))
            .expect("a certificate");
        let (replica, replicas, silent) = {
            let says = self.says();
            let turn = self.seen.turn.fetch_add(1, Ordering::SeqCst);
            let replica = says.replicas[turn % says.replicas.len()].clone();
            let told = says
                .told_replicas
                .unwrap_or_else(|| u32::try_from(says.replicas.len()).expect("few"));
            (replica, told, says.silent)
        };
        let Ok((sender, connection)) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await
        else {
            return;
        };
        let cut = Arc::new(tokio::sync::Notify::new());
        let (close, closed) = watch::channel(false);
        let cutting = cut.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = connection => {}
                () = cutting.notified() => {}
            }
            close.send_replace(true);
        });
        if silent {
            let mut closed = closed;
            let _ = closed.wait_for(|closed| *closed).await;
            return;
        }
        let mut client = AgentServiceClient::with_origin(Channel(sender), Uri::from_static("https://agent"));
        let beside = self.open().len();
        let hello = client
            .hello(agent::HelloRequest {
                replica_id: replica.clone(),
                region: "eu".to_owned(),
                protocol_min: 1,
                protocol_max: 1,
                connections: 2,
                replicas,
            })
            .await;
        let Ok(hello) = hello else { return };
        self.held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Held {
                replica,
                hello: hello.into_inner(),
                client,
                serial,
                closed,
                cut,
                beside,
            });
    }

    fn refused(&self) -> Result<(), Status> {
        match self.says().refusal {
            Some(reason) => Err(chassis::status(&Refusal(reason))),
            None => Ok(()),
        }
    }

    fn certificate(&self, csr: &str) -> pb::AgentCertificate {
        let (life, over) = self.says().life;
        let mut request = CertificateSigningRequestParams::from_pem(csr).expect("a request");
        let begins = SystemTime::now() - Duration::from_secs(over);
        let ends = begins + Duration::from_secs(life);
        let params = &mut request.params;
        params.not_before = begins.into();
        params.not_after = ends.into();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let serial = self.inner.serials.fetch_add(1, Ordering::SeqCst) as u64;
        params.serial_number = Some(serial.into());
        let name = format!(
            "spiffe://trailmesh/eu/tenant/{}/agent/{}",
            self.tenant, self.agent
        );
        params.subject_alt_names = vec![SanType::URI(name.try_into().expect("a URI"))];
        let pem = request
            .signed_by(&self.inner.agents)
            .expect("a certificate")
            .pem();
        pb::AgentCertificate {
            chain: format!("{pem}{}", self.inner.agents_pem),
            serial: format!("{serial:x}"),
            expire_time: Some(ends.into()),
        }
    }

    fn trust(&self) -> pb::MeshTrust {
        pb::MeshTrust {
            bundle: self.inner.mesh_bundle.clone(),
            trust_domain: "trailmesh".to_owned(),
            region: "eu".to_owned(),
            pins: self.says().pins.clone(),
            delegation_keys: vec![pb::DelegationKey {
                kid: "k1".to_owned(),
                ed25519: self.inner.signer.to_vec().into(),
            }],
        }
    }

    /// A server to follow.
    pub(crate) fn assigned(&self, server: &testkit::Server, version: &str) -> pb::AssignedServer {
        let url = url::Url::parse(&server.repl_url).expect("a URL");
        pb::AssignedServer {
            id: ServerId::fresh().to_string(),
            name: "shop-db".to_owned(),
            host: url.host_str().expect("a host").to_owned(),
            port: url.port().expect("a port").into(),
            username: url.username().to_owned(),
            tls_mode: "required".to_owned(),
            version: version.to_owned(),
        }
    }
}

fn serial(certificate: &CertificateDer<'_>) -> String {
    use x509_parser::prelude::{FromDer as _, X509Certificate};
    let (_, parsed) = X509Certificate::from_der(certificate).expect("a certificate");
    format!("{:x}", parsed.tbs_certificate.serial)
}

#[derive(Debug, thiserror::Error)]
#[error("the mesh refuses")]
struct Refusal(&'static str);

impl Fault for Refusal {
    fn code(&self) -> Code {
        match self.0 {
            "ENROLMENT_TOKEN_INVALID" => Code::Unauthenticated,
            "VAULT_SEALED" => Code::Unavailable,
            _ => Code::Forbidden,
        }
    }

    fn reason(&self) -> &'static str {
        self.0
    }
}

#[tonic::async_trait]
impl AgentIdentityService for Stand {
    async fn enrol_agent(
        &self,
        request: tonic::Request<pb::EnrolAgentRequest>,
    ) -> Result<Response<pb::EnrolAgentResponse>, Status> {
        self.seen.enrolments.fetch_add(1, Ordering::SeqCst);
        self.refused()?;
        let request = request.into_inner();
        if request.enrolment_token != TOKEN {
            return Err(chassis::status(&Refusal("ENROLMENT_TOKEN_INVALID")));
        }
        Ok(Response::new(pb::EnrolAgentResponse {
            agent_id: self.agent.to_string(),
            tenant_id: self.tenant.to_string(),
            certificate: Some(self.certificate(&request.csr)),
            trust: Some(self.trust()),
        }))
    }

    async fn renew_certificate(
        &self,
        request: tonic::Request<pb::RenewCertificateRequest>,
    ) -> Result<Response<pb::RenewCertificateResponse>, Status> {
        self.refused()?;
        self.seen.renewals.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(pb::RenewCertificateResponse {
            certificate: Some(self.certificate(&request.into_inner().csr)),
        }))
    }

    async fn open_credentials(
        &self,
        _: tonic::Request<pb::OpenCredentialsRequest>,
    ) -> Result<Response<pb::OpenCredentialsResponse>, Status> {
        self.refused()?;
        self.seen.openings.fetch_add(1, Ordering::SeqCst);
        let password = self.says().password.clone();
        let credentials = password.into_iter().map(|password| pb::Credential {
            kind: pb::SecretKind::MysqlPassword.into(),
            value: password.into_bytes().into(),
        });
        Ok(Response::new(pb::OpenCredentialsResponse {
            credentials: credentials.collect(),
        }))
    }

    async fn get_assignment(
        &self,
        _: tonic::Request<pb::GetAssignmentRequest>,
    ) -> Result<Response<pb::GetAssignmentResponse>, Status> {
        self.seen.assignments.fetch_add(1, Ordering::SeqCst);
        self.refused()?;
        let servers = self.says().servers.clone();
        Ok(Response::new(pb::GetAssignmentResponse {
            servers,
            trust: Some(self.trust()),
        }))
    }

    async fn get_agent_authorities(
        &self,
        _: tonic::Request<pb::GetAgentAuthoritiesRequest>,
    ) -> Result<Response<pb::GetAgentAuthoritiesResponse>, Status> {
        Err(chassis::status(&Refusal("NOT_FOR_AGENTS")))
    }

    async fn check_agents(
        &self,
        _: tonic::Request<pb::CheckAgentsRequest>,
    ) -> Result<Response<pb::CheckAgentsResponse>, Status> {
        Err(chassis::status(&Refusal("NOT_FOR_AGENTS")))
    }
}

/// gRPC on a connection that somebody else made.
#[derive(Clone)]
pub(crate) struct Channel(hyper::client::conn::http2::SendRequest<tonic::body::Body>);

impl tower::Service<Request<tonic::body::Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
