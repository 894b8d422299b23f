//! One call about one server: who asks, what they see of it, and how its source is asked.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use prost::Message;
use proto::{agent::v1 as agent, change::v1 as pb, tenant::v1 as tenant};
use tonic::Request;
use types::{
    AgentId, Scope, Secret, ServerId,
    access::{self, Lineage},
};

use super::{
    About, Core, Reply,
    error::Error,
    page::Question,
    rooms::Room,
    shape::{self, Shaped},
};
use crate::{
    redact::{Redactor, Sight},
    resolve,
    source::{Answer, Ask, Messages, Method, Seen, Target, Unanswered},
};

/// How often a stream looks whether the rules are still the same.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Answers up to here are read wherever there is time.
const SMALL: usize = 256 << 10;

/// One call.
pub(super) struct Inquiry {
    pub(super) core: Core,
    pub(super) scope: Scope,
    /// `srv_…` or `upl_…`: what requests to the source carry.
    pub(super) id: String,
    target: Target,
    pub(super) sight: Sight,
    rules: Arc<[tenant::AccessRule]>,
    looked: Instant,
    context: Secret<String>,
    named: String,
    /// In which large answers of the source are read.
    room: Mutex<Option<Room>>,
    /// What the source said of its tables, once somebody asked from whom something is hidden.
    held: Option<Held>,
}

/// What is held, and what follows from it.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// None once it was put away.
    tables: Option<Arc<agent::TablesResponse>>,
    /// Who said it.
    by: Option<AgentId>,
    /// Of which descents this is, as answers tell it.
    told: u64,
    lineage: Arc<Lineage>,
}

/// As of when an answer is: who gave it, and which descents were known there when it was read, if it tells that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AsOf {
    pub(super) by: Option<AgentId>,
    pub(super) told: Option<u64>,
}

impl Held {
    /// Whether an answer has rows under no other names than those that are known here. What two agents know of a server can differ.
    pub(super) fn covers(&self, answer: AsOf) -> bool {
        self.by == answer.by && answer.told.is_some_and(|told| told <= self.told)
    }

    /// Where tables came from.
    pub(super) fn lineage(&self) -> &Arc<Lineage> {
        &self.lineage
    }

    /// What was said.
    pub(super) fn tables(&self) -> Result<&Arc<agent::TablesResponse>, Error> {
        self.tables.as_ref().ok_or(Error::Answer)
    }
}

struct Found {
    target: Target,
    id: String,
    sight: Sight,
    rules: Arc<[tenant::AccessRule]>,
}

/// What `named` means to the caller: what they may not ask about is as missing as what there is not.
async fn find(core: &Core, scope: &Scope, named: &str, about: &About) -> Result<Found, Error> {
    let missing = resolve::Error::Missing;
    let (tenant, deadline) = (scope.tenant(), scope.deadline);
    let (target, server, role, rules) = if let Ok(upload) = named.parse() {
        about.is(named);
        let role = scope.seat.role.filter(|_| scope.covers_all()).ok_or(missing)?;
        let rules = core.resolver.access(tenant, role, deadline).await?;
        let (id, plan) = (upload, scope.seat.plan);
        (Target::Upload { id, plan }, None::<ServerId>, role, rules)
    } else {
        let found = core.resolver.server(tenant, named, deadline).await?;
        about.is(&found.id.to_string());
        let role = found.permit(&scope.seat, scope.needed)?;
        let (id, agents) = (found.id, found.agents.clone());
        let target = Target::Server { id, agents };
        (target, Some(id), role, found.rules.clone())
    };
    let sight = Sight::new(role, server, &rules);
    Ok(Found {
        id: match &target {
            Target::Server { id, .. } => id.to_string(),
            Target::Upload { id, .. } => id.to_string(),
        },
        target,
        sight: sight.map_err(|_| resolve::Error::Answer("rules"))?,
        rules,
    })
}

impl Inquiry {
    /// Begins what `request` asks about `named`.
    pub(super) async fn begin<T>(core: &Core, request: &Request<T>, named: &str) -> Result<Self, Error> {
        let refused = |status| Error::Resolve(resolve::Error::Status(status));
        let scope = chassis::scope(request).map_err(refused)?;
        let context = chassis::context_token(request).ok_or(resolve::Error::Answer("context"))?;
        let about = request.extensions().get::<About>().cloned().unwrap_or_default();
        let found = find(core, &scope, named, &about).await?;
        Ok(Self {
            core: core.clone(),
            scope,
            id: found.id,
            target: found.target,
            sight: found.sight,
            rules: found.rules,
            looked: Instant::now(),
            context,
            named: named.to_owned(),
            room: Mutex::new(None),
            held: None,
        })
    }

