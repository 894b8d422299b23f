//! The mesh as a client sees it: HTTP/2 over TLS, credentials, and the agent's answers in the words of `QueryService` and `RecoveryService`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use chassis::token::{KeySet, Signer};
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use ingest_agent::{
    agent::seam::{About, Followed, Line, Stores},
    serve::{Connection, Service},
};
use proto::{
    agent::v1::agent_service_client::AgentServiceClient,
    auth::v1::{account_service_server::AccountServiceServer, session_service_server::SessionServiceServer},
    change::v1 as change,
    query::v1::{query_service_server::QueryServiceServer, upload_service_server::UploadServiceServer},
    recovery::v1::recovery_service_server::RecoveryServiceServer,
    tenant::v1::{server_service_server::ServerServiceServer, tenant_service_server::TenantServiceServer},
};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Status, service::Routes};
use types::{
    AgentId, Code, Context, Fault, Plan, Region, Role, Seat, ServerId, SessionId, Subject, TenantId, UserId,
};

use super::{SERVER, answers::Plans, people::People, uploads::Uploads};

/// A running mesh.
pub(super) struct Door {
    pub(super) url: String,
    pub(super) ca: PathBuf,
    pub(super) state: Arc<State>,
    _folder: tempfile::TempDir,
}

/// What it is and what it saw.
pub(super) struct State {
    agent: AgentServiceClient<Connection>,
    signer: Signer,
    server: ServerId,
    context: Context,
    agent_id: AgentId,
    pub(super) plans: Mutex<Plans>,
    pub(super) people: People,
    pub(super) uploads: Uploads,
    /// A column of `shop.orders` that the caller's role does not see.
    pub(super) hidden: Mutex<Option<String>>,
    /// The agent is not connected.
    pub(super) away: AtomicBool,
    /// Every so many frames a stream breaks off.
    pub(super) breaks: AtomicUsize,
    /// How many streams that follow were begun.
    pub(super) followed: AtomicUsize,
    /// What was asked: methods.
    pub(super) asked: Mutex<Vec<String>>,
    /// The script's first byte is another one.
    pub(super) forges: Mutex<Option<Forgery>>,
}

/// What is wrong with a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forgery {
    Bytes,
    Header,
    Trailer,
}

/// A failure of the mesh.
#[derive(Debug, thiserror::Error)]
#[error("{words}")]
pub(super) struct Refusal {
    code: Code,
    reason: &'static str,
    words: String,
}

impl Fault for Refusal {
    fn code(&self) -> Code {
        self.code
    }
    fn reason(&self) -> &'static str {
        self.reason
    }
}

pub(super) fn refuse(code: Code, reason: &'static str, words: &str) -> Status {
    chassis::status(&Refusal {
        code,
        reason,
        words: words.to_owned(),
    })
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic")
}

pub(super) fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_secs()).expect("not so late")
}

impl Door {
    /// A mesh whose one agent follows one server into `store`.
    pub(super) fn open(store: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let pair = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, pair.cert.pem()).expect("written");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pair.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![pair.cert.der().clone()], key)
            .expect("a server");
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let state = Arc::new(State::over(store));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let port = listener.local_addr().expect("an address").port();
        let serving = Arc::clone(&state);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(serve(listener, TlsAcceptor::from(Arc::new(tls)), serving));
        });
        Self {
            url: format!("https://localhost:{port}"),
            ca,
            state,
            _folder: folder,
        }
    }
}

