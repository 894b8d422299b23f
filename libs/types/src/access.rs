//! Access rules: which tables and columns of the changes a role sees.
//!
//! Without a rule for a table, whoever may query sees all of it. Where a rule denies, nothing else counts. Where any rule allows something
//! of a table, the role sees nothing else of that table. Owners and admins are exempt.
//!
//! Names are compared without case: those of columns as MySQL does; those of schemas and tables because a server may (`lower_case_table_names`),
//! and then a statement carries them as they were typed. On a server that tells `orders` from `Orders`, a denial of one hides both; an allowance
//! is for the one that it names to the letter, and for others only where no allowance does so.
//!
//! A table's rows may stand under several names: it was renamed, made like another one, or a tool changes its definition by way of a second table
//! ([`Lineage`], `ghost`). Of such a table a role sees what it sees under all of these names, no more.

mod ghost;
mod lineage;

pub use lineage::{Lineage, told};

use std::collections::{BTreeMap, BTreeSet};

use crate::{Role, RuleId, ServerId, text::is_shown};

/// Stands for every schema or table.
const ALL: &str = "*";

/// How many columns one rule names at most.
const MAX_COLUMNS: usize = 256;

/// What cannot stand in a rule, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Wrong(pub &'static str);

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Lets the role see it.
    Allow,
    /// Hides it from the role.
    Deny,
}

impl Effect {
    /// As the table writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }

    /// Reads what the table wrote.
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "allow" => Some(Self::Allow),
            "deny" => Some(Self::Deny),
            _ => None,
        }
    }
}

/// A schema or a table: all of them, or the one of this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Every one.
    Every,
    /// This one.
    One(String),
}

impl Pattern {
    /// Reads `*` or a name.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        match text {
            ALL => Ok(Self::Every),
            _ if text.contains('*') => Err(Wrong("a * stands alone, for all")),
            _ => identifier(text).map(Self::One),
        }
    }

    /// As people write it.
    pub fn text(&self) -> &str {
        match self {
            Self::Every => ALL,
            Self::One(name) => name,
        }
    }

    fn holds(&self, name: &str) -> bool {
        match self {
            Self::Every => true,
            Self::One(mine) => mine == name || mine.to_lowercase() == name.to_lowercase(),
        }
    }

    fn holds_to_the_letter(&self, name: &str) -> bool {
        match self {
            Self::Every => true,
            Self::One(mine) => mine == name,
        }
    }

    /// Whether it names a table of which `name` is one that a tool fills meanwhile.
    fn is_behind(&self, name: &str) -> bool {
        match self {
            Self::Every => false,
            Self::One(mine) => ghost::is_made_of(&name.to_lowercase(), &mine.to_lowercase()),
        }
    }

    /// Whether everything that `other` means is meant by this too.
    pub fn covers(&self, other: &Self) -> bool {
        matches!(self, Self::Every) || self == other
    }
}

/// The name of a schema, table or column: 1 to 64 characters (MySQL Reference Manual 11.2.1).
pub fn identifier(text: &str) -> Result<String, Wrong> {
    if text.is_empty() {
        return Err(Wrong("a name is needed, or * for all"));
    }
    if text.chars().count() > 64 {
        return Err(Wrong("longer than the 64 characters of a MySQL name"));
    }
    if !text.chars().all(is_shown) {
        return Err(Wrong("has a control character"));
    }
    Ok(text.to_owned())
}

/// Columns by their names without case, with their names as written.
pub type Columns = BTreeMap<String, String>;

/// Reads column names; none is the whole table.
pub fn columns(names: &[String]) -> Result<Columns, Wrong> {
    if names.len() > MAX_COLUMNS {
        return Err(Wrong("more than 256 columns"));
    }
    names
        .iter()
        .map(|name| match name.as_str() {
            ALL => Err(Wrong("leave the columns out for the whole table")),
            _ => identifier(name).map(|name| (name.to_lowercase(), name)),
        })
        .collect()
}

/// The roles that rules can be for.
pub fn role(role: Role) -> Result<Role, Wrong> {
    if role > Role::Operator {
        return Err(Wrong(
            "owners and admins are exempt: a rule is for operator, analyst or viewer",
        ));
    }
    Ok(role)
}

