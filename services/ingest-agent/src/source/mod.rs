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
mod connect;
mod fault;
mod identity;
mod intake;
mod plan;
pub mod sql;
mod stream;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use binlog::{ColumnFacts, Decoder, FeedError, LogPos, event::kind};
use mysql_async::Conn;
use tokio::sync::watch;
use trail::{Options, Source, Writer};
use types::{Code, Fault as _};

use self::{
    backoff::Backoff,
    connect::{Connector, Facts},
    fault::Fault,
    identity::Identity,
    intake::Intake,
    plan::{From, State},
    stream::Events,
};
use crate::{error::Error, options::Watch};

/// Longest time a commit stays in memory while events keep coming.
const SYNC: Duration = Duration::from_millis(200);

/// What a person should know while a server is followed.
#[derive(Debug)]
pub enum Notice<'a> {
    /// Reading has begun.
    Following {
        /// What.
        source: &'a Source,
        /// From where; none when the server was asked by GTID.
        from: Option<&'a LogPos>,
    },
    /// Works, but less well than it could.
    Warning(&'a str),
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
    notify: &mut dyn FnMut(Notice<'_>),
    stop: watch::Receiver<bool>,
) -> Result<(), Error> {
    let writer = open(watch)?;
    if let Some(recovered) = writer.recovered() {
        notify(Notice::Warning(&recovered.to_string()));
    }
    let identity = Identity::derive(&watch.store, watch.server_id);
    let mut follower = Follower {
        watch,
        connector: Connector::new(watch)?,
        identity,
        writer: Some(writer),
        notify,
        stop,
        purged: None,
        following: false,
        advanced: false,
        catalogue: None,
    };
    let outcome = follower.run().await;
    let finished = follower.writer.take().map_or(Ok(()), |writer| {
        writer.finish().map_err(|error| store_error(watch, &error))
    });
    outcome.and(finished)
}

fn open(watch: &Watch) -> Result<Writer, Error> {
    Writer::open(&watch.store, Options::default()).map_err(|error| store_error(watch, &error))
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
    notify: &'a mut dyn FnMut(Notice<'_>),
    stop: watch::Receiver<bool>,
    /// What the server said when it could not serve the place the store ends at.
    purged: Option<String>,
    /// A session has begun to read: from now on a lost connection is waited for.
    following: bool,
    /// The present session has stored something.
    advanced: bool,
    /// A second connection, for questions about tables while the first one streams.
    catalogue: Option<Conn>,
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
                Fault::Purged(why) if self.purged.is_none() && self.watch.start.is_none() => {
                    self.purged = Some(why);
                    continue;
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
        let facts = Facts::ask(&self.connector, &mut conn).await?;
        let warnings = facts.check(&self.connector.what).map_err(Fault::Permanent)?;
        if self.identity.server_id == facts.server_id() {
            let error = Error::new(
                Code::Refused,
                "--server-id",
                format!("{} is the server's own id", facts.server_id()),
            );
            return Err(Fault::Permanent(error.hint("choose another one")));
        }
        let state = State {
            source: facts.source(&self.connector.what),
            executed: facts.executed(),
            has_gtids: facts.has_gtids(),
            end: connect::log_end(&self.connector, &mut conn, &facts).await?,
            logs: connect::logs(&self.connector, &mut conn).await?,
        };
        let target = self.watch.until_caught_up.then(|| state.end.clone());
        let resume = self.writer.as_ref().and_then(Writer::resume);
        let plan = plan::plan(
            &self.connector.what,
            state,
            resume,
            self.watch.start.as_ref().filter(|_| !self.following),
            self.purged.as_deref(),
        )
        .map_err(Fault::Permanent)?;
        if let Some(reason) = &plan.begin.reason {
            (self.notify)(Notice::Gap(reason));
        }
        let begin = self.begin(&plan.from, plan.begin)?;
        if self.reached(&plan.from, target.as_ref()) {
            return Ok(());
        }
        let mut events = Events::open(
            &self.connector,
            conn,
            &self.identity,
            &plan.from,
            facts.is_mariadb(),
        )
        .await?;
        self.announce(&warnings, &facts.source(&self.connector.what), &plan.from);
        self.purged = None;
        let outcome = self.follow(&mut events, begin, target).await;
        events.close().await;
        outcome
    }

    fn announce(&mut self, warnings: &[String], source: &Source, from: &From) {
        if !self.following {
            warnings
                .iter()
                .for_each(|warning| (self.notify)(Notice::Warning(warning)));
        }
        let from = match from {
            From::Place(at) => Some(at),
            From::After(_) => None,
        };
        (self.notify)(Notice::Following { source, from });
        self.following = true;
    }

    /// Tells the store where reading begins, now if it is known, else with the first transaction.
    fn begin(&mut self, from: &From, begin: trail::Start) -> Result<Option<trail::Start>, Fault> {
        match (from, &mut self.writer) {
            (From::Place(_), Some(writer)) => writer
                .start(begin)
                .map(|()| None)
                .map_err(|error| self.store_fault(&error)),
            _ => Ok(Some(begin)),
        }
    }

    fn reached(&self, from: &From, target: Option<&LogPos>) -> bool {
        matches!((from, target), (From::Place(at), Some(target)) if at >= target)
    }

    async fn follow(
        &mut self,
        events: &mut Events,
        mut begin: Option<trail::Start>,
        target: Option<LogPos>,
    ) -> Result<(), Fault> {
        let mut decoder = Decoder::new("");
        let mut synced = Instant::now();
        loop {
            if *self.stop.borrow() {
                return self.sync();
            }
            let ready = synced.elapsed() < SYNC && events.advance(&self.connector, true).await?;
            if !ready {
                self.sync()?;
                synced = Instant::now();
                if !self.next(events).await? {
                    return self.sync();
                }
            }
            self.take(events, &mut decoder, &mut begin).await?;
            self.advanced = true;
            let end = events.end(decoder.file());
            if !decoder.in_transaction() && target.as_ref().is_some_and(|target| end >= *target) {
                return self.sync();
            }
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
    async fn take(
        &mut self,
        events: &mut Events,
        decoder: &mut Decoder,
        begin: &mut Option<trail::Start>,
    ) -> Result<(), Fault> {
        let what = self.connector.what.clone();
        let broken =
            |at: LogPos, problem| Fault::Permanent(Error::from_fault(&what, &binlog::Error { at, problem }));
        events
            .place()
            .map_err(|problem| broken(events.end(decoder.file()), problem))?;
        let end = events.end(decoder.file());
        let (at, event) = events.current().map_err(|problem| broken(end, problem))?;
        for (schema, table) in decoder.asks(&event) {
            let facts = self.columns(&schema, &table).await;
            decoder.learn(&schema, &table, facts);
        }
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };
        let fed = decoder.feed(at, &event, &mut Intake { writer, begin });
        if event.header.kind == kind::TRANSACTION_PAYLOAD {
            events.skip(decoder.inner_events());
        }
        fed.map_err(|error| match error {
            FeedError::Log(error) => Fault::Permanent(Error::from_fault(&what, &error)),
            FeedError::Sink(error) => self.store_fault(&error),
        })
    }

    /// What the log does not say of a table's columns. Not knowing it spoils nothing that is stored, so a failure is a warning.
    async fn columns(&mut self, schema: &str, table: &str) -> Option<HashMap<String, ColumnFacts>> {
        if self.catalogue.is_none() {
            self.catalogue = self.connector.connect().await.ok();
        }
        let conn = self.catalogue.as_mut()?;
        match connect::columns(&self.connector, conn, schema, table).await {
            Ok(known) => known,
            Err(fault) => {
                self.catalogue = None;
                let error = fault.into_error(&self.connector.what);
                tracing::warn!(
                    schema,
                    table,
                    ?error,
                    "what the server computes could not be looked up"
                );
                None
            }
        }
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
