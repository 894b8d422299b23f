//! One service instance while it runs. Several may live in one process.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::FutureExt as _;
use opentelemetry::metrics::Meter;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;
use types::Region;

use crate::{
    Error, Latch, Peer, PeerAddress, Readiness, Settings, admin, health,
    identity::{self, AgentTrust, Bundle, Identity},
    keys,
    metrics::Metrics,
    policy::Table,
    server::{
        Known, Stack,
        accept::{self, Purpose},
        agents::{AgentConnection, AgentDoor},
    },
    token::{KeySet, VerifyingKey},
};

/// The one service that signs tokens.
const AUTH: &str = "auth";

/// How long the last metrics may take to be sent.
const FLUSH: Duration = Duration::from_secs(3);

/// One service instance while it runs.
pub struct Runtime {
    listener: Option<TcpListener>,
    inner: Arc<Inner>,
}

/// The tasks of one instance: they end with it.
#[derive(Clone, Default)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    end: CancellationToken,
}

impl Tasks {
    /// Runs `task` until it ends or the instance does.
    pub(crate) fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        let end = self.end.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                () = end.cancelled() => {}
                () = task => {}
            }
        });
    }

    async fn end(&self) {
        self.end.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

struct Inner {
    name: String,
    settings: Settings,
    address: SocketAddr,
    admin_address: SocketAddr,
    policy: Arc<Table>,
    keys: KeySet,
    readiness: Readiness,
    start: Mutex<Option<Latch>>,
    metrics: Metrics,
    identity: Option<Identity>,
    descriptor_set: Vec<u8>,
    /// Cancelled as soon as it is known that the drain will begin.
    leaving: CancellationToken,
    stopping: CancellationToken,
    tasks: Tasks,
    peers: Mutex<BTreeMap<String, Peer>>,
    failure: Mutex<Option<Error>>,
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.inner.tasks.end.cancel();
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Runtime({} at {})", self.inner.name, self.inner.address)
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address)
        .await
        .map_err(|source| Error::Bind { address, source })
}

impl Runtime {
    /// Takes both ports, loads rules and identity, and answers probes: not ready yet.
    pub async fn bind(name: &str, settings: &Settings, descriptor_set: &[u8]) -> Result<Self, Error> {
        let policy = Arc::new(Table::load(descriptor_set)?);
        let listener = listen(settings.listen).await?;
        let admin = listen(settings.admin_listen).await?;
        let address = |listener: &TcpListener, wanted| {
            listener.local_addr().map_err(|source| Error::Bind {
                address: wanted,
                source,
            })
        };
        let metrics = Metrics::start(name, settings)?;
        let (identity, watcher) = identity::open(name, settings, &metrics.meter()).await?.unzip();
        let readiness = Readiness::default();
        let inner = Arc::new(Inner {
            name: name.to_owned(),
            settings: settings.clone(),
            address: address(&listener, settings.listen)?,
            admin_address: address(&admin, settings.admin_listen)?,
            policy,
            keys: KeySet::new(settings.region),
            start: Mutex::new(Some(readiness.hold("start"))),
            readiness,
            metrics,
            identity,
            descriptor_set: descriptor_set.to_vec(),
            leaving: CancellationToken::new(),
            stopping: CancellationToken::new(),
            tasks: Tasks::default(),
            peers: Mutex::default(),
            failure: Mutex::new(None),
        });
        let runtime = Self {
            listener: Some(listener),
            inner,
        };
        let inner = runtime.inner.clone();
        let probes = admin::serve(
            admin,
            inner.readiness.clone(),
            inner.metrics.clone(),
            inner.tasks.end.clone(),
        );
        runtime.spawn("admin", probes);
        if let Some(watcher) = watcher {
            runtime.spawn("identity", watcher.run());
        }
        if name != AUTH && settings.peers.iter().any(|peer| peer.name == AUTH) {
            let latch = runtime.hold_ready("the keys of auth");
            runtime.spawn("keys", keys::follow(runtime.peer(AUTH)?, runtime.keys(), latch));
        }
        Ok(runtime)
    }

    /// Where the mesh reaches it.
    pub fn address(&self) -> SocketAddr {
        self.inner.address
    }

    /// Where probes and metrics are answered.
    pub fn admin_address(&self) -> SocketAddr {
        self.inner.admin_address
    }

    /// The service's name, as in its certificate.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Whether what is unsafe outside a developer's machine is allowed.
    pub fn dev(&self) -> bool {
        self.inner.settings.dev
    }

    /// The region it is in.
    pub fn region(&self) -> Region {
        self.inner.settings.region
    }

