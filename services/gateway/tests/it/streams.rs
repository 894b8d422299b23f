//! Streams over HTTP: answers line by line or as events, and uploads.
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::Method;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};

use crate::{
    client::{Answer, Client, full, request},
    echo::WORDS,
    house::House,
};

fn lines(answer: &Answer) -> Vec<serde_json::Value> {
    let text = str::from_utf8(&answer.body).expect("text");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

#[tokio::test]
async fn a_stream_is_lines_and_the_last_one_says_that_it_is_complete() {
    let house = House::start().await;
    let client = house.h1().await;
    let answer = client.get("/v1/count/3", &[]).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("content-type")),
        (200, "application/x-ndjson")
    );
    assert_eq!(answer.header("x-accel-buffering"), "no");
    let lines = lines(&answer);
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[2]["result"]["number"], 3);
    assert_eq!(lines[3]["done"], true);
    let empty = client.get("/v1/count/0", &[]).await;
    assert_eq!(empty.body[..], b"{\"done\":true}\n"[..]);
}

#[tokio::test]
async fn events_come_as_they_happen_and_end_with_a_typed_one() {
    let house = House::start().await;
    let client = house.h2().await;
    let headers = [("accept", "text/event-stream")];
    let answer = client
        .open(request(Method::GET, "/v1/count/3?every=1s", &headers, full("")))
        .await
        .expect("an answer");
    assert_eq!(
        answer.headers()["content-type"],
        "text/event-stream; charset=utf-8"
    );
    let mut body = answer.into_body();
    let first = body
        .frame()
        .await
        .expect("a frame")
        .expect("no error")
        .into_data()
        .expect("data");
    assert_eq!(
        house.echo.ended.load(Ordering::SeqCst),
        0,
        "the first event waited for the others"
    );
    assert!(
        String::from_utf8_lossy(&first).contains("\"number\":1"),
        "{first:?}"
    );
    let rest = String::from_utf8(body.collect().await.expect("the rest").to_bytes().to_vec()).expect("text");
    assert!(
        rest.contains("\"number\":3") && rest.contains("event: done"),
        "{rest}"
    );
}

#[tokio::test]
async fn an_error_before_the_first_message_is_a_status_and_a_later_one_is_the_last_frame() {
    let house = House::start().await;
    let client = house.h2().await;
    for (code, status) in [
        (3, 400),
        (5, 404),
        (7, 403),
        (8, 429),
        (13, 500),
        (14, 503),
        (16, 401),
    ] {
        for accept in ["application/x-ndjson", "text/event-stream"] {
            let headers = [("accept", accept)];
            let first = client
                .get(&format!("/v1/count/0?failWith={code}"), &headers)
                .await;
            assert_eq!(first.status.as_u16(), status);
            assert_eq!(first.json()["error"]["code"], status);
            let late = client
                .get(&format!("/v1/count/2?failWith={code}"), &headers)
                .await;
            assert_eq!(late.status, 200);
            let text = String::from_utf8_lossy(&late.body).into_owned();
            assert_eq!(text.contains(WORDS), code != 13, "{text}");
            if accept == "text/event-stream" {
                assert!(
                    text.contains("event: error") && !text.contains("event: done"),
                    "{text}"
                );
            } else {
                let lines = lines(&late);
                assert_eq!(lines.len(), 3);
                assert_eq!(lines[2]["error"]["code"], status);
            }
        }
    }
}

#[tokio::test]
async fn a_stream_that_breaks_off_or_takes_too_long_says_so() {
    let house = House::start().await;
    let client = house.h2().await;
    let answer = client
        .get("/v1/count/1000?every=0.1s", &[("grpc-timeout", "500m")])
        .await;
    let said = lines(&answer);
    assert_eq!(
        said.last().expect("a line")["error"]["status"],
        "DEADLINE_EXCEEDED"
    );
    let answer = client
        .open(request(Method::GET, "/v1/count/1000?every=0.1s", &[], full("")))
        .await
        .expect("an answer");
    let mut body = answer.into_body();
    body.frame().await.expect("a frame").expect("no error");
    house.echo_line.cut();
    let rest = body.collect().await.expect("an end").to_bytes();
    let last = rest
        .split(|byte| *byte == b'\n')
        .rfind(|line| !line.is_empty())
        .expect("a line");
    let last: serde_json::Value = serde_json::from_slice(last).expect("JSON");
    assert!(last["error"]["code"].is_u64(), "{last}");
}

