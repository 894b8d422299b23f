//! Rows that stand under another name than the one that a rule hides.

use prost::Message as _;
use proto::{change::v1 as change, query::v1 as pb};
use tonic::Code;
use types::{Context, Role};

use crate::{
    neighbours::deny,
    pages::{of, tables},
    store::{Store, row, table},
    world::{No, World},
};

const CANARY: &str = "canary-salary";

fn is_denied(answer: Result<impl std::fmt::Debug, No>) {
    let no = answer.unwrap_err();
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::PermissionDenied, "TABLE_DENIED")
    );
}

/// `hr.pay` with a row, and `hr.people`.
fn pay(world: &World) -> Store {
    let mut store = Store::new(&world.folder.path().join("store"));
    for name in [
        "hr.pay",
        "hr.pay_old",
        "hr._pay_gho",
        "hr.like",
        "hr.people",
        "hr.parted",
        "hr.salaries",
    ] {
        store.defines(table(name, &["salary"], &[0]));
    }
    store.commits(&[
        ("hr.pay", None, Some(row(1, &[CANARY]))),
        ("hr.people", None, Some(row(1, &["eve"]))),
    ]);
    store
}

async fn query(
    world: &World,
    person: &Context,
    server: &str,
    filter: change::Filter,
) -> Result<pb::QueryChangesResponse, No> {
    let asked = pb::QueryChangesRequest {
        server: server.to_owned(),
        filter: Some(filter),
        ..Default::default()
    };
    world.ask(person, asked).await
}

