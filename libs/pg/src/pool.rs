//! Connections, shared by all requests of a service.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{PgPool, Postgres, pool::PoolConnection, postgres::PgPoolOptions};
use tokio::time::timeout_at;
use types::{Errand, Region, Scope};

use crate::{
    Error, Home, Settings, Transaction,
    backends::Backends,
    entrance::Side,
    home,
    transaction::at_once,
    warm::{Kept, Warm},
};

/// A database in which nobody could begin anything for this long is taken for unreachable: who waits for a connection is told then, and
/// not at the deadline. A pool that is merely busy is waited for.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);

/// sqlx wants a bound of its own; the deadline is nearly always nearer.
const ACQUIRE_AT_MOST: Duration = Duration::from_secs(60);

/// How long [`Pool::open`] waits for the database: a person waits at a terminal.
const OPEN_AT_MOST: Duration = Duration::from_secs(10);

/// How long [`Pool::open_in`] does: a service may start together with its database.
const START_AT_MOST: Duration = Duration::from_secs(30);

/// The database of one service. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Pool {
    connections: PgPool,
    service: &'static str,
    most: u32,
    opened: Instant,
    /// When a transaction last began: milliseconds after `opened`.
    alive: Arc<AtomicU64>,
    backends: Arc<Backends>,
    warm: Arc<Warm>,
}

impl Pool {
    /// Opens it and sees that the database answers, that its migrations have been run, and that the role can do no more than it should.
    ///
    /// # Errors
    /// When a setting is wrong, or the database does not answer within ten seconds.
    pub async fn open(settings: &Settings, service: &'static str, dev: bool) -> Result<Self, Error> {
        Self::open_within(OPEN_AT_MOST, settings, service, dev).await
    }

    async fn open_within(
        time: Duration,
        settings: &Settings,
        service: &'static str,
        dev: bool,
    ) -> Result<Self, Error> {
        let options = settings.options(&format!("trailmesh-{service}"), dev)?;
        let most = settings.database_max_connections;
        let connections = PgPoolOptions::new()
            .max_connections(most)
            .min_connections(0)
            .acquire_timeout(ACQUIRE_AT_MOST)
            .idle_timeout(Duration::from_secs(300))
            .max_lifetime(Duration::from_secs(1800))
            // Beginning a transaction is the test.
            .test_before_acquire(false)
            .connect_lazy_with(options);
        let pool = Self {
            connections,
            service,
            most,
            opened: Instant::now(),
            alive: Arc::default(),
            backends: Arc::new(Backends::new(settings)),
            warm: Arc::new(Warm::of(most)),
        };
        let deadline = Instant::now() + time;
        loop {
            match pool.ping(deadline).await {
                Err(Error::Unavailable(_)) if Instant::now() < deadline => {}
                outcome => return outcome.map(|()| pool),
            }
        }
    }

    /// As [`Self::open`], and the database must be that of this part of the installation. One that is nobody's yet becomes its.
    ///
    /// # Errors
    /// As [`Self::open`], but after half a minute, and [`Error::Elsewhere`].
    pub async fn open_in(
        settings: &Settings,
        service: &'static str,
        dev: bool,
        region: Region,
        cell: &str,
    ) -> Result<Self, Error> {
        let pool = Self::open_within(START_AT_MOST, settings, service, dev).await?;
        let home = Home {
            region,
            cell: cell.to_owned(),
        };
        let deadline = Instant::now() + START_AT_MOST;
        loop {
            match pool.settle(&home, deadline).await {
                Err(Error::Unavailable(_)) if Instant::now() < deadline => {}
                outcome => return outcome.map(|()| pool),
            }
        }
    }

    async fn settle(&self, home: &Home, deadline: Instant) -> Result<(), Error> {
        let mut transaction = self.shared(deadline).await?;
        home::settle(&mut *transaction, home).await?;
        transaction.commit().await
    }

    /// How many connections were replaced so far because they had seen many tenants.
    pub fn replaced(&self) -> u64 {
        self.backends.replaced()
    }

