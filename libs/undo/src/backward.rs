//! Going backwards through the history: what each selected change has become, and what the script does about it.
//!
//! The walk keeps, for every row, the state the script would find at this place. Undoing changes in reverse order of the log gives a
//! simple invariant: a column that no kept step (an unselected one, or a selected one that is not undone) has written since holds, at
//! this place of the walk, exactly what the step at hand left in it. All others are *held*, and the hold says by whom.

use std::collections::{HashMap, HashSet};

use binlog::Op;

use crate::{
    Class, Mode,
    history::{BreakKind, NONE, Row, Step},
    transition::View,
    verdict::{Hold, Verdict, Why},
};

/// Decides about every selected step, the latest first.
pub(crate) fn judge(view: &View, mode: Mode) -> Vec<Verdict> {
    let mut walk = Walk::new(view, mode);
    let selected = view.history.steps.iter().filter(|step| step.selected).count();
    let mut verdicts = Vec::with_capacity(selected);
    for step in (0..view.history.steps.len()).rev() {
        // Steps are counted in 32 bits.
        let Ok(step) = u32::try_from(step) else { continue };
        if view.history.step(step).selected {
            verdicts.push(walk.decide(step));
        } else {
            walk.keep(step);
        }
        walk.leave(step);
    }
    verdicts
}

struct Walk<'p> {
    view: &'p View,
    mode: Mode,
    /// Per slot of a table with a key, the row the script finds in it.
    occupant: Vec<u32>,
    /// Per row, the slot the script finds it in.
    slot: Vec<u32>,
    /// Slots with the latest kept step that put a row there or took one away.
    used: HashMap<u32, u32>,
    /// Rows with the kept step that deleted them.
    deleted: HashMap<u32, u32>,
    /// Rows that changed unseen at a later place.
    torn: HashSet<u32>,
    /// Rows with the columns that kept steps have written.
    holds: HashMap<u32, Vec<Hold>>,
}

/// A class with its reason and the step to blame.
struct Finding(Class, Why, u32);

impl<'p> Walk<'p> {
    fn new(view: &'p View, mode: Mode) -> Self {
        let history = &view.history;
        Self {
            view,
            mode,
            occupant: history.occupants().collect(),
            slot: history.rows.iter().map(|row| row.slot).collect(),
            used: HashMap::new(),
            deleted: HashMap::new(),
            torn: HashSet::new(),
            holds: HashMap::new(),
        }
    }

    /// Judges a selected step, and either takes it back or keeps it.
    fn decide(&mut self, id: u32) -> Verdict {
        let step = self.view.history.step(id);
        let held = self.holds.get(&step.row).map_or(&[][..], Vec::as_slice);
        let holds: Box<[Hold]> = held.into();
        let mut verdict = Verdict {
            step: id,
            class: Class::Unknown,
            why: Why::NoDefinition,
            included: false,
            statement: false,
            by: NONE,
            holds,
        };
        let Finding(class, why, by) = self.find(id, step, &mut verdict.statement, &verdict.holds);
        let allowed = match class {
            Class::Clean | Class::Disjoint => true,
            Class::Overlap => self.mode == Mode::Force && self.can_force(step, &verdict.holds),
            Class::Vanished | Class::Reborn | Class::KeyTaken | Class::Unknown => false,
        };
        verdict.class = class;
        verdict.why = why;
        verdict.by = by;
        verdict.included = allowed;
        verdict.statement &= allowed;
        if allowed {
            self.take_back(id, step);
        } else {
            self.keep(id);
        }
        verdict
    }

    fn find(&self, id: u32, step: &Step, statement: &mut bool, holds: &[Hold]) -> Finding {
        let history = &self.view.history;
        let row = &history.rows[step.row as usize];
        if let Some(finding) = self.broken(row) {
            return finding;
        }
        if history.tables[history.def_of(step).of as usize].versioned {
            return Finding(Class::Unknown, Why::Versioned, NONE);
        }
        if row.lost {
            return Finding(Class::Unknown, Why::Lost, NONE);
        }
        if self.torn.contains(&step.row) {
            return Finding(Class::Unknown, Why::Torn, NONE);
        }
        if let Some(deleted) = self.deleted.get(&step.row).copied() {
            let slot = self.view.history.step(deleted).slot;
            return match self.taken(slot, step.row) {
                Some(Finding(Class::Reborn, why, by)) => Finding(Class::Reborn, why, by),
                _ => Finding(Class::Vanished, Why::Deleted, deleted),
            };
        }
        match self.view.undo(id, holds) {
            Err(why) => return Finding(Class::Unknown, why, NONE),
            Ok(None) if self.moves(step) && holds.is_empty() => {
                return Finding(Class::Unknown, Why::OnlyComputed, NONE);
            }
            Ok(None) if holds.is_empty() => return Finding(Class::Clean, Why::NothingLeft, NONE),
            Ok(transition) => *statement = transition.is_some(),
        }
        if (step.op == Op::Delete || self.moves(step))
            && let Some(finding) = self.taken(step.slot, step.row)
        {
            return finding;
        }
        self.overlap(step, holds)
    }

