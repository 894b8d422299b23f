//! The windows in Redis: one script call decides all keys of a request.
use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use deadpool_redis::redis::{self, AsyncConnectionConfig, Client, Script, aio::MultiplexedConnection};
use rand::Rng as _;
use tokio::sync::Semaphore;

use super::{Key, breaker::Breaker, window::Verdict};

/// Calls of one gateway that Redis has before it at a time. More would only queue there, each running against its time-out; those that
/// wait here are still answered at once when one of their keys turns out to be used up.
const IN_FLIGHT: usize = 64;

/// Between two tries to mend the connection, give or take a fifth.
const RETRY: Duration = Duration::from_secs(1);

/// A gateway that has not been heard of for so many seconds no longer shares the limits.
const LEASE_SECS: u32 = 10;

const DECIDE: &str = concat!(
    include_str!("window.lua"),
    "\nlocal time = redis.call('TIME')\nreturn decide(tonumber(time[1]) * 1000000 + tonumber(time[2]), KEYS, ARGV)\n"
);

/// Gives the cell whose Redis this is, which is the first that asks.
const MARK: &str = "
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1])
";

const ENROL: &str = "
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[2]))
redis.call('EXPIRE', KEYS[1], 3600)
return redis.call('ZCARD', KEYS[1])
";

/// Where Redis is and how long it may take.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// What every key begins with.
    pub(crate) prefix: String,
    /// Region and cell that Redis is marked with.
    pub(crate) home: String,
    /// For one call.
    pub(crate) call_timeout: Duration,
    /// For a new connection.
    pub(crate) connect_timeout: Duration,
}

/// Why Redis gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Absence {
    #[error("Redis is being avoided since it failed")]
    Avoided,
    #[error("too many calls are waiting for Redis")]
    Busy,
    #[error("Redis took too long")]
    Slow,
    #[error("Redis is of {0}, another cell")]
    Foreign(String),
    #[error("Redis failed")]
    Failed(#[from] redis::RedisError),
}

/// One connection, all calls multiplexed on it.
pub(crate) struct Store {
    client: Client,
    options: Options,
    decide: Script,
    enrol: Script,
    /// This gateway among those that share the limits.
    member: String,
    connection: RwLock<Option<MultiplexedConnection>>,
    permits: Semaphore,
    breaker: Breaker,
}

impl Store {
    /// Not connected yet: [`Store::settle`] connects, and [`Store::mend`] where that could not.
    pub(crate) fn new(client: Client, options: Options) -> Arc<Self> {
        let store = Self {
            client,
            options,
            decide: Script::new(DECIDE),
            enrol: Script::new(ENROL),
            member: uuid::Uuid::now_v7().to_string(),
            connection: RwLock::new(None),
            permits: Semaphore::new(IN_FLIGHT),
            breaker: Breaker::default(),
        };
        store.breaker.open();
        Arc::new(store)
    }

    /// Whether calls go to Redis at present.
    pub(crate) fn is_used(&self) -> bool {
        self.breaker.is_closed()
    }

