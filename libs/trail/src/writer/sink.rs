//! The writer as a [`Sink`]: what the decoder says, as records.

use std::sync::Arc;

use binlog::{Begin, Commit, Ddl, GtidSet, Image, LogPos, Op, Problem, RowChange, RowKey, Sink, Table};

use super::{Txn, Writer, feed::order};
use types::Micros;

use crate::{
    Error,
    delta::{Delta, new_key},
    record::{DdlRecord, Record, Row},
};

/// A row as it is kept. Its buffers are used for each row again.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    before: Vec<u8>,
    after: Vec<u8>,
    delta: Delta,
    key: Vec<u8>,
    new_key: Option<RowKey>,
}

impl Scratch {
    fn keep(&mut self, change: &RowChange<'_>, version: u32, has_query: bool) -> Result<Row<'_>, Problem> {
        let RowChange {
            op,
            table,
            before,
            after,
            flags,
            ..
        } = change;
        let shape = (before.is_some(), after.is_some());
        let fits = match op {
            Op::Insert => (false, true),
            Op::Update => (true, true),
            Op::Delete => (true, false),
        };
        let subject = before.as_ref().or(after.as_ref()).filter(|_| shape == fits);
        let subject =
            subject.ok_or_else(|| Problem::Row("its images are not those of its operation".to_owned()))?;
        let key = RowKey::of(table, subject)?;
        store(before.as_ref(), &mut self.before);
        store(after.as_ref(), &mut self.after);
        let mut row = Row {
            version,
            op: *op,
            flags: *flags,
            has_query,
            key: &[],
            new_key: None,
            changed: None,
            before: None,
            after: None,
        };
        self.new_key = None;
        if *op == Op::Update {
            self.delta.make(table, &self.before, &self.after)?;
            self.new_key = new_key(table, &key, &self.before, &self.after, &self.delta.changed)?;
            row.new_key = self.new_key.as_ref().map(|key| &*key.0);
            row.changed = Some(&self.delta.changed);
        }
        self.key = key.0;
        row.key = &self.key;
        row.before = before.map(|_| &*self.before);
        row.after = after.map(|_| {
            if *op == Op::Update {
                &*self.delta.after
            } else {
                &*self.after
            }
        });
        Ok(row)
    }
}

fn store(image: Option<&Image<'_>>, out: &mut Vec<u8>) {
    out.clear();
    if let Some(image) = image {
        image.to_bytes(out);
    }
}

impl Writer {
    /// The number of a definition, which is recorded if it is new.
    fn version_of(&mut self, table: &Arc<Table>) -> Result<u32, Error> {
        if let Some(version) = self.catalogue.number_of(table) {
            return Ok(version);
        }
        let version = self.catalogue.add(table);
        let definition = serde_json::json!(table).to_string();
        self.append(&Record::Table {
            version,
            definition: definition.as_bytes(),
        })?;
        Ok(version)
    }

    /// Records the text of the row's statement, if it is not that of the row before. Whether the row has one.
    fn note_query(&mut self, text: Option<&Arc<str>>) -> Result<bool, Error> {
        let (Some(text), Txn::New { query, .. }) = (text, &mut self.txn) else {
            return Ok(false);
        };
        if !query
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, text) || known == text)
        {
            *query = Some(Arc::clone(text));
            self.append(&Record::Query(text))?;
        }
        Ok(true)
    }

    /// Whether the transaction is new, which is an error if there is none.
    fn takes(&self, what: &'static str) -> Result<bool, Error> {
        match &self.txn {
            Txn::New { .. } => Ok(true),
            Txn::Known { .. } => Ok(false),
            Txn::None => Err(order(what, &self.place())),
        }
    }

    /// The transaction's end is fed: a tail that is full is turned here, so that a run never ends within one.
    fn end(&mut self, end: &LogPos, time: Option<Micros>, record: &Record<'_>) -> Result<(), Error> {
        match std::mem::replace(&mut self.txn, Txn::None) {
            Txn::New { .. } => {
                self.append(record)?;
                self.move_to(end.clone());
                self.collect(false)?;
                if self
                    .tail
                    .as_ref()
                    .is_some_and(|tail| tail.len() >= self.options.tail_bytes_max)
                {
                    self.turn()
                } else {
                    Ok(())
                }
            }
            Txn::Known { begin, acts } => {
                self.check_known(&begin, end, time.filter(|_| acts))?;
                self.skipped += 1;
                self.walk(end)
            }
            Txn::None => Ok(()),
        }
    }

    fn bad_row(&self, table: &Table, problem: Problem) -> Error {
        let at = self.place();
        Error::Row {
            at,
            table: table.full_name(),
            problem,
        }
    }

    /// Where the transaction begins that is being fed, or where reading stands.
    fn place(&self) -> LogPos {
        match (&self.txn, &self.cursor) {
            (Txn::New { begin, .. }, _) => begin.at.clone(),
            (_, Some(cursor)) => cursor.at.clone(),
            _ => LogPos::new("", 0),
        }
    }
}

