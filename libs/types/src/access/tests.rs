use proptest::{collection::vec, prelude::*};
use std::collections::BTreeSet;

use crate::{Role, RuleId, ServerId};

use super::{Access, Effect, Lineage, Pattern, Rule, Target, View, columns, role};

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).unwrap()
}

fn rule(effect: Effect, server: Option<ServerId>, place: &str, named: &[&str]) -> Rule {
    let (schema, table) = place.split_once('.').unwrap();
    let named: Vec<String> = named.iter().map(|name| (*name).to_owned()).collect();
    Rule {
        id: RuleId::fresh(),
        target: Target {
            role: Role::Analyst,
            server,
            schema: pattern(schema),
            table: pattern(table),
            columns: columns(&named).unwrap(),
        },
        effect,
    }
}

type Decision = (View, BTreeSet<RuleId>);

fn decide(rules: &[Rule], role: Role, server: ServerId, schema: &str, table: &str) -> Decision {
    Access::of(role, rules.to_vec()).explain(server, schema, table)
}

fn of(rules: &[Rule]) -> Decision {
    decide(rules, Role::Analyst, ServerId::fresh(), "shop", "orders")
}

#[test]
fn without_a_rule_all_is_seen() {
    let (view, rules) = of(&[
        rule(Effect::Deny, None, "shop.other", &[]),
        rule(Effect::Allow, None, "crm.orders", &["a"]),
    ]);
    assert!(view.shows("anything") && view.is_whole() && rules.is_empty());
}

#[test]
fn a_denied_table_is_hidden_whatever_allows_it() {
    let deny = rule(Effect::Deny, None, "shop.*", &[]);
    let (view, rules) = of(&[rule(Effect::Allow, None, "shop.orders", &[]), deny.clone()]);
    assert_eq!((view, rules), (View::Hidden, [deny.id].into()));
}

#[test]
fn a_denied_column_is_hidden_whatever_allows_it_and_without_case() {
    let (view, rules) = of(&[
        rule(Effect::Allow, None, "shop.orders", &["Id", "Card"]),
        rule(Effect::Deny, None, "*.*", &["CARD"]),
    ]);
    assert!(view.shows("iD") && !view.shows("card") && !view.shows("other") && !view.is_whole());
    let View::Visible { denied, allowed } = view else {
        panic!("hidden");
    };
    assert_eq!(allowed.unwrap().into_values().collect::<Vec<_>>(), ["Id"]);
    assert_eq!(denied.into_values().collect::<Vec<_>>(), ["CARD"]);
    assert_eq!(rules.len(), 2);
}

#[test]
fn names_of_tables_differ_by_more_than_case() {
    let denial = rule(Effect::Deny, None, "Shop.ORDERS", &[]);
    assert!(of(&[denial]).0.is_hidden());
    let (view, _) = of(&[rule(Effect::Deny, None, "shop.Orders", &["card"])]);
    assert!(!view.shows("card") && view.shows("id"));
    let (view, _) = of(&[rule(Effect::Allow, None, "shop.Orders", &["id"])]);
    assert!(!view.shows("card") && view.shows("id"));
    // What is allowed of another table of the same name shows nothing more of this one.
    let (view, _) = of(&[
        rule(Effect::Allow, None, "shop.orders", &["id"]),
        rule(Effect::Allow, None, "shop.Orders", &[]),
    ]);
    assert!(!view.shows("card") && view.shows("id"));
}

#[test]
fn when_all_that_is_allowed_is_denied_nothing_is_seen() {
    let (view, rules) = of(&[
        rule(Effect::Allow, None, "shop.orders", &["card"]),
        rule(Effect::Deny, None, "shop.orders", &["card"]),
    ]);
    assert!(view.is_hidden() && !view.shows("card"));
    assert_eq!(rules.len(), 2);
}

#[test]
fn allowing_the_whole_table_beside_columns_of_it_allows_all() {
    let (view, _) = of(&[
        rule(Effect::Allow, None, "shop.orders", &["id"]),
        rule(Effect::Allow, None, "shop.*", &[]),
    ]);
    assert!(view.shows("anything") && view.is_whole());
}

