//! What access rules hide stays hidden, in every answer and against every way to ask about it.

use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, TestRunner},
};
use prost::Message as _;
use proto::{change::v1 as change, common::v1::Role as PbRole, query::v1 as pb, tenant::v1 as tenant};
use tonic::Code;
use types::{Context, PoolId, Role};

use crate::{
    neighbours::{allow, deny, rule},
    pages::{of, shop, tables},
    store::{Store, row, table},
    world::{No, World, eventually},
};

fn holds(bytes: &[u8], canary: &str) -> bool {
    bytes
        .windows(canary.len())
        .any(|window| window == canary.as_bytes())
}

/// What was asked, and the bytes of its answer, or why there is none.
type Answers = Vec<(String, Result<Vec<u8>, No>)>;

/// Everything that can be asked about a server.
async fn everything(world: &World, person: &Context, server: &str) -> Answers {
    let mut answers = by_filters(world, person, server).await;
    answers.extend(by_names(world, person, server).await);
    answers
}

macro_rules! ask {
    ($answers:ident, $world:ident, $person:ident, $name:expr, $request:expr) => {
        let answer = $world.ask($person, $request).await;
        $answers.push(($name.to_string(), answer.map(|answer| answer.encode_to_vec())));
    };
}

async fn by_filters(world: &World, person: &Context, server: &str) -> Answers {
    let mut answers = Vec::new();
    let server = server.to_owned();
    let mut filters = vec![
        change::Filter::default(),
        tables(&[("shop", "")]),
        tables(&[("shop", "orders")]),
        tables(&[("hr", "pay")]),
        tables(&[("shop", "orders"), ("hr", "")]),
    ];
    for column in ["card", "CARD", "status"] {
        filters.push(change::Filter {
            column: column.into(),
            ..change::Filter::default()
        });
    }
    for filter in filters {
        let name = format!("{:?} {:?}", filter.tables, filter.column);
        for order in [1, 2] {
            let asked = pb::QueryChangesRequest {
                server: server.clone(),
                filter: Some(filter.clone()),
                order,
                ..Default::default()
            };
            ask!(answers, world, person, format!("query {name}"), asked);
            let asked = pb::StreamChangesRequest {
                server: server.clone(),
                filter: Some(filter.clone()),
                order,
                ..Default::default()
            };
            let answer = world.all(person, asked).await;
            let bytes = answer.map(|all| all.iter().flat_map(|one| one.encode_to_vec()).collect());
            answers.push((format!("stream {name}"), bytes));
        }
        let asked = pb::CountChangesRequest {
            server: server.clone(),
            filter: Some(filter),
            limit: 0,
        };
        ask!(answers, world, person, format!("count {name}"), asked);
    }
    answers
}

async fn by_names(world: &World, person: &Context, server: &str) -> Answers {
    let mut answers = Vec::new();
    let server = server.to_owned();
    for gtid in ["0-1-1", "0-1-3", "0-1-4", "0-1-5"] {
        let asked = pb::GetTransactionRequest {
            server: server.clone(),
            transaction: gtid.into(),
            ..Default::default()
        };
        ask!(answers, world, person, format!("transaction {gtid}"), asked);
    }
    for table in [of("shop", "orders"), of("hr", "pay")] {
        let asked = pb::GetRowHistoryRequest {
            server: server.clone(),
            table: Some(table.clone()),
            key: "1".into(),
            ..Default::default()
        };
        ask!(answers, world, person, format!("history {table:?}"), asked);
        let asked = pb::BatchQueryRequest {
            server: server.clone(),
            queries: vec![pb::TableQuery {
                table: Some(table.clone()),
                ..Default::default()
            }],
        };
        ask!(answers, world, person, format!("batch {table:?}"), asked);
    }
    ask!(
        answers,
        world,
        person,
        "tables",
        pb::ListTablesRequest {
            server: server.clone()
        }
    );
    let asked = pb::ListSchemaChangesRequest {
        server: server.clone(),
        ..Default::default()
    };
    ask!(answers, world, person, "schema changes", asked);
    ask!(
        answers,
        world,
        person,
        "coverage",
        pb::GetCoverageRequest {
            server: server.clone()
        }
    );
    ask!(
        answers,
        world,
        person,
        "status",
        pb::GetServerStatusRequest { server }
    );
    answers
}

