//! Access rules: before an agent is asked, in what it answers, and again whenever a plan is read.

use proto::change::v1::{Filter, TableFilter};
use testkit::Engine;
use tonic::Code;

use crate::{
    shop::CANARY_CARD,
    world::{No, World, accident, of_table, whole_accident},
};

fn denied(no: &No, reason: &str) {
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::PermissionDenied, reason),
        "{no:?}"
    );
    assert!(no.about.starts_with("srv_"), "the audit log needs the id: {no:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hidden_table_is_refused_by_name_before_any_agent_is_asked_and_left_out_where_tables_are_open() {
    let world = World::new().await;
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[]).await;
    owner.hide(&shop, "mails", &[]).await;
    let operator = owner.operator();
    let both = Filter {
        tables: ["orders", "mails"]
            .map(|table| of_table(&shop, table).tables[0].clone())
            .to_vec(),
        ..accident(&shop)
    };
    denied(
        &operator.plan(&followed.id, both).await.unwrap_err(),
        "TABLE_DENIED",
    );
    assert!(world.hub.asked().is_empty());

    let all = owner.planned(&followed.id, whole_accident(&shop)).await;
    let summary = all.summary.clone().unwrap();
    assert_eq!((summary.changes, summary.tables.len()), (5, 2));
    let first = summary.first.unwrap();
    let transaction = Filter {
        transaction: format!("{}:{}", first.file, first.offset),
        ..Filter::default()
    };
    let orders = TableFilter {
        schema: shop.schema.name.clone(),
        table: "orders".to_owned(),
    };
    for filter in [whole_accident(&shop), transaction] {
        let plan = operator.planned(&followed.id, filter).await;
        let summary = plan.summary.unwrap();
        assert_eq!((summary.changes, summary.tables), (3, vec![orders.clone()]));
        assert!(
            plan.filter.unwrap().tables.contains(&orders),
            "the plan says what it was narrowed to"
        );
        let script = operator.script(&plan.id).await.unwrap();
        let script = String::from_utf8(script.bytes).unwrap();
        assert!(script.contains("`orders`") && !script.contains("mails") && !script.contains("example.com"));
    }
    // The owner's plan is about the hidden table.
    denied(&operator.get(&all.id).await.unwrap_err(), "TABLE_DENIED");
    denied(&operator.script(&all.id).await.unwrap_err(), "TABLE_DENIED");
    let second = std::time::Duration::from_secs(10);
    denied(
        &operator.watch(&all.id, second).await.unwrap_err(),
        "TABLE_DENIED",
    );
    assert!(!operator.listed().await.contains(&all.id));
    assert!(owner.listed().await.contains(&all.id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_every_table_is_hidden_nothing_is_planned_at_all() {
    let world = World::new().await;
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[]).await;
    owner.hide(&shop, "*", &[]).await;
    let operator = owner.operator();
    // Tables that other tests made at the same time may be in the log too, but none of this schema's.
    denied(
        &operator
            .plan(&followed.id, whole_accident(&shop))
            .await
            .unwrap_err(),
        "TABLE_DENIED",
    );
    assert_eq!(owner.listed().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_whose_script_names_a_hidden_column_is_refused_for_that_viewer() {
    let world = World::new().await;
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[]).await;
    let all = owner.planned(&followed.id, accident(&shop)).await;
    let operator = owner.operator();
    assert!(operator.script(&all.id).await.unwrap().no.is_none());

    // Inserting the deleted order again needs its card.
    let rule = owner.hide(&shop, "orders", &["CARD"]).await;
    denied(
        &operator.plan(&followed.id, accident(&shop)).await.unwrap_err(),
        "COLUMN_DENIED",
    );
    // The rules of this moment count, not those under which the plan was made.
    denied(&operator.script(&all.id).await.unwrap_err(), "COLUMN_DENIED");
    assert_eq!(operator.get(&all.id).await.unwrap().plan.unwrap().id, all.id);
    // Only the status of these two was changed.
    let updates = Filter {
        keys: vec!["1".to_owned(), "2".to_owned()],
        ..accident(&shop)
    };
    let plan = operator.planned(&followed.id, updates).await;
    let script = operator.script(&plan.id).await.unwrap();
    assert_eq!(script.no, None);
    let script = String::from_utf8_lossy(&script.bytes).into_owned();
    assert!(
        !script.contains(CANARY_CARD) && !script.contains("card"),
        "{script}"
    );

    owner.show(rule).await;
    assert!(operator.script(&all.id).await.unwrap().no.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_filter_on_a_hidden_column_or_key_is_answered() {
    let world = World::new().await;
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[]).await;
    owner.hide(&shop, "orders", &["card"]).await;
    owner.hide(&shop, "mails", &["address"]).await;
    let operator = owner.operator();
    let by_card = Filter {
        column: "Card".to_owned(),
        ..of_table(&shop, "orders")
    };
    denied(
        &operator.plan(&followed.id, by_card).await.unwrap_err(),
        "COLUMN_DENIED",
    );
    let open = Filter {
        column: "card".to_owned(),
        ..of_table(&shop, "*")
    };
    // A table that has no such column may be left, and then nothing is found; the hidden one is never looked at.
    let no = operator.plan(&followed.id, open).await.unwrap_err();
    assert!(
        ["COLUMN_DENIED", "NOTHING_TO_UNDO", "FILTER_INVALID"].contains(&no.reason.as_str()),
        "{no:?}"
    );
    let mut said = Vec::new();
    for key in ["a@example.com", "nobody@example.com"] {
        let by_key = Filter {
            keys: vec![key.to_owned()],
            ..of_table(&shop, "mails")
        };
        said.push(operator.plan(&followed.id, by_key).await.unwrap_err());
    }
    denied(&said[0], "COLUMN_DENIED");
    assert_eq!(said[0], said[1], "whether there is such a row is not told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hidden_column_that_was_a_key_once_finds_nothing_either() {
    let world = World::new().await;
    let rekeyed =
        "ALTER TABLE {s}.mails DROP PRIMARY KEY, ADD COLUMN id INT NOT NULL AUTO_INCREMENT PRIMARY KEY;
         UPDATE {s}.mails SET hits = 9";
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[rekeyed]).await;
    shop.learn_later(&followed.store, 0);
    owner.hide(&shop, "mails", &["address"]).await;
    let operator = owner.operator();
    for key in ["a@example.com", "nobody@example.com", "1"] {
        let by_key = Filter {
            keys: vec![key.to_owned()],
            ops: accident(&shop).ops,
            ..of_table(&shop, "mails")
        };
        denied(
            &operator.plan(&followed.id, by_key).await.unwrap_err(),
            "COLUMN_DENIED",
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hidden_table_that_was_renamed_is_planned_for_nobody_who_does_not_see_it() {
    let world = World::new().await;
    let renamed = "RENAME TABLE {s}.mails TO {s}.post; UPDATE {s}.post SET hits = 9";
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[renamed]).await;
    shop.learn_later(&followed.store, 0);
    let updates = |table: &str| Filter {
        ops: accident(&shop).ops,
        ..of_table(&shop, table)
    };
    let operator = owner.operator();
    let mine = operator.planned(&followed.id, updates("post")).await;
    assert!(operator.script(&mine.id).await.unwrap().no.is_none());
    owner.hide(&shop, "mails", &[]).await;
    denied(
        &operator.plan(&followed.id, updates("post")).await.unwrap_err(),
        "TABLE_DENIED",
    );
    denied(&operator.script(&mine.id).await.unwrap_err(), "TABLE_DENIED");
    let second = std::time::Duration::from_secs(10);
    denied(
        &operator.watch(&mine.id, second).await.unwrap_err(),
        "TABLE_DENIED",
    );
    // Of the rest of the schema it is left out.
    let all = operator.planned(&followed.id, whole_accident(&shop)).await;
    let tables = all.summary.unwrap().tables;
    assert!(tables.iter().all(|table| table.table == "orders"), "{tables:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_renamed_while_a_plan_is_made_is_judged_by_what_the_plan_was_made_from() {
    let world = World::new().await;
    let renamed = "RENAME TABLE {s}.mails TO {s}.post; UPDATE {s}.post SET hits = 9";
    let exchanged = "RENAME TABLE {s}.orders TO {s}.old, {s}.post TO {s}.orders";
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[renamed, exchanged]).await;
    owner.hide(&shop, "mails", &[]).await;
    let operator = owner.operator();
    let orders = operator.planned(&followed.id, accident(&shop)).await;
    let updates = Filter {
        ops: accident(&shop).ops,
        ..of_table(&shop, "post")
    };
    // Before it is renamed there is no such table, and nothing to hide.
    let no = operator.plan(&followed.id, updates.clone()).await.unwrap_err();
    assert_eq!(no.reason, "FILTER_INVALID");
    world.hub.meanwhile(shop.learns_later(&followed.store, 0));
    denied(
        &operator.plan(&followed.id, updates.clone()).await.unwrap_err(),
        "TABLE_DENIED",
    );
    // Whether there is anything to undo is not told either.
    let nothing = Filter {
        keys: vec!["nobody@example.com".to_owned()],
        ..updates
    };
    denied(
        &operator.plan(&followed.id, nothing).await.unwrap_err(),
        "TABLE_DENIED",
    );
    // The name of a plan's table is that of a hidden one when its script is asked for.
    assert!(operator.script(&orders.id).await.unwrap().no.is_none());
    world.hub.meanwhile(shop.learns_later(&followed.store, 1));
    denied(&operator.script(&orders.id).await.unwrap_err(), "TABLE_DENIED");
    assert!(owner.script(&orders.id).await.unwrap().no.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_hidden_columns_are_not_in_conflicts_and_the_answer_says_so() {
    let world = World::new().await;
    let later = "UPDATE {s}.orders SET status = 'shipped', card = 'another canary card' WHERE id = 2";
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[later]).await;
    shop.learn_later(&followed.store, 0);
    owner.hide(&shop, "orders", &["status"]).await;
    let first = owner.planned(&followed.id, accident(&shop)).await;
    let first = first.summary.unwrap().first.unwrap();
    // Row 2 alone: the later change stands in its way, so nothing is in the script.
    let row = Filter {
        keys: vec!["2".to_owned()],
        transaction: format!("{}:{}", first.file, first.offset),
        ..of_table(&shop, "orders")
    };
    let seen = owner.plan(&followed.id, row.clone()).await.unwrap();
    assert!(!seen.redacted);
    assert_eq!(seen.conflicts[0].columns[0].found, "\"shipped\"");
    let hidden = owner.operator().plan(&followed.id, row).await.unwrap();
    assert!(hidden.redacted);
    let column = &hidden.conflicts[0].columns[0];
    assert_eq!((column.column.as_str(), column.redacted), ("status", true));
    assert!(column.wanted.is_empty() && column.found.is_empty());
    assert_eq!(hidden.conflicts[0].key, "{\"id\":2}");
    let words = format!("{hidden:?}");
    assert!(
        !words.contains("shipped") && !words.contains("\"new\""),
        "{words}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_in_a_plans_filter_are_for_its_author_and_for_who_sees_the_whole_table() {
    let world = World::new().await;
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[]).await;
    let by_key = Filter {
        keys: vec!["a@example.com".to_owned()],
        ops: accident(&shop).ops,
        ..of_table(&shop, "mails")
    };
    let plan = owner.planned(&followed.id, by_key).await;
    let operator = owner.operator();
    let keys = async || {
        let got = operator.get(&plan.id).await.unwrap().plan.unwrap();
        let listed = operator.list(Default::default()).await.unwrap().plans.remove(0);
        assert_eq!(got.filter, listed.filter);
        got.filter.unwrap().keys
    };
    assert_eq!(keys().await, ["a@example.com"]);
    owner.hide(&shop, "mails", &["address"]).await;
    assert_eq!(keys().await, Vec::<String>::new());
    let mine = owner.get(&plan.id).await.unwrap().plan.unwrap();
    assert_eq!(mine.filter.unwrap().keys, ["a@example.com"]);
}
