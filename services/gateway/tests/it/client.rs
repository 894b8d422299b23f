//! A client that can do what well-behaved clients cannot.
use std::{net::SocketAddr, path::Path, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// TLS to the gateway, for bytes of one's own.
pub(crate) async fn tls(
    address: SocketAddr,
    bundle: &Path,
    alpn: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    let pem = std::fs::read(bundle).expect("a bundle");
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots
            .add(certificate.expect("a certificate"))
            .expect("an authority");
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

enum Sender {
    H1(http1::SendRequest<Body>),
    H2(http2::SendRequest<Body>),
}

/// One connection.
pub(crate) struct Client {
    sender: tokio::sync::Mutex<Sender>,
}

/// An answer, complete.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The reason of an error.
    pub(crate) fn reason(&self) -> String {
        let json = self.json();
        let details = json["error"]["details"].as_array().cloned().unwrap_or_default();
        let reasons = details.iter().filter_map(|detail| detail["reason"].as_str());
        reasons.map(str::to_owned).next().unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap_or("?"))
    }

    /// From trailers, or from the head when there is nothing else.
    pub(crate) fn grpc_status(&self) -> Option<i32> {
        let value = self
            .trailers
            .get("grpc-status")
            .or_else(|| self.headers.get("grpc-status"))?;
        value.to_str().ok()?.parse().ok()
    }
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr, bundle: &Path, alpn: &str) -> Self {
        let stream = TokioIo::new(tls(address, bundle, alpn).await.expect("TLS"));
        let sender = if alpn == "h2" {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), stream)
                .await
                .expect("HTTP/2");
            tokio::spawn(connection);
            Sender::H2(sender)
        } else {
            let (sender, connection) = http1::handshake(stream).await.expect("HTTP/1.1");
            tokio::spawn(connection);
            Sender::H1(sender)
        };
        Self {
            sender: tokio::sync::Mutex::new(sender),
        }
    }

    /// HTTP/2 with so small a window for each answer.
    pub(crate) async fn narrow(address: SocketAddr, bundle: &Path, window: u32) -> Self {
        let stream = TokioIo::new(tls(address, bundle, "h2").await.expect("TLS"));
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .handshake(stream)
            .await
            .expect("HTTP/2");
        tokio::spawn(connection);
        Self {
            sender: tokio::sync::Mutex::new(Sender::H2(sender)),
        }
    }

    /// Sends a request and gives the answer's head.
    pub(crate) async fn open(&self, mut request: Request<Body>) -> Result<Response<Incoming>, hyper::Error> {
        let sending = {
            let mut sender = self.sender.lock().await;
            match &mut *sender {
                Sender::H1(sender) => {
                    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
                    *request.uri_mut() = path.parse().expect("a path");
                    request
                        .headers_mut()
                        .entry("host")
                        .or_insert("localhost".parse().expect("a host"));
                    sender.ready().await?;
                    futures_util::future::Either::Left(sender.send_request(request))
                }
                Sender::H2(sender) => {
                    sender.ready().await?;
                    futures_util::future::Either::Right(sender.send_request(request))
                }
            }
        };
        sending.await
    }

    /// Sends a request and reads the answer to its end.
    pub(crate) async fn send(&self, request: Request<Body>) -> Result<Answer, hyper::Error> {
        let (parts, body) = self.open(request).await?.into_parts();
        let collected = body.collect().await?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body: collected.to_bytes(),
            trailers,
        })
    }

    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(request(Method::GET, path, headers, full("")))
            .await
            .expect("an answer")
    }

    pub(crate) async fn post(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        self.send(request(Method::POST, path, &all, full(body)))
            .await
            .expect("an answer")
    }

    /// A unary gRPC call with this message.
    pub(crate) async fn grpc(&self, path: &str, headers: &[(&str, &str)], message: &[u8]) -> Answer {
        let mut all = vec![("content-type", "application/grpc"), ("te", "trailers")];
        all.extend_from_slice(headers);
        self.send(request(Method::POST, path, &all, full(frame(message))))
            .await
            .expect("an answer")
    }
}

pub(crate) fn request(method: Method, path: &str, headers: &[(&str, &str)], body: Body) -> Request<Body> {
    let mut request = Request::builder()
        .method(method)
        .uri(format!("https://localhost{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body).expect("a request")
}

/// A gRPC message with its prefix.
pub(crate) fn frame(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).expect("a length").to_be_bytes());
    frame.extend_from_slice(message);
    frame
}

/// The messages in a gRPC body.
pub(crate) fn messages(mut body: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let [0, a, b, c, d, rest @ ..] = body {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        messages.push(rest[..length].to_vec());
        body = &rest[length..];
    }
    assert!(body.is_empty(), "{body:?}");
    messages
}
