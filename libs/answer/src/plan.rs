//! `PlanUndo`: a plan, its conflicts and its script. Nothing is executed, here or anywhere in this program.

use std::{
    io::{self, Write},
    sync::Arc,
};

use binlog::{Change, Position};
use bytes::Bytes;
use prost::Message as _;
use proto::{agent::v1 as pb, change::v1 as change_pb};
use ring::digest::{Context, SHA256};
use trail::{Filter, Reader, Stop};
use undo::{Class, Dialect, Mode, Plan, PlannedChange};

use crate::{
    error::Error,
    follow::end,
    pump::{Next, Out, Sent, Work},
    question::{Choice, Question},
    reports::descents,
    store::Store,
    touched::Touched,
    undo::{Making, Selection, dialect, just_after, plan},
    wire,
};

/// A piece of the script.
const PIECE: usize = 64 << 10;
/// Chosen changes of one plan.
const CHANGES: u64 = 250_000;
/// Bytes of their rows, and of later changes of the same rows.
const BYTES: u64 = 24 << 20;

/// What is to be planned.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) question: Question,
    pub(crate) mode: Mode,
    pub(crate) until: Option<Position>,
    pub(crate) script: bool,
    pub(crate) tell_descents: bool,
    pub(crate) conflicts: u64,
}

/// A plan that is being made and told.
pub(crate) struct Planning {
    store: Arc<dyn Store>,
    request: Request,
    told: Told,
    made: Option<Made>,
    /// What it was when it was made first.
    first: Option<First>,
}

/// By what a plan that is made again is known.
#[derive(Debug, PartialEq, Eq)]
struct First {
    until: Option<Position>,
    digest: String,
    conflicts: u64,
}

/// How far telling is.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    head: bool,
    conflicts: u64,
    script: u64,
    ended: bool,
}

/// A plan and what there is to say about it.
pub(crate) struct Made {
    /// None if nothing was chosen.
    plan: Option<Plan>,
    head: pb::PlanHead,
    conflicts: u64,
    /// None if nothing was stored.
    until: Option<Position>,
}

impl Planning {
    pub(crate) fn new(store: Arc<dyn Store>, request: Request) -> Self {
        Self {
            store,
            request,
            told: Told::default(),
            made: None,
            first: None,
        }
    }

    fn make(&self, stop: &Stop) -> Result<Made, Error> {
        let Some(reader) = self.store.reader(stop)? else {
            return Ok(nothing(Dialect::Mysql, wire::nothing_read(), None));
        };
        let before = self.first.as_ref().and_then(|first| first.until.clone());
        let given = self.request.until.clone().or(before);
        let Some(until) = given.or_else(|| end(&reader)) else {
            return Ok(nothing(dialect(&reader), wire::nothing_read(), None));
        };
        let descents = descents(&reader, self.request.tell_descents)?;
        let choice = chosen_up_to(&self.request.question, &reader, &until)?;
        let mut size = Size::default();
        let selection = Selection::find(&reader, &choice, |change| size.add(change))?;
        let Some(selection) = selection else {
            let coverage = wire::coverage(&reader.coverage_of(&choice.filter));
            let mut made = nothing(dialect(&reader), coverage, Some(&until));
            made.head.descents = descents;
            return Ok(made);
        };
        let making = Making {
            mode: self.request.mode,
            auto_columns: &[],
            until: Some(&until),
        };
        let (mut touched, mut size) = (Touched::default(), Size::default());
        let plan = plan(&reader, &choice, &selection, &making, |change, chosen| {
            if touched.see(change, chosen) {
                size.add(change)?;
            }
            stop.check().map_err(Error::from)
        })?;
        let stale_since = match &self.request.until {
            Some(until) => touched.first_after(&reader, &selection, until)?,
            None => None,
        };
        let coverage = coverage(&reader, &choice, &selection, &until);
        let mut head = head(&plan, &selection, &until)?;
        head.coverage = Some(wire::coverage(&coverage));
        head.stale_since = stale_since.as_ref().map(change::position);
        head.descents = descents;
        stop.check()?;
        Ok(Made {
            conflicts: plan.rows().filter(is_conflict).count() as u64,
            head,
            plan: Some(plan),
            until: Some(until),
        })
    }

    /// Tells what has not been told yet; whether that is all.
    fn tell(&mut self, made: &Made, out: &mut Out) -> Result<bool, Error> {
        use pb::plan_undo_response::Part;
        if !self.told.head {
            let sent = out.send(message(Part::Head(made.head.clone())))?;
            self.told.head = sent != Sent::Back;
            if sent != Sent::On {
                return Ok(false);
            }
        }
        let Some(plan) = &made.plan else {
            return self.end(made, out);
        };
        let already = usize::try_from(self.told.conflicts).unwrap_or(usize::MAX);
        let most = made.conflicts.min(self.request.conflicts);
        // The plan has the latest first, and so the script; here they come as they happened.
        let conflicts = plan.rows().rev().filter(is_conflict).skip(already);
        for conflict in conflicts {
            if self.told.conflicts == most {
                break;
            }
            let sent = out.send(message(Part::Conflict(conflict_message(&conflict))))?;
            self.told.conflicts += u64::from(sent != Sent::Back);
            if sent != Sent::On {
                return Ok(false);
            }
        }
        if self.request.script && self.told.script < made.head.script_bytes {
            let mut pieces = Pieces::new(out, self.told.script);
            let written = plan.write_script(&mut pieces).and_then(|()| pieces.flush());
            self.told.script = pieces.sent;
            match (pieces.failed.take(), written) {
                (Some(error), _) => return Err(error),
                (None, Err(_)) => return Ok(false),
                (None, Ok(())) => {}
            }
        }
        self.end(made, out)
    }

