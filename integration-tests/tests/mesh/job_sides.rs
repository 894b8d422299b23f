//! The main job seen from its sides: by another tenant, by who may not see everything, and by who reads the disks.

mod disks;
mod house;
mod questions;
mod rows;
mod values;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use chassis::policy::Table;
use gateway::routes::Routes;
use serde_json::json;
use testkit::Redis;
use tokio::task::block_in_place;

use self::{
    disks::{files, listening},
    house::{House, Side},
    questions::{About, Heard, Protocol, Question, Restricted, plans, questions, read},
    values::{Values, holds, mark},
};
use crate::mesh::{Caller, Mesh, Place};

impl Side {
    fn about<'a>(&'a self, server: &'a str) -> About<'a> {
        About {
            server,
            plan: &self.plan,
            hidden: &self.rows.hidden,
            email: &self.rows.email,
            last: self.rows.last(),
        }
    }

    /// What nobody else may come to know.
    fn is_in(&self, bytes: &[u8]) -> BTreeSet<&str> {
        let mut all = self.rows.names_in(bytes);
        let ids = [
            &self.tenant,
            &self.server,
            &self.upload,
            &self.cellar,
            &self.plan,
            &self.agent.id,
        ];
        all.extend(ids.into_iter().filter(|id| holds(bytes, id)).map(String::as_str));
        all
    }
}

/// The two services' methods that the outside can call.
fn methods() -> BTreeSet<String> {
    let table = Arc::new(Table::load(proto::DESCRIPTOR_SET).expect("rules"));
    let routes = Routes::load(table).expect("routes");
    let paths = routes.http().map(|route| route.path.clone());
    paths
        .filter(|path| path.contains(".QueryService/") || path.contains(".RecoveryService/"))
        .collect()
}

