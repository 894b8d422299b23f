//! The life of a connection: greeted, counted, watched, and ended for a reason.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use chassis::{AgentConnection, AgentStanding};
use futures_util::future::join_all;
use hyper::client::conn::http2::SendRequest;
use opentelemetry::KeyValue;
use proto::agent::v1 as pb;
use rand::Rng as _;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

use super::{
    BACK, Hub,
    directory::Announced,
    link::{self, Greeting, Link},
    model::{Epoch, Key, Older},
};

/// The one version of the protocol there is.
const PROTOCOL: u32 = 1;
/// To how many replicas an agent should be connected.
const CONNECTIONS: u32 = 2;
/// HTTP/2's first words and Hello together.
const GREETING: Duration = Duration::from_secs(5);
/// How old connections get, give or take a tenth; certificates of agents live for a day.
const AGE: Duration = Duration::from_secs(6 * 3_600);
/// The same, before the certificate ends.
const BEFORE_END: Duration = Duration::from_secs(600);
/// How often it is looked whether a certificate counts still.
const LOOK: Duration = Duration::from_secs(30);
/// How long an agent that was told to may take to connect elsewhere.
const ELSEWHERE: Duration = Duration::from_secs(60);
/// How long calls on a connection that was replaced may go on.
const REPLACED: Duration = Duration::from_secs(60);
/// Of the drain's time: until agents are told, until connections end that are not in use, and until all do.
const TOLD: f64 = 0.25;
const IDLE_END: f64 = 0.6;
const END: f64 = 0.9;
/// Between two looks whether calls are in work.
const QUIET: Duration = Duration::from_millis(250);

/// Why a connection ended.
#[derive(Clone, Copy, Debug)]
enum Why {
    /// Too many are open.
    Full,
    /// HTTP/2 or Hello failed.
    Greeting,
    /// The agent speaks no protocol that we do.
    Protocol,
    /// A newer one counts.
    Older,
    /// The agent's certificate does not count.
    Void,
    /// The other end closed it, or is gone.
    Ended,
    /// It was cut: revoked, or displaced.
    Cut,
    /// The certificate ended.
    Certificate,
    /// It is old, or the replica ends.
    Over,
}

impl Why {
    fn word(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Greeting => "greeting",
            Self::Protocol => "protocol",
            Self::Older => "older",
            Self::Void => "void",
            Self::Ended => "ended",
            Self::Cut => "cut",
            Self::Certificate => "certificate",
            Self::Over => "over",
        }
    }
}

impl Hub {
    /// Takes connections until this replica is told to end, and then sees to it that they end: agents first connect elsewhere.
    pub(super) async fn hold(self, mut taken: mpsc::Receiver<AgentConnection>) {
        let mut connections = JoinSet::new();
        let pace = Duration::from_secs(1) / self.0.limits.rate;
        let mut next = tokio::time::Instant::now();
        loop {
            tokio::select! {
                () = self.0.leaving.cancelled() => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                connection = async { sleep_until(next).await; taken.recv().await } => {
                    let Some(connection) = connection else { break };
                    next = next.max(tokio::time::Instant::now() - Duration::from_secs(1)) + pace;
                    connections.spawn(self.clone().connection(connection));
                }
            }
        }
        drop(taken);
        let _ = self.0.directory.live(true).await;
        let bound = self.0.limits.drain.mul_f64(END);
        let ended = async { while connections.join_next().await.is_some() {} };
        if timeout(bound, ended).await.is_err() {
            tracing::warn!(
                connections = connections.len(),
                "connections of agents are cut off at the end of the drain"
            );
        }
        connections.shutdown().await;
        if let Err(error) = self.0.directory.leave().await {
            tracing::info!(
                error = types::chain(&error),
                "the directory was not told that this replica ended"
            );
        }
    }

    async fn connection(self, connection: AgentConnection) {
        let standing = connection.standing().clone();
        let Some(name) = standing.name().cloned() else {
            return;
        };
        self.0.open.fetch_add(1, Ordering::Relaxed);
        let key = Key {
            tenant: name.tenant,
            agent: name.agent,
        };
        let why = self.live(key, connection, standing).await;
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        let why = why.word();
        self.0.instruments.closed.add(1, &[KeyValue::new("reason", why)]);
        tracing::info!(tenant = %key.tenant, agent = %key.agent, why, "an agent's connection has ended");
    }

