//! Which changes a caller may choose. Access is applied before the agent is asked: what a role does not see is never planned, and a filter on a
//! column that it does not see is refused, since the numbers of the answer would tell what is in it.

use proto::{
    agent::v1::{TableColumns, TablesResponse},
    change::v1::{Filter, TableFilter},
};

use types::access::View;

use super::sight::Sight;
use crate::error::Error;

/// Members of a filter, as its proto says.
const MAX_TABLES: usize = 64;
const MAX_KEYS: usize = 1_000;
const MAX_POSITIONS: usize = 10_000;

/// Bytes of a key, of a name.
const MAX_KEY: usize = 4_096;
const MAX_NAME: usize = 1_024;

/// What has to be known before a filter can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing: it is used as it is.
    Nothing,
    /// The tables that there are.
    Tables,
}

fn wrong(field: &'static str, problem: &'static str) -> Error {
    Error::Filter { field, problem }
}

/// Refuses what is too large, and what would choose everything.
pub(crate) fn check(filter: &Filter) -> Result<(), Error> {
    let chooses = !filter.tables.is_empty()
        || !filter.keys.is_empty()
        || !filter.positions.is_empty()
        || !filter.gtid.is_empty()
        || !filter.transaction.is_empty()
        || filter.since.is_some()
        || filter.until.is_some();
    if !chooses {
        let problem = "choose by a transaction, tables, keys, positions or times: this would undo everything";
        return Err(wrong("filter", problem));
    }
    let long = |text: &str| text.len() > MAX_NAME;
    if filter.tables.len() > MAX_TABLES {
        return Err(wrong("filter.tables", "more than 64 tables"));
    }
    if filter.keys.len() > MAX_KEYS {
        return Err(wrong("filter.keys", "more than 1,000 keys"));
    }
    if filter.positions.len() > MAX_POSITIONS {
        return Err(wrong("filter.positions", "more than 10,000 positions"));
    }
    if filter.keys.iter().any(|key| key.len() > MAX_KEY) {
        return Err(wrong("filter.keys", "a key of more than 4,096 bytes"));
    }
    if filter.tables.iter().any(|table| table.schema.is_empty()) {
        return Err(wrong("filter.tables.schema", "a table needs its schema"));
    }
    if filter
        .tables
        .iter()
        .any(|table| long(&table.schema) || long(&table.table))
    {
        return Err(wrong("filter.tables", "a name of more than 1,024 bytes"));
    }
    let names = [&filter.gtid, &filter.transaction, &filter.column];
    if names.into_iter().any(|name| long(name)) || filter.positions.iter().any(|at| long(&at.file)) {
        return Err(wrong("filter", "a text of more than 1,024 bytes"));
    }
    if !filter.keys.is_empty() && (filter.tables.len() != 1 || filter.tables[0].table.is_empty()) {
        return Err(wrong("filter.keys", "keys need exactly one table"));
    }
    Ok(())
}

/// What has to be known to apply access to `filter`, which was checked. Names of tables and columns are judged here already, by the rules for
/// the names that are known to have been theirs.
pub(crate) fn judge(filter: &Filter, sight: &Sight) -> Result<Need, Error> {
    if sight.is_whole() {
        return Ok(Need::Nothing);
    }
    for table in filter.tables.iter().filter(|table| !table.table.is_empty()) {
        named(&sight.of(&table.schema, &table.table), &filter.column)?;
    }
    Ok(Need::Tables)
}

/// A table that the filter names, and the column that it asks for.
fn named(view: &View, column: &str) -> Result<(), Error> {
    if view.is_hidden() {
        return Err(Error::TableDenied);
    }
    if !column.is_empty() && !view.shows(column) {
        return Err(Error::ColumnDenied);
    }
    Ok(())
}

