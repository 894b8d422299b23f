//! The links of mails, opened in a browser: Chromium presses what a person presses (integration-tests/clients/node/pages.js).

use serde_json::{Value, json};
use testkit::Foreign;

use crate::{
    mesh::{Caller, Mesh},
    person::Person,
};

/// Makes the visits in a browser that trusts this mesh.
async fn visit(mesh: &Mesh, visits: Value) -> Value {
    let task = json!({"url": mesh.url, "ca": mesh.authority(), "visits": visits}).to_string();
    let text = tokio::task::spawn_blocking(move || Foreign::Node.run("pages", &task))
        .await
        .expect("a script that ends");
    let seen: Value = serde_json::from_str(&text).expect("JSON");
    for (name, seen) in seen.as_object().expect("an object") {
        let address = seen["address"].as_str().expect("an address");
        assert!(!address.contains(['#', '?']), "{name} shows a token: {seen:#}");
        for nothing in ["referrers", "complaints"] {
            assert_eq!(seen[nothing], json!([]), "{name}: {seen:#}");
        }
        assert_eq!(seen["stored"], json!([0, 0, 0]), "{name}: {seen:#}");
    }
    seen
}

/// What a page said to an attempt.
#[track_caller]
fn said(seen: &Value, visit: &str, attempt: usize, title: &str, words: &str) {
    let one = &seen[visit]["attempts"][attempt];
    let has = |name: &str, part: &str| one[name].as_str().is_some_and(|all| all.contains(part));
    assert!(has("title", title) && has("said", words), "{seen:#}");
}

/// The link of a mail without the mesh's address, which the mail must have in front of it.
fn link(mesh: &Mesh, email: &str, page: &str) -> String {
    let token = mesh.mailed_token(email, &format!("{}/{page}#token=", mesh.url));
    format!("/{page}#token={token}")
}

#[tokio::test]
async fn a_mailed_link_verifies_the_address() {
    let mesh = Mesh::shared();
    let nobody = Caller::nobody(mesh);
    let email = format!("reader-{}@example.com", uuid::Uuid::new_v4().simple());
    let account = json!({"email": email, "password": "correct horse reader battery"});
    nobody.post("/v1/auth/sign-up", account.clone()).await.ok();
    let link = link(mesh, &email, "verify-email");
    let (_, token) = link.split_once("token=").expect("a token");
    let visits = json!([
        {"name": "wrong", "link": "/verify-email", "type": {"token": "bt_ev_nonsense"}},
        {"name": "first", "link": link, "type": {}},
        {"name": "again", "link": "/verify-email", "type": {"token": token}},
    ]);
    let seen = visit(mesh, visits).await;
    said(&seen, "wrong", 0, "Verify your address", "The token is wrong");
    said(
        &seen,
        "first",
        0,
        "Address verified",
        &format!("{email} is verified"),
    );
    said(&seen, "again", 0, "Verify your address", "just sign in");
    assert_eq!(
        seen["first"]["requests"],
        json!(["GET /verify-email", "POST /v1/auth/verify-email"])
    );
    nobody.post("/v1/auth/login", account).await.ok();
}

#[tokio::test]
async fn a_mailed_link_sets_a_new_password_with_the_second_factor() {
    let mesh = Mesh::shared();
    let nobody = Caller::nobody(mesh);
    let mut person = Person::new(mesh, "forgetful").await;
    let recovery = person.enrol().await;
    let email = person.email.clone();
    nobody
        .post("/v1/auth/request-password-reset", json!({"email": email}))
        .await
        .ok();
    let password = "another horse forgetful battery";
    let visits = json!([{
        "name": "reset",
        "link": link(mesh, &email, "reset-password"),
        "type": {"new-password": password, "again": password},
        "then": [{"code": person.code().await}],
    }]);
    let seen = visit(mesh, visits).await;
    said(&seen, "reset", 0, "Set a new password", "six digits");
    said(&seen, "reset", 1, "Password set", "all sessions were ended");
    let login = json!({"email": email, "password": password, "recoveryCode": recovery[0]});
    nobody.post("/v1/auth/login", login).await.ok();
}

#[tokio::test]
async fn a_mailed_link_makes_a_member() {
    let mesh = Mesh::shared();
    let mut owner = Person::new(mesh, "host").await;
    let tenant = owner.found_tenant("The house").await;
    let guest = Person::new(mesh, "guest").await;
    owner
        .caller
        .post(
            "/v1/invitations",
            json!({"email": guest.email, "role": "ROLE_ANALYST"}),
        )
        .await
        .ok();
    let login = json!({"email": guest.email, "password": guest.password});
    let visits = json!([{
        "name": "invitation",
        "link": link(mesh, &guest.email, "accept-invitation"),
        "type": {"email": guest.email, "password": "wrong horse"},
        "then": [login],
    }]);
    let seen = visit(mesh, visits).await;
    said(
        &seen,
        "invitation",
        0,
        "Accept the invitation",
        "password is wrong",
    );
    said(
        &seen,
        "invitation",
        1,
        "You are a member",
        &format!("analyst. Calls for this tenant name it as {tenant}"),
    );
    guest.caller.within(&tenant).get("/v1/servers").await.ok();
    // The page's own session is over.
    let sessions = guest.caller.get("/v1/account/sessions").await.ok();
    assert_eq!(
        sessions["sessions"].as_array().map(Vec::len),
        Some(1),
        "{sessions:#}"
    );
}
