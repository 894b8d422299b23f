//! The server's processes behind the connections. Each remembers, for as long as it lives, the tables of every schema it has worked in:
//! some hundred kilobytes a tenant. So a connection is replaced after a number of tenants.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sqlx::{Postgres, pool::PoolConnection};
use tokio::{runtime::Handle, time::timeout};
use types::TenantId;

use crate::Settings;

/// How long saying goodbye may take.
const CLOSE_AT_MOST: Duration = Duration::from_millis(250);

/// What each process has seen.
#[derive(Debug)]
pub(crate) struct Backends {
    tenants_each: usize,
    connections: usize,
    /// Process, and the tenants it has worked for.
    seen: Mutex<HashMap<i32, HashSet<TenantId>>>,
    replaced: AtomicU64,
}

impl Backends {
    pub(crate) fn new(settings: &Settings) -> Self {
        let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        Self {
            tenants_each: count(settings.database_tenants_per_connection),
            connections: count(settings.database_max_connections),
            seen: Mutex::default(),
            replaced: AtomicU64::new(0),
        }
    }

    pub(crate) fn replaced(&self) -> u64 {
        self.replaced.load(Ordering::Relaxed)
    }

    fn knows(&self, process: i32, tenant: TenantId) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Processes that ended otherwise have left their lines here; to forget a living one costs only that it lives longer.
        if seen.len() > 4 * self.connections && !seen.contains_key(&process) {
            seen.clear();
        }
        seen.entry(process).or_default().insert(tenant);
    }

    /// Whether the process has seen enough; it is forgotten then.
    fn full(&self, process: i32) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let full = seen
            .get(&process)
            .is_some_and(|tenants| tenants.len() >= self.tenants_each);
        if full {
            seen.remove(&process);
        }
        full
    }
}

/// The process behind one transaction.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    all: Arc<Backends>,
    process: Option<i32>,
}

impl Backend {
    pub(crate) fn new(all: Arc<Backends>) -> Self {
        Self { all, process: None }
    }

    pub(crate) fn is(&mut self, process: Option<i32>) {
        self.process = process;
    }

    pub(crate) fn knows(&self, tenant: TenantId) {
        if let Some(process) = self.process {
            self.all.knows(process, tenant);
        }
    }

    /// Whether the process has seen enough.
    pub(crate) fn is_spent(&self) -> bool {
        let seen = self.all.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let tenants = self.process.and_then(|process| seen.get(&process));
        tenants.is_some_and(|tenants| tenants.len() >= self.all.tenants_each)
    }

    /// Gives the connection, which is clean, back to its pool; or ends it, so that the pool opens another.
    pub(crate) fn give_back(&self, connection: PoolConnection<Postgres>) {
        if !self.process.is_some_and(|process| self.all.full(process)) {
            return;
        }
        let count = self.all.replaced.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::debug!(count, "a connection that has seen many tenants is replaced");
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(timeout(CLOSE_AT_MOST, connection.close()))),
            Err(_) => drop(connection.detach()),
        }
    }
}
