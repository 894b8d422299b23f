//! A table that is renamed after its names were asked for, and before the answer is given.

use proto::{change::v1 as change, query::v1 as pb};
use tonic::Code;
use types::Role;

use crate::{
    neighbours::deny,
    pages::{of, tables},
    store::{Store, row, table},
    world::{Rpc, World},
};

const CANARY: &str = "canary-salary";

/// What becomes of a store in the moment between.
type Between = fn(&mut Store);

/// The hidden table takes the name of one that everybody sees, and gets a row.
fn takes_the_name(store: &mut Store) {
    store.runs("hr.people", "RENAME TABLE people TO old, pay TO people");
    store.commits(&[("hr.people", None, Some(row(7, &[CANARY])))]);
    store.sync();
}

/// The same, and its definition is changed.
fn is_altered_too(store: &mut Store) {
    takes_the_name(store);
    store.runs(
        "hr.people",
        "ALTER TABLE people ALTER salary SET DEFAULT 'canary-salary'",
    );
    store.sync();
}

/// The same, and its hidden column is updated.
fn is_updated_too(store: &mut Store) {
    takes_the_name(store);
    store.commits(&[(
        "hr.people",
        Some(row(7, &[CANARY])),
        Some(row(7, &["canary-salary-2"])),
    )]);
    store.sync();
}

/// A server, where something happens when its agent is about to be asked by this method of its own.
fn server(world: &World, columns: &[&str], method: &str, between: Between) -> String {
    let folder = world.folder.path().join(types::ServerId::fresh().to_string());
    let mut store = Store::new(&folder);
    for name in ["hr.pay", "hr.people"] {
        store.defines(table(name, &["salary"], &[0]));
    }
    store.commits(&[
        ("hr.pay", None, Some(row(1, &[CANARY]))),
        ("hr.people", None, Some(row(1, &["eve"]))),
    ]);
    store.sync();
    let server = world.server(store.path(), &[deny("hr.pay", columns)]);
    world
        .neighbours
        .before(&server, method, move || between(&mut store));
    server
}

/// What an analyst is answered.
async fn answer<Q: Rpc>(world: &World, asked: Q) -> Result<Q::Answer, String> {
    let answer = world.ask(&world.person(Role::Analyst), asked).await;
    let told = format!("{answer:?}");
    assert!(!told.contains(CANARY), "{told}");
    answer.map_err(|no| {
        assert_eq!(no.code, Code::PermissionDenied, "{no:?}");
        no.reason
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_judged_by_the_names_that_its_tables_have_when_it_is_read() {
    let mut world = World::new().await;
    let hidden = server(&world, &[], "Transaction", is_altered_too);
    let partly = server(&world, &["salary"], "Transaction", is_updated_too);
    world.connect().await;
    for (server, transaction, left) in [(hidden, "0-1-3", 0), (partly, "0-1-3", 1)] {
        let asked = pb::GetTransactionRequest {
            server,
            transaction: transaction.into(),
            ..Default::default()
        };
        let found = answer(&world, asked).await.unwrap();
        assert!(found.redacted && found.changes.len() == left, "{found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_s_history_is_refused_of_a_table_that_has_become_a_hidden_one() {
    let mut world = World::new().await;
    let hidden = server(&world, &[], "History", takes_the_name);
    let key = server(&world, &["id"], "History", takes_the_name);
    let partly = server(&world, &["salary"], "History", is_updated_too);
    world.connect().await;
    let asked = |server: &str, key: &str| pb::GetRowHistoryRequest {
        server: server.to_owned(),
        table: Some(of("hr", "people")),
        key: key.to_owned(),
        ..Default::default()
    };
    // Whether there is such a row is not told either.
    assert_eq!(
        answer(&world, asked(&hidden, "99")).await.unwrap_err(),
        "TABLE_DENIED"
    );
    assert_eq!(
        answer(&world, asked(&key, "7")).await.unwrap_err(),
        "COLUMN_DENIED"
    );
    let found = answer(&world, asked(&partly, "7")).await.unwrap();
    assert_eq!(found.changes.len(), 1, "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_counted_is_counted_by_the_names_that_tables_have_then() {
    let mut world = World::new().await;
    let named = server(&world, &[], "Count", takes_the_name);
    let all = server(&world, &[], "Count", takes_the_name);
    let partly = server(&world, &["salary"], "Count", is_updated_too);
    let walked = server(&world, &["note"], "Changes", takes_the_name);
    world.connect().await;
    let asked = |server: &str, filter| pb::CountChangesRequest {
        server: server.to_owned(),
        filter: Some(filter),
        limit: 0,
    };
    let people = || tables(&[("hr", "people")]);
    let refused = answer(&world, asked(&named, people())).await.unwrap_err();
    assert_eq!(refused, "TABLE_DENIED");
    let found = answer(&world, asked(&all, tables(&[]))).await.unwrap();
    assert_eq!((found.tables.len(), found.tables_hidden), (0, 2), "{found:?}");
    // The update of the hidden column alone is not counted.
    let found = answer(&world, asked(&partly, people())).await.unwrap();
    let [people_count] = found.tables.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!((people_count.inserts, people_count.updates), (2, 0));
    let updates = change::Filter {
        ops: vec![change::Op::Update.into()],
        ..tables(&[])
    };
    answer(&world, asked(&walked, updates)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_about_a_table_that_has_become_a_hidden_one_is_left_out() {
    let mut world = World::new().await;
    let named = server(&world, &[], "SchemaChanges", is_altered_too);
    let all = server(&world, &[], "SchemaChanges", is_altered_too);
    world.connect().await;
    let asked = |server: &str, table: &str| pb::ListSchemaChangesRequest {
        server: server.to_owned(),
        schema: "hr".into(),
        table: table.into(),
        ..Default::default()
    };
    let refused = answer(&world, asked(&named, "people")).await.unwrap_err();
    assert_eq!(refused, "TABLE_DENIED");
    let found = answer(&world, asked(&all, "")).await.unwrap();
    assert_eq!((found.schema_changes.len(), found.hidden), (0, 2), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_streams_of_a_table_that_has_become_a_hidden_one_are_refused() {
    let mut world = World::new().await;
    let paged = server(&world, &[], "Changes", takes_the_name);
    let streamed = server(&world, &[], "Changes", takes_the_name);
    world.connect().await;
    let asked = pb::QueryChangesRequest {
        server: paged,
        filter: Some(change::Filter {
            keys: vec!["7".into()],
            ..tables(&[("hr", "people")])
        }),
        ..Default::default()
    };
    assert_eq!(answer(&world, asked).await.unwrap_err(), "TABLE_DENIED");
    let asked = pb::StreamChangesRequest {
        server: streamed,
        filter: Some(tables(&[("hr", "people")])),
        ..Default::default()
    };
    let no = world.all(&world.person(Role::Analyst), asked).await.unwrap_err();
    assert_eq!(no.reason, "TABLE_DENIED");
}
