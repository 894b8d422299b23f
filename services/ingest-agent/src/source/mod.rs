//! Live replication: follow a server's log into the store.
//!
//! One loop of sessions. A session connects, checks that the log can be followed ([`connect::Facts::check`]), decides where to begin
//! ([`plan`]), and then feeds every event to the decoder and what that finds to the store, which writes position and data together.
//! A session ends when a person wants it, when everything asked for has come, or by a [`fault::Fault`]: what passes is waited out with
//! growing, random pauses; a log that was purged becomes a gap in the store's coverage with the server's own words; what needs a person
//! ends the program with the remedy.
//!
//! While events keep coming, commits are made durable every [`SYNC`]; when none is waiting, at once.

mod backoff;
mod catalogue;
mod connect;
mod fault;
mod identity;
mod intake;
mod plan;
mod probe;
pub mod sql;
mod stream;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use binlog::{ColumnFacts, Decoder, FeedError, GtidSet, LogPos, event::kind};
use mysql_async::Conn;
use tokio::sync::watch;
use trail::{Resume, Source, Writer};
use types::{Code, Fault as _};

use self::{
    backoff::Backoff,
    connect::{Connector, Facts},
    fault::Fault,
    identity::Identity,
    intake::Intake,
    plan::State,
    stream::{Events, Request},
};
pub use self::{
    catalogue::{Catalogue, definitions},
    probe::{Probe, behind},
};
use crate::{
    error::Error,
    options::{Start, Watch},
};

/// Longest time a commit stays in memory while events keep coming.
const SYNC: Duration = Duration::from_millis(200);
/// A server that seems to have been set back is asked so often, at this distance, before that is believed.
const DOUBTS: u32 = 10;
const DOUBT: Duration = Duration::from_secs(1);
/// Longest time that events wait for what the server's catalogue says of a table.
const LOOKUP: Duration = Duration::from_secs(10);
/// How long the catalogue is not asked again after it could not be.
const LOOKUP_PAUSE: Duration = Duration::from_secs(30);

/// What a person should know while a server is followed.
#[derive(Debug)]
pub enum Notice<'a> {
    /// Reading has begun.
    Following {
        /// What.
        source: &'a Source,
        /// From where.
        from: &'a LogPos,
    },
    /// Works, but less well than it could.
    Warning(&'a str),
    /// What came is on disk, up to here; between two transactions.
    Stored {
        /// Up to where.
        at: &'a LogPos,
        /// When the last event was written there, in seconds since 1970; 0 if that is not known.
        written: u32,
    },
    /// The store now has a gap.
    Gap(&'a str),
    /// The connection was lost and will be tried again.
    Waiting {
        /// Why.
        why: &'a Error,
        /// For how long.
        pause: Duration,
    },
}

/// Follows a server until `stop` becomes true, or until everything it had is stored if that was asked for.
pub async fn watch(
    watch: &Watch,
    notify: &mut (dyn FnMut(Notice<'_>) + Send + Sync),
    stop: watch::Receiver<bool>,
) -> Result<(), Error> {
    let writer = open(watch)?;
    if let Some(recovered) = writer.recovered() {
        notify(Notice::Warning(&recovered.to_string()));
    }
    let identity = Identity::derive(&watch.store, watch.server_id);
    let mut follower = Follower {
        watch,
        connector: Connector::new(&watch.server)?,
        identity,
        writer: Some(writer),
        notify,
        stop,
        purged: None,
        following: false,
        advanced: false,
        catalogue: None,
        catalogue_failed: None,
    };
    let outcome = follower.run().await;
    let finished = follower.writer.take().map_or(Ok(()), |writer| {
        writer.finish().map_err(|error| store_error(watch, &error))
    });
    outcome.and(finished)
}

fn open(watch: &Watch) -> Result<Writer, Error> {
    Writer::open(&watch.store, watch.sizes).map_err(|error| store_error(watch, &error))
}

fn store_error(watch: &Watch, error: &trail::Error) -> Error {
    Error::from_fault(watch.store.display(), error)
}

struct Follower<'a> {
    watch: &'a Watch,
    connector: Connector,
    identity: Identity,
    /// None only while the disk is full.
    writer: Option<Writer>,
    notify: &'a mut (dyn FnMut(Notice<'_>) + Send + Sync),
    stop: watch::Receiver<bool>,
    /// What the server said when it could not serve the place the store ends at.
    purged: Option<String>,
    /// A session has begun to read: from now on a lost connection is waited for.
    following: bool,
    /// The present session has committed something to the store.
    advanced: bool,
    /// A second connection, for questions about tables while the first one streams.
    catalogue: Option<Conn>,
    /// When the catalogue could not be asked.
    catalogue_failed: Option<Instant>,
}

