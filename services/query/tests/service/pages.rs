//! Changes page by page, histories, transactions, counts, batches.

use std::collections::BTreeSet;

use proto::{change::v1 as change, query::v1 as pb};
use tonic::Code;
use types::Role;

use crate::{
    store::{Store, row, table},
    world::{Rpc, World},
};

/// `shop.orders` and `hr.pay`, with a value that is looked for in every hidden column, and in the texts of statements.
pub(crate) fn shop(world: &World) -> Store {
    let mut store = Store::new(&world.folder.path().join("store"));
    store.defines(table("shop.orders", &["status", "card"], &[0]));
    store.defines(table("hr.pay", &["salary"], &[0]));
    store.query(Some("INSERT INTO orders VALUES (1, 'new', 'canary-card-1')"));
    store.commits(&[
        ("shop.orders", None, Some(row(1, &["new", "canary-card-1"]))),
        ("shop.orders", None, Some(row(2, &["new", "canary-card-2"]))),
        ("hr.pay", None, Some(row(1, &["canary-salary-1"]))),
    ]);
    store.query(None);
    let paid = [
        row(1, &["new", "canary-card-1"]),
        row(1, &["paid", "canary-card-1"]),
    ];
    let [before, after] = paid;
    store.commits(&[("shop.orders", Some(before), Some(after))]);
    store.query(Some(
        "UPDATE orders JOIN pay SET card = 'canary-card-9', salary = 'canary-salary-2'",
    ));
    store.commits(&[
        (
            "shop.orders",
            Some(row(2, &["new", "canary-card-2"])),
            Some(row(2, &["new", "canary-card-9"])),
        ),
        (
            "hr.pay",
            Some(row(1, &["canary-salary-1"])),
            Some(row(1, &["canary-salary-2"])),
        ),
    ]);
    store.query(None);
    store.runs(
        "shop.orders",
        "ALTER TABLE orders ALTER card SET DEFAULT 'canary-card-0'",
    );
    store.runs(
        "hr.pay",
        "ALTER TABLE pay ALTER salary SET DEFAULT 'canary-salary-0'",
    );
    store.sync();
    store
}

pub(crate) fn of(schema: &str, table: &str) -> change::TableFilter {
    change::TableFilter {
        schema: schema.into(),
        table: table.into(),
    }
}

pub(crate) fn tables(names: &[(&str, &str)]) -> change::Filter {
    change::Filter {
        tables: names.iter().map(|(schema, table)| of(schema, table)).collect(),
        ..change::Filter::default()
    }
}

