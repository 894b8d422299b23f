//! Answers of large changes, and of stores of which most is hidden.

use prost::Message as _;
use proto::{change::v1 as change, query::v1 as pb};
use tonic::Code;
use types::Role;

use crate::{
    neighbours::deny,
    pages::of,
    store::{Row, Store, row, table},
    world::World,
};

/// What the gateway takes of one answer.
const MOST: usize = 16 << 20;

/// Texts of one column.
const TEXT: usize = 60_000;

/// Columns of a row of about nine megabytes.
const COLUMNS: usize = 150;

/// A row with so many full columns.
fn large(id: i32, full: usize) -> Row {
    let text = "x".repeat(TEXT);
    let texts: Vec<&str> = (0..COLUMNS)
        .map(|nth| if nth < full { text.as_str() } else { "" })
        .collect();
    row(id, &texts)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_large_changes_is_answered_in_what_the_gateway_takes_or_refused_by_name() {
    let mut world = World::new().await;
    let mut store = Store::new(&world.folder.path().join("store"));
    let names: Vec<String> = (0..COLUMNS).map(|nth| format!("c{nth}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for name in ["shop.a", "shop.b"] {
        store.defines(table(name, &names, &[0]));
        store.commits(&[(name, None, Some(large(1, 5)))]);
        store.commits(&[(name, None, Some(large(2, COLUMNS)))]);
    }
    store.sync();
    let whole = world.server(store.path(), &[]);
    let partly = world.server(store.path(), &[deny("shop.*", &["c0"])]);
    world.connect().await;
    let person = world.person(Role::Analyst);
    for server in [whole, partly] {
        let batch = |order: change::Order| pb::BatchQueryRequest {
            server: server.clone(),
            queries: ["a", "b"]
                .map(|name| pb::TableQuery {
                    table: Some(of("shop", name)),
                    order: order.into(),
                    ..Default::default()
                })
                .to_vec(),
        };
        let answer = world.ask(&person, batch(change::Order::Oldest)).await.unwrap();
        assert!(answer.encoded_len() < MOST, "{}", answer.encoded_len());
        for table in &answer.answers {
            assert_eq!((table.changes.len(), table.more), (1, true));
        }
        // The large ones come first, and have no room beside each other.
        let no = world
            .ask(&person, batch(change::Order::Newest))
            .await
            .unwrap_err();
        assert_eq!(
            (no.code, no.reason.as_str()),
            (Code::ResourceExhausted, "CHANGE_TOO_LARGE")
        );
        let mut alone = batch(change::Order::Newest);
        alone.queries.pop();
        let answer = world.ask(&person, alone).await.unwrap();
        assert!(answer.encoded_len() < MOST && answer.answers[0].changes.len() == 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_seen_is_found_however_much_of_other_tables_is_hidden_before_it() {
    /// More than are looked at for one page.
    const HIDDEN: i32 = 100_500;
    let mut world = World::new().await;
    let mut store = Store::new(&world.folder.path().join("store"));
    for number in 0..70 {
        let name = format!("shop.t{number}");
        store.defines(table(&name, &["note"], &[0]));
        store.commits(&[(&name, None, Some(row(number, &["seen"])))]);
    }
    store.defines(table("hr.pay", &["salary"], &[0]));
    let hidden: Vec<_> = (0..HIDDEN)
        .map(|id| ("hr.pay", None, Some(row(id, &["s"]))))
        .collect();
    store.commits(&hidden);
    store.sync();
    let server = world.server(store.path(), &[deny("hr.*", &[])]);
    world.connect().await;
    let analyst = world.person(Role::Analyst);
    let asked = pb::QueryChangesRequest {
        server: server.clone(),
        page_size: 5,
        ..Default::default()
    };
    let page = world.ask(&analyst, asked.clone()).await.unwrap();
    assert_eq!((page.changes.len(), page.changes[0].table.as_str()), (5, "t69"));
    assert!(page.redacted);
    // A token says nothing of where it stands.
    let again = world.ask(&analyst, asked.clone()).await.unwrap();
    assert_ne!(page.next_page_token, again.next_page_token);
    for token in [page.next_page_token, again.next_page_token] {
        let next = pb::QueryChangesRequest {
            page_token: token,
            ..asked.clone()
        };
        let next = world.ask(&analyst, next).await.unwrap();
        assert_eq!(next.changes[0].table, "t64");
    }
    let asked = pb::StreamChangesRequest {
        server,
        ..Default::default()
    };
    let frames = world.all(&analyst, asked).await.unwrap();
    assert_eq!(frames.iter().map(|frame| frame.changes.len()).sum::<usize>(), 70);
}
