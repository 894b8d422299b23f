//! Counting tries to sign in: in Redis for all replicas; where that fails, in memory and more strictly.
//!
//! The rule is that of [`crate::domain::throttle`]; a test runs both on the same tries.

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use deadpool_redis::redis::{
    AsyncConnectionConfig, Client, ErrorKind, RedisError, Script, ScriptInvocation, TlsCertificates,
    aio::MultiplexedConnection,
};
use types::{Micros, chain};

use crate::{
    Config, Error,
    domain::throttle::{ACCOUNT_WINDOW, DELAYS_KEPT, LONGEST_DELAY, Limits, NETWORK_WINDOW, Try, Windows},
};

/// What making a connection may take.
const CONNECTING: Duration = Duration::from_millis(500);

/// So many failures in a row, and Redis is left alone for [`PAUSE`].
const MOST_FAILURES: u32 = 3;

const PAUSE: Duration = Duration::from_secs(1);

/// Answers with the microseconds to wait; 0 is admitted and counted. KEYS: tries, delays, network (may be absent).
const ADMIT: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local id, account, tries = ARGV[1], ARGV[2], tonumber(ARGV[3])
local accounts = tonumber(ARGV[4])
local window, longest, kept, hour = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%d', now - window))
local delayed = tonumber(redis.call('GET', KEYS[2]) or '0')
local over = redis.call('ZCARD', KEYS[1]) >= tries
if over then
  local latest = tonumber(redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2])
  local wait = latest + math.min(2 ^ math.min(delayed, 32) * 1000000, longest) - now
  if wait > 0 then return string.format('%d', wait) end
end
if KEYS[3] then
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', string.format('%d', now - hour))
  if not redis.call('ZSCORE', KEYS[3], account) and redis.call('ZCARD', KEYS[3]) >= accounts then
    local oldest = tonumber(redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2])
    return string.format('%d', math.max(oldest + hour - now, 1))
  end
  redis.call('ZADD', KEYS[3], string.format('%d', now), account)
  redis.call('PEXPIRE', KEYS[3], string.format('%d', hour / 1000))
end
if over then redis.call('SET', KEYS[2], delayed + 1, 'PX', string.format('%d', kept / 1000)) end
redis.call('ZADD', KEYS[1], string.format('%d', now), id)
redis.call('PEXPIRE', KEYS[1], string.format('%d', window / 1000))
return '0'
";

/// Takes a try back. KEYS: tries, network (may be absent).
const FORGIVE: &str = r"
redis.call('ZREM', KEYS[1], ARGV[1])
if KEYS[2] then redis.call('ZREM', KEYS[2], ARGV[2]) end
return '0'
";

/// Gives the cell whose Redis this is, which is the first that asks. KEYS: the mark.
const MARK: &str = r"
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1])
";

const FOREIGN: &str = "the Redis of another cell";

