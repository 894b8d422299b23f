//! Events into transactions.
//!
//! The decoder knows four states of a transaction: none; announced (a GTID event says that one follows); open; and, for MariaDB and for
//! statements outside BEGIN, a group of a single statement that ends with it. Everything it cannot place or read is an error.

use std::{collections::HashMap, sync::Arc};

use types::Micros;

use crate::{
    Begin, ColumnFacts, Commit, Ddl, Error, FileName, GtidSet, Image, LogPos, Op, Present, RowChange, Sink,
    error::Problem,
    event::{Event, FormatDescription, Limits, kind},
    gtid_event::{self, Announced},
    image::held,
    known::{DEFINITIONS_MAX, Definitions, Maps},
    payload,
    query::{DdlTarget, Query, Role},
    read::Bytes,
    table_map,
};

/// Why an event was not taken: the log, or the sink.
#[derive(Debug, thiserror::Error)]
pub enum FeedError<E> {
    /// The log cannot be decoded.
    #[error(transparent)]
    Log(Error),
    /// The sink refused.
    #[error(transparent)]
    Sink(E),
}

/// Either half of a [`FeedError`], before the place is known.
pub(crate) enum Fail<E> {
    Log(Problem),
    Sink(E),
}

impl<E> From<Problem> for Fail<E> {
    fn from(problem: Problem) -> Self {
        Self::Log(problem)
    }
}

impl<E> From<crate::read::Short> for Fail<E> {
    fn from(_: crate::read::Short) -> Self {
        Self::Log(Problem::Short)
    }
}

/// How the part of a log that was read ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Within a file that may still grow.
    Open,
    /// The server goes on in the file named here, at this place: it rotated, or it was shut down and began a new file afterwards.
    Continues(LogPos),
}

#[derive(Debug)]
struct Transaction {
    begin: Begin,
    /// From the GTID event, where it has it.
    commit_time: Option<Micros>,
    /// The sink knows of it.
    begun: bool,
    /// It ends with its first statement rather than with a commit.
    single: bool,
}

/// Rows of an UPDATE have two images, the others one.
#[derive(Clone, Copy)]
struct RowsKind {
    op: Op,
    /// Version 2 of the event has extra data before the columns.
    extra: bool,
    compressed: bool,
}

/// Set on the last rows event of a statement.
const STATEMENT_END: u16 = 1;
/// A rows event that only ends a statement carries this table id.
const NO_TABLE: u64 = 0xFF_FFFF;

/// What compressed events opened to so far.
#[derive(Debug, Default)]
struct Opened(u64);

impl Opened {
    fn add(&mut self, bytes: u64, limits: &Limits) -> Result<(), Problem> {
        self.0 = self.0.saturating_add(bytes);
        if self.0 > limits.opened_bytes_max {
            return Err(Problem::OpensTooFar(limits.opened_bytes_max));
        }
        Ok(())
    }
}

/// Turns events into transactions for a [`Sink`].
#[derive(Debug)]
pub struct Decoder {
    file: FileName,
    format: Option<FormatDescription>,
    definitions: Definitions,
    maps: Maps,
    limits: Limits,
    opened: Opened,
    /// What the server's catalogue says of a table's columns, by name; none for a table that could not be looked up.
    facts: HashMap<(String, String), Option<HashMap<String, ColumnFacts>>>,
    /// For tables whose maps do not name columns.
    present: Option<Arc<Present>>,
    /// Events so far inside the transaction payload that was fed last, 0 if the last event was none.
    inner_events: usize,
    transaction: Option<Transaction>,
    query: Option<Arc<str>>,
    end: End,
}

impl Decoder {
    /// For a log that is read from the file called `file`; a live stream names its files itself.
    pub fn new(file: &str) -> Self {
        Self {
            file: FileName::new(file),
            format: None,
            definitions: Definitions::default(),
            maps: Maps::default(),
            limits: Limits::default(),
            opened: Opened::default(),
            facts: HashMap::new(),
            present: None,
            inner_events: 0,
            transaction: None,
            query: None,
            end: End::Open,
        }
    }

