//! JSON over HTTP: what comes back, and what is refused.
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Method;
use tonic::Code;

use crate::{
    client::{full, request},
    echo::WORDS,
    house::House,
};

#[tokio::test]
async fn a_value_goes_to_the_service_and_back_over_both_versions_of_http() {
    let house = House::start().await;
    for client in [house.h2().await, house.h1().await] {
        let answer = client
            .post(
                "/v1/echo",
                &[],
                r#"{"kinds":{"stringValue":"hello","int64Value":"9007199254740993"}}"#,
            )
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let json = answer.json();
        assert_eq!(json["kinds"]["stringValue"], "hello");
        assert_eq!(json["kinds"]["int64Value"], "9007199254740993");
        let answer = client
            .get("/v1/echo/caf%C3%A9/by/7?kinds.boolValue=true", &[])
            .await;
        assert_eq!(answer.json()["kinds"]["stringValue"], "café");
        assert_eq!(answer.json()["kinds"]["boolValue"], true);
    }
}

/// Every answer, good or bad, is safe for a browser and names its request.
#[tokio::test]
async fn every_answer_has_the_security_headers_and_no_name_of_software() {
    let house = House::start().await;
    let client = house.h2().await;
    for path in [
        "/v1/echo",
        "/nowhere",
        "/v1/echo?x=1",
        "/%zz",
        "/openapi.json",
        "/docs",
        "/",
        "/v1/account/sessions",
    ] {
        let answer = client.get(path, &[]).await;
        for (name, value) in [
            ("strict-transport-security", "max-age=63072000; includeSubDomains"),
            ("x-frame-options", "DENY"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
            ("vary", "Origin"),
        ] {
            assert_eq!(answer.header(name), value, "{path} {name}");
        }
        assert!(
            answer
                .header("content-security-policy")
                .contains("frame-ancestors 'none'")
        );
        assert!(answer.header("x-request-id").starts_with("req_"));
        assert!(
            !answer.headers.contains_key("server") && !answer.headers.contains_key("x-internal"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn documents_are_served_and_nothing_else_is() {
    let house = House::start().await;
    let client = house.h2().await;
    let document = client.get("/openapi.json", &[]).await;
    assert!(
        document.json()["openapi"]
            .as_str()
            .is_some_and(|version| version.starts_with("3.1"))
    );
    assert!(document.json()["paths"]["/v1/echo"].is_object());
    let yaml: serde_json::Value =
        serde_yaml_ng::from_slice(&client.get("/openapi.yaml", &[]).await.body).expect("YAML");
    assert_eq!(yaml, document.json());
    let page = client.get("/docs", &[]).await;
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert!(!String::from_utf8_lossy(&page.body).contains("<script"));
    assert_eq!(client.get("/", &[]).await.json()["documentation"], "/docs");
    for path in [
        "/docs/",
        "/metrics",
        "/readyz",
        "/v1/inside",
        "/trailmesh.echo.v1.EchoService/Echo",
        "//v1/echo",
        "/v1//echo",
        "/v1/echo/",
        "/V1/echo",
    ] {
        let answer = client.get(path, &[]).await;
        assert_eq!(
            (answer.status.as_u16(), answer.reason().as_str()),
            (404, "ROUTE_NOT_FOUND"),
            "{path}"
        );
    }
}

/// Verb, path, content type and body, and with which status and reason they are refused.
const REFUSED: [(&str, &str, &str, &str, u16, &str); 13] = [
    (
        "DELETE",
        "/v1/echo",
        "application/json",
        "",
        405,
        "METHOD_NOT_ALLOWED",
    ),
    (
        "PROPFIND",
        "/v1/echo",
        "application/json",
        "",
        405,
        "METHOD_NOT_ALLOWED",
    ),
    (
        "POST",
        "/v1/echo",
        "text/plain",
        "{}",
        415,
        "CONTENT_TYPE_UNSUPPORTED",
    ),
    (
        "POST",
        "/v1/echo",
        "application/x-www-form-urlencoded",
        "a=b",
        415,
        "CONTENT_TYPE_UNSUPPORTED",
    ),
    (
        "POST",
        "/v1/echo",
        "application/json",
        "{",
        400,
        "REQUEST_INVALID",
    ),
    (
        "POST",
        "/v1/echo",
        "application/json",
        "{} {}",
        400,
        "REQUEST_INVALID",
    ),
    (
        "POST",
        "/v1/echo",
        "application/json",
        "{\"kinds\":{\"nothing\":1}}",
        400,
        "REQUEST_INVALID",
    ),
    (
        "POST",
        "/v1/echo",
        "application/json",
        "{\"kinds\":{\"int32Value\":\"x\"}}",
        400,
        "REQUEST_INVALID",
    ),
    (
        "POST",
        "/v1/echo",
        "application/json",
        "{\"kinds\":{\"boolValue\":true,\"boolValue\":true}}",
        400,
        "REQUEST_INVALID",
    ),
    (
        "GET",
        "/v1/echo?kinds.int32Value=x",
        "application/json",
        "",
        400,
        "REQUEST_INVALID",
    ),
    (
        "GET",
        "/v1/echo?nothing=x",
        "application/json",
        "",
        400,
        "REQUEST_INVALID",
    ),
    (
        "GET",
        "/v1/echo/%ff/by/1",
        "application/json",
        "",
        400,
        "PATH_INVALID",
    ),
    (
        "GET",
        "/v1/echo/%g0/by/1",
        "application/json",
        "",
        400,
        "PATH_INVALID",
    ),
];

#[tokio::test]
async fn wrong_verbs_types_and_texts_are_refused_with_their_reason() {
    let house = House::start().await;
    let client = house.h2().await;
    let send = async |method: &str, path: &str, content_type: &str, body: &str| {
        let method = Method::from_bytes(method.as_bytes()).expect("a verb");
        let headers = [("content-type", content_type)];
        client
            .send(request(method, path, &headers, full(body.to_owned())))
            .await
            .expect("an answer")
    };
    for (method, path, content_type, body, status, reason) in REFUSED {
        let answer = send(method, path, content_type, body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.reason().as_str()),
            (status, reason),
            "{method} {path} {body}"
        );
        if status == 405 {
            assert!(
                answer.header("allow").contains("POST"),
                "{}",
                answer.header("allow")
            );
        }
    }
    let deep = format!("{}1{}", "{\"kinds\":{\"inner\":".repeat(40), "}}".repeat(40));
    assert_eq!(
        send("POST", "/v1/echo", "application/json", &deep).await.status,
        400
    );
    let head = send("HEAD", "/v1/echo", "application/json", "").await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
}

#[tokio::test]
async fn each_of_the_17_codes_has_its_status_and_failures_of_ours_lose_their_words() {
    let house = House::start().await;
    let client = house.h1().await;
    let table = [
        499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401,
    ];
    for (code, status) in (1..).zip(table) {
        let answer = client.get(&format!("/v1/echo?failWith={code}"), &[]).await;
        assert_eq!(answer.status.as_u16(), status, "{code}");
        assert_eq!(answer.json()["error"]["code"], status);
        let ours = matches!(Code::from(code), Code::Internal | Code::Unknown | Code::DataLoss);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(text.contains(WORDS), !ours, "{text}");
        assert!(text.contains(answer.header("x-request-id")));
        assert_eq!(answer.headers.contains_key("www-authenticate"), status == 401);
    }
    assert_eq!(client.get("/v1/echo?failWith=0", &[]).await.status, 200);
}

/// What a service sees is what the gateway found out. None of these bytes may arrive under any name but the user agent's.
#[tokio::test]
async fn no_header_of_a_client_becomes_metadata() {
    let house = House::start().await;
    let canary = "canary-7f3a";
    let names = [
        "x-user-id",
        "x-user-role",
        "x-tenant",
        "x-forwarded-user",
        "x-forwarded-for",
        "x-real-ip",
        "forwarded",
        "x-request-id",
        "grpc-metadata-authorization",
        "grpc-metadata-trailmesh-grant",
        "grpc-trace-bin",
        "grpc-tags-bin",
        "grpc-previous-rpc-attempts",
        "trailmesh-grant",
        "trailmesh-request-id",
        "trailmesh-client-address",
        "trailmesh-user-agent",
        "trailmesh-refresh-cookie",
        "trailmesh-set-refresh-cookie",
        "mfa-code",
        "x-mfa-code",
        "authorization",
        "proxy-authorization",
        "cookie",
        "baggage",
        "tracestate",
        "x-trailmesh-tenant",
        "from",
        "referer",
        "accept-language",
        "x-http-method-override",
        "x-original-url",
        "b3",
        "x-b3-traceid",
        "via",
        "l5d-dtab",
        "spiffe-id",
        "x-forwarded-client-cert",
        "ssl-client-cert",
        "content-language",
    ];
    for name in names {
        let value = if name == "x-mfa-code" {
            canary.replace('-', "")
        } else {
            canary.to_owned()
        };
        let headers = [(name, value.as_str()), ("user-agent", "tester/1")];
        for client in [house.h2().await, house.h1().await] {
            let answer = client.get("/v1/echo", &headers).await;
            assert_eq!(answer.status, 200, "{name} {answer:?}");
            let json = answer.json();
            let metadata = json["metadata"].as_object().expect("metadata");
            for (key, value) in metadata {
                assert!(
                    !value.as_str().is_some_and(|text| text.contains("canary")),
                    "{name} arrived as {key}"
                );
            }
            assert_eq!(metadata["trailmesh-user-agent"], "tester/1");
            assert_eq!(metadata["trailmesh-client-address"], "127.0.0.1");
            assert_eq!(metadata["trailmesh-request-id"], answer.header("x-request-id"));
        }
    }
}

#[tokio::test]
async fn a_trace_goes_on_and_a_malformed_one_does_not() {
    let house = House::start().await;
    let client = house.h2().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let seen = async |traceparent: &str| {
        let answer = client.get("/v1/echo", &[("traceparent", traceparent)]).await;
        answer.json()["metadata"]["traceparent"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert!(
        seen(&format!("00-{trace}-00f067aa0ba902b7-01"))
            .await
            .contains(trace)
    );
    assert!(
        !seen(&format!("00-{trace}-00f067aa0ba902b7-01-extra"))
            .await
            .contains(trace)
    );
    assert!(!seen("00-0-0-0").await.is_empty());
}

#[tokio::test]
async fn links_of_mails_lead_to_pages_that_keep_their_tokens() {
    let house = House::start().await;
    for client in [house.h2().await, house.h1().await] {
        for path in ["/verify-email", "/reset-password", "/accept-invitation"] {
            let page = client.get(path, &[]).await;
            assert_eq!(page.status.as_u16(), 200, "{path}");
            for (name, value) in [
                ("content-type", "text/html; charset=utf-8"),
                ("cache-control", "no-store"),
                ("referrer-policy", "no-referrer"),
                ("x-content-type-options", "nosniff"),
                ("x-frame-options", "DENY"),
                ("cross-origin-opener-policy", "same-origin"),
            ] {
                assert_eq!(page.header(name), value, "{path}");
            }
            let html = String::from_utf8_lossy(&page.body).into_owned();
            let script = html
                .split_once("<script>")
                .and_then(|(_, rest)| rest.split_once("</script>"));
            let script = script.expect("a script").0;
            let digest = ring::digest::digest(&ring::digest::SHA256, script.as_bytes());
            let allowed = format!("script-src 'sha256-{}'; ", STANDARD.encode(digest));
            let policy = page.header("content-security-policy");
            assert!(
                policy.starts_with("default-src 'none'; ") && policy.contains(&allowed),
                "{policy}"
            );
            for part in [
                "connect-src 'self'",
                "base-uri 'none'",
                "form-action 'none'",
                "frame-ancestors 'none'",
            ] {
                assert!(policy.contains(part), "{policy}");
            }
        }
    }
}

#[tokio::test]
async fn the_reference_may_load_its_own_style_and_nothing_else() {
    let house = House::start().await;
    let docs = house.h2().await.get("/docs", &[]).await;
    let html = String::from_utf8_lossy(&docs.body).into_owned();
    let style = html
        .split_once("<style>")
        .and_then(|(_, rest)| rest.split_once("</style>"));
    let digest = ring::digest::digest(&ring::digest::SHA256, style.expect("a style").0.as_bytes());
    let allowed = format!("style-src 'sha256-{}'; ", STANDARD.encode(digest));
    let policy = docs.header("content-security-policy");
    assert!(
        policy.contains(&allowed) && !policy.contains("unsafe"),
        "{policy}"
    );
}
