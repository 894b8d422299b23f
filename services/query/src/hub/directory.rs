//! Which replica holds which agent, in Redis.
//!
//! Nothing there counts by itself: a connection counts while the lease of its replica does, which ends 15 seconds after its replica was
//! last heard of. So what a replica leaves behind when it is killed is void without anybody cleaning up, and what Redis forgets comes back,
//! because a replica that finds its lease gone writes all that it holds again. Which connection is newest is decided in one place at a time,
//! by scripts that Redis runs one after the other.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Mutex as Lock, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use deadpool_redis::redis::{
    self, AsyncConnectionConfig, Client, FromRedisValue, RedisError, Script, ScriptInvocation,
    TlsCertificates, aio::MultiplexedConnection,
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::{sync::Mutex, time::timeout};
use types::{AgentId, TenantId};

use super::{
    error::Error,
    model::{Epoch, Found, Key, Servers},
};
use crate::{Config, source::Seen};

/// How long a replica that is not heard of counts as living.
pub(crate) const LEASE: Duration = Duration::from_secs(15);
/// What a question may take, and what making a connection may.
const PATIENCE: Duration = Duration::from_millis(500);
const CONNECTING: Duration = Duration::from_secs(1);
/// After a failure Redis is left alone so long: nobody waits for it who need not.
const PAUSE: Duration = Duration::from_secs(1);
/// How long it is kept when an agent was last seen.
const KEPT: Duration = Duration::from_secs(90 * 86_400);
/// Agents that Redis is asked about at a time, so that others get a word in, and questions that one asks at once.
const AGENTS: usize = 256;
const AT_ONCE: usize = 4;
/// Servers of an agent that are listed; more are not.
const LISTED: usize = 64;
/// Stands for servers that are not listed, and for none.
const MANY: &str = "*";
const NONE: &str = "-";

/// Gives the cell whose Redis this is, which is the first that asks.
const MARK: &str = "redis.call('SET', KEYS[1], ARGV[1], 'NX') return redis.call('GET', KEYS[1])";

/// Why Redis says nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Away {
    #[error("no Redis is configured")]
    None,
    #[error("Redis failed a moment ago")]
    Avoided,
    #[error("Redis takes too long")]
    Slow,
    #[error("Redis is of {0}, another cell")]
    Foreign(String),
    #[error("Redis failed")]
    Failed(#[from] RedisError),
    #[error("Redis holds what nobody wrote")]
    Nonsense,
}

/// What became of a connection that was announced.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Announced {
    /// It counts. At these replicas there were older ones.
    Taken(Vec<SocketAddr>),
    /// There is a newer one.
    Older,
    /// This replica announced a later connection already.
    Stale,
    /// This replica does not count as living: everything is to be announced again.
    NoLease,
}

/// What the directory answers to a sign of life.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    /// Whether it had not forgotten this replica.
    pub(crate) known: bool,
    /// How many replicas live and do not leave.
    pub(crate) replicas: u32,
}

/// The replica whose directory it is.
#[derive(Clone, Debug)]
pub(crate) struct Replica {
    /// New with each start.
    pub(crate) id: String,
    /// Where other replicas reach it.
    pub(crate) address: SocketAddr,
}

/// The directory.
pub(crate) struct Directory {
    client: Option<Client>,
    connection: Mutex<Option<MultiplexedConnection>>,
    avoided: Lock<Option<Instant>>,
    prefix: String,
    home: String,
    replica: Replica,
    announce: Script,
    withdraw: Script,
    find: Script,
    lease: Script,
    seen: Script,
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory")
            .field("replica", &self.replica)
            .finish_non_exhaustive()
    }
}

impl Directory {
    /// Does not connect yet: Redis may be away. `home` is the region and cell.
    pub(crate) fn new(config: &Config, replica: Replica, home: String) -> Result<Self, Error> {
        Ok(Self {
            client: client(config)?,
            connection: Mutex::default(),
            avoided: Lock::default(),
            prefix: config.redis_prefix.clone(),
            home,
            replica,
            announce: Script::new(include_str!("lua/announce.lua")),
            withdraw: Script::new(include_str!("lua/withdraw.lua")),
            find: Script::new(include_str!("lua/find.lua")),
            lease: Script::new(include_str!("lua/lease.lua")),
            seen: Script::new(include_str!("lua/seen.lua")),
        })
    }

    /// Refuses the Redis of another cell. One that is away is looked at when it comes.
    pub(crate) async fn settle(&self) -> Result<(), Error> {
        match timeout(CONNECTING, self.connection()).await {
            Ok(Err(foreign @ Away::Foreign(_))) => Err(Error::Directory(foreign)),
            _ => Ok(()),
        }
    }

