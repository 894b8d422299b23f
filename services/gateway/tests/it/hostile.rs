//! Bytes that no honest client sends.
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use http::Method;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    client::{full, request, tls},
    house::House,
};

/// Sends these bytes over TLS and HTTP/1.1, and gives what comes back until the gateway closes or nothing more comes.
async fn raw(house: &House, bytes: &[u8]) -> String {
    let mut stream = tls(house.address, &house.bundle(), "http/1.1")
        .await
        .expect("TLS");
    stream.write_all(bytes).await.expect("sent");
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(8), reading).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> u16 {
    answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0)
}

#[tokio::test]
async fn heads_that_two_readers_could_read_differently_are_refused() {
    let house = House::start().await;
    let body = "{}";
    let post = |head: &str| {
        format!(
            "POST /v1/echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\n{head}\r\n{body}"
        )
    };
    for head in [
        "content-length: 2\r\ncontent-length: 3\r\n",
        "content-length: 2, 2\r\n",
        "content-length: +2\r\n",
        "content-length: -1\r\n",
        "content-length: 2\r\nhost: b\r\n",
        "content-length: 2\r\nauthorization: Bearer a.b.c\r\nauthorization: Bearer d.e.f\r\n",
        "content-length: 2\r\nx-mfa-code: 111111\r\nx-mfa-code: 222222\r\n",
        "content-length: 2\r\nx-trailmesh-tenant: a\r\nx-trailmesh-tenant: b\r\n",
        "content-length: 2\r\ngrpc-timeout: 1S\r\ngrpc-timeout: 2S\r\n",
        "content-length: 2\r\ngrpc-timeout: soon\r\n",
        "content-length: 2\r\nx-a : b\r\n",
        "content-length: 2\r\nx\x01: b\r\n",
        "content-length: 2\r\nx-a: b\x00c\r\n",
        "content-length: 2\r\n folded: b\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        "transfer-encoding: gzip\r\n",
        "transfer-encoding: xchunked\r\n",
    ] {
        let answer = raw(&house, post(head).as_bytes()).await;
        assert_eq!(status(&answer), 400, "{head:?}: {answer}");
    }
    // Both lengths: the chunks are believed (RFC 9112, §6.3) and the connection is over, so that nothing can be smuggled behind it.
    let smuggled = "POST /v1/echo HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 7\r\ntransfer-encoding: chunked\r\n\r\n\
                    2\r\n{}\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    let answer = raw(&house, smuggled.as_bytes()).await;
    assert!(
        !answer.contains("ROUTE_NOT_FOUND") && answer.matches("HTTP/1.1 ").count() <= 1,
        "{answer}"
    );
    for request in [
        "GET /v1/echo HTTP/1.1\r\n\r\n",
        "GET  /v1/echo HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /v1/echo HTTP/9.9\r\nhost: a\r\n\r\n",
        "G\x7fT /v1/echo HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /v1/ec\nho HTTP/1.1\r\nhost: a\r\n\r\n",
        "\x16\x03\x01\x00\x00",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let answer = raw(&house, request.as_bytes()).await;
        assert!(matches!(status(&answer), 0 | 400), "{request:?}: {answer}");
    }
    assert_eq!(house.h1().await.get("/v1/echo", &[]).await.status, 200);
}

#[tokio::test]
async fn heads_that_are_too_large_or_too_many_are_refused() {
    let house = House::start().await;
    let get =
        |path: &str, head: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{head}\r\n");
    let long = "x".repeat(9_000);
    assert_eq!(
        status(
            &raw(
                &house,
                get(&format!("/v1/echo?kinds.stringValue={long}"), "").as_bytes()
            )
            .await
        ),
        414
    );
    let large = format!("x-large: {}\r\n", "x".repeat(17_000));
    assert_eq!(
        status(&raw(&house, get("/v1/echo", &large).as_bytes()).await),
        431
    );
    let many: String = (0..120).map(|number| format!("x-{number}: 1\r\n")).collect();
    assert_eq!(status(&raw(&house, get("/v1/echo", &many).as_bytes()).await), 431);
    let endless = format!("x-endless: {}\r\n", "x".repeat(200_000));
    assert!(matches!(
        status(&raw(&house, get("/v1/echo", &endless).as_bytes()).await),
        431 | 0
    ));
    // HTTP/2: the stream is refused or reset, and the connection goes on.
    let client = house.h2().await;
    let value = "x".repeat(17_000);
    let sent = client
        .send(request(Method::GET, "/v1/echo", &[("x-large", &value)], full("")))
        .await;
    assert!(sent.map_or(true, |answer| answer.status == 431));
    let sent = client
        .send(request(
            Method::GET,
            "/v1/echo",
            &[("host", "a"), ("host", "b")],
            full(""),
        ))
        .await;
    assert!(sent.map_or(true, |answer| answer.status == 400));
    assert_eq!(client.get("/v1/echo", &[]).await.status, 200);
}

