//! What one statement does to one row: the state it must find, and the state it leaves.

use binlog::{Cell, Op, Row as Cells};

use crate::{
    history::{History, NONE, Step},
    sql,
    target::{Lens, Place, Target},
    value::Datum,
    verdict::{Hold, Trouble, Why},
};

/// The history, seen through the newest definitions.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) history: History,
    /// Per table; none if its newest definition is not known.
    pub(crate) targets: Vec<Option<Target>>,
    /// Per definition; none if its table has no target.
    pub(crate) lenses: Vec<Option<Lens>>,
}

/// A row before and after a statement.
#[derive(Debug)]
pub(crate) struct Transition<'p> {
    pub(crate) target: &'p Target,
    /// What the statement does.
    pub(crate) op: Op,
    /// In the order of the table's columns. Generated columns are left out, unless they belong to the key.
    pub(crate) fields: Vec<Field<'p>>,
}

/// A column before and after.
#[derive(Debug)]
pub(crate) struct Field<'p> {
    /// Index in the newest definition.
    pub(crate) column: usize,
    /// What it must be; none for an INSERT.
    pub(crate) from: Option<Datum<'p>>,
    /// What it becomes; none for a DELETE.
    pub(crate) to: Option<Datum<'p>>,
    /// Whether an UPDATE sets it, or an INSERT names it.
    pub(crate) set: bool,
}

impl Transition<'_> {
    /// The same row the other way round.
    pub(crate) fn reverse(mut self) -> Self {
        self.op = match self.op {
            Op::Insert => Op::Delete,
            Op::Update => Op::Update,
            Op::Delete => Op::Insert,
        };
        for field in &mut self.fields {
            std::mem::swap(&mut field.from, &mut field.to);
        }
        self
    }
}

/// One selected step with everything needed to undo it.
struct Case<'p> {
    view: &'p View,
    target: &'p Target,
    lens: &'p Lens,
    step: &'p Step,
    before: Cells<'p>,
    after: Cells<'p>,
    holds: &'p [Hold],
}

impl View {
    /// The newest definition of the step's table, and the step's own definition seen through it.
    pub(crate) fn sight(&self, step: &Step) -> Option<(&Target, &Lens)> {
        let of = self.history.def_of(step).of;
        let target = self.targets.get(of as usize)?.as_ref()?;
        Some((target, self.lenses.get(step.def as usize)?.as_ref()?))
    }

    /// Indices of the columns an update changed, in its own definition, without those the server computes.
    pub(crate) fn changed(&self, step: &Step) -> Vec<usize> {
        match self.history.cells(step) {
            (Some(before), Some(after)) => self.differing(step, &before, &after),
            _ => Vec::new(),
        }
    }

    fn differing(&self, step: &Step, before: &[Cell<'_>], after: &[Cell<'_>]) -> Vec<usize> {
        let columns = &self.history.def_of(step).table.columns;
        let generated = self.lenses.get(step.def as usize).and_then(Option::as_ref);
        (0..columns.len())
            .filter(|at| {
                let column = &columns[*at];
                let cells = [before[*at], after[*at]].map(|cell| Datum { column, cell });
                after[*at] != Cell::Absent
                    && !generated.is_some_and(|lens| lens.generated[*at])
                    && !cells[0].is_same(&cells[1])
            })
            .collect()
    }

    /// The statement that undoes a step on a row in which later steps hold some columns; none if there is nothing to restore.
    pub(crate) fn undo<'p>(&'p self, step: u32, holds: &'p [Hold]) -> Result<Option<Transition<'p>>, Why> {
        let step = self.history.step(step);
        let (target, lens) = self.sight(step).ok_or(Why::NoDefinition)?;
        let (before, after) = self.history.cells(step);
        let case = Case {
            view: self,
            target,
            lens,
            step,
            before: before.unwrap_or_default(),
            after: after.unwrap_or_default(),
            holds,
        };
        let (op, fields) = match step.op {
            Op::Insert => (Op::Delete, case.whole_row()?),
            Op::Update => (Op::Update, case.columns()?),
            Op::Delete => (Op::Insert, case.lost_row()?),
        };
        if op == Op::Update && !fields.iter().any(|field| field.set) {
            return Ok(None);
        }
        for field in &fields {
            for datum in [&field.from, &field.to].into_iter().flatten() {
                let old = lens.old[field.column].unwrap_or(field.column);
                sql::writable(datum).map_err(|obstacle| Trouble::Unwritable(obstacle).with(old))?;
            }
        }
        Ok(Some(Transition { target, op, fields }))
    }
}

