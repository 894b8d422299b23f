//! What browsers send: gRPC-Web, CORS, cookies.
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Method;

use crate::{
    client::{Answer, Client, frame, full, request},
    echo::{json_of, message},
    house::House,
};

const ECHO: &str = "/trailmesh.echo.v1.EchoService/Echo";
const COUNT: &str = "/trailmesh.echo.v1.EchoService/Count";
const REFRESH: &str = "/v1/auth/refresh";

async fn web(client: &Client, path: &str, text: bool, message: &[u8]) -> Answer {
    let (content_type, body) = if text {
        // Cut and padded in the middle, as a client does that flushes.
        let bytes = frame(message);
        let (one, other) = bytes.split_at(4);
        (
            "application/grpc-web-text",
            STANDARD.encode(one) + &STANDARD.encode(other),
        )
    } else {
        return client
            .send(request(
                Method::POST,
                path,
                &[
                    ("content-type", "application/grpc-web+proto"),
                    ("x-grpc-web", "1"),
                ],
                full(frame(message)),
            ))
            .await
            .expect("an answer");
    };
    client
        .send(request(
            Method::POST,
            path,
            &[("content-type", content_type)],
            full(body),
        ))
        .await
        .expect("an answer")
}

/// The messages of a gRPC-Web body, and the lines of its last frame.
fn taken_apart(answer: &Answer, text: bool) -> (Vec<Vec<u8>>, String) {
    let mut bytes = Vec::new();
    if text {
        let mut rest = &answer.body[..];
        while !rest.is_empty() {
            let end = rest
                .iter()
                .position(|byte| *byte == b'=')
                .map_or(rest.len(), |place| place.div_ceil(4) * 4);
            STANDARD.decode_vec(&rest[..end], &mut bytes).expect("base64");
            rest = &rest[end..];
        }
    } else {
        bytes = answer.body.to_vec();
    }
    let (mut messages, mut rest) = (Vec::new(), &bytes[..]);
    loop {
        let [flag, a, b, c, d, tail @ ..] = rest else {
            panic!("no trailers: {bytes:?}")
        };
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        if *flag == 0x80 {
            assert_eq!(tail.len(), length);
            return (messages, String::from_utf8(tail.to_vec()).expect("lines"));
        }
        messages.push(tail[..length].to_vec());
        rest = &tail[length..];
    }
}

