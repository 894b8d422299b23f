//! What of an agent's answer a caller sees.

use std::collections::BTreeMap;

use proto::{
    agent::v1::PlanHead,
    change::v1::{Coverage, UndoConflict, UndoConflictColumn},
};
use serde_json::value::RawValue;

use types::access::View;

use super::sight::Sight;
use crate::error::Error;

/// Refuses a plan that is about a table, or whose script names a column, that the caller does not see. Its script is never given with the column
/// left out: that would be another script.
pub(crate) fn allows(sight: &Sight, head: &PlanHead) -> Result<(), Error> {
    if sight.is_whole() {
        return Ok(());
    }
    for table in &head.columns {
        let view = sight.of(&table.schema, &table.table);
        if view.is_hidden() {
            return Err(Error::TableDenied);
        }
        if table.columns.iter().any(|column| !view.shows(column)) {
            return Err(Error::ColumnDenied);
        }
    }
    let tables = head.summary.iter().flat_map(|summary| &summary.tables);
    sight.sees_all(tables)
}

/// Why something cannot be undone, for those from whom something is hidden: the agent's words may name any column, and quote why a stretch of the
/// log was not read.
const WHY: &str = "it cannot be undone as things are now";

/// Leaves of what an answer rests on what the caller sees, as service query does.
pub(crate) fn coverage(sight: &Sight, coverage: &mut Coverage) {
    if !sight.is_whole() {
        chassis::directory::plain_coverage(coverage);
    }
}

/// Takes the values of columns out that the caller does not see, and says whether there were any.
pub(crate) fn conflict(sight: &Sight, conflict: &mut UndoConflict) -> bool {
    if sight.is_whole() {
        return false;
    }
    let view = sight.of(&conflict.schema, &conflict.table);
    let mut taken = false;
    if !conflict.why.is_empty() {
        WHY.clone_into(&mut conflict.why);
    }
    for column in &mut conflict.columns {
        taken |= value(&view, column);
    }
    if let Some(shown) = key(&view, &conflict.key) {
        conflict.key = shown;
        taken = true;
    }
    taken
}

fn value(view: &View, column: &mut UndoConflictColumn) -> bool {
    if view.shows(&column.column) {
        return false;
    }
    column.wanted.clear();
    column.found.clear();
    column.redacted = true;
    true
}