    /// The cell it is in.
    pub fn cell(&self) -> &str {
        &self.inner.settings.cell
    }

    /// The settings it was bound with.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Who may call what.
    pub fn policy(&self) -> Arc<Table> {
        self.inner.policy.clone()
    }

    /// Another service; connections are made when they are needed.
    pub fn peer(&self, name: &str) -> Result<Peer, Error> {
        let mut peers = self.inner.settings.peers.iter();
        let address = peers.find(|peer| peer.name == name);
        let address = address.ok_or_else(|| Error::UnknownPeer(name.to_owned()))?;
        if address.url.scheme() != "https" && !self.dev() {
            return Err(Error::PlainPeer(name.to_owned()));
        }
        let (inner, meter) = (&self.inner, self.meter());
        let mut made = inner.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = made.get(name) {
            return Ok(peer.clone());
        }
        let peer = Peer::new(
            address,
            inner.identity.as_ref(),
            inner.policy.clone(),
            &meter,
            &inner.tasks,
        )?;
        made.insert(name.to_owned(), peer.clone());
        Ok(peer)
    }

    /// The replica of service `name` at exactly this address; not shared with others who ask for it.
    ///
    /// # Errors
    /// When this service has no identity.
    pub fn peer_at(&self, name: &str, address: SocketAddr) -> Result<Peer, Error> {
        self.peers().at(name, address)
    }

    /// By which a task makes peers for single addresses.
    pub fn peers(&self) -> Replicas {
        Replicas(self.inner.clone())
    }

    /// The keys that verify context and grant tokens; they change while it runs.
    pub fn keys(&self) -> KeySet {
        self.inner.keys.clone()
    }

    /// For auth, which has the keys itself.
    pub fn publish_keys(&self, keys: Vec<VerifyingKey>) {
        self.inner.keys.replace(keys);
    }

    /// By which the service says whom agents' certificates may come from. Until it does, it knows no agents.
    ///
    /// # Errors
    /// When the service has no identity.
    pub fn agent_trust(&self) -> Result<AgentTrust, Error> {
        let identity = self.inner.identity.clone().ok_or(identity::Error::Missing)?;
        Ok(AgentTrust::new(identity))
    }

    /// The authorities that the services of the mesh have their certificates from; they change while it runs.
    ///
    /// # Errors
    /// When the service has no identity.
    pub fn bundle(&self) -> Result<Bundle, Error> {
        let identity = self.inner.identity.clone().ok_or(identity::Error::Missing)?;
        Ok(Bundle::new(identity))
    }