/// What a session finds when it connects.
struct Found {
    facts: Facts,
    state: State,
    warnings: Vec<String>,
}

impl Follower<'_> {
    async fn run(&mut self) -> Result<(), Error> {
        let mut backoff = Backoff::default();
        loop {
            self.advanced = false;
            let Err(fault) = self.session().await else {
                return Ok(());
            };
            if self.advanced {
                backoff.reset();
            }
            let error = match fault {
                Fault::Transient(error) if self.following => error,
                Fault::Purged(why) if self.resume().is_some() => {
                    let error = Error::new(Code::Unavailable, &self.connector.what, &why);
                    self.purged = Some(why);
                    error
                }
                other => return Err(other.into_error(&self.connector.what)),
            };
            let pause = backoff.next();
            (self.notify)(Notice::Waiting { why: &error, pause });
            if self.stopped_within(pause).await {
                return Ok(());
            }
        }
    }

    /// Waits; true if the end is wanted.
    async fn stopped_within(&mut self, pause: Duration) -> bool {
        tokio::time::timeout(pause, self.stop.wait_for(|stop| *stop))
            .await
            .is_ok()
    }

    /// Connects, and reads until there is a reason to end.
    async fn session(&mut self) -> Result<(), Fault> {
        if self.writer.is_none() {
            self.writer = Some(open(self.watch).map_err(Fault::Transient)?);
        }
        let mut conn = self.connector.connect().await?;
        let Some(found) = self.look(&mut conn).await? else {
            return Ok(());
        };
        let Found {
            facts,
            mut state,
            warnings,
        } = found;
        let target = self.watch.until_caught_up.then(|| state.end.clone());
        let resume = self.resume();
        // What our own earlier session stored contradicts no start.
        let wanted = self
            .watch
            .start
            .as_ref()
            .filter(|_| !self.following || resume.is_none());
        if let (None, Some(Start::After(gtids))) = (&resume, wanted) {
            plan::check_gtids(&state, gtids).map_err(Fault::Permanent)?;
            let Some(located) = self.locate(conn, &facts, &state, gtids).await? else {
                return Ok(());
            };
            state.located = Some(located);
            conn = self.connector.connect().await?;
        }
        let purged = self.purged.take();
        let begin = plan::plan(&self.connector.what, state, resume, wanted, purged.as_deref())?;
        let (source, at) = (begin.source.clone(), begin.at.clone());
        self.begin(begin)?;
        self.warn(&warnings);
        if target.as_ref().is_some_and(|target| at >= *target) {
            return Ok(());
        }
        let request = Request::From(&at);
        let mut events = Events::open(
            &self.connector,
            conn,
            &self.identity,
            &request,
            facts.is_mariadb(),
        )
        .await?;
        (self.notify)(Notice::Following {
            source: &source,
            from: &at,
        });
        self.following = true;
        let outcome = self.follow(&mut events, target).await;
        events.close().await;
        outcome
    }

    fn resume(&self) -> Option<Resume> {
        self.writer.as_ref().and_then(Writer::resume)
    }

    /// Asks the server what it is and where it stands, again and again for a while if the answer seems to contradict the store; none if
    /// the end is wanted.
    async fn look(&mut self, conn: &mut Conn) -> Result<Option<Found>, Fault> {
        let resume = self.resume();
        let mut doubts = 0;
        loop {
            let found = self.ask(conn, resume.as_ref()).await?;
            let doubtful = resume
                .as_ref()
                .is_some_and(|resume| plan::is_doubtful(&found.state, resume));
            if !doubtful || doubts == DOUBTS {
                return Ok(Some(found));
            }
            doubts += 1;
            if self.stopped_within(DOUBT).await {
                return Ok(None);
            }
        }
    }

    async fn ask(&self, conn: &mut Conn, resume: Option<&Resume>) -> Result<Found, Fault> {
        let connector = &self.connector;
        let facts = Facts::ask(connector, conn).await?;
        let mut warnings = facts.check(&connector.what).map_err(Fault::Permanent)?;
        if self.identity.server_id == facts.server_id() {
            let error = Error::new(
                Code::Refused,
                "--server-id",
                format!("{} is the server's own id", facts.server_id()),
            );
            return Err(Fault::Permanent(error.hint("choose another one")));
        }
        let (end, left_out) = connect::log_end(connector, conn, &facts).await?;
        warnings.extend(left_out);
        let (mut executed, mut before_resume) = (facts.executed(), None);
        if facts.is_mariadb() {
            // Asked for before the end was, the variable may lack what came in between.
            if let Some(before) = connect::gtids_before(connector, conn, &end).await? {
                executed = before;
            }
            if let Some(resume) = resume {
                before_resume = connect::gtids_before(connector, conn, &resume.at).await?;
            }
        }
        let state = State {
            source: facts.source(&connector.what),
            executed,
            has_gtids: facts.has_gtids(),
            end,
            logs: connect::logs(connector, conn).await?,
            before_resume,
            located: None,
        };
        Ok(Found {
            facts,
            state,
            warnings,
        })
    }

    /// The place that a set of transactions stands for: where the first one stands that is not in it. Everything from there on is read,
    /// also what the set holds of it, because coverage is told by place. None if the end is wanted.
    async fn locate(
        &mut self,
        conn: Conn,
        facts: &Facts,
        state: &State,
        after: &GtidSet,
    ) -> Result<Option<(LogPos, GtidSet)>, Fault> {
        let mariadb = facts.is_mariadb();
        let (connector, identity) = (&self.connector, &self.identity);
        let search = async {
            let events = Events::open(connector, conn, identity, &Request::Without(after), mariadb).await?;
            let at = events.first(connector, &state.end).await?;
            if !mariadb {
                return Ok((at, after.clone()));
            }
            let mut conn = connector.connect().await?;
            let before = connect::gtids_before(connector, &mut conn, &at).await?;
            Ok((at, before.unwrap_or_default()))
        };
        tokio::select! {
            located = search => located.map(Some),
            _ = self.stop.wait_for(|stop| *stop) => Ok(None),
        }
    }

    /// Warns once, not with each new session.
    fn warn(&mut self, warnings: &[String]) {
        if !self.following {
            warnings
                .iter()
                .for_each(|warning| (self.notify)(Notice::Warning(warning)));
        }
    }

    /// Tells the store where reading begins, and has that on disk before anything is read: a start is not told twice.
    fn begin(&mut self, begin: trail::Start) -> Result<(), Fault> {
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };
        let reason = begin.reason.clone();
        let started = tokio::task::block_in_place(|| {
            writer.start(begin)?;
            writer.sync()
        });
        started.map_err(|error| self.store_fault(&error))?;
        if let Some(reason) = &reason {
            (self.notify)(Notice::Gap(reason));
        }
        Ok(())
    }

    async fn follow(&mut self, events: &mut Events, target: Option<LogPos>) -> Result<(), Fault> {
        let mut decoder = Decoder::new("");
        let mut synced = Instant::now();
        loop {
            if *self.stop.borrow() {
                return self.sync();
            }
            let ready = synced.elapsed() < SYNC && events.advance(&self.connector, true).await?;
            if !ready {
                self.sync()?;
                self.tell_stored(events, &decoder);
                synced = Instant::now();
                if !self.next(events).await? {
                    return self.sync();
                }
            }
            self.take(events, &mut decoder).await?;
            let end = events.end(decoder.file());
            if !decoder.in_transaction() && target.as_ref().is_some_and(|target| end >= *target) {
                return self.sync();
            }
        }
    }

    /// Tells up to where everything is stored.
    fn tell_stored(&mut self, events: &Events, decoder: &Decoder) {
        let at = events.end(decoder.file());
        if !decoder.in_transaction() && !at.file.as_str().is_empty() {
            let written = events.written();
            (self.notify)(Notice::Stored { at: &at, written });
        }
    }

    /// Waits for the next event; false if the end is wanted.
    async fn next(&mut self, events: &mut Events) -> Result<bool, Fault> {
        tokio::select! {
            event = events.advance(&self.connector, false) => event,
            // A sender that is gone means the same.
            _ = self.stop.wait_for(|stop| *stop) => Ok(false),
        }
    }

    /// Feeds the event at hand to the store.
    async fn take(&mut self, events: &mut Events, decoder: &mut Decoder) -> Result<(), Fault> {
        let what = self.connector.what.clone();
        let broken =
            |at: LogPos, problem| Fault::Permanent(Error::from_fault(&what, &binlog::Error { at, problem }));
        let header = events
            .place()
            .map_err(|problem| broken(events.end(decoder.file()), problem))?;
        // MariaDB decrypts what it sends, but sends the head of the encrypted file too.
        if header.kind == kind::MARIADB_START_ENCRYPTION {
            return Ok(());
        }
        let end = events.end(decoder.file());
        let (at, event) = events.current().map_err(|problem| broken(end, problem))?;
        for (schema, table) in decoder.asks(&event) {
            if let Some(facts) = self.columns(&schema, &table).await {
                decoder.learn(&schema, &table, facts);
            }
        }
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };
        let advanced = &mut self.advanced;
        let fed = decoder.feed(at, &event, &mut Intake { writer, advanced });
        if event.header.kind == kind::TRANSACTION_PAYLOAD {
            events.skip(decoder.inner_events());
        }
        fed.map_err(|error| match error {
            FeedError::Log(error) => Fault::Permanent(Error::from_fault(&what, &error)),
            FeedError::Sink(error) => self.store_fault(&error),
        })
    }

    /// What the log does not say of a table's columns; none if the server could not be asked, which spoils nothing that is stored: it is
    /// asked again later.
    async fn columns(&mut self, schema: &str, table: &str) -> Option<Option<HashMap<String, ColumnFacts>>> {
        if self
            .catalogue_failed
            .is_some_and(|at| at.elapsed() < LOOKUP_PAUSE)
        {
            return None;
        }
        let known = self.catalogue.take();
        let lookup = tokio::time::timeout(LOOKUP, lookup(&self.connector, known, schema, table));
        let answer = tokio::select! {
            answer = lookup => answer,
            _ = self.stop.wait_for(|stop| *stop) => return None,
        };
        let why = match answer {
            Ok(Ok((conn, facts))) => {
                self.catalogue = Some(conn);
                self.catalogue_failed = None;
                return Some(facts);
            }
            Ok(Err(fault)) => format!("{:?}", fault.into_error(&self.connector.what)),
            Err(_) => format!("no answer within {} s", LOOKUP.as_secs()),
        };
        self.catalogue_failed = Some(Instant::now());
        tracing::warn!(
            schema,
            table,
            why,
            "what the server computes could not be looked up"
        );
        None
    }

    fn sync(&mut self) -> Result<(), Fault> {
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };
        match tokio::task::block_in_place(|| writer.sync()) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.store_fault(&error)),
        }
    }

    /// A full disk is waited for with the store closed; any other failure of the store ends the program.
    fn store_fault(&mut self, error: &trail::Error) -> Fault {
        let told = store_error(self.watch, error);
        if error.code() == Code::Exhausted {
            self.writer = None;
            Fault::Transient(told)
        } else {
            Fault::Permanent(told)
        }
    }
}

/// Asks by the connection at hand; if that died while nobody used it, or there is none, by a new one.
async fn lookup(
    connector: &Connector,
    known: Option<Conn>,
    schema: &str,
    table: &str,
) -> Result<(Conn, Option<HashMap<String, ColumnFacts>>), Fault> {
    if let Some(mut conn) = known {
        let asked = connect::columns(connector, &mut conn, schema, table);
        if let Ok(Ok(facts)) = tokio::time::timeout(LOOKUP / 3, asked).await {
            return Ok((conn, facts));
        }
    }
    let mut conn = connector.connect().await?;
    let facts = connect::columns(connector, &mut conn, schema, table).await?;
    Ok((conn, facts))
}
