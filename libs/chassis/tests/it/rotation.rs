//! Certificates: which are accepted, and how they change while calls run.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use chassis::{Error, Runtime};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use testkit::Identity;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tonic::{
    service::Routes,
    transport::{Certificate, Channel, ClientTlsConfig},
};

use crate::scene::{CONSUME, Guard, Mesh, Service, bind, call, settings};

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn chain(identity: &Identity) -> Vec<CertificateDer<'static>> {
    let certificates = CertificateDer::pem_file_iter(&identity.cert_file).expect("a file");
    certificates.collect::<Result<_, _>>().expect("certificates")
}

fn key(identity: &Identity) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_file(&identity.key_file).expect("a key")
}

/// A server with this certificate that completes handshakes with anybody, and nothing more.
pub(crate) async fn tls_server(identity: &Identity) -> SocketAddr {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("a version")
        .with_no_client_auth()
        .with_single_cert(chain(identity), key(identity))
        .expect("a certificate");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(mut tls) = acceptor.accept(stream).await {
                let _ = tls.read(&mut [0; 1024]).await;
            }
        }
    });
    address
}

/// A channel that is not ours: tonic's own.
pub(crate) async fn channel(identity: &Identity, address: SocketAddr) -> Channel {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let read = |path: &std::path::Path| std::fs::read(path).expect("a file");
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read(&identity.bundle_file)))
        .identity(tonic::transport::Identity::from_pem(
            read(&identity.cert_file),
            read(&identity.key_file),
        ))
        .domain_name("localhost");
    let endpoint = Channel::from_shared(format!("https://{address}")).expect("an address");
    let endpoint = endpoint.tls_config(tls).expect("a configuration");
    endpoint.connect().await.expect("a connection")
}

/// Connects and begins HTTP/2. Gives the server's certificate, or why it would not.
async fn knock(
    address: SocketAddr,
    identity: Option<&Identity>,
    bundle: &std::path::Path,
    version: &'static SupportedProtocolVersion,
) -> io::Result<CertificateDer<'static>> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_file_iter(bundle).expect("a file") {
        roots
            .add(authority.expect("a certificate"))
            .expect("an authority");
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_root_certificates(roots);
    let mut config = match identity {
        Some(identity) => config
            .with_client_auth_cert(chain(identity), key(identity))
            .expect("a certificate"),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    let mut tls = connector.connect(name, stream).await?;
    tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await?;
    // With TLS 1.3 a client learns here that its certificate is refused.
    if timeout(Duration::from_secs(10), tls.read(&mut [0; 64])).await?? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let served = tls
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first().cloned());
    served.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

async fn served(address: SocketAddr, identity: &Identity) -> Option<CertificateDer<'static>> {
    knock(address, Some(identity), &identity.bundle_file, &TLS13)
        .await
        .ok()
}

