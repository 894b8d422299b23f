//! Whose data is in another region is sent there, before a byte of a body is read.
use std::time::Instant;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Method;
use http_body_util::{BodyExt as _, StreamBody};
use types::{KeyId, Role, Subject, UserId};

use crate::{
    client::{Body, Client, request},
    guard::{asked_at_most, context},
    house::House,
};

/// A body whose first byte never comes.
fn never() -> Body {
    let nothing = futures_util::stream::pending();
    let boxed = Box::pin(nothing)
        as std::pin::Pin<
            Box<
                dyn futures_util::Stream<Item = Result<http_body::Frame<bytes::Bytes>, std::io::Error>>
                    + Send
                    + Sync,
            >,
        >;
    StreamBody::new(boxed).boxed()
}

async fn european() -> House {
    House::with(|plan| {
        plan.region_hosts = &["eu=https://eu.example.com", "us=https://us.example.com"];
    })
    .await
}

fn token(region: &str) -> String {
    let claims = URL_SAFE_NO_PAD.encode(format!("{{\"rgn\":\"{region}\"}}"));
    format!("Bearer a.{claims}.c")
}

#[tokio::test]
async fn a_token_or_key_of_another_region_is_sent_there_before_its_body_is_read() {
    let house = european().await;
    let began = Instant::now();
    for version in ["h2", "http/1.1"] {
        for credential in [token("us"), "Bearer bt_live_u0000000000".to_owned()] {
            let client = Client::connect(house.address, &house.bundle(), version).await;
            let headers = [
                ("authorization", credential.as_str()),
                ("content-type", "application/json"),
            ];
            let sent = request(Method::POST, "/v1/echo:quietly", &headers, never());
            let answer = client.open(sent).await.expect("an answer without a body");
            assert_eq!(answer.status(), 421, "{credential}");
            assert_eq!(
                answer.headers()["trailmesh-region-host"],
                "https://us.example.com"
            );
            let body = answer.into_body().collect().await.expect("a body").to_bytes();
            let json: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            let error = &json["error"];
            assert_eq!(
                (&error["code"], &error["status"]),
                (&421.into(), &"FAILED_PRECONDITION".into())
            );
            assert_eq!(error["details"][0]["reason"], "WRONG_REGION");
            assert_eq!(error["details"][0]["metadata"]["host"], "https://us.example.com");
        }
    }
    // A token tells by itself; a key is asked about once.
    let (asked, most) = (house.guard.asked(), asked_at_most(began.elapsed()));
    assert!((1..=most.min(2)).contains(&asked), "{asked}");
}

#[tokio::test]
async fn grpc_clients_are_told_in_the_details_of_the_status() {
    let house = european().await;
    let client = house.h2().await;
    let us = token("us");
    let path = "/trailmesh.echo.v1.EchoService/EchoQuietly";
    let answer = client.grpc(path, &[("authorization", &us)], b"").await;
    assert_eq!(answer.grpc_status(), Some(9));
    let status = tonic::Status::from_header_map(&answer.headers).expect("a status");
    let info = tonic_types::StatusExt::get_details_error_info(&status).expect("details");
    assert_eq!(
        (info.reason.as_str(), info.metadata["host"].as_str()),
        ("WRONG_REGION", "https://us.example.com")
    );
}

#[tokio::test]
async fn a_key_of_before_with_any_first_letter_is_good_where_it_is_known() {
    let house = european().await;
    let subject = Subject::Key {
        key: KeyId::fresh(),
        owner: UserId::fresh(),
    };
    let key = house
        .guard
        .learn("bt_live_u", context(subject, Role::Viewer, None));
    let client = house.h2().await;
    let answer = client
        .post("/v1/echo:quietly", &[("authorization", &key)], "{}")
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn what_names_this_region_or_none_is_judged_as_ever_and_an_unknown_host_is_not_named() {
    let house = House::start().await;
    let client = house.h2().await;
    for own in [
        token("eu"),
        token("mars"),
        "Bearer bt_live_e000".to_owned(),
        "Bearer bt_live_7000".to_owned(),
    ] {
        let answer = client
            .post("/v1/echo:quietly", &[("authorization", &own)], "{}")
            .await;
        assert_eq!(answer.status, 401, "{own}");
    }
    let us = token("us");
    let answer = client
        .post("/v1/echo:quietly", &[("authorization", &us)], "{}")
        .await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("trailmesh-region-host")),
        (421, "")
    );
}