#[tokio::test]
async fn grpc_web_is_served_in_bytes_and_in_text_over_both_versions_of_http() {
    let house = House::start().await;
    for client in [house.h2().await, house.h1().await] {
        for text in [false, true] {
            let asked = message("EchoRequest", r#"{"kinds":{"stringValue":"from a browser"}}"#);
            let answer = web(&client, ECHO, text, &asked).await;
            let (messages, trailers) = taken_apart(&answer, text);
            assert_eq!(
                json_of("EchoResponse", &messages[0])["kinds"]["stringValue"],
                "from a browser"
            );
            assert!(
                trailers.contains("grpc-status: 0") && !trailers.contains("x-internal"),
                "{trailers}"
            );
            assert!(answer.header("content-type").starts_with("application/grpc-web"));
            let (numbers, trailers) = taken_apart(
                &web(
                    &client,
                    COUNT,
                    text,
                    &message("CountRequest", r#"{"to":5,"failWith":9}"#),
                )
                .await,
                text,
            );
            assert_eq!(numbers.len(), 5);
            assert!(trailers.contains("grpc-status: 9"), "{trailers}");
            let refused = web(&client, "/trailmesh.echo.v1.EchoService/Nothing", text, b"").await;
            assert_eq!(refused.grpc_status(), Some(12));
        }
    }
}

#[tokio::test]
async fn text_that_is_no_base64_is_refused() {
    let house = House::start().await;
    let client = house.h2().await;
    for body in ["####", "AAAA=", "AAA"] {
        let headers = [("content-type", "application/grpc-web-text")];
        let answer = client
            .send(request(Method::POST, ECHO, &headers, full(body)))
            .await
            .expect("an answer");
        assert_ne!(answer.grpc_status(), Some(0), "{answer:?}");
    }
}

#[tokio::test]
async fn a_listed_page_may_call_and_another_may_not() {
    let house = House::start().await;
    let client = house.h2().await;
    for (origin, allowed) in [
        ("https://app.example.com", true),
        ("https://evil.test", false),
        ("null", false),
    ] {
        let asked = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization"),
        ];
        let preflight = client
            .send(request(Method::OPTIONS, "/v1/echo", &asked, full("")))
            .await
            .expect("an answer");
        assert_eq!(preflight.status.as_u16(), if allowed { 204 } else { 403 });
        let answer = client.get("/v1/echo", &[("origin", origin)]).await;
        let failed = client.get("/nowhere", &[("origin", origin)]).await;
        for answer in [&preflight, &answer, &failed] {
            assert_eq!(
                answer.header("access-control-allow-origin"),
                if allowed { origin } else { "" }
            );
            assert_eq!(answer.header("vary"), "Origin");
        }
    }
}

#[tokio::test]
async fn the_refresh_cookie_goes_to_one_method_and_comes_back_for_scripts_to_leave_alone() {
    let house = House::start().await;
    let client = house.h2().await;
    let cookie = ("cookie", "other=1; __Host-bt_rt=old-token");
    let answer = client.post(REFRESH, &[cookie], "{}").await;
    assert_eq!(answer.json()["tokens"]["accessToken"], "old-token", "{answer:?}");
    let set = answer.header("set-cookie");
    assert!(
        set.starts_with("__Host-bt_rt=next-token; Path=/; Secure; HttpOnly; SameSite=Strict"),
        "{set}"
    );
    assert!(!answer.headers.contains_key("trailmesh-set-refresh-cookie"));
    let login = client
        .post("/v1/auth/login", &[cookie, ("x-mfa-code", "654321")], "{}")
        .await;
    assert_eq!(
        login.json()["tokens"]["accessToken"],
        "none",
        "only refreshing takes the cookie"
    );
    assert_eq!(
        login.json()["tokens"]["refreshToken"],
        "654321",
        "logging in takes the code itself"
    );
    let plain = client.post(REFRESH, &[("x-mfa-code", "654321")], "{}").await;
    assert_eq!(
        plain.json()["tokens"]["refreshToken"],
        "none",
        "refreshing takes no code"
    );
    for (origin, status) in [("https://evil.test", 403), ("https://app.example.com", 200)] {
        let answer = client.post(REFRESH, &[cookie, ("origin", origin)], "{}").await;
        assert_eq!(answer.status.as_u16(), status, "{origin}");
    }
}

/// R2 of the review: over HTTP/2 the gateway's own name is in `:authority`.
#[tokio::test]
async fn a_page_of_the_gateways_own_origin_may_refresh_by_cookie_over_both_versions() {
    let house = House::start().await;
    for client in [house.h2().await, house.h1().await] {
        for (origin, status) in [
            ("https://localhost", 200),
            ("http://localhost", 403),
            ("https://localhost.evil.test", 403),
        ] {
            let headers = [("cookie", "__Host-bt_rt=token"), ("origin", origin)];
            let answer = client.post(REFRESH, &headers, "{}").await;
            assert_eq!(answer.status.as_u16(), status, "{origin}");
        }
    }
    // Two names for one request: neither is believed.
    let client = house.h2().await;
    let headers = [
        ("host", "evil.test"),
        ("origin", "https://evil.test"),
        ("cookie", "__Host-bt_rt=token"),
    ];
    let answer = client.post(REFRESH, &headers, "{}").await;
    assert_eq!(
        (answer.status.as_u16(), answer.reason().as_str()),
        (400, "HEADER_INVALID")
    );
}
