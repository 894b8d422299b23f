//! What would be undone, what would not, and why.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    sync::Arc,
};

use binlog::{Gtid, Op, Position};
use types::Micros;

use crate::{
    Dialect, Error, Mode, backward, explain,
    sql::{Body, Facts, Header, Names, Script, write_header},
    transition::View,
    verdict::Verdict,
};

/// How later changes stand to a selected one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// No later unselected change of the row.
    Clean,
    /// Later unselected changes touched other columns only.
    Disjoint,
    /// A later unselected change touched a column that is to be restored; or it changed a row whose insertion is to be undone.
    Overlap,
    /// A later unselected change (or TRUNCATE, or DROP) deleted the row.
    Vanished,
    /// The row was deleted, and a later unselected change inserted one with its key.
    Reborn,
    /// The key that is to be restored belongs to another row now.
    KeyTaken,
    /// What happened to the row later is not known for certain.
    Unknown,
}

impl Class {
    /// All classes, from the one that is easiest to undo.
    pub const ALL: [Self; 7] = [
        Self::Clean,
        Self::Disjoint,
        Self::Overlap,
        Self::Vanished,
        Self::Reborn,
        Self::KeyTaken,
        Self::Unknown,
    ];

    /// `clean`, `disjoint`, `overlap`, `vanished`, `reborn`, `key-taken` or `unknown`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Disjoint => "disjoint",
            Self::Overlap => "overlap",
            Self::Vanished => "vanished",
            Self::Reborn => "reborn",
            Self::KeyTaken => "key-taken",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The later change that stands in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    /// Where it stands.
    pub position: Position,
    /// Its transaction.
    pub gtid: Option<Gtid>,
    /// When that was committed.
    pub commit_time: Micros,
}

/// A column that was not restored, or would overwrite something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The column.
    pub column: String,
    /// The value to restore, as JSON; empty if undoing means that the row goes.
    pub wanted: String,
    /// The value that later changes left there, as JSON; empty if the row is gone or its state is not known.
    pub found: String,
    /// The later change; none if nobody knows.
    pub by: Option<By>,
}

/// One selected change in the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedChange {
    /// Where it stands.
    pub position: Position,
    /// Its transaction.
    pub gtid: Option<Gtid>,
    /// When that was committed.
    pub commit_time: Micros,
    /// The table's schema.
    pub schema: Arc<str>,
    /// The table.
    pub table: Arc<str>,
    /// What the change did (its undo does the opposite).
    pub op: Op,
    /// The row's key after the change (before it, for a delete) as a JSON object; of a table without a key the whole row.
    pub key: String,
    /// How later changes stand to it.
    pub class: Class,
    /// The class in a sentence, without row data.
    pub why: String,
    /// Whether the script undoes it.
    pub included: bool,
    /// The later change that decided the class; none for a clean change, and if nobody knows it.
    pub by: Option<By>,
    /// The columns that would be restored and that later changes hold on to, with both values. Empty for clean and disjoint changes,
    /// and where there is nothing to compare.
    pub conflicts: Vec<Conflict>,
}

/// A plan in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Selected changes.
    pub changes: u64,
    /// Selected changes that the script undoes.
    pub included: u64,
    /// Statements in the script. Fewer than `included` if some changes left nothing to restore.
    pub statements: u64,
    /// Selected changes per class, in the order of [`Class::ALL`].
    pub classes: [u64; 7],
    /// Position of the earliest selected change.
    pub first: Option<Position>,
    /// Position of the latest selected change.
    pub last: Option<Position>,
    /// Position up to which history was taken into account.
    pub until: Option<Position>,
}

impl Summary {
    /// Selected changes of one class.
    pub fn of(&self, class: Class) -> u64 {
        self.classes[class as usize]
    }
}

/// What [`Planner::finish`](crate::Planner::finish) found, and the scripts.
#[derive(Debug)]
pub struct Plan {
    dialect: Dialect,
    mode: Mode,
    view: View,
    /// The latest change first: the order of the script.
    verdicts: Vec<Verdict>,
    /// Per table, quoted; none for a table without a statement.
    names: Vec<Option<Names>>,
    summary: Summary,
    notes: Vec<String>,
    undo: Facts,
    redo: Facts,
}

impl Plan {
    pub(crate) fn new(dialect: Dialect, mode: Mode, view: View) -> Result<Self, Error> {
        let verdicts = backward::judge(&view, mode);
        let mut plan = Self {
            dialect,
            mode,
            names: view.targets.iter().map(|_| None).collect(),
            summary: summary(&view, &verdicts),
            notes: Vec::new(),
            undo: Facts::default(),
            redo: Facts::default(),
            view,
            verdicts,
        };
        plan.name_tables()?;
        // Writing to nowhere cannot fail.
        plan.undo = plan.body(Script::Undo, &mut io::sink()).unwrap_or_default();
        plan.redo = plan.body(Script::Redo, &mut io::sink()).unwrap_or_default();
        plan.summary.statements = plan.undo.statements;
        Ok(plan)
    }

