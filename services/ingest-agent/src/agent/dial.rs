//! From nothing to a service of the mesh: TCP, perhaps through a proxy; TLS to the door, whose key is pinned, with the agent's certificate; one
//! line that says which service is wanted; and inside of that TLS again, to the service itself, so that the door sees ciphertext only.

use std::{io, sync::Arc, time::Duration};

use rustls::{
    AlertDescription, ClientConfig,
    client::Resumption,
    crypto::ring as provider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    version::TLS13,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use types::chain;
use url::Url;

use super::{
    error::Error,
    identity::Identity,
    pins::{Pin, Pinned, Pins, Seen},
    proxy::Proxy,
    trust::Trust,
};

/// The protocol of agents at the mesh's door, and of what is inside for the hub.
pub const ALPN: &[u8] = b"trailmesh-agent/1";
/// Longest wait for a connection, for a handshake, and for the door's word, each.
const STEP: Duration = Duration::from_secs(15);
/// The longest line that a door says.
const LINE: usize = 256;
/// What a door that names no time is given.
const PAUSE: Duration = Duration::from_secs(5);

/// A mesh, by its public address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// A name or an address, without brackets.
    pub host: String,
    /// Mostly 443.
    pub port: u16,
}

impl Mesh {
    /// `https://host[:port]`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = |why: &str| Error::Usage {
            what: "--mesh".to_owned(),
            why: format!("{text:?} {why}"),
            hint: "write https://mesh.example.com, with a port if it is not 443",
        };
        let url = Url::parse(text).map_err(|_| wrong("is no URL"))?;
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        if url.scheme() != "https" {
            return Err(wrong("does not begin with https://"));
        }
        if !bare || !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("has more than a host and a port"));
        }
        let host = url.host_str().filter(|host| !host.is_empty());
        Ok(Self {
            host: host
                .ok_or_else(|| wrong("names no host"))?
                .trim_matches(['[', ']'])
                .to_owned(),
            port: url.port().unwrap_or(443),
        })
    }

    /// Its URL.
    pub fn url(&self) -> String {
        if self.host.contains(':') {
            format!("https://[{}]:{}", self.host, self.port)
        } else {
            format!("https://{}:{}", self.host, self.port)
        }
    }
}

/// What an agent shows, and whom it believes.
#[derive(Debug)]
pub struct Papers {
    /// Its key and certificate.
    pub identity: Arc<Identity>,
    /// Whom it trusts.
    pub trust: Arc<Trust>,
    /// The keys of the mesh's door.
    pub pins: Pins,
}

/// Where an agent wants to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// To a replica of service `query`, to answer there.
    Hub,
    /// To a replica of the vault, to ask.
    Vault,
}

impl Room {
    fn line(self) -> &'static [u8] {
        match self {
            Self::Hub => b"trailmesh-agent/1 hub\n",
            Self::Vault => b"trailmesh-agent/1 vault\n",
        }
    }

    fn service(self) -> &'static str {
        match self {
            Self::Hub => "query",
            Self::Vault => "vault",
        }
    }

    fn alpn(self) -> &'static [u8] {
        match self {
            Self::Hub => ALPN,
            Self::Vault => b"h2",
        }
    }
}

/// TLS to a service, inside of TLS to the door.
pub type Inside = TlsStream<TlsStream<TcpStream>>;

/// How to get to a mesh.
#[derive(Clone, Debug)]
pub struct Dialer {
    /// The mesh.
    pub mesh: Mesh,
    /// The proxy on the way.
    pub proxy: Option<Proxy>,
}

impl Dialer {
    /// A connection to a service, and the pin of the door that it came through.
    pub async fn open(&self, papers: &Papers, room: Room) -> Result<(Inside, Pin), Error> {
        let (mut outer, pin) = self.door(papers).await?;
        self.ask(&mut outer, room).await?;
        Ok((self.inner(outer, papers, room).await?, pin))
    }