    /// Refuses to go on with another plan than the one that was begun; the store has lost what it rests on.
    fn is_the_same(&mut self, made: &Made) -> Result<(), Error> {
        let now = First {
            until: made.until.clone(),
            digest: made.head.digest.clone(),
            conflicts: made.conflicts,
        };
        match &self.first {
            Some(first) if *first != now => {
                tracing::warn!("a plan that was made again is another one");
                Err(Error::Store)
            }
            Some(_) => Ok(()),
            None => {
                self.first = Some(now);
                Ok(())
            }
        }
    }

    fn end(&mut self, made: &Made, out: &mut Out) -> Result<bool, Error> {
        if !self.told.ended {
            let sent = out.send(message(pb::plan_undo_response::Part::End(pb::PlanEnd {
                digest: made.head.digest.clone(),
                conflicts_left_out: made.conflicts - self.told.conflicts,
            })))?;
            self.told.ended = sent != Sent::Back;
        }
        Ok(self.told.ended)
    }
}

impl Work for Planning {
    fn run(&mut self, stop: &Stop, out: &mut Out) -> Result<Next, Error> {
        let made = match self.made.take() {
            Some(made) => made,
            None => self.make(stop)?,
        };
        self.is_the_same(&made)?;
        if self.tell(&made, out)? {
            return Ok(Next::End);
        }
        self.made = Some(made);
        Ok(Next::Later)
    }

    fn is_plan(&self) -> bool {
        true
    }

    fn put_away(&mut self) -> Option<Made> {
        self.made.take()
    }

    fn take_back(&mut self, made: Made) {
        self.made = Some(made);
    }
}

/// The chosen changes up to and with `until`. A question that chooses everything is refused.
pub(crate) fn chosen_up_to(question: &Question, reader: &Reader, until: &Position) -> Result<Choice, Error> {
    let bounded = !question.tables.is_empty()
        || !question.keys.is_empty()
        || !question.positions.is_empty()
        || question.transaction.is_some()
        || question.gtid.is_some()
        || question.since.is_some()
        || question.until.is_some();
    if !bounded {
        let why = "without a filter it would undo everything the store holds";
        return Err(Error::filter("filter", why));
    }
    let mut choice = question.choice(reader)?;
    let before = choice.filter.before.take().into_iter().chain([just_after(until)]);
    choice.filter.before = before.min();
    Ok(choice)
}

/// How large a plan becomes.
#[derive(Default)]
pub(crate) struct Size {
    changes: u64,
    bytes: u64,
}

impl Size {
    pub(crate) fn add(&mut self, change: &Change) -> Result<(), Error> {
        let images = [&change.before, &change.after];
        let bytes: usize = images.into_iter().flatten().map(Vec::len).sum();
        self.changes += 1;
        self.bytes += bytes as u64;
        if self.changes > CHANGES {
            return Err(Error::PlanTooLarge("its rows have more than 250,000 changes"));
        }
        if self.bytes > BYTES {
            return Err(Error::PlanTooLarge("its rows have more than 24 MiB"));
        }
        Ok(())
    }
}

/// What choosing rests on; where that is whole, what happened later, for it is what the plan protects.
fn coverage(reader: &Reader, choice: &Choice, selection: &Selection, until: &Position) -> trail::Coverage {
    let filter = &choice.filter;
    let chosen = if filter.gtid.is_some() || filter.transaction.is_some() {
        // A transaction is stored whole or not at all.
        reader.coverage_of(&Filter {
            transaction: Some(selection.first.at.clone()),
            epoch: Some(selection.first.epoch),
            ..Filter::default()
        })
    } else {
        reader.coverage_of(filter)
    };
    if chosen.complete {
        reader.coverage_of(&selection.judged(Some(until)))
    } else {
        chosen
    }
}

fn nothing(dialect: Dialect, coverage: change_pb::Coverage, until: Option<&Position>) -> Made {
    Made {
        plan: None,
        head: pb::PlanHead {
            summary: Some(change_pb::UndoSummary {
                until: until.map(change::position),
                ..change_pb::UndoSummary::default()
            }),
            digest: hex(ring::digest::digest(&SHA256, b"").as_ref()),
            dialect: word(dialect).to_owned(),
            coverage: Some(coverage),
            ..pb::PlanHead::default()
        },
        conflicts: 0,
        until: until.cloned(),
    }
}

/// Counts and digests what is written.
struct Digesting {
    sha256: Context,
    bytes: u64,
}