    /// Quotes the names of the tables that have a statement, and notes what their readers must know.
    fn name_tables(&mut self) -> Result<(), Error> {
        let with_statement: BTreeSet<u32> = self
            .verdicts
            .iter()
            .filter(|verdict| verdict.statement)
            .map(|verdict| self.view.history.def_of(self.view.history.step(verdict.step)).of)
            .collect();
        for of in with_statement {
            let Some(Some(target)) = self.view.targets.get(of as usize) else {
                continue;
            };
            let table = &target.table;
            self.names[of as usize] = Some(Names::new(table)?);
            if table.columns.iter().any(|column| column.generated.is_none()) {
                self.notes.push(format!(
                    "nobody looked up which columns of {} are generated: they are all written, and the script stops at one that is",
                    table.full_name()
                ));
            }
            if target.key.is_empty() {
                self.notes.push(format!(
                    "{} has no primary key: each statement searches it for one row with all the values, which may be slow",
                    table.full_name()
                ));
            }
        }
        Ok(())
    }

    /// Whose SQL the scripts speak.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// What the script may overwrite.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The plan in numbers.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Sentences about the whole plan that its reader must know. They may name tables, so they are not part of the scripts.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// SHA-256 of the script's statements: of everything below its header, as the header says.
    pub fn digest(&self) -> [u8; 32] {
        self.undo.digest
    }

    /// SHA-256 of the redo script's statements.
    pub fn redo_digest(&self) -> [u8; 32] {
        self.redo.digest
    }

    /// Every selected change, in the order of the script: the latest first. Made one by one while iterating.
    pub fn rows(&self) -> impl DoubleEndedIterator<Item = PlannedChange> + '_ {
        self.verdicts
            .iter()
            .map(|verdict| explain::explain(&self.view, verdict))
    }

    /// The columns that the scripts name, by schema and table.
    pub fn columns(&self) -> BTreeMap<(Arc<str>, Arc<str>), BTreeSet<String>> {
        let mut named: BTreeMap<(Arc<str>, Arc<str>), BTreeSet<String>> = BTreeMap::new();
        for verdict in self.verdicts.iter().filter(|verdict| verdict.statement) {
            let step = self.view.history.step(verdict.step);
            let table = &self.view.history.tables[self.view.history.def_of(step).of as usize];
            let Ok(Some(transition)) = self.view.undo(verdict.step, &verdict.holds) else {
                continue;
            };
            let columns = named
                .entry((table.schema.clone(), table.name.clone()))
                .or_default();
            let stamps: &[usize] = match transition.op {
                Op::Update => &transition.target.stamps,
                Op::Insert | Op::Delete => &[],
            };
            let fields = transition.fields.iter().map(|field| field.column);
            for column in fields.chain(stamps.iter().copied()) {
                let name = &transition.target.table.columns[column].name;
                if !columns.contains(name) {
                    columns.insert(name.clone());
                }
            }
        }
        named
    }

    /// Writes the script that undoes what is included. It is complete even if nothing is.
    pub fn write_script(&self, out: &mut dyn io::Write) -> io::Result<()> {
        self.write(Script::Undo, self.undo, self.redo, out)
    }

    /// Writes the script that undoes the undo script.
    pub fn write_redo(&self, out: &mut dyn io::Write) -> io::Result<()> {
        self.write(Script::Redo, self.redo, self.undo, out)
    }

    fn write(&self, script: Script, facts: Facts, inverse: Facts, out: &mut dyn io::Write) -> io::Result<()> {
        let header = Header {
            script,
            dialect: self.dialect,
            mode: self.mode,
            summary: &self.summary,
            facts,
            inverse: inverse.digest,
        };
        write_header(&header, out)?;
        self.body(script, out)?;
        Ok(())
    }

    fn body(&self, script: Script, out: &mut dyn io::Write) -> io::Result<Facts> {
        let mut body = Body::begin(script, out)?;
        match script {
            Script::Undo => self
                .verdicts
                .iter()
                .try_for_each(|verdict| self.statement(verdict, script, &mut body))?,
            Script::Redo => self
                .verdicts
                .iter()
                .rev()
                .try_for_each(|verdict| self.statement(verdict, script, &mut body))?,
        }
        body.end(script)
    }

    fn statement(&self, verdict: &Verdict, script: Script, body: &mut Body<'_>) -> io::Result<()> {
        if !verdict.statement {
            return Ok(());
        }
        let of = self.view.history.def_of(self.view.history.step(verdict.step)).of;
        let (Ok(Some(transition)), Some(Some(names))) = (
            self.view.undo(verdict.step, &verdict.holds),
            self.names.get(of as usize),
        ) else {
            // It was there when the verdict was given, and nothing has changed since.
            return Err(io::Error::other("a planned statement is not there any more"));
        };
        match script {
            Script::Undo => body.statement(&transition, names),
            Script::Redo => body.statement(&transition.reverse(), names),
        }
    }
}

fn summary(view: &View, verdicts: &[Verdict]) -> Summary {
    let place = |verdict: Option<&Verdict>| {
        verdict.map(|verdict| view.history.by(view.history.step(verdict.step)).position)
    };
    let mut summary = Summary {
        first: place(verdicts.last()),
        last: place(verdicts.first()),
        until: view.history.until().cloned(),
        ..Summary::default()
    };
    for verdict in verdicts {
        summary.changes += 1;
        summary.included += u64::from(verdict.included);
        summary.classes[verdict.class as usize] += 1;
    }
    summary
}
