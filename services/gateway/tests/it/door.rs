//! The agents' door: who is let in, where to, how many, and how it ends.
use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use testkit::{Authority, Identity, free_port};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufStream},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use types::{AgentId, TenantId};

use crate::{
    client::{full, request},
    house::{House, settings},
};

const ALPN: &[u8] = b"trailmesh-agent/1";
const SOON: Duration = Duration::from_secs(10);

fn name(agent: AgentId) -> String {
    format!("spiffe://trailmesh/eu/tenant/{}/agent/{agent}", TenantId::fresh())
}

/// A new agent's certificate.
fn agent(authority: &Authority) -> Identity {
    let id = AgentId::fresh();
    authority.issue_as(&id.to_string(), &[&name(id)], 600)
}

fn client(house: &House, identity: Option<&Identity>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let pem = std::fs::read(house.bundle()).expect("a bundle");
    roots
        .add(CertificateDer::from_pem_slice(&pem).expect("a certificate"))
        .expect("an authority");
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain = CertificateDer::pem_file_iter(&identity.cert_file).expect("a file");
            let chain = chain.collect::<Result<_, _>>().expect("certificates");
            let key = PrivateKeyDer::from_pem_file(&identity.key_file).expect("a key");
            builder.with_client_auth_cert(chain, key).expect("an identity")
        }
    }
}

async fn tls<S: AsyncRead + AsyncWrite + Unpin>(config: ClientConfig, stream: S) -> io::Result<TlsStream<S>> {
    let server = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(server, stream).await
}

type Line = BufStream<TlsStream<TcpStream>>;

/// An agent's connection, outside.
async fn dial(house: &House, identity: &Identity) -> io::Result<Line> {
    let mut config = client(house, Some(identity));
    config.alpn_protocols = vec![ALPN.to_vec()];
    let stream = TcpStream::connect(house.address).await?;
    Ok(BufStream::new(tls(config, stream).await?))
}

/// Says where to go, and gives the answer.
async fn ask(line: &mut Line, to: &str) -> io::Result<String> {
    line.write_all(format!("trailmesh-agent/1 {to}\n").as_bytes())
        .await?;
    line.flush().await?;
    let mut answer = String::new();
    timeout(SOON, line.read_line(&mut answer)).await??;
    Ok(answer)
}

async fn enter(house: &House, identity: &Identity, to: &str) -> io::Result<(Line, String)> {
    let mut line = dial(house, identity).await?;
    let answer = ask(&mut line, to).await?;
    Ok((line, answer))
}

/// A service that says its name and then what it hears.
async fn parrot(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                write.write_all(name.as_bytes()).await?;
                tokio::io::copy(&mut read, &mut write).await?;
                write.shutdown().await
            });
        }
    });
    address
}

async fn house(change: impl FnOnce(&mut crate::house::Plan)) -> House {
    let peers = vec![("query", parrot("query").await), ("vault", parrot("vault").await)];
    House::with(|plan| {
        plan.peers = peers;
        change(plan);
    })
    .await
}

async fn hear(line: &mut Line, bytes: usize) -> String {
    let mut heard = vec![0; bytes];
    timeout(SOON, line.read_exact(&mut heard))
        .await
        .expect("in time")
        .expect("bytes");
    String::from_utf8(heard).expect("text")
}

