//! An oracle: whatever the rules, no byte of what is left has a value that the caller may not see.

use bytes::Bytes;
use proptest::{collection::vec, prelude::*, sample::select};
use prost::Message as _;
use proto::{
    change::v1::{self as pb, value::Kind},
    common::v1::Role as PbRole,
    tenant::v1 as tenant,
};
use types::{Role, RuleId, ServerId};

use super::{Left, Redactor, Sight};

/// Names that differ in nothing but case, that look like SQL, like an answer's own words, and that are long.
const COLUMNS: [&str; 8] = [
    "id", "Card", "CARD", "größe", "GRÖSSE", "query", "a`; DROP", "x_card",
];
const SCHEMAS: [&str; 3] = ["shop", "Shop", "hr"];
const TABLES: [&str; 3] = ["orders", "ORDERS", "pay"];

/// Every value carries this and where it is from, so that it is found wherever it comes out.
fn canary(table: &str, column: &str) -> String {
    format!("canary<{table}|{column}>")
}

fn value(canary: String, kind: u8, length: usize) -> pb::Value {
    let long = format!("{}{canary}", "x".repeat(length));
    let kind = match kind % 6 {
        0 => Kind::Text(long),
        1 => Kind::Bytes(Bytes::from(long)),
        2 => Kind::Json(format!(
            "{{\"Card\":\"{canary}\",\"more\":[{{\"x\":\"{canary}\"}}]}}"
        )),
        3 => Kind::Decimal(canary),
        4 => Kind::Enum(pb::EnumValue {
            index: 1,
            label: canary,
        }),
        _ => Kind::Geometry(pb::Geometry {
            srid: 0,
            wkb: Bytes::from(long),
        }),
    };
    pb::Value { kind: Some(kind) }
}

#[derive(Clone, Debug)]
struct Made {
    change: pb::Change,
}

fn row(table: &str, columns: &[&str], kind: u8, length: usize) -> pb::Row {
    let cells = columns.iter().map(|column| pb::Cell {
        column: (*column).to_owned(),
        value: Some(value(canary(table, column), kind, length)),
    });
    pb::Row {
        cells: cells.collect(),
    }
}

fn any_change() -> impl Strategy<Value = Made> {
    let columns = || proptest::sample::subsequence(COLUMNS.to_vec(), 0..=COLUMNS.len());
    let place = (select(SCHEMAS.to_vec()), select(TABLES.to_vec()));
    (
        place,
        (columns(), columns(), columns(), columns()),
        any::<u8>(),
        select(vec![0_usize, 40, 70_000]),
        any::<bool>(),
    )
        .prop_map(
            |((schema, table), (key, before, after, changed), kind, length, query)| {
                let name = format!("{schema}.{table}");
                let all: String = COLUMNS.iter().map(|column| canary(&name, column)).collect();
                Made {
                    change: pb::Change {
                        position: Some(pb::Position::default()),
                        schema: schema.to_owned(),
                        table: table.to_owned(),
                        op: pb::Op::Update.into(),
                        key: Some(row(&name, &key, kind, 0)),
                        before: Some(row(&name, &before, kind, length)),
                        after: Some(row(&name, &after, kind.wrapping_add(1), length)),
                        changed: changed.into_iter().map(ToOwned::to_owned).collect(),
                        // A statement may name any other table, too.
                        query: query.then(|| format!("UPDATE {all} -- {}", canary("hr.pay", "id"))),
                        // What an agent says of itself does not count.
                        redacted: vec![all],
                        ..pb::Change::default()
                    },
                }
            },
        )
}