    /// The replica lives.
    pub(crate) async fn live(&self, leaving: bool) -> Result<Lease, Away> {
        let value = format!("{} {}", self.replica.address, u8::from(leaving));
        let mut call = self.lease.key(self.lease_key());
        call.key(format!("{}:replicas", self.prefix))
            .arg(value)
            .arg(LEASE.as_millis().to_string())
            .arg(&self.replica.id);
        // The sign of life is what finds out whether Redis is back.
        let (known, replicas): (u8, u32) = self.ask(&call).await?;
        Ok(Lease {
            known: known == 1,
            replicas,
        })
    }

    /// The replica does not live any more.
    pub(crate) async fn leave(&self) -> Result<(), Away> {
        let script = Script::new("redis.call('DEL', KEYS[1]) return redis.call('ZREM', KEYS[2], ARGV[1])");
        let mut call = script.key(self.lease_key());
        call.key(format!("{}:replicas", self.prefix))
            .arg(&self.replica.id);
        let _: u32 = self.call(&call).await?;
        Ok(())
    }

    /// This replica holds a connection of the agent.
    pub(crate) async fn announce(
        &self,
        key: Key,
        id: u64,
        epoch: &Epoch,
        servers: &Servers,
    ) -> Result<Announced, Away> {
        let mut call = self.announce.key(self.agent_key(key));
        call.key(self.seen_key(key))
            .arg(format!("{}:lease:", self.prefix))
            .arg(&self.replica.id)
            .arg(id)
            .arg(epoch.word())
            .arg(word_of(servers))
            .arg(KEPT.as_secs());
        let answer: Vec<String> = self.call(&call).await?;
        match answer.split_first() {
            Some((word, older)) if word == "taken" => {
                let older = older.iter().map(|address| address.parse());
                let older: Result<Vec<_>, _> = older.collect();
                Ok(Announced::Taken(older.map_err(|_| Away::Nonsense)?))
            }
            Some((word, _)) if word == "older" => Ok(Announced::Older),
            Some((word, _)) if word == "stale" => Ok(Announced::Stale),
            Some((word, _)) if word == "no lease" => Ok(Announced::NoLease),
            _ => Err(Away::Nonsense),
        }
    }

    /// This replica does not hold connection `id` of the agent any more. It is expected at another one for so long.
    pub(crate) async fn withdraw(&self, key: Key, id: u64, back: Duration) -> Result<(), Away> {
        let mut call = self.withdraw.key(self.agent_key(key));
        call.key(self.seen_key(key))
            .key(self.back_key(key))
            .arg(&self.replica.id)
            .arg(id)
            .arg(KEPT.as_secs())
            .arg(back.as_millis().to_string());
        let _: u8 = self.call(&call).await?;
        Ok(())
    }