impl Sink for Writer {
    type Error = Error;

    fn begin(&mut self, begin: &Begin) -> Result<(), Error> {
        self.guarded(|writer| {
            if !matches!(writer.txn, Txn::None) {
                return Err(order(
                    "a transaction begins before the one before it ended",
                    &begin.at,
                ));
            }
            match &mut writer.cursor {
                None => return Err(order("a transaction comes before the start", &begin.at)),
                Some(cursor) if begin.at < cursor.at => {
                    return Err(order(
                        "a transaction begins before the place where reading stands",
                        &begin.at,
                    ));
                }
                Some(cursor) => cursor.ahead = None,
            }
            writer.walk(&begin.at)?;
            if !writer.wants(&begin.at) {
                writer.txn = Txn::Known {
                    begin: begin.clone(),
                    acts: false,
                };
                return Ok(());
            }
            writer.ensure_run()?;
            writer.append(&Record::Begin(begin.clone()))?;
            writer.txn = Txn::New {
                begin: begin.clone(),
                query: None,
            };
            Ok(())
        })
    }

    fn row(&mut self, change: &RowChange<'_>) -> Result<(), Error> {
        self.guarded(|writer| {
            if !writer.takes("a row comes outside of a transaction")? {
                writer.note_act();
                return Ok(());
            }
            let version = writer.version_of(change.table)?;
            let has_query = writer.note_query(change.query)?;
            let mut scratch = std::mem::take(&mut writer.scratch);
            let done = match scratch.keep(change, version, has_query) {
                Ok(row) => writer.append(&Record::Row(row)),
                Err(problem) => Err(writer.bad_row(change.table, problem)),
            };
            writer.scratch = scratch;
            done
        })
    }

    fn ddl(&mut self, ddl: &Ddl<'_>) -> Result<(), Error> {
        self.guarded(|writer| {
            if !writer.takes("a statement comes outside of a transaction")? {
                writer.note_act();
                return Ok(());
            }
            let record = DdlRecord {
                text: ddl.text.to_owned(),
                default_schema: ddl.default_schema.to_owned(),
                targets: ddl.targets.clone(),
            };
            writer.append(&Record::Ddl(serde_json::json!(record).to_string().as_bytes()))
        })
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), Error> {
        self.guarded(|writer| {
            writer.takes("a commit comes outside of a transaction")?;
            writer.end(
                &commit.end,
                Some(commit.time),
                &Record::Commit {
                    end: commit.end.clone(),
                    time: commit.time,
                },
            )
        })
    }

    fn rollback(&mut self, end: &LogPos) -> Result<(), Error> {
        self.guarded(|writer| {
            writer.takes("a rollback comes outside of a transaction")?;
            writer.end(end, None, &Record::Rollback { end: end.clone() })
        })
    }

    fn position(&mut self, next: &LogPos) -> Result<(), Error> {
        self.guarded(|writer| {
            if !matches!(writer.txn, Txn::None) {
                return Err(order("a position comes within a transaction", next));
            }
            match &mut writer.cursor {
                None => Err(order("a position comes before the start", next)),
                Some(cursor) if *next < cursor.at => Err(order(
                    "a position lies before the place where reading stands",
                    next,
                )),
                Some(cursor) => {
                    cursor.ahead = Some(next.clone());
                    Ok(())
                }
            }
        })
    }

    /// Only what stands at the very beginning of an interval tells something new; later the store has counted itself.
    fn previous(&mut self, gtids: &GtidSet) -> Result<(), Error> {
        self.guarded(|writer| {
            let Some(run) = writer.tail.as_ref().map(|tail| &tail.run) else {
                return Ok(());
            };
            let at_start = writer
                .cursor
                .as_ref()
                .is_some_and(|c| c.epoch == run.interval.epoch && c.at == run.interval.from);
            let unknown = run.outcomes.is_empty()
                && run.interval.gtids_before.is_empty()
                && run.interval.gtids.is_empty();
            if at_start && unknown && !gtids.is_empty() {
                writer.append(&Record::Previous(gtids.clone()))
            } else {
                Ok(())
            }
        })
    }
}
