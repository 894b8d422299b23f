//! Two tenants side by side: what is one's does not exist for the other.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    mesh::{Answer, Caller, Mesh},
    permissions::{calls, nonsense_id},
    person::Person,
    uploaded,
};

const CANARY: &str = "kanarienvogel";

/// One of everything that has an id, by the name of the variable that carries it.
async fn everything(mesh: &Mesh, owner: &mut Person) -> Vec<(&'static str, String)> {
    let id = |answer: &Value, noun: &str, name: &str| answer[noun][name].as_str().expect("an id").to_owned();
    let pool = owner
        .caller
        .post("/v1/pools", json!({"name": format!("{CANARY}-pool")}))
        .await
        .ok();
    let pool = id(&pool, "pool", "id");
    let server = json!({"name": format!("{CANARY}-server"), "host": CANARY, "username": CANARY, "poolId": pool, "labels": {"a": CANARY}});
    let server = owner
        .caller
        .post("/v1/servers", json!({"server": server}))
        .await
        .ok();
    let server = id(&server, "server", "id");
    let agent = owner
        .caller
        .post(
            "/v1/agents",
            json!({"name": format!("{CANARY}-agent"), "poolId": pool}),
        )
        .await
        .ok();
    let rule = json!({"role": "ROLE_VIEWER", "serverId": server, "schemaName": CANARY, "tableName": CANARY, "effect": "EFFECT_DENY"});
    let rule = owner
        .caller
        .post("/v1/access-rules", json!({"rule": rule}))
        .await
        .ok();
    let key = owner
        .caller
        .post("/v1/keys", json!({"name": CANARY, "role": "ROLE_VIEWER"}))
        .await
        .ok();
    let upload = uploaded::begin(&owner.caller, &format!("{CANARY}-upload"), "kanarienvogel.000001").await;
    let body = json!({"email": format!("{CANARY}@example.com"), "role": "ROLE_VIEWER"});
    let invitation = owner.caller.post("/v1/invitations", body).await.ok();
    let sessions = owner.caller.get("/v1/account/sessions").await.ok();
    let mut member = Person::new(mesh, CANARY).await;
    owner.take_in(mesh, &mut member, "ROLE_ANALYST").await;
    vec![
        ("pool_id", pool),
        ("server_id", server.clone()),
        ("server.id", server),
        ("agent_id", id(&agent, "agent", "id")),
        ("rule_id", id(&rule, "rule", "id")),
        ("key_id", id(&key, "apiKey", "id")),
        ("upload_id", upload),
        ("invitation_id", id(&invitation, "invitation", "id")),
        (
            "session_id",
            sessions["sessions"][0]["id"].as_str().expect("an id").to_owned(),
        ),
        ("user_id", member.user_id),
    ]
}

/// An answer without what differs in each one: the request's id, and how much of a limit is left.
fn bare(answer: &Answer) -> String {
    let mut json = answer.json.clone();
    if let Some(details) = json.pointer_mut("/error/details").and_then(Value::as_array_mut) {
        details.retain(|detail| detail["requestId"].is_null());
    }
    format!("{} {json}", answer.status)
}

#[track_caller]
fn same(theirs: &Answer, nothing: &Answer, what: &str) {
    assert!(
        !theirs.text.contains(CANARY),
        "{what} shows another tenant's data: {}",
        theirs.text
    );
    assert!(!theirs.status.is_success(), "{what} worked: {}", theirs.text);
    assert_eq!(bare(theirs), bare(nothing), "{what} tells that the id exists");
}

#[tokio::test]
async fn the_ids_of_another_tenant_are_nonsense() {
    let mesh = Mesh::shared();
    let mut owner = Person::new(mesh, "alice").await;
    owner.found_tenant(CANARY).await;
    let things = everything(mesh, &mut owner).await;
    let mut stranger = Person::new(mesh, "bob").await;
    stranger.found_tenant("Bob's").await;

    in_paths(&stranger.caller, &things).await;
    of_an_upload(&stranger.caller, &things).await;
    in_bodies_and_queries(&stranger.caller, &things).await;
    // And after all that nothing of the first tenant is gone or changed.
    for (path, noun) in [
        ("/v1/servers", "servers"),
        ("/v1/pools", "pools"),
        ("/v1/agents", "agents"),
        ("/v1/access-rules", "rules"),
        ("/v1/uploads", "uploads"),
    ] {
        assert!(
            owner.caller.get(path).await.ok()[noun]
                .to_string()
                .contains(CANARY),
            "{path}"
        );
    }
    assert_eq!(
        owner.caller.get("/v1/members").await.ok()["members"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    // Lists of the stranger hold nothing of it either.
    for call in calls()
        .iter()
        .filter(|call| call.verb == Method::GET && !call.public)
    {
        let answer = stranger.caller.get(&call.url).await;
        assert!(!answer.text.contains(CANARY), "{}: {}", call.path, answer.text);
    }
}

/// Every method with an id in its path.
async fn in_paths(stranger: &Caller, things: &[(&str, String)]) {
    let mut tried = 0;
    for call in calls() {
        let mut url = call.url.clone();
        for (variable, id) in things {
            url = url.replace(&nonsense_id(variable), id);
        }
        if url == call.url {
            continue;
        }
        let body = match call.path.rsplit('/').next() {
            Some("SetMemberRole") => json!({"role": "ROLE_VIEWER"}),
            Some("BindRole") => json!({"role": "ROLE_VIEWER", "poolId": things[0].1}),
            Some("UpdateServer") => json!({"host": "elsewhere"}),
            _ => json!({}),
        };
        let body = call.takes_body.then_some(body);
        let theirs = stranger
            .call_with(call.verb.clone(), &url, "", body.as_ref())
            .await;
        let nothing = stranger
            .call_with(call.verb.clone(), &call.url, "", body.as_ref())
            .await;
        same(&theirs, &nothing, &call.path);
        tried += 1;
    }
    assert!(tried > 12, "only {tried} methods have an id in their path");
}

/// The id of one of them.
fn of<'t>(things: &'t [(&str, String)], variable: &str) -> &'t str {
    let found = things.iter().find(|(name, _)| *name == variable);
    found.map(|(_, id)| id.as_str()).expect("one")
}