#[track_caller]
fn are_all(asked: &[Question]) {
    let asked: BTreeSet<String> = asked.iter().map(|question| question.method.to_owned()).collect();
    let but: BTreeSet<String> = [plans().method.to_owned()].into();
    assert_eq!(asked.union(&but).cloned().collect::<BTreeSet<_>>(), methods());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_another_tenant_is_one_that_exists_nowhere() {
    let house = House::shared().await;
    let place = &house.apart.place;
    let [one, other] = &house.sides;
    for (me, they) in [(one, other), (other, one)] {
        let transactions = they.transactions(place).await;
        let first = &transactions[..1];
        let nowhere = About {
            plan: "pln_01j00000000000000000000000",
            ..they.about("srv_01j00000000000000000000000")
        };
        are_all(&questions(nowhere, first));
        let caller = me.owner(place);
        let pair = [(&caller, they.about(&they.server)), (&caller, nowhere)];
        same(they, pair, first, &[Protocol::Json, Protocol::GrpcWeb]).await;
        let no_upload = About {
            server: "upl_01j00000000000000000000000",
            ..nowhere
        };
        let pair = [(&caller, they.about(&they.upload)), (&caller, no_upload)];
        same(they, pair, first, &[Protocol::Json, Protocol::Grpc]).await;
        let nameless = About {
            server: "nobody-cellar",
            ..nowhere
        };
        let pair = [(&caller, they.about(&they.cellar)), (&caller, nameless)];
        same(they, pair, first, &[Protocol::Json]).await;
        let (inside, nowhere) = (
            caller.within(&they.tenant),
            caller.within("tnt_01j00000000000000000000000"),
        );
        let pair = [(&inside, they.about("shop")), (&nowhere, they.about("shop"))];
        same(they, pair, first, &[Protocol::Json]).await;

        // By the same name, and by places of the other's log, it gets its own.
        let mut own = Vec::new();
        for question in questions(me.about("shop"), &transactions)
            .iter()
            .chain([&plans()])
        {
            if !question.ends_for_an_owner() {
                continue;
            }
            let heard = question.ask(&caller, Protocol::Json).await.bytes();
            assert_eq!(they.is_in(&heard), BTreeSet::new(), "{}", question.name);
            own.extend(heard);
        }
        assert_eq!(me.rows.names_in(&own), me.rows.names());
        for path in [
            "servers",
            "agents",
            "undo-plans",
            "audit",
            "access-rules",
            "pools",
            "keys",
            "tenants",
            "uploads",
        ] {
            let answer = caller.get(&format!("/v1/{path}")).await;
            assert_eq!(they.is_in(answer.text.as_bytes()), BTreeSet::new(), "{path}");
        }
        a_page_is_its_tenants(place, me, they).await;
    }
}

/// Whatever is asked about what is `they`'s is refused as the same about nothing, to the byte.
async fn same(
    they: &Side,
    [theirs, nothing]: [(&Caller, About<'_>); 2],
    transactions: &[String],
    protocols: &[Protocol],
) {
    let pairs = questions(theirs.1, transactions).into_iter();
    let mut methods = BTreeSet::new();
    for (question, nonsense) in pairs.zip(questions(nothing.1, transactions)) {
        // Each question by each protocol, or one for each method.
        if protocols.len() == 1 && !methods.insert(question.method) {
            continue;
        }
        for protocol in protocols {
            let heard = question.ask(theirs.0, *protocol).await;
            let nothing = nonsense.ask(nothing.0, *protocol).await;
            let what = format!("{} by {protocol:?}", question.name);
            assert!(!nothing.is_ok(), "{what}: {}", nothing.body());
            assert_eq!(heard.bare(), nothing.bare(), "{what}");
            let found = they.is_in(&heard.bytes());
            assert_eq!(found, BTreeSet::new(), "{what}: {}", heard.body());
        }
    }
}

/// A token of another tenant's page opens nothing.
async fn a_page_is_its_tenants(place: &Place, me: &Side, they: &Side) {
    let path = "/v1/servers/shop/changes:query";
    let page = they.owner(place).post(path, json!({"pageSize": 1})).await.ok();
    let token = page["nextPageToken"].as_str().expect("a token");
    let answer = me
        .owner(place)
        .post(path, json!({"pageSize": 1, "pageToken": token}))
        .await;
    assert!(answer.status.is_client_error(), "{}", answer.text);
    assert_eq!(they.is_in(answer.text.as_bytes()), BTreeSet::new());
}

/// Denies `shop.orders`' card and note, `shop.people`'s key and a schema to analysts and operators, and waits until that counts.
async fn deny(place: &Place, side: &Side, analyst: &Caller, operator: &Caller) {
    let owner = side.session(place);
    for role in ["ROLE_ANALYST", "ROLE_OPERATOR"] {
        for (schema, table, columns) in [
            ("shop", "orders", &["card", "Note"][..]),
            ("shop", "people", &["email"]),
            (&side.rows.hidden, "*", &[]),
        ] {
            let rule = json!({
                "role": role, "schemaName": schema, "tableName": table, "columns": columns, "effect": "EFFECT_DENY",
            });
            owner.post("/v1/access-rules", json!({"rule": rule})).await.ok();
        }
    }
    let all = questions(side.about("shop"), &[]);
    let last = all
        .iter()
        .filter(|question| question.restricted == Restricted::Refused("TABLE_DENIED"));
    for question in last {
        for caller in [analyst, operator] {
            let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
            while question.ask(caller, Protocol::Json).await.is_ok() {
                assert!(tokio::time::Instant::now() < deadline, "{}", question.name);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_is_denied_is_in_no_byte_that_leaves_the_gateway() {
    let house = House::shared().await;
    let (place, side) = (&house.apart.place, &house.sides[0]);
    let [owner, analyst, operator] = side.keys(place);
    let (analyst, operator) = (&analyst, &operator);
    deny(place, side, analyst, operator).await;
    let mut all = questions(side.about("shop"), &side.transactions(place).await);
    are_all(&all);
    all.push(plans());
    the_owner_hears_everything(side, &owner, &all).await;
    // The same of a log of it that was uploaded; plans are the tenant's, whatever they are about.
    let uploaded = questions(side.about(&side.upload), &side.transactions(place).await);
    the_owner_hears_everything(side, &owner, &uploaded).await;
    all.extend(uploaded);
    for (caller, plans) in [(analyst, false), (operator, true)] {
        for protocol in Protocol::ALL {
            let mut heard = Vec::new();
            for question in &all {
                let answer = question.ask(caller, protocol).await;
                let what = format!("{} by {protocol:?} and {plans}", question.name);
                is_restricted(side, question, &answer, plans, &what);
                heard.extend(answer.bytes());
            }
            let open = &side.rows.open;
            assert_eq!(open.names_in(&heard), open.names(), "{protocol:?}");
        }
    }
    a_hidden_value_that_comes_while_somebody_follows(side, analyst, &owner).await;
}

/// So that what is looked for can be found.
async fn the_owner_hears_everything(side: &Side, owner: &Caller, all: &[Question]) {
    for protocol in [Protocol::Json, Protocol::GrpcWeb] {
        let mut heard = Vec::new();
        for question in all {
            if !question.ends_for_an_owner() {
                continue;
            }
            let answer = question.ask(owner, protocol).await;
            let may_be_nothing = question.name.contains("not") || question.name.contains("NOTE");
            assert!(
                answer.is_ok() || may_be_nothing,
                "{} by {protocol:?}: {}",
                question.name,
                answer.body()
            );
            heard.extend(answer.bytes());
        }
        assert_eq!(side.rows.names_in(&heard), side.rows.names(), "{protocol:?}");
    }
}

#[track_caller]
fn is_restricted(side: &Side, question: &Question, answer: &Heard, plans: bool, what: &str) {
    let found = side.rows.secret.names_in(&answer.bytes());
    assert_eq!(found, BTreeSet::new(), "{what}: {}", answer.body());
    if !plans && question.method.contains("RecoveryService") {
        assert!(answer.is_refused("ROLE_TOO_LOW"), "{what}: {}", answer.body());
        return;
    }
    match question.restricted {
        Restricted::Answered => assert!(answer.is_ok(), "{what}: {}", answer.body()),
        // Of native gRPC the trailers are not seen here, but those of a call that was refused at once are its head.
        Restricted::Refused(reason) => {
            assert!(answer.is_refused(reason), "{what}: {}", answer.body());
        }
        Restricted::Either => {}
    }
}

/// Follows by NDJSON and gRPC, restricted and not, while rows come.
async fn a_hidden_value_that_comes_while_somebody_follows(side: &Side, analyst: &Caller, owner: &Caller) {
    let all = questions(side.about("shop"), &[]);
    let follow = all
        .iter()
        .find(|question| question.method.ends_with("FollowChanges"))
        .expect("one");
    let come = Values::texts(&["cardlive", "live"], &mark());
    let (card, end) = (come.text("cardlive"), come.text("live"));
    let mut following = Vec::new();
    for caller in [analyst, owner] {
        for protocol in Protocol::ALL {
            let mut response = follow.begin(caller, protocol).await;
            let mut body = Vec::new();
            read(&mut response, &mut body, Some(side.rows.last()), "the beginning").await;
            following.push((caller.credential == owner.credential, protocol, response, body));
        }
    }
    block_in_place(|| {
        side.database.sql(&format!(
            "INSERT INTO shop.orders VALUES (7, 'new', '{0}', '{0}'); INSERT INTO {1}.pay VALUES (7, 7, '{0}'); \
             UPDATE shop.people SET email = '{0}'; INSERT INTO shop.stock VALUES (7, '{2}')",
            card, side.rows.hidden, end
        ));
    });
    for (sees_all, protocol, mut response, mut body) in following {
        read(&mut response, &mut body, Some(end), "what comes").await;
        assert_eq!(
            come.names_in(&body).contains("cardlive"),
            sees_all,
            "{protocol:?}"
        );
        let before = side.rows.secret.names_in(&body);
        assert_eq!(before.is_empty(), !sees_all, "{protocol:?}: {before:?}");
    }
}

/// No value of a row is in a place, which has what shows that it is the right one.
#[track_caller]
fn holds_no_row(side: &Side, name: &str, place: &[u8], has: &str) {
    assert!(has.is_empty() || holds(place, has), "{name} has no {has}");
    assert_eq!(side.rows.marks.find(place), Vec::<String>::new(), "{name}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_disk_but_the_agents_own_has_a_row() {
    let folder = tempfile::tempdir().expect("a folder");
    let redis = block_in_place(|| Redis::private(&folder.path().join("redis")));
    let mesh = block_in_place(|| {
        Mesh::start(&[
            ("TRAILMESH_LOG", "trace"),
            ("TRAILMESH_REDIS_URL", &redis.url),
            ("TRAILMESH_QUERY_STATISTICS_PAUSE", "1s"),
            ("TRAILMESH_GATEWAY_RATE_LIMITS", "enterprise=1000000/1000000"),
        ])
    });
    let side = Side::new(&mesh, &folder, "carol").await;
    everything_twice(&mesh, &side).await;

    // Numbers about tables are kept from time to time.
    let database = mesh.database.as_ref().expect("a database");
    let dump = block_in_place(|| {
        testkit::eventually("statistics of the tables", || {
            let dump = database.dump();
            holds(&dump, &side.rows.hidden).then_some(dump)
        })
    });
    holds_no_row(&side, "the database", &dump, &side.plan);
    holds_no_row(&side, "Redis", &block_in_place(|| redis.dump()), &side.agent.id);
    for (path, bytes) in files(&mesh.state)
        .iter()
        .chain(&files(&folder.path().join("redis")))
    {
        holds_no_row(&side, &path.display().to_string(), bytes, "");
    }
    let log = mesh.log();
    for logged in ["TRACE", "QueryService/StreamChanges"] {
        assert!(log.contains(logged), "the log has no {logged}");
    }
    let log = side.agent.log();
    holds_no_row(&side, "the agent's log", log.as_bytes(), "");
    let status = side.owner(&mesh).get("/v1/servers/shop/status").await;
    holds_no_row(&side, "the status", status.text.as_bytes(), &side.agent.id);

    // The rows are on the agent's disk, and nobody can call it.
    let own = side.agent.folder.path().join("agent");
    let stored: Vec<u8> = files(&own.join("stores"))
        .into_iter()
        .flat_map(|(_, bytes)| bytes)
        .collect();
    assert!(!side.rows.names_in(&stored).is_empty(), "the agent has no rows");
    let (listening, sockets) = listening(&own);
    assert!(sockets > 0, "the agent has no connection");
    assert_eq!(listening, Vec::<String>::new());
}

/// Asks everything, of a server that there is and of one that there is not, and wrongly too.
async fn everything_twice(place: &Place, side: &Side) {
    let owner = side.owner(place);
    let transactions = side.transactions(place).await;
    let mut heard = Vec::new();
    let mut methods = BTreeSet::new();
    for server in ["shop", "nobody"] {
        for question in questions(side.about(server), &transactions[..3]) {
            if !question.ends_for_an_owner() || server == "nobody" && !methods.insert(question.method) {
                continue;
            }
            for protocol in [Protocol::Json, Protocol::Grpc] {
                heard.extend(question.ask(&owner, protocol).await.bytes());
            }
        }
    }
    assert_eq!(side.rows.names_in(&heard), side.rows.names());
    // What an owner gets is passed on as it came; for who may not see everything each row is opened.
    let [_, analyst, operator] = side.keys(place);
    deny(place, side, &analyst, &operator).await;
    let (mut heard, mut methods) = (Vec::new(), BTreeSet::new());
    for question in questions(side.about("shop"), &transactions[..3]) {
        if methods.insert(question.method) {
            heard.extend(question.ask(&operator, Protocol::Json).await.bytes());
        }
    }
    assert_eq!(side.rows.open.names_in(&heard), side.rows.open.names());
    // A value where none belongs.
    let value = side.rows.last();
    for filter in [
        json!({"keys": [value]}),
        json!({"tables": [{"schema": value, "table": value}], "keys": [value]}),
        json!({"tables": [{"schema": "shop", "table": "orders"}], "keys": [value]}),
        json!({"column": value}),
        json!({"gtid": value}),
        json!({"transaction": value}),
    ] {
        for path in ["changes:query", "changes:stream", "changes:count"] {
            owner
                .post(&format!("/v1/servers/shop/{path}"), json!({"filter": filter}))
                .await;
        }
    }
}
