//! What access rules leave of an answer.
//!
//! Nothing of a hidden table comes through, and of a table with hidden columns nothing that is or may tell a value of them:
//! * the columns go from the key, from both images and from the list of changed columns, wherever they stand;
//! * the text of a statement may name any table and any value, so it is for those only from whom the rules hide nothing at all;
//! * the text of a statement that changed definitions is for who sees all of every table that it is about, and goes where it was made from a
//!   query or by another table; one about a hidden table, or about nothing but a hidden schema, is left out;
//! * why something is missing from the log may be told by a table's name, so it is told to those only from whom nothing is hidden.

use std::{collections::HashMap, sync::Arc};

use proto::{change::v1 as pb, tenant::v1 as tenant};
use types::{
    Role, ServerId,
    access::{Access, Lineage, View},
};

/// What `redacted` calls the text of the statement.
const QUERY: &str = "query";

/// Words after which a definition names another table.
const NAMING: [&str; 3] = ["select", "like", "references"];

/// How many tables' views are remembered.
const VIEWS: usize = 4_096;

/// A rule that cannot be read: then nothing is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an access rule cannot be read")]
pub(crate) struct Unreadable;

/// What one caller sees of one server, or of what is no registered server.
#[derive(Clone, Debug)]
pub(crate) struct Sight {
    access: Access,
    server: Option<ServerId>,
    whole: bool,
    lineage: Arc<Lineage>,
}

impl Sight {
    /// By these rules, of which those for other roles and servers do not count.
    pub(crate) fn new(
        role: Role,
        server: Option<ServerId>,
        rules: &[tenant::AccessRule],
    ) -> Result<Self, Unreadable> {
        let rules = chassis::directory::access_rules(rules).ok_or(Unreadable)?;
        let access = Access::of(role, rules);
        let whole = access.hides_nothing(server);
        Ok(Self {
            access,
            server,
            whole,
            lineage: Arc::default(),
        })
    }

    /// The same of a server of which this is known: what is hidden of a table is hidden of those that came from it.
    pub(crate) fn among(&mut self, lineage: &Arc<Lineage>) {
        self.lineage = lineage.clone();
    }

    /// Whether nothing is hidden: answers go on as they came.
    pub(crate) fn whole(&self) -> bool {
        self.whole
    }

    /// What there is to see of a table.
    pub(crate) fn table(&self, schema: &str, table: &str) -> View {
        let lineage = &self.lineage;
        self.access.explain_among(self.server, schema, table, lineage).0
    }
}

/// What is left of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// All of it.
    All,
    /// Less than there was, and that says so.
    Part,
    /// It is of a table that is hidden from the caller.
    Nothing,
    /// It was found by what the caller does not see, or changed nothing else: that there is such a thing is not said either.
    Untold,
}

impl Left {
    /// Whether the answer goes on with it.
    pub(crate) fn stays(self) -> bool {
        matches!(self, Self::All | Self::Part)
    }

    /// Whether the answer says that something was taken out.
    pub(crate) fn is_said(self) -> bool {
        matches!(self, Self::Part | Self::Nothing)
    }
}

/// Takes out of an answer what a caller does not see.
#[derive(Clone, Debug)]
pub(crate) struct Redactor {
    sight: Sight,
    /// The question chooses rows by their keys.
    by_key: bool,
    /// The column that the question chooses updates by, or nothing.
    by_column: String,
    views: HashMap<(String, String), Arc<View>>,
}

impl Redactor {
    /// For the answer to a question that chooses rows by their keys, or not, and updates by a column, unless that has no name.
    pub(crate) fn new(sight: Sight, by_key: bool, by_column: &str) -> Self {
        Self {
            sight,
            by_key,
            by_column: by_column.to_owned(),
            views: HashMap::new(),
        }
    }

    /// The same, now that this is known of the server.
    pub(crate) fn among(&mut self, lineage: &Arc<Lineage>) {
        self.sight.among(lineage);
        self.views.clear();
    }

    /// What the caller sees, as far as it is known here.
    pub(crate) fn sight(&self) -> &Sight {
        &self.sight
    }

    fn view(&mut self, schema: &str, table: &str) -> Arc<View> {
        if self.views.len() >= VIEWS {
            self.views.clear();
        }
        let sight = &self.sight;
        self.views
            .entry((schema.to_owned(), table.to_owned()))
            .or_insert_with(|| Arc::new(sight.table(schema, table)))
            .clone()
    }

