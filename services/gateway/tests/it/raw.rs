//! Bodies that are no JSON: bytes go through as they are, and a file that is cut off is never taken for whole.
use http::Method;
use http_body_util::BodyExt as _;
use prost::Message as _;

use crate::{
    client::{Client, full, messages, request},
    house::House,
};

fn every_byte() -> Vec<u8> {
    (0..=255).collect()
}

#[tokio::test]
async fn raw_bodies_go_in_and_out_byte_for_byte() {
    let house = House::start().await;
    let bodies: [&[u8]; 7] = [
        b"",
        b"{\"id\": \"evt_1\",\r\n \"x\":  1}\r\n",
        b"\xff\xfe\x00\x80 not utf-8",
        b"\n\n\r\r\0",
        b"  spaces  ",
        b"\xef\xbb\xbfbom",
        &every_byte(),
    ];
    for version in ["h2", "http/1.1"] {
        let client = Client::connect(house.address, &house.bundle(), version).await;
        for body in bodies {
            for kind in [
                "application/octet-stream",
                "application/json",
                "text/plain; charset=latin-1",
            ] {
                let sent = request(
                    Method::POST,
                    "/v1/mirror/a",
                    &[("content-type", kind)],
                    full(body.to_vec()),
                );
                let answer = client.send(sent).await.expect("an answer");
                assert_eq!(answer.status, 200, "{answer:?}");
                assert_eq!(&answer.body[..], body);
                assert_eq!(answer.header("content-type"), kind);
            }
        }
        let untyped = request(Method::POST, "/v1/mirror/a", &[], full("x"));
        let answer = client.send(untyped).await.expect("an answer");
        assert_eq!(answer.header("content-type"), "application/octet-stream");
    }
}

#[tokio::test]
async fn a_raw_body_has_a_limit_and_its_query_names_other_fields_only() {
    let house = House::start().await;
    let client = house.h2().await;
    let send = async |path: &str, body: Vec<u8>| {
        let sent = request(Method::POST, path, &[("content-type", "x/y")], full(body));
        client.send(sent).await.expect("an answer")
    };
    assert_eq!(send("/v1/mirror/a", vec![0; 1024 * 1024]).await.status, 200);
    assert_eq!(send("/v1/mirror/a", vec![0; 1024 * 1024 + 1]).await.status, 413);
    assert_eq!(send("/v1/mirror/a?payload.data=eA", vec![]).await.status, 400);
    assert_eq!(send("/v1/mirror/a?name=b", vec![]).await.status, 400);
}

#[tokio::test]
async fn stripes_event_arrives_as_it_was_signed_and_its_signature_goes_nowhere_else() {
    let house = House::start().await;
    let client = house.h1().await;
    let body = b"{\r\n  \"id\": \"evt_1\", \"amount\": 1.0\r\n}\n";
    let headers = [
        ("content-type", "application/json; charset=utf-8"),
        ("stripe-signature", "t=1,v1=abc"),
    ];
    let sent = request(Method::POST, "/v1/billing/stripe", &headers, full(&body[..]));
    assert_eq!(client.send(sent).await.expect("an answer").status, 200);
    let (event, signature) = house.record.told().events.pop().expect("an event");
    let payload = event.payload.expect("a body");
    assert_eq!((&payload.data[..], signature.as_str()), (&body[..], "t=1,v1=abc"));
    let echoed = client
        .get("/v1/echo", &[("stripe-signature", "t=1,v1=abc")])
        .await;
    assert!(echoed.json()["metadata"].get("stripe-signature").is_none());
    let headers = [("stripe-signature", "a"), ("stripe-signature", "b")];
    let twice = request(Method::POST, "/v1/billing/stripe", &headers, full(""));
    assert_eq!(client.send(twice).await.expect("an answer").status, 400);
}