async fn metric(house: &House, line: &str) -> bool {
    let deadline = Instant::now() + SOON;
    while !house
        .probe("/metrics")
        .await
        .lines()
        .any(|of| of.starts_with(line))
    {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    true
}

#[tokio::test]
async fn an_agent_gets_where_it_asks_to_go_and_is_heard_there() {
    let house = house(|_| {}).await;
    let agent = agent(&house.agents);
    for (to, service) in [("hub", "query"), ("vault", "vault")] {
        let (mut line, answer) = enter(&house, &agent, to).await.expect("a connection");
        assert_eq!(answer, "ok\n");
        assert_eq!(hear(&mut line, 5).await, service);
        let long = "words ".repeat(50_000);
        let (mut read, mut write) = tokio::io::split(&mut line);
        let mut heard = vec![0; long.len()];
        let both = async {
            let writing = async {
                write.write_all(long.as_bytes()).await?;
                write.flush().await
            };
            tokio::try_join!(writing, read.read_exact(&mut heard))
        };
        timeout(SOON, both).await.expect("in time").expect("no error");
        assert!(heard == long.as_bytes());
        line.shutdown().await.expect("an end");
        let mut rest = Vec::new();
        let ended = timeout(SOON, line.read_to_end(&mut rest)).await;
        assert_eq!(ended.expect("in time").expect("an end"), 0);
    }
    assert!(metric(&house, "gateway_agent_bytes_total{direction=\"in\"").await);
    assert!(metric(&house, "gateway_agent_connections_ended_total{reason=\"closed\"").await);
}

#[tokio::test]
async fn whoever_is_no_agent_is_not_let_in() {
    let house = house(|_| {}).await;
    let id = AgentId::fresh();
    let service = "spiffe://trailmesh/eu/service/query";
    let elsewhere = tempfile::tempdir().expect("a folder");
    let other = Authority::new(elsewhere.path());
    let strangers = [
        ("no certificate", None),
        ("a service of the mesh", Some(house.authority.issue("query"))),
        (
            "an agent by the mesh's authority",
            Some(house.authority.issue_as("a", &[&name(id)], 600)),
        ),
        (
            "a service by the agents' authority",
            Some(house.agents.issue_as("b", &[service], 600)),
        ),
        (
            "an agent and a service",
            Some(house.agents.issue_as("c", &[&name(id), service], 600)),
        ),
        ("another authority", Some(other.issue_as("d", &[&name(id)], 600))),
        ("ended", Some(house.agents.issue_as("e", &[&name(id)], -60))),
        (
            "of another region",
            Some(
                house
                    .agents
                    .issue_as("f", &[&name(id).replace("/eu/", "/us/")], 600),
            ),
        ),
        (
            "for serving only",
            Some(house.agents.issue_with("g", &[&name(id)], true, false)),
        ),
    ];
    for (who, identity) in &strangers {
        let mut config = client(&house, identity.as_ref());
        config.alpn_protocols = vec![ALPN.to_vec()];
        let entered = async {
            let stream = TcpStream::connect(house.address).await?;
            let mut line = BufStream::new(tls(config, stream).await?);
            ask(&mut line, "hub").await
        };
        // In TLS 1.3 a client learns what became of its certificate with the first answer.
        let answer = entered.await;
        assert!(
            answer
                .as_ref()
                .is_err_and(|error| error.to_string().contains("alert")),
            "{who}: {answer:?}"
        );
    }
    let agent = agent(&house.agents);
    assert_eq!(
        enter(&house, &agent, "hub").await.expect("a connection").1,
        "ok\n"
    );
    house.trust.replace(&[]).expect("nobody");
    assert!(
        enter(&house, &agent, "hub").await.is_err(),
        "no authority is trusted any more"
    );
}

#[tokio::test]
async fn the_door_is_there_for_its_own_protocol_and_tls_1_3_alone() {
    let house = house(|_| {}).await;
    let agent = agent(&house.agents);
    let mut old = client(&house, Some(&agent));
    let provider = Arc::new(ring::default_provider());
    let mut only_12 = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("a version")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    only_12.alpn_protocols = vec![ALPN.to_vec()];
    let stream = TcpStream::connect(house.address).await.expect("a connection");
    let refused = tls(only_12, stream).await.expect_err("TLS 1.2");
    assert!(refused.to_string().contains("alert"), "{refused}");
    // Beside another protocol it is not the agents'.
    old.alpn_protocols = vec![ALPN.to_vec(), b"h2".to_vec()];
    let stream = TcpStream::connect(house.address).await.expect("a connection");
    let line = tls(old, stream).await.expect("TLS");
    assert_eq!(line.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
}

#[tokio::test]
async fn nonsense_is_told_what_it_is_and_silence_is_cut_off() {
    let house = house(|_| {}).await;
    let agent = agent(&house.agents);
    for nonsense in ["auth", "", "hub ", &"x".repeat(100)] {
        let (mut line, answer) = enter(&house, &agent, nonsense).await.expect("a connection");
        assert_eq!(answer, "no PREFACE_INVALID 60\n", "{nonsense:?}");
        assert_eq!(line.read(&mut [0]).await.expect("an end"), 0);
    }
    let mut silent = dial(&house, &agent).await.expect("a connection");
    let began = Instant::now();
    let ended = timeout(2 * SOON, silent.read(&mut [0])).await.expect("in time");
    assert!(ended.is_err() || ended.is_ok_and(|bytes| bytes == 0));
    assert!(began.elapsed() >= Duration::from_secs(4));
}

#[tokio::test]
async fn an_agent_has_so_many_connections_and_takes_none_from_others() {
    let house = house(|plan| {
        plan.config.connections_per_agent = 2;
        plan.config.agent_connections = 3;
        plan.config.max_connections = 5;
    })
    .await;
    let (one, other) = (agent(&house.agents), agent(&house.agents));
    let mut lines = Vec::new();
    for to in ["hub", "vault"] {
        let (line, answer) = enter(&house, &one, to).await.expect("a connection");
        assert_eq!(answer, "ok\n");
        lines.push(line);
    }
    let answer = enter(&house, &one, "hub").await.expect("a connection").1;
    assert_eq!(answer, "no AGENT_CONNECTIONS 10\n");
    let (line, answer) = enter(&house, &other, "hub").await.expect("a connection");
    assert_eq!(answer, "ok\n");
    lines.push(line);
    let answer = enter(&house, &other, "hub").await.expect("a connection").1;
    assert_eq!(answer, "no DOOR_FULL 30\n");
    // People have their own places.
    let mut people = Vec::new();
    for _ in 0..4 {
        let client = house.h2().await;
        let sent = request(http::Method::GET, "/v1/echo", &[], full(""));
        assert_eq!(client.send(sent).await.expect("an answer").status, 200);
        people.push(client);
    }
    drop(lines.remove(0));
    let deadline = Instant::now() + SOON;
    while enter(&house, &other, "hub").await.expect("a connection").1 != "ok\n" {
        assert!(Instant::now() < deadline, "a place is free again");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn those_who_come_all_at_once_are_told_when_to_come_back() {
    let house = house(|plan| plan.config.agent_rate = 1).await;
    // Making keys takes time, in which others would be let in.
    let agents: Vec<_> = (0..8).map(|_| agent(&house.agents)).collect();
    let entering = agents.iter().map(|agent| enter(&house, agent, "hub"));
    let entered = futures_util::future::join_all(entering).await;
    let answers: Vec<_> = entered
        .into_iter()
        .map(|entered| entered.expect("a connection").1)
        .collect();
    let busy: Vec<_> = answers
        .iter()
        .filter(|answer| answer.starts_with("no DOOR_BUSY "))
        .collect();
    assert!(
        busy.len() >= 2 && answers.iter().any(|answer| answer == "ok\n"),
        "{answers:?}"
    );
    assert!(
        metric(
            &house,
            "gateway_agent_connections_refused_total{reason=\"DOOR_BUSY\""
        )
        .await
    );
}

#[tokio::test]
async fn a_service_that_is_away_is_told_at_once() {
    let away: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let house = House::with(|plan| plan.peers = vec![("query", away)]).await;
    let agent = agent(&house.agents);
    for to in ["hub", "vault"] {
        let began = Instant::now();
        let answer = enter(&house, &agent, to).await.expect("a connection").1;
        assert_eq!(answer, "no SERVICE_UNREACHABLE 2\n");
        assert!(began.elapsed() < SOON);
    }
}

#[tokio::test]
async fn a_drain_ends_agents_connections_in_its_time() {
    let house = house(|plan| plan.drain_timeout = Duration::from_secs(4)).await;
    let mut lines = Vec::new();
    for _ in 0..8 {
        let agent = agent(&house.agents);
        let (mut line, answer) = enter(&house, &agent, "hub").await.expect("a connection");
        assert_eq!(
            (answer.as_str(), hear(&mut line, 5).await.as_str()),
            ("ok\n", "query")
        );
        lines.push(line);
    }
    let began = Instant::now();
    house.stopping.cancel();
    let ends = lines.into_iter().map(|mut line| async move {
        let mut rest = Vec::new();
        let ended = timeout(2 * SOON, line.read_to_end(&mut rest)).await;
        assert_eq!(ended.expect("in time").expect("a farewell"), 0);
        began.elapsed()
    });
    let mut ends = futures_util::future::join_all(ends).await;
    ends.sort();
    assert!(ends[7] < Duration::from_secs(4), "{ends:?}");
    assert!(
        ends[7] - ends[0] > Duration::from_millis(100),
        "not all at once: {ends:?}"
    );
}

/// The vault, as far as gateways ask it: these authorities vouch for agents.
#[derive(Clone)]
struct Vault(Vec<u8>);

impl tonic::server::NamedService for Vault {
    const NAME: &'static str = "trailmesh.vault.v1.AgentIdentityService";
}

impl tower::Service<http::Request<tonic::body::Body>> for Vault {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        assert!(request.uri().path().ends_with("/GetAgentAuthorities"));
        let message = proto::vault::v1::GetAgentAuthoritiesResponse {
            authorities: vec![self.0.clone().into()],
        };
        let bytes = crate::client::frame(&prost::Message::encode_to_vec(&message));
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().expect("a value"));
        let frames = [
            Ok::<_, tonic::Status>(http_body::Frame::data(bytes::Bytes::from(bytes))),
            Ok(http_body::Frame::trailers(trailers)),
        ];
        let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
        let mut answer = http::Response::new(tonic::body::Body::new(body));
        let kind = "application/grpc".parse().expect("a value");
        answer.headers_mut().insert("content-type", kind);
        std::future::ready(Ok(answer))
    }
}

#[tokio::test]
async fn the_vault_says_whose_agents_are_let_in() {
    let folder = tempfile::tempdir().expect("a folder");
    let newer = Authority::new(&folder.path().join("agents"));
    let root = CertificateDer::from_pem_file(newer.bundle_file()).expect("a certificate");
    let address: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let house = House::with(|plan| plan.peers = vec![("vault", address)]).await;
    let (old, new) = (agent(&house.agents), agent(&newer));
    let answer = enter(&house, &old, "hub").await.expect("a connection").1;
    assert_eq!(
        answer, "no SERVICE_UNREACHABLE 2\n",
        "the vault is away, and what was known stays"
    );
    let mut settings = settings(&house.authority.issue("vault"), &[]);
    settings.listen = address;
    let vault = chassis::Runtime::bind("vault", &settings, proto::DESCRIPTOR_SET)
        .await
        .expect("a service");
    let stopping = vault.stopping();
    let _serving = tokio::spawn(vault.serve(tonic::service::Routes::new(Vault(root.to_vec()))));
    let deadline = Instant::now() + 3 * SOON;
    while enter(&house, &new, "hub").await.is_err() {
        assert!(Instant::now() < deadline, "the gateway asks the vault");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(
        enter(&house, &old, "hub").await.is_err(),
        "the old authority is gone"
    );
    stopping.cancel();
}

/// What the agent and the service say to each other is theirs: ordinary mutual TLS of the mesh, from end to end.
#[tokio::test]
async fn inside_an_agent_and_a_service_know_each_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let mesh = Authority::new(folder.path());
    // Agents get in where there is something for them.
    let settings = settings(&mesh.issue("vault"), &[]);
    let runtime = chassis::Runtime::bind("vault", &settings, proto::DESCRIPTOR_SET).await;
    let runtime = runtime.expect("a runtime");
    let (address, stopping) = (runtime.address(), runtime.stopping());
    let trust = runtime.agent_trust().expect("an identity");
    let _serving = tokio::spawn(runtime.serve(tonic::service::Routes::default()));
    let house = House::with(|plan| plan.peers = vec![("vault", address)]).await;
    let root = CertificateDer::from_pem_file(house.agents.bundle_file()).expect("a certificate");
    trust.replace(&[root.to_vec()]).expect("an authority");
    let agent = agent(&house.agents);
    let (line, answer) = enter(&house, &agent, "vault").await.expect("a connection");
    assert_eq!(answer, "ok\n");
    let mut config = client(&house, Some(&agent));
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(mesh.bundle_file()).expect("a certificate"))
        .expect("an authority");
    config = {
        let chain = CertificateDer::pem_file_iter(&agent.cert_file).expect("a file");
        let chain = chain.collect::<Result<_, _>>().expect("certificates");
        let key = PrivateKeyDer::from_pem_file(&agent.key_file).expect("a key");
        drop(config);
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("a version")
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .expect("an identity")
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let inner = tls(config, line).await.expect("TLS with the service");
    let stream = hyper_util::rt::TokioIo::new(inner);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, stream)
        .await
        .expect("HTTP/2");
    tokio::spawn(connection);
    let mut call = request(
        http::Method::POST,
        "/trailmesh.vault.v1.SecretService/SealSecret",
        &[("content-type", "application/grpc"), ("te", "trailers")],
        full(crate::client::frame(b"")),
    );
    call.headers_mut().remove("host");
    let answer = sender.send_request(call).await.expect("an answer");
    // Known, and not allowed.
    assert_eq!(answer.headers()["grpc-status"], "7");
    stopping.cancel();
}