#[test]
fn owners_and_admins_are_exempt_and_other_roles_have_their_own_rules() {
    let rules = [rule(Effect::Deny, None, "*.*", &[])];
    for (role, sees) in [
        (Role::Owner, true),
        (Role::Admin, true),
        (Role::Operator, true),
        (Role::Analyst, false),
        (Role::Viewer, true),
    ] {
        let (view, _) = decide(&rules, role, ServerId::fresh(), "shop", "orders");
        assert_eq!(view.is_whole(), sees, "{role:?}");
        let access = Access::of(role, rules.to_vec());
        assert_eq!(access.hides_nothing(ServerId::fresh()), sees, "{role:?}");
    }
}

#[test]
fn a_rule_of_one_server_says_nothing_of_others() {
    let server = ServerId::fresh();
    let rules = [rule(Effect::Deny, Some(server), "*.*", &[])];
    let access = Access::of(Role::Analyst, rules);
    assert!(access.table(server, "a", "b").is_hidden() && !access.hides_nothing(server));
    let other = ServerId::fresh();
    assert!(access.table(other, "a", "b").is_whole() && access.hides_nothing(other));
}

#[test]
fn of_what_is_no_registered_server_is_seen_what_is_seen_of_every_one() {
    let (one, other) = (ServerId::fresh(), ServerId::fresh());
    let rules = [
        rule(Effect::Deny, None, "*.*", &["card"]),
        rule(Effect::Deny, Some(one), "*.*", &["pin"]),
        rule(Effect::Allow, Some(other), "a.b", &["id", "card", "pin"]),
        rule(Effect::Deny, Some(other), "a.c", &[]),
    ];
    let access = Access::of(Role::Analyst, rules);
    let view = access.table(None, "a", "b");
    assert!(view.shows("id"));
    for hidden in ["Card", "pin", "note"] {
        assert!(!view.shows(hidden), "{hidden}");
    }
    assert!(access.table(None, "a", "c").is_hidden());
    let view = access.table(None, "z", "z");
    assert!(view.shows("note") && !view.shows("pin"));
    // One rule of one server is enough, and plain allowances hide nothing.
    let alone = [rule(Effect::Deny, Some(one), "a.b", &[])];
    let access = Access::of(Role::Analyst, alone);
    assert!(access.table(None, "a", "b").is_hidden() && !access.hides_nothing(None));
    let open = [rule(Effect::Allow, Some(one), "a.b", &[])];
    let access = Access::of(Role::Analyst, open);
    assert!(access.table(None, "a", "b").is_whole() && access.hides_nothing(None));
}

#[test]
fn what_a_tool_makes_of_a_table_shows_no_more_than_the_table() {
    let server = ServerId::fresh();
    let view =
        |rules: &[Rule], schema: &str, table: &str| decide(rules, Role::Analyst, server, schema, table).0;
    let denial = rule(Effect::Deny, None, "shop.Orders", &[]);
    for table in [
        "_orders_gho",
        "_Orders_ghc",
        "__orders_new",
        "_orders_20260101000000_del",
    ] {
        let found = decide(
            std::slice::from_ref(&denial),
            Role::Analyst,
            server,
            "shop",
            table,
        );
        assert_eq!(found, (View::Hidden, [denial.id].into()), "{table}");
    }
    let rules = [denial];
    assert!(view(&rules, "shop", "_others_gho").is_whole() && view(&rules, "crm", "_orders_gho").is_whole());
    let rules = [rule(Effect::Deny, None, "shop.orders", &["card"])];
    let seen = view(&rules, "shop", "_orders_new");
    assert!(seen.shows("id") && !seen.shows("Card"));
    // What is allowed of the table is all that is allowed of it, whatever is said of the other name.
    let rules = [
        rule(Effect::Allow, None, "*.orders", &["id", "card"]),
        rule(Effect::Allow, None, "shop._orders_gho", &["card", "x"]),
    ];
    let seen = view(&rules, "shop", "_orders_gho");
    assert!(seen.shows("card") && !seen.shows("id") && !seen.shows("x"));
    assert!(!view(&rules[..1], "shop", "_orders_gho").shows("x"));
}

