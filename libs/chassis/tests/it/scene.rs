//! Services of a mesh in this process: their authority, their listeners, and handlers that do what a test wants.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chassis::{
    Error, Peer, PeerAddress, Runtime, Settings,
    token::{self, Signer},
};
use proto::auth::v1::{self as pb, guard_service_client::GuardServiceClient, guard_service_server as guard};
use tempfile::TempDir;
use testkit::{Authority, Identity};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, service::Routes};
use types::{Context, PoolId, Region, Role, Seat, SessionId, Subject, TenantId, UserId};

pub(crate) const AUTHENTICATE: &str = "/trailmesh.auth.v1.GuardService/Authenticate";
pub(crate) const CONSUME: &str = "/trailmesh.auth.v1.GuardService/ConsumeStepUp";
pub(crate) const GET_TENANT: &str = "/trailmesh.tenant.v1.TenantService/GetTenant";

/// An authority and the folder of its files.
pub(crate) struct Mesh {
    pub(crate) authority: Authority,
    _folder: TempDir,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self {
            authority: Authority::new(folder.path()),
            _folder: folder,
        }
    }

    /// Settings of service `name` with a fresh certificate, free ports and these peers.
    pub(crate) fn settings(&self, name: &str, peers: &[(&str, SocketAddr)]) -> Settings {
        settings(&self.authority.issue(name), peers)
    }

    /// A runtime that only calls: service `name` with these peers.
    pub(crate) async fn caller(&self, name: &str, peers: &[(&str, SocketAddr)]) -> Runtime {
        bind(name, &self.settings(name, peers)).await
    }

    /// Service `name` with these routes, served until it is stopped.
    pub(crate) async fn serve(&self, name: &str, routes: Routes) -> Service {
        Service::start(bind(name, &self.settings(name, &[])).await, routes)
    }
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
        ..Settings::default()
    }
}

pub(crate) async fn bind(name: &str, settings: &Settings) -> Runtime {
    Runtime::bind(name, settings, proto::DESCRIPTOR_SET)
        .await
        .expect("a service that can be bound")
}

/// A service that runs.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    pub(crate) stopping: CancellationToken,
    pub(crate) ended: JoinHandle<Result<(), Error>>,
}

impl Service {
    pub(crate) fn start(runtime: Runtime, routes: Routes) -> Self {
        Self {
            address: runtime.address(),
            stopping: runtime.stopping(),
            ended: tokio::spawn(runtime.serve(routes)),
        }
    }
}

/// A signer, and a key set of region `eu` that knows it.
pub(crate) fn signer() -> Signer {
    Signer::new("key-1".to_owned(), &[7; 32]).expect("a signer")
}

/// Who has this role in a tenant, by a session.
pub(crate) fn person(role: Option<Role>) -> Context {
    Context {
        subject: Subject::Person {
            user: UserId::fresh(),
            session: SessionId::fresh(),
        },
        seat: Some(seat(role)),
        mfa_enabled: true,
    }
}

pub(crate) fn seat(role: Option<Role>) -> Seat {
    Seat {
        tenant: TenantId::fresh(),
        region: Region::Eu,
        plan: types::Plan::Free,
        role,
        pools: BTreeMap::<PoolId, Role>::new(),
        scopes: None,
    }
}

/// `context` as a bearer token that is valid now.
pub(crate) fn bearer(context: &Context) -> String {
    let token = signer()
        .context(context, Region::Eu, token::now())
        .expect("a token");
    format!("Bearer {token}")
}

