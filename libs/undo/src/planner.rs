//! Takes the history in.

use std::{collections::HashMap, sync::Arc};

use binlog::{Change, DdlTarget, Position, SchemaChange, Statement, Table};

use crate::{
    By, Dialect, Error, Mode, Plan,
    history::{BreakKind, History},
    target::{Lens, Target},
    transition::View,
};

/// History is incomplete from here on, for a while at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Where the last change before it stands, or where the gap begins.
    pub at: Position,
    /// The only table it concerns (schema and name); none if it may concern every table.
    pub table: Option<(String, String)>,
    /// What happened, in a few words without row data: it is shown to the reader of the plan.
    pub reason: String,
}

/// Makes a [`Plan`]. Feed it every change and schema change of the affected tables, from the first selected change on to the present,
/// oldest first. Rows without a selected change cost nothing; memory grows with the rows that have one.
#[derive(Debug)]
pub struct Planner {
    dialect: Dialect,
    mode: Mode,
    history: History,
    self_updating: HashMap<(String, String), Vec<String>>,
}

impl Planner {
    /// An empty history.
    pub fn new(dialect: Dialect, mode: Mode) -> Self {
        Self {
            dialect,
            mode,
            history: History::default(),
            self_updating: HashMap::new(),
        }
    }

    /// The next change. `selected` changes are to be undone, all others are to survive.
    pub fn change(&mut self, change: &Change, selected: bool) -> Result<(), Error> {
        self.history.change(change, selected)
    }

    /// The next schema change. One that concerns no table with a selected change so far is ignored.
    pub fn schema_change(&mut self, change: &SchemaChange) -> Result<(), Error> {
        self.history.advance(&change.position)?;
        for target in &change.targets {
            for table in self.history.tables_named(&target.schema, target.table.as_deref()) {
                match effect(target, &change.text) {
                    Effect::None => {}
                    Effect::Altered => self.history.tables[table as usize].altered = true,
                    Effect::Break(kind) => {
                        let by = By {
                            position: change.position.clone(),
                            gtid: change.gtid.clone(),
                            commit_time: change.commit_time,
                        };
                        self.history.break_off(table, kind, Some(by));
                    }
                }
            }
        }
        Ok(())
    }

    /// Changes may be missing here. What was selected before it becomes [`Class::Unknown`](crate::Class::Unknown), unless the table was
    /// emptied since.
    pub fn gap(&mut self, gap: Gap) {
        let tables = match &gap.table {
            Some((schema, name)) => self.history.tables_named(schema, Some(name)),
            None => (0..).take(self.history.tables.len()).collect(),
        };
        for table in tables {
            self.history
                .break_off(table, BreakKind::Unclear(gap.reason.clone()), None);
        }
    }

    /// Names columns that the server sets by itself whenever a row of the table is updated (`ON UPDATE CURRENT_TIMESTAMP`); the log does
    /// not tell. A later change of such a column alone is then no reason not to undo, and the later value stays.
    pub fn self_updating(&mut self, schema: &str, table: &str, columns: &[&str]) {
        let known = self
            .self_updating
            .entry((schema.to_owned(), table.to_owned()))
            .or_default();
        known.extend(columns.iter().map(|column| (*column).to_owned()));
    }

    /// The plan. `latest` gives the newest known definition of a table by schema and name; without one, the last definition fed counts.
    pub fn finish(mut self, latest: &dyn Fn(&str, &str) -> Option<Arc<Table>>) -> Result<Plan, Error> {
        let targets: Vec<Option<Target>> = (0..self.history.tables.len())
            .map(|table| self.target(table, latest))
            .collect();
        let lenses = self.history.defs.iter().map(|def| {
            let target = targets[def.of as usize].as_ref()?;
            Some(Lens::new(&def.table, target))
        });
        let view = View {
            lenses: lenses.collect(),
            targets,
            history: std::mem::take(&mut self.history),
        };
        Plan::new(self.dialect, self.mode, view)
    }