    /// Leaves of a change what the caller sees.
    pub(crate) fn change(&mut self, change: &mut pb::Change) -> Left {
        let (whole, by_key) = (self.sight.whole, self.by_key);
        let view = self.view(&change.schema, &change.table);
        // A table that had another key once, or a column that not all tables have: that a row was found by it tells something.
        let told = |row: &pb::Row| by_key && row.cells.iter().any(|cell| !view.shows(&cell.column));
        if view.is_hidden() {
            return Left::Nothing;
        }
        let by_column = !self.by_column.is_empty() && !view.shows(&self.by_column);
        if by_column || change.key.as_ref().is_some_and(told) {
            return Left::Untold;
        }
        let mut taken: Vec<String> = Vec::new();
        let mut take = |column: &str| {
            if !taken.iter().any(|known| known == column) {
                taken.push(column.to_owned());
            }
        };
        let rows = [&mut change.key, &mut change.before, &mut change.after];
        for row in rows.into_iter().flatten() {
            row.cells.retain(|cell| {
                let shown = view.shows(&cell.column);
                if !shown {
                    take(&cell.column);
                }
                shown
            });
        }
        change.changed.retain(|column| {
            let shown = view.shows(column);
            if !shown {
                take(column);
            }
            shown
        });
        if !view.is_whole() && change.op() == pb::Op::Update && change.changed.is_empty() {
            // Nothing changed that the caller sees: when something else did is not told.
            return Left::Untold;
        }
        if !whole && change.query.take().is_some() {
            taken.push(QUERY.to_owned());
        }
        change.redacted = taken;
        if change.redacted.is_empty() {
            Left::All
        } else {
            Left::Part
        }
    }

    /// Leaves of a statement that changed definitions what the caller sees.
    pub(crate) fn schema_change(&mut self, change: &mut pb::SchemaChange) -> Left {
        if self.sight.whole {
            return Left::All;
        }
        // All of the schema is hidden: its name is too, and a statement that is about nothing else.
        if !change.default_schema.is_empty() && self.view(&change.default_schema, "").is_hidden() {
            if change.targets.is_empty() {
                return Left::Nothing;
            }
            change.default_schema.clear();
        }
        let mut whole = !change.targets.is_empty();
        for target in &change.targets {
            let view = self.view(&target.schema, &target.table);
            if view.is_hidden() {
                return Left::Nothing;
            }
            // All tables of a schema: there may be hidden ones.
            whole &= view.is_whole() && !target.table.is_empty();
        }
        if whole && !has_a_query(&change.text) {
            return Left::All;
        }
        change.text.clear();
        Left::Part
    }

    /// Leaves of what is held of a table what the caller sees.
    pub(crate) fn summary(&mut self, summary: &mut pb::TableSummary) -> Left {
        let view = self.view(&summary.schema, &summary.table);
        if view.is_hidden() {
            return Left::Nothing;
        }
        let before = summary.columns.len() + summary.key.len();
        summary.columns.retain(|column| view.shows(column));
        summary.key.retain(|column| view.shows(column));
        if summary.columns.len() + summary.key.len() == before {
            Left::All
        } else {
            Left::Part
        }
    }

    /// Leaves of how following goes what the caller sees: a problem may be told by a table's name, or by its columns.
    pub(crate) fn state(&self, state: &mut pb::FollowState) {
        if !self.sight.whole {
            plain_problem(state);
        }
    }

    /// Leaves of what an answer rests on what the caller sees.
    pub(crate) fn coverage(&self, coverage: &mut pb::Coverage) {
        if !self.sight.whole {
            chassis::directory::plain_coverage(coverage);
        }
    }
}

/// Puts in place of an agent's sentence about a problem one of ours, which says no more than that there is one and whether it stops following.
pub(crate) fn plain_problem(state: &mut pb::FollowState) {
    if !state.problem.is_empty() {
        state.problem = if state.following {
            "the agent has a problem with the server's log and goes on"
        } else {
            "the agent cannot follow the server at the moment"
        }
        .to_owned();
    }
}

/// Whether a definition is made from a query or by another table, and so names other tables.
fn has_a_query(text: &str) -> bool {
    let mut words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.any(|word| NAMING.iter().any(|naming| word.eq_ignore_ascii_case(naming)))
}

#[cfg(test)]
#[path = "redact_tests.rs"]
mod tests;
