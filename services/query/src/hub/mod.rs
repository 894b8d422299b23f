//! The agents' connections: who holds them, and the way of a question to one of them.
//!
//! An agent dials; then the roles turn round, and a replica calls the agent over the connection that it accepted (`link`). A replica knows
//! the connections of its own (`model::Registry`), and Redis knows which replicas hold which agent (`directory`). A question goes to the
//! agent here, or by one hop to the replica that holds it, and never further (`peers`). Of connections with the same name only the newest
//! counts, wherever they are; the directory decides which that is.
//!
//! Without Redis replicas ask each other. Without the vault, connections that are open stay. A question that no agent can answer is refused,
//! not kept; only where an agent lost its connection a moment ago, as all do when a replica or a gateway is restarted, it is waited for.

mod bytes;
mod delegation;
mod directory;
mod error;
mod hold;
mod large;
mod link;
mod model;
mod peers;
mod service;
mod severed;
mod upkeep;

#[cfg(test)]
mod shelf;
#[cfg(test)]
mod simulation;

use std::{
    collections::HashMap,
    fmt,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use chassis::{AgentConnection, Peer, Runtime, status};
use futures_util::{StreamExt as _, future::BoxFuture};
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Meter},
};
use proto::agent::v1 as agent;
use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use types::{AgentId, Region, ServerId, TenantId};

use crate::{
    Config,
    source::{Agents, Answer, Ask, Held, Seen, Source, Target, Unanswered},
};
use delegation::Delegations;
use directory::{Directory, Replica};
pub(crate) use error::Error;
use large::Room;
pub(crate) use link::LONGEST;
use link::{Link, Outcome};
use model::{Found, Key, Registry, Way, correct, turn_for, ways};
use peers::{Forwarded, Others};
pub(crate) use service::HubHandlers;

/// Connections that were accepted and wait to be greeted; who comes on top is sent away, and comes again.
const WAITING: usize = 256;

/// How long an agent that lost its connection is expected back: so long questions wait for it.
const BACK: Duration = Duration::from_secs(3);
/// Between two looks whether it is.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How long it is believed that no replica holds an agent of a server, and of how many servers that is kept.
const BELIEVED: Duration = Duration::from_secs(1);
const MISSED: usize = 4_096;

/// The agents' connections. Clones are the same.
#[derive(Clone)]
pub(crate) struct Hub(Arc<Inner>);

struct Inner {
    replica: Replica,
    region: Region,
    limits: Limits,
    registry: Mutex<Registry<Arc<Link>>>,
    /// Those that do not count any more, as long as they are open: they have calls in work.
    retired: Mutex<Vec<Weak<Link>>>,
    room: Room,
    directory: Directory,
    others: Others,
    delegations: Delegations,
    vault: Peer,
    /// How many replicas there are.
    replicas: AtomicU32,
    /// Connections whether they count or not.
    open: AtomicUsize,
    turn: AtomicUsize,
    /// Servers of whose agents no replica held one when all were asked, and until when that is believed.
    missed: Mutex<HashMap<(TenantId, ServerId), Instant>>,
    /// Whether Redis was not told of something that is held.
    behind: AtomicBool,
    /// Connections that ended and that Redis was not told of.
    owed: Mutex<Vec<(Key, u64)>>,
    /// Cancelled when this replica is told to end.
    leaving: CancellationToken,
    instruments: Instruments,
}

/// How many and how fast.
#[derive(Clone, Copy, Debug)]
struct Limits {
    connections: usize,
    rate: u32,
    /// How long the drain may take.
    drain: Duration,
}

struct Instruments {
    asked: Counter<u64>,
    closed: Counter<u64>,
}

impl Instruments {
    fn new(meter: &Meter) -> Self {
        Self {
            asked: meter
                .u64_counter("trailmesh.hub.asked")
                .with_description("Questions to agents, by the way they took")
                .build(),
            closed: meter
                .u64_counter("trailmesh.hub.closed")
                .with_description("Connections of agents that ended, and why")
                .build(),
        }
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hub({} with {})", self.0.replica.id, self.registry().len())
    }
}