    /// Whether what is held is among what is to be restored.
    fn overlap(&self, step: &Step, holds: &[Hold]) -> Finding {
        if holds.is_empty() {
            return Finding(Class::Clean, Why::Untouched, NONE);
        }
        let Some((target, lens)) = self.view.sight(step) else {
            return Finding(Class::Unknown, Why::NoDefinition, NONE);
        };
        let changed = self.view.changed(step);
        let moves = self.moves(step);
        let collides = |hold: &&Hold| match step.op {
            Op::Insert => true,
            Op::Delete => false,
            Op::Update => {
                // A key is one value, however many columns it has.
                lens.old[hold.column].is_some_and(|old| changed.contains(&old))
                    || (moves && target.key.contains(&hold.column))
            }
        };
        let somebodys = holds
            .iter()
            .filter(|hold| !target.self_updating.contains(&hold.column));
        let why = if step.op == Op::Insert {
            Why::TouchedRow
        } else {
            Why::SameColumns
        };
        if let Some(hold) = somebodys.filter(collides).max_by_key(|hold| hold.by) {
            return Finding(Class::Overlap, why, hold.by);
        }
        let by = holds.iter().map(|hold| hold.by).max().unwrap_or(NONE);
        Finding(Class::Disjoint, Why::OtherColumns, by)
    }

    /// Whether an overlapping step can be undone by force: not if that would give the row a key it never had, made of parts.
    fn can_force(&self, step: &Step, holds: &[Hold]) -> bool {
        let Some((target, lens)) = self.view.sight(step) else {
            return false;
        };
        let changed = self.view.changed(step);
        let mut of_key = holds.iter().filter(|hold| target.key.contains(&hold.column));
        !self.moves(step)
            || of_key.all(|hold| lens.old[hold.column].is_some_and(|old| changed.contains(&old)))
    }

    /// A break after the row's generation: the first one that emptied the table, else the first one.
    fn broken(&self, row: &Row) -> Option<Finding> {
        let history = &self.view.history;
        let breaks = &history.tables[history.def_of(history.step(row.last)).of as usize].breaks;
        let mut later = (0_u32..).zip(breaks).skip(row.generation as usize);
        let first = later.clone().next()?.0;
        match later.find(|(_, b)| matches!(b.kind, BreakKind::Emptied(_))) {
            Some((nth, _)) => Some(Finding(Class::Vanished, Why::Broken(nth), NONE)),
            None => Some(Finding(Class::Unknown, Why::Broken(first), NONE)),
        }
    }

    /// Whether an update changed the row's primary key.
    fn moves(&self, step: &Step) -> bool {
        step.op == Op::Update && step.slot != step.new_slot && self.has_key(step)
    }

    fn has_key(&self, step: &Step) -> bool {
        !self.view.history.def_of(step).table.key.is_empty()
    }

    /// Whether the row may not return to the slot because of what others did there.
    fn taken(&self, slot: u32, row: u32) -> Option<Finding> {
        let history = &self.view.history;
        let keyed = self.has_key(history.step(history.rows[row as usize].last));
        let by = self.used.get(&slot).copied().unwrap_or(NONE);
        let occupant = self.occupant[slot as usize];
        let user = (by != NONE).then(|| self.view.history.step(by));
        let held = keyed && occupant != NONE && occupant != row;
        Some(match user.filter(|step| step.row != row) {
            None if held => Finding(Class::KeyTaken, Why::KeyHeld, NONE),
            None => return None,
            Some(step) if step.op == Op::Insert => Finding(Class::Reborn, Why::Inserted, by),
            // Equal rows without a key are interchangeable: what became of the others is no concern of this one.
            Some(_) if !keyed => return None,
            Some(_) if held => Finding(Class::KeyTaken, Why::KeyHeld, by),
            Some(step) if step.op == Op::Delete => Finding(Class::Vanished, Why::DeletedAgain, by),
            Some(_) => Finding(Class::KeyTaken, Why::KeyWasUsed, by),
        })
    }

    /// The script takes the step back.
    fn take_back(&mut self, id: u32, step: &Step) {
        let row = step.row as usize;
        if step.op == Op::Insert || self.moves(step) {
            let slot = std::mem::replace(&mut self.slot[row], NONE);
            if slot != NONE && self.occupant[slot as usize] == step.row {
                self.occupant[slot as usize] = NONE;
            }
        }
        if step.op == Op::Delete || self.moves(step) {
            self.occupant[step.slot as usize] = step.row;
            self.slot[row] = step.slot;
        }
        let Some(holds) = self.holds.get_mut(&step.row) else {
            return;
        };
        let changed = self.view.changed(step);
        let Some((target, lens)) = self.view.sight(step) else {
            return;
        };
        for hold in holds.iter_mut() {
            let restored = lens.old[hold.column].is_some_and(|old| changed.contains(&old));
            if restored && !target.self_updating.contains(&hold.column) {
                hold.step = id;
                hold.after = false;
            }
        }
    }

    /// The step stays as it is, so what it wrote must survive.
    fn keep(&mut self, id: u32) {
        let step = self.view.history.step(id);
        for slot in [step.new_slot, step.slot] {
            if step.op != Op::Update || step.slot != step.new_slot {
                self.used.entry(slot).or_insert(id);
            }
        }
        match step.op {
            Op::Insert => {}
            Op::Delete => {
                self.deleted.entry(step.row).or_insert(id);
            }
            Op::Update => self.hold(id, step),
        }
    }

    fn hold(&mut self, id: u32, step: &Step) {
        let Some((_, lens)) = self.view.sight(step) else {
            return;
        };
        let written = self.view.changed(step);
        for (column, old) in lens.old.iter().enumerate() {
            if old.is_none_or(|old| !written.contains(&old)) {
                continue;
            }
            let holds = self
                .holds
                .entry(step.row)
                .or_insert_with(|| Vec::with_capacity(written.len()));
            if !holds.iter().any(|hold| hold.column == column) {
                holds.push(Hold {
                    column,
                    by: id,
                    step: id,
                    after: true,
                });
            }
        }
    }

    /// The walk passes the step on its way to earlier ones.
    fn leave(&mut self, id: u32) {
        let step = self.view.history.step(id);
        if step.torn {
            self.torn.insert(step.row);
        }
    }
}
