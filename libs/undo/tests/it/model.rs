//! Random histories, what they should become, and a server small enough to read.
//!
//! The oracle knows nothing of classes: the wanted state is what the kept changes alone make of the first state, each setting only the
//! columns it changed in the row it changed.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use crate::fixture::V;

/// One attempted change; attempts that make no sense in the state they meet are passed over.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    kind: u8,
    id: i64,
    to: i64,
    columns: u8,
    a: i64,
    b: usize,
    selected: bool,
}

/// Texts that are easy to get wrong.
pub(crate) const TEXTS: [&str; 7] = ["x", "X", "it's", "\\", "é", "a\nb", ""];

/// Up to `most` attempts on few rows with few values, so that they meet.
pub(crate) fn attempts(most: usize) -> impl Strategy<Value = Vec<Attempt>> {
    let attempt = (
        0_u8..8,
        1_i64..5,
        1_i64..5,
        1_u8..8,
        0_i64..3,
        0..TEXTS.len(),
        any::<bool>(),
    );
    let attempt = attempt.prop_map(|(kind, id, to, columns, a, b, selected)| Attempt {
        kind,
        id,
        to,
        columns,
        a,
        b,
        selected,
    });
    vec(attempt, 1..most)
}

/// A row: `id`, `a`, `b`, `c`.
pub(crate) type Row = Vec<V>;

/// A change that took place. Rows are numbered by their lives: a row that is deleted and inserted again is another one.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) life: usize,
    pub(crate) before: Option<Row>,
    pub(crate) after: Option<Row>,
    pub(crate) selected: bool,
}

impl Event {
    /// Indices of the columns an update changed.
    pub(crate) fn changed(&self) -> Vec<usize> {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => (0..before.len()).filter(|at| before[*at] != after[*at]).collect(),
            _ => Vec::new(),
        }
    }
}

/// The first state and everything that happened to it.
#[derive(Clone, Debug)]
pub(crate) struct Story {
    pub(crate) first: Vec<Row>,
    pub(crate) events: Vec<Event>,
}

impl Story {
    /// With `keyed`, `id` is the primary key; else any column may be anything, but no two rows are ever equal.
    pub(crate) fn new(attempts: &[Attempt], keyed: bool) -> Self {
        let first: Vec<Row> = (1..4).map(|id| row(id, id, 0)).collect();
        let mut alive: BTreeMap<usize, Row> = first.iter().cloned().enumerate().collect();
        let mut events: Vec<Event> = Vec::new();
        let mut lives = first.len();
        for attempt in attempts {
            let found = alive.iter().find(|(_, row)| row[0] == V::Int(attempt.id));
            let (life, before, after) = match (found.map(|(life, row)| (*life, row.clone())), attempt.kind) {
                (None, 0 | 1) => (lives, None, Some(row(attempt.id, attempt.a, attempt.b))),
                (Some((life, before)), 2) => (life, Some(before), None),
                (Some((life, before)), 3..) => {
                    let after = updated(&before, attempt);
                    (life, Some(before), Some(after))
                }
                _ => continue,
            };
            let clashes = |other: &Row| {
                after.as_ref().is_some_and(|after| {
                    if keyed {
                        other[0] == after[0]
                    } else {
                        other == after
                    }
                })
            };
            if before == after || alive.iter().any(|(other, row)| *other != life && clashes(row)) {
                continue;
            }
            match &after {
                Some(after) => alive.insert(life, after.clone()),
                None => alive.remove(&life),
            };
            lives += usize::from(before.is_none());
            events.push(Event {
                life,
                before,
                after,
                selected: attempt.selected,
            });
        }
        Self { first, events }
    }

    /// The state after the events that `kept` holds for, sorted. Fails if they cannot have happened without the others.
    pub(crate) fn replay(&self, kept: impl Fn(usize) -> bool) -> Result<Vec<Row>, String> {
        let mut alive: BTreeMap<usize, Row> = self.first.iter().cloned().enumerate().collect();
        for (nth, event) in self.events.iter().enumerate().filter(|(nth, _)| kept(*nth)) {
            match (&event.before, &event.after) {
                (None, Some(after)) => {
                    alive.insert(event.life, after.clone());
                }
                (Some(_), None) => {
                    alive
                        .remove(&event.life)
                        .ok_or_else(|| format!("event {nth} deletes a row that is not there"))?;
                }
                (_, Some(after)) => {
                    let row = alive
                        .get_mut(&event.life)
                        .ok_or_else(|| format!("event {nth} updates a row that is not there"))?;
                    for at in event.changed() {
                        row[at] = after[at].clone();
                    }
                }
                (None, None) => {}
            }
        }
        let mut rows: Vec<Row> = alive.into_values().collect();
        rows.sort();
        Ok(rows)
    }
}

fn row(id: i64, a: i64, b: usize) -> Row {
    vec![V::Int(id), V::Int(a), V::Text(TEXTS[b].into()), V::Null]
}

fn updated(before: &Row, attempt: &Attempt) -> Row {
    let mut after = before.clone();
    // Every second update that may change the key does.
    if attempt.kind >= 6 {
        after[0] = V::Int(attempt.to);
    }
    if attempt.columns & 1 != 0 {
        after[1] = V::Int(attempt.a);
    }
    if attempt.columns & 2 != 0 {
        after[2] = V::Text(TEXTS[attempt.b].into());
    }
    if attempt.columns & 4 != 0 {
        after[3] = if attempt.a == 0 {
            V::Null
        } else {
            V::Int(attempt.a)
        };
    }
    after
}