    /// Whether the database answers, by `deadline`, and the role can do no more than it should.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self, deadline: Instant) -> Result<(), Error> {
        let mut transaction = self.shared(deadline).await?;
        let unbound: bool = sqlx::query_scalar(
            "SELECT rolsuper OR rolbypassrls OR rolcreaterole FROM pg_catalog.pg_roles WHERE rolname = session_user",
        )
        .fetch_one(&mut *transaction)
        .await?;
        transaction.rollback().await;
        if unbound {
            return Err(crate::SettingsError {
                name: "TRAILMESH_DATABASE_URL",
                problem: "its user is a superuser, passes row level security, or makes roles".to_owned(),
                remedy: format!("use the user trailmesh_{}", self.service),
            }
            .into());
        }
        Ok(())
    }

    /// A transaction in the service's own schema.
    ///
    /// # Errors
    /// When there is no connection, or the deadline passes first. Nothing has happened then.
    pub async fn shared(&self, deadline: Instant) -> Result<Transaction, Error> {
        self.begin(Side::Shared, deadline).await
    }

    /// A transaction in the schema of the scope's tenant.
    ///
    /// # Errors
    /// As [`Self::shared`].
    pub async fn tenant(&self, scope: &Scope) -> Result<Transaction, Error> {
        self.begin(Side::Tenant(scope.tenant()), scope.deadline).await
    }

    /// A transaction in the schema of the errand's tenant.
    ///
    /// # Errors
    /// As [`Self::shared`].
    pub async fn errand(&self, errand: &Errand) -> Result<Transaction, Error> {
        self.begin(Side::Tenant(errand.tenant), errand.deadline).await
    }

    /// Calls `function`, which takes an array of texts and gives a row for each number, in a transaction of its own in the schema of the errand's
    /// tenant, and keeps what it did: one round trip. The function must bear being called again with the same texts, because a connection that
    /// breaks is replaced by another one and nobody knows how far it came.
    ///
    /// # Errors
    /// As those of a transaction, its statement and its commit. [`Error::Unknown`] where the last connection broke, or the time was over.
    pub async fn call(
        &self,
        errand: &Errand,
        function: &'static str,
        texts: &[String],
    ) -> Result<Vec<i64>, Error> {
        let words = at_once::words(function, texts);
        let (mut attempts, mut doubtful, deadline) = (0, false, errand.deadline);
        loop {
            let called = self.attempt(errand, &words, attempts == 0).await;
            attempts += 1;
            match called {
                Err(error @ (Error::Unavailable(_) | Error::Unknown(_)))
                    if attempts <= self.most && Instant::now() < deadline =>
                {
                    doubtful |= !error.certainly_not_done();
                }
                // As in `begin`.
                Err(Error::NoSuchTenant) if attempts == 1 => {}
                // What became of an earlier attempt is not known.
                Err(error) if doubtful => return Err(error.while_committing()),
                called => return called,
            }
        }
    }

    async fn attempt(&self, errand: &Errand, words: &str, first: bool) -> Result<Vec<i64>, Error> {
        let kept = match self.warm.take() {
            Some(kept) => kept,
            None => Kept::from(self.acquire(errand.deadline).await?),
        };
        let calling = self.call_on(kept, errand, words);
        if !first {
            return calling.await;
        }
        // A connection that answers nothing may not eat all the time.
        let now = Instant::now();
        let patience = now + errand.deadline.saturating_duration_since(now) / 2;
        let called = timeout_at(patience.into(), calling).await;
        called.unwrap_or(Err(Error::Unknown(None)))
    }

    async fn call_on(&self, kept: Kept, errand: &Errand, words: &str) -> Result<Vec<i64>, Error> {
        let Kept { connection, left } = kept;
        let backends = Arc::clone(&self.backends);
        let called = Transaction::at_once(connection, self.service, errand, backends, words);
        let (numbers, connection, backend) = called.await?;
        self.alive.store(self.now(), Ordering::Relaxed);
        if backend.is_spent() {
            backend.give_back(connection);
        } else {
            self.warm.keep(Kept { connection, left });
        }
        Ok(numbers)
    }

    /// Pooled connections may have died unnoticed; each is tried at most once, and nothing is lost by trying.
    async fn begin(&self, side: Side, deadline: Instant) -> Result<Transaction, Error> {
        let mut attempts = 0;
        if deadline <= Instant::now() {
            return Err(Error::Timeout(None));
        }
        loop {
            let connection = self.acquire(deadline).await?;
            let begun = async {
                Transaction::begin(
                    connection,
                    self.service,
                    side,
                    deadline,
                    Arc::clone(&self.backends),
                )
                .await
            };
            // A connection that answers nothing may not eat all the time.
            let now = Instant::now();
            let patience = now + deadline.saturating_duration_since(now) / 2;
            let outcome = match timeout_at(patience.into(), begun).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Error::Timeout(None)),
            };
            attempts += 1;
            match outcome {
                Err(Error::Unavailable(_) | Error::Timeout(_))
                    if attempts <= self.most && Instant::now() < deadline => {}
                // Nobody is told that a tenant is gone because one session says so.
                Err(Error::NoSuchTenant) if attempts == 1 && Instant::now() < deadline => {}
                Ok(transaction) => {
                    self.alive.store(self.now(), Ordering::Relaxed);
                    return Ok(transaction);
                }
                outcome => return outcome,
            }
        }
    }

    async fn acquire(&self, deadline: Instant) -> Result<PoolConnection<Postgres>, Error> {
        let mut connection = pin!(self.connections.acquire());
        loop {
            let patience = deadline.min(Instant::now() + SIGN_OF_LIFE);
            if let Ok(outcome) = timeout_at(patience.into(), &mut connection).await {
                return Ok(outcome?);
            }
            let silence = self.now().saturating_sub(self.alive.load(Ordering::Relaxed));
            if Instant::now() >= deadline || u128::from(silence) >= SIGN_OF_LIFE.as_millis() {
                return Err(Error::Unavailable(sqlx::Error::PoolTimedOut));
            }
        }
    }

    /// Milliseconds after opening.
    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Closes all connections, once they are given back.
    pub async fn close(&self) {
        self.warm.close();
        self.connections.close().await;
    }
}