impl<'p> Case<'p> {
    /// Undo of an UPDATE: the key, and the columns to restore; of a table without a key, all columns.
    fn columns(&self) -> Result<Vec<Field<'p>>, Why> {
        let restore = self.restored()?;
        let mut fields = Vec::new();
        for (column, wanted) in restore.into_iter().enumerate() {
            let of_key = self.target.key.contains(&column);
            let needed = of_key || wanted.is_some();
            let from = match self.now(column) {
                Some(datum) => datum,
                None if needed => return Err(self.missing(column)),
                None => continue,
            };
            // A key column that the server computes returns by itself.
            let returned = || {
                self.computed(column)
                    .and_then(|old| self.known(old, self.before[old]).ok())
            };
            if needed || self.target.key.is_empty() {
                fields.push(Field {
                    column,
                    from: Some(from),
                    to: Some(wanted.or_else(returned).unwrap_or(from)),
                    set: wanted.is_some_and(|wanted| !wanted.is_same(&from)),
                });
            }
        }
        Ok(fields)
    }

    /// For each column of the newest definition the value to restore, if there is one.
    fn restored(&self) -> Result<Vec<Option<Datum<'p>>>, Why> {
        let mut restored = vec![None; self.target.table.columns.len()];
        for old in self.view.differing(self.step, &self.before, &self.after) {
            let column = self.place(old)?;
            // The server has set it anew since, and will again.
            if self.target.self_updating.contains(&column) && self.hold(column).is_some() {
                continue;
            }
            restored[column] = Some(self.known(old, self.before[old])?);
        }
        Ok(restored)
    }

    /// Undo of an INSERT: the whole row as it is now goes.
    fn whole_row(&self) -> Result<Vec<Field<'p>>, Why> {
        // What a column that cannot be compared any more has come to hold would go unseen.
        if let Some(old) = self.lens.places.iter().position(|place| *place == Place::Misfit) {
            return Err(Trouble::Misfit.with(old));
        }
        let mut fields = Vec::new();
        for column in 0..self.target.table.columns.len() {
            match self.now(column) {
                Some(datum) => fields.push(Field {
                    column,
                    from: Some(datum),
                    to: None,
                    set: self.computed(column).is_none(),
                }),
                None if self.target.key.contains(&column) => return Err(self.missing(column)),
                None => {}
            }
        }
        Ok(fields)
    }

    /// Undo of a DELETE: the whole row as it was comes back.
    fn lost_row(&self) -> Result<Vec<Field<'p>>, Why> {
        let mut fields = Vec::new();
        for (old, cell) in self.before.iter().enumerate() {
            let computed = self.lens.generated[old];
            let of_key =
                matches!(self.lens.places[old], Place::At(column) if self.target.key.contains(&column));
            if !computed || of_key {
                fields.push(Field {
                    column: self.place(old)?,
                    from: None,
                    to: Some(self.known(old, *cell)?),
                    set: !computed,
                });
            }
        }
        fields.sort_by_key(|field| field.column);
        Ok(fields)
    }

    /// The old column, if the server computes this one.
    fn computed(&self, column: usize) -> Option<usize> {
        self.lens.old[column].filter(|old| self.lens.generated[*old])
    }

    fn place(&self, old: usize) -> Result<usize, Why> {
        match self.lens.places[old] {
            Place::At(column) => Ok(column),
            Place::Gone => Err(Trouble::Gone.with(old)),
            Place::Misfit => Err(Trouble::Misfit.with(old)),
        }
    }

    fn known(&self, old: usize, cell: Cell<'p>) -> Result<Datum<'p>, Why> {
        if cell == Cell::Absent {
            return Err(Trouble::NotLogged.with(old));
        }
        let column = &self.view.history.def_of(self.step).table.columns[old];
        Ok(Datum { column, cell })
    }

    fn hold(&self, column: usize) -> Option<&'p Hold> {
        self.holds.iter().find(|hold| hold.column == column)
    }

    /// The value the script finds in a column; none for a generated column outside the key, and if it is not known.
    fn now(&self, column: usize) -> Option<Datum<'p>> {
        let old = self.lens.old[column];
        if let Some(hold) = self.hold(column) {
            return self.view.held(hold);
        }
        let old = old.filter(|old| !self.lens.generated[*old] || self.target.key.contains(&column))?;
        // A column that an update's partial after image leaves out was not changed by it.
        let cells = [self.after.get(old), self.before.get(old)];
        let cell = cells.into_iter().flatten().find(|cell| **cell != Cell::Absent)?;
        self.known(old, *cell).ok()
    }

    /// Why [`Case::now`] knows nothing of a column.
    fn missing(&self, column: usize) -> Why {
        let name = &self.target.table.columns[column].name;
        let def = &self.view.history.def_of(self.step).table;
        match def.column(name) {
            Some(old) => self
                .place(old)
                .err()
                .unwrap_or_else(|| Trouble::NotLogged.with(old)),
            None => Why::NoDefinition,
        }
    }
}

impl View {
    /// The value a hold stands for.
    pub(crate) fn held(&self, hold: &Hold) -> Option<Datum<'_>> {
        self.value(hold.step, hold.after, hold.column)
    }

    /// What a step's image says about a column of the newest definition.
    pub(crate) fn value(&self, step: u32, after: bool, column: usize) -> Option<Datum<'_>> {
        if step == NONE {
            return None;
        }
        let step = self.history.step(step);
        let (_, lens) = self.sight(step)?;
        let old = lens.old[column]?;
        let (before, after_it) = self.history.cells(step);
        // A column that an update's partial after image leaves out was not changed by it.
        let images = if after { [after_it, before] } else { [before, None] };
        let mut cells = images.into_iter().flatten().map(|cells| cells[old]);
        let cell = cells.find(|cell| *cell != Cell::Absent)?;
        let column = &self.history.def_of(step).table.columns[old];
        Some(Datum { column, cell })
    }
}