/// A table and one session on it: what a script finds and does.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) rows: Vec<Row>,
    columns: Vec<&'static str>,
    keyed: bool,
    done: i64,
}

impl Server {
    pub(crate) fn new(rows: Vec<Row>, keyed: bool) -> Self {
        Self {
            rows,
            columns: vec!["id", "a", "b", "c"],
            keyed,
            done: 0,
        }
    }

    /// Runs a script's statements, each of which must change exactly one row; gives how many there were.
    pub(crate) fn run(&mut self, body: &str) -> Result<u64, String> {
        self.done = 0;
        for line in body.split(";\n") {
            let words = Words { rest: line };
            let count = match line.split(' ').next() {
                Some("UPDATE") => self.update(words),
                Some("INSERT") => self.insert(words),
                Some("DELETE") => self.delete(words),
                _ => continue,
            };
            let assertion = format!("{line};\nSET sql_mode = IF(ROW_COUNT() = 1, @@sql_mode, ");
            if count != 1 || !body.contains(&assertion) {
                return Err(format!("{count} rows, or no assertion: {line}"));
            }
            self.done += 1;
        }
        self.rows.sort();
        match self.keyed && self.rows.windows(2).any(|pair| pair[0][0] == pair[1][0]) {
            true => Err("two rows have one key".into()),
            false => Ok(self.done.unsigned_abs()),
        }
    }

    fn update(&mut self, mut words: Words<'_>) -> usize {
        words.skip("UPDATE `shop`.`t` SET ");
        let mut set = Vec::new();
        loop {
            let column = self.column(&words.name());
            words.skip(" = ");
            set.push((column, words.value()));
            if !words.take(", ") {
                break;
            }
        }
        let found = self.find(words);
        for at in &found {
            for (column, value) in &set {
                self.rows[*at][*column] = value.clone();
            }
        }
        found.len()
    }

    fn insert(&mut self, mut words: Words<'_>) -> usize {
        words.skip("INSERT INTO `shop`.`t` (`id`, `a`, `b`, `c`) SELECT ");
        let mut row = vec![words.value()];
        while words.take(", ") {
            row.push(words.value());
        }
        words.skip(" FROM DUAL");
        assert_eq!(words.rest, format!(" WHERE @trail_done = {}", self.done));
        self.rows.push(row);
        1
    }

    fn delete(&mut self, mut words: Words<'_>) -> usize {
        words.skip("DELETE FROM `shop`.`t`");
        let found = self.find(words);
        for at in found.iter().rev() {
            self.rows.remove(*at);
        }
        found.len()
    }

    /// Rows that meet the conditions, at most one if the statement says so.
    fn find(&self, mut words: Words<'_>) -> Vec<usize> {
        words.skip(" WHERE ");
        let mut wanted = Vec::new();
        while !words.take("@trail_done = ") {
            let bytes = words.take("CAST(");
            let column = self.column(&words.name());
            words.rest = words.rest.strip_prefix(" AS BINARY)").unwrap_or(words.rest);
            let value = if words.take(" IS NULL") {
                V::Null
            } else {
                assert!(
                    words.take(" <=> ") || (words.take(" = ") && !bytes),
                    "{}",
                    words.rest
                );
                words.value()
            };
            wanted.push((column, value));
            words.skip(" AND ");
        }
        assert_eq!(words.value(), V::Int(self.done));
        let limited = words.take(" LIMIT 1");
        assert!(words.rest.is_empty() && limited != self.keyed, "{}", words.rest);
        let meets = |row: &Row| wanted.iter().all(|(column, value)| row[*column] == *value);
        let found = (0..self.rows.len()).filter(|at| meets(&self.rows[*at]));
        found.take(if limited { 1 } else { usize::MAX }).collect()
    }

    fn column(&self, name: &str) -> usize {
        self.columns
            .iter()
            .position(|column| *column == name)
            .expect("a column")
    }
}

struct Words<'s> {
    rest: &'s str,
}

impl Words<'_> {
    fn take(&mut self, word: &str) -> bool {
        let found = self.rest.strip_prefix(word);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    fn skip(&mut self, word: &str) {
        assert!(self.take(word), "{word:?} expected before {:?}", self.rest);
    }

    fn name(&mut self) -> String {
        self.skip("`");
        let (name, rest) = self.rest.split_once('`').expect("a closing backtick");
        self.rest = rest;
        name.to_owned()
    }

    fn value(&mut self) -> V {
        if self.take("NULL") {
            return V::Null;
        }
        if self.take("'") {
            let (text, rest) = self.rest.split_once('\'').expect("a closing quote");
            self.rest = rest;
            return V::Text(text.into());
        }
        self.take("_utf8mb4 ");
        if self.take("X'") {
            let (digits, rest) = self.rest.split_once('\'').expect("a closing quote");
            self.rest = rest;
            let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex");
            return V::Text((0..digits.len()).step_by(2).map(byte).collect());
        }
        let end = self
            .rest
            .find(|c: char| c != '-' && !c.is_ascii_digit())
            .unwrap_or(self.rest.len());
        let (number, rest) = self.rest.split_at(end);
        self.rest = rest;
        V::Int(number.parse().expect("a number"))
    }
}
