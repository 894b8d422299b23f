//! The way out through a real CONNECT proxy.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use ingest_agent::agent::{Error, Mode, enrol};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

use crate::{
    enrolling::wanted,
    links::{hurried, start},
    stand::Stand,
};

/// A proxy that lets `user` with the password `pass:word` through.
struct Proxy {
    address: SocketAddr,
    tunnels: Arc<AtomicUsize>,
    targets: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let proxy = Self {
            address: listener.local_addr().expect("an address"),
            tunnels: Arc::default(),
            targets: Arc::default(),
        };
        let (tunnels, targets) = (proxy.tunnels.clone(), proxy.targets.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, tunnels.clone(), targets.clone()));
            }
        });
        proxy
    }
}

async fn serve(mut stream: TcpStream, tunnels: Arc<AtomicUsize>, targets: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else {
            return;
        };
        head.push(byte);
    }
    let head = String::from_utf8(head).expect("text");
    let target = head
        .strip_prefix("CONNECT ")
        .and_then(|rest| rest.split(' ').next())
        .expect("a CONNECT")
        .to_owned();
    targets.lock().expect("no panic").push(target.clone());
    // user:pass:word
    if !head.contains("Proxy-Authorization: Basic dXNlcjpwYXNzOndvcmQ=\r\n") {
        let _ = stream
            .write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n")
            .await;
        return;
    }
    let mut upstream = TcpStream::connect(&target).await.expect("the target");
    tunnels.fetch_add(1, Ordering::SeqCst);
    let _ = stream
        .write_all(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
        .await;
    let _ = copy_bidirectional(&mut stream, &mut upstream).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_goes_through_the_proxy() {
    let (stand, proxy) = (Stand::start().await, Proxy::start().await);
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("http://user:pass%3Aword@{}", proxy.address);
    let mut enrolment = wanted(&stand, folder.path());
    enrolment.proxy = Some(url.clone());
    enrol(&enrolment).await.expect("enrolled");
    assert_eq!(proxy.tunnels.load(Ordering::SeqCst), 1);
    let running = start(folder, Mode::Hosted, hurried(), &url);
    stand.wait_for_open(1);
    running.end().await;
    assert_eq!(
        proxy.tunnels.load(Ordering::SeqCst),
        stand.seen.accepted.load(Ordering::SeqCst),
        "no connection went around it"
    );
    let targets = proxy.targets.lock().expect("no panic");
    assert!(targets.iter().all(|target| *target == stand.address.to_string()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_refuses_is_named_without_its_password() {
    let (stand, proxy) = (Stand::start().await, Proxy::start().await);
    let folder = tempfile::tempdir().expect("a folder");
    let mut enrolment = wanted(&stand, folder.path());
    enrolment.proxy = Some(format!("http://user:hunter2@{}", proxy.address));
    let Err(error) = enrol(&enrolment).await else {
        panic!("enrolled")
    };
    let told = format!("{error} {error:?}");
    assert!(matches!(error, Error::Unreachable { .. }), "{told}");
    assert!(
        told.contains("it wants a user and a password") && !told.contains("hunter2"),
        "{told}"
    );
    assert_eq!(stand.seen.accepted.load(Ordering::SeqCst), 0);
}
