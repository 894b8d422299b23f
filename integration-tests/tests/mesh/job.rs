//! The main job: a row's life, from the server's log through agent and mesh to the script that a person runs.

use std::path::Path;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::{Engine, Foreign, Server};
use tokio::task::block_in_place;

use crate::{
    apart::Apart,
    beside::{Beside, caught_up, register},
    person::Person,
};

/// A shop on a server of its own.
fn shop(engine: Engine, folder: &Path) -> Server {
    let server = Server::private(engine, &folder.join(engine.name()), &[]);
    server.sql(
        "CREATE DATABASE shop CHARACTER SET utf8mb4; \
         CREATE TABLE shop.orders (id INT PRIMARY KEY, status VARCHAR(20), total DECIMAL(10,2), email VARCHAR(80), note BLOB); \
         CREATE TABLE shop.secrets (id INT PRIMARY KEY, pin VARCHAR(20))",
    );
    server
}

/// Everything in the shop.
fn rows(server: &Server) -> String {
    server.sql("SELECT id, status, total, email, HEX(note) FROM shop.orders ORDER BY id; SELECT * FROM shop.secrets ORDER BY id")
}

fn changes(answer: &Value) -> &Vec<Value> {
    answer["changes"].as_array().expect("changes")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_lives_is_lost_and_comes_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let apart = block_in_place(Apart::start);
    let mut owner = Person::new(&apart.place, "owner").await;
    owner.found_tenant("The shop").await;
    let agent = Beside::start(&apart.place, &mut owner, "beside").await;
    for engine in [Engine::Mariadb, Engine::Mysql8] {
        let server = block_in_place(|| shop(engine, folder.path()));
        let name = engine.name();
        let id = register(&mut owner, name, &server).await;
        let status = caught_up(&owner, name, &server).await;
        assert_eq!(status["agentId"], agent.id);
        let before = block_in_place(|| lives_and_is_lost(&server));
        assert_ne!(before, block_in_place(|| rows(&server)));
        caught_up(&owner, name, &server).await;
        let accident = found(&owner, &agent, name, &id).await;
        let plan = planned(&owner, name, &accident).await;
        let script = script_of(&owner, &plan).await;
        for who in Foreign::here() {
            foreign(&apart, &mut owner, name, who, &script).await;
        }

        // A person reads it and runs it.
        let ran = block_in_place(|| server.run(script.as_bytes(), &[]));
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(ran.status.success(), "{said}\n{script}");
        assert_eq!(before, block_in_place(|| rows(&server)), "{name}");

        // The script's own changes touched the plan's rows: it is stale now, and the script would do nothing.
        caught_up(&owner, name, &server).await;
        let kept = owner.caller.get(&format!("/v1/undo-plans/{plan}")).await.ok();
        assert_eq!(kept["plan"]["state"], "PLAN_STATE_STALE", "{kept}");
        assert_eq!(script, script_of(&owner, &plan).await);
        let again = block_in_place(|| server.run(script.as_bytes(), &[]));
        assert!(!again.status.success());
        assert_eq!(before, block_in_place(|| rows(&server)), "{name}");
    }
    assert_eq!(listed(&apart, &mut owner).await, ["mariadb", "mysql8"]);
    assert!(!agent.log().contains("example.com"), "{}", agent.log());
    // Who did it is in the log.
    let log = owner.caller.get("/v1/audit?pageSize=100").await.ok().to_string();
    for method in [
        "RecoveryService/PlanUndo",
        "RecoveryService/GetScript",
        "QueryService/QueryChanges",
    ] {
        assert!(log.contains(method), "{method}: {log}");
    }
}

/// What happens in the shop; gives what it held before the accident.
fn lives_and_is_lost(server: &Server) -> String {
    server.sql(
        "INSERT INTO shop.orders VALUES (1, 'new', 9.90, 'a@example.com', x'00FF'), (2, 'paid', 20.00, 'b@example.com', NULL); \
         INSERT INTO shop.secrets VALUES (1, '1234'); \
         UPDATE shop.orders SET status = 'paid' WHERE id = 1",
    );
    let before = rows(server);
    server.sql(
        "START TRANSACTION; UPDATE shop.orders SET status = 'lost', note = x'01'; \
         DELETE FROM shop.orders WHERE id = 2; COMMIT",
    );
    before
}