    /// Looks whether the caller still sees the server, and whether the rules changed since; for streams, before each frame.
    pub(super) async fn look_again(&mut self) -> Result<bool, Error> {
        if self.looked.elapsed() < LOOK_AGAIN {
            return Ok(false);
        }
        let found = find(&self.core, &self.scope, &self.named, &About::default()).await?;
        if found.id != self.id {
            // The name is another server's now.
            return Err(resolve::Error::Missing.into());
        }
        self.looked = Instant::now();
        let changed = found.rules != self.rules;
        (self.rules, self.sight) = (found.rules, found.sight);
        match &self.held {
            Some(held) => self.sight.among(&held.lineage),
            None => self.learn().await?,
        }
        Ok(changed)
    }

    /// Whether access rules hide something of the server from the caller.
    pub(super) fn restricted(&self) -> bool {
        !self.sight.whole()
    }

    /// What takes out of answers to a question with this filter what the caller does not see.
    pub(super) fn redactor(&self, filter: &pb::Filter) -> Redactor {
        Redactor::new(self.sight.clone(), !filter.keys.is_empty(), &filter.column)
    }

    /// An answer about the server.
    pub(super) fn reply<T>(&self, message: T) -> Reply<T> {
        Reply {
            server: self.id.clone(),
            message,
        }
    }

    /// The question of which a page token is one.
    pub(super) async fn question(
        &self,
        request: &impl Message,
        method: &'static str,
    ) -> Result<Question, Error> {
        let tenant = self.scope.tenant();
        let seal = self.core.keys.of(tenant, self.scope.deadline).await?;
        Ok(Question::new(seal, tenant, &self.id, request, method))
    }

    /// Asks the source.
    pub(super) async fn ask(&self, method: Method, request: &impl Message) -> Result<Answer, Error> {
        let prefer = self.held.as_ref().and_then(|held| held.by);
        self.ask_first(prefer, method, request).await
    }

    /// The same, of several agents this one first.
    async fn ask_first(
        &self,
        prefer: Option<AgentId>,
        method: Method,
        request: &impl Message,
    ) -> Result<Answer, Error> {
        let ask = Ask {
            tenant: self.scope.tenant(),
            target: self.target.clone(),
            method,
            request: request.encode_to_vec().into(),
            context: self.context.clone(),
            deadline: self.scope.deadline,
            prefer,
        };
        let asked = self.core.sources.ask(ask);
        let answer = tokio::time::timeout_at(self.scope.deadline.into(), asked).await;
        match answer.map_err(|_| Error::Late)? {
            Ok(answer) => Ok(answer),
            Err(Unanswered::Failed(status)) => Err(Error::agent(&status, self.restricted())),
            Err(Unanswered::NotConnected(seen)) => Err(Error::NotConnected(self.last_seen(seen).await)),
        }
    }

    /// When an agent was last there: connected, as the source knows it, or heard of, as the last numbers do; whatever is later.
    async fn last_seen(&self, seen: Option<Seen>) -> Option<Seen> {
        let Target::Server { id, .. } = self.target else {
            return seen;
        };
        // That an agent is away is the answer, whether or not it is known since when.
        let last = self.core.statistics.last(&self.scope, id).await;
        let heard = last.ok().flatten().and_then(|last| {
            let agent = last.agent.parse().ok()?;
            Some(Seen {
                agent,
                time: last.time,
            })
        });
        seen.into_iter().chain(heard).max_by_key(|seen| seen.time)
    }

    /// The next message of an answer.
    pub(super) async fn next(&self, messages: &mut Messages) -> Result<Option<Bytes>, Error> {
        let next = tokio::time::timeout_at(self.scope.deadline.into(), messages.next()).await;
        let next = next.map_err(|_| Error::Late)?.transpose();
        next.map_err(|status| Error::agent(&status, self.restricted()))
    }

