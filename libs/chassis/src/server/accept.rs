//! From a listener to calls: TLS with the identity of the moment, HTTP/2 with every limit explicit, and an end that is bounded.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rand::Rng as _;
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Stack,
    agents::{AGENT_ALPN, AgentDoor, AgentPlaces},
    linger::Lingering,
};
use crate::identity::{Identity, Party};

/// Connections of services, and of those who did not say yet who they are. A peer has one or two, so this is far more than a mesh has.
pub(crate) const CONNECTIONS: usize = 4_096;
/// A handshake takes two round trips; who takes longer is no peer.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Calls at once on one connection; what comes on top waits at the client. An agent makes one after the other.
const STREAMS: u32 = 1_024;
const AGENT_STREAMS: u32 = 16;
/// Names and values of one call's metadata: two tokens of 4 KiB and some more.
const HEADERS: u32 = 32 << 10;
/// Fewer, larger frames for answers of some size.
const FRAME: u32 = 64 << 10;
/// What a client may send on one call before the handler reads.
const STREAM_WINDOW: u32 = 1 << 20;
/// The same for all calls of a connection: with [`CONNECTIONS`] the bound on what is buffered.
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Both for an agent, of which there are more: its requests are a few kilobytes.
const AGENT_WINDOW: u32 = 64 << 10;
/// What is buffered of one answer that its client does not read.
const SEND_BUFFER: usize = 1 << 20;
/// Calls cancelled before they were looked at (rapid reset, CVE-2023-44487); callers whose deadline is short cancel too.
const PENDING_RESETS: usize = 128;
/// Streams that we reset for a peer's fault.
const LOCAL_RESETS: usize = 1_024;
/// A dead peer is noticed by pings, not by TCP.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(10);
/// How old connections get, give or take a tenth: so that new certificates, and new replicas, reach every peer.
pub(crate) const AGE: Duration = Duration::from_secs(30 * 60);
/// How long calls may go on afterwards: the longest deadline and a little.
const AGE_GRACE: Duration = Duration::from_secs(65);
/// After an error of the listener, such as no free descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// What a listener's connections are for.
#[derive(Clone)]
pub(crate) struct Purpose {
    /// Who we are.
    pub(crate) identity: Identity,
    /// What answers calls.
    pub(crate) stack: Stack,
    /// Where connections go on which agents serve; none where they are not taken.
    pub(crate) agents: Option<AgentDoor>,
    /// Connections at once, but for those of agents.
    pub(crate) connections: usize,
    /// When connections are asked to end, about.
    pub(crate) age: Duration,
    /// Cancelled when replicas of the same service are told to go too: not before everybody else.
    pub(crate) replicas: CancellationToken,
}