/// The counters.
pub(crate) struct Throttle {
    /// Region and cell, as Redis is marked with; nowhere in unit tests.
    home: Option<String>,
    client: Client,
    /// The one connection; requests and answers of many calls share it.
    connection: tokio::sync::Mutex<Option<MultiplexedConnection>>,
    timeout: Duration,
    prefix: String,
    limits: Limits,
    admit: Script,
    forgive: Script,
    alone: Mutex<Windows>,
    failures: AtomicU32,
    paused_until: Mutex<Option<Instant>>,
}

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Throttle")
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl Throttle {
    /// Does not connect yet: Redis may be away.
    pub(crate) fn new(config: &Config, home: String) -> Result<Self, Error> {
        let url = config.redis_url.expose();
        // The error may quote the URL, which holds the password.
        let unusable = |_| Error::Internal("TRAILMESH_REDIS_URL or its authority cannot be used".to_owned());
        let client = match &config.redis_ca_file {
            None => Client::open(url).map_err(unusable)?,
            Some(file) => {
                let root_cert = std::fs::read(file);
                let root_cert =
                    root_cert.map_err(|error| Error::Internal(format!("{}: {error}", file.display())))?;
                let certificates = TlsCertificates {
                    client_tls: None,
                    root_cert: Some(root_cert),
                };
                Client::build_with_tls(url, certificates).map_err(unusable)?
            }
        };
        Ok(Self {
            home: Some(home),
            ..Self::over(client, config.redis_timeout, config.redis_prefix.clone())
        })
    }

    /// Refuses the Redis of another cell. One that is away is looked at when it comes.
    pub(crate) async fn settle(&self) -> Result<(), Error> {
        match tokio::time::timeout(CONNECTING, self.connection()).await {
            Ok(Err(error)) if error.kind() == ErrorKind::InvalidClientConfig => {
                Err(Error::Internal(format!("TRAILMESH_REDIS_URL: {}", chain(&error))))
            }
            _ => Ok(()),
        }
    }

    fn over(client: Client, timeout: Duration, prefix: String) -> Self {
        Self {
            home: None,
            client,
            connection: tokio::sync::Mutex::new(None),
            timeout,
            prefix,
            limits: Limits::SHARED,
            admit: Script::new(ADMIT),
            forgive: Script::new(FORGIVE),
            alone: Mutex::new(Windows::new(Limits::ALONE)),
            failures: AtomicU32::new(0),
            paused_until: Mutex::new(None),
        }
    }

    /// Counts a try, or says how long to wait; then nothing was counted.
    pub(crate) async fn admit(&self, a_try: &Try) -> Result<(), Error> {
        let micros = |duration: Duration| duration.as_micros().to_string();
        let mut call = self.admit.prepare_invoke();
        call.key(self.key("tries", &a_try.account))
            .key(self.key("delays", &a_try.account));
        if let Some(network) = &a_try.network {
            call.key(self.key("network", network));
        }
        call.arg(a_try.id)
            .arg(&a_try.account)
            .arg(self.limits.tries)
            .arg(self.limits.accounts);
        for duration in [ACCOUNT_WINDOW, LONGEST_DELAY, DELAYS_KEPT, NETWORK_WINDOW] {
            call.arg(micros(duration));
        }
        let waiting = match self.call(&call).await {
            Some(micros) => Duration::from_micros(micros),
            None => self.alone().admit(a_try, here()).err().unwrap_or_default(),
        };
        if waiting.is_zero() {
            return Ok(());
        }
        Err(Error::TooManyAttempts { retry_after: waiting })
    }

    /// Takes a try back that turned out right. Where that fails the try goes on counting.
    pub(crate) async fn forgive(&self, a_try: &Try) {
        let mut call = self.forgive.prepare_invoke();
        call.key(self.key("tries", &a_try.account));
        if let Some(network) = &a_try.network {
            call.key(self.key("network", network));
        }
        call.arg(a_try.id).arg(&a_try.account);
        self.call(&call).await;
        self.alone().forgive(a_try);
    }

    fn key(&self, kind: &str, name: &str) -> String {
        format!("{}:{kind}:{name}", self.prefix)
    }

    fn alone(&self) -> std::sync::MutexGuard<'_, Windows> {
        self.alone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What Redis answers, if it does in time.
    async fn call(&self, call: &ScriptInvocation<'_>) -> Option<u64> {
        if self.is_paused() {
            return None;
        }
        let problem = match self.ask(call).await {
            Ok(text) => match text.parse() {
                Ok(micros) => {
                    self.failures.store(0, Ordering::Relaxed);
                    return Some(micros);
                }
                Err(_) => "not a number".to_owned(),
            },
            Err(problem) => problem,
        };
        self.note_failure(&problem);
        None
    }

    async fn ask(&self, call: &ScriptInvocation<'_>) -> Result<String, String> {
        let connection = tokio::time::timeout(CONNECTING, self.connection()).await;
        let connection = connection.map_err(|_| "no connection in time".to_owned())?;
        let mut connection = connection.map_err(|error| chain(&error))?;
        let answer = tokio::time::timeout(self.timeout, call.invoke_async::<String>(&mut connection)).await;
        let problem = match answer {
            Ok(Ok(text)) => return Ok(text),
            Ok(Err(error)) => chain(&error),
            Err(_) => "no answer in time".to_owned(),
        };
        *self.connection.lock().await = None;
        Err(problem)
    }

    async fn connection(&self) -> Result<MultiplexedConnection, RedisError> {
        let mut slot = self.connection.lock().await;
        if let Some(connection) = &*slot {
            return Ok(connection.clone());
        }
        let options = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECTING))
            .set_response_timeout(Some(self.timeout));
        let mut connection = self
            .client
            .get_multiplexed_async_connection_with_config(&options)
            .await?;
        if let Some(home) = &self.home {
            let mark = Script::new(MARK);
            let mut call = mark.key(format!("{}:cell", self.prefix));
            let marked: String = call.arg(home).invoke_async(&mut connection).await?;
            if marked != *home {
                let words = format!("Redis is of {marked}, and this service is of {home}");
                return Err((ErrorKind::InvalidClientConfig, FOREIGN, words).into());
            }
        }
        *slot = Some(connection.clone());
        Ok(connection)
    }

    fn is_paused(&self) -> bool {
        let until = *self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    fn note_failure(&self, problem: &str) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::warn!(
            failures,
            "tries to sign in are counted in this replica only: Redis: {problem}"
        );
        if failures >= MOST_FAILURES {
            let until = Some(Instant::now() + PAUSE);
            *self.paused_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
        }
    }
}