#[test]
fn rows_stay_hidden_under_the_names_that_they_had_and_come_to_have() {
    let mut lineage = Lineage::default();
    lineage.renamed(("shop", "orders"), ("shop", "orders_old"));
    lineage.renamed(("shop", "orders_old"), ("archive", "Orders_1"));
    lineage.renamed(("shop", "mails"), ("shop", "tmp"));
    lineage.renamed(("shop", "orders"), ("shop", "tmp"));
    lineage.made_like(("shop", "orders"), ("shop", "copy"));
    let hidden = |place: &str, schema: &str, table: &str| {
        let access = Access::of(Role::Analyst, [rule(Effect::Deny, None, place, &[])]);
        let (view, _) = access.explain_among(ServerId::fresh(), schema, table, &lineage);
        view.is_hidden()
    };
    for (schema, table) in [
        ("shop", "orders"),
        ("shop", "orders_old"),
        ("archive", "orders_1"),
        ("shop", "tmp"),
        ("SHOP", "COPY"),
        ("shop", "_orders_gho"),
        ("archive", "_orders_1_gho"),
    ] {
        assert!(hidden("shop.orders", schema, table), "{table}");
    }
    // What became of it hides what it was, but neither a copy nor another table under the same name does.
    assert!(hidden("archive.orders_1", "shop", "orders") && hidden("shop.tmp", "shop", "mails"));
    assert!(!hidden("shop.copy", "shop", "orders") && !hidden("shop.orders", "shop", "mails"));
    assert!(!hidden("shop.other", "shop", "orders"));
    let access = Access::of(
        Role::Analyst,
        [rule(Effect::Deny, None, "shop.orders", &["card"])],
    );
    let (view, _) = access.explain_among(None, "archive", "Orders_1", &lineage);
    assert!(view.shows("id") && !view.shows("card"));
}

#[test]
fn a_column_stays_hidden_under_the_names_that_it_had_and_comes_to_have() {
    let mut lineage = Lineage::default();
    lineage.column(("shop", "orders"), "card", "Number");
    lineage.column(("shop", "orders"), "number", "no");
    lineage.renamed(("shop", "orders"), ("shop", "bought"));
    lineage.column(("shop", "bought"), "no", "n");
    let shown = |named: &str, table: &str, column: &str| {
        let access = Access::of(Role::Analyst, [rule(Effect::Deny, None, "shop.*", &[named])]);
        let (view, _) = access.explain_among(None, "shop", table, &lineage);
        view.shows(column)
    };
    for named in ["card", "NUMBER", "no", "n"] {
        for column in ["card", "number", "no", "n"] {
            assert!(!shown(named, "bought", column), "{named} {column}");
        }
        assert!(shown(named, "bought", "id") && shown(named, "others", "id"));
    }
    assert!(!shown("card", "orders", "no") && shown("card", "others", "no"));
    // Of what is allowed nothing is left.
    let rules = [
        rule(Effect::Allow, None, "shop.orders", &["no"]),
        rule(Effect::Deny, None, "shop.orders", &["card"]),
    ];
    let access = Access::of(Role::Analyst, rules);
    assert!(
        access
            .explain_among(None, "shop", "orders", &lineage)
            .0
            .is_hidden()
    );
}

#[test]
fn where_lineage_is_not_known_nothing_is_seen_by_whom_anything_is_hidden_from() {
    let rules = [rule(Effect::Deny, None, "shop.other", &["card"])];
    let hidden = |role: Role| {
        let access = Access::of(role, rules.clone());
        let (view, _) = access.explain_among(None, "shop", "orders", &Lineage::unknown());
        view.is_hidden()
    };
    assert!(hidden(Role::Analyst) && !hidden(Role::Viewer) && !hidden(Role::Owner));
}

#[test]
fn patterns_columns_and_roles_are_checked() {
    assert_eq!(Pattern::parse("*"), Ok(Pattern::Every));
    for bad in ["", "a*", "**", "a\0b", &"x".repeat(65)] {
        assert!(Pattern::parse(bad).is_err(), "{bad:?}");
    }
    for good in ["shop", "'; DROP SCHEMA tenant; --", "größe", "a b", "`"] {
        assert_eq!(
            Pattern::parse(good).map(|p| p.text().to_owned()),
            Ok(good.to_owned())
        );
    }
    assert!(columns(&["*".into()]).is_err() && columns(&[String::new()]).is_err());
    assert!(columns(&vec!["a".to_owned(); 257]).is_err());
    assert_eq!(columns(&["A".into(), "a".into()]).map(|c| c.len()), Ok(1));
    assert!(role(Role::Admin).is_err() && role(Role::Owner).is_err() && role(Role::Operator).is_ok());
}