fn any_rule() -> impl Strategy<Value = tenant::AccessRule> {
    let names = |names: &[&'static str]| {
        let mut names = names.to_vec();
        names.push("*");
        select(names)
    };
    (
        names(&SCHEMAS),
        names(&TABLES),
        proptest::sample::subsequence(COLUMNS.to_vec(), 0..=3),
        any::<bool>(),
        select(vec![PbRole::Viewer, PbRole::Analyst, PbRole::Operator]),
        any::<bool>(),
    )
        .prop_map(|(schema, table, columns, allow, role, here)| tenant::AccessRule {
            id: RuleId::fresh().to_string(),
            role: role.into(),
            server_id: if here {
                String::new()
            } else {
                ServerId::fresh().to_string()
            },
            schema_name: schema.to_owned(),
            table_name: table.to_owned(),
            columns: columns.into_iter().map(ToOwned::to_owned).collect(),
            effect: if allow {
                tenant::Effect::Allow
            } else {
                tenant::Effect::Deny
            }
            .into(),
            create_time: None,
        })
}

/// The rules in the words of the proto, one column at a time, without a line of the code that is tested.
fn shows(rules: &[tenant::AccessRule], role: PbRole, schema: &str, table: &str, column: &str) -> bool {
    if matches!(role, PbRole::Admin | PbRole::Owner) {
        return true;
    }
    let same = |pattern: &str, name: &str| pattern == "*" || pattern.eq_ignore_ascii_case(name);
    let about = |rule: &&tenant::AccessRule| {
        rule.role() == role
            && rule.server_id.is_empty()
            && same(&rule.schema_name, schema)
            && same(&rule.table_name, table)
    };
    let exact = |rule: &&tenant::AccessRule| {
        ["*", schema].contains(&rule.schema_name.as_str()) && ["*", table].contains(&rule.table_name.as_str())
    };
    let hit = |rule: &tenant::AccessRule| {
        let named = |name: &String| name.to_lowercase() == column.to_lowercase();
        rule.columns.is_empty() || rule.columns.iter().any(named)
    };
    let of = |effect: tenant::Effect| {
        let mine = rules
            .iter()
            .filter(about)
            .filter(move |rule| rule.effect() == effect);
        mine.collect::<Vec<_>>()
    };
    let mut allowing = of(tenant::Effect::Allow);
    if allowing.iter().any(exact) {
        allowing.retain(exact);
    }
    !of(tenant::Effect::Deny).into_iter().any(hit) && (allowing.is_empty() || allowing.into_iter().any(hit))
}

fn holds(bytes: &[u8], canary: &str) -> bool {
    bytes
        .windows(canary.len())
        .any(|window| window == canary.as_bytes())
}