/// This machine's clock, which is good enough for this machine's own counters.
fn here() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use deadpool_redis::redis::cmd;
    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

    use super::{Client, Limits, MultiplexedConnection, Throttle, Try, Windows, here};

    /// Its connection, which is made now: a try that came while it is made would be counted in memory.
    async fn patiently(throttle: &Throttle) -> MultiplexedConnection {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match throttle.connection().await {
                Ok(connection) => return connection,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        }
    }

    /// In memory time stands still, and in Redis the delays begin with minutes: so none becomes due in one of the two only, however slow the
    /// machine is.
    #[tokio::test]
    async fn redis_and_memory_answer_alike() {
        let limits = Limits {
            tries: 4,
            accounts: 3,
        };
        let redis = testkit::Redis::shared();
        let client = Client::open(redis.url.as_str()).unwrap();
        let mut throttle = Throttle::over(client, Duration::from_secs(5), testkit::Redis::prefix());
        throttle.limits = limits;
        let mut connection = patiently(&throttle).await;
        for account in 0..12 {
            let mut set = cmd("SET");
            set.arg(throttle.key("delays", &format!("account {account}")))
                .arg(9);
            set.exec_async(&mut connection).await.unwrap();
        }
        let mut windows = Windows::new(limits);
        let clock = here();
        let mut random = StdRng::seed_from_u64(7);
        let (mut admitted, mut refused) = (0, 0);
        for id in 0..200 {
            let network = random
                .random_bool(0.8)
                .then(|| format!("network {}", random.random_range(0..3)));
            let a_try = Try {
                account: format!("account {}", random.random_range(0..12)),
                network,
                id,
            };
            let remote = throttle.admit(&a_try).await.is_ok();
            assert_eq!(remote, windows.admit(&a_try, clock).is_ok(), "{a_try:?}");
            if remote {
                admitted += 1;
            } else {
                refused += 1;
            }
            if remote && random.random_bool(0.3) {
                throttle.forgive(&a_try).await;
                windows.forgive(&a_try);
            }
        }
        assert!(admitted > 20 && refused > 20, "{admitted} {refused}");
    }

    #[tokio::test]
    async fn the_redis_of_another_cell_is_refused() {
        let prefix = testkit::Redis::prefix();
        let throttle = |home: &str, url: &str| Throttle {
            home: Some(home.to_owned()),
            ..Throttle::over(Client::open(url).unwrap(), Duration::from_secs(5), prefix.clone())
        };
        let url = testkit::Redis::shared().url.as_str();
        throttle("eu/1", url).settle().await.unwrap();
        throttle("eu/1", url).settle().await.unwrap();
        for other in ["us/1", "eu/2"] {
            let refused = throttle(other, url).settle().await.unwrap_err();
            assert!(refused.to_string().contains("eu/1"), "{refused}");
        }
        throttle("us/1", "redis://127.0.0.1:1").settle().await.unwrap();
    }
}
