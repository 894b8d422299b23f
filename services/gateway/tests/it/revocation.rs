//! When a caller loses what it had: calls that have begun are refused, and streams end, within about a second.
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::stream;
use http::Method;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use types::{Context, Role, TenantId};

use crate::{
    client::{Body, frame, request},
    echo::message,
    guard::CODE,
    house::House,
};

const QUIETLY: &str = "/v1/echo:quietly";
const COUNT: &str = "/v1/count/1/privately";

/// `bytes`, the last of them three seconds after the others.
fn hesitating(bytes: Vec<u8>) -> Body {
    let mut bytes = Bytes::from(bytes);
    let last = bytes.split_off(bytes.len() - 1);
    let frames = stream::unfold((Some(bytes), Some(last)), |(first, last)| async {
        if let Some(first) = first {
            return Some((Ok::<_, std::io::Error>(Frame::data(first)), (None, last)));
        }
        let last = last?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        Some((Ok(Frame::data(last)), (None, None)))
    });
    let boxed = Box::pin(frames) as std::pin::Pin<Box<dyn futures_util::Stream<Item = _> + Send + Sync>>;
    StreamBody::new(boxed).boxed()
}

#[tokio::test]
async fn a_body_that_comes_late_does_not_carry_a_lost_right_with_it() {
    let house = House::start().await;
    let client = house.h2().await;
    let text = message("EchoPrivatelyRequest", r#"{"text":"late"}"#);
    let grpc = |method: &str| format!("/trailmesh.echo.v1.EchoService/{method}");
    for (path, content_type, body) in [
        (QUIETLY.to_owned(), "application/json", b"{}".to_vec()),
        (
            "/v1/echo:privately".to_owned(),
            "application/json",
            b"{}".to_vec(),
        ),
        (grpc("EchoQuietly"), "application/grpc", frame(&text)),
        (grpc("EchoPrivately"), "application/grpc", frame(&text)),
    ] {
        for lost in ["session", "role", "nothing"] {
            let who = house.guard.person(Role::Viewer);
            let headers = [
                ("content-type", content_type),
                ("authorization", &who),
                ("x-mfa-code", CODE),
            ];
            let served = house.echo.served.load(Ordering::SeqCst);
            let sending = client.send(request(Method::POST, &path, &headers, hesitating(body.clone())));
            let losing = async {
                tokio::time::sleep(Duration::from_millis(500)).await;
                match lost {
                    "session" => house.guard.revoke(&who),
                    "role" => house.guard.change(&who, |context| {
                        if let Some(seat) = &mut context.seat {
                            seat.role = None;
                        }
                    }),
                    _ => {}
                }
            };
            let (answer, ()) = tokio::join!(sending, losing);
            let answer = answer.expect("an answer");
            let status = answer
                .grpc_status()
                .unwrap_or_else(|| i32::from(answer.status.as_u16()));
            let good = match lost {
                "session" => matches!(status, 401 | 16),
                "role" => matches!(status, 403 | 7),
                _ => matches!(status, 200 | 0),
            };
            assert!(good, "{path} {lost}: {answer:?}");
            let more = house.echo.served.load(Ordering::SeqCst) - served;
            assert_eq!(more, usize::from(lost == "nothing"), "{path} {lost}");
        }
    }
}

#[tokio::test]
async fn a_stream_ends_when_its_reader_loses_the_right_to_it() {
    let house = House::start().await;
    let client = house.h2().await;
    let count = message("CountRequest", r#"{"to":1000,"every":"0.05s"}"#);
    for grpc in [false, true] {
        let (reader, other) = (house.guard.person(Role::Viewer), house.guard.person(Role::Viewer));
        let read = |who: String| {
            let (client, count) = (&client, count.clone());
            async move {
                let began = Instant::now();
                let answer = if grpc {
                    let path = "/trailmesh.echo.v1.EchoService/CountPrivately";
                    client
                        .grpc(path, &[("authorization", &who), ("grpc-timeout", "6S")], &count)
                        .await
                } else {
                    let path = "/v1/count/1000/privately?every=0.05s";
                    client
                        .get(path, &[("authorization", &who), ("grpc-timeout", "6S")])
                        .await
                };
                (answer, began.elapsed())
            }
        };
        let revoking = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            house.guard.revoke(&reader);
        };
        let ((ended, after), (went_on, until), ()) =
            tokio::join!(read(reader.clone()), read(other.clone()), revoking);
        assert!(
            after > Duration::from_secs(2) && after < Duration::from_millis(4_500),
            "{after:?}"
        );
        assert!(until > Duration::from_secs(5), "{until:?}");
        if grpc {
            assert_eq!((ended.grpc_status(), went_on.grpc_status()), (Some(16), Some(4)));
        } else {
            let text = String::from_utf8_lossy(&ended.body).into_owned();
            assert!(
                text.lines()
                    .last()
                    .is_some_and(|line| line.contains("UNAUTHENTICATED")),
                "{text}"
            );
        }
    }
}

#[tokio::test]
async fn what_a_caller_changed_about_itself_it_sees_at_once() {
    let house = House::start().await;
    let client = house.h2().await;
    let who = house.guard.person(Role::Viewer);
    let headers = [("authorization", who.as_str())];
    let tenant = TenantId::fresh();
    let named = tenant.to_string();
    let there = [
        ("authorization", who.as_str()),
        ("x-trailmesh-tenant", named.as_str()),
    ];
    assert_eq!(client.get(COUNT, &headers).await.status, 200);
    assert_eq!(client.get(COUNT, &there).await.status, 404);
    // Reading changes nothing, and a call that failed has changed nothing.
    let asked = house.guard.asked();
    assert_eq!(client.get(COUNT, &headers).await.status, 200);
    assert_eq!(client.post(QUIETLY, &headers, "nonsense").await.status, 400);
    assert_eq!(client.get(COUNT, &headers).await.status, 200);
    assert!(house.guard.asked() - asked <= 1);
    for grpc in [false, true] {
        let move_to = if grpc { TenantId::fresh() } else { tenant };
        let changed = if grpc {
            let path = "/trailmesh.echo.v1.EchoService/EchoQuietly";
            client.grpc(path, &headers, b"").await
        } else {
            client.post(QUIETLY, &headers, "{}").await
        };
        assert_eq!(changed.status, 200);
        // What the call did, as it were.
        house.guard.change(&who, |context: &mut Context| {
            if let Some(seat) = &mut context.seat {
                seat.tenant = move_to;
            }
        });
        let named = move_to.to_string();
        let there = [
            ("authorization", who.as_str()),
            ("x-trailmesh-tenant", named.as_str()),
        ];
        assert_eq!(client.get(COUNT, &there).await.status, 200);
    }
}