impl Hub {
    /// Makes the hub of this replica and begins what keeps it true. [`Self::hold`] takes connections.
    ///
    /// # Errors
    /// When a setting cannot be used, or Redis is another cell's.
    pub(crate) async fn open(config: &Config, runtime: &Runtime) -> Result<Self, chassis::Error> {
        let replica = Replica {
            id: uuid::Uuid::now_v7().to_string(),
            address: config.advertised(runtime.address()),
        };
        let home = format!("{}/{}", runtime.region().word(), runtime.cell());
        let directory = Directory::new(config, replica.clone(), home).map_err(chassis::Error::service)?;
        directory.settle().await.map_err(chassis::Error::service)?;
        let others = Others::new(replica.address, runtime.peers(), runtime.peer("query").ok());
        let hub = Self(Arc::new(Inner {
            region: runtime.region(),
            limits: Limits {
                connections: config.agent_connections,
                rate: config.agent_rate.max(1),
                drain: runtime.settings().drain_timeout,
            },
            registry: Mutex::default(),
            retired: Mutex::default(),
            room: Room::default(),
            directory,
            others,
            delegations: Delegations::new(runtime.peer("auth")?, runtime.keys()),
            vault: runtime.peer("vault")?,
            replicas: AtomicU32::new(1),
            open: AtomicUsize::new(0),
            turn: AtomicUsize::new(0),
            missed: Mutex::default(),
            behind: AtomicBool::new(false),
            owed: Mutex::default(),
            leaving: runtime.leaving(),
            instruments: Instruments::new(&runtime.meter()),
            replica,
        }));
        hub.observe(&runtime.meter());
        runtime.spawn("hub lease", hub.clone().keep_lease());
        runtime.spawn("hub directory", hub.clone().keep_announced());
        runtime.spawn("hub revocations", hub.clone().keep_checked());
        Ok(hub)
    }

    /// Where [`chassis::Runtime::serve_with`] puts connections, and what takes them until the drain is over.
    pub(crate) fn door(&self) -> (mpsc::Sender<AgentConnection>, BoxFuture<'static, ()>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (sender, Box::pin(self.clone().hold(receiver)))
    }

    /// Which of these agents was last connected to any replica, and when, as Redis knows it.
    async fn seen(&self, tenant: TenantId, agents: &[AgentId]) -> Option<Seen> {
        self.0.directory.seen(tenant, agents).await.ok().flatten()
    }