/// The filter with every table by name that the caller sees, out of those that there are.
pub(crate) fn narrow(filter: &Filter, sight: &Sight, there: &TablesResponse) -> Result<Filter, Error> {
    judge(filter, sight)?;
    keys(filter, sight, &there.keys)?;
    let is_named = |table: &&TableFilter| !table.table.is_empty();
    let mut tables: Vec<TableFilter> = filter.tables.iter().filter(is_named).cloned().collect();
    let open: Vec<&str> = filter
        .tables
        .iter()
        .filter(|table| table.table.is_empty())
        .map(|table| table.schema.as_str())
        .collect();
    if !filter.tables.is_empty() && open.is_empty() {
        return Ok(filter.clone());
    }
    let mut hidden = Ok(());
    for table in &there.tables {
        if !open.is_empty() && !open.contains(&table.schema.as_str()) {
            continue;
        }
        if let Err(error) = named(&sight.of(&table.schema, &table.table), &filter.column) {
            hidden = Err(error);
            continue;
        }
        let table = TableFilter {
            schema: table.schema.clone(),
            table: table.table.clone(),
        };
        if !tables.contains(&table) {
            tables.push(table);
        }
    }
    if tables.is_empty() {
        // Without a table a filter would be for all of them.
        return Err(hidden.err().unwrap_or(Error::NothingToUndo));
    }
    if tables.len() > MAX_TABLES {
        let problem = "name the tables: access rules for your role leave more than 64 of them";
        return Err(wrong("filter.tables", problem));
    }
    Ok(Filter {
        tables,
        ..filter.clone()
    })
}