const SERVERS: u128 = 2;
const NAMES: [&str; 3] = ["*", "a", "b"];
const COLUMNS: [&str; 3] = ["x", "y", "z"];

fn any_rule(servers: Vec<ServerId>) -> impl Strategy<Value = Rule> {
    let role = prop::sample::select(vec![Role::Viewer, Role::Analyst]);
    let server = prop::option::of(prop::sample::select(servers));
    let name = || prop::sample::select(NAMES.to_vec());
    let columns = prop::sample::subsequence(COLUMNS.to_vec(), 0..=3);
    (role, server, name(), name(), columns, any::<bool>()).prop_map(
        |(role, server, schema, table, named, allow)| {
            let effect = if allow { Effect::Allow } else { Effect::Deny };
            let mut rule = rule(effect, server, &format!("{schema}.{table}"), &named);
            rule.target.role = role;
            rule
        },
    )
}

fn world() -> impl Strategy<Value = (Vec<ServerId>, Vec<Rule>)> {
    let servers: Vec<ServerId> = (0..SERVERS).map(|_| ServerId::fresh()).collect();
    vec(any_rule(servers.clone()), 0..8).prop_map(move |rules| (servers.clone(), rules))
}

/// The rule as the proto words it, one column at a time.
fn model(rules: &[Rule], role: Role, server: ServerId, schema: &str, table: &str, column: &str) -> bool {
    let about = |rule: &&Rule| {
        let place = [
            (rule.target.schema.text(), schema),
            (rule.target.table.text(), table),
        ];
        rule.target.role == role
            && (rule.target.server.is_none() || rule.target.server == Some(server))
            && place
                .iter()
                .all(|(pattern, name)| *pattern == "*" || pattern == name)
    };
    let hit = |rule: &&Rule| rule.target.columns.is_empty() || rule.target.columns.contains_key(column);
    let of = |effect: Effect| {
        rules
            .iter()
            .filter(about)
            .filter(move |rule| rule.effect == effect)
    };
    !of(Effect::Deny).any(|rule| hit(&rule))
        && (of(Effect::Allow).count() == 0 || of(Effect::Allow).any(|rule| hit(&rule)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_decision_is_that_of_a_model_that_asks_for_each_column((servers, rules) in world()) {
        for server in servers {
            for (schema, table) in [("a", "a"), ("a", "b"), ("b", "a"), ("c", "c")] {
                let (view, _) = decide(&rules, Role::Analyst, server, schema, table);
                // "w" stands for every column that no rule names.
                let mut any = false;
                for column in ["x", "y", "z", "w"] {
                    let expected = model(&rules, Role::Analyst, server, schema, table, column);
                    prop_assert_eq!(view.shows(column), expected, "{} of {}.{}: {:?}", column, schema, table, view);
                    prop_assert!(expected || !Access::of(Role::Analyst, rules.clone()).hides_nothing(server));
                    any |= expected;
                }
                prop_assert_eq!(!view.is_hidden(), any);
            }
        }
    }

    #[test]
    fn the_order_of_rules_and_their_repetition_change_nothing((servers, rules) in world()) {
        let once = decide(&rules, Role::Analyst, servers[0], "a", "b");
        let more: Vec<Rule> = rules.iter().rev().chain(&rules).cloned().collect();
        prop_assert_eq!(&once, &decide(&more, Role::Analyst, servers[0], "a", "b"));
    }

    #[test]
    fn the_rules_that_decided_decide_the_same_alone((servers, rules) in world()) {
        let all = decide(&rules, Role::Analyst, servers[0], "a", "b");
        let few: Vec<Rule> = rules.iter().filter(|rule| all.1.contains(&rule.id)).cloned().collect();
        prop_assert_eq!(&all, &decide(&few, Role::Analyst, servers[0], "a", "b"));
    }

    #[test]
    fn one_more_denial_never_shows_more((servers, rules) in world(), at in 0usize..8) {
        let (before, _) = decide(&rules, Role::Analyst, servers[0], "a", "b");
        let mut more = rules.clone();
        if let Some(mut extra) = rules.get(at).cloned() {
            extra.effect = Effect::Deny;
            more.push(extra);
        }
        let (after, _) = decide(&more, Role::Analyst, servers[0], "a", "b");
        for column in ["x", "y", "z", "w"] {
            prop_assert!(before.shows(column) || !after.shows(column));
        }
    }
}
