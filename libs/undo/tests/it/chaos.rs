//! Random histories on real servers: what was kept survives, what was undone is gone, whatever came in between.

use std::collections::BTreeMap;

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use testkit::Engine;
use undo::Mode;

use crate::{
    fixture::V,
    model::{Event, Row, Story, attempts},
    scene::{Scene, redo_script, script},
};

/// Histories per engine, each in a table of its own; every third one has no key.
const STORIES: usize = 45;

fn literal(value: &V) -> String {
    match value {
        V::Int(v) => v.to_string(),
        V::Text(v) => {
            let hex: String = v.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("_utf8mb4 X'{hex}'")
        }
        V::Null | V::Absent => "NULL".into(),
    }
}

fn values(row: &Row) -> String {
    row.iter().map(literal).collect::<Vec<_>>().join(", ")
}

/// What somebody would have typed.
fn statement(table: &str, event: &Event) -> String {
    match (&event.before, &event.after) {
        (None, Some(after)) => format!("INSERT INTO {table} VALUES ({});", values(after)),
        (Some(before), after) => {
            let names = ["id", "a", "CAST(b AS BINARY)", "c"];
            let found = names
                .iter()
                .zip(before)
                .map(|(name, value)| format!("{name} <=> {}", literal(value)));
            let found = found.collect::<Vec<_>>().join(" AND ");
            let Some(after) = after else {
                return format!("DELETE FROM {table} WHERE {found} LIMIT 1;");
            };
            let set = event
                .changed()
                .into_iter()
                .map(|at| format!("{} = {}", ["id", "a", "b", "c"][at], literal(&after[at])));
            format!(
                "UPDATE {table} SET {} WHERE {found} LIMIT 1;",
                set.collect::<Vec<_>>().join(", ")
            )
        }
        (None, None) => String::new(),
    }
}

fn stories() -> Vec<Story> {
    let mut runner = TestRunner::deterministic();
    (0..STORIES)
        .map(|nth| {
            let attempts = attempts(40).new_tree(&mut runner).expect("a history").current();
            Story::new(&attempts, nth % 3 != 2)
        })
        .collect()
}

/// All rows of all tables.
fn found(scene: &Scene) -> BTreeMap<String, Vec<String>> {
    let select = |nth| {
        format!(
            "SELECT 't{nth}', id, a, HEX(b), c FROM `{}`.t{nth};",
            scene.schema.name
        )
    };
    let printed = scene.server.sql(&(0..STORIES).map(select).collect::<String>());
    let mut found: BTreeMap<String, Vec<String>> =
        (0..STORIES).map(|nth| (format!("t{nth}"), Vec::new())).collect();
    for line in printed.lines() {
        let (table, row) = line.split_once('\t').expect("a table and a row");
        found.entry(table.to_owned()).or_default().push(row.to_owned());
    }
    found.values_mut().for_each(|rows| rows.sort());
    found
}

fn wanted(stories: &[Story], kept: impl Fn(usize, usize) -> bool) -> BTreeMap<String, Vec<String>> {
    let line = |row: &Row| {
        let text = |value: &V| match value {
            V::Text(v) => v.iter().map(|byte| format!("{byte:02X}")).collect(),
            other => literal(other),
        };
        row.iter().map(text).collect::<Vec<String>>().join("\t")
    };
    let rows = |(nth, story): (usize, &Story)| {
        let rows = story
            .replay(|event| kept(nth, event))
            .expect("it could have been so");
        let mut rows: Vec<String> = rows.iter().map(line).collect();
        rows.sort();
        (format!("t{nth}"), rows)
    };
    stories.iter().enumerate().map(rows).collect()
}

fn run(engine: Engine, stories: &[Story]) {
    let mut setup = String::new();
    for (nth, story) in stories.iter().enumerate() {
        let key = if nth % 3 == 2 { "" } else { "PRIMARY KEY" };
        setup.push_str(&format!(
            "CREATE TABLE t{nth} (id INT {key}, a INT, b VARCHAR(20), c INT);\n"
        ));
        let first: Vec<String> = story
            .first
            .iter()
            .map(|row| format!("({})", values(row)))
            .collect();
        setup.push_str(&format!("INSERT INTO t{nth} VALUES {};\n", first.join(", ")));
    }
    let mut scene = Scene::new(engine, &setup);
    // The histories are interleaved, so that one log holds them all.
    let longest = stories.iter().map(|story| story.events.len()).max().unwrap_or(0);
    let mut sql = String::new();
    for event in 0..longest {
        for (nth, story) in stories.iter().enumerate() {
            sql.extend(
                story
                    .events
                    .get(event)
                    .map(|event| statement(&format!("t{nth}"), event) + "\n"),
            );
        }
    }
    let mut seen: BTreeMap<usize, usize> = BTreeMap::new();
    scene.record_chosen(&sql, &mut |table| {
        let nth: usize = table.name[1..].parse().expect("t and a number");
        let event = seen.entry(nth).or_default();
        *event += 1;
        stories[nth].events[*event - 1].selected
    });
    let now = found(&scene);
    assert_eq!(now, wanted(stories, |_, _| true));

    let plan = scene.plan(Mode::Safe);
    let mut included: BTreeMap<usize, Vec<bool>> = BTreeMap::new();
    for row in plan.rows() {
        let nth: usize = row.table[1..].parse().expect("t and a number");
        included.entry(nth).or_default().push(row.included);
    }
    // Rows come the latest first, and so do the story's selected events.
    let kept = |nth: usize, event: usize| {
        let selected = |event: &&Event| event.selected;
        let after = stories[nth].events[event + 1..].iter().filter(selected).count();
        !(stories[nth].events[event].selected && included[&nth][after])
    };
    scene.applied(&script(&plan));
    assert_eq!(found(&scene), wanted(stories, kept), "{engine:?}");
    scene.applied(&redo_script(&plan));
    assert_eq!(found(&scene), now, "{engine:?}");

    let force = scene.plan(Mode::Force);
    assert!(force.summary().included >= plan.summary().included);
    scene.applied(&script(&force));
    scene.applied(&redo_script(&force));
    assert_eq!(found(&scene), now, "{engine:?}");
}

#[test]
fn random_histories_are_undone_on_real_servers() {
    let stories = stories();
    for engine in Engine::ALL {
        run(engine, &stories);
    }
}
