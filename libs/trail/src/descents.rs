//! Which tables and columns came from others, as the statements of a store tell it; remembered, so that each statement is read once.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use binlog::{Descent, Position};

use crate::{Error, Filter, Place, Stop, find::schema_changes, snapshot::Snapshot};

/// The most that are kept.
const MOST: usize = 50_000;

/// Which tables and columns came from others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Descents {
    /// Each once; at most 50,000.
    pub known: BTreeSet<Descent>,
    /// There are more, or there may be: not every statement could be read.
    pub left_out: bool,
}

impl Descents {
    /// Takes in what a statement tells.
    fn learn(&mut self, told: Option<Vec<Descent>>) {
        self.left_out |= told.is_none();
        for descent in told.into_iter().flatten() {
            if self.known.len() >= MOST && !self.known.contains(&descent) {
                self.left_out = true;
                return;
            }
            self.known.insert(descent);
        }
    }
}

/// What a store that grows has told so far. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told(Arc<Mutex<Read>>);

#[derive(Debug, Default)]
struct Read {
    descents: Arc<Descents>,
    /// The last statement that was read.
    upto: Option<Position>,
    /// The stretches of the log that were there; of the last one, which grows, where it begins.
    stretches: Vec<(Place, Option<Place>)>,
}

impl Told {
    /// Those of a moment, and perhaps of later ones.
    pub(crate) fn of(&self, snapshot: &Snapshot, stop: &Stop) -> Result<Arc<Descents>, Error> {
        let mut read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let intervals = snapshot.intervals();
        let mut stretches: Vec<_> = intervals
            .iter()
            .map(|interval| (interval.start(), Some(interval.end())))
            .collect();
        if let Some((_, end)) = stretches.last_mut() {
            *end = None;
        }
        if stretches != read.stretches {
            // Something was read that stands before what was known.
            *read = Read {
                stretches,
                ..Read::default()
            };
        }
        let filter = Filter {
            after: read.upto.clone(),
            ..Filter::default()
        };
        let statements = schema_changes(snapshot, &filter, stop)?;
        let Some(last) = statements.last() else {
            return Ok(Arc::clone(&read.descents));
        };
        let upto = last.position.clone();
        let mut descents = Descents::clone(&read.descents);
        for statement in &statements {
            descents.learn(binlog::descents(&statement.text, &statement.default_schema));
        }
        read.upto = Some(upto);
        read.descents = Arc::new(descents);
        Ok(Arc::clone(&read.descents))
    }
}
