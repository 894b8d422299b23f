//! Secrets where they do not belong: in what is malformed, misspelt, too large, or another protocol.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::Method;

use super::{Canary, plain};

/// Secrets where they do not belong.
pub(super) async fn everywhere(canary: &mut Canary<'_>, path: &str) {
    let secret = canary.secret("misplaced", &plain("misplaced"));
    in_bodies(canary, path, &secret).await;
    in_addresses(canary, path, &secret).await;
    in_headers(canary, &secret).await;
}

async fn in_bodies(canary: &mut Canary<'_>, path: &str, secret: &str) {
    let large = format!(r#"{{"email":"{}","password":"{secret}"}}"#, "x".repeat(3_000_000));
    let deep = format!(
        r#"{{"password":{}"{secret}"{}}}"#,
        "[".repeat(500),
        "]".repeat(500)
    );
    let bodies = [
        format!(r#"{{"email":"a@example.com","password":"{secret}"#),
        format!(r#"{{"email":"a@example.com","password":"{secret}"}}}}"#),
        format!(r#"{{"passwrod":"{secret}"}}"#),
        format!(r#"{{"password":["{secret}"]}}"#),
        format!(r#"{{"password":{{"x":"{secret}"}}}}"#),
        format!(r#"{{"password":"{secret}","password":"{secret}"}}"#),
        format!(r#"{{"password":{secret}}}"#),
        format!(r#"{{"password":"{secret}\ud800"}}"#),
        format!(r#"["{secret}"]"#),
        secret.to_owned(),
        large,
        deep,
    ];
    for body in bodies {
        let bearer = canary.caller.credential.clone();
        canary
            .wrong(Method::POST, path, |request| {
                request
                    .bearer_auth(bearer)
                    .header("content-type", "application/json")
                    .body(body)
            })
            .await;
    }
    let form = format!("email=a%40example.com&password={secret}");
    canary
        .wrong(Method::POST, path, |request| {
            request
                .header("content-type", "application/x-www-form-urlencoded")
                .body(form)
        })
        .await;
}

async fn in_addresses(canary: &mut Canary<'_>, path: &str, secret: &str) {
    for url in [
        format!("{path}?password={secret}&access_token={secret}"),
        format!("{path}?{secret}"),
        format!("{path}/{secret}"),
        format!("/v1/servers?pageToken={secret}&passwrod={secret}"),
    ] {
        for method in [Method::POST, Method::GET] {
            let bearer = canary.caller.credential.clone();
            canary
                .wrong(method, &url, |request| request.bearer_auth(bearer).body("{}"))
                .await;
        }
    }
}

async fn in_headers(canary: &mut Canary<'_>, secret: &str) {
    for (name, value) in [
        ("x-password", secret.to_owned()),
        ("x-api-key", secret.to_owned()),
        ("x-auth-token", secret.to_owned()),
        ("x-mfa-code", secret.to_owned()),
        ("x-trailmesh-tenant", secret.to_owned()),
        (
            "authorization",
            format!("Basic {}", STANDARD.encode(format!("me:{secret}"))),
        ),
        ("authorization", format!("Bearer {secret}")),
        ("authorization", format!("Bearer a.{secret}.b c")),
        ("authorization", secret.to_owned()),
        ("proxy-authorization", format!("Bearer {secret}")),
        ("cookie", format!("session={secret}")),
        ("traceparent", secret.to_owned()),
        ("tracestate", format!("a={secret}")),
        ("baggage", format!("password={secret}")),
        ("grpc-timeout", secret.to_owned()),
        ("content-type", secret.to_owned()),
        ("accept", secret.to_owned()),
        ("origin", format!("https://{secret}.example.com")),
        ("content-encoding", secret.to_owned()),
        ("x-forwarded-for", secret.to_owned()),
        ("idempotency-key", secret.to_owned()),
        ("trailmesh-grant", secret.to_owned()),
    ] {
        let bearer = (name != "authorization").then(|| canary.caller.credential.clone());
        canary
            .wrong(Method::POST, "/v1/pools", |request| {
                let request = request.header(name, value).body("{}");
                match bearer {
                    Some(bearer) => request.bearer_auth(bearer),
                    None => request,
                }
            })
            .await;
    }
}

/// Secrets in frames and metadata.
pub(super) async fn over_grpc(canary: &mut Canary<'_>) {
    let secret = canary.secret("gRPC", &plain("grpc"));
    let mut message = vec![0x12, u8::try_from(secret.len()).expect("a short one")];
    message.extend_from_slice(secret.as_bytes());
    let mut framed = vec![0, 0, 0, 0, u8::try_from(message.len()).expect("a short one")];
    framed.extend_from_slice(&message);
    for path in [
        "/trailmesh.auth.v1.SessionService/LogIn",
        "/trailmesh.tenant.v1.ServerService/RegisterServer",
        "/trailmesh.auth.v1.Nothing/Nothing",
    ] {
        for body in [framed.clone(), framed[..20].to_vec(), secret.clone().into_bytes()] {
            for kind in [
                "application/grpc",
                "application/grpc-web+proto",
                "application/grpc-web-text",
            ] {
                let request = canary.caller.client.post(format!("{}{path}", canary.caller.url));
                let answer = request
                    .header("content-type", kind)
                    .header("te", "trailers")
                    .bearer_auth(&canary.caller.credential)
                    .header("x-password-bin", STANDARD.encode(&secret))
                    .header("password", &secret)
                    .body(body.clone())
                    .send()
                    .await
                    .expect("an answer");
                let headers = format!("{:?}", answer.headers());
                let text = answer.text().await.unwrap_or_default();
                canary.refused.push_str(&format!("{headers} {text}\n"));
            }
        }
    }
}