    fn registry(&self) -> MutexGuard<'_, Registry<Arc<Link>>> {
        self.0.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retired(&self) -> MutexGuard<'_, Vec<Weak<Link>>> {
        self.0.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self, key: Key) -> Option<Arc<Link>> {
        self.registry().get(key).map(|held| held.link.clone())
    }

    fn observe(&self, meter: &Meter) {
        let hub = Arc::downgrade(&self.0);
        meter
            .u64_observable_gauge("trailmesh.hub.connections")
            .with_description("Connections of agents: those that count, and all that are open")
            .with_callback(move |gauge| {
                let Some(inner) = hub.upgrade() else { return };
                let hub = Self(inner);
                let counting = hub.registry().len() as u64;
                gauge.observe(counting, &[KeyValue::new("what", "counting")]);
                let open = hub.0.open.load(Ordering::Relaxed) as u64;
                gauge.observe(open, &[KeyValue::new("what", "open")]);
            })
            .build();
    }

    /// All connections of these agents that are known: the directory's, or what replicas say when it knows none or is away; and our own, which
    /// nobody knows better.
    async fn look(&self, server: ServerId, agents: &[AgentId], ask: &Ask) -> Vec<Found> {
        let tenant = ask.tenant;
        let mut found = match self.0.directory.find(tenant, agents).await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(error = types::chain(&error), "the directory is away");
                Vec::new()
            }
        };
        if found.is_empty() {
            found = self.ask_others(server, agents, ask).await;
        }
        let registry = self.registry();
        for agent in agents {
            let agent = *agent;
            if let Some(held) = registry.get(Key { tenant, agent }) {
                let own = Found {
                    agent,
                    address: self.0.replica.address,
                    epoch: held.epoch.clone(),
                    leaving: self.0.leaving.is_cancelled(),
                    servers: held.link.servers(),
                };
                correct(&mut found, own);
            }
        }
        found
    }

    /// What other replicas hold of a server's agents. A server whose agents are off is asked for again and again: they are asked once in a while.
    async fn ask_others(&self, server: ServerId, agents: &[AgentId], ask: &Ask) -> Vec<Found> {
        let (key, now) = ((ask.tenant, server), Instant::now());
        if self.missed().get(&key).is_some_and(|until| now < *until) {
            return Vec::new();
        }
        let found = self.0.others.held(ask.tenant, agents, ask.deadline).await;
        let mut missed = self.missed();
        if found.is_empty() {
            if missed.len() >= MISSED {
                missed.clear();
            }
            missed.insert(key, Instant::now() + BELIEVED);
        } else {
            missed.remove(&key);
        }
        found
    }

    fn missed(&self) -> MutexGuard<'_, HashMap<(TenantId, ServerId), Instant>> {
        self.0.missed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks one of the agents of a server; one that is expected back is waited for.
    async fn ask_agents(&self, ask: Ask) -> Result<Answer, Unanswered> {
        let Target::Server { id, agents } = ask.target.clone() else {
            return Err(Unanswered::Failed(status(&Error::Id("server_id"))));
        };
        let last = ask.deadline.min(Instant::now() + BACK);
        let mut tries = 0_u32;
        loop {
            let known = match self.try_agents(&ask, id, &agents).await? {
                Tried::Answers(answer) => return Ok(answer),
                Tried::NotFollowed(refused) => return Err(Unanswered::Failed(refused)),
                Tried::NotHeld(known) => known,
            };
            tries += 1;
            // Where one was known, it may have gone just now, and the directory hears of it next.
            let expected = known && tries == 1
                || (self.0.directory.expects(ask.tenant, &agents).await).unwrap_or_default();
            if !expected || Instant::now() + LOOK_AGAIN >= last {
                let seen = self.seen(ask.tenant, &agents).await;
                return Err(Unanswered::NotConnected(seen));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Asks whoever is known to be connected.
    async fn try_agents(&self, ask: &Ask, id: ServerId, agents: &[AgentId]) -> Result<Tried, Status> {
        let mut refusal = None;
        // Once more with what is known then: a connection may have moved between the look and the call.
        for again in [false, true] {
            let guess = if again {
                None
            } else {
                self.guess(ask.tenant, id, agents)
            };
            let mut early = guess.as_ref().map(|way| Box::pin(self.go(ask, id, way)));
            let (found, mut gone) = meanwhile(self.look(id, agents, ask), &mut early).await;
            if found.is_empty() {
                return Ok(Tried::NotHeld(again));
            }
            let turn = turn_for(ask.prefer, agents, self.0.turn.fetch_add(1, Ordering::Relaxed));
            let ways = ways(agents, id, self.0.replica.address, &found, turn);
            if ways.first() != guess.as_ref() {
                // Nobody reads it, which ends it.
                (early, gone) = (None, None);
            }
            for way in ways {
                let gone = match (gone.take(), early.take()) {
                    (Some(gone), _) => gone,
                    (None, Some(early)) => early.await,
                    (None, None) => self.go(ask, id, &way).await,
                };
                match gone? {
                    Gone::Answers(answer) => return Ok(Tried::Answers(answer)),
                    Gone::NotFollowed(status) => refusal = Some(status),
                    Gone::NotHeld => {}
                }
            }
            if refusal.is_some() || Instant::now() >= ask.deadline {
                break;
            }
        }
        Ok(refusal.map_or(Tried::NotHeld(true), Tried::NotFollowed))
    }

    /// The way that it will be, unless the directory knows better: by the connection here, to the only agent that may be asked. It is gone while the
    /// directory is looked into, and what comes back counts only if the directory says that it is the way.
    fn guess(&self, tenant: TenantId, server: ServerId, agents: &[AgentId]) -> Option<Way> {
        let [agent] = *agents else { return None };
        let registry = self.registry();
        let held = registry.get(Key { tenant, agent })?;
        let likely = held.link.servers().has(server) && !self.0.leaving.is_cancelled();
        likely.then(|| Way::Here(agent, held.epoch.clone()))
    }

    /// One way.
    async fn go(&self, ask: &Ask, server: ServerId, way: &Way) -> Result<Gone, Status> {
        let (Way::Here(agent, _) | Way::There(agent, _)) = way;
        let (tenant, agent) = (ask.tenant, *agent);
        let context = ask.context.expose();
        let delegations = &self.0.delegations;
        let delegation = delegations
            .get(context, tenant, (agent, server), ask.method, ask.deadline)
            .await?;
        let messages = match way {
            Way::Here(_, epoch) => {
                self.count("here");
                let Some(link) = self
                    .link(Key { tenant, agent })
                    .filter(|link| link.greeting.epoch >= *epoch)
                else {
                    return Ok(Gone::NotHeld);
                };
                let asked = link.ask(ask.method, ask.request.clone(), delegation.expose(), ask.deadline);
                match asked.await {
                    Outcome::Answered(Ok(messages)) => messages.boxed(),
                    Outcome::Answered(Err(refused)) => return not_followed(refused),
                    Outcome::Unanswered(_) => return Ok(Gone::NotHeld),
                }
            }
            Way::There(_, address) => {
                self.count("there");
                let others = &self.0.others;
                match others.forward(*address, agent, ask, delegation.expose()).await? {
                    Forwarded::NotHeld => return Ok(Gone::NotHeld),
                    Forwarded::Refused(refused) => return not_followed(refused),
                    Forwarded::Answered(messages) => messages.map(|answer| Ok(answer?.message)).boxed(),
                }
            }
        };
        let agent = Some(agent);
        Ok(Gone::Answers(Answer { agent, messages }))
    }

    fn count(&self, way: &'static str) {
        self.0.instruments.asked.add(1, &[KeyValue::new("way", way)]);
    }
}

/// What `first` gives, and what `other` gave until then; that is taken away with it.
async fn meanwhile<A, B, F>(first: impl Future<Output = A>, other: &mut Option<Pin<Box<F>>>) -> (A, Option<B>)
where
    F: Future<Output = B>,
{
    let mut first = pin!(first);
    let Some(running) = other else {
        return (first.await, None);
    };
    tokio::select! {
        biased;
        given = &mut first => (given, None),
        done = running => {
            *other = None;
            (first.await, Some(done))
        }
    }
}

/// What became of all ways.
enum Tried {
    /// An agent answers.
    Answers(Answer),
    /// One says that it does not follow the server.
    NotFollowed(Status),
    /// None is there; whether one was known to be.
    NotHeld(bool),
}

/// What became of one way.
enum Gone {
    /// The agent answers.
    Answers(Answer),
    /// It says that it does not follow the server; another may.
    NotFollowed(Status),
    /// It is not there, or its connection broke before it began to answer.
    NotHeld,
}

/// Whether an agent's refusal says that another one may be asked.
fn not_followed(refused: Status) -> Result<Gone, Status> {
    if refused.code() == tonic::Code::NotFound && error::reason(&refused) == "SERVER_NOT_FOLLOWED" {
        return Ok(Gone::NotFollowed(refused));
    }
    Err(refused)
}

impl Source for Hub {
    fn ask(&self, ask: Ask) -> BoxFuture<'_, Result<Answer, Unanswered>> {
        Box::pin(async move {
            let deadline = ask.deadline.into();
            let asked = tokio::time::timeout_at(deadline, self.ask_agents(ask)).await;
            asked.unwrap_or_else(|_| Err(Unanswered::Failed(status(&Error::Deadline))))
        })
    }
}

impl Agents for Hub {
    fn held(&self) -> Vec<Held> {
        let registry = self.registry();
        let held = registry.iter().map(|(key, held)| Held {
            tenant: key.tenant,
            agent: key.agent,
            version: held.link.greeting.version.clone(),
            start_time: held.link.greeting.start_time,
        });
        held.collect()
    }

    fn statistics(
        &self,
        held: &Held,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<agent::StatisticsResponse, Status>> {
        let (tenant, agent) = (held.tenant, held.agent);
        Box::pin(async move {
            let link = self.link(Key { tenant, agent });
            let link = link.ok_or_else(|| status(&Error::NotHeld))?;
            link.statistics(deadline).await
        })
    }
}