    async fn live(&self, key: Key, connection: AgentConnection, standing: AgentStanding) -> Why {
        if self.0.open.load(Ordering::Relaxed) > self.0.limits.connections {
            return Why::Full;
        }
        let cut = CancellationToken::new();
        // However this ends, the connection does.
        let _end = cut.clone().drop_guard();
        let Ok(Ok((calls, driver))) = timeout(GREETING, link::open(connection, cut.clone())).await else {
            return Why::Greeting;
        };
        tokio::pin!(driver);
        let greeted = async {
            let greeting = self.greet(key, &calls).await?;
            if self.is_void(key, &standing).await {
                return Err(Why::Void);
            }
            Ok(greeting)
        };
        let greeting = tokio::select! {
            greeting = greeted => greeting,
            _ = &mut driver => return Why::Greeting,
        };
        let link = match greeting {
            Ok(greeting) => Arc::new(Link::new(
                key,
                greeting,
                standing,
                calls,
                self.0.room.clone(),
                cut,
            )),
            Err(why) => return why,
        };
        let id = match self.enter(&link) {
            Ok(id) => id,
            Err(Older) => {
                let told = async {
                    tell(&link, Tell::Duplicate).await;
                    sleep(QUIET).await;
                };
                tokio::select! {
                    () = told => {}
                    _ = &mut driver => {}
                }
                return Why::Older;
            }
        };
        let why = tokio::select! {
            _ = &mut driver => Why::Ended,
            () = link.until_cut() => Why::Cut,
            why = self.watch(&link, id) => why,
        };
        // One that was cut is not wanted here.
        let back = matches!(why, Why::Ended) && !link.is_cut();
        self.leave(&link, id, if back { BACK } else { Duration::ZERO })
            .await;
        why
    }

    /// Says who is here, and hears who is there.
    async fn greet(&self, key: Key, calls: &SendRequest<Body>) -> Result<Greeting, Why> {
        let hello = pb::HelloRequest {
            replica_id: self.0.replica.id.clone(),
            region: self.0.region.word().to_owned(),
            protocol_min: PROTOCOL,
            protocol_max: PROTOCOL,
            connections: CONNECTIONS,
            replicas: self.0.replicas.load(Ordering::Relaxed),
        };
        let scale = self.0.room.scale(key.tenant);
        let hello = link::greet(calls, scale, hello).await.map_err(|error| {
            tracing::info!(code = ?error.code(), error = error.message(), "an agent does not greet");
            Why::Greeting
        })?;
        if hello.protocol != PROTOCOL {
            return Err(Why::Protocol);
        }
        Ok(Greeting {
            epoch: Epoch::new(hello.generation, &hello.boot_id).ok_or(Why::Protocol)?,
            version: hello.version.chars().take(64).collect(),
            start_time: hello.start_time,
            servers: link::servers(&hello.server_ids),
        })
    }

    /// From now on it counts here. One that did before ends: at once if it is of an earlier start, else after the calls in work.
    fn enter(&self, link: &Arc<Link>) -> Result<u64, Older> {
        let epoch = link.greeting.epoch.clone();
        let (id, before) = self.registry().insert(link.key, epoch.clone(), link.clone())?;
        let Some(before) = before else { return Ok(id) };
        if before.epoch < epoch {
            before.link.cut();
            self.displaced(link.key, &epoch);
        } else {
            self.retire(&before.link);
        }
        Ok(id)
    }

    /// It takes no more calls; those in work go on, and until then it can be cut.
    fn retire(&self, link: &Arc<Link>) {
        self.retired().push(Arc::downgrade(link));
        link.retire();
    }

    /// Somebody holds a connection of this epoch of the agent: older ones end, also those that have calls in work only.
    pub(super) fn displaced(&self, key: Key, by: &Epoch) {
        let counting = self.registry().displace(key, by);
        let retired = self.open_retired().into_iter();
        let retired = retired.filter(|link| link.key == key && link.greeting.epoch < *by);
        for link in counting.map(|held| held.link).into_iter().chain(retired) {
            link.cut();
        }
    }

    /// Those that are retired and open still.
    pub(super) fn open_retired(&self) -> Vec<Arc<Link>> {
        let mut retired = self.retired();
        let open: Vec<_> = retired.iter().filter_map(Weak::upgrade).collect();
        retired.retain(|link| link.strong_count() > 0);
        open
    }

    /// It does not count any more, if it did. Its agent is expected elsewhere for so long.
    async fn leave(&self, link: &Arc<Link>, id: u64, back: Duration) {
        self.retire(link);
        self.registry().remove(link.key, id);
        // Also when it did not count any more: an announcement may have crossed what displaced it.
        self.withdraw(link.key, id, back).await;
    }