const ROLES: [(Role, PbRole); 5] = [
    (Role::Viewer, PbRole::Viewer),
    (Role::Analyst, PbRole::Analyst),
    (Role::Operator, PbRole::Operator),
    (Role::Admin, PbRole::Admin),
    (Role::Owner, PbRole::Owner),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn no_byte_of_what_is_left_has_a_hidden_value(
        rules in vec(any_rule(), 0..6),
        made in vec(any_change(), 1..4),
        (role, pb_role) in select(ROLES.to_vec()),
        by_key in any::<bool>(),
    ) {
        let sight = Sight::new(role, Some(ServerId::fresh()), &rules).unwrap();
        let whole = sight.whole();
        let mut redactor = Redactor::new(sight, by_key, "");
        for Made { change } in made {
            let (schema, table) = (change.schema.clone(), change.table.clone());
            let name = format!("{schema}.{table}");
            let mut left = change.clone();
            let what = redactor.change(&mut left);
            let sees: Vec<&str> = COLUMNS
                .into_iter()
                .filter(|column| shows(&rules, pb_role, &schema, &table, column))
                .collect();
            if !what.stays() {
                let unseen = !left.changed.iter().any(|column| sees.contains(&column.as_str()));
                prop_assert!(sees.len() < COLUMNS.len() || unseen);
                continue;
            }
            let bytes = left.encode_to_vec();
            for column in COLUMNS.into_iter().filter(|column| !sees.contains(column)) {
                prop_assert!(!holds(&bytes, &canary(&name, column)), "{column} of {name} came through");
                prop_assert!(!left.changed.iter().any(|changed| changed == column));
            }
            // What is seen is all there.
            for (had, has) in [(&change.key, &left.key), (&change.before, &left.before), (&change.after, &left.after)] {
                let had: Vec<&pb::Cell> = had.iter().flat_map(|row| &row.cells).filter(|cell| sees.contains(&cell.column.as_str())).collect();
                prop_assert_eq!(had, has.iter().flat_map(|row| &row.cells).collect::<Vec<_>>());
            }
            prop_assert_eq!(left.query.is_some(), whole && change.query.is_some());
            prop_assert_eq!(left.redacted.is_empty(), what == Left::All);
        }
    }

    #[test]
    fn a_definition_is_left_to_who_sees_all_of_its_tables(rules in vec(any_rule(), 0..6), targets in vec((select(SCHEMAS.to_vec()), select(vec!["orders", "ORDERS", "pay", ""])), 0..3), made_from in any::<bool>()) {
        let sight = Sight::new(Role::Analyst, Some(ServerId::fresh()), &rules).unwrap();
        let whole = sight.whole();
        let mut change = pb::SchemaChange {
            targets: targets.iter().map(|(schema, table)| pb::TableFilter { schema: (*schema).into(), table: (*table).into() }).collect(),
            text: format!("ALTER TABLE x DEFAULT 'canary'{}", if made_from { " AS Select 1" } else { "" }),
            ..pb::SchemaChange::default()
        };
        let what = Redactor::new(sight, false, "").schema_change(&mut change);
        let column = |schema: &str, table: &str| COLUMNS.iter().all(|column| shows(&rules, PbRole::Analyst, schema, table, column));
        let all = !targets.is_empty() && targets.iter().all(|(schema, table)| !table.is_empty() && column(schema, table));
        if !whole && (!all || made_from) {
            prop_assert!(what == Left::Nothing || change.text.is_empty());
        }
        if whole {
            prop_assert_eq!(what, Left::All);
        }
    }

    #[test]
    fn a_tables_columns_and_key_are_named_to_who_sees_them(rules in vec(any_rule(), 0..6), schema in select(SCHEMAS.to_vec()), table in select(TABLES.to_vec())) {
        let sight = Sight::new(Role::Operator, Some(ServerId::fresh()), &rules).unwrap();
        let names: Vec<String> = COLUMNS.into_iter().map(ToOwned::to_owned).collect();
        let mut summary = pb::TableSummary { schema: schema.into(), table: table.into(), columns: names.clone(), key: names, ..pb::TableSummary::default() };
        let what = Redactor::new(sight, false, "").summary(&mut summary);
        let seen: Vec<&str> = COLUMNS.into_iter().filter(|column| shows(&rules, PbRole::Operator, schema, table, column)).collect();
        if what == Left::Nothing {
            prop_assert!(seen.len() < COLUMNS.len());
        } else {
            prop_assert_eq!(&summary.columns, &seen);
            prop_assert_eq!(&summary.key, &seen);
        }
    }
}

fn denial(columns: &[&str]) -> tenant::AccessRule {
    tenant::AccessRule {
        id: RuleId::fresh().to_string(),
        role: PbRole::Analyst.into(),
        schema_name: "shop".into(),
        table_name: "orders".into(),
        columns: columns.iter().map(|column| (*column).to_owned()).collect(),
        effect: tenant::Effect::Deny.into(),
        ..tenant::AccessRule::default()
    }
}

fn change(key: &str, column: &str) -> pb::Change {
    pb::Change {
        schema: "shop".into(),
        table: "orders".into(),
        key: Some(row("shop.orders", &[key], 0, 0)),
        after: Some(row("shop.orders", &[key, column], 0, 0)),
        ..pb::Change::default()
    }
}

#[test]
fn a_row_that_was_found_by_what_the_caller_does_not_see_is_not_told_of() {
    let sight = Sight::new(Role::Analyst, None, &[denial(&["card"])]).unwrap();
    let mut by_key = Redactor::new(sight.clone(), true, "");
    assert_eq!(by_key.change(&mut change("CARD", "id")), Left::Untold);
    assert_eq!(by_key.change(&mut change("id", "note")), Left::All);
    let mut by_column = Redactor::new(sight, false, "Card");
    assert_eq!(by_column.change(&mut change("id", "card")), Left::Untold);
}