fn refused(answer: Result<impl std::fmt::Debug, No>) -> (Code, String) {
    let no = answer.unwrap_err();
    assert!(
        !no.message.contains("canary") && !no.message.contains("card"),
        "{no:?}"
    );
    (no.code, no.reason)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_column_is_in_no_answer_and_nothing_is_found_by_it() {
    let mut world = World::new().await;
    let store = shop(&world);
    let server = world.server(store.path(), &[deny("shop.orders", &["CARD"])]);
    world.connect().await;
    let (analyst, operator) = (world.person(Role::Analyst), world.person(Role::Operator));
    for (name, answer) in everything(&world, &analyst, &server).await {
        let bytes = answer.unwrap_or_else(|no| no.message.into_bytes());
        assert!(!holds(&bytes, "canary-card"), "{name}");
    }
    let query = |filter| pb::QueryChangesRequest {
        server: server.clone(),
        filter: Some(filter),
        ..Default::default()
    };
    let page = world
        .ask(&analyst, query(tables(&[("shop", "orders")])))
        .await
        .unwrap();
    // The update of the card alone is not told of.
    assert!(page.redacted && page.changes.len() == 3);
    let first = page.changes.last().unwrap();
    assert_eq!(first.redacted, ["card", "query"]);
    let newest = page.changes.first().unwrap();
    assert!(newest.changed == ["status"] && newest.after.as_ref().unwrap().cells.len() == 2);
    // Others see it.
    let page = world.ask(&operator, query(tables(&[("shop", "orders")]))).await;
    let page = page.unwrap();
    assert!(!page.redacted && holds(&page.encode_to_vec(), "canary-card-9"));
    // No oracle by a column, in any method that takes a filter.
    let by = |tables: &[(&str, &str)]| change::Filter {
        column: "cArd".into(),
        ..crate::pages::tables(tables)
    };
    let column = (Code::PermissionDenied, "COLUMN_DENIED".to_owned());
    for filter in [by(&[("shop", "orders")]), by(&[("shop", "")]), by(&[])] {
        assert_eq!(refused(world.ask(&analyst, query(filter.clone())).await), column);
        let asked = pb::CountChangesRequest {
            server: server.clone(),
            filter: Some(filter.clone()),
            limit: 1,
        };
        assert_eq!(refused(world.ask(&analyst, asked).await), column);
        let asked = pb::StreamChangesRequest {
            server: server.clone(),
            filter: Some(filter.clone()),
            ..Default::default()
        };
        assert_eq!(refused(world.all(&analyst, asked).await), column);
        let asked = pb::FollowChangesRequest {
            server: server.clone(),
            filter: Some(filter),
            ..Default::default()
        };
        let answer = world.stream(&analyst, asked, 5).await;
        assert_eq!(refused(answer.map(|_| "a stream")), column);
    }
    let asked = pb::BatchQueryRequest {
        server: server.clone(),
        queries: vec![pb::TableQuery {
            table: Some(of("shop", "orders")),
            filter: Some(by(&[])),
            ..Default::default()
        }],
    };
    assert_eq!(refused(world.ask(&analyst, asked).await), column);
    // A column that it sees is another matter.
    let seen = change::Filter {
        column: "status".into(),
        ..change::Filter::default()
    };
    let page = world.ask(&analyst, query(seen)).await.unwrap();
    assert_eq!(page.changes.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_is_asked_by_that_a_hidden_column_is_or_once_was_part_of() {
    let mut world = World::new().await;
    let mut store = Store::new(&world.folder.path().join("store"));
    store.defines(table("shop.orders", &["status", "card"], &[2]));
    store.commits(&[("shop.orders", None, Some(row(7, &["new", "4111"])))]);
    store.defines(table("shop.people", &["name", "card"], &[2]));
    store.commits(&[("shop.people", None, Some(row(7, &["eve", "4111"])))]);
    store.defines(table("shop.visits", &["card"], &[0]));
    store.commits(&[("shop.visits", None, Some(row(4111, &["x"])))]);
    // From here on the key is another one.
    store.runs(
        "shop.orders",
        "ALTER TABLE orders DROP PRIMARY KEY, ADD PRIMARY KEY (id)",
    );
    store.defines(table("shop.orders", &["status", "card"], &[0]));
    store.commits(&[("shop.orders", None, Some(row(4111, &["new", "x"])))]);
    store.sync();
    let server = world.server(store.path(), &[deny("*.*", &["card"])]);
    world.connect().await;
    let (analyst, operator) = (world.person(Role::Analyst), world.person(Role::Operator));
    let column = (Code::PermissionDenied, "COLUMN_DENIED".to_owned());
    for name in ["people", "orders", "Orders"] {
        // One that there is, one that there was, one that never was.
        for key in ["4111", "5222"] {
            for no in by_a_key(&world, &analyst, &server, name, key).await {
                assert_eq!(refused(no), column, "{name} {key}");
            }
        }
    }
    // Of what is not known nobody knows what its key was.
    for no in by_a_key(&world, &analyst, &server, "nothing", "1").await {
        assert_eq!(refused(no), column);
    }
    for found in by_a_key(&world, &analyst, &server, "visits", "4111").await {
        assert!(!found.unwrap().is_empty());
    }
    for found in by_a_key(&world, &operator, &server, "orders", "4111").await {
        assert!(!found.unwrap().is_empty());
    }
}

/// The answers to every question by a key of a table of `shop`.
async fn by_a_key(
    world: &World,
    person: &Context,
    server: &str,
    name: &str,
    key: &str,
) -> Vec<Result<Vec<u8>, No>> {
    let bare = change::Filter {
        keys: vec![key.into()],
        ..Default::default()
    };
    let filter = Some(change::Filter {
        tables: vec![of("shop", name)],
        ..bare.clone()
    });
    let server = server.to_owned();
    let page = pb::QueryChangesRequest {
        server: server.clone(),
        filter: filter.clone(),
        ..Default::default()
    };
    let count = pb::CountChangesRequest {
        server: server.clone(),
        filter: filter.clone(),
        limit: 0,
    };
    let history = pb::GetRowHistoryRequest {
        server: server.clone(),
        table: Some(of("shop", name)),
        key: key.into(),
        ..Default::default()
    };
    let batch = pb::BatchQueryRequest {
        server: server.clone(),
        queries: vec![pb::TableQuery {
            table: Some(of("shop", name)),
            filter: Some(bare),
            ..Default::default()
        }],
    };
    let stream = pb::StreamChangesRequest {
        server,
        filter,
        ..Default::default()
    };
    let frames = world.all(person, stream).await;
    let frames = frames.map(|all| all.iter().flat_map(|frame| frame.encode_to_vec()).collect());
    let mut answers = Vec::new();
    ask!(answers, world, person, "page", page);
    ask!(answers, world, person, "count", count);
    ask!(answers, world, person, "history", history);
    ask!(answers, world, person, "batch", batch);
    let unary = answers.into_iter().map(|(_, answer): (String, _)| answer);
    unary.chain([frames]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_table_is_in_no_answer_and_refused_where_it_is_named() {
    let mut world = World::new().await;
    let store = shop(&world);
    let server = world.server(store.path(), &[deny("hr.*", &[])]);
    world.connect().await;
    let analyst = world.person(Role::Analyst);
    for (name, answer) in everything(&world, &analyst, &server).await {
        let bytes = answer.unwrap_or_else(|no| no.message.into_bytes());
        assert!(!holds(&bytes, "canary-salary"), "{name}");
        assert!(!holds(&bytes, "pay"), "{name}");
    }
    let denied = (Code::PermissionDenied, "TABLE_DENIED".to_owned());
    for filter in [
        tables(&[("hr", "pay")]),
        // Whether there is one is not told either.
        tables(&[("hr", "nothing")]),
        tables(&[("hr", "")]),
        tables(&[("shop", "orders"), ("hr", "pay")]),
    ] {
        let asked = pb::QueryChangesRequest {
            server: server.clone(),
            filter: Some(filter.clone()),
            ..Default::default()
        };
        assert_eq!(refused(world.ask(&analyst, asked).await), denied);
        let asked = pb::FollowChangesRequest {
            server: server.clone(),
            filter: Some(filter.clone()),
            ..Default::default()
        };
        assert_eq!(refused(world.all(&analyst, asked).await), denied);
        let asked = pb::CountChangesRequest {
            server: server.clone(),
            filter: Some(filter),
            limit: 0,
        };
        assert_eq!(refused(world.ask(&analyst, asked).await), denied);
    }
    let asked = pb::ListSchemaChangesRequest {
        server: server.clone(),
        schema: "hr".into(),
        table: "pay".into(),
        ..Default::default()
    };
    assert_eq!(refused(world.ask(&analyst, asked).await), denied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_table_that_is_not_named_is_left_out_and_counted() {
    let mut world = World::new().await;
    let store = shop(&world);
    let server = world.server(store.path(), &[deny("hr.*", &[])]);
    world.connect().await;
    let analyst = world.person(Role::Analyst);
    let all = pb::QueryChangesRequest {
        server: server.clone(),
        ..Default::default()
    };
    let page = world.ask(&analyst, all).await.unwrap();
    assert!(page.redacted && page.changes.len() == 4);
    let asked = pb::CountChangesRequest {
        server: server.clone(),
        ..Default::default()
    };
    let count = world.ask(&analyst, asked).await.unwrap();
    assert_eq!((count.tables.len(), count.tables_hidden), (1, 1));
    let listed = world
        .ask(
            &analyst,
            pb::ListTablesRequest {
                server: server.clone(),
            },
        )
        .await
        .unwrap();
    assert_eq!((listed.tables.len(), listed.tables_hidden), (1, 1));
    let asked = pb::ListSchemaChangesRequest {
        server: server.clone(),
        ..Default::default()
    };
    let statements = world.ask(&analyst, asked).await.unwrap();
    assert_eq!((statements.schema_changes.len(), statements.hidden), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sees_no_table_is_answered_nothing_and_not_everything() {
    let mut world = World::new().await;
    let store = shop(&world);
    let server = world.server(store.path(), &[deny("*.*", &[])]);
    world.connect().await;
    let analyst = world.person(Role::Analyst);
    for (name, answer) in everything(&world, &analyst, &server).await {
        let bytes = answer.unwrap_or_else(|no| no.message.into_bytes());
        assert!(!holds(&bytes, "canary") && !holds(&bytes, "orders"), "{name}");
    }
    let all = pb::QueryChangesRequest {
        server,
        ..Default::default()
    };
    let page = world.ask(&analyst, all).await.unwrap();
    assert!(page.changes.is_empty() && page.redacted && page.coverage.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_counts_for_its_pool_and_rules_are_a_second_old_at_most() {
    let mut world = World::new().await;
    let store = shop(&world);
    let server = world.server(store.path(), &[]);
    world.connect().await;
    let all = pb::QueryChangesRequest {
        server: server.clone(),
        ..Default::default()
    };
    let (here, elsewhere) = (world.pool, PoolId::fresh());
    for (person, sees) in [
        (world.seated(None, &[(here, Role::Analyst)]), true),
        (world.seated(Some(Role::Viewer), &[(here, Role::Analyst)]), true),
        (
            world.seated(None, &[(here, Role::Viewer), (elsewhere, Role::Owner)]),
            false,
        ),
        (
            world.seated(Some(Role::Viewer), &[(elsewhere, Role::Analyst)]),
            false,
        ),
    ] {
        let answer = world.ask(&person, all.clone()).await;
        match sees {
            true => assert_eq!(answer.unwrap().changes.len(), 6),
            false => assert_eq!(refused(answer), (Code::NotFound, "SERVER_NOT_FOUND".to_owned())),
        }
    }
    // Another tenant's server is as missing as none.
    let mut stranger = world.person(Role::Owner);
    stranger.seat.as_mut().unwrap().tenant = types::TenantId::fresh();
    let missing = refused(world.ask(&stranger, all.clone()).await);
    assert_eq!(missing, (Code::NotFound, "SERVER_NOT_FOUND".to_owned()));
    let asked = world.neighbours.resolved();
    let analyst = world.person(Role::Analyst);
    world.ask(&analyst, all.clone()).await.unwrap();
    world.neighbours.change(world.tenant, &server, |known| {
        known.rules = vec![deny("*.*", &[])]
    });
    let changed = std::time::Instant::now();
    eventually("the rule", async || {
        let begun = changed.elapsed();
        let page = world.ask(&analyst, all.clone()).await.unwrap();
        assert!(page.changes.is_empty() || begun.as_millis() < 1_000);
        page.changes.is_empty().then_some(())
    })
    .await;
    assert!(world.neighbours.resolved() > asked);
    world.neighbours.change(world.tenant, &server, |known| {
        known.server.as_mut().unwrap().frozen = true;
    });
    eventually("the server to be frozen", async || {
        let no = world.ask(&analyst, all.clone()).await.err()?;
        assert_eq!(
            (no.code, no.reason.as_str()),
            (Code::FailedPrecondition, "SERVER_FROZEN")
        );
        Some(())
    })
    .await;
}

fn any_rule() -> impl Strategy<Value = tenant::AccessRule> {
    let place = prop::sample::select(vec!["shop.orders", "hr.pay", "shop.*", "*.*", "*.pay"]);
    let columns = prop::sample::subsequence(vec!["ID", "card", "Salary", "status"], 0..=2);
    let role = prop::sample::select(vec![PbRole::Analyst, PbRole::Operator]);
    (place, columns, role, any::<bool>()).prop_map(|(place, columns, role, denies)| {
        let effect = if denies {
            tenant::Effect::Deny
        } else {
            tenant::Effect::Allow
        };
        rule(effect, role, place, &columns)
    })
}

/// The rules in the words of the proto, without a line of the code that is tested.
fn shows(rules: &[tenant::AccessRule], role: PbRole, (schema, table): (&str, &str), column: &str) -> bool {
    let about = |rule: &&tenant::AccessRule| {
        rule.role() == role
            && ["*", schema].contains(&rule.schema_name.as_str())
            && ["*", table].contains(&rule.table_name.as_str())
    };
    let hit = |rule: &&tenant::AccessRule| {
        rule.columns.is_empty() || rule.columns.iter().any(|name| name.eq_ignore_ascii_case(column))
    };
    let of = |effect| {
        rules
            .iter()
            .filter(about)
            .filter(move |rule| rule.effect() == effect)
    };
    !of(tenant::Effect::Deny).any(|rule| hit(&rule))
        && (of(tenant::Effect::Allow).count() == 0 || of(tenant::Effect::Allow).any(|rule| hit(&rule)))
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_rules_no_byte_of_any_answer_has_a_hidden_value() {
    let mut world = World::new().await;
    let store = shop(&world);
    let mut runner = TestRunner::new(Config::default());
    let strategy = prop::collection::vec(any_rule(), 1..5);
    let mut cases = Vec::new();
    for _ in 0..5 {
        let rules = strategy.new_tree(&mut runner).unwrap().current();
        cases.push((world.server(store.path(), &rules), rules));
    }
    cases.push({
        let rules = vec![allow("shop.orders", &["id", "status"]), deny("hr.*", &["salary"])];
        (world.server(store.path(), &rules), rules)
    });
    world.connect().await;
    for (server, rules) in cases {
        for (role, pb_role) in [
            (Role::Analyst, PbRole::Analyst),
            (Role::Operator, PbRole::Operator),
        ] {
            let person = world.person(role);
            let mut hidden = Vec::new();
            if !shows(&rules, pb_role, ("shop", "orders"), "card") {
                hidden.push("canary-card");
            }
            if !shows(&rules, pb_role, ("hr", "pay"), "salary") {
                hidden.push("canary-salary");
            }
            for (name, answer) in everything(&world, &person, &server).await {
                let bytes = answer.unwrap_or_else(|no| no.message.into_bytes());
                for canary in &hidden {
                    assert!(!holds(&bytes, canary), "{canary} in {name} by {rules:?}");
                }
            }
        }
    }
}
