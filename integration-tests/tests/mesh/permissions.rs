//! Who may call what: every method of the protos × every kind of caller, against the running mesh.
//!
//! What happens is compared with a golden file, so that a change of any rule is seen in a review, and with the table of the product's
//! security page, typed here by hand. Calls carry an empty or nonsensical request: whoever may call is told so in another way than who may not.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, sync::Arc};

use chassis::policy::{CallerKind, Table};
use gateway::routes::Routes;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::{
    mesh::{Answer, Caller, Mesh},
    person::Person,
};

/// A method that the outside can call.
pub(crate) struct Call {
    /// `/package.Service/Method`
    pub(crate) path: String,
    pub(crate) verb: Method,
    /// With ids that exist nowhere.
    pub(crate) url: String,
    pub(crate) public: bool,
    pub(crate) takes_body: bool,
    pub(crate) step_up: chassis::policy::StepUp,
}

/// Every method of the protos that has an HTTP form, in order.
pub(crate) fn calls() -> Vec<Call> {
    let table = Arc::new(Table::load(proto::DESCRIPTOR_SET).expect("rules"));
    let routes = Routes::load(table).expect("routes");
    let mut calls: Vec<Call> = routes
        .http()
        .map(|route| {
            let form = route.http.as_ref().expect("an HTTP form");
            Call {
                path: route.path.clone(),
                verb: form.method.clone(),
                url: nonsense(&form.template.to_string()),
                public: route.rule.caller == CallerKind::Public,
                takes_body: matches!(form.method, Method::POST | Method::PATCH | Method::PUT),
                step_up: route.rule.step_up,
            }
        })
        .collect();
    calls.sort_by(|one, other| one.path.cmp(&other.path));
    assert!(calls.len() > 40, "only {} methods", calls.len());
    calls
}

/// The template with an id of the right form, but of nothing, for each variable.
fn nonsense(template: &str) -> String {
    let mut url = String::new();
    for part in template.split_inclusive(['{', '}']) {
        match part.strip_suffix('}') {
            Some(variable) => url.push_str(&nonsense_id(variable)),
            None => url.push_str(part.trim_end_matches('{')),
        }
    }
    url
}

pub(crate) fn nonsense_id(variable: &str) -> String {
    let prefix = match variable {
        "kind" => return "SECRET_KIND_DSN".to_owned(),
        "version" => return "77".to_owned(),
        "tenant_id" => "tnt",
        "sink_id" => "asn",
        "user_id" => "usr",
        "session_id" => "ses",
        "key_id" => "key",
        "server_id" | "server.id" | "server" => "srv",
        "plan_id" => "pln",
        "upload_id" => "upl",
        "pool_id" => "agp",
        "agent_id" => "agt",
        "rule_id" => "acr",
        "invitation_id" => "inv",
        other => panic!("which kind of id is {other}?"),
    };
    format!("{prefix}_01j00000000000000000000000")
}

/// In words: allowed, or how it was refused.
fn outcome(answer: &Answer) -> String {
    match answer.status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => answer.reason().to_owned(),
        StatusCode::NOT_FOUND if answer.reason() == "TENANT_NOT_FOUND" => answer.reason().to_owned(),
        StatusCode::BAD_REQUEST if answer.reason() == "TENANT_REQUIRED" => answer.reason().to_owned(),
        status => {
            assert!(!status.is_server_error(), "{status} {}", answer.text);
            assert_ne!(status, StatusCode::TOO_MANY_REQUESTS, "{}", answer.text);
            "may".to_owned()
        }
    }
}

/// Everybody who could want something of a tenant.
async fn callers(mesh: &Mesh) -> Vec<(&'static str, Caller)> {
    let mut owner = Person::new(mesh, "owner").await;
    owner.found_tenant("The tenant").await;
    let pool = owner
        .caller
        .post("/v1/pools", json!({"name": "north"}))
        .await
        .ok();
    let pool = pool["pool"]["id"].as_str().expect("a pool").to_owned();
    let mut callers = vec![("nobody", Caller::nobody(mesh))];
    for (name, role) in [
        ("viewer", "ROLE_VIEWER"),
        ("analyst", "ROLE_ANALYST"),
        ("operator", "ROLE_OPERATOR"),
        ("admin", "ROLE_ADMIN"),
    ] {
        let mut person = Person::new(mesh, name).await;
        owner.take_in(mesh, &mut person, role).await;
        callers.push((name, person.caller));
    }
    let mut north = Person::new(mesh, "north").await;
    let body = json!({"email": north.email, "role": "ROLE_OPERATOR", "poolId": pool});
    owner.caller.post("/v1/invitations", body).await.ok();
    let token = mesh.mailed_token(&north.email, "invit");
    north
        .caller
        .post("/v1/invitations:accept", json!({"token": token}))
        .await
        .ok();
    north.caller.tenant.clone_from(&owner.caller.tenant);
    callers.push(("pool operator", north.caller));

    let mut stranger = Person::new(mesh, "stranger").await;
    stranger.found_tenant("Another tenant").await;
    callers.push(("stranger", stranger.caller.within(&owner.caller.tenant)));

    for (name, body) in [
        ("key of all", json!({"name": "all", "role": "ROLE_OWNER"})),
        (
            "key to view",
            json!({"name": "view", "role": "ROLE_VIEWER", "scopes": ["tenant:view"]}),
        ),
        (
            "key for servers",
            json!({"name": "servers", "role": "ROLE_OPERATOR", "scopes": ["servers:manage"]}),
        ),
        (
            "key of a pool",
            json!({"name": "pool", "role": "ROLE_OPERATOR", "poolIds": [pool]}),
        ),
    ] {
        let made = owner.caller.post("/v1/keys", body).await.ok();
        callers.push((
            name,
            Caller::nobody(mesh).with(made["secret"].as_str().expect("a key")),
        ));
    }
    callers.push(("owner", owner.caller));
    callers
}

