//! gRPC passed through under the same chain.
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::Method;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tonic::Code;

use crate::{
    client::{frame, full, messages, request},
    echo::{WORDS, json_of, message},
    house::House,
};

const ECHO: &str = "/trailmesh.echo.v1.EchoService/Echo";
const COUNT: &str = "/trailmesh.echo.v1.EchoService/Count";
const CHAT: &str = "/trailmesh.echo.v1.EchoService/Chat";

#[tokio::test]
async fn a_unary_call_passes_byte_for_byte() {
    let house = House::start().await;
    let client = house.h2().await;
    let kinds = r#"{"kinds":{"stringValue":"hello","bytesValue":"AAEC"}}"#;
    let headers = [
        ("x-user-id", "canary"),
        ("grpc-tags-bin", "Y2FuYXJ5"),
        ("user-agent", "grpc-test/1"),
    ];
    let answer = client.grpc(ECHO, &headers, &message("EchoRequest", kinds)).await;
    assert_eq!(
        (answer.status.as_u16(), answer.grpc_status()),
        (200, Some(0)),
        "{answer:?}"
    );
    assert_eq!(answer.header("content-type"), "application/grpc");
    assert!(answer.header("x-request-id").starts_with("req_"));
    for headers in [&answer.headers, &answer.trailers] {
        assert!(!headers.contains_key("x-internal"), "{headers:?}");
    }
    let json = json_of("EchoResponse", &messages(&answer.body)[0]);
    assert_eq!(json["kinds"]["bytesValue"], "AAEC");
    assert_eq!(json["metadata"]["trailmesh-user-agent"], "grpc-test/1");
    assert!(!json["metadata"].to_string().to_lowercase().contains("canary"));
    // Larger than any buffer on the way.
    let large = format!(r#"{{"kinds":{{"stringValue":"{}"}}}}"#, "x".repeat(3_000_000));
    let answer = client.grpc(ECHO, &[], &message("EchoRequest", &large)).await;
    assert_eq!(answer.grpc_status(), Some(0));
    assert!(answer.body.len() > 3_000_000);
}

#[tokio::test]
async fn what_is_not_offered_is_unimplemented() {
    let house = House::start().await;
    let client = house.h2().await;
    for path in [
        "/trailmesh.echo.v1.EchoService/Nothing",
        "/trailmesh.echo.v1.EchoService/Inside",
        "/trailmesh.auth.v1.GuardService/Authenticate",
        "/trailmesh.auth.v1.GuardService/ConsumeStepUp",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/v1/echo",
        "/",
    ] {
        let answer = client.grpc(path, &[], b"").await;
        assert_eq!(
            (answer.status.as_u16(), answer.grpc_status()),
            (200, Some(12)),
            "{path}"
        );
    }
}

#[tokio::test]
async fn each_code_passes_unary_first_and_in_the_middle() {
    let house = House::start().await;
    let client = house.h2().await;
    for code in 1..=16 {
        let ours = matches!(Code::from(code), Code::Internal | Code::Unknown | Code::DataLoss);
        let unary = client
            .grpc(
                ECHO,
                &[],
                &message("EchoRequest", &format!(r#"{{"failWith":{code}}}"#)),
            )
            .await;
        let first = client
            .grpc(
                COUNT,
                &[],
                &message("CountRequest", &format!(r#"{{"failWith":{code}}}"#)),
            )
            .await;
        let middle = client
            .grpc(
                COUNT,
                &[],
                &message("CountRequest", &format!(r#"{{"to":3,"failWith":{code}}}"#)),
            )
            .await;
        assert_eq!(messages(&middle.body).len(), 3);
        for answer in [&unary, &first, &middle] {
            assert_eq!(answer.grpc_status(), Some(code), "{answer:?}");
            let headers = if answer.trailers.is_empty() {
                &answer.headers
            } else {
                &answer.trailers
            };
            let words = headers["grpc-message"]
                .to_str()
                .expect("text")
                .replace("%20", " ");
            assert_eq!(words == WORDS, !ours, "{words}");
            assert!(!ours || words.contains(answer.header("x-request-id")));
            assert_eq!(headers.contains_key("grpc-status-details-bin"), !ours);
        }
    }
}

#[tokio::test]
async fn both_sides_of_a_conversation_speak_in_turn() {
    let house = House::start().await;
    let client = house.h2().await;
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    let frames = stream::unfold(receiver, |mut receiver| async {
        let bytes = receiver.recv().await?;
        Some((Ok::<_, std::io::Error>(Frame::data(bytes)), receiver))
    });
    let body = StreamBody::new(frames.boxed()).boxed_unsync();
    let body = http_body_util::combinators::BoxBody::new(SyncBody(std::sync::Mutex::new(body)));
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    let answer = client
        .open(request(Method::POST, CHAT, &headers, body))
        .await
        .expect("an answer");
    let mut answer = answer.into_body();
    for turn in 0..5 {
        let said = frame(&message("ChatRequest", &format!(r#"{{"text":"turn {turn}"}}"#)));
        sender.send(said.clone().into()).await.expect("a listener");
        let heard = answer
            .frame()
            .await
            .expect("a frame")
            .expect("no error")
            .into_data()
            .expect("data");
        assert_eq!(heard[..], said[..]);
    }
    drop(sender);
    let end = answer
        .frame()
        .await
        .expect("a frame")
        .expect("no error")
        .into_trailers()
        .expect("trailers");
    assert_eq!(end["grpc-status"], "0");
}

/// `BoxBody` wants `Sync`, which a locked body is.
struct SyncBody(std::sync::Mutex<http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>>);

impl http_body::Body for SyncBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let body = self.get_mut().0.get_mut().expect("no panic");
        std::pin::Pin::new(body).poll_frame(cx)
    }
}

#[tokio::test]
async fn a_deadline_ends_a_call_on_time_in_both_protocols() {
    let house = House::start().await;
    let client = house.h2().await;
    let began = Instant::now();
    let slow = message("EchoRequest", r#"{"wait":"30s"}"#);
    let answer = client.grpc(ECHO, &[("grpc-timeout", "300m")], &slow).await;
    assert_eq!(answer.grpc_status(), Some(4), "{answer:?}");
    let answer = client.get("/v1/echo?wait=30s", &[("grpc-timeout", "300m")]).await;
    assert_eq!(
        (answer.status.as_u16(), answer.json()["error"]["status"].as_str()),
        (504, Some("DEADLINE_EXCEEDED"))
    );
    // A stream that has begun, for which there is time on any machine.
    let slow = message("CountRequest", r#"{"to":1000,"every":"0.1s"}"#);
    let answer = client.grpc(COUNT, &[("grpc-timeout", "3S")], &slow).await;
    assert_eq!(answer.grpc_status(), Some(4));
    assert!(!messages(&answer.body).is_empty());
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn frames_that_are_none_and_compression_are_refused() {
    let house = House::start().await;
    let client = house.h2().await;
    let bearer = house.guard.person(types::Role::Owner);
    let privately = "/trailmesh.echo.v1.EchoService/EchoPrivately";
    let send = async |path: &str, headers: &[(&str, &str)], body: Vec<u8>| {
        let mut all = vec![
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("authorization", &bearer),
        ];
        all.extend_from_slice(headers);
        client
            .send(request(Method::POST, path, &all, full(body)))
            .await
            .expect("an answer")
    };
    assert_eq!(
        send(ECHO, &[("grpc-encoding", "gzip")], frame(b""))
            .await
            .grpc_status(),
        Some(12)
    );
    assert_eq!(
        send(ECHO, &[("grpc-encoding", "identity")], frame(b""))
            .await
            .grpc_status(),
        Some(0)
    );
    for broken in [
        vec![],
        vec![0, 0],
        vec![0, 0, 0, 0, 9, 1],
        vec![1, 0, 0, 0, 0],
        [frame(b""), frame(b"")].concat(),
    ] {
        for path in [privately, ECHO, "/trailmesh.echo.v1.EchoService/Count"] {
            let answer = send(path, &[], broken.clone()).await;
            assert_eq!(answer.grpc_status(), Some(3), "{path} {broken:?} {answer:?}");
        }
    }
    let answer = send(privately, &[], vec![0; 2 << 20]).await;
    assert_eq!(answer.grpc_status(), Some(3));
    let get = client
        .send(request(
            Method::GET,
            ECHO,
            &[("content-type", "application/grpc")],
            full(""),
        ))
        .await;
    assert_ne!(get.expect("an answer").grpc_status(), Some(0));
}

#[tokio::test]
async fn health_is_answered_at_the_edge() {
    let house = House::start().await;
    let client = house.h2().await;
    let answer = client.grpc("/grpc.health.v1.Health/Check", &[], b"").await;
    assert_eq!(answer.grpc_status(), Some(0), "{answer:?}");
    assert_eq!(messages(&answer.body), [vec![8, 1]], "SERVING");
}