/// An upload where a server could be named, and where its bytes go.
async fn of_an_upload(stranger: &Caller, things: &[(&str, String)]) {
    let (theirs, nowhere) = (of(things, "upload_id"), nonsense_id("upload_id"));
    let mut tried = 0;
    for call in calls() {
        let named = |id: &str| call.url.replace(&nonsense_id("server"), id);
        if !call.path.contains(".QueryService/") && !call.path.contains(".RecoveryService/")
            || named("") == call.url
        {
            continue;
        }
        let body = call.takes_body.then(|| json!({}));
        let [one, other] = [named(theirs), named(&nowhere)];
        let one = stranger
            .call_with(call.verb.clone(), &one, "", body.as_ref())
            .await;
        let other = stranger
            .call_with(call.verb.clone(), &other, "", body.as_ref())
            .await;
        same(&one, &other, &call.path);
        tried += 1;
    }
    assert!(tried > 10, "only {tried} methods take a server");
    let bytes = || b"\xfebin of somebody else".to_vec();
    let one = uploaded::send(stranger, theirs, bytes()).await;
    let other = uploaded::send(stranger, &nowhere, bytes()).await;
    same(&one, &other, "bytes");
}

/// The other places that take ids.
async fn in_bodies_and_queries(stranger: &Caller, things: &[(&str, String)]) {
    let theirs = |variable: &str| of(things, variable).to_owned();
    let pool = |id: &str| {
        vec![
            ("/v1/agents", json!({"name": "a", "poolId": id})),
            (
                "/v1/servers",
                json!({"server": {"name": "s", "host": "h", "username": "u", "poolId": id}}),
            ),
            (
                "/v1/invitations",
                json!({"email": "x@example.com", "role": "ROLE_VIEWER", "poolId": id}),
            ),
            (
                "/v1/keys",
                json!({"name": "k", "role": "ROLE_VIEWER", "poolIds": [id]}),
            ),
        ]
    };
    for ((path, one), (_, other)) in pool(&theirs("pool_id"))
        .into_iter()
        .zip(pool(&nonsense_id("pool_id")))
    {
        same(
            &stranger.post(path, one).await,
            &stranger.post(path, other).await,
            path,
        );
    }
    let rule = |id: &str| json!({"rule": {"role": "ROLE_VIEWER", "serverId": id, "schemaName": "s", "tableName": "t", "effect": "EFFECT_DENY"}});
    let path = "/v1/access-rules";
    let (one, other) = (rule(&theirs("server_id")), rule(&nonsense_id("server_id")));
    same(
        &stranger.post(path, one).await,
        &stranger.post(path, other).await,
        path,
    );
    let path = "/v1/uploads";
    let upload = |id: &str| json!({"name": "u", "file": "binlog.000001", "serverId": id});
    let (one, other) = (upload(&theirs("server_id")), upload(&nonsense_id("server_id")));
    same(
        &stranger.post(path, one).await,
        &stranger.post(path, other).await,
        path,
    );
    let explain = |id: &str| {
        format!("/v1/access-rules:explain?role=ROLE_VIEWER&serverId={id}&schemaName=s&tableName=t")
    };
    let one = stranger.get(&explain(&theirs("server_id"))).await;
    let other = stranger.get(&explain(&nonsense_id("server_id"))).await;
    assert_eq!(bare(&one), bare(&other));
    for list in ["/v1/servers", "/v1/agents"] {
        let one = stranger
            .get(&format!("{list}?poolId={}", theirs("pool_id")))
            .await;
        let other = stranger
            .get(&format!("{list}?poolId={}", nonsense_id("pool_id")))
            .await;
        assert!(!one.text.contains(CANARY));
        assert_eq!(bare(&one), bare(&other), "{list}");
    }
}

#[tokio::test]
async fn another_tenants_name_in_the_header_is_nonsense() {
    let mesh = Mesh::shared();
    let mut owner = Person::new(mesh, "carol").await;
    let tenant = owner.found_tenant(CANARY).await;
    let mut stranger = Person::new(mesh, "dave").await;
    stranger.found_tenant("Dave's").await;
    let theirs = stranger.caller.within(&tenant);
    let nothing = stranger.caller.within("tnt_01j00000000000000000000000");
    for call in calls().iter().filter(|call| !call.public) {
        let body = call.takes_body.then(|| json!({}));
        let one = theirs
            .call_with(call.verb.clone(), &call.url, "", body.as_ref())
            .await;
        let other = nothing
            .call_with(call.verb.clone(), &call.url, "", body.as_ref())
            .await;
        same(&one, &other, &call.path);
    }
}
