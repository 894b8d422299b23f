//! Connections to the gateway: TCP, perhaps through a proxy, then TLS, then HTTP/2.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};
use types::{Code, chain};
use url::Url;

use crate::{
    agent::{self, way_out},
    error::Error,
};

/// A gateway that has not answered the handshakes by then is not there.
const CONNECT: Duration = Duration::from_secs(10);
/// How often the connection is asked whether it lives, and how long it may take to say so.
const PING: Duration = Duration::from_secs(20);
const PONG: Duration = Duration::from_secs(20);
/// Bytes that a stream may have on its way before we have read them.
const WINDOW_BYTES: u32 = 4 << 20;
/// HTTP/2, and nothing else: gRPC needs it.
const ALPN: &[u8] = b"h2";

/// What a URL of a mesh says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Host name or address, an IPv6 one without its brackets.
    pub(crate) host: String,
    /// Port.
    pub(crate) port: u16,
    /// `https://host` or `https://host:port`.
    pub(crate) url: String,
}

impl Place {
    /// Reads a URL; nothing but `https://host:port/` will do.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let wrong = |why: &str| {
            Err(Error::new(Code::Invalid, "--mesh", why)
                .hint("write the gateway's address, as in --mesh https://mesh.example.com"))
        };
        let Ok(url) = Url::parse(text) else {
            return wrong("it is not a URL");
        };
        if url.scheme() != "https" {
            return wrong("it does not begin with https://: credentials and rows go over TLS only");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return wrong("it holds a user or a password");
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return wrong("it has more than a host and a port");
        }
        let Some(host) = url.host_str() else {
            return wrong("it names no host");
        };
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port_or_known_default().unwrap_or(443),
            url: url.as_str().trim_end_matches('/').to_owned(),
        })
    }
}

/// The authorities whose word counts: those of `ca`, or those of this machine.
pub(crate) fn roots(ca: Option<&Path>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    let Some(file) = ca else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(Error::new(
                Code::Refused,
                "TLS",
                "this machine has no list of authorities to trust",
            )
            .hint("install ca-certificates, or give the mesh's authority with --ca FILE"));
        }
        return Ok(roots);
    };
    let wrong =
        |why: &str| Error::new(Code::Invalid, file.display(), why).hint("--ca takes certificates in PEM");
    let certificates =
        CertificateDer::pem_file_iter(file).map_err(|error| wrong(&format!("it cannot be read: {error}")))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| wrong(&format!("it cannot be read: {error}")))?;
        roots
            .add(certificate)
            .map_err(|error| wrong(&format!("it has a certificate that is no authority: {error}")))?;
    }
    if roots.is_empty() {
        return Err(wrong("it has no certificate"));
    }
    Ok(roots)
}

/// TLS that trusts `ca`, or what this machine trusts.
pub(crate) fn tls(ca: Option<&Path>) -> Result<Arc<ClientConfig>, Error> {
    let versions = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(Code::Internal, "TLS", error))?;
    let mut config = versions.with_root_certificates(roots(ca)?).with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// Why the last attempt to connect failed, kept because a channel tells its users less.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trouble(Arc<Mutex<Option<String>>>);

impl Trouble {
    fn set(&self, why: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// What it was.
    pub(crate) fn last(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A channel to the gateway, connected; it connects again by itself.
pub(crate) async fn channel(place: &Place, tls: Arc<ClientConfig>) -> Result<(Channel, Trouble), Error> {
    let unusable = |error: tonic::transport::Error| Error::new(Code::Invalid, "--mesh", chain(&error));
    // TLS is ours, so that the endpoint must not think of it; requests say where they go all the same.
    let endpoint = Endpoint::from_shared(place.url.replacen("https://", "http://", 1))
        .and_then(|endpoint| endpoint.user_agent(concat!("trail/", env!("CARGO_PKG_VERSION"))))
        .map_err(unusable)?
        .origin(
            place
                .url
                .parse()
                .map_err(|error| Error::new(Code::Invalid, "--mesh", error))?,
        )
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .keep_alive_while_idle(false)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES * 2);
    let trouble = Trouble::default();
    let (told, to) = (trouble.clone(), place.clone());
    let connector = tower::service_fn(move |_: http::Uri| {
        let (told, to, tls) = (told.clone(), to.clone(), Arc::clone(&tls));
        async move {
            let stream = dial(&to, tls).await;
            told.set(stream.as_ref().err().map(ToString::to_string));
            stream.map(TokioIo::new)
        }
    });
    match endpoint.connect_with_connector(connector).await {
        Ok(channel) => Ok((channel, trouble)),
        Err(error) => {
            let why = trouble.last().unwrap_or_else(|| chain(&error));
            Err(unreachable(place, &why))
        }
    }
}

/// The mesh cannot be reached.
pub(crate) fn unreachable(place: &Place, why: &str) -> Error {
    let error = Error::new(Code::Unavailable, format!("the mesh at {}", place.url), why);
    if why.contains("certificate") {
        error.hint("if the mesh has an authority of its own, name its certificate with --ca FILE")
    } else {
        error.hint("check --mesh, the network and HTTPS_PROXY")
    }
}

async fn dial(place: &Place, tls: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(place.host.clone()).map_err(io::Error::other)?;
    let connecting = async {
        let stream = way_out(&place.host, place.port)
            .await
            .map_err(|error| match error {
                // Whom we wanted to reach is told anyway.
                agent::Error::Unreachable { what, why } if what == place.url => io::Error::other(why),
                error => io::Error::other(chain(&error)),
            })?;
        TlsConnector::from(tls).connect(name, stream).await
    };
    let stream = match timeout(CONNECT, connecting).await {
        Ok(stream) => stream?,
        Err(_) => {
            let why = format!("no answer within {} s", CONNECT.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
    };
    if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
        return Err(io::Error::other("whoever answers there does not speak HTTP/2"));
    }
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::Place;

    #[test]
    fn a_mesh_is_an_https_address_and_nothing_else() {
        let place = Place::parse("https://mesh.example.com/").expect("a place");
        assert_eq!((place.host.as_str(), place.port), ("mesh.example.com", 443));
        assert_eq!(place.url, "https://mesh.example.com");
        let place = Place::parse("https://[::1]:8443").expect("a place");
        assert_eq!((place.host.as_str(), place.port), ("::1", 8443));
        for text in [
            "mesh.example.com",
            "http://mesh.example.com",
            "https://me:secret@mesh.example.com",
            "https://mesh.example.com/v1",
            "https://",
        ] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }
}