#[tokio::test]
async fn every_method_admits_and_refuses_every_kind_of_caller_as_written_down() {
    let mesh = Mesh::shared();
    let callers = callers(mesh).await;
    let mut table: BTreeMap<String, Vec<(&str, String)>> = BTreeMap::new();
    let mut calls = calls();
    // What ends sessions comes last.
    calls.sort_by_key(|call| call.path.ends_with("/LogOut"));
    for call in &calls {
        for (name, caller) in &callers {
            let body = json!({});
            let ask = || caller.call_with(call.verb.clone(), &call.url, "", call.takes_body.then_some(&body));
            let mut answer = ask().await;
            // A machine at work on other tests has let auth wait for two seconds, which says nothing of who asks.
            if answer.reason() == "AUTH_UNAVAILABLE" {
                answer = ask().await;
            }
            table
                .entry(call.path.clone())
                .or_default()
                .push((name, outcome(&answer)));
        }
    }
    holds_what_the_page_says(&table);
    let mut text = String::from(
        "# Who may call what, as the running mesh answers. Written by the test that reads it: see permissions.rs.\n",
    );
    for (path, outcomes) in &table {
        let _ = writeln!(text, "\n{path}");
        for (name, outcome) in outcomes {
            let _ = writeln!(text, "  {name:<16}{outcome}");
        }
    }
    compare("permissions.txt", &text);
}

/// The table "Capability / owner … viewer" of the first product page.
const PAGE: [(&str, &[&str], &str); 6] = [
    (
        "billing and tenant deletion",
        &[
            "TenantService/DeleteTenant",
            "BillingService/CreateCheckoutLink",
            "BillingService/CreatePortalLink",
        ],
        "owner",
    ),
    (
        "reading the audit log",
        &[
            "AuditService/ListAuditEntries",
            "AuditService/StreamAuditEntries",
            "AuditService/ExportAuditEntries",
            "AuditService/GetAuditHead",
        ],
        "analyst",
    ),
    (
        "user and role management",
        &[
            "MemberService/SetMemberRole",
            "MemberService/RemoveMember",
            "MemberService/InviteMember",
            "MemberService/BindRole",
        ],
        "admin",
    ),
    (
        "API key management",
        &[
            "ApiKeyService/CreateApiKey",
            "ApiKeyService/ListApiKeys",
            "ApiKeyService/RevokeApiKey",
        ],
        "admin",
    ),
    (
        "server management",
        &[
            "ServerService/RegisterServer",
            "ServerService/UpdateServer",
            "ServerService/DeleteServer",
            "ServerService/SetServerCredential",
            "ServerService/DeleteServerCredential",
        ],
        "operator",
    ),
    (
        "view servers and status",
        &[
            "ServerService/GetServer",
            "ServerService/ListServers",
            "AgentService/ListAgents",
        ],
        "viewer",
    ),
];

fn holds_what_the_page_says(table: &BTreeMap<String, Vec<(&str, String)>>) {
    let ladder = ["viewer", "analyst", "operator", "admin", "owner"];
    for (capability, methods, lowest) in PAGE {
        let from = ladder.iter().position(|role| *role == lowest).expect("a role");
        for method in methods {
            let (path, outcomes) = table
                .iter()
                .find(|(path, _)| path.ends_with(method))
                .expect("a method");
            for (step, role) in ladder.iter().enumerate() {
                let (_, outcome) = outcomes
                    .iter()
                    .find(|(name, _)| name == role)
                    .expect("an outcome");
                assert_eq!(
                    outcome == "may",
                    step >= from,
                    "{capability}: {path} as {role}: {outcome}"
                );
            }
        }
    }
}

/// Compares with a golden file, or writes it when `TRAILMESH_UPDATE_GOLDEN` is set.
pub(crate) fn compare(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    if std::env::var_os("TRAILMESH_UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, text).expect("a file");
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    for (line, (was, is)) in golden.lines().zip(text.lines()).enumerate() {
        assert_eq!(
            was,
            is,
            "golden/{name}, line {}: if this is meant, run the test with TRAILMESH_UPDATE_GOLDEN=1",
            line + 1
        );
    }
    assert_eq!(
        golden.lines().count(),
        text.lines().count(),
        "golden/{name}: run the test with TRAILMESH_UPDATE_GOLDEN=1"
    );
}
