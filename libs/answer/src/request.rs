//! A request becomes the reading that answers it.

use std::{pin::Pin, sync::Arc, time::Instant};

use bytes::Bytes;
use futures_util::Stream;
use prost::Message;
use proto::{agent::v1 as pb, change::v1 as change_pb};
use trail::Order;

use crate::{
    budget::Budget,
    error::Error,
    filter,
    plan::{self, Planning},
    pump::{self, Call},
    question::Question,
    reports,
    rows::{self, Rows},
    store::Store,
    watch::Watching,
};

/// The methods of AgentService that are about one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// `ChangesRequest`, a stream of `ChangesResponse`.
    Changes,
    /// `CountRequest`, one `CountResponse`.
    Count,
    /// `HistoryRequest`, a stream of `HistoryResponse`.
    History,
    /// `TransactionRequest`, a stream of `TransactionResponse`.
    Transaction,
    /// `TablesRequest`, one `TablesResponse`.
    Tables,
    /// `SchemaChangesRequest`, one `SchemaChangesResponse`.
    SchemaChanges,
    /// `PlanUndoRequest`, a stream of `PlanUndoResponse`.
    PlanUndo,
    /// `WatchUndoRequest`, a stream of `WatchUndoResponse`.
    WatchUndo,
    /// `CoverageRequest`, one `CoverageResponse`.
    Coverage,
    /// `StatusRequest`, one `StatusResponse`.
    Status,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 10] = [
        Self::Changes,
        Self::Count,
        Self::History,
        Self::Transaction,
        Self::Tables,
        Self::SchemaChanges,
        Self::PlanUndo,
        Self::WatchUndo,
        Self::Coverage,
        Self::Status,
    ];

    /// Its full path, as a delegation names it.
    pub fn path(self) -> &'static str {
        match self {
            Self::Changes => "/trailmesh.agent.v1.AgentService/Changes",
            Self::Count => "/trailmesh.agent.v1.AgentService/Count",
            Self::History => "/trailmesh.agent.v1.AgentService/History",
            Self::Transaction => "/trailmesh.agent.v1.AgentService/Transaction",
            Self::Tables => "/trailmesh.agent.v1.AgentService/Tables",
            Self::SchemaChanges => "/trailmesh.agent.v1.AgentService/SchemaChanges",
            Self::PlanUndo => "/trailmesh.agent.v1.AgentService/PlanUndo",
            Self::WatchUndo => "/trailmesh.agent.v1.AgentService/WatchUndo",
            Self::Coverage => "/trailmesh.agent.v1.AgentService/Coverage",
            Self::Status => "/trailmesh.agent.v1.AgentService/Status",
        }
    }

    /// Its name in the service.
    pub fn name(self) -> &'static str {
        self.path().rsplit('/').next().unwrap_or_default()
    }

    /// The one with this path.
    pub fn from_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.path() == path)
    }

    /// The one with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }

    /// Whether its answer may have several messages.
    pub fn streams(self) -> bool {
        matches!(
            self,
            Self::Changes | Self::History | Self::Transaction | Self::PlanUndo | Self::WatchUndo
        )
    }

    /// Whether it may read much, and so takes a place.
    fn reads(self) -> bool {
        !matches!(self, Self::Coverage | Self::Status)
    }
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Request {
    method: Method,
    asked: Asked,
}

#[derive(Clone, Debug)]
enum Asked {
    Changes(pb::ChangesRequest),
    Count(pb::CountRequest),
    History(pb::HistoryRequest),
    Transaction(pb::TransactionRequest),
    Tables(pb::TablesRequest),
    SchemaChanges(pb::SchemaChangesRequest),
    PlanUndo(pb::PlanUndoRequest),
    WatchUndo(pb::WatchUndoRequest),
    Coverage(pb::CoverageRequest),
    Status(pb::StatusRequest),
}

impl Request {
    /// Reads the message of a request.
    ///
    /// # Errors
    /// When it is none of `method`.
    pub fn read(method: Method, message: &[u8]) -> Result<Self, Error> {
        let asked = match method {
            Method::Changes => decode(message).map(Asked::Changes),
            Method::Count => decode(message).map(Asked::Count),
            Method::History => decode(message).map(Asked::History),
            Method::Transaction => decode(message).map(Asked::Transaction),
            Method::Tables => decode(message).map(Asked::Tables),
            Method::SchemaChanges => decode(message).map(Asked::SchemaChanges),
            Method::PlanUndo => decode(message).map(Asked::PlanUndo),
            Method::WatchUndo => decode(message).map(Asked::WatchUndo),
            Method::Coverage => decode(message).map(Asked::Coverage),
            Method::Status => decode(message).map(Asked::Status),
        };
        Ok(Self {
            method,
            asked: asked?,
        })
    }

    /// The server that it is about, as it was written.
    pub fn server_id(&self) -> &str {
        match &self.asked {
            Asked::Changes(request) => &request.server_id,
            Asked::Count(request) => &request.server_id,
            Asked::History(request) => &request.server_id,
            Asked::Transaction(request) => &request.server_id,
            Asked::Tables(request) => &request.server_id,
            Asked::SchemaChanges(request) => &request.server_id,
            Asked::PlanUndo(request) => &request.server_id,
            Asked::WatchUndo(request) => &request.server_id,
            Asked::Coverage(request) => &request.server_id,
            Asked::Status(request) => &request.server_id,
        }
    }
}