/// The key without the columns that are not seen; none if all are. What is no object of columns is not shown at all.
fn key(view: &View, key: &str) -> Option<String> {
    if view.is_whole() || key.is_empty() {
        return None;
    }
    let Ok(mut columns) = serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(key) else {
        return Some(String::new());
    };
    let all = columns.len();
    columns.retain(|column, _| view.shows(column));
    (columns.len() < all).then(|| serde_json::to_string(&columns).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proto::{
        agent::v1::{PlanHead, TableColumns},
        change::v1::{Coverage, Gap, TableFilter, UndoConflict, UndoConflictColumn, UndoSummary},
        common::v1::Role as PbRole,
        tenant::v1::{AccessRule, Effect},
    };
    use types::{Fault as _, Role, RuleId};

    use super::{allows, conflict, coverage};
    use crate::domain::sight::Sight;

    fn hides(table: &str, columns: &[&str]) -> Sight {
        let rule = AccessRule {
            id: RuleId::fresh().to_string(),
            role: PbRole::Operator.into(),
            schema_name: "shop".to_owned(),
            table_name: table.to_owned(),
            columns: columns.iter().map(|column| (*column).to_owned()).collect(),
            effect: Effect::Deny.into(),
            ..AccessRule::default()
        };
        Sight::new(Role::Operator, None, &[rule]).unwrap()
    }

    fn head(columns: &[&str]) -> PlanHead {
        PlanHead {
            columns: vec![TableColumns {
                schema: "shop".to_owned(),
                table: "orders".to_owned(),
                columns: columns.iter().map(|column| (*column).to_owned()).collect(),
            }],
            ..PlanHead::default()
        }
    }

    #[test]
    fn a_script_is_for_those_who_see_all_that_it_names() {
        let refused = |sight: &Sight, head: &PlanHead| allows(sight, head).map_err(|error| error.reason());
        let sight = hides("orders", &["Card"]);
        assert_eq!(refused(&sight, &head(&["id", "status"])), Ok(()));
        assert_eq!(refused(&sight, &head(&["id", "CARD"])), Err("COLUMN_DENIED"));
        assert_eq!(
            refused(&hides("orders", &[]), &head(&["id"])),
            Err("TABLE_DENIED")
        );
        let chosen = PlanHead {
            summary: Some(UndoSummary {
                tables: vec![TableFilter {
                    schema: "shop".to_owned(),
                    table: "mails".to_owned(),
                }],
                ..UndoSummary::default()
            }),
            ..head(&["id"])
        };
        assert_eq!(refused(&hides("mails", &[]), &chosen), Err("TABLE_DENIED"));
        assert_eq!(refused(&Sight::whole(), &chosen), Ok(()));
    }

    fn found(key: &str) -> UndoConflict {
        let column = |name: &str| UndoConflictColumn {
            column: name.to_owned(),
            wanted: "\"secret\"".to_owned(),
            found: "\"secret too\"".to_owned(),
            ..UndoConflictColumn::default()
        };
        UndoConflict {
            schema: "shop".to_owned(),
            table: "orders".to_owned(),
            key: key.to_owned(),
            columns: vec![column("card"), column("status")],
            ..UndoConflict::default()
        }
    }

    #[test]
    fn hidden_values_go_and_others_stay_to_the_digit() {
        let whole = found("{\"id\":18446744073709551615,\"card\":\"secret\",\"at\":1.10}");
        let mut same = whole.clone();
        assert!(!conflict(&Sight::whole(), &mut same) && same == whole);

        let mut taken = whole.clone();
        assert!(conflict(&hides("orders", &["card"]), &mut taken));
        assert_eq!(taken.key, "{\"at\":1.10,\"id\":18446744073709551615}");
        assert!(taken.columns[0].redacted && taken.columns[0].wanted.is_empty());
        assert!(taken.columns[0].found.is_empty());
        assert_eq!(taken.columns[1], whole.columns[1]);

        let mut elsewhere = whole.clone();
        assert!(!conflict(&hides("mails", &[]), &mut elsewhere) && elsewhere == whole);
    }

    #[test]
    fn an_agents_words_are_for_those_from_whom_nothing_is_hidden() {
        let words = "the log does not name the columns of shop.salaries";
        let whole = Coverage {
            because: words.to_owned(),
            gaps: vec![Gap {
                reason: words.to_owned(),
                ..Gap::default()
            }],
            ..Coverage::default()
        };
        let mut stands = found("{\"id\":1}");
        words.clone_into(&mut stands.why);

        let (mut same, mut same_stands) = (whole.clone(), stands.clone());
        coverage(&Sight::whole(), &mut same);
        assert!(same == whole && !conflict(&Sight::whole(), &mut same_stands) && same_stands == stands);

        let sight = hides("salaries", &[]);
        let mut taken = whole;
        coverage(&sight, &mut taken);
        conflict(&sight, &mut stands);
        let told = format!("{taken:?} {stands:?}");
        assert!(!told.contains("salaries"), "{told}");
        assert!(!taken.because.is_empty() && taken.gaps.len() == 1 && !stands.why.is_empty());
    }

    #[test]
    fn a_key_that_is_no_object_is_not_shown_where_anything_is_hidden() {
        for odd in ["\"secret\"", "{", "[1]"] {
            let mut odd = found(odd);
            assert!(conflict(&hides("orders", &["card"]), &mut odd));
            assert_eq!(odd.key, "");
        }
    }
}