impl Write for Digesting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sha256.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn head(plan: &Plan, selection: &Selection, until: &Position) -> Result<pb::PlanHead, Error> {
    let mut script = Digesting {
        sha256: Context::new(&SHA256),
        bytes: 0,
    };
    plan.write_script(&mut script)
        .map_err(|_| Error::Internal("a script could not be written to nowhere"))?;
    let columns = plan
        .columns()
        .into_iter()
        .map(|((schema, table), columns)| pb::TableColumns {
            schema: schema.to_string(),
            table: table.to_string(),
            columns: columns.into_iter().collect(),
        });
    let summary = plan.summary();
    let classes = Class::ALL
        .into_iter()
        .filter(|class| summary.of(*class) > 0)
        .map(|class| change_pb::ClassCount {
            class: class_message(class).into(),
            changes: summary.of(class),
        });
    let tables = selection
        .tables
        .iter()
        .map(|(schema, table)| change_pb::TableFilter {
            schema: schema.clone(),
            table: table.clone(),
        });
    Ok(pb::PlanHead {
        summary: Some(change_pb::UndoSummary {
            changes: summary.changes,
            included: summary.included,
            statements: summary.statements,
            classes: classes.collect(),
            first: summary.first.as_ref().map(change::position),
            last: summary.last.as_ref().map(change::position),
            until: Some(change::position(until)),
            tables: tables.collect(),
        }),
        digest: hex(script.sha256.finish().as_ref()),
        dialect: word(plan.dialect()).to_owned(),
        coverage: None,
        columns: columns.collect(),
        stale_since: None,
        script_bytes: script.bytes,
        descents: 0,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn word(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Mysql => "mysql",
        Dialect::Mariadb => "mariadb",
    }
}

fn class_message(class: Class) -> change_pb::UndoClass {
    match class {
        Class::Clean => change_pb::UndoClass::Clean,
        Class::Disjoint => change_pb::UndoClass::Disjoint,
        Class::Overlap => change_pb::UndoClass::Overlap,
        Class::Vanished => change_pb::UndoClass::Vanished,
        Class::Reborn => change_pb::UndoClass::Reborn,
        Class::KeyTaken => change_pb::UndoClass::KeyTaken,
        Class::Unknown => change_pb::UndoClass::Unknown,
    }
}

fn is_conflict(change: &PlannedChange) -> bool {
    !change.included || !matches!(change.class, Class::Clean | Class::Disjoint)
}

fn op(op: binlog::Op) -> change_pb::Op {
    match op {
        binlog::Op::Insert => change_pb::Op::Insert,
        binlog::Op::Update => change_pb::Op::Update,
        binlog::Op::Delete => change_pb::Op::Delete,
    }
}

fn conflict_message(row: &PlannedChange) -> change_pb::UndoConflict {
    let by = |by: &Option<undo::By>| by.as_ref().map(|by| change::position(&by.position));
    let column = |conflict: &undo::Conflict| change_pb::UndoConflictColumn {
        column: conflict.column.clone(),
        wanted: conflict.wanted.clone(),
        found: conflict.found.clone(),
        by: by(&conflict.by),
        redacted: false,
    };
    change_pb::UndoConflict {
        position: Some(change::position(&row.position)),
        schema: row.schema.to_string(),
        table: row.table.to_string(),
        op: op(row.op).into(),
        key: row.key.clone(),
        class: class_message(row.class).into(),
        why: row.why.clone(),
        included: row.included,
        by: by(&row.by),
        columns: row.conflicts.iter().map(column).collect(),
    }
}

fn message(part: pb::plan_undo_response::Part) -> Bytes {
    pb::PlanUndoResponse { part: Some(part) }.encode_to_vec().into()
}

/// Sends a script in pieces, without its first bytes, which were sent before.
struct Pieces<'a> {
    out: &'a mut Out,
    /// Bytes still to be left out.
    skip: u64,
    /// Bytes that were sent, now and before.
    sent: u64,
    piece: Vec<u8>,
    failed: Option<Error>,
}

impl<'a> Pieces<'a> {
    fn new(out: &'a mut Out, sent: u64) -> Self {
        Self {
            out,
            skip: sent,
            sent,
            piece: Vec::with_capacity(PIECE),
            failed: None,
        }
    }

    fn send(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.piece);
        let length = piece.len() as u64;
        let script = pb::plan_undo_response::Part::Script(piece.into());
        match self.out.send(message(script)) {
            Ok(Sent::Back) => Err(io::Error::other("there is no room")),
            Ok(sent) => {
                self.sent += length;
                match sent {
                    Sent::On => Ok(()),
                    _ => Err(io::Error::other("the slice is over")),
                }
            }
            Err(error) => {
                self.failed = Some(error);
                Err(io::Error::other("nobody takes the script"))
            }
        }
    }
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let skipped = bytes.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
        self.skip -= skipped as u64;
        let mut rest = &bytes[skipped..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(PIECE - self.piece.len()));
            self.piece.extend_from_slice(now);
            rest = later;
            if self.piece.len() == PIECE {
                self.send()?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            Ok(())
        } else {
            self.send()
        }
    }
}