async fn serve(listener: std::net::TcpListener, acceptor: TlsAcceptor, state: Arc<State>) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    let routes = Routes::new(QueryServiceServer::from_arc(Arc::clone(&state)))
        .add_service(RecoveryServiceServer::from_arc(Arc::clone(&state)))
        .add_service(SessionServiceServer::from_arc(Arc::clone(&state)))
        .add_service(AccountServiceServer::from_arc(Arc::clone(&state)))
        .add_service(TenantServiceServer::from_arc(Arc::clone(&state)))
        .add_service(ServerServiceServer::from_arc(Arc::clone(&state)))
        .add_service(UploadServiceServer::from_arc(Arc::clone(&state)));
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let (acceptor, routes) = (acceptor.clone(), routes.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let service = TowerToHyperService::new(routes);
            // How a client ends a connection is its own affair.
            let _ = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

impl State {
    fn over(store: &Path) -> Self {
        let (tenant, agent_id, server) = (TenantId::fresh(), AgentId::fresh(), ServerId::fresh());
        let signer = Signer::new("test".to_owned(), &[7; 32]).expect("a key");
        let keys = KeySet::new(Region::Eu);
        keys.replace(vec![signer.verifying_key()]);
        let stores = Arc::new(Stores::default());
        stores.add(Arc::new(Followed::new(
            server,
            SERVER.to_owned(),
            store.to_owned(),
        )));
        let about = About {
            tenant,
            agent: agent_id,
            boot_id: "1".to_owned(),
            generation: 1,
            started: SystemTime::now(),
        };
        let (line, _) = Line::new();
        let context = Context {
            subject: Subject::Person {
                user: UserId::fresh(),
                session: SessionId::fresh(),
            },
            seat: Some(Seat {
                tenant,
                region: Region::Eu,
                plan: Plan::Pro,
                role: Some(Role::Admin),
                pools: BTreeMap::new(),
                scopes: None,
            }),
            mfa_enabled: false,
        };
        Self {
            agent: AgentServiceClient::new(Service::new(stores, keys, about).on(line)),
            signer,
            server,
            context,
            agent_id,
            plans: Mutex::default(),
            people: People::of(tenant),
            uploads: Uploads::default(),
            hidden: Mutex::default(),
            away: AtomicBool::new(false),
            breaks: AtomicUsize::new(0),
            followed: AtomicUsize::new(0),
            asked: Mutex::default(),
            forges: Mutex::default(),
        }
    }

    /// Who asks must be known, and about the one server there is.
    pub(super) fn admit<T>(&self, request: Request<T>, server: fn(&T) -> &str) -> Result<T, Status> {
        self.people.admit(request.metadata())?;
        let message = request.into_inner();
        if ![SERVER, self.server.to_string().as_str()].contains(&server(&message)) {
            let words = "there is no such server, or you may not see it";
            return Err(refuse(Code::Missing, "SERVER_NOT_FOUND", words));
        }
        if self.away.load(Ordering::SeqCst) {
            let words = "no agent that follows the server is connected";
            return Err(refuse(Code::Unavailable, "AGENT_NOT_CONNECTED", words));
        }
        Ok(message)
    }

    pub(super) fn server(&self) -> String {
        self.server.to_string()
    }

    pub(super) fn agent_id(&self) -> String {
        self.agent_id.to_string()
    }

    /// A request to the agent, with the delegation it wants.
    pub(super) fn to_agent<T>(&self, method: &str, message: T) -> Request<T> {
        locked(&self.asked).push(method.to_owned());
        let path = format!("/trailmesh.agent.v1.AgentService/{method}");
        let token = self
            .signer
            .delegation(
                &self.context,
                now() + 60,
                (self.agent_id, self.server),
                &path,
                Region::Eu,
                now(),
            )
            .expect("a delegation");
        let mut request = Request::new(message);
        request.metadata_mut().insert(
            "authorization",
            format!("Bearer {token}").parse().expect("a value"),
        );
        request
    }

    pub(super) fn agent(&self) -> AgentServiceClient<Connection> {
        self.agent.clone()
    }

    /// Takes out what is hidden, as service query does.
    pub(super) fn redact(&self, changes: &mut [change::Change]) -> bool {
        let Some(hidden) = locked(&self.hidden).clone() else {
            return false;
        };
        for change in changes.iter_mut() {
            for row in [&mut change.key, &mut change.before, &mut change.after]
                .into_iter()
                .flatten()
            {
                row.cells.retain(|cell| cell.column != hidden);
            }
            change.changed.retain(|column| *column != hidden);
            change.redacted.push(hidden.clone());
            if change.query.take().is_some() {
                change.redacted.push("query".to_owned());
            }
        }
        !changes.is_empty()
    }
}