fn places(changes: &[change::Change]) -> Vec<(u64, u64)> {
    let places = changes.iter().map(|change| change.position.clone().unwrap());
    places.map(|place| (place.offset, place.ordinal)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_that_has_a_rule_is_served_and_knows_servers() {
    let world = World::new().await;
    let paths = [
        pb::QueryChangesRequest::PATH,
        pb::StreamChangesRequest::PATH,
        pb::FollowChangesRequest::PATH,
        pb::CountChangesRequest::PATH,
        pb::GetRowHistoryRequest::PATH,
        pb::GetTransactionRequest::PATH,
        pb::BatchQueryRequest::PATH,
        pb::ListTablesRequest::PATH,
        pb::ListSchemaChangesRequest::PATH,
        pb::GetCoverageRequest::PATH,
        pb::GetServerStatusRequest::PATH,
    ];
    let paths: BTreeSet<String> = paths.into_iter().map(ToOwned::to_owned).collect();
    assert_eq!(world.methods().into_iter().collect::<BTreeSet<_>>(), paths);
    let person = world.person(Role::Owner);
    macro_rules! missing {
        ($($request:ident)*) => {$(
            let no = world.ask(&person, pb::$request { server: "nothing".into(), ..Default::default() }).await.unwrap_err();
            assert_eq!((no.code, no.reason.as_str()), (Code::NotFound, "SERVER_NOT_FOUND"), stringify!($request));
        )*};
    }
    missing!(QueryChangesRequest CountChangesRequest GetRowHistoryRequest GetTransactionRequest BatchQueryRequest);
    missing!(ListSchemaChangesRequest StreamChangesRequest FollowChangesRequest);
    let asked = pb::ListTablesRequest {
        server: "nothing".into(),
    };
    assert_eq!(world.ask(&person, asked).await.unwrap_err().code, Code::NotFound);
    let asked = pb::GetCoverageRequest {
        server: "nothing".into(),
    };
    assert_eq!(world.ask(&person, asked).await.unwrap_err().code, Code::NotFound);
    let asked = pb::GetServerStatusRequest {
        server: "nothing".into(),
    };
    assert_eq!(world.ask(&person, asked).await.unwrap_err().code, Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_have_every_change_once_and_a_token_belongs_to_its_question() {
    let mut world = World::new().await;
    let store = shop(&world);
    let server = world.server(store.path(), &[]);
    world.connect().await;
    let person = world.person(Role::Analyst);
    for order in [change::Order::Newest, change::Order::Oldest] {
        let ask = |token: String, filter: change::Filter| pb::QueryChangesRequest {
            server: server.clone(),
            filter: Some(filter),
            order: order.into(),
            page_size: 2,
            page_token: token,
        };
        let (mut token, mut found) = (String::new(), Vec::new());
        loop {
            let page = world
                .ask(&person, ask(token.clone(), change::Filter::default()))
                .await
                .unwrap();
            assert!(page.changes.len() <= 2 && page.coverage.unwrap().complete && !page.redacted);
            found.extend(page.changes);
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
            let no = world
                .ask(&person, ask(token.clone(), tables(&[("hr", "pay")])))
                .await;
            let no = no.unwrap_err();
            assert_eq!(
                (no.reason.as_str(), no.field.as_str()),
                ("FILTER_INVALID", "page_token")
            );
        }
        let mut expected = places(&found);
        expected.sort_unstable();
        expected.dedup();
        assert_eq!(expected.len(), 6);
        if order == change::Order::Newest {
            expected.reverse();
        }
        assert_eq!(places(&found), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_ends_after_a_mebibyte() {
    let mut world = World::new().await;
    let mut store = Store::new(&world.folder.path().join("store"));
    store.defines(table("shop.orders", &["status", "card"], &[0]));
    let long = "x".repeat(50_000);
    for id in 0..60 {
        store.commits(&[("shop.orders", None, Some(row(id, &["new", &long])))]);
    }
    store.sync();
    let server = world.server(store.path(), &[]);
    let hidden = world.server(
        store.path(),
        &[crate::neighbours::deny("shop.orders", &["status"])],
    );
    world.connect().await;
    let person = world.person(Role::Analyst);
    for server in [server, hidden] {
        let ask = pb::QueryChangesRequest {
            server,
            ..Default::default()
        };
        let page = world.ask(&person, ask).await.unwrap();
        assert!((18..=24).contains(&page.changes.len()), "{}", page.changes.len());
        assert!(!page.next_page_token.is_empty() && page.coverage.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rows_history_and_a_transaction() {
    let mut world = World::new().await;
    let store = shop(&world);
    let server = world.server(store.path(), &[]);
    world.connect().await;
    let person = world.person(Role::Analyst);
    let asked = pb::GetRowHistoryRequest {
        server: server.clone(),
        table: Some(of("shop", "orders")),
        key: "1".into(),
        ..Default::default()
    };
    let history = world.ask(&person, asked).await.unwrap();
    assert_eq!(history.changes.len(), 2);
    assert_eq!(history.changes[0].op(), change::Op::Update);
    let asked = pb::GetTransactionRequest {
        server: server.clone(),
        transaction: "0-1-1".into(),
        ..Default::default()
    };
    let transaction = world.ask(&person, asked).await.unwrap();
    assert_eq!(transaction.changes.len(), 3);
    assert!(transaction.changes[0].query.is_some() && !transaction.redacted);
    let asked = pb::GetTransactionRequest {
        server: server.clone(),
        transaction: "0-1-99".into(),
        ..Default::default()
    };
    let no = world.ask(&person, asked).await.unwrap_err();
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::NotFound, "TRANSACTION_NOT_FOUND")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_a_batch_and_what_they_rest_on() {
    let mut world = World::new().await;
    let store = shop(&world);
    let server = world.server(store.path(), &[]);
    world.connect().await;
    let person = world.person(Role::Analyst);
    let asked = pb::CountChangesRequest {
        server: server.clone(),
        ..Default::default()
    };
    let count = world.ask(&person, asked).await.unwrap();
    assert_eq!(
        (count.tables.len(), count.tables_hidden, count.more),
        (2, 0, false)
    );
    let query = |table| pb::TableQuery {
        table: Some(of("shop", table)),
        limit: 1,
        ..Default::default()
    };
    let asked = pb::BatchQueryRequest {
        server: server.clone(),
        queries: vec![query("orders"); 10],
    };
    let batch = world.ask(&person, asked.clone()).await.unwrap();
    assert_eq!(batch.answers.len(), 10);
    assert!(
        batch
            .answers
            .iter()
            .all(|answer| answer.changes.len() == 1 && answer.more)
    );
    for count in [0, 11] {
        let asked = pb::BatchQueryRequest {
            queries: vec![query("orders"); count],
            ..asked.clone()
        };
        let no = world.ask(&person, asked).await.unwrap_err();
        assert_eq!(
            (no.reason.as_str(), no.field.as_str()),
            ("FILTER_INVALID", "queries")
        );
    }
    let asked = pb::GetServerStatusRequest {
        server: server.replace("srv_", "db-"),
    };
    let answer = world.answer(&person, asked, 30).await.unwrap();
    let about = answer.metadata().get("trailmesh-server-id").unwrap();
    assert_eq!(
        about.to_str().unwrap(),
        server,
        "the audit log needs the id, whatever was asked by"
    );
    let name = server.replace("srv_", "db-");
    let asked = pb::QueryChangesRequest {
        server: name.clone(),
        page_token: "made up".to_owned(),
        ..Default::default()
    };
    let no = world.ask(&person, asked).await.unwrap_err();
    assert_eq!((no.reason.as_str(), &no.about), ("FILTER_INVALID", &server));
    let asked = pb::FollowChangesRequest {
        server: name,
        filter: Some(tables(&[("", "orders")])),
        ..Default::default()
    };
    let no = world.all(&person, asked).await.unwrap_err();
    assert_eq!((no.reason.as_str(), &no.about), ("FILTER_INVALID", &server));
    let asked = pb::GetCoverageRequest { server };
    let coverage = world.ask(&person, asked).await.unwrap().coverage.unwrap();
    assert!(coverage.complete && coverage.intervals.len() == 1);
}
