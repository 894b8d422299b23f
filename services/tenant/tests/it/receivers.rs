//! Receivers of the audit log: they speak real TLS, and can be killed at any byte.

use std::{
    convert::Infallible,
    net::TcpListener as StdListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use testkit::Identity;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// What was taken, in the order in which it was.
type Taken<T> = Arc<Mutex<Vec<T>>>;

/// One that listens.
pub(crate) struct Receiver<T> {
    pub(crate) port: u16,
    taken: Taken<T>,
    serving: AbortHandle,
    connections: Arc<AtomicUsize>,
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl<T: Clone> Receiver<T> {
    /// What it has taken so far.
    pub(crate) fn taken(&self) -> Vec<T> {
        self.taken.lock().unwrap().clone()
    }

    /// How many connections were made to it.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A request of a webhook.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    pub(crate) path: String,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

fn acceptor(identity: &Identity) -> TlsAcceptor {
    let chain: Vec<_> = CertificateDer::pem_file_iter(&identity.cert_file)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let key = PrivateKeyDer::from_pem_file(&identity.key_file).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

fn listen(port: u16) -> (TcpListener, u16) {
    let listener = testkit::eventually("the port", || StdListener::bind(("127.0.0.1", port)).ok());
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    (TcpListener::from_std(listener).unwrap(), port)
}

/// Accepts until it is dropped, and all its connections with it.
fn serve<T, F, Fut>(port: u16, taken: Taken<T>, each: F) -> Receiver<T>
where
    F: Fn(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
    T: Send + 'static,
{
    let (listener, port) = listen(port);
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let serving = tokio::spawn(async move {
        let mut open = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            open.spawn(each(stream));
        }
    });
    Receiver {
        port,
        taken,
        serving: serving.abort_handle(),
        connections,
    }
}

/// Takes messages of syslog over TLS. Of each connection it reads at most `patience` messages and is then killed: it closes without a
/// word, whatever is still unread. `port` 0 is any.
pub(crate) fn syslog(
    port: u16,
    identity: &Identity,
    taken: Taken<String>,
    patience: usize,
) -> Receiver<String> {
    let acceptor = acceptor(identity);
    serve(port, taken.clone(), move |stream| {
        let (acceptor, taken) = (acceptor.clone(), taken.clone());
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                return;
            };
            for _ in 0..patience {
                let Some(message) = frame(&mut stream).await else {
                    return;
                };
                taken.lock().unwrap().push(message);
            }
        }
    })
}

/// The next message by its length (RFC 5425); none at the end.
async fn frame(stream: &mut TlsStream<TcpStream>) -> Option<String> {
    let mut length = String::new();
    loop {
        match stream.read_u8().await.ok()? {
            b' ' => break,
            digit => length.push(char::from(digit)),
        }
    }
    let mut message = vec![0; length.parse().expect("a length")];
    stream.read_exact(&mut message).await.ok()?;
    Some(String::from_utf8(message).expect("UTF-8"))
}

/// Takes posts over TLS, and answers each with what `answer` says for its number, counted from 1. No answer is no answer, ever.
pub(crate) fn webhook(
    port: u16,
    identity: &Identity,
    taken: Taken<Post>,
    answer: impl Fn(usize) -> Option<Response<Full<Bytes>>> + Send + Sync + 'static,
) -> Receiver<Post> {
    let acceptor = acceptor(identity);
    let answer = Arc::new(answer);
    let count = Arc::new(AtomicUsize::new(0));
    serve(port, taken.clone(), move |stream| {
        let (acceptor, taken, answer, count) =
            (acceptor.clone(), taken.clone(), answer.clone(), count.clone());
        async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let service = service_fn(move |request: Request<Incoming>| {
                let (taken, answer, count) = (taken.clone(), answer.clone(), count.clone());
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await.unwrap().to_bytes();
                    let said = answer(count.fetch_add(1, Ordering::SeqCst) + 1);
                    let Some(said) = said else {
                        return std::future::pending().await;
                    };
                    if said.status().is_success() {
                        taken.lock().unwrap().push(Post {
                            path: head.uri.to_string(),
                            headers: head.headers,
                            body,
                        });
                    }
                    Ok::<_, Infallible>(said)
                }
            });
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    })
}

/// An answer with nothing in it.
pub(crate) fn status(code: u16) -> Option<Response<Full<Bytes>>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    Some(response)
}

/// Takes connections, and nothing else ever happens.
pub(crate) fn black_hole() -> Receiver<()> {
    serve(0, Taken::default(), |stream| async move {
        let _held = stream;
        std::future::pending::<()>().await;
    })
}
