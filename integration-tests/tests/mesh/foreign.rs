//! Clients that nobody here wrote call through the public door: Python's grpcio and Node's grpc-js (integration-tests/clients).
//!
//! No public method streams yet; how foreign clients stream is tested with the gateway.

use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};
use testkit::Foreign;

use crate::{
    mesh::{Caller, Mesh},
    person::Person,
};

/// Takes `name` out of the results and compares it with `wanted`, which leaves out what it does not care for.
#[track_caller]
fn expect(results: &Value, name: &str, wanted: &Value) {
    for (key, value) in wanted.as_object().expect("an object") {
        assert_eq!(&results[name][key], value, "{name}.{key} of {results:#}");
    }
}

async fn calls(who: Foreign) {
    let mesh = Mesh::shared();
    let name = format!("{who:?}").to_lowercase();
    let mut person = Person::new(mesh, &name).await;
    person.found_tenant("The first").await;
    let tenant = person.found_tenant("The second").await;
    person.enrol().await;
    let body = json!({"name": "foreign", "role": "ROLE_OWNER"});
    let key = person.confirmed(Method::POST, "/v1/keys", Some(body)).await.ok();
    let task = json!({
        "target": mesh.url.trim_start_matches("https://"),
        "ca": mesh.state.join("ca.pem"),
        "protos": [Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto")],
        "key": key["secret"],
        "token": person.caller.credential,
        "tenant": tenant,
        "nonsense_tenant": "tnt_01j00000000000000000000000",
        "name": format!("from-{name}"),
        "code": person.code().await,
    });
    let text = tokio::task::spawn_blocking(move || who.run("unary", &task.to_string()))
        .await
        .expect("a script that ends");
    let results: Value = serde_json::from_str(&text).expect("JSON");

    for name in ["key", "tenant", "code"] {
        expect(&results, name, &json!({"code": "OK"}));
    }
    assert_eq!(
        (&results["key"]["servers"], &results["code"]["port"]),
        (&json!([]), &json!(3306))
    );
    for (name, code, reason) in [
        ("nobody", "UNAUTHENTICATED", "CREDENTIAL_MISSING"),
        ("wrong key", "UNAUTHENTICATED", "CREDENTIAL_INVALID"),
        ("no tenant", "INVALID_ARGUMENT", "TENANT_REQUIRED"),
        ("nonsense tenant", "NOT_FOUND", "TENANT_NOT_FOUND"),
        ("no code", "UNAUTHENTICATED", "MFA_CODE_REQUIRED"),
        ("code again", "UNAUTHENTICATED", "MFA_CODE_INVALID"),
        ("nonsense id", "NOT_FOUND", "SERVER_NOT_FOUND"),
    ] {
        expect(
            &results,
            name,
            &json!({"code": code, "reason": reason, "domain": "trailmesh"}),
        );
    }
    for name in ["unknown method", "internal method"] {
        expect(
            &results,
            name,
            &json!({"code": "UNIMPLEMENTED", "reason": "METHOD_NOT_FOUND"}),
        );
    }
    expect(&results, "deadline", &json!({"code": "DEADLINE_EXCEEDED"}));
    expect(&results, "cancel", &json!({"code": "CANCELLED"}));
    for name in ["deadline", "cancel"] {
        assert!(results[name]["seconds"].as_f64() < Some(5.0), "{results:#}");
    }
    assert_eq!(results["parallel"], json!(["OK"]), "{results:#}");
    assert_eq!(results["disconnected"], json!([]), "{results:#}");

    // What the foreign client registered is what the JSON side shows.
    let program = Caller::nobody(mesh).with(key["secret"].as_str().expect("a key"));
    let servers = program.get("/v1/servers").await.ok();
    assert_eq!(servers["servers"][0]["name"], format!("from-{name}"));
    assert_eq!(servers["servers"][0]["labels"]["from"], format!("{who:?}"));
}

#[tokio::test]
async fn python_calls_through_the_public_door() {
    calls(Foreign::Python).await;
}

#[tokio::test]
async fn node_calls_through_the_public_door() {
    calls(Foreign::Node).await;
}