#[tokio::test]
async fn a_reader_who_goes_away_ends_the_stream_at_the_service() {
    let house = House::start().await;
    let client = house.h1().await;
    let answer = client
        .open(request(
            Method::GET,
            "/v1/count/100000?every=0.01s",
            &[],
            full(""),
        ))
        .await
        .expect("an answer");
    drop(answer);
    drop(client);
    house.has_in_flight(0).await;
}

fn pieces(count: usize, size: usize, pause: Duration) -> crate::client::Body {
    let frames = stream::iter(0..count).then(move |_| async move {
        tokio::time::sleep(pause).await;
        Ok::<_, std::io::Error>(Frame::data(Bytes::from(vec![7; size])))
    });
    let body = StreamBody::new(
        Box::pin(frames) as std::pin::Pin<Box<dyn futures_util::Stream<Item = _> + Send + Sync>>
    );
    BodyExt::boxed(body)
}

#[tokio::test]
async fn an_upload_goes_through_in_pieces_whatever_its_own_are() {
    let house = House::start().await;
    for version in ["h2", "http/1.1"] {
        let client = Client::connect(house.address, &house.bundle(), version).await;
        for (count, size) in [
            (0, 0),
            (1, 1),
            (1, 65_536),
            (3, 100_000),
            (5_000, 100),
            (40, 500_000),
        ] {
            let upload = request(
                Method::POST,
                "/v1/files/log.bin?header.mediaType=x",
                &[("content-type", "application/octet-stream")],
                pieces(count, size, Duration::ZERO),
            );
            let answer = client
                .send(upload)
                .await
                .unwrap_or_else(|error| panic!("{count} {size}: {error}"));
            assert_eq!(answer.status, 200, "{count} {size} {answer:?}");
            let json = answer.json();
            assert_eq!(json["name"], "log.bin");
            let bytes = json["bytes"].as_str().unwrap_or("0");
            assert_eq!(bytes, (count * size).to_string());
            let chunks = json["chunks"].as_u64().unwrap_or_default();
            assert_eq!(chunks, (count * size).div_ceil(65_536) as u64, "{count} {size}");
        }
    }
}

/// So many pieces of 64 KiB, and how many of them were taken.
fn counted(count: usize) -> (crate::client::Body, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&taken);
    let frames = stream::iter(0..count).map(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(&[7; 65_536])))
    });
    (BodyExt::boxed(StreamBody::new(frames)), taken)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_does_not_read_holds_the_sender_back() {
    const PIECES: usize = 2_048;
    let house = House::start().await;
    for version in ["h2", "http/1.1"] {
        let client = Client::connect(house.address, &house.bundle(), version).await;
        let (body, taken) = counted(PIECES);
        let upload = request(Method::POST, "/v1/files/held", &[], body);
        let answer = tokio::spawn(async move { client.send(upload).await });
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut before = 0;
        let stalled = loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let now = taken.load(Ordering::Relaxed);
            if now > 0 && now == before {
                break now;
            }
            assert!(Instant::now() < deadline, "{version}: the sender never stops");
            before = now;
        };
        // What windows and sockets on the way take of 128 MiB, and nothing beside them.
        assert!(stalled < PIECES / 4, "{version}: {stalled} pieces were taken");
        assert!(!answer.is_finished());
        house.echo.held.add_permits(1);
        let answer = answer.await.expect("no panic").expect("an answer");
        let bytes = (PIECES * 65_536).to_string();
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["bytes"]),
            (200, &bytes.into())
        );
        assert_eq!(taken.load(Ordering::Relaxed), PIECES);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_has_seen_enough_is_heard_before_the_end_of_the_body() {
    let house = House::start().await;
    let client = Client::connect(house.address, &house.bundle(), "h2").await;
    let (body, taken) = counted(100_000);
    let upload = request(Method::POST, "/v1/files/refused", &[], body);
    let answer = tokio::time::timeout(Duration::from_secs(30), client.send(upload)).await;
    let answer = answer.expect("in time").expect("an answer");
    assert_eq!(
        (answer.status.as_u16(), answer.reason().as_str()),
        (400, "ECHO_REFUSED")
    );
    assert!(taken.load(Ordering::Relaxed) < 100_000);
}