/// The same with other tables that have rows of it, or are made to have them.
fn moved(world: &World) -> Store {
    let mut store = pay(world);
    store.commits(&[("hr._pay_gho", None, Some(row(2, &[CANARY])))]);
    store.runs("hr.like", "CREATE TABLE `like` LIKE pay");
    store.commits(&[("hr.like", None, Some(row(3, &[CANARY])))]);
    store.runs(
        "hr.parted",
        "ALTER TABLE parted EXCHANGE PARTITION p WITH TABLE pay",
    );
    store.commits(&[("hr.parted", None, Some(row(4, &[CANARY])))]);
    store.runs("hr.pay", "ALTER TABLE salaries RENAME TO pay");
    store.commits(&[("hr.salaries", None, Some(row(6, &[CANARY])))]);
    store.runs(
        "hr.pay",
        "RENAME TABLE people TO tmp, pay TO pay_old, tmp TO people",
    );
    store.commits(&[("hr.pay_old", None, Some(row(5, &[CANARY])))]);
    store.sync();
    store
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_table_stays_hidden_under_the_names_that_it_had_and_that_tools_give_it() {
    let mut world = World::new().await;
    let store = moved(&world);
    let server = world.server(store.path(), &[deny("hr.pay", &[])]);
    world.connect().await;
    let (analyst, operator) = (world.person(Role::Analyst), world.person(Role::Operator));
    for name in ["pay", "_pay_gho", "like", "parted", "pay_old", "salaries"] {
        assert!(
            !query(&world, &operator, &server, tables(&[("hr", name)]))
                .await
                .unwrap()
                .changes
                .is_empty()
        );
        is_denied(query(&world, &analyst, &server, tables(&[("hr", name)])).await);
        let asked = pb::CountChangesRequest {
            server: server.clone(),
            filter: Some(tables(&[("hr", name)])),
            limit: 0,
        };
        is_denied(world.ask(&analyst, asked).await);
        let asked = pb::GetRowHistoryRequest {
            server: server.clone(),
            table: Some(of("hr", name)),
            key: "1".into(),
            ..Default::default()
        };
        is_denied(world.ask(&analyst, asked).await);
    }
    for filter in [tables(&[]), tables(&[("hr", "")])] {
        let page = query(&world, &analyst, &server, filter.clone()).await.unwrap();
        assert_eq!(page.changes.len(), 1);
        assert_eq!(page.changes[0].table, "people");
        let asked = pb::StreamChangesRequest {
            server: server.clone(),
            filter: Some(filter),
            ..Default::default()
        };
        let frames = world.all(&analyst, asked).await.unwrap();
        assert_eq!(frames.iter().map(|frame| frame.changes.len()).sum::<usize>(), 1);
    }
    let asked = pb::GetTransactionRequest {
        server: server.clone(),
        transaction: "0-1-9".into(),
        ..Default::default()
    };
    let answer = world.ask(&analyst, asked).await.unwrap();
    assert!(!format!("{answer:?}").contains(CANARY) && answer.redacted);
    let asked = pb::ListTablesRequest {
        server: server.clone(),
    };
    let listed = world.ask(&analyst, asked).await.unwrap();
    assert_eq!((listed.tables.len(), listed.tables_hidden), (1, 6));
    let asked = pb::ListSchemaChangesRequest {
        server,
        ..Default::default()
    };
    let listed = world.ask(&analyst, asked).await.unwrap().encode_to_vec();
    assert!(!listed.windows(3).any(|word| word == b"pay"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_for_the_name_of_today_hides_what_was_written_under_the_name_of_yesterday() {
    let mut world = World::new().await;
    let mut store = pay(&world);
    store.runs("hr.pay", "RENAME TABLE pay TO pay_old");
    store.runs("hr.pay_old", "ALTER TABLE pay_old RENAME COLUMN salary TO wage");
    store.sync();
    let hidden = world.server(store.path(), &[deny("hr.pay_old", &[])]);
    let partly = world.server(store.path(), &[deny("hr.pay_old", &["wage"])]);
    world.connect().await;
    let analyst = world.person(Role::Analyst);
    is_denied(query(&world, &analyst, &hidden, tables(&[("hr", "pay")])).await);
    let page = query(&world, &analyst, &partly, tables(&[("hr", "pay")]))
        .await
        .unwrap();
    assert_eq!(
        (page.changes.len(), page.changes[0].redacted.clone()),
        (1, vec!["salary".to_owned()])
    );
    assert!(!format!("{page:?}").contains(CANARY));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_renamed_while_it_is_hidden_and_somebody_follows_stays_hidden() {
    let mut world = World::new().await;
    let mut store = pay(&world);
    store.sync();
    let server = world.server(store.path(), &[deny("hr.pay", &[])]);
    world.connect().await;
    let asked = pb::FollowChangesRequest {
        server,
        last: 1,
        ..Default::default()
    };
    let analyst = world.person(Role::Analyst);
    let mut stream = world.stream(&analyst, asked, 30).await.unwrap();
    while stream.message().await.unwrap().unwrap().changes.is_empty() {}
    for id in 10..15 {
        // Another name each time, one that was seen before among them: the statement and the rows come at once.
        let (from, to) = [("pay", "people"), ("people", "pay")][usize::from(id % 2 == 1)];
        let text = format!("RENAME TABLE {to} TO like_{id}, {from} TO {to}");
        store.runs("hr.pay", &text);
        store.commits(&[("hr.people", None, Some(row(id, &[CANARY])))]);
        store.defines(table("hr.seen", &["note"], &[0]));
        store.commits(&[("hr.seen", None, Some(row(id, &["seen"])))]);
        store.sync();
        loop {
            let frame = stream.message().await.unwrap().unwrap();
            assert!(!format!("{frame:?}").contains(CANARY), "{id}");
            if frame.changes.iter().any(|change| change.table == "seen") {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_comes_while_somebody_follows_hides_a_table_by_the_name_that_it_had() {
    let mut world = World::new().await;
    let mut followed = Vec::new();
    // Something is hidden before it comes, and nothing is.
    for (nth, rules) in [vec![deny("hr.people", &[])], Vec::new()].into_iter().enumerate() {
        let mut store = Store::new(&world.folder.path().join(format!("store-{nth}")));
        for name in ["hr.pay_old", "hr.seen"] {
            store.defines(table(name, &["note"], &[0]));
        }
        store.runs("hr.pay", "RENAME TABLE pay TO pay_old");
        store.commits(&[("hr.seen", None, Some(row(0, &["seen"])))]);
        store.sync();
        followed.push((world.server(store.path(), &rules), store));
    }
    world.connect().await;
    let analyst = world.person(Role::Analyst);
    for (server, mut store) in followed {
        let asked = pb::FollowChangesRequest {
            server: server.clone(),
            last: 1,
            ..Default::default()
        };
        let mut stream = world.stream(&analyst, asked, 30).await.unwrap();
        let mut shown = async |id: i32| {
            store.commits(&[("hr.pay_old", None, Some(row(id, &[CANARY])))]);
            let mark = format!("seen-{id}-");
            store.commits(&[("hr.seen", None, Some(row(id, &[&mark])))]);
            store.sync();
            let mut shown = false;
            loop {
                // It ends by its deadline if the rule never holds.
                let frame = stream.message().await.unwrap().unwrap();
                let told = format!("{frame:?}");
                shown |= told.contains(CANARY);
                if told.contains(&mark) {
                    return shown;
                }
            }
        };
        assert!(shown(1).await);
        world.neighbours.change(world.tenant, &server, |answer| {
            answer.rules = vec![deny("hr.pay", &[])];
        });
        let mut id = 2;
        while shown(id).await {
            id += 1;
        }
    }
}

/// What is told of a server's orders in few words, page by page, counted and streamed.
async fn in_short(world: &World, analyst: &Context, server: &str) -> Vec<String> {
    let mut all = Vec::new();
    for size in [0, 1, 2] {
        let asked = pb::QueryChangesRequest {
            server: server.to_owned(),
            filter: Some(tables(&[("shop", "orders")])),
            page_size: size,
            ..Default::default()
        };
        let page = world.ask(analyst, asked).await.unwrap();
        let kinds: Vec<_> = page
            .changes
            .iter()
            .map(|one| (one.op, one.changed.clone()))
            .collect();
        all.push(format!(
            "{kinds:?} {} {}",
            page.redacted,
            page.next_page_token.is_empty()
        ));
    }
    for ops in [vec![], vec![2], vec![1, 2], vec![1]] {
        for limit in [0, 1, 2, 3] {
            let filter = change::Filter {
                ops: ops.clone(),
                ..tables(&[])
            };
            let asked = pb::CountChangesRequest {
                server: server.to_owned(),
                filter: Some(filter),
                limit,
            };
            let count = world.ask(analyst, asked).await.unwrap();
            all.push(format!("{:?} {}", count.tables, count.more));
        }
    }
    let asked = pb::StreamChangesRequest {
        server: server.to_owned(),
        limit: 2,
        ..Default::default()
    };
    let frames = world.all(analyst, asked).await.unwrap();
    let names = frames
        .iter()
        .flat_map(|frame| &frame.changes)
        .map(|one| (one.table.clone(), one.op));
    all.push(format!(
        "{:?} {}",
        names.collect::<Vec<_>>(),
        frames.last().unwrap().more
    ));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_of_a_hidden_column_alone_is_neither_told_nor_counted() {
    let mut world = World::new().await;
    let mut told = Vec::new();
    let mut servers = Vec::new();
    for hidden_updates in [0, 7] {
        let folder = world.folder.path().join(format!("store-{hidden_updates}"));
        let mut store = Store::new(&folder);
        store.defines(table("shop.orders", &["status", "card"], &[0]));
        store.commits(&[("shop.orders", None, Some(row(1, &["new", "0"])))]);
        let edits: Vec<_> = (0..hidden_updates)
            .map(|number| {
                let [before, after] = [number, number + 1].map(|card| row(1, &["new", &card.to_string()]));
                ("shop.orders", Some(before), Some(after))
            })
            .collect();
        // Without them the transaction is about another table.
        store.defines(table("shop.other", &["note"], &[0]));
        let other = ("shop.other", None, Some(row(1, &["x"])));
        store.commits(&[edits, vec![other]].concat());
        store.commits(&[(
            "shop.orders",
            Some(row(1, &["new", "9"])),
            Some(row(1, &["paid", "9"])),
        )]);
        store.sync();
        servers.push(world.server(store.path(), &[deny("shop.orders", &["card"])]));
    }
    world.connect().await;
    let analyst = world.person(Role::Analyst);
    for server in &servers {
        told.push(in_short(&world, &analyst, server).await);
    }
    assert_eq!(told[0], told[1]);
    assert!(told[0].iter().any(|told| told.contains("updates: 1")));
}