    /// TLS to the door, whose key is one of the pinned ones.
    async fn door(&self, papers: &Papers) -> Result<(TlsStream<TcpStream>, Pin), Error> {
        let seen = Seen::default();
        let config = door_config(papers, seen.clone())?;
        let connected = self.tls(config).await;
        let pin = seen.get();
        match (connected, pin) {
            (Ok(stream), Some(pin)) if stream.get_ref().1.alpn_protocol() == Some(ALPN) => Ok((stream, pin)),
            (Ok(_), _) => Err(self.unreachable(
                "it does not know the protocol of agents: a proxy or balancer that ends TLS is on the way, or no mesh is there",
            )),
            (Err(_), Some(pin)) if !papers.pins.hold(pin) => Err(Error::NotPinned {
                host: self.mesh.url(),
                shown: pin.to_string(),
            }),
            (Err(error), _) => Err(error),
        }
    }

    /// TLS to the mesh's public address.
    pub(super) async fn tls(&self, config: ClientConfig) -> Result<TlsStream<TcpStream>, Error> {
        let stream = tcp(&self.mesh, self.proxy.as_ref()).await?;
        let name = ServerName::try_from(self.mesh.host.clone())
            .map_err(|_| self.unreachable("its name is none that a certificate could have"))?;
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
        timeout(STEP, handshake)
            .await
            .map_err(|_| self.late("the handshake"))?
            .map_err(|error| self.unreachable(&broken(&error)))
    }

    /// Says which service is wanted, and hears whether there is one.
    async fn ask(&self, outer: &mut TlsStream<TcpStream>, room: Room) -> Result<(), Error> {
        let talk = async {
            outer.write_all(room.line()).await?;
            outer.flush().await?;
            line(outer).await
        };
        let line = timeout(STEP, talk)
            .await
            .map_err(|_| self.late("the door"))?
            .map_err(|error| self.unreachable(&broken(&error)))?;
        let mut words = line.split(' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("ok"), None, ..) => Ok(()),
            (Some("no"), Some(reason), seconds, None) => Err(Error::Door {
                reason: reason.to_owned(),
                retry_after: seconds
                    .and_then(|seconds| seconds.parse().ok())
                    .map_or(PAUSE, Duration::from_secs),
            }),
            _ => Err(Error::Protocol {
                what: "the mesh's door",
                why: "says what no door says".to_owned(),
            }),
        }
    }

    /// TLS to the service behind the door.
    async fn inner(&self, outer: TlsStream<TcpStream>, papers: &Papers, room: Room) -> Result<Inside, Error> {
        let internal = |why: String| Error::Internal {
            what: "the connection to a service",
            why,
        };
        let service = papers
            .trust
            .service(room.service())
            .ok_or_else(|| internal("the region is unknown".to_owned()))?;
        let config = chassis::identity::connect_as_agent(
            &papers.identity.chain,
            papers.identity.key.expose(),
            &papers.trust.bundle,
            &service,
            room.alpn(),
        )
        .map_err(|error| internal(chain(&error)))?;
        // The certificate's name is checked by its SPIFFE id; no host name is sent or looked at.
        let name = ServerName::try_from("trailmesh").map_err(|error| internal(error.to_string()))?;
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, outer);
        let failed = |why: String| Error::Unreachable {
            what: format!("service {} behind {}", room.service(), self.mesh.url()),
            why,
        };
        let stream = timeout(STEP, handshake)
            .await
            .map_err(|_| failed(format!("no handshake within {} s", STEP.as_secs())))?
            .map_err(|error| failed(broken(&error)))?;
        if stream.get_ref().1.alpn_protocol() != Some(room.alpn()) {
            return Err(failed("it does not take agents".to_owned()));
        }
        Ok(stream)
    }

    fn unreachable(&self, why: &str) -> Error {
        Error::Unreachable {
            what: self.mesh.url(),
            why: why.to_owned(),
        }
    }

    fn late(&self, what: &str) -> Error {
        self.unreachable(&format!("{what} took longer than {} s", STEP.as_secs()))
    }
}