    /// The connections of agents of a tenant at replicas that live.
    pub(crate) async fn find(&self, tenant: TenantId, agents: &[AgentId]) -> Result<Vec<Found>, Away> {
        let asked = agents.chunks(AGENTS).map(|agents| self.find_some(tenant, agents));
        let asked = stream::iter(asked.collect::<Vec<_>>()).buffered(AT_ONCE);
        let found: Vec<_> = asked.try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn find_some(&self, tenant: TenantId, agents: &[AgentId]) -> Result<Vec<Found>, Away> {
        let mut call = self.find.prepare_invoke();
        for agent in agents {
            let agent = *agent;
            call.key(self.agent_key(Key { tenant, agent }));
        }
        call.arg(format!("{}:lease:", self.prefix));
        let answer: Vec<String> = self.call(&call).await?;
        let found = answer.chunks_exact(5).map(|words| found(agents, words));
        found.collect::<Option<_>>().ok_or(Away::Nonsense)
    }

    /// Which of these agents was connected last, and when; none if that is not known.
    pub(crate) async fn seen(&self, tenant: TenantId, agents: &[AgentId]) -> Result<Option<Seen>, Away> {
        let mut last: Option<Seen> = None;
        for agents in agents.chunks(AGENTS) {
            let mut call = self.seen.prepare_invoke();
            for agent in agents {
                let agent = *agent;
                call.key(self.seen_key(Key { tenant, agent }));
            }
            let answer: Vec<u64> = self.call(&call).await?;
            let [number, seconds] = answer[..] else { continue };
            let place = usize::try_from(number)
                .ok()
                .and_then(|number| number.checked_sub(1));
            let agent = place.and_then(|place| agents.get(place)).ok_or(Away::Nonsense)?;
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            if last.is_none_or(|last| last.time < time) {
                last = Some(Seen { agent: *agent, time });
            }
        }
        Ok(last)
    }

    /// Whether one of these agents lost a connection a moment ago, and is on its way.
    pub(crate) async fn expects(&self, tenant: TenantId, agents: &[AgentId]) -> Result<bool, Away> {
        let script = Script::new("return redis.call('EXISTS', unpack(KEYS))");
        for agents in agents.chunks(AGENTS) {
            let mut call = script.prepare_invoke();
            for agent in agents {
                let agent = *agent;
                call.key(self.back_key(Key { tenant, agent }));
            }
            let count: u32 = self.call(&call).await?;
            if count > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn lease_key(&self) -> String {
        format!("{}:lease:{}", self.prefix, self.replica.id)
    }

    fn agent_key(&self, key: Key) -> String {
        format!("{}:agent:{}:{}", self.prefix, key.tenant, key.agent)
    }

    fn seen_key(&self, key: Key) -> String {
        format!("{}:seen:{}:{}", self.prefix, key.tenant, key.agent)
    }

    fn back_key(&self, key: Key) -> String {
        format!("{}:back:{}:{}", self.prefix, key.tenant, key.agent)
    }

    /// As [`Self::ask`], unless Redis failed a moment ago.
    async fn call<T: FromRedisValue>(&self, call: &ScriptInvocation<'_>) -> Result<T, Away> {
        let until = *self.avoided.lock().unwrap_or_else(PoisonError::into_inner);
        if until.is_some_and(|until| Instant::now() < until) {
            return Err(Away::Avoided);
        }
        self.ask(call).await
    }

    async fn ask<T: FromRedisValue>(&self, call: &ScriptInvocation<'_>) -> Result<T, Away> {
        let made = timeout(CONNECTING, self.connection()).await;
        let mut connection = match made.map_err(|_| Away::Slow).flatten() {
            Ok(connection) => connection,
            Err(error) => {
                self.avoid(true).await;
                return Err(error);
            }
        };
        let answer = within(call.invoke_async(&mut connection)).await;
        let failed = match &answer {
            Ok(_) => false,
            // One slow answer is no reason to leave others without Redis.
            Err(Away::Slow) => {
                let ping = redis::cmd("PING");
                within(ping.query_async::<String>(&mut connection)).await.is_err()
            }
            Err(_) => true,
        };
        self.avoid(failed).await;
        answer
    }

    /// It is left alone for a moment if it failed, and connected to again.
    async fn avoid(&self, failed: bool) {
        *self.avoided.lock().unwrap_or_else(PoisonError::into_inner) = failed.then(|| Instant::now() + PAUSE);
        if failed {
            *self.connection.lock().await = None;
        }
    }

    async fn connection(&self) -> Result<MultiplexedConnection, Away> {
        let client = self.client.as_ref().ok_or(Away::None)?;
        let mut slot = self.connection.lock().await;
        if let Some(connection) = &*slot {
            return Ok(connection.clone());
        }
        let options = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECTING))
            .set_response_timeout(Some(PATIENCE));
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&options)
            .await?;
        let mark = Script::new(MARK);
        let mut call = mark.key(format!("{}:cell", self.prefix));
        let marked: String = call.arg(&self.home).invoke_async(&mut connection).await?;
        if marked != self.home {
            return Err(Away::Foreign(marked));
        }
        *slot = Some(connection.clone());
        Ok(connection)
    }
}

/// An answer of Redis, if it comes in time.
async fn within<T>(answer: impl Future<Output = Result<T, RedisError>>) -> Result<T, Away> {
    match timeout(PATIENCE, answer).await {
        Ok(Err(error)) if error.is_timeout() => Err(Away::Slow),
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Away::Slow),
    }
}

fn client(config: &Config) -> Result<Option<Client>, Error> {
    let url = config.redis_url.expose();
    // The error may quote the URL, which holds the password.
    let unusable = |_: redis::RedisError| Error::RedisUrl;
    if url.is_empty() {
        return Ok(None);
    }
    let Some(file) = &config.redis_ca_file else {
        return Client::open(url).map(Some).map_err(unusable);
    };
    let root_cert = std::fs::read(file).map_err(|_| Error::RedisUrl)?;
    let certificates = TlsCertificates {
        client_tls: None,
        root_cert: Some(root_cert),
    };
    Client::build_with_tls(url, certificates)
        .map(Some)
        .map_err(unusable)
}

fn word_of(servers: &Servers) -> String {
    match servers {
        Servers::Many => MANY.to_owned(),
        Servers::These(these) if these.len() > LISTED => MANY.to_owned(),
        Servers::These(these) if these.is_empty() => NONE.to_owned(),
        Servers::These(these) => {
            let words: Vec<String> = these.iter().map(ToString::to_string).collect();
            words.join(",")
        }
    }
}

fn servers_of(word: &str) -> Option<Servers> {
    match word {
        MANY => Some(Servers::Many),
        NONE => Some(Servers::These(Vec::new())),
        words => {
            let these: Result<_, _> = words.split(',').map(str::parse).collect();
            Some(Servers::These(these.ok()?))
        }
    }
}

fn found(agents: &[AgentId], words: &[String]) -> Option<Found> {
    let [number, address, leaving, epoch, servers] = words else {
        return None;
    };
    let place: usize = number.parse().ok()?;
    Some(Found {
        agent: *agents.get(place.checked_sub(1)?)?,
        address: address.parse().ok()?,
        epoch: Epoch::from_word(epoch)?,
        leaving: leaving == "1",
        servers: servers_of(servers)?,
    })
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
