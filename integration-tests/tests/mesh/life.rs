//! The life of a team, as the README tells it.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::{
    mesh::{Caller, Mesh},
    person::Person,
};

#[tokio::test]
async fn a_team_signs_up_and_is_refused_what_it_may_not() {
    let mesh = Mesh::shared();
    let mut owner = Person::new(mesh, "olive").await;
    owner.found_tenant("Olive's shop").await;
    assert_eq!(owner.enrol().await.len(), 10);

    // Another session ended with the enrolment; this one goes on.
    let servers = owner.caller.get("/v1/servers").await.ok();
    assert_eq!(servers["servers"], json!([]));

    let refused = owner
        .caller
        .post("/v1/keys", json!({"name": "ci", "role": "ROLE_VIEWER"}))
        .await;
    assert_eq!(
        (refused.status, refused.reason()),
        (StatusCode::UNAUTHORIZED, "MFA_CODE_REQUIRED")
    );
    let body = json!({"name": "ci", "role": "ROLE_VIEWER"});
    let key = owner.confirmed(Method::POST, "/v1/keys", Some(body)).await.ok();
    let key = key["secret"].as_str().expect("a key").to_owned();
    assert!(key.starts_with("bt_live_"));
    let program = Caller::nobody(mesh).with(&key);
    assert_eq!(program.get("/v1/servers").await.ok()["servers"], json!([]));

    let mut member = Person::new(mesh, "mia").await;
    owner.take_in(mesh, &mut member, "ROLE_VIEWER").await;
    let server = json!({"name": "shop", "host": "db.example.com", "username": "trail"});
    let registered = owner
        .confirmed(Method::POST, "/v1/servers", Some(json!({"server": server})))
        .await
        .ok();
    let id = registered["server"]["id"].as_str().expect("an id");
    let seen = member.caller.get(&format!("/v1/servers/{id}")).await.ok();
    assert_eq!(seen["server"]["port"], 3306);

    let body = json!({"server": {"name": "mine", "host": "x", "username": "y"}});
    let refused = member.caller.post("/v1/servers", body).await;
    assert_eq!(
        (refused.status, refused.reason()),
        (StatusCode::FORBIDDEN, "ROLE_TOO_LOW")
    );
}