fn decode<M: Message + Default>(message: &[u8]) -> Result<M, Error> {
    M::decode(message).map_err(|_| Error::filter("", "it is not a message of this method"))
}

/// The encoded messages of an answer. Dropping them stops the reading. What has given an error has ended.
pub type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

/// Answers `request` from `store` until `deadline`. Must be called where tokio runs.
///
/// # Errors
/// When something is wrong with the request, or there is no place for it. What goes wrong later comes with the messages.
pub fn answer(
    budget: &Arc<Budget>,
    store: Arc<dyn Store>,
    request: Request,
    deadline: Instant,
) -> Result<Messages, Error> {
    let place = request.method.reads().then(|| budget.admit()).transpose()?;
    let call = Call { deadline };
    let looks = budget.looks();
    let rows = |place, request| {
        let work = Box::new(Rows::new(Arc::clone(&store), request));
        pump::messages(budget, call, place, work)
    };
    Ok(match request.asked {
        Asked::Changes(request) => rows(place, changes(request)?),
        Asked::History(request) => rows(place, history(request)?),
        Asked::Transaction(request) => rows(place, transaction(request)?),
        Asked::PlanUndo(request) => {
            let work = Box::new(Planning::new(store, plan_undo(request)?));
            pump::messages(budget, call, place, work)
        }
        Asked::WatchUndo(request) => {
            let work = Box::new(watch_undo(budget, store, request)?);
            pump::messages(budget, call, place, work)
        }
        Asked::Count(request) => {
            let work = reports::count(store, request)?;
            pump::message(budget, budget.readers(), call, place, work)
        }
        Asked::SchemaChanges(request) => {
            let work = reports::schema_changes(store, request)?;
            pump::message(budget, looks, call, place, work)
        }
        Asked::Tables(_) => pump::message(budget, looks, call, place, move |stop| {
            reports::tables(&*store, stop)
        }),
        Asked::Coverage(_) => pump::message(budget, looks, call, place, move |stop| {
            reports::coverage(&*store, stop)
        }),
        Asked::Status(_) => pump::message(budget, looks, call, place, move |stop| {
            reports::status(&*store, stop)
        }),
    })
}

fn changes(request: pb::ChangesRequest) -> Result<rows::Request, Error> {
    let order = filter::order(request.order, Order::Oldest)?;
    if request.follow && order == Order::Newest {
        return Err(Error::filter("order", "what is new comes last"));
    }
    let question = filter::question(request.filter.as_ref())?;
    if request.follow && question.until.is_some() {
        return Err(Error::filter("filter.until", "following has no end"));
    }
    Ok(rows::Request {
        // A transaction by place is an answer about changes here.
        question,
        order,
        after: after(request.after.as_ref())?,
        limit: request.limit,
        max_bytes: request.max_bytes,
        follow: request.follow.then_some(request.last),
        whole_transaction: false,
        tell_descents: request.tell_descents,
    })
}

fn history(request: pb::HistoryRequest) -> Result<rows::Request, Error> {
    let mut question = filter::question(request.filter.as_ref())?;
    if !question.tables.is_empty() || !question.keys.is_empty() {
        return Err(Error::filter("filter", "the row is named by table and key"));
    }
    let table = request.table.unwrap_or_default();
    let table = filter::tables(&table).map_err(|_| Error::filter("table", "a table is missing"))?;
    if table.table.is_none() || request.key.is_empty() {
        return Err(Error::filter("table", "a history is of one row of one table"));
    }
    question.tables = vec![table];
    question.keys = vec![request.key];
    Ok(rows::Request {
        question,
        order: filter::order(request.order, Order::Newest)?,
        after: after(request.after.as_ref())?,
        limit: request.limit,
        max_bytes: request.max_bytes,
        follow: None,
        whole_transaction: false,
        tell_descents: request.tell_descents,
    })
}

fn transaction(request: pb::TransactionRequest) -> Result<rows::Request, Error> {
    let question = Question {
        transaction: Some(filter::transaction("transaction", &request.transaction)?),
        ..Question::default()
    };
    Ok(rows::Request {
        question,
        order: Order::Oldest,
        after: after(request.after.as_ref())?,
        limit: request.limit,
        max_bytes: request.max_bytes,
        follow: None,
        whole_transaction: true,
        tell_descents: request.tell_descents,
    })
}

fn plan_undo(request: pb::PlanUndoRequest) -> Result<plan::Request, Error> {
    let until = request.until.as_ref();
    Ok(plan::Request {
        question: filter::question(request.filter.as_ref())?,
        mode: match request.mode() {
            change_pb::UndoMode::Unspecified | change_pb::UndoMode::Safe => undo::Mode::Safe,
            change_pb::UndoMode::Force => undo::Mode::Force,
        },
        until: until
            .map(|until| filter::position_of("until", until))
            .transpose()?,
        script: request.script,
        tell_descents: request.tell_descents,
        conflicts: request.conflicts.into(),
    })
}

fn watch_undo(
    budget: &Budget,
    store: Arc<dyn Store>,
    request: pb::WatchUndoRequest,
) -> Result<Watching, Error> {
    let until = request.until.unwrap_or_default();
    Ok(Watching::new(
        store,
        filter::question(request.filter.as_ref())?,
        filter::position_of("until", &until)?,
        budget.watched(),
    ))
}

/// Where an answer goes on.
pub(crate) fn after(position: Option<&change_pb::Position>) -> Result<Option<binlog::Position>, Error> {
    position
        .map(|position| filter::position_of("after", position))
        .transpose()
}