    /// Writes it into the directory, and closes what is older elsewhere. What Redis does not hear now it hears when it is back.
    pub(super) async fn announce(&self, link: &Link, id: u64) {
        let (key, epoch) = (link.key, &link.greeting.epoch);
        if !self.counts(key, id) {
            return;
        }
        match self.0.directory.announce(key, id, epoch, &link.servers()).await {
            // It ended while Redis was told: that is taken back.
            Ok(Announced::Taken(_)) if !self.counts(key, id) => {
                self.withdraw(key, id, Duration::ZERO).await;
            }
            Ok(Announced::Taken(older)) => {
                let displaced = older
                    .into_iter()
                    .map(|address| self.0.others.displace(address, key, epoch));
                for failed in join_all(displaced).await.into_iter().filter_map(Result::err) {
                    tracing::info!(code = ?failed.code(), "a replica was not told that its connection is older");
                }
            }
            Ok(Announced::Older) => {
                self.registry().remove(key, id);
                tell(link, Tell::Duplicate).await;
                link.cut();
            }
            // A later one of this replica is there already.
            Ok(Announced::Stale) => {}
            Ok(Announced::NoLease) => self.renew_lease().await,
            Err(error) => {
                tracing::debug!(error = types::chain(&error), "the directory was not told");
                self.0.behind.store(true, Ordering::Relaxed);
            }
        }
    }

    fn counts(&self, key: Key, id: u64) -> bool {
        self.registry().get(key).is_some_and(|held| held.id == id)
    }

    /// Until it is to end.
    async fn watch(&self, link: &Arc<Link>, id: u64) -> Why {
        self.announce(link, id).await;
        // Redis may have come between the two.
        let ends = link.standing.ends();
        let left = ends.duration_since(SystemTime::now()).unwrap_or_default();
        let age = AGE
            .mul_f64(rand::rng().random_range(0.9..1.1))
            .min(left.saturating_sub(BEFORE_END));
        let certificate = sleep(left);
        tokio::pin!(certificate);
        let over = async {
            tokio::select! {
                () = self.0.leaving.cancelled() => self.drain(link).await,
                () = sleep(age) => {
                    tell(link, Tell::Leaving).await;
                    sleep(ELSEWHERE).await;
                }
            }
        };
        tokio::pin!(over);
        let replaced = async {
            link.until_retired().await;
            sleep(REPLACED).await;
        };
        tokio::pin!(replaced);
        loop {
            tokio::select! {
                () = &mut certificate => return Why::Certificate,
                () = &mut replaced => return Why::Over,
                () = &mut over => return self.finish(link, id).await,
                () = sleep(LOOK) => if !link.standing.holds() { return Why::Certificate },
            }
        }
    }

    /// This replica ends: the agent is told, spread over some time, and connects elsewhere; calls in work go on as long as there is time.
    async fn drain(&self, link: &Link) {
        let (began, drain) = (Instant::now(), self.0.limits.drain);
        let turn = rand::rng().random_range(0.0..TOLD);
        sleep(drain.mul_f64(turn)).await;
        tell(link, Tell::Leaving).await;
        let quiet = began + drain.mul_f64(IDLE_END);
        sleep_until(quiet.into()).await;
    }

    /// Calls in work go on for a while, others do not begin; then the connection ends.
    async fn finish(&self, link: &Arc<Link>, id: u64) -> Why {
        self.leave(link, id, BACK).await;
        let began = Instant::now();
        let bound = if self.0.leaving.is_cancelled() {
            self.0.limits.drain.mul_f64(END - IDLE_END)
        } else {
            REPLACED
        };
        while !link.is_idle() && began.elapsed() < bound {
            sleep(QUIET).await;
        }
        // HTTP/2's good-bye goes out while the driver runs.
        sleep(QUIET).await;
        Why::Over
    }
}

/// What an agent is told of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tell {
    /// To connect elsewhere.
    Leaving,
    /// That a later start of the same agent is connected.
    Duplicate,
}

async fn tell(link: &Link, what: Tell) {
    let told = pb::ConfigureRequest {
        refresh: false,
        leaving: what == Tell::Leaving,
        duplicate: what == Tell::Duplicate,
    };
    if let Err(error) = link.configure(told).await {
        tracing::debug!(code = ?error.code(), ?what, "an agent was not told of its connection");
    }
}