    fn connection(&self) -> Option<MultiplexedConnection> {
        self.connection
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn connect_to(&self, connection: Option<MultiplexedConnection>) {
        *self.connection.write().unwrap_or_else(PoisonError::into_inner) = connection;
    }

    /// Decides all of `keys` at once. `settled` is asked again after waiting in line: true ends the wait without a call.
    pub(crate) async fn decide(
        &self,
        keys: &[Key],
        settled: impl Fn() -> bool,
    ) -> Result<Option<Vec<Verdict>>, Absence> {
        if !self.breaker.is_closed() {
            return Err(Absence::Avoided);
        }
        let waiting = tokio::time::timeout(self.options.call_timeout, self.permits.acquire());
        let Ok(Ok(_permit)) = waiting.await else {
            return Err(Absence::Busy);
        };
        if settled() {
            return Ok(None);
        }
        // Whoever was before us may have found out.
        let Some(mut connection) = self.connection().filter(|_| self.breaker.is_closed()) else {
            return Err(Absence::Avoided);
        };
        let mut call = self.decide.prepare_invoke();
        for key in keys {
            let kind = key.limit.kind();
            call.key(format!("{}:rate:{}:{kind}", self.options.prefix, key.name));
            call.arg(kind)
                .arg(key.limit.units())
                .arg(key.limit.micros())
                .arg(key.cost.clamp(1, key.limit.units()));
        }
        let answer = tokio::time::timeout(
            self.options.call_timeout,
            call.invoke_async::<Vec<i64>>(&mut connection),
        )
        .await;
        match answer {
            Ok(Ok(answer)) => {
                self.breaker.succeeded();
                Ok(Some(verdicts(&answer)))
            }
            Ok(Err(error)) => {
                self.breaker.failed();
                Err(error.into())
            }
            Err(_) => {
                self.breaker.failed();
                Err(Absence::Slow)
            }
        }
    }

    /// Connects, so that the first request is counted in Redis already. Refuses the Redis of another cell; one that is away is looked at
    /// when it comes.
    pub(crate) async fn settle(&self) -> Result<(), Absence> {
        match self.connect().await {
            Ok(connection) => {
                self.mended(connection);
                Ok(())
            }
            Err(foreign @ Absence::Foreign(_)) => Err(foreign),
            Err(_) => Ok(()),
        }
    }

    fn mended(&self, connection: MultiplexedConnection) {
        self.connect_to(Some(connection));
        self.breaker.close();
        tracing::info!("Redis counts the rate limits");
    }

    /// Connects whenever the breaker is open. Never ends.
    pub(crate) async fn mend(self: Arc<Self>) {
        loop {
            self.breaker.until_open().await;
            self.connect_to(None);
            match self.connect().await {
                Ok(connection) => self.mended(connection),
                Err(error) => {
                    let reason = types::chain(&error);
                    tracing::warn!(
                        reason,
                        "Redis is away: rate limits are counted by each gateway for itself"
                    );
                    let part = rand::rng().random_range(0.8..1.2);
                    tokio::time::sleep(RETRY.mul_f64(part)).await;
                }
            }
        }
    }

    async fn connect(&self) -> Result<MultiplexedConnection, Absence> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.options.connect_timeout))
            .set_response_timeout(Some(self.options.connect_timeout.max(self.options.call_timeout)));
        let opening = async {
            let mut connection = self
                .client
                .get_multiplexed_async_connection_with_config(&config)
                .await?;
            self.decide.load_async(&mut connection).await?;
            let mark = Script::new(MARK);
            let mut mark = mark.key(format!("{}:cell", self.options.prefix));
            let marked: String = mark.arg(&self.options.home).invoke_async(&mut connection).await?;
            if marked != self.options.home {
                return Err(Absence::Foreign(marked));
            }
            Ok::<_, Absence>(connection)
        };
        // Name look-up, TCP, TLS and the script: each has its time-out; this one bounds their sum.
        match tokio::time::timeout(self.options.connect_timeout * 4, opening).await {
            Ok(connection) => connection,
            Err(_) => Err(Absence::Slow),
        }
    }

    /// Says that this gateway lives, and tells how many do. None when Redis does not answer.
    pub(crate) async fn enrol(&self) -> Option<u32> {
        let mut connection = self.connection().filter(|_| self.breaker.is_closed())?;
        let mut call = self.enrol.key(format!("{}:rate:gateways", self.options.prefix));
        call.arg(&self.member).arg(LEASE_SECS);
        let answer =
            tokio::time::timeout(self.options.connect_timeout, call.invoke_async(&mut connection)).await;
        answer.ok()?.ok()
    }
}

fn verdicts(answer: &[i64]) -> Vec<Verdict> {
    let pairs = answer.get(1..).unwrap_or_default().chunks_exact(2);
    pairs
        .map(|pair| {
            let time = u64::try_from(pair[1]).unwrap_or_default();
            match u32::try_from(pair[0]) {
                Ok(remaining) => Verdict::Admits {
                    remaining,
                    restored: time,
                },
                Err(_) => Verdict::Refuses { retry: time },
            }
        })
        .collect()
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