#[test]
fn a_rule_that_cannot_be_read_shows_nothing() {
    let rule = tenant::AccessRule {
        effect: 7,
        ..denial(&[])
    };
    assert!(Sight::new(Role::Analyst, None, &[rule]).is_err());
}

#[test]
fn why_something_is_missing_is_told_without_names() {
    let coverage = pb::Coverage {
        because: "hr.pay cannot be read".into(),
        gaps: vec![pb::Gap {
            reason: "hr.pay cannot be read".into(),
            ..pb::Gap::default()
        }],
        ..pb::Coverage::default()
    };
    let sight = Sight::new(Role::Analyst, None, &[denial(&["card"])]).unwrap();
    let mut told = coverage.clone();
    Redactor::new(sight, false, "").coverage(&mut told);
    assert!(!holds(&told.encode_to_vec(), "hr.pay") && !told.because.is_empty());
    let mut all = coverage.clone();
    let sight = Sight::new(Role::Operator, None, &[denial(&["card"])]).unwrap();
    Redactor::new(sight, false, "").coverage(&mut all);
    assert_eq!(all, coverage);
}

#[test]
fn a_statement_in_a_hidden_schema_or_made_by_another_table_tells_neither() {
    let hidden = |place: &str| {
        let (schema, table) = place.split_once('.').unwrap();
        tenant::AccessRule {
            schema_name: schema.to_owned(),
            table_name: table.to_owned(),
            ..denial(&[])
        }
    };
    let sight = |rule| Sight::new(Role::Analyst, None, &[rule]).unwrap();
    let statement = |targets: &[&str], text: &str| pb::SchemaChange {
        targets: targets
            .iter()
            .map(|table| pb::TableFilter {
                schema: "shop".into(),
                table: (*table).into(),
            })
            .collect(),
        default_schema: "crm".into(),
        text: text.into(),
        ..pb::SchemaChange::default()
    };
    let mut schema = Redactor::new(sight(hidden("Crm.*")), false, "");
    let mut view = statement(&[], "CREATE VIEW v AS TABLE people");
    assert_eq!(schema.schema_change(&mut view), Left::Nothing);
    let mut other = statement(&["orders"], "ALTER TABLE shop.orders ADD c INT");
    assert!(schema.schema_change(&mut other).stays() && !holds(&other.encode_to_vec(), "crm"));
    let mut table = Redactor::new(sight(hidden("crm.people")), false, "");
    for text in [
        "CREATE TABLE shop.orders LIKE crm.people",
        "ALTER TABLE shop.orders ADD FOREIGN KEY (a) references crm.people (ssn)",
    ] {
        let mut statement = statement(&["orders"], text);
        assert_eq!(table.schema_change(&mut statement), Left::Part);
        assert!(!holds(&statement.encode_to_vec(), "people"));
    }
    // As it was typed, on a server that ignores case.
    let mut typed = Redactor::new(sight(hidden("shop.salaries")), false, "");
    let mut statement = statement(&["Salaries"], "ALTER TABLE Shop.Salaries ADD pay INT");
    statement.targets[0].schema = "Shop".into();
    assert_eq!(typed.schema_change(&mut statement), Left::Nothing);
}

#[test]
fn a_problem_is_told_without_names() {
    let problem = "the log does not name the columns of shop.salaries";
    for (rules, told) in [(vec![], true), (vec![denial(&["card"])], false)] {
        let redactor = Redactor::new(Sight::new(Role::Analyst, None, &rules).unwrap(), false, "");
        for following in [false, true] {
            let mut state = pb::FollowState {
                following,
                problem: problem.to_owned(),
                ..pb::FollowState::default()
            };
            redactor.state(&mut state);
            assert!(!state.problem.is_empty() && (state.problem == problem) == told);
        }
    }
}