#[tokio::test]
async fn a_stream_of_raw_bytes_is_a_file() {
    let house = House::start().await;
    for version in ["h2", "http/1.1"] {
        let client = Client::connect(house.address, &house.bundle(), version).await;
        for accept in ["*/*", "application/x-ndjson", "text/event-stream"] {
            let answer = client.get("/v1/fetch/1000", &[("accept", accept)]).await;
            assert_eq!(answer.status, 200);
            assert_eq!(answer.header("content-type"), "application/x-pieces");
            assert_eq!(answer.body, every_byte().repeat(1_000));
        }
        let empty = client.get("/v1/fetch/0", &[]).await;
        assert_eq!((empty.status.as_u16(), empty.body.len()), (200, 0));
    }
}

#[tokio::test]
async fn a_file_that_is_cut_off_is_not_taken_for_whole() {
    let house = House::start().await;
    for version in ["h2", "http/1.1"] {
        let client = Client::connect(house.address, &house.bundle(), version).await;
        // Before the first byte there is room for a status.
        let early = client.get("/v1/fetch/0?failWith=5", &[]).await;
        assert_eq!(
            (early.status.as_u16(), early.reason().as_str()),
            (404, "ASKED_TO_FAIL")
        );
        for code in [5, 13, 14] {
            let client = Client::connect(house.address, &house.bundle(), version).await;
            let path = format!("/v1/fetch/3?failWith={code}");
            // A reset may overtake even the head.
            let Ok(answer) = client.open(request(Method::GET, &path, &[], full(""))).await else {
                continue;
            };
            assert_eq!(answer.status(), 200);
            let mut body = answer.into_body();
            let ended = loop {
                match body.frame().await {
                    Some(Ok(_)) => {}
                    Some(Err(_)) => break "abnormally",
                    None => break "normally",
                }
            };
            assert_eq!(ended, "abnormally", "{version} {code}");
        }
    }
}

#[tokio::test]
async fn a_digest_stands_before_the_first_byte_and_after_the_last() {
    let house = House::start().await;
    let (before, after) = ("a0".repeat(32), "b1".repeat(32));
    for version in ["h2", "http/1.1"] {
        let client = Client::connect(house.address, &house.bundle(), version).await;
        let answer = client.get("/v1/fetch/3", &[("te", "trailers")]).await;
        assert_eq!(answer.body, every_byte().repeat(3));
        assert_eq!(answer.header("trailmesh-digest"), before, "{version}");
        assert_eq!(answer.trailers["trailmesh-digest"], after, "{version}");
        assert!(!format!("{answer:?}").contains("never to be seen"));
        let without = client.get("/v1/fetch/7", &[]).await;
        assert_eq!(without.header("trailmesh-digest"), "", "what is none is not told");
        assert_eq!(without.body.len(), 7 * 256);
    }
    let client = house.h2().await;
    let asked = crate::echo::message("CountRequest", r#"{"to":2}"#);
    let path = "/trailmesh.echo.v1.EchoService/Fetch";
    let answer = client.grpc(path, &[], &asked).await;
    assert_eq!((answer.grpc_status(), messages(&answer.body).len()), (Some(0), 2));
    assert_eq!(answer.header("trailmesh-digest"), before);
    assert_eq!(answer.trailers["trailmesh-digest"], after);
    assert!(!format!("{answer:?}").contains("never to be seen"));
}

#[tokio::test]
async fn over_grpc_raw_bytes_are_messages() {
    let house = House::start().await;
    let client = house.h2().await;
    let answer = client
        .grpc(
            "/trailmesh.echo.v1.EchoService/Fetch",
            &[],
            &crate::echo::message("CountRequest", r#"{"to":2,"failWith":5}"#),
        )
        .await;
    assert_eq!(answer.grpc_status(), Some(5));
    assert_eq!(messages(&answer.body).len(), 2);
    let event = proto::tenant::v1::ReceiveStripeEventRequest {
        payload: Some(proto::google::api::HttpBody {
            data: b"\0\xff".to_vec().into(),
            ..proto::google::api::HttpBody::default()
        }),
    };
    let path = "/trailmesh.tenant.v1.BillingService/ReceiveStripeEvent";
    let answer = client.grpc(path, &[], &event.encode_to_vec()).await;
    assert_eq!(answer.grpc_status(), Some(0));
    assert_eq!(house.record.told().events[0].0, event);
}
