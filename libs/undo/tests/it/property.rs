//! What holds for every history.

use std::sync::Arc;

use binlog::{LogPos, Position, Table};
use proptest::prelude::*;
use undo::{Class, Dialect, Mode, Plan, PlannedChange, Planner};

use crate::{
    fixture::{body, change, column, int_type, redo_body, rows, table, text_type},
    model::{Server, Story, attempts},
};

fn t(keyed: bool) -> Arc<Table> {
    let columns = vec![
        column("id", int_type()),
        column("a", int_type()),
        column("b", text_type()),
        column("c", int_type()),
    ];
    table("t", usize::from(keyed), columns)
}

/// The plan for a story; every event is a transaction, numbered by its offset.
fn plan(story: &Story, keyed: bool, mode: Mode) -> Plan {
    let table = t(keyed);
    let mut planner = Planner::new(Dialect::Mariadb, mode);
    let first = story
        .events
        .iter()
        .position(|event| event.selected)
        .unwrap_or(story.events.len());
    for (nth, event) in story.events.iter().enumerate().skip(first) {
        let position = Position {
            epoch: 0,
            at: LogPos::new("binlog.000001", nth as u64),
            ordinal: 0,
        };
        let change = change(&table, position, event.before.as_deref(), event.after.as_deref());
        planner.change(&change, event.selected).expect("a good change");
    }
    planner.finish(&|_, _| None).expect("a plan")
}

fn nth(row: &PlannedChange) -> usize {
    usize::try_from(row.position.at.offset).expect("small")
}

/// The definitions, word by word, by trying all pairs of events.
fn expected(story: &Story, event: usize, kept: &dyn Fn(usize) -> bool) -> Class {
    let me = &story.events[event];
    let later = || {
        (event + 1..story.events.len())
            .filter(|nth| kept(*nth))
            .map(|nth| &story.events[nth])
    };
    let of_row = || later().filter(|other| other.life == me.life);
    let changed = me.changed();
    // A place is used by a row that comes there, leaves it, is born or dies there. The last one counts, if it is another row.
    let uses = |key: &crate::fixture::V| {
        later()
            .filter(|other| {
                let [from, to] = [&other.before, &other.after].map(|row| row.as_ref().map(|row| &row[0]));
                from != to && (from == Some(key) || to == Some(key))
            })
            .last()
            .filter(|other| other.life != me.life)
            .cloned()
    };
    if let Some(deletion) = of_row().find(|other| other.after.is_none()) {
        let key = &deletion.before.as_ref().expect("a deleted row")[0];
        let reborn = uses(key).is_some_and(|other| other.before.is_none());
        return if reborn { Class::Reborn } else { Class::Vanished };
    }
    if me.after.is_none() || changed.contains(&0) {
        let key = &me.before.as_ref().expect("a row")[0];
        match uses(key) {
            Some(other) if other.before.is_none() => return Class::Reborn,
            Some(other) if other.after.is_none() => return Class::Vanished,
            Some(_) => return Class::KeyTaken,
            None => {}
        }
    }
    let touches = of_row().flat_map(|other| other.changed()).collect::<Vec<_>>();
    match touches {
        touches if touches.is_empty() => Class::Clean,
        _ if me.before.is_none() => Class::Overlap,
        touches if touches.iter().any(|column| changed.contains(column)) => Class::Overlap,
        _ => Class::Disjoint,
    }
}

fn check_safe(story: &Story, keyed: bool) -> Result<(), TestCaseError> {
    let plan = plan(story, keyed, Mode::Safe);
    let planned = rows(&plan);
    prop_assert_eq!(
        planned.len(),
        story.events.iter().filter(|event| event.selected).count()
    );
    prop_assert!(
        planned.windows(2).all(|pair| nth(&pair[0]) > nth(&pair[1])),
        "in reverse order"
    );
    let undone: Vec<usize> = planned.iter().filter(|row| row.included).map(nth).collect();
    let kept = |event: usize| !undone.contains(&event);
    for row in &planned {
        prop_assert_eq!(row.included, matches!(row.class, Class::Clean | Class::Disjoint));
        if keyed {
            prop_assert_eq!(row.class, expected(story, nth(row), &kept), "event {}", nth(row));
        }
        prop_assert_eq!(
            row.class == Class::Overlap,
            !row.conflicts.is_empty() && row.class == Class::Overlap
        );
    }
    let now = story.replay(|_| true).expect("it happened");
    let wanted = story.replay(kept).map_err(TestCaseError::fail)?;
    let mut server = Server::new(now.clone(), keyed);
    let count = server.run(&body(&plan)).map_err(TestCaseError::fail)?;
    prop_assert_eq!(count, plan.summary().statements);
    prop_assert_eq!(
        &server.rows,
        &wanted,
        "kept changes survive, undone ones are gone"
    );
    server.run(&redo_body(&plan)).map_err(TestCaseError::fail)?;
    prop_assert_eq!(&server.rows, &now, "the redo script takes it back");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_kept_survives_and_what_is_undone_is_gone(attempts in attempts(24)) {
        check_safe(&Story::new(&attempts, true), true)?;
    }

    #[test]
    fn the_same_holds_without_a_key(attempts in attempts(16)) {
        check_safe(&Story::new(&attempts, false), false)?;
    }

    #[test]
    fn force_restores_what_it_says_and_nothing_else(attempts in attempts(24)) {
        let story = Story::new(&attempts, true);
        let plan = plan(&story, true, Mode::Force);
        let now = story.replay(|_| true).expect("it happened");
        let mut server = Server::new(now.clone(), true);
        server.run(&body(&plan)).map_err(TestCaseError::fail)?;
        let undone: Vec<usize> = rows(&plan).iter().filter(|row| row.included).map(nth).collect();
        // The last word on a column has the earliest change of it that was undone; on a row's life, its insertion or deletion.
        for (life, _) in story.events.iter().map(|event| (event.life, ())) {
            let of_row = || undone.iter().rev().map(|nth| &story.events[*nth]).filter(|event| event.life == life);
            if of_row().any(|event| event.before.is_none()) {
                continue;
            }
            for column in 1..4 {
                let earliest = of_row().find(|event| event.after.is_none() || event.changed().contains(&column));
                let Some(row) = earliest.and_then(|event| event.before.as_ref()) else { continue };
                let wanted = &row[column];
                prop_assert!(server.rows.iter().any(|row| row[column] == *wanted));
            }
        }
        server.run(&redo_body(&plan)).map_err(TestCaseError::fail)?;
        prop_assert_eq!(&server.rows, &now, "the redo script takes it back");
    }
}