/// What a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Whom it is for.
    pub role: Role,
    /// Which server; none is all.
    pub server: Option<ServerId>,
    /// Which schema.
    pub schema: Pattern,
    /// Which table.
    pub table: Pattern,
    /// Which columns; none is the whole table.
    pub columns: Columns,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its id.
    pub id: RuleId,
    /// What it is about.
    pub target: Target,
    /// What it does.
    pub effect: Effect,
}

/// What a role sees of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// Nothing.
    Hidden,
    /// Columns of it.
    Visible {
        /// Those that it does not see.
        denied: Columns,
        /// The only ones that it sees, where that is so. None of them is denied, and there is one at least.
        allowed: Option<Columns>,
    },
}

impl View {
    /// All of the table.
    pub fn whole() -> Self {
        Self::Visible {
            denied: Columns::new(),
            allowed: None,
        }
    }

    /// What both of them show.
    fn and(self, other: Self) -> Self {
        let (
            Self::Visible {
                mut denied,
                allowed: mine,
            },
            Self::Visible {
                denied: more,
                allowed: theirs,
            },
        ) = (self, other)
        else {
            return Self::Hidden;
        };
        denied.extend(more);
        let allowed = match (mine, theirs) {
            (Some(mut mine), Some(theirs)) => {
                mine.retain(|column, _| theirs.contains_key(column));
                Some(mine)
            }
            (mine, theirs) => mine.or(theirs),
        };
        Self::of(denied, allowed)
    }

    /// Without what is denied of what is allowed.
    fn of(denied: Columns, mut allowed: Option<Columns>) -> Self {
        if let Some(only) = &mut allowed {
            only.retain(|column, _| !denied.contains_key(column));
            if only.is_empty() {
                return Self::Hidden;
            }
        }
        Self::Visible { denied, allowed }
    }

    /// Whether the role sees this column.
    pub fn shows(&self, column: &str) -> bool {
        let Self::Visible { denied, allowed } = self else {
            return false;
        };
        let column = column.to_lowercase();
        !denied.contains_key(&column) && allowed.as_ref().is_none_or(|only| only.contains_key(&column))
    }

    /// Whether the role sees nothing of the table.
    pub fn is_hidden(&self) -> bool {
        matches!(self, Self::Hidden)
    }

    /// Whether the role sees every column, those that are not known yet among them.
    pub fn is_whole(&self) -> bool {
        matches!(self, Self::Visible { denied, allowed: None } if denied.is_empty())
    }
}

/// The rules that one role has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    rules: Vec<Rule>,
}

impl Access {
    /// Those of `rules` that are for `role`.
    pub fn of(role: Role, rules: impl IntoIterator<Item = Rule>) -> Self {
        let bound = role <= Role::Operator;
        let mine = rules.into_iter().filter(|rule| bound && rule.target.role == role);
        Self {
            rules: mine.collect(),
        }
    }

    /// What the role sees of a table of a server; without a server, of something that is no registered server, such as an uploaded log: it may be
    /// of any of them, so that the role sees what it would see of every one.
    pub fn table(&self, server: impl Into<Option<ServerId>>, schema: &str, table: &str) -> View {
        self.explain(server, schema, table).0
    }

    /// As [`Self::table`], with the rules that decided.
    pub fn explain(
        &self,
        server: impl Into<Option<ServerId>>,
        schema: &str,
        table: &str,
    ) -> (View, BTreeSet<RuleId>) {
        self.explain_among(server, schema, table, &Lineage::default())
    }

    /// As [`Self::explain`], of a server of which this is known.
    pub fn explain_among(
        &self,
        server: impl Into<Option<ServerId>>,
        schema: &str,
        table: &str,
        lineage: &Lineage,
    ) -> (View, BTreeSet<RuleId>) {
        if let Some(server) = server.into() {
            return self.explain_of(Some(server), schema, table, lineage);
        }
        let (mut view, mut decided) = (View::whole(), BTreeSet::new());
        for server in std::iter::once(None).chain(self.servers().into_iter().map(Some)) {
            let (one, by) = self.explain_of(server, schema, table, lineage);
            if one.is_hidden() {
                return (one, by);
            }
            view = view.and(one);
            decided.extend(by);
        }
        (view, decided)
    }