/// As `testkit::eventually`, for what has to be waited for itself.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut probe: impl FnMut() -> F) {
    for _ in 0..600 {
        if probe().await {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("waited a minute for {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authorities_that_a_service_hands_on_are_those_that_it_trusts() {
    let mut mesh = Mesh::new();
    let runtime = bind("vault", &mesh.settings("vault", &[])).await;
    let bundle = runtime.bundle().unwrap();
    let _service = Service::start(runtime, Routes::default());
    let ders = |pem: &[u8]| {
        let all = CertificateDer::pem_slice_iter(pem).map(|one| one.unwrap().to_vec());
        all.collect::<Vec<_>>()
    };
    let of_file = |mesh: &Mesh| ders(&std::fs::read(mesh.authority.bundle_file()).unwrap());
    let first = of_file(&mesh);
    assert_eq!(ders(bundle.pem().as_bytes()), first);
    mesh.authority.rotate();
    let both = of_file(&mesh);
    assert!(both.len() > first.len());
    until("the new authority to be handed on", || async {
        ders(bundle.pem().as_bytes()) == both
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_services_of_the_realm_are_accepted() {
    let mesh = Mesh::new();
    let auth = mesh.serve("auth", Guard::default().routes()).await;
    let authority = &mesh.authority;
    let bundle = authority.bundle_file();
    let gateway = "spiffe://trailmesh/eu/service/gateway";
    let other = Mesh::new();
    let refused = [
        ("expired", authority.issue_as("old", &[gateway], -60)),
        (
            "another trust domain",
            authority.issue_as("foreign", &["spiffe://elsewhere/eu/service/gateway"], 600),
        ),
        (
            "another region",
            authority.issue_as("region", &["spiffe://trailmesh/us/service/gateway"], 600),
        ),
        (
            "an agent",
            authority.issue_as("agent", &["spiffe://trailmesh/eu/tenant/t/agent/a"], 600),
        ),
        ("no URI", authority.issue_as("none", &[], 600)),
        (
            "two URIs",
            authority.issue_as("two", &[gateway, "spiffe://trailmesh/eu/service/tenant"], 600),
        ),
        (
            "the same URI twice",
            authority.issue_as("twice", &[gateway, gateway], 600),
        ),
        ("another authority", other.authority.issue("gateway")),
        ("for serving only", authority.issue_for("gateway", true, false)),
        ("for no use", authority.issue_for("gateway", false, false)),
    ];
    for (what, identity) in refused {
        assert!(
            knock(auth.address, Some(&identity), &bundle, &TLS13)
                .await
                .is_err(),
            "{what}"
        );
    }
    assert!(
        knock(auth.address, None, &bundle, &TLS13).await.is_err(),
        "no certificate"
    );
    let good = authority.issue("gateway");
    assert!(
        knock(auth.address, Some(&good), &bundle, &TLS12).await.is_err(),
        "TLS 1.2"
    );
    assert!(knock(auth.address, Some(&good), &bundle, &TLS13).await.is_ok());
    let calling = authority.issue_for("gateway", false, true);
    assert!(knock(auth.address, Some(&calling), &bundle, &TLS13).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_does_not_start_with_an_identity_that_is_not_its_own_and_good() {
    let mesh = Mesh::new();
    let authority = &mesh.authority;
    let auth = "spiffe://trailmesh/eu/service/auth";
    let good = authority.issue("auth");
    let mut mixed = good.clone();
    mixed.key_file = authority.issue("tenant").key_file;
    let mut absent = good.clone();
    absent.bundle_file = mesh.authority.bundle_file().with_file_name("absent.pem");
    let mut empty = good.clone();
    empty.cert_file = good.key_file.clone();
    let mut untrusted = good.clone();
    let other = Mesh::new();
    untrusted.bundle_file = other.authority.bundle_file();
    for (what, identity) in [
        ("another name", authority.issue("tenant")),
        ("expired", authority.issue_as("old", &[auth], -60)),
        (
            "another trust domain",
            authority.issue_as("foreign", &["spiffe://elsewhere/eu/service/auth"], 600),
        ),
        (
            "two URIs",
            authority.issue_as("two", &[auth, "spiffe://trailmesh/eu/service/x"], 600),
        ),
        ("no URI", authority.issue_as("none", &[], 600)),
        ("for calling only", authority.issue_for("auth", false, true)),
        ("for serving only", authority.issue_for("auth", true, false)),
        ("for no use", authority.issue_for("auth", false, false)),
        ("another key", mixed),
        ("no bundle", absent),
        ("no certificate", empty),
        ("another authority", untrusted),
    ] {
        let bound = Runtime::bind("auth", &settings(&identity, &[]), proto::DESCRIPTOR_SET).await;
        assert!(matches!(bound, Err(Error::Identity(_))), "{what}: {bound:?}");
    }
    let mut none = settings(&good, &[]);
    (
        none.identity_cert_file,
        none.identity_key_file,
        none.trust_bundle_file,
    ) = (None, None, None);
    let runtime = bind("auth", &none).await;
    assert!(matches!(
        runtime.serve(Routes::default()).await,
        Err(Error::Identity(_))
    ));
}

/// Calls without pause until it is told to stop; counts what was answered and what was not.
#[derive(Clone, Default)]
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
}

impl Load {
    /// With a method that is never repeated once it was sent.
    fn start(&self, runtime: &Runtime) -> Vec<tokio::task::JoinHandle<()>> {
        let peer = runtime.peer("auth").expect("a peer");
        let one = || {
            let (load, peer) = (self.clone(), peer.clone());
            tokio::spawn(async move {
                while !load.stop.load(Ordering::SeqCst) {
                    match call(peer.clone(), CONSUME, &[]).await {
                        Ok(()) => load.answered.fetch_add(1, Ordering::SeqCst),
                        Err(status) => {
                            eprintln!("{status:?}");
                            load.failed.fetch_add(1, Ordering::SeqCst)
                        }
                    };
                }
            })
        };
        (0..4).map(|_| one()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_authorities_change_under_load_and_no_call_fails() {
    let mut mesh = Mesh::new();
    let (auth_files, gateway_files) = (mesh.authority.issue("auth"), mesh.authority.issue("gateway"));
    let probe = mesh
        .authority
        .issue_as("probe", &["spiffe://trailmesh/eu/service/probe"], 600);
    let auth = Service::start(
        bind("auth", &settings(&auth_files, &[])).await,
        Guard::default().routes(),
    );
    let runtime = bind("gateway", &settings(&gateway_files, &[("auth", auth.address)])).await;
    let load = Load::default();
    let calls = load.start(&runtime);
    // The gateway serves too, so that one can see which certificate it has.
    let gateway = Service::start(runtime, Routes::default());
    let both = [("auth", auth.address), ("gateway", gateway.address)];

    // A new leaf, twice: the second time from a second authority that both trust by then.
    for round in ["leaf", "authority"] {
        if round == "authority" {
            mesh.authority.rotate();
            let newcomer =
                mesh.authority
                    .issue_as("newcomer", &["spiffe://trailmesh/eu/service/newcomer"], 600);
            for (name, address) in both {
                let what = format!("{name} to trust the new authority");
                until(&what, || async { served(address, &newcomer).await.is_some() }).await;
            }
        }
        for (name, address) in both {
            let before = served(address, &probe).await.expect("an open door");
            let new = chain(&mesh.authority.issue(name)).remove(0);
            assert_ne!(before, new);
            let what = format!("{name} to show its new {round}");
            until(&what, || async {
                served(address, &probe).await.as_ref() == Some(&new)
            })
            .await;
        }
    }
    mesh.authority.forget_old();
    for (name, address) in both {
        let what = format!("{name} to forget the old authority");
        let bundle = mesh.authority.bundle_file();
        until(&what, || async {
            knock(address, Some(&probe), &bundle, &TLS13).await.is_err()
        })
        .await;
    }
    let before = load.answered.load(Ordering::SeqCst);
    until("some more calls", || async {
        load.answered.load(Ordering::SeqCst) > before + 50
    })
    .await;

    load.stop.store(true, Ordering::SeqCst);
    for call in calls {
        call.await.unwrap();
    }
    let (answered, failed) = (
        load.answered.load(Ordering::SeqCst),
        load.failed.load(Ordering::SeqCst),
    );
    assert!(answered > 200, "{answered} calls only");
    assert_eq!(failed, 0, "of {answered}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_written_identity_changes_nothing_until_it_is_whole() {
    let mesh = Mesh::new();
    let files = mesh.authority.issue("auth");
    let probe = mesh.authority.issue("gateway");
    let runtime = bind("auth", &settings(&files, &[])).await;
    let admin = runtime.admin_address();
    let auth = Service::start(runtime, Guard::default().routes());
    let before = served(auth.address, &probe).await.unwrap();
    let refusals = || async move {
        let text = metrics(admin).await.unwrap_or_default();
        let mut lines = text
            .lines()
            .filter(|line| line.starts_with("trailmesh_identity_reloads"));
        let refused = lines.rfind(|line| line.contains("refused"));
        refused
            .and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .unwrap_or_default()
    };
    // The new key without its certificate; half a certificate; somebody else's; nothing.
    let good = std::fs::read(&files.cert_file).unwrap();
    let tenant = mesh.authority.issue("tenant");
    mesh.authority.issue("auth");
    let new = std::fs::read(&files.cert_file).unwrap();
    for (at, broken) in [
        &good,
        &new[..new.len() / 2],
        &std::fs::read(&tenant.cert_file).unwrap()[..],
        b"",
    ]
    .into_iter()
    .enumerate()
    {
        std::fs::write(&files.cert_file, broken).unwrap();
        #[expect(clippy::cast_precision_loss, reason = "four at most")]
        let wanted = (at + 1) as f64;
        until("the files to be refused", || async { refusals().await >= wanted }).await;
        assert_eq!(served(auth.address, &probe).await.as_ref(), Some(&before));
    }
    std::fs::write(&files.cert_file, &new).unwrap();
    until("the new one to be used", || async {
        served(auth.address, &probe)
            .await
            .is_some_and(|now| now != before)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_that_the_other_side_refuses_breaks_no_connection_that_works() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    let guard = Guard::default();
    let auth = mesh.serve("auth", guard.routes()).await;
    let mut files = mesh.authority.issue("gateway");
    let trusted = std::fs::read(&files.bundle_file).unwrap();
    files.bundle_file = files.bundle_file.with_file_name("gateway-bundle.pem");
    std::fs::write(&files.bundle_file, &trusted).unwrap();
    let runtime = bind("gateway", &settings(&files, &[("auth", auth.address)])).await;
    let peer = runtime.peer("auth").unwrap();
    call(peer.clone(), CONSUME, &[]).await.unwrap();

    // The gateway moves on to an authority that auth has not heard of.
    let new = other.authority.issue("gateway");
    let both = [trusted, std::fs::read(&new.bundle_file).unwrap()].concat();
    std::fs::write(&files.bundle_file, both).unwrap();
    std::fs::copy(&new.key_file, &files.key_file).unwrap();
    std::fs::copy(&new.cert_file, &files.cert_file).unwrap();
    let admin = runtime.admin_address();
    until("the new certificate to be used", || async {
        let text = metrics(admin).await.unwrap_or_default();
        let mut lines = text
            .lines()
            .filter(|line| line.starts_with("trailmesh_identity_reloads"));
        lines.any(|line| line.contains("loaded"))
    })
    .await;
    let started = std::time::Instant::now();
    while started.elapsed() < Duration::from_secs(2) {
        call(peer.clone(), CONSUME, &[]).await.unwrap();
    }
}

pub(crate) async fn metrics(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}