/// What changed, by name and by id of the server: the same rows as beside the database. Gives where the accident's transaction begins.
async fn found(owner: &Person, agent: &Beside, name: &str, id: &str) -> String {
    let filter = json!({"filter": {"tables": [{"schema": "shop", "table": "orders"}]}});
    let ask = async |server: &str| {
        let path = format!("/v1/servers/{server}/changes:query");
        owner.caller.post(&path, filter.clone()).await.ok()
    };
    let (found, by_id) = (ask(name).await, ask(id).await);
    assert_eq!(changes(&found), changes(&by_id));
    assert_eq!(found["coverage"]["complete"], true, "{found}");
    assert_eq!(changes(&found).len(), 6, "{found}");
    let local = block_in_place(|| local(agent, id));
    assert_eq!(changes(&found), local.as_array().expect("changes"), "{name}");
    let accident = &changes(&found)[0];
    assert_eq!(
        (&accident["op"], &accident["before"]["status"]),
        (&json!("delete"), &json!("lost"))
    );
    let file = accident["position"]["file"].as_str().expect("a file");
    format!("{file}:{}", accident["position"]["offset"])
}

/// All of the transaction, and the plan that undoes it; gives the plan's id.
async fn planned(owner: &Person, name: &str, at: &str) -> String {
    let path = format!("/v1/servers/{name}/changes:transaction");
    let transaction = owner.caller.post(&path, json!({"transaction": at})).await.ok();
    assert_eq!(changes(&transaction).len(), 3, "{transaction}");
    let path = format!("/v1/servers/{name}/undo-plans");
    let body = json!({"filter": {"transaction": at}});
    let planned = owner.caller.post(&path, body).await.ok();
    let plan = &planned["plan"];
    assert_eq!(
        (&plan["summary"]["changes"], &plan["summary"]["included"]),
        (&json!("3"), &json!("3")),
        "{planned}"
    );
    plan["id"].as_str().expect("an id").to_owned()
}

async fn script_of(owner: &Person, plan: &str) -> String {
    let script = owner.caller.get(&format!("/v1/undo-plans/{plan}/script")).await;
    assert_eq!(script.status, StatusCode::OK, "{}", script.text);
    script.text
}

/// The same by a client that nobody here wrote.
async fn foreign(apart: &Apart, owner: &mut Person, server: &str, who: Foreign, script: &str) {
    let body = json!({"name": format!("{who:?}-{server}").to_lowercase(), "role": "ROLE_OPERATOR"});
    let key = owner.confirmed(Method::POST, "/v1/keys", Some(body)).await.ok();
    let task = json!({
        "target": apart.place.url.trim_start_matches("https://"),
        "ca": apart.place.authority(),
        "protos": [Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto")],
        "key": key["secret"],
        "server": server,
    });
    let text = tokio::task::spawn_blocking(move || who.run("job", &task.to_string()))
        .await
        .expect("a script that ends");
    let results: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        results["newest"],
        json!({
            "op": "OP_DELETE", "more": true, "complete": true,
            "before": {"id": 2, "status": "lost", "total": "20.00", "email": "b@example.com", "note": "01"},
        }),
        "{who:?}"
    );
    assert_eq!(
        (&results["streamed"], &results["followed"]),
        (&json!(6), &json!("OP_DELETE")),
        "{who:?}"
    );
    assert_eq!(results["plan"], json!({"included": 3, "conflicts": 0}), "{who:?}");
    assert_eq!(results["script"]["digests"], json!([true, true, true]), "{who:?}");
    assert_eq!(results["script"]["text"], script, "{who:?}");
}

/// The names that `trail servers` lists.
async fn listed(apart: &Apart, owner: &mut Person) -> Vec<String> {
    let body = json!({"name": "lister", "role": "ROLE_VIEWER"});
    let key = owner.confirmed(Method::POST, "/v1/keys", Some(body)).await.ok();
    let mut trail = std::process::Command::new(crate::beside::trail());
    trail
        .args(["servers", "--format", "json"])
        .env("TRAIL_MESH", &apart.place.url)
        .env("TRAIL_CA", apart.place.authority())
        .env("TRAIL_API_KEY", key["secret"].as_str().expect("a key"));
    let output = block_in_place(|| trail.output().expect("trail runs"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let servers = report["servers"].as_array().expect("servers").iter();
    servers
        .map(|server| server["name"].as_str().expect("a name").to_owned())
        .collect()
}

/// What `trail changes --format json` says on the agent's own machine.
fn local(agent: &Beside, server: &str) -> Value {
    let store = agent.folder.path().join("agent/stores").join(server);
    let output = std::process::Command::new(crate::beside::trail())
        .args(["changes", "shop.orders", "--format", "json", "--store"])
        .arg(store)
        .output()
        .expect("trail runs");
    serde_json::from_slice(&output.stdout).expect("JSON")
}