/// Calls `path` with an empty message and these metadata.
pub(crate) async fn call(peer: Peer, path: &str, metadata: &[(&'static str, String)]) -> Result<(), Status> {
    let mut request = Request::new(());
    for (name, value) in metadata {
        request
            .metadata_mut()
            .insert(*name, value.parse().expect("metadata"));
    }
    let path = path.parse().expect("a path");
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let mut client = tonic::client::Grpc::new(peer);
    client.ready().await?;
    client.unary(request, path, codec).await.map(Response::into_inner)
}

/// The reason in a status.
pub(crate) fn reason(status: &Status) -> String {
    use tonic_types::StatusExt as _;
    status
        .get_details_error_info()
        .map(|info| info.reason)
        .unwrap_or_default()
}

/// GuardService of a test: its answer depends on `tenant_id` of the request.
#[derive(Clone, Default)]
pub(crate) struct Guard {
    /// Calls that reached a handler.
    pub(crate) calls: Arc<AtomicUsize>,
    /// Handlers that were dropped before they answered.
    pub(crate) dropped: Arc<AtomicUsize>,
    /// How many of the next calls are answered with UNAVAILABLE.
    pub(crate) failures: Arc<AtomicUsize>,
    /// What "hold" waits for.
    pub(crate) release: CancellationToken,
    /// Whom "forward" calls.
    pub(crate) next: Option<Peer>,
}

impl Guard {
    pub(crate) fn routes(&self) -> Routes {
        Routes::new(guard::GuardServiceServer::new(self.clone()))
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    pub(crate) fn dropped(&self) -> usize {
        self.dropped.load(Ordering::SeqCst)
    }

    fn fails(&self) -> bool {
        let left = self
            .failures
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.is_ok()
    }
}

/// Counts when it is dropped with its work undone.
struct Undone(Option<Arc<AtomicUsize>>);

impl Drop for Undone {
    fn drop(&mut self) {
        if let Some(dropped) = &self.0 {
            dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a service that fails must answer without the chassis knowing why"
)]
fn on_order() -> Status {
    Status::unavailable("on order")
}

#[tonic::async_trait]
impl guard::GuardService for Guard {
    async fn authenticate(
        &self,
        request: Request<pb::AuthenticateRequest>,
    ) -> Result<Response<pb::AuthenticateResponse>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let mut undone = Undone(Some(self.dropped.clone()));
        if self.fails() {
            undone.0 = None;
            return Err(on_order());
        }
        let request = request.into_inner();
        match request.tenant_id.as_str() {
            "panic" => panic!("on order"),
            "for ever" => std::future::pending().await,
            "hold" => self.release.cancelled().await,
            what => {
                if let Some(what) = what.strip_prefix("forward ") {
                    let next = self.next.clone().expect("somebody to forward to");
                    let answer = GuardServiceClient::new(next).authenticate(order(what)).await;
                    undone.0 = None;
                    return answer;
                }
            }
        }
        undone.0 = None;
        let left = chassis::deadline::current().map(|deadline| deadline - std::time::Instant::now());
        Ok(Response::new(pb::AuthenticateResponse {
            context_token: format!("{}", left.unwrap_or(Duration::ZERO).as_millis()),
            ..pb::AuthenticateResponse::default()
        }))
    }

    async fn consume_step_up(
        &self,
        _: Request<pb::ConsumeStepUpRequest>,
    ) -> Result<Response<pb::ConsumeStepUpResponse>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.fails() {
            return Err(on_order());
        }
        Ok(Response::new(Default::default()))
    }

    async fn delegate(
        &self,
        _: Request<pb::DelegateRequest>,
    ) -> Result<Response<pb::DelegateResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn get_key_set(
        &self,
        _: Request<pb::GetKeySetRequest>,
    ) -> Result<Response<pb::GetKeySetResponse>, Status> {
        let key = signer().verifying_key();
        Ok(Response::new(pb::GetKeySetResponse {
            keys: vec![pb::VerifyingKey {
                kid: key.kid,
                ed25519: key.ed25519.to_vec().into(),
            }],
        }))
    }
}

/// A request that [`Guard`] answers in this way.
pub(crate) fn order(what: &str) -> pb::AuthenticateRequest {
    pb::AuthenticateRequest {
        tenant_id: what.to_owned(),
        ..pb::AuthenticateRequest::default()
    }
}