    /// What the log's format description says; none before it.
    pub fn format(&self) -> Option<&FormatDescription> {
        self.format.as_ref()
    }

    /// The file being read.
    pub fn file(&self) -> &FileName {
        &self.file
    }

    /// How what was read so far ends.
    pub fn end(&self) -> &End {
        &self.end
    }

    /// Whether a transaction has begun and neither committed nor rolled back.
    pub fn in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// The tables that `event` brings into play and of which nobody has told yet what the log does not say ([`ColumnFacts`]): tell with
    /// [`Decoder::learn`] before feeding the event.
    pub fn asks(&self, event: &Event<'_>) -> Vec<(String, String)> {
        let mut asked = Vec::new();
        let mut ask = |event: &Event<'_>| {
            if event.header.kind == kind::TABLE_MAP
                && let Ok((_, schema, table)) = table_map::names(event.body)
                && !self.facts.contains_key(&(schema.clone(), table.clone()))
            {
                asked.push((schema, table));
            }
        };
        ask(event);
        // What is wrong with a payload is told when it is fed.
        if event.header.kind == kind::TRANSACTION_PAYLOAD
            && let Ok(mut events) = payload::Payload::open(event.body, self.limits)
        {
            while let Ok(Some(inner)) = events.next_event() {
                ask(&inner);
            }
        }
        asked.dedup();
        asked
    }

    /// Tells, by column name, what the server's catalogue says of a table; none if that could not be found out. It holds until the log
    /// changes the table's definition.
    pub fn learn(&mut self, schema: &str, table: &str, facts: Option<HashMap<String, ColumnFacts>>) {
        if self.facts.len() >= DEFINITIONS_MAX {
            self.facts.clear();
        }
        self.facts.insert((schema.to_owned(), table.to_owned()), facts);
        self.definitions
            .retain(|known| known.schema != schema || known.name != table);
    }

    /// Tells what rows mean whose table maps do not name columns; without it they are refused.
    #[must_use]
    pub fn with_present(mut self, present: Option<Arc<Present>>) -> Self {
        self.present = present;
        self
    }

    /// Refuses compressed events that open to more; without it what no server writes.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How many events the transaction payload held that was fed last. A client that unpacks payloads itself hands them over once more.
    pub fn inner_events(&self) -> usize {
        self.inner_events
    }

    /// Takes the next event of the log. `at` is where it begins in its file.
    pub fn feed<S: Sink>(
        &mut self,
        at: u64,
        event: &Event<'_>,
        sink: &mut S,
    ) -> Result<(), FeedError<S::Error>> {
        let end = at.saturating_add(u64::from(event.header.size));
        self.inner_events = 0;
        self.event(at, end, event, sink).map_err(|fail| match fail {
            Fail::Log(problem) => FeedError::Log(Error {
                at: LogPos {
                    file: self.file.clone(),
                    offset: at,
                },
                problem,
            }),
            Fail::Sink(error) => FeedError::Sink(error),
        })
    }

    fn event<S: Sink>(
        &mut self,
        at: u64,
        end: u64,
        event: &Event<'_>,
        sink: &mut S,
    ) -> Result<(), Fail<S::Error>> {
        let body = event.body;
        match event.header.kind {
            kind::FORMAT_DESCRIPTION => self.format_description(at, event, sink),
            kind::ROTATE => self.rotate(event, sink),
            kind::STOP => self.stop(sink),
            kind::PREVIOUS_GTIDS | kind::MARIADB_GTID_LIST => {
                sink.previous(&GtidSet::stated_by(event)?).map_err(Fail::Sink)
            }
            kind::GTID | kind::ANONYMOUS_GTID | kind::GTID_TAGGED => {
                let announced = gtid_event::mysql(event.header.kind, body)?;
                self.announce(at, announced, sink)
            }
            kind::MARIADB_GTID => self.announce(at, gtid_event::mariadb(event.header.server_id, body)?, sink),
            kind::QUERY => self.query(at, end, event.header.timestamp, body, sink),
            kind::MARIADB_QUERY_COMPRESSED => {
                let body = payload::mariadb_query(body, &self.limits)?;
                self.opened.add(body.len() as u64, &self.limits)?;
                self.query(at, end, event.header.timestamp, &body, sink)
            }
            kind::XID => self.commit(end, event.header.timestamp, sink),
            kind::XA_PREPARE => self.xa_prepare(end, event, sink),
            kind::TRANSACTION_PAYLOAD => self.payload(at, end, body, sink),
            kind::TABLE_MAP => self.table_map(at, body),
            kind::ROWS_QUERY => self.annotate(body.get(1..).unwrap_or_default()),
            kind::MARIADB_ANNOTATE_ROWS => self.annotate(body),
            kind::INCIDENT => Err(incident(body)?.into()),
            kind::INTVAR
            | kind::RAND
            | kind::USER_VAR
            | kind::BEGIN_LOAD_QUERY
            | kind::EXECUTE_LOAD_QUERY
            | kind::APPEND_BLOCK
            | kind::DELETE_FILE => Err(Problem::Statement.into()),
            kind::MARIADB_START_ENCRYPTION => Err(Problem::Encrypted.into()),
            kind::PARTIAL_UPDATE_ROWS => Err(unsupported(
                "PARTIAL_UPDATE_ROWS_EVENT",
                "; set binlog_row_value_options='' on the server",
            )
            .into()),
            // Nothing a reader of rows needs: signs of life, group replication's certification, MariaDB's crash recovery.
            kind::HEARTBEAT
            | kind::HEARTBEAT_V2
            | kind::IGNORABLE
            | kind::TRANSACTION_CONTEXT
            | kind::VIEW_CHANGE
            | kind::MARIADB_BINLOG_CHECKPOINT => Ok(()),
            other => match rows_kind(other) {
                Some(rows) => self.rows(rows, body, sink),
                None if event.header.is_ignorable() => Ok(()),
                None => Err(Problem::UnknownEvent(other).into()),
            },
        }
    }

    fn format_description<S: Sink>(
        &mut self,
        at: u64,
        event: &Event<'_>,
        sink: &mut S,
    ) -> Result<(), Fail<S::Error>> {
        self.format = Some(FormatDescription::parse(event.body)?);
        self.maps.clear();
        self.end = End::Open;
        self.abandon(at, sink)
    }

    /// A transaction without an end before a new start of the server was never committed.
    fn abandon<S: Sink>(&mut self, at: u64, sink: &mut S) -> Result<(), Fail<S::Error>> {
        self.query = None;
        match self.transaction.take() {
            Some(open) if open.begun => sink.rollback(&self.at(at)).map_err(Fail::Sink),
            _ => Ok(()),
        }
    }

    fn rotate<S: Sink>(&mut self, event: &Event<'_>, sink: &mut S) -> Result<(), Fail<S::Error>> {
        let mut body = Bytes(event.body);
        let offset = body.u64()?;
        let name = std::str::from_utf8(body.0).map_err(|_| Problem::Event {
            event: "ROTATE",
            what: "the next file's name is not UTF-8".into(),
        })?;
        let next = LogPos::new(name, offset);
        if event.header.is_artificial() {
            self.file = next.file;
            return Ok(());
        }
        if self.transaction.is_some() {
            return Err(Problem::Order("the file ends within a transaction").into());
        }
        self.end = End::Continues(next.clone());
        sink.position(&next).map_err(Fail::Sink)
    }

    fn stop<S: Sink>(&mut self, sink: &mut S) -> Result<(), Fail<S::Error>> {
        if self.transaction.is_some() {
            return Err(Problem::Order("the server stopped within a transaction").into());
        }
        let Some(next) = self.file.successor() else {
            return Ok(());
        };
        let next = LogPos {
            file: next,
            offset: 4,
        };
        self.end = End::Continues(next.clone());
        sink.position(&next).map_err(Fail::Sink)
    }

    fn announce<S: Sink>(
        &mut self,
        at: u64,
        announced: Announced,
        sink: &mut S,
    ) -> Result<(), Fail<S::Error>> {
        if self.transaction.is_some() {
            return Err(Problem::Order("a transaction begins within another one").into());
        }
        self.query = None;
        let begin = Begin {
            at: self.at(at),
            gtid: announced.gtid,
            thread_id: None,
        };
        let begun = announced.begins;
        if begun {
            sink.begin(&begin).map_err(Fail::Sink)?;
        }
        self.transaction = Some(Transaction {
            begin,
            commit_time: announced.commit_time,
            begun,
            single: !begun,
        });
        Ok(())
    }

    /// The transaction the statement at `at` stands in, begun.
    fn begun<S: Sink>(
        &mut self,
        at: u64,
        thread_id: u32,
        single: bool,
        sink: &mut S,
    ) -> Result<&mut Transaction, Fail<S::Error>> {
        let begin = Begin {
            at: self.at(at),
            gtid: None,
            thread_id: None,
        };
        let transaction = self.transaction.get_or_insert(Transaction {
            begin,
            commit_time: None,
            begun: false,
            single,
        });
        if !transaction.begun {
            transaction.begin.thread_id = Some(thread_id);
            transaction.begun = true;
            transaction.single = single;
            sink.begin(&transaction.begin).map_err(Fail::Sink)?;
        }
        Ok(transaction)
    }

    fn query<S: Sink>(
        &mut self,
        at: u64,
        end: u64,
        timestamp: u32,
        body: &[u8],
        sink: &mut S,
    ) -> Result<(), Fail<S::Error>> {
        let query = Query::parse(body)?;
        match query.role() {
            Role::Begin | Role::XaStart => self.begun(at, query.thread_id, false, sink).map(|_| ()),
            Role::Commit => self.commit(end, timestamp, sink),
            Role::Rollback => {
                let end = self.at(end);
                match self.transaction.take() {
                    Some(open) if open.begun => sink.rollback(&end).map_err(Fail::Sink),
                    _ => Ok(()),
                }
            }
            Role::Savepoint | Role::XaEnd => Ok(()),
            Role::RollbackTo => Err(unsupported(
                "ROLLBACK TO SAVEPOINT in the log",
                ": a transaction mixed engines with and without transactions",
            )
            .into()),
            Role::Xa => Err(unsupported("an XA transaction in two phases", "").into()),
            Role::Rows => Err(Problem::Statement.into()),
            Role::Unknown => Err(unsupported("a statement of a kind that is not known", "").into()),
            Role::Definition => self.definition(at, end, timestamp, &query, sink),
        }
    }

    fn definition<S: Sink>(
        &mut self,
        at: u64,
        end: u64,
        timestamp: u32,
        query: &Query<'_>,
        sink: &mut S,
    ) -> Result<(), Fail<S::Error>> {
        let targets = query.targets();
        for target in &targets {
            self.forget(target);
        }
        let single = self.begun(at, query.thread_id, true, sink)?.single;
        sink.ddl(&Ddl {
            targets,
            default_schema: &query.schema,
            text: &query.text,
        })
        .map_err(Fail::Sink)?;
        if single {
            self.commit(end, timestamp, sink)
        } else {
            Ok(())
        }
    }

    /// What was learned about a table no longer holds.
    fn forget(&mut self, target: &DdlTarget) {
        // Whether case counts depends on the server (lower_case_table_names); forgetting too much only costs a question.
        let is = |schema: &str, table: &str| {
            schema.eq_ignore_ascii_case(&target.schema)
                && target
                    .table
                    .as_deref()
                    .is_none_or(|name| name.eq_ignore_ascii_case(table))
        };
        self.facts.retain(|(schema, table), _| !is(schema, table));
        self.definitions.retain(|known| !is(&known.schema, &known.name));
    }

    fn commit<S: Sink>(&mut self, end: u64, timestamp: u32, sink: &mut S) -> Result<(), Fail<S::Error>> {
        self.query = None;
        let Some(open) = self.transaction.take() else {
            return Err(Problem::Order("a commit without a transaction").into());
        };
        if !open.begun {
            sink.begin(&open.begin).map_err(Fail::Sink)?;
        }
        let time = open
            .commit_time
            .unwrap_or_else(|| Micros::from_secs(i64::from(timestamp)));
        sink.commit(&Commit {
            end: self.at(end),
            time,
        })
        .map_err(Fail::Sink)
    }

    fn xa_prepare<S: Sink>(
        &mut self,
        end: u64,
        event: &Event<'_>,
        sink: &mut S,
    ) -> Result<(), Fail<S::Error>> {
        match event.body.first() {
            Some(1) => self.commit(end, event.header.timestamp, sink),
            _ => Err(unsupported("an XA transaction in two phases", "").into()),
        }
    }

    /// Events inside a payload have no place of their own: they stand where the payload stands.
    fn payload<S: Sink>(
        &mut self,
        at: u64,
        end: u64,
        body: &[u8],
        sink: &mut S,
    ) -> Result<(), Fail<S::Error>> {
        let mut events = payload::Payload::open(body, self.limits)?;
        while let Some(event) = events.next_event()? {
            if event.header.kind == kind::TRANSACTION_PAYLOAD {
                return Err(Problem::Order("a transaction payload within another one").into());
            }
            self.inner_events += 1;
            self.opened.add(u64::from(event.header.size), &self.limits)?;
            self.event(at, end, &event, sink)?;
        }
        Ok(())
    }

    fn annotate<E>(&mut self, text: &[u8]) -> Result<(), Fail<E>> {
        self.query = Some(String::from_utf8_lossy(text).into());
        Ok(())
    }

    /// A table map is an error only when rows refer to it: servers also write maps of tables they merely looked at.
    fn table_map<E>(&mut self, at: u64, body: &[u8]) -> Result<(), Fail<E>> {
        let (id, schema, name) = table_map::names(body)?;
        let definition = body.get(6..).unwrap_or_default();
        let table = match self.definitions.get(definition) {
            Some(known) => Ok(known.clone()),
            None => table_map::parse(body, self.is_mariadb(), |schema, name| match &self.present {
                Some(present) => present.of(schema, name, &(self.at(at), self.inner_events)),
                None => Err(Problem::NoNames {
                    table: format!("{schema}.{name}"),
                }),
            })
            .map(|mut table| {
                if let Some(Some(facts)) = self.facts.get(&(schema, name)) {
                    for column in &mut table.columns {
                        let known = facts.get(&column.name);
                        // What MariaDB hides even its catalogue does not list.
                        column.generated = known.map(|facts| facts.generated).or(column.generated);
                        column.on_update = known.map(|facts| facts.on_update);
                    }
                }
                self.definitions.keep(definition, table)
            }),
        };
        Ok(self.maps.put(id, table)?)
    }

    /// Body: table id, flags, (version 2) extra data, column count, columns present (twice for an update), rows.
    fn rows<S: Sink>(&mut self, kind: RowsKind, body: &[u8], sink: &mut S) -> Result<(), Fail<S::Error>> {
        let mut bytes = Bytes(body);
        let id = bytes.uint(6)?;
        let flags = bytes.u16()?;
        if kind.extra {
            let length = usize::from(bytes.u16()?);
            bytes.take(length.checked_sub(2).ok_or(Problem::Short)?)?;
        }
        if id != NO_TABLE {
            self.row_changes(kind, id, flags, bytes, sink)?;
        }
        if flags & STATEMENT_END != 0 {
            self.maps.clear();
            self.query = None;
        }
        Ok(())
    }

    fn row_changes<S: Sink>(
        &mut self,
        kind: RowsKind,
        id: u64,
        flags: u16,
        mut bytes: Bytes<'_>,
        sink: &mut S,
    ) -> Result<(), Fail<S::Error>> {
        if !self.transaction.as_ref().is_some_and(|open| open.begun) {
            return Err(Problem::Order("rows outside a transaction").into());
        }
        let table = match self.maps.get(id) {
            Some(Ok(known)) => &known.table,
            Some(Err(problem)) => return Err(problem.clone().into()),
            None => return Err(Problem::Order("rows of a table without its map").into()),
        };
        let columns = bytes.lenenc_len()?;
        if columns != table.columns.len() {
            return Err(Problem::Row(format!(
                "it has {columns} columns, its table map {}",
                table.columns.len()
            ))
            .into());
        }
        let first = bytes.take(columns.div_ceil(8))?;
        let second = if kind.op == Op::Update {
            bytes.take(columns.div_ceil(8))?
        } else {
            first
        };
        if held(first, columns) == 0 {
            return Err(unsupported(
                "a row image without a single column (binlog_row_image=MINIMAL and a row of defaults)",
                "; set binlog_row_image=FULL on the server",
            )
            .into());
        }
        let mut unpacked = Vec::new();
        if kind.compressed {
            let length = payload::mariadb_unpack(bytes.0, &self.limits, &mut unpacked)?;
            self.opened.add(length, &self.limits)?;
        }
        let mut bytes = if kind.compressed { Bytes(&unpacked) } else { bytes };
        while !bytes.is_empty() {
            let image = Image::take(&mut bytes, table, first)?;
            let (before, after) = match kind.op {
                Op::Insert => (None, Some(image)),
                Op::Delete => (Some(image), None),
                Op::Update => (Some(image), Some(Image::take(&mut bytes, table, second)?)),
            };
            let row = RowChange {
                op: kind.op,
                table,
                before,
                after,
                query: self.query.as_ref(),
                flags,
            };
            sink.row(&row).map_err(Fail::Sink)?;
        }
        Ok(())
    }

    fn is_mariadb(&self) -> bool {
        self.format.as_ref().is_some_and(FormatDescription::is_mariadb)
    }

    fn at(&self, offset: u64) -> LogPos {
        LogPos {
            file: self.file.clone(),
            offset,
        }
    }
}

