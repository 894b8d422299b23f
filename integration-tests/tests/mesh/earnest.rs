//! Outside `--dev`: the mesh runs with TLS to every server, and refuses to start on anything less.

use std::process::{Command, Stdio};

use reqwest::StatusCode;
use serde_json::json;

use crate::{
    apart::Apart,
    mesh::{Caller, program},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mesh_runs_with_verified_tls_to_every_server_and_sign_up_closed() {
    let apart = Apart::start_in_earnest();
    let nobody = Caller::nobody(&apart.place);
    let body = json!({"email": "ada@example.org", "password": "a long enough secret"});
    let refused = nobody.post("/v1/auth/sign-up", body.clone()).await;
    assert_eq!(
        (refused.status, refused.reason()),
        (StatusCode::BAD_REQUEST, "SIGN_UP_CLOSED"),
        "{}",
        refused.text
    );
    // Auth, its database and Redis all have their part in this answer.
    let refused = nobody.post("/v1/auth/login", body).await;
    assert_eq!(
        (refused.status, refused.reason()),
        (StatusCode::UNAUTHORIZED, "CREDENTIALS_WRONG"),
        "{}",
        refused.text
    );
    let stranger = nobody.with("bt_live_00000000000000000000000000000000000000");
    assert_eq!(stranger.get("/v1/servers").await.status, StatusCode::UNAUTHORIZED);
}

/// What `--check-config` of a service says with these variables and no others.
fn complaint(service: &str, environment: &[(&str, &str)]) -> String {
    let output = Command::new(program())
        .args([service, "--check-config"])
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("trailmesh runs");
    assert_eq!(output.status.code(), Some(2), "{service} takes {environment:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_is_not_encrypted_or_not_verified_is_refused_by_name() {
    let all = [
        (
            "TRAILMESH_DATABASE_URL",
            "postgres://u:kanarienvogel@db/mesh?sslmode=prefer",
        ),
        ("TRAILMESH_REDIS_URL", "redis://u:kanarienvogel@redis:6379"),
        ("TRAILMESH_PUBLIC_URL", "http://mesh.example.com"),
        (
            "TRAILMESH_AUTH_SEAL_KEY",
            "c2VhbGluZyBmb3IgdGVzdHMsIDMyIGJ5dGVzIGxvbmc=",
        ),
        ("TRAILMESH_AUTH_MAIL_DIR", "/tmp"),
        ("TRAILMESH_PEERS", "tenant=http://tenant:8443"),
        ("TRAILMESH_OTLP_ENDPOINT", "http://collector:4317"),
    ];
    let told = complaint("auth", &all);
    for name in [
        "TRAILMESH_DATABASE_URL",
        "TRAILMESH_REDIS_URL",
        "TRAILMESH_PUBLIC_URL",
        "TRAILMESH_AUTH_SMTP_URL",
        "TRAILMESH_PEERS",
        "TRAILMESH_OTLP_ENDPOINT",
        "TRAILMESH_IDENTITY_CERT_FILE",
    ] {
        assert!(told.contains(name), "nothing about {name} in:\n{told}");
    }
    assert!(!told.contains("kanarienvogel"), "{told}");
}