#[tokio::test]
async fn a_head_that_does_not_come_is_not_waited_for() {
    let house = House::start().await;
    let began = Instant::now();
    let mut slow = tls(house.address, &house.bundle(), "http/1.1")
        .await
        .expect("TLS");
    slow.write_all(b"GET /v1/echo HTTP/1.1\r\nhost: a\r\nx-slow: ")
        .await
        .expect("sent");
    let dripping = async {
        for _ in 0..60 {
            if slow.write_all(b"x").await.is_err() || slow.flush().await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        let mut rest = Vec::new();
        let _ = slow.read_to_end(&mut rest).await;
    };
    let silent = async {
        let mut stream = TcpStream::connect(house.address).await.expect("a connection");
        let _ = stream.read_to_end(&mut Vec::new()).await;
        began.elapsed()
    };
    let quiet = async {
        let mut stream = tls(house.address, &house.bundle(), "h2").await.expect("TLS");
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .await
            .expect("sent");
        let _ = stream.read_to_end(&mut Vec::new()).await;
        began.elapsed()
    };
    let ((), silent, quiet) = tokio::join!(dripping, silent, quiet);
    assert!(silent < Duration::from_secs(9), "{silent:?} before TLS");
    assert!(quiet < Duration::from_secs(14), "{quiet:?} without a request");
    assert!(began.elapsed() < Duration::from_secs(18), "{:?}", began.elapsed());
}

#[tokio::test]
async fn bodies_that_are_large_cut_off_or_dripping_are_refused() {
    let house = House::start().await;
    for client in [house.h2().await, house.h1().await] {
        let json = format!("{{\"kinds\":{{\"stringValue\":\"{}\"}}}}", "x".repeat(2 << 20));
        let sent = client
            .send(request(
                Method::POST,
                "/v1/echo",
                &[("content-type", "application/json")],
                full(json),
            ))
            .await;
        // HTTP/1.1 may see the connection end while it still sends.
        assert!(
            sent.as_ref().map_or(true, |answer| answer.status == 413),
            "{sent:?}"
        );
    }
    let announced = "POST /v1/echo HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 99999999999\r\n\r\n";
    assert_eq!(status(&raw(&house, announced.as_bytes()).await), 413);
    let cut = "POST /v1/echo HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"kinds\"";
    let mut stream = tls(house.address, &house.bundle(), "http/1.1")
        .await
        .expect("TLS");
    stream.write_all(cut.as_bytes()).await.expect("sent");
    stream.shutdown().await.expect("closed");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(matches!(status(&String::from_utf8_lossy(&answer)), 0 | 400));
    let frames = stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        Some((Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b" "))), ()))
    });
    let boxed = Box::pin(frames) as std::pin::Pin<Box<dyn futures_util::Stream<Item = _> + Send + Sync>>;
    let began = Instant::now();
    let dripping = request(
        Method::POST,
        "/v1/echo",
        &[("content-type", "application/json")],
        BodyExt::boxed(StreamBody::new(boxed)),
    );
    let answer = house.h2().await.send(dripping).await.expect("an answer");
    assert_eq!(
        (answer.status.as_u16(), answer.reason().as_str()),
        (408, "BODY_TOO_SLOW")
    );
    assert!(began.elapsed() < Duration::from_secs(12));
}

#[tokio::test]
async fn plain_http_on_the_port_is_refused_and_not_sent_elsewhere() {
    let house = House::start().await;
    let mut stream = TcpStream::connect(house.address).await.expect("a connection");
    stream
        .write_all(b"GET /v1/echo HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .expect("sent");
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(8), stream.read_to_end(&mut answer))
        .await
        .expect("closed");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(
        !answer.contains("HTTP/") && !answer.to_lowercase().contains("location"),
        "{answer:?}"
    );
}

/// CVE-2023-44487: streams opened and reset as fast as they can be written.
#[tokio::test]
async fn a_flood_of_resets_ends_its_connection_and_disturbs_no_other() {
    let house = House::start().await;
    let mut flood = tls(house.address, &house.bundle(), "h2").await.expect("TLS");
    flood
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .expect("sent");
    let other = house.h2().await;
    // :method GET, :scheme https, :path /, :authority a
    let head = [0x82, 0x87, 0x84, 0x41, 0x01, b'a'];
    let flooding = async {
        let mut bytes = Vec::new();
        for number in 0..20_000_u32 {
            let stream = (2 * number + 1).to_be_bytes();
            bytes.extend_from_slice(&[0, 0, 6, 1, 5]);
            bytes.extend_from_slice(&stream);
            bytes.extend_from_slice(&head);
            bytes.extend_from_slice(&[0, 0, 4, 3, 0]);
            bytes.extend_from_slice(&stream);
            bytes.extend_from_slice(&[0, 0, 0, 8]);
        }
        let mut ended = false;
        for chunk in bytes.chunks(64 * 1024) {
            if flood.write_all(chunk).await.is_err() {
                ended = true;
                break;
            }
        }
        let mut rest = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), flood.read_to_end(&mut rest)).await;
        // GOAWAY with ENHANCE_YOUR_CALM (11), or the connection is simply gone.
        ended || read.is_ok()
    };
    let served = async {
        for _ in 0..50 {
            assert_eq!(other.get("/v1/echo", &[]).await.status, 200);
        }
    };
    let (ended, ()) = tokio::join!(flooding, served);
    assert!(ended, "the flood is still connected");
}