fn rows_kind(kind: u8) -> Option<RowsKind> {
    let rows = |op, extra, compressed| {
        Some(RowsKind {
            op,
            extra,
            compressed,
        })
    };
    match kind {
        kind::WRITE_ROWS_V1 => rows(Op::Insert, false, false),
        kind::UPDATE_ROWS_V1 => rows(Op::Update, false, false),
        kind::DELETE_ROWS_V1 => rows(Op::Delete, false, false),
        kind::WRITE_ROWS => rows(Op::Insert, true, false),
        kind::UPDATE_ROWS => rows(Op::Update, true, false),
        kind::DELETE_ROWS => rows(Op::Delete, true, false),
        kind::MARIADB_WRITE_ROWS_COMPRESSED_V1 => rows(Op::Insert, false, true),
        kind::MARIADB_UPDATE_ROWS_COMPRESSED_V1 => rows(Op::Update, false, true),
        kind::MARIADB_DELETE_ROWS_COMPRESSED_V1 => rows(Op::Delete, false, true),
        kind::MARIADB_WRITE_ROWS_COMPRESSED => rows(Op::Insert, true, true),
        kind::MARIADB_UPDATE_ROWS_COMPRESSED => rows(Op::Update, true, true),
        kind::MARIADB_DELETE_ROWS_COMPRESSED => rows(Op::Delete, true, true),
        _ => None,
    }
}

fn unsupported(event: &'static str, remedy: &'static str) -> Problem {
    Problem::Unsupported { event, remedy }
}

/// Body: number u16, message length u8, message.
fn incident(body: &[u8]) -> Result<Problem, Problem> {
    let mut bytes = Bytes(body);
    let number = bytes.u16()?;
    let length = usize::from(bytes.u8().unwrap_or_default());
    let message = String::from_utf8_lossy(bytes.take(length).unwrap_or_default()).into_owned();
    let message = if message.is_empty() {
        message
    } else {
        format!(": {message}")
    };
    Ok(Problem::Incident { number, message })
}