    /// The servers that have rules of their own.
    fn servers(&self) -> BTreeSet<ServerId> {
        self.rules.iter().filter_map(|rule| rule.target.server).collect()
    }

    /// As [`Self::explain_among`], of a server, or of one that has no rules of its own.
    fn explain_of(
        &self,
        server: Option<ServerId>,
        schema: &str,
        table: &str,
        lineage: &Lineage,
    ) -> (View, BTreeSet<RuleId>) {
        if lineage.is_unknown() && !self.hides_nothing(server) {
            return (View::Hidden, self.of_server(server).map(|rule| rule.id).collect());
        }
        let mut names = vec![(schema.to_owned(), table.to_owned())];
        names.extend(lineage.behind(schema, table));
        let relatives: Vec<_> = names
            .iter()
            .flat_map(|(schema, table)| lineage.relatives(schema, table))
            .collect();
        names.extend(relatives);
        let behind: Vec<_> = names
            .iter()
            .flat_map(|(schema, table)| self.behind(server, schema, table))
            .collect();
        names.extend(behind);
        let (mut view, mut decided) = (View::whole(), BTreeSet::new());
        for (schema, table) in &names {
            let (one, by) = self.by_name(server, schema, table);
            if one.is_hidden() {
                return (one, by);
            }
            view = view.and(one);
            decided.extend(by);
        }
        if let View::Visible { denied, allowed } = view {
            let names = names
                .iter()
                .map(|(schema, table)| (schema.as_str(), table.as_str()));
            view = View::of(lineage.with_other_names(names, denied), allowed);
        }
        (view, decided)
    }

    /// The tables that rules name for which a tool makes one with this name.
    fn behind(&self, server: Option<ServerId>, schema: &str, table: &str) -> BTreeSet<(String, String)> {
        let of = self.of_server(server).filter(|rule| {
            let target = &rule.target;
            target.schema.holds(schema) && target.table.is_behind(table)
        });
        of.map(|rule| (schema.to_owned(), rule.target.table.text().to_owned()))
            .collect()
    }

    /// What the rules for exactly this name leave.
    fn by_name(&self, server: Option<ServerId>, schema: &str, table: &str) -> (View, BTreeSet<RuleId>) {
        let ids = |rules: &[&Rule]| rules.iter().map(|rule| rule.id).collect::<BTreeSet<_>>();
        let about = |rule: &&Rule| rule.target.schema.holds(schema) && rule.target.table.holds(table);
        let (denials, mut allowances): (Vec<&Rule>, Vec<&Rule>) = self
            .of_server(server)
            .filter(about)
            .partition(|rule| rule.effect == Effect::Deny);
        let (whole, columns): (Vec<&Rule>, Vec<&Rule>) = denials
            .into_iter()
            .partition(|rule| rule.target.columns.is_empty());
        if !whole.is_empty() {
            return (View::Hidden, ids(&whole));
        }
        let exact = |rule: &&Rule| {
            let target = &rule.target;
            target.schema.holds_to_the_letter(schema) && target.table.holds_to_the_letter(table)
        };
        if allowances.iter().any(exact) {
            allowances.retain(exact);
        }
        let mut decided = ids(&columns);
        decided.extend(ids(&allowances));
        let listed = !allowances.is_empty() && allowances.iter().all(|rule| !rule.target.columns.is_empty());
        let allowed = listed.then(|| named(&allowances));
        (View::of(named(&columns), allowed), decided)
    }

    /// Whether no rule hides anything of a server from the role, whatever tables it has. Without a server as [`Self::table`].
    pub fn hides_nothing(&self, server: impl Into<Option<ServerId>>) -> bool {
        let server = server.into();
        self.rules
            .iter()
            .filter(|rule| server.is_none() || rule.target.server.is_none() || rule.target.server == server)
            .all(|rule| rule.effect == Effect::Allow && rule.target.columns.is_empty())
    }

    fn of_server(&self, server: Option<ServerId>) -> impl Iterator<Item = &Rule> {
        self.rules
            .iter()
            .filter(move |rule| rule.target.server.is_none() || rule.target.server == server)
    }
}

/// The columns that rules name.
fn named(rules: &[&Rule]) -> Columns {
    rules
        .iter()
        .flat_map(|rule| rule.target.columns.clone())
        .collect()
}

#[cfg(test)]
mod tests;
