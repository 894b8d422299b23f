//! From an accident to tables as they were, and what a plan says on the way.

use proto::{
    change::v1::{ClassCount, Filter, UndoClass, UndoMode},
    recovery::v1::{self as pb, PlanState},
};
use testkit::Engine;
use tonic::Code;

use crate::world::{World, accident, is_in, of_table, whole_accident};

/// Plan, script, applied by a person: the tables are as they were before the accident.
async fn accident_is_undone_on(engine: Engine) {
    let world = World::new().await;
    let (shop, owner, followed) = world.shop(engine, &[]).await;
    assert_ne!(shop.rows(), shop.before);
    let operator = owner.operator();

    let planned = operator.plan(&followed.id, whole_accident(&shop)).await.unwrap();
    let plan = planned.plan.clone().unwrap();
    let summary = plan.summary.clone().unwrap();
    assert_eq!(plan.state(), PlanState::Ready);
    assert_eq!((summary.changes, summary.included), (5, 5), "{summary:?}");
    assert_eq!(
        summary.classes,
        [ClassCount {
            class: UndoClass::Clean.into(),
            changes: 5
        }]
    );
    assert!(summary.until.is_some() && planned.conflicts.is_empty());
    assert_eq!(plan.server_id, followed.id);
    assert_eq!(plan.author_id, operator.user().to_string());
    assert_eq!(
        plan.dialect,
        if engine.is_mariadb() { "mariadb" } else { "mysql" }
    );
    assert_eq!(plan.digest.len(), 64);
    assert!(planned.coverage.is_some());
    let life = plan.expire_time.unwrap().seconds - plan.create_time.unwrap().seconds;
    assert_eq!(life, 3_600);

    let got = operator.get(&plan.id).await.unwrap();
    assert!(got.asked && got.not_asked_because.is_empty(), "{got:?}");
    assert_eq!(got.plan.as_ref(), Some(&plan));

    let script = operator.script(&plan.id).await.unwrap();
    assert_eq!((script.no, &script.place), (None, &followed.id));
    assert_eq!(script.before.as_ref(), Some(&plan.digest));
    assert_eq!(script.after.as_ref(), Some(&plan.digest));
    assert_eq!(script.bytes.len() as u64, plan.script_bytes);
    let digest = ring::digest::digest(&ring::digest::SHA256, &script.bytes);
    let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digest, plan.digest);

    shop.apply(&script.bytes).unwrap();
    assert_eq!(shop.rows(), shop.before);
    assert_eq!(world.hub.open(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_accident_on_mariadb_is_planned_and_undone_by_a_person() {
    accident_is_undone_on(Engine::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_accident_on_mysql_is_planned_and_undone_by_a_person() {
    accident_is_undone_on(Engine::Mysql8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_chosen_changes_rows_and_tables_are_planned() {
    let world = World::new().await;
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[]).await;
    let all = owner.planned(&followed.id, whole_accident(&shop)).await;
    let summary = all.summary.unwrap();
    let (first, last) = (summary.first.unwrap(), summary.last.unwrap());
    let changes = async |filter: Filter| {
        let plan = owner.planned(&followed.id, filter).await;
        plan.summary.unwrap().changes
    };
    let transaction = Filter {
        transaction: format!("{}:{}", first.file, first.offset),
        ..Filter::default()
    };
    assert_eq!(changes(transaction).await, 5);
    let chosen = Filter {
        positions: vec![first, last],
        ..Filter::default()
    };
    assert_eq!(changes(chosen).await, 2);
    let row = Filter {
        keys: vec!["3".to_owned()],
        ..accident(&shop)
    };
    assert_eq!(changes(row).await, 1);
    assert_eq!(changes(accident(&shop)).await, 3);
    // By name as by id.
    let name = world.db.sql(&format!(
        "SELECT name FROM t_{}.server WHERE id = '{}'",
        owner.tenant().digits(),
        followed.id
    ));
    let plan = owner.planned(name.trim(), accident(&shop)).await;
    assert_eq!(plan.server_id, followed.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn later_work_stands_in_the_way_with_both_values_and_is_overwritten_only_on_demand() {
    let world = World::new().await;
    let later = "UPDATE {s}.orders SET status = 'shipped' WHERE id = 2";
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[later]).await;
    shop.learn_later(&followed.store, 0);
    let planned = owner.plan(&followed.id, accident(&shop)).await.unwrap();
    // The later update is chosen too, by the filter: it is an update of the orders. So it is undone as well.
    assert_eq!(planned.plan.unwrap().summary.unwrap().changes, 4);
    let row = Filter {
        positions: {
            let all = owner.planned(&followed.id, accident(&shop)).await;
            vec![all.summary.unwrap().first.unwrap()]
        },
        ..Filter::default()
    };
    let before = Filter {
        transaction: {
            let first = &row.positions[0];
            format!("{}:{}", first.file, first.offset)
        },
        ..Filter::default()
    };
    let planned = owner.plan(&followed.id, before.clone()).await.unwrap();
    let summary = planned.plan.unwrap().summary.unwrap();
    assert_eq!((summary.changes, summary.included), (5, 4), "{summary:?}");
    let [conflict] = planned.conflicts.as_slice() else {
        panic!("{:?}", planned.conflicts);
    };
    assert_eq!(conflict.class(), UndoClass::Overlap);
    assert_eq!(conflict.key, "{\"id\":2}");
    let column = &conflict.columns[0];
    assert_eq!(
        (
            column.column.as_str(),
            column.wanted.as_str(),
            column.found.as_str()
        ),
        ("status", "\"new\"", "\"shipped\"")
    );
    assert!(!column.redacted && !planned.redacted && planned.conflicts_left_out == 0);

    let forced = owner
        .plan_with(pb::PlanUndoRequest {
            server: followed.id.clone(),
            filter: Some(before),
            mode: UndoMode::Force.into(),
            conflicts: 1,
        })
        .await
        .unwrap();
    let plan = forced.plan.unwrap();
    assert_eq!(plan.mode(), UndoMode::Force);
    assert_eq!(plan.summary.unwrap().included, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_chooses_nothing_or_everything_or_is_wrong_is_refused() {
    let world = World::new().await;
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[]).await;
    let refused = async |filter: Filter| {
        let no = owner.plan(&followed.id, filter).await.unwrap_err();
        (no.code, no.reason, no.field)
    };
    let invalid = |field: &str| {
        (
            Code::InvalidArgument,
            "FILTER_INVALID".to_owned(),
            field.to_owned(),
        )
    };
    assert_eq!(refused(Filter::default()).await, invalid("filter"));
    let ops = Filter {
        tables: Vec::new(),
        ..accident(&shop)
    };
    assert_eq!(
        refused(ops).await,
        invalid("filter"),
        "kinds alone choose everything"
    );
    let keys = Filter {
        keys: vec!["1".to_owned()],
        ..of_table(&shop, "*")
    };
    assert_eq!(refused(keys).await, invalid("filter.keys"));
    let many = Filter {
        tables: vec![of_table(&shop, "orders").tables[0].clone(); 65],
        ..Filter::default()
    };
    assert_eq!(refused(many).await, invalid("filter.tables"));
    assert!(world.hub.asked().is_empty(), "no agent was asked");
    // What the agent says of a filter is passed on.
    let unknown = Filter {
        column: "colour".to_owned(),
        ..of_table(&shop, "orders")
    };
    assert_eq!(refused(unknown).await, invalid("filter.column"));
    let nothing = Filter {
        keys: vec!["77".to_owned()],
        ..of_table(&shop, "orders")
    };
    let (code, reason, _) = refused(nothing).await;
    assert_eq!(
        (code, reason.as_str()),
        (Code::FailedPrecondition, "NOTHING_TO_UNDO")
    );
    let no = owner
        .plan_with(pb::PlanUndoRequest {
            server: followed.id.clone(),
            filter: Some(accident(&shop)),
            mode: 0,
            conflicts: -1,
        })
        .await
        .unwrap_err();
    assert_eq!((no.code, no.field.as_str()), (Code::InvalidArgument, "conflicts"));
    assert_eq!(owner.listed().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_agent_no_plan_is_made_and_a_made_one_says_that_it_was_not_looked_at() {
    let world = World::new().await;
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[]).await;
    let plan = owner.planned(&followed.id, accident(&shop)).await;
    world.hub.away(true);
    let no = owner.plan(&followed.id, accident(&shop)).await.unwrap_err();
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::Unavailable, "AGENT_NOT_CONNECTED")
    );
    assert!(no.message.contains("last seen at"), "{no:?}");
    let got = owner.get(&plan.id).await.unwrap();
    assert!(
        !got.asked && got.not_asked_because.contains("no agent"),
        "{got:?}"
    );
    assert_eq!(got.plan.unwrap(), plan);
    let no = owner.script(&plan.id).await.unwrap_err();
    assert_eq!(no.reason, "AGENT_NOT_CONNECTED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_value_of_a_row_stays_where_plans_are_kept() {
    let world = World::new().await;
    let later = "UPDATE {s}.orders SET note = 'a later canary' WHERE id = 1";
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[later]).await;
    shop.learn_later(&followed.store, 0);
    for filter in [whole_accident(&shop), accident(&shop)] {
        let plan = owner.planned(&followed.id, filter).await;
        owner.script(&plan.id).await.unwrap();
    }
    let stored = world.stored(owner.tenant());
    assert!(stored.contains("pln_") && stored.contains("orders"));
    for canary in ["canary", "CANARY", "example.com", "lost", "paid"] {
        assert!(!stored.contains(canary), "{canary} in {stored}");
    }
    // The canaries are there where they belong.
    assert!(is_in(&followed.store, b"canary note"));
}