    /// The newest definition of a table; none if it was altered and nothing known is newer than that.
    fn target(&self, table: usize, latest: &dyn Fn(&str, &str) -> Option<Arc<Table>>) -> Option<Target> {
        let history = &self.history.tables[table];
        let seen = &self.history.defs.get(history.def as usize)?.table;
        let newest = latest(&history.schema, &history.name);
        if history.altered && newest.as_ref().is_none_or(|newest| newest == seen) {
            return None;
        }
        let name = (history.schema.to_string(), history.name.to_string());
        let self_updating = self.self_updating.get(&name).map_or(&[][..], Vec::as_slice);
        Some(Target::new(
            newest.unwrap_or_else(|| Arc::clone(seen)),
            self_updating,
        ))
    }
}

/// What a statement does to the history of a table.
enum Effect {
    None,
    /// Rows stay, and later images may be in another form.
    Altered,
    Break(BreakKind),
}

fn effect(target: &DdlTarget, text: &str) -> Effect {
    match target.kind {
        Statement::Truncate => Effect::Break(BreakKind::Emptied("the table was emptied by TRUNCATE")),
        Statement::Drop => Effect::Break(BreakKind::Emptied("the table was dropped")),
        Statement::Rename => Effect::Break(BreakKind::Unclear(
            "the table was renamed, or another one took its name".into(),
        )),
        // A table that was there stays there, unless this says otherwise.
        Statement::Create if has_word(text, &["REPLACE"]) => {
            Effect::Break(BreakKind::Emptied("the table was replaced by a new one"))
        }
        Statement::Create | Statement::Other => Effect::None,
        Statement::Alter if target.table.is_none() || is_index(text) => Effect::None,
        Statement::Alter if has_word(text, &["PARTITION", "TABLESPACE"]) => {
            Effect::Break(BreakKind::Unclear(
                "an ALTER TABLE about partitions or tablespaces may have moved its rows without logging them"
                    .into(),
            ))
        }
        Statement::Alter if moves_columns(text) => Effect::Break(BreakKind::Unclear(
            "an ALTER TABLE gave its columns other names, or replaced one by another of the same name".into(),
        )),
        Statement::Alter => Effect::Altered,
    }
}

/// `CREATE … INDEX` and `DROP INDEX` leave rows and columns as they are.
fn is_index(text: &str) -> bool {
    let mut words = words(text);
    words
        .next()
        .is_some_and(|verb| !verb.eq_ignore_ascii_case("ALTER"))
}

/// Columns are followed by name, so a name must mean the same column before and after.
fn moves_columns(text: &str) -> bool {
    let named_after = |verb: &str| -> Vec<String> {
        let mut found = Vec::new();
        let mut words = words(text).peekable();
        while let Some(word) = words.next() {
            if word.eq_ignore_ascii_case(verb) {
                const FILL: [&str; 4] = ["COLUMN", "IF", "NOT", "EXISTS"];
                while words
                    .next_if(|word| FILL.iter().any(|fill| word.eq_ignore_ascii_case(fill)))
                    .is_some()
                {}
                found.extend(words.peek().map(|name| name.to_ascii_lowercase()));
            }
        }
        found
    };
    let (dropped, added) = (named_after("DROP"), named_after("ADD"));
    let replaced = dropped
        .iter()
        .any(|name| added.contains(name) && !NO_COLUMNS.contains(&name.as_str()));
    replaced || has_word(text, &["CHANGE"]) || (has_word(text, &["RENAME"]) && has_word(text, &["COLUMN"]))
}

/// What ADD and DROP are also about.
const NO_COLUMNS: [&str; 9] = [
    "index",
    "key",
    "primary",
    "unique",
    "fulltext",
    "spatial",
    "foreign",
    "constraint",
    "check",
];

fn has_word(text: &str, wanted: &[&str]) -> bool {
    words(text).any(|word| wanted.iter().any(|wanted| word.eq_ignore_ascii_case(wanted)))
}

/// Words of a statement, those in quotes and comments included: taking too many for keywords errs on the careful side.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
}