/// A key names the values of a table's key columns, and a row is found by the keys that its table had before too. Whoever does not see one of all
/// these columns finds nothing by key: also where it is not known which they are.
fn keys(filter: &Filter, sight: &Sight, there: &[TableColumns]) -> Result<(), Error> {
    let [table] = filter.tables.as_slice() else {
        return Ok(());
    };
    let view = sight.of(&table.schema, &table.table);
    if filter.keys.is_empty() || view.is_whole() {
        return Ok(());
    }
    let mut same = there
        .iter()
        .filter(|known| known.schema == table.schema && known.table == table.table);
    match same.next() {
        Some(known) if known.columns.iter().all(|column| view.shows(column)) => Ok(()),
        _ => Err(Error::ColumnDenied),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use proto::{
        agent::v1::{TableColumns, TablesResponse},
        change::v1::{Filter, Op, Position, TableFilter, TableSummary},
        common::v1::Role as PbRole,
        tenant::v1::{AccessRule, Effect},
    };
    use types::{Fault as _, Role, RuleId};

    use super::{Need, check, judge, narrow};
    use crate::domain::sight::Sight;

    fn rule(effect: Effect, place: &str, columns: &[&str]) -> AccessRule {
        let (schema, table) = place.split_once('.').unwrap();
        AccessRule {
            id: RuleId::fresh().to_string(),
            role: PbRole::Operator.into(),
            schema_name: schema.to_owned(),
            table_name: table.to_owned(),
            columns: columns.iter().map(|column| (*column).to_owned()).collect(),
            effect: effect.into(),
            ..AccessRule::default()
        }
    }

    fn sight(rules: &[AccessRule]) -> Sight {
        Sight::new(Role::Operator, None, rules).unwrap()
    }

    fn tables(places: &[&str]) -> Vec<TableFilter> {
        let table = |place: &&str| {
            let (schema, table) = place.split_once('.').unwrap();
            TableFilter {
                schema: schema.to_owned(),
                table: table.trim_start_matches('*').to_owned(),
            }
        };
        places.iter().map(table).collect()
    }

    /// Tables that have `id` for their key.
    fn there(places: &[&str]) -> TablesResponse {
        keyed(places, &["id"])
    }

    /// Tables that have `id` for their key, and have had these.
    fn keyed(places: &[&str], ever: &[&str]) -> TablesResponse {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let summary = |table: &TableFilter| TableSummary {
            schema: table.schema.clone(),
            table: table.table.clone(),
            columns: words(&["id", "card"]),
            key: words(&["id"]),
            ..TableSummary::default()
        };
        let key = |table: &TableFilter| TableColumns {
            schema: table.schema.clone(),
            table: table.table.clone(),
            columns: words(ever),
        };
        let tables = tables(places);
        TablesResponse {
            tables: tables.iter().map(summary).collect(),
            keys: tables.iter().map(key).collect(),
            ..TablesResponse::default()
        }
    }

    fn of(places: &[&str]) -> Filter {
        Filter {
            tables: tables(places),
            ..Filter::default()
        }
    }

    fn in_transaction() -> Filter {
        Filter {
            gtid: "0-1-2".to_owned(),
            ..Filter::default()
        }
    }

    fn reason<T: std::fmt::Debug>(outcome: Result<T, crate::error::Error>) -> &'static str {
        outcome.unwrap_err().reason()
    }

    #[test]
    fn a_filter_has_bounds_and_chooses_something() {
        let refused = |filter: Filter| check(&filter).unwrap_err().field().unwrap_or_default().to_owned();
        assert!(check(&in_transaction()).is_ok());
        assert!(check(&of(&["shop.*"])).is_ok());
        for kinds in [
            Filter {
                ops: vec![Op::Delete.into()],
                ..Filter::default()
            },
            Filter {
                column: "card".to_owned(),
                ..Filter::default()
            },
            Filter {
                epoch: Some(1),
                ..Filter::default()
            },
        ] {
            assert_eq!(refused(kinds), "filter");
        }
        let position = Position {
            file: "x".repeat(1_025),
            ..Position::default()
        };
        for (filter, field) in [
            (of(&["shop.a"; 65]), "filter.tables"),
            (of(&[".a"]), "filter.tables.schema"),
            (of(&[&format!("{}.a", "x".repeat(1_025))]), "filter.tables"),
            (
                Filter {
                    keys: vec!["1".to_owned()],
                    ..in_transaction()
                },
                "filter.keys",
            ),
            (
                Filter {
                    keys: vec!["1".to_owned(); 1_001],
                    ..of(&["shop.a"])
                },
                "filter.keys",
            ),
            (
                Filter {
                    keys: vec!["1".repeat(4_097)],
                    ..of(&["shop.a"])
                },
                "filter.keys",
            ),
            (
                Filter {
                    positions: vec![Position::default(); 10_001],
                    ..Filter::default()
                },
                "filter.positions",
            ),
            (
                Filter {
                    positions: vec![position],
                    ..Filter::default()
                },
                "filter",
            ),
        ] {
            assert_eq!(refused(filter), field);
        }
    }

    #[test]
    fn who_sees_everything_is_not_held_up() {
        let whole = [rule(Effect::Allow, "*.*", &[])];
        for rules in [&[][..], &whole] {
            assert_eq!(judge(&in_transaction(), &sight(rules)).unwrap(), Need::Nothing);
        }
    }

    #[test]
    fn names_are_judged_before_anything_is_asked() {
        let sight = sight(&[
            rule(Effect::Deny, "shop.mails", &[]),
            rule(Effect::Deny, "shop.orders", &["Card"]),
        ]);
        assert_eq!(
            reason(judge(&of(&["shop.orders", "shop.mails"]), &sight)),
            "TABLE_DENIED"
        );
        let by_card = Filter {
            column: "CARD".to_owned(),
            ..of(&["shop.orders"])
        };
        assert_eq!(reason(judge(&by_card, &sight)), "COLUMN_DENIED");
        assert_eq!(judge(&of(&["shop.orders"]), &sight).unwrap(), Need::Tables);
        for open in [in_transaction(), of(&["shop.*"]), of(&["shop.orders", "crm.*"])] {
            assert_eq!(judge(&open, &sight).unwrap(), Need::Tables);
        }
        let by_key = Filter {
            keys: vec!["1".to_owned()],
            ..of(&["shop.orders"])
        };
        assert_eq!(judge(&by_key, &sight).unwrap(), Need::Tables);
    }

    #[test]
    fn open_filters_become_the_tables_that_are_seen() {
        let sight = sight(&[rule(Effect::Deny, "shop.mails", &[])]);
        let there = there(&["shop.orders", "shop.mails", "crm.people"]);
        let narrowed = |filter: &Filter| narrow(filter, &sight, &there).unwrap().tables;
        assert_eq!(
            narrowed(&in_transaction()),
            tables(&["shop.orders", "crm.people"])
        );
        assert_eq!(narrowed(&of(&["shop.*"])), tables(&["shop.orders"]));
        assert_eq!(
            narrowed(&of(&["crm.people", "shop.*"])),
            tables(&["crm.people", "shop.orders"])
        );
        assert_eq!(narrowed(&of(&["shop.orders"])), tables(&["shop.orders"]));
        assert_eq!(narrow(&in_transaction(), &sight, &there).unwrap().gtid, "0-1-2");
        // Nothing left is never everything.
        assert_eq!(
            reason(narrow(&of(&["other.*"]), &sight, &there)),
            "NOTHING_TO_UNDO"
        );
        let hidden = self::there(&["shop.mails"]);
        assert_eq!(reason(narrow(&in_transaction(), &sight, &hidden)), "TABLE_DENIED");
    }

    #[test]
    fn tables_whose_column_is_hidden_are_left_out_of_an_open_filter_on_it() {
        let sight = sight(&[rule(Effect::Deny, "shop.orders", &["card"])]);
        let by_card = Filter {
            column: "card".to_owned(),
            ..in_transaction()
        };
        let both = there(&["shop.orders", "shop.mails"]);
        assert_eq!(
            narrow(&by_card, &sight, &both).unwrap().tables,
            tables(&["shop.mails"])
        );
        assert_eq!(
            reason(narrow(&by_card, &sight, &there(&["shop.orders"]))),
            "COLUMN_DENIED"
        );
    }

    #[test]
    fn keys_of_hidden_columns_are_refused_and_other_keys_are_not() {
        let by_key = Filter {
            keys: vec!["1".to_owned()],
            ..of(&["shop.orders"])
        };
        let there = there(&["shop.orders"]);
        for (hidden, outcome) in [("card", Ok(())), ("ID", Err("COLUMN_DENIED"))] {
            let sight = sight(&[rule(Effect::Deny, "shop.orders", &[hidden])]);
            let narrowed = narrow(&by_key, &sight, &there);
            assert_eq!(narrowed.map(drop).map_err(|error| error.reason()), outcome);
        }
        let listed = sight(&[rule(Effect::Allow, "shop.orders", &["card"])]);
        assert_eq!(reason(narrow(&by_key, &listed, &there)), "COLUMN_DENIED");
        // A row is found by the key that its table had once, too; and which that was may not be known.
        let hides_card = sight(&[rule(Effect::Deny, "shop.orders", &["Card"])]);
        let once = keyed(&["shop.orders"], &["card", "id"]);
        assert_eq!(reason(narrow(&by_key, &hides_card, &once)), "COLUMN_DENIED");
        for unknown in [
            TablesResponse {
                keys: Vec::new(),
                ..there
            },
            self::there(&["shop.mails"]),
        ] {
            assert_eq!(reason(narrow(&by_key, &hides_card, &unknown)), "COLUMN_DENIED");
        }
    }

    #[test]
    fn more_tables_than_a_filter_holds_are_refused_and_never_cut_off() {
        let names: Vec<String> = (0..66).map(|number| format!("shop.t{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let sight = sight(&[rule(Effect::Deny, "shop.t0", &[])]);
        let most = there(&names[..65]);
        assert_eq!(narrow(&in_transaction(), &sight, &most).unwrap().tables.len(), 64);
        let more = there(&names);
        assert_eq!(reason(narrow(&in_transaction(), &sight, &more)), "FILTER_INVALID");
    }

    #[test]
    fn rules_that_cannot_be_read_refuse_everything() {
        let mut wrong = rule(Effect::Deny, "shop.a", &[]);
        wrong.effect = 9;
        assert!(Sight::new(Role::Operator, None, &[wrong]).is_err());
    }

    const NAMES: [&str; 3] = ["*", "a", "b"];

    fn any_rule() -> impl Strategy<Value = AccessRule> {
        let name = || prop::sample::select(NAMES.to_vec());
        let columns = prop::sample::subsequence(vec!["id", "card"], 0..=2);
        (name(), name(), columns, any::<bool>()).prop_map(|(schema, table, columns, allow)| {
            let effect = if allow { Effect::Allow } else { Effect::Deny };
            rule(effect, &format!("{schema}.{table}"), &columns)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn no_filter_that_is_used_reaches_a_hidden_table_or_an_unseen_column(
            rules in vec(any_rule(), 0..5),
            named in prop::sample::subsequence(vec!["a.a", "a.b", "b.a", "a.*", "b.*"], 0..=3),
            column in prop::sample::select(vec!["", "id", "card"]),
        ) {
            let sight = sight(&rules);
            let filter = Filter { column: column.to_owned(), gtid: "0-1-2".to_owned(), ..of(&named) };
            let there = there(&["a.a", "a.b", "b.a", "b.b"]);
            let used = match judge(&filter, &sight) {
                Ok(Need::Nothing) => filter,
                Ok(Need::Tables) => match narrow(&filter, &sight, &there) {
                    Ok(narrowed) => narrowed,
                    Err(_) => return Ok(()),
                },
                Err(_) => return Ok(()),
            };
            let reached = there.tables.iter().filter(|table| {
                used.tables.is_empty()
                    || used.tables.iter().any(|mine| mine.schema == table.schema && (mine.table.is_empty() || mine.table == table.table))
            });
            for table in reached {
                let view = sight.of(&table.schema, &table.table);
                prop_assert!(!view.is_hidden() && (column.is_empty() || view.shows(column)));
            }
        }
    }
}