    /// Waits until there is room to read an answer of so many bytes. The room is kept until the call has its own answer.
    async fn make_room(&self, bytes: usize) -> Result<(), Error> {
        let has = || self.room.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes <= SMALL || has().is_some() {
            return Ok(());
        }
        let taken = self.core.rooms.take(self.scope.tenant());
        let taken = tokio::time::timeout_at(self.scope.deadline.into(), taken).await;
        let room = taken.map_err(|_| Error::Late)?;
        *has() = room;
        Ok(())
    }

    /// What was read is put away: what follows is read in frames.
    pub(super) fn leave_room(&mut self) {
        if let Some(held) = &mut self.held {
            held.tables = None;
        }
        self.room.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Asks for an answer that is one message.
    pub(super) async fn one<M: Shaped>(
        &self,
        method: Method,
        request: &impl Message,
    ) -> Result<(M, Option<AgentId>), Error> {
        let answer = self.ask(method, request).await?;
        self.only(answer).await
    }

    /// The message of an answer that is one.
    async fn only<M: Shaped>(&self, mut answer: Answer) -> Result<(M, Option<AgentId>), Error> {
        let bytes = self.next(&mut answer.messages).await?.ok_or(Error::Answer)?;
        self.make_room(bytes.len()).await?;
        let message = shape::read(bytes)?;
        // The end of the answer may still be an error.
        match self.next(&mut answer.messages).await? {
            None => Ok((message, answer.agent)),
            Some(_) => Err(Error::Answer),
        }
    }

    /// What is held: the tables, what is known of their keys, and where they came from.
    async fn ask_held(&self, prefer: Option<AgentId>) -> Result<Held, Error> {
        let request = agent::TablesRequest {
            server_id: self.id.clone(),
            all_descents: self.restricted(),
        };
        let answer = self.ask_first(prefer, Method::Tables, &request).await?;
        let (tables, by) = self.only::<agent::TablesResponse>(answer).await?;
        Ok(Held {
            lineage: Arc::new(chassis::directory::lineage(&tables)),
            told: access::told(tables.descents.len(), tables.descents_left_out),
            by,
            tables: Some(Arc::new(tables)),
        })
    }

    /// The same, as it was when an answer was given or later: what it is judged by.
    pub(super) async fn held_as_of(&self, answer: AsOf) -> Result<Held, Error> {
        let held = self.ask_held(answer.by).await?;
        // Who gave the answer is not there any more, or does not know what it knew.
        if held.by != answer.by || answer.told.is_some_and(|told| told > held.told) {
            return Err(Error::Unsettled);
        }
        Ok(held)
    }

    /// Learns under which names tables stood before, if anything is hidden: what is hidden of one is hidden of those that came from it.
    pub(super) async fn learn(&mut self) -> Result<(), Error> {
        if self.restricted() && self.held.is_none() {
            let held = self.ask_held(None).await?;
            self.know(held);
        }
        Ok(())
    }

    /// Judges by this from now on.
    pub(super) fn know(&mut self, held: Held) {
        self.sight.among(&held.lineage);
        self.held = Some(held);
    }

    /// Learns it again if an answer knows more; whether it did.
    pub(super) async fn learn_from(&mut self, answer: AsOf) -> Result<bool, Error> {
        if !self.restricted() || self.held.as_ref().is_some_and(|held| held.covers(answer)) {
            return Ok(false);
        }
        let held = self.held_as_of(answer).await?;
        self.know(held);
        Ok(true)
    }

    /// What was learnt; none if nothing is hidden.
    pub(super) fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// What is held of each table.
    pub(super) async fn tables(&self) -> Result<Arc<agent::TablesResponse>, Error> {
        let learnt = self.held.as_ref().and_then(|held| held.tables.clone());
        let known = match learnt {
            Some(known) => Some(known),
            None => self.ask_held(None).await?.tables,
        };
        known.ok_or(Error::Answer)
    }

    /// What answers about the server rest on, as the caller may be told.
    pub(super) async fn coverage(&self) -> Result<Option<pb::Coverage>, Error> {
        let request = agent::CoverageRequest {
            server_id: self.id.clone(),
        };
        let (answer, _) = self
            .one::<agent::CoverageResponse>(Method::Coverage, &request)
            .await?;
        let mut coverage = answer.coverage;
        if let Some(coverage) = &mut coverage {
            self.redactor(&pb::Filter::default()).coverage(coverage);
        }
        Ok(coverage)
    }
}