/// TCP to a host, straight or through the proxy that the environment names.
pub(crate) async fn way_out(host: &str, port: u16) -> Result<TcpStream, Error> {
    let mesh = Mesh {
        host: host.to_owned(),
        port,
    };
    let proxy = Proxy::choose(None, host, port)?;
    tcp(&mesh, proxy.as_ref()).await
}

async fn tcp(mesh: &Mesh, proxy: Option<&Proxy>) -> Result<TcpStream, Error> {
    let (host, port) = proxy.map_or((mesh.host.as_str(), mesh.port), Proxy::address);
    let failed = |why: String| Error::Unreachable {
        what: match proxy {
            Some(proxy) => format!("the proxy {}", proxy.name()),
            None => mesh.url(),
        },
        why,
    };
    let mut stream = match timeout(STEP, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(failed(format!("no answer within {} s", STEP.as_secs()))),
    };
    // Whoever cannot have small packets at once has them later.
    let _ = stream.set_nodelay(true);
    if let Some(proxy) = proxy {
        proxy.tunnel(&mut stream, &mesh.host, mesh.port).await?;
    }
    Ok(stream)
}

/// One line, byte by byte, so that nothing of what follows is taken.
async fn line(stream: &mut TlsStream<TcpStream>) -> io::Result<String> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => break,
            byte if line.len() < LINE => line.push(byte),
            _ => return Err(io::Error::other("the door's line has no end")),
        }
    }
    String::from_utf8(line).map_err(io::Error::other)
}

fn door_config(papers: &Papers, seen: Seen) -> Result<ClientConfig, Error> {
    let internal = |error: rustls::Error| Error::Internal {
        what: "the connection to the door",
        why: error.to_string(),
    };
    let unreadable = |_| internal(rustls::Error::General("a PEM cannot be read".to_owned()));
    let chain: Vec<_> = CertificateDer::pem_slice_iter(papers.identity.chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    let key = PrivateKeyDer::from_pem_slice(papers.identity.key.expose().as_bytes()).map_err(unreadable)?;
    let mut config = pinned(papers.pins.clone(), seen)?
        .with_client_auth_cert(chain, key)
        .map_err(internal)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// TLS 1.3 to whoever holds a pinned key.
pub(super) fn pinned(
    pins: Pins,
    seen: Seen,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, Error> {
    let provider = Arc::new(provider::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| Error::Internal {
            what: "TLS",
            why: error.to_string(),
        })?;
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned {
            pins,
            seen,
            algorithms,
        })))
}

/// What went wrong with a connection, in words that lead somewhere.
fn broken(error: &io::Error) -> String {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::AlertReceived(
            alert @ (AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::AccessDenied),
        )) => format!("it does not take this agent's certificate ({alert:?})"),
        Some(rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)) => {
            "it does not speak TLS 1.3".to_owned()
        }
        Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
            "it does not know the protocol of agents: a proxy or balancer that ends TLS is on the way, or no mesh is there"
                .to_owned()
        }
        Some(other) => other.to_string(),
        None if error.kind() == io::ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::Mesh;

    #[test]
    fn a_mesh_is_a_host_and_a_port() {
        let read = |text| {
            Mesh::parse(text)
                .map(|mesh| (mesh.host.clone(), mesh.port, mesh.url()))
                .ok()
        };
        let host = |host: &str, port, url: &str| Some((host.to_owned(), port, url.to_owned()));
        assert_eq!(
            read("https://mesh.example.com/"),
            host("mesh.example.com", 443, "https://mesh.example.com:443")
        );
        assert_eq!(
            read("https://[::1]:8443"),
            host("::1", 8443, "https://[::1]:8443")
        );
        for wrong in [
            "mesh.example.com",
            "http://mesh.example.com",
            "https://",
            "https://user@mesh.example.com",
            "https://mesh.example.com/v1",
            "https://mesh.example.com?x",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