    /// Runs `task` until it ends or the service has. If it panics the service stops with [`Error::Task`].
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let inner = self.inner.clone();
        self.inner.tasks.run(async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                tracing::error!(task = name, "a task panicked");
                inner.fail(Error::Task(name));
            }
        });
    }

    /// Cancelled when the drain begins.
    pub fn stopping(&self) -> CancellationToken {
        self.inner.stopping.clone()
    }

    /// Cancelled when the service is told to stop: its neighbours hear of it now, and after that [`Self::stopping`] is cancelled.
    pub fn leaving(&self) -> CancellationToken {
        self.inner.leaving.clone()
    }

    /// Not ready until the latch is released.
    pub fn hold_ready(&self, what: &'static str) -> Latch {
        self.inner.readiness.hold(what)
    }

    /// For the service's own instruments.
    pub fn meter(&self) -> Meter {
        self.inner.metrics.meter()
    }

    /// Begins the drain.
    pub fn stop(&self) {
        self.inner.stop();
    }

    /// When `stop` is cancelled: not ready at once, and after `propagation`, in which others hear of it, the drain begins.
    pub fn stop_after(&self, stop: CancellationToken, propagation: Duration) {
        let inner = self.inner.clone();
        self.spawn("stop", async move {
            stop.cancelled().await;
            inner.readiness.stop();
            inner.leaving.cancel();
            tokio::time::sleep(propagation).await;
            inner.stop();
        });
    }

    /// The bound listener, once: for a service that speaks something else than the mesh's gRPC and ends in [`Self::run_until_drained`].
    pub fn listener(&mut self) -> Option<TcpListener> {
        self.listener.take()
    }

    /// Serves the mesh's gRPC behind all layers until it is stopped and drained. `routes` may have services without a rule; nobody can call them.
    pub async fn serve(self, routes: Routes) -> Result<(), Error> {
        self.serve_calls(routes, None, std::future::ready(())).await
    }

    /// As [`Self::serve`]; connections on which an agent serves ([`AGENT_ALPN`](crate::AGENT_ALPN)) go to `agents`. When the drain has begun,
    /// `drained` is waited for, which is for those connections; until it has ended, other replicas of this service may call as ever: what is
    /// asked of an agent whose only connection is here comes through them.
    pub async fn serve_with<D>(
        self,
        routes: Routes,
        agents: mpsc::Sender<AgentConnection>,
        drained: D,
    ) -> Result<(), Error>
    where
        D: Future<Output = ()>,
    {
        self.serve_calls(routes, Some(AgentDoor::new(agents)), drained)
            .await
    }

    async fn serve_calls<D>(
        mut self,
        routes: Routes,
        agents: Option<AgentDoor>,
        drained: D,
    ) -> Result<(), Error>
    where
        D: Future<Output = ()>,
    {
        let inner = self.inner.clone();
        let listener = self
            .listener
            .take()
            .ok_or_else(|| Error::service("the listener was given away"))?;
        let identity = inner.identity.clone().ok_or(identity::Error::Missing)?;
        let own = format!("trailmesh.{}.", inner.name);
        let services = inner.policy.pool().services();
        let services = services.map(|service| service.full_name().to_owned());
        let (health, report) = health::grpc(
            &inner.readiness,
            services.filter(|name| name.starts_with(&own)).collect(),
        );
        self.spawn("health", report);
        let mut routes = routes.add_service(health);
        if inner.settings.dev {
            let reflection = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(&inner.descriptor_set)
                .build_v1()
                .map_err(|error| Error::Descriptor(error.to_string()))?;
            routes = routes.add_service(reflection);
        }
        let stack = Stack::new(
            &inner.name,
            routes,
            inner.policy.clone(),
            Known {
                keys: inner.keys.clone(),
                identity: identity.clone(),
            },
            &inner.metrics.meter(),
            &inner.settings,
            inner.stopping.clone(),
        );
        let purpose = Purpose {
            identity,
            stack,
            agents,
            connections: accept::CONNECTIONS,
            age: accept::AGE,
            replicas: CancellationToken::new(),
        };
        let (replicas, stopping) = (purpose.replicas.clone(), inner.stopping.clone());
        let drained = async move {
            tokio::join!(drained, stopping.cancelled());
            replicas.cancel();
        };
        let serving = accept::serve(listener, purpose, inner.stopping.clone());
        self.run_until_drained(async {
            tokio::join!(serving, drained);
            Ok(())
        })
        .await
    }

    /// Runs `work` instead of [`Self::serve`]. `work` watches [`Self::stopping`] and returns when it has drained; what is not done after the drain
    /// timeout is dropped.
    pub async fn run_until_drained<F>(self, work: F) -> Result<(), Error>
    where
        F: Future<Output = Result<(), Error>>,
    {
        let inner = self.inner.clone();
        let start = inner.start.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(start) = start {
            start.release();
        }
        let bound = async {
            inner.stopping.cancelled().await;
            tokio::time::sleep(inner.settings.drain_timeout).await;
        };
        let ended = tokio::select! {
            ended = work => ended,
            () = bound => {
                tracing::warn!("what did not end within the drain timeout is cut off");
                Ok(())
            }
        };
        inner.stop();
        inner.tasks.end().await;
        let metrics = inner.metrics.clone();
        // Blocks while it sends; a panic in there has nothing to tell that matters now.
        let _ = tokio::task::spawn_blocking(move || metrics.finish(FLUSH)).await;
        let failure = inner
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        failure.map_or(ended, Err)
    }
}

/// Makes peers for single addresses. Clones are the same.
#[derive(Clone)]
pub struct Replicas(Arc<Inner>);

impl Replicas {
    /// The replica of service `name` at exactly this address.
    ///
    /// # Errors
    /// When this service has no identity.
    pub fn at(&self, name: &str, address: SocketAddr) -> Result<Peer, Error> {
        let unusable = || Error::PeerAddress(name.to_owned());
        let address = PeerAddress {
            name: name.to_owned(),
            url: format!("https://{address}").parse().map_err(|_| unusable())?,
        };
        let (inner, meter) = (&self.0, self.0.metrics.meter());
        Peer::new(
            &address,
            inner.identity.as_ref(),
            inner.policy.clone(),
            &meter,
            &inner.tasks,
        )
    }
}

impl fmt::Debug for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Replicas")
    }
}

impl Inner {
    fn stop(&self) {
        self.readiness.stop();
        self.leaving.cancel();
        self.stopping.cancel();
    }

    fn fail(&self, error: Error) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        drop(failure);
        self.stop();
    }
}