/// Serves until `stopping`, and replicas of the same service until they are told to go too, then until every call has been answered. Dropped, it
/// ends everything at once, but for connections of agents, which are in other hands.
pub(crate) async fn serve(listener: TcpListener, purpose: Purpose, stopping: CancellationToken) {
    // Connections end with this function, however it ends.
    let end = CancellationToken::new();
    let _end = end.clone().drop_guard();
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(purpose.connections));
    let agents = Arc::new(AgentPlaces::default());
    let last = purpose.replicas.clone();
    loop {
        let place = tokio::select! {
            () = last.cancelled() => break,
            place = places.clone().acquire_owned() => place,
        };
        let stream = tokio::select! {
            () = last.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    sleep(PAUSE).await;
                    continue;
                }
            },
        };
        // Only closed semaphores give none, and nobody closes it.
        let Ok(place) = place else { break };
        let room = Room {
            place,
            agents: agents.clone(),
        };
        let connection = connection(stream, room, purpose.clone(), stopping.clone());
        let end = end.clone();
        connections.spawn(async move {
            tokio::select! {
                () = end.cancelled() => {}
                served = connection => if let Err(error) = served {
                    tracing::debug!(%error, "a connection ended");
                }
            }
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// What a connection takes of the listener's room.
struct Room {
    /// Its place until it is known whose it is, and afterwards if it is a service's.
    place: OwnedSemaphorePermit,
    /// Where it takes another one if it is an agent's.
    agents: Arc<AgentPlaces>,
}

async fn connection(
    stream: TcpStream,
    room: Room,
    purpose: Purpose,
    stopping: CancellationToken,
) -> Result<(), io::Error> {
    stream.set_nodelay(true)?;
    let acceptor = TlsAcceptor::from(purpose.tls());
    let tls = timeout(HANDSHAKE, acceptor.accept(stream)).await??;
    let peer = Arc::new(peer(&tls, &purpose.identity)?);
    let serves = tls.get_ref().1.alpn_protocol() == Some(AGENT_ALPN);
    let Room { place, agents } = room;
    let (_place, of_agent) = match &*peer {
        Party::Service(_) if serves => return Err(io::Error::other("a service is no agent")),
        Party::Service(_) => (Some(place), None),
        Party::Agent(agent) => {
            drop(place);
            let place = agents.take(agent.name.tenant)?;
            if serves && let Some(door) = &purpose.agents {
                return door.pass(tls, peer, purpose.identity, place);
            }
            if !purpose.stack.answers_agents() {
                return Err(io::Error::other("agents call nothing here"));
            }
            (None, Some(place))
        }
    };
    let http2 = http2(of_agent.is_some());
    let Purpose {
        stack, age, replicas, ..
    } = purpose;
    let stopping = if stack.is_replica(&peer) {
        replicas
    } else {
        stopping
    };
    if stopping.is_cancelled() {
        return Err(io::Error::other("it came too late"));
    }
    let service = service_fn(move |request| {
        let answer = stack.clone().answer(request, peer.clone());
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let serving = http2.serve_connection(TokioIo::new(Lingering::new(tls)), service);
    tokio::pin!(serving);
    let age = age.mul_f64(rand::rng().random_range(0.9..1.1));
    tokio::select! {
        served = &mut serving => return served.map_err(io::Error::other),
        () = stopping.cancelled() => {}
        () = sleep(age) => {}
    }
    serving.as_mut().graceful_shutdown();
    timeout(AGE_GRACE, serving).await?.map_err(io::Error::other)
}

impl Purpose {
    /// How to accept connections now.
    fn tls(&self) -> Arc<ServerConfig> {
        let config = self.identity.server();
        if self.agents.is_none() {
            return config;
        }
        let mut config = (*config).clone();
        config.alpn_protocols.push(AGENT_ALPN.to_vec());
        Arc::new(config)
    }
}

/// Who is at the other end: exactly the certificate that the handshake verified.
fn peer(tls: &TlsStream<TcpStream>, identity: &Identity) -> Result<Party, io::Error> {
    let certificates = tls.get_ref().1.peer_certificates().unwrap_or_default();
    let leaf = certificates
        .first()
        .ok_or_else(|| io::Error::other("no certificate"))?;
    identity.party(leaf).map_err(io::Error::other)
}

fn http2(agent: bool) -> http2::Builder<TokioExecutor> {
    let (streams, stream, connection) = if agent {
        (AGENT_STREAMS, AGENT_WINDOW, AGENT_WINDOW)
    } else {
        (STREAMS, STREAM_WINDOW, CONNECTION_WINDOW)
    };
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams)
        .max_header_list_size(HEADERS)
        .max_frame_size(FRAME)
        .initial_stream_window_size(stream)
        .initial_connection_window_size(connection)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(LOCAL_RESETS)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG);
    builder
}

#[cfg(test)]
mod tests {
    use std::{
        net::SocketAddr,
        sync::Arc,
        time::{Duration, Instant},
    };

    use http::{HeaderMap, Request, Uri};
    use opentelemetry::metrics::{MeterProvider as _, noop::NoopMeterProvider};
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
    use tempfile::TempDir;
    use testkit::Authority;
    use tokio::{
        io::AsyncReadExt as _,
        net::{TcpListener, TcpStream},
        task::JoinHandle,
    };
    use tokio_rustls::{TlsConnector, client::TlsStream};
    use tokio_util::sync::CancellationToken;
    use tonic::{Code, Status, body::Body, service::Routes};
    use tower::{Service as _, ServiceExt as _};
    use types::{AgentId, TenantId};

    use crate::{
        Peer, PeerAddress, Settings,
        identity::{self, AgentTrust, Identity},
        policy::Table,
        runtime::Tasks,
        server::{Known, Stack},
        token::KeySet,
    };

    /// A service and the gateway, which calls it.
    struct Scene {
        authority: Authority,
        folder: TempDir,
        policy: Arc<Table>,
        service: Identity,
        gateway: Identity,
        settings: Settings,
        name: &'static str,
    }

    impl Scene {
        async fn new(name: &'static str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let authority = Authority::new(folder.path());
            let meter = NoopMeterProvider::new().meter("test");
            let mut identities = Vec::new();
            for name in [name, "gateway"] {
                let files = authority.issue(name);
                let settings = Settings {
                    identity_cert_file: Some(files.cert_file),
                    identity_key_file: Some(files.key_file),
                    trust_bundle_file: Some(files.bundle_file),
                    region: types::Region::Eu,
                    ..Settings::default()
                };
                let (identity, _) = identity::open(name, &settings, &meter).await.unwrap().unwrap();
                identities.push((identity, settings));
            }
            let (gateway, settings) = identities.pop().unwrap();
            Self {
                policy: Arc::new(Table::load(proto::DESCRIPTOR_SET).unwrap()),
                service: identities.pop().unwrap().0,
                gateway,
                settings,
                name,
                authority,
                folder,
            }
        }

        async fn serve(
            &self,
            connections: usize,
            age: Duration,
            stopping: &CancellationToken,
        ) -> (SocketAddr, JoinHandle<()>) {
            self.serve_replicas(connections, age, stopping, stopping).await
        }

        /// With an end of their own for replicas of the service.
        async fn serve_replicas(
            &self,
            connections: usize,
            age: Duration,
            stopping: &CancellationToken,
            replicas: &CancellationToken,
        ) -> (SocketAddr, JoinHandle<()>) {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let stack = Stack::new(
                self.name,
                Routes::default(),
                self.policy.clone(),
                Known {
                    keys: KeySet::new(self.settings.region),
                    identity: self.service.clone(),
                },
                &NoopMeterProvider::new().meter("test"),
                &self.settings,
                stopping.clone(),
            );
            let purpose = super::Purpose {
                identity: self.service.clone(),
                stack,
                agents: None,
                connections,
                age,
                replicas: replicas.clone(),
            };
            let serving = tokio::spawn(super::serve(listener, purpose, stopping.clone()));
            (address, serving)
        }

        /// The service, as the gateway reaches it.
        fn peer(&self, address: SocketAddr) -> Peer {
            self.peer_of(&self.gateway, address)
        }

        fn peer_of(&self, caller: &Identity, address: SocketAddr) -> Peer {
            let address = PeerAddress {
                name: self.name.to_owned(),
                url: format!("https://{address}").parse().unwrap(),
            };
            let meter = NoopMeterProvider::new().meter("test");
            let policy = self.policy.clone();
            Peer::new(&address, Some(caller), policy, &meter, &Tasks::default()).unwrap()
        }
    }

    /// Calls what has no handler, so that there is an answer: which.
    async fn call(peer: &mut Peer) -> Status {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = Uri::from_static("/trailmesh.auth.v1.GuardService/ConsumeStepUp");
        let answer = peer.ready().await.unwrap().call(request).await;
        let refused = |status: Status| {
            let mut headers = HeaderMap::new();
            status.add_header(&mut headers).unwrap();
            headers
        };
        let headers = answer.map_or_else(refused, |answer| answer.headers().clone());
        Status::from_header_map(&headers).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn connections_that_grow_old_are_replaced_and_no_call_fails() {
        let (scene, stopping) = (Scene::new("auth").await, CancellationToken::new());
        let age = Duration::from_millis(200);
        let (address, serving) = scene.serve(super::CONNECTIONS, age, &stopping).await;
        let mut peer = scene.peer(address);
        let (started, mut calls) = (Instant::now(), 0);
        while started.elapsed() < 10 * age || calls < 100 {
            let status = call(&mut peer).await;
            assert_eq!(status.code(), Code::Unimplemented, "call {calls}: {status:?}");
            calls += 1;
        }
        stopping.cancel();
        serving.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_service_that_ends_answers_its_other_replicas_until_the_last() {
        let scene = Scene::new("auth").await;
        let (stopping, replicas) = (CancellationToken::new(), CancellationToken::new());
        let serving = scene.serve_replicas(8, super::AGE, &stopping, &replicas);
        let (address, serving) = serving.await;
        let mut early = scene.peer_of(&scene.service, address);
        assert_ne!(call(&mut early).await.code(), Code::Unavailable);
        stopping.cancel();
        let mut late = scene.peer_of(&scene.service, address);
        for _ in 0..20 {
            assert_ne!(call(&mut late).await.code(), Code::Unavailable);
            assert_ne!(call(&mut early).await.code(), Code::Unavailable);
            let mut gateway = scene.peer(address);
            assert_eq!(call(&mut gateway).await.code(), Code::Unavailable);
        }
        replicas.cancel();
        serving.await.unwrap();
    }

    fn der(authority: &Authority) -> Vec<Vec<u8>> {
        let all = CertificateDer::pem_file_iter(authority.bundle_file()).unwrap();
        all.map(|one| one.unwrap().to_vec()).collect()
    }

    /// HTTP/2 as an agent speaks it.
    async fn dial(
        address: SocketAddr,
        agents: &Authority,
        mesh: &Authority,
        name: &str,
    ) -> TlsStream<TcpStream> {
        let files = agents.issue_as("agent", &[name], 600);
        let mut roots = rustls::RootCertStore::empty();
        for one in der(mesh) {
            roots.add(one.into()).unwrap();
        }
        let chain = CertificateDer::pem_file_iter(&files.cert_file).unwrap();
        let chain = chain.map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(&files.key_file).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider);
        let mut config = config
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(address).await.unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let host = "localhost".try_into().unwrap();
        connector.connect(host, stream).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn agents_take_no_places_of_services_and_none_where_they_call_nothing() {
        for (name, answers) in [("vault", true), ("query", false)] {
            let (scene, stopping) = (Scene::new(name).await, CancellationToken::new());
            let (address, serving) = scene.serve(2, super::AGE, &stopping).await;
            let agents = Authority::new(&scene.folder.path().join("agents"));
            AgentTrust::new(scene.service.clone())
                .replace(&der(&agents))
                .unwrap();
            let mut connections = Vec::new();
            for _ in 0..4 {
                let (tenant, agent) = (TenantId::fresh(), AgentId::fresh());
                let uri = format!("spiffe://trailmesh/eu/tenant/{tenant}/agent/{agent}");
                let mut connection = dial(address, &agents, &scene.authority, &uri).await;
                // HTTP/2's settings are the first that a server says.
                let read = tokio::time::timeout(Duration::from_secs(20), connection.read_u8());
                assert_eq!(read.await.expect("no place").is_ok(), answers, "{name}");
                connections.push(connection);
            }
            let mut gateway = scene.peer(address);
            let status = tokio::time::timeout(Duration::from_secs(20), call(&mut gateway));
            assert_ne!(status.await.expect("no place").code(), Code::Unavailable);
            drop(connections);
            stopping.cancel();
            serving.await.unwrap();
        }
    }
}
