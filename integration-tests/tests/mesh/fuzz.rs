//! The OpenAPI document is a promise: schemathesis (which nobody here wrote) tries it against the running mesh, with what the document
//! allows and with what it does not. What is left out, and why, stands in clients/fuzz/schemathesis.toml and beside each test.

use std::{path::Path, process::Command};

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::sync::Mutex;

use crate::{
    mesh::{Caller, Mesh},
    person::Person,
};

/// Tries every operation but `without`, in this tenant and with these headers.
async fn fuzz(mesh: &Mesh, tenant: &str, headers: &[String], without: &[&str]) {
    // One at a time: thousands of log-ins and sign-ups cost a small machine so much that auth answers somebody too late, which is a 503.
    static ONE: Mutex<()> = Mutex::const_new(());
    let _alone = ONE.lock().await;
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/fuzz");
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new("timeout");
    command
        .arg("400")
        .arg(testkit::python().with_file_name("schemathesis"))
        .arg("--config-file")
        .arg(clients.join("schemathesis.toml"))
        .arg("run")
        .arg(format!("{}/openapi.json", mesh.url))
        .arg("--tls-verify")
        .arg(mesh.state.join("ca.pem"))
        .args(["--no-color", "--warnings", "off"])
        .env("FUZZ_TENANT", tenant)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // What it remembers between runs.
        .current_dir(folder.path());
    for header in headers {
        command.args(["--header", header]);
    }
    // Waits for what comes, as it is told to: tested where the audit log is.
    for operation in without.iter().chain(&["AuditService_StreamAuditEntries"]) {
        command.args(["--exclude-operation-id", operation]);
    }
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .expect("no panic")
        .expect("timeout starts");
    let said = String::from_utf8_lossy(&output.stdout);
    // What it found, without how far it had come.
    let found = said
        .find("= FAILURES")
        .or_else(|| said.find("= ERRORS"))
        .unwrap_or(0);
    assert!(
        output.status.success() && said.contains("No issues found"),
        "{}\n{}{}",
        output.status,
        &said[found..],
        String::from_utf8_lossy(&output.stderr)
    );
    let tried = said
        .lines()
        .find_map(|line| line.trim().split_once(" generated, "));
    let tried: u32 = tried.and_then(|(all, _)| all.parse().ok()).expect("a count");
    assert!(tried > 1_000, "only {tried} requests");
    let log = mesh.log();
    assert!(!log.contains("panicked"), "{log}");
}

/// A mesh with room for thousands of requests a minute.
fn mesh() -> Mesh {
    Mesh::start(&[
        (
            "TRAILMESH_GATEWAY_RATE_LIMITS",
            "free=1000000/1000000,enterprise=1000000/1000000",
        ),
        ("TRAILMESH_GATEWAY_REFUSED_RATE", "1000000"),
    ])
}

#[tokio::test]
async fn nobody_is_answered_as_the_document_says() {
    fuzz(&mesh(), "tnt_01j00000000000000000000000", &[], &[]).await;
}

#[tokio::test]
async fn an_owners_key_is_answered_as_the_document_says() {
    let mesh = mesh();
    let mut owner = Person::new(&mesh, "fuzz").await;
    let tenant = owner.found_tenant("Fuzzed").await;
    owner.enrol().await;
    let body = json!({"name": "fuzz", "role": "ROLE_OWNER"});
    let key = owner.confirmed(Method::POST, "/v1/keys", Some(body)).await.ok();
    let key = key["secret"].as_str().expect("a key");
    fuzz(&mesh, &tenant, &[format!("Authorization: Bearer {key}")], &[]).await;
    let program = Caller::nobody(&mesh).with(key);
    program.get("/v1/servers").await.ok();
}

/// Without a second factor, so that all methods are reached.
#[tokio::test]
async fn an_owners_session_is_answered_as_the_document_says() {
    let mesh = mesh();
    let mut owner = Person::new(&mesh, "fuzz").await;
    let tenant = owner.found_tenant("Fuzzed").await;
    let other = owner.log_in("").await.ok();
    let other = other["tokens"]["accessToken"]
        .as_str()
        .expect("a token")
        .to_owned();
    let authorization = format!("Authorization: Bearer {}", owner.caller.credential);
    let without = [
        // These two end the session that all others need,
        "SessionService_LogOut",
        "SessionService_RevokeSession",
        // and this one the tenant, whose name is learned from answers: without a second factor a name is all it takes.
        "TenantService_DeleteTenant",
    ];
    fuzz(&mesh, &tenant, &[authorization], &without).await;
    // It was let in: it ended the other session, and not itself.
    owner.caller.get("/v1/account").await.ok();
    let ended = owner.caller.with(&other).get("/v1/account").await;
    assert_eq!(ended.status, StatusCode::UNAUTHORIZED, "{}", ended.text);
}
