//! Connections that go from one call to the next without going through the pool. The pool gives the one that rested longest, so each call would meet
//! a process of the server that has been idle for long, and it asks each one that comes back whether it lives.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{Postgres, pool::PoolConnection};
use tokio::{runtime::Handle, time::sleep};

/// So many are kept, and no more than a quarter of the pool: the rest is for everybody.
const MOST: u32 = 4;

/// One that rested so long goes back to the pool, and so does one that was away from it for long: the pool decides how old it may get.
const IDLE: Duration = Duration::from_secs(5);
const AWAY: Duration = Duration::from_secs(60);

/// One of them.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) connection: PoolConnection<Postgres>,
    /// When it left the pool.
    pub(crate) left: Instant,
}

impl From<PoolConnection<Postgres>> for Kept {
    fn from(connection: PoolConnection<Postgres>) -> Self {
        Self {
            connection,
            left: Instant::now(),
        }
    }
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Warm {
    most: usize,
    resting: Mutex<Resting>,
}

#[derive(Debug, Default)]
struct Resting {
    /// The one that was used last comes last.
    kept: Vec<(Kept, Instant)>,
    /// Whether somebody looks after them.
    watched: bool,
    closed: bool,
}

/// Without a runtime a connection cannot go back to its pool, and may not try.
impl Drop for Resting {
    fn drop(&mut self) {
        if Handle::try_current().is_err() {
            for (kept, _) in self.kept.drain(..) {
                drop(kept.connection.detach());
            }
        }
    }
}

impl Warm {
    /// Of a pool of so many connections.
    pub(crate) fn of(connections: u32) -> Self {
        let most = usize::try_from(MOST.min(connections / 4)).unwrap_or_default();
        Self {
            most,
            resting: Mutex::default(),
        }
    }

    fn resting(&self) -> MutexGuard<'_, Resting> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that was used last.
    pub(crate) fn take(&self) -> Option<Kept> {
        self.resting().kept.pop().map(|(kept, _)| kept)
    }

    /// For the next call. Dropped, a connection goes back to its pool.
    pub(crate) fn keep(self: &Arc<Self>, kept: Kept) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let mut resting = self.resting();
        if resting.closed || resting.kept.len() >= self.most || kept.left.elapsed() > AWAY {
            return;
        }
        resting.kept.push((kept, Instant::now()));
        if !std::mem::replace(&mut resting.watched, true) {
            drop(runtime.spawn(Arc::clone(self).watch()));
        }
    }

    /// Gives back what rests for long, until there is none.
    async fn watch(self: Arc<Self>) {
        loop {
            sleep(IDLE).await;
            let mut resting = self.resting();
            resting.kept.retain(|(_, since)| since.elapsed() < IDLE);
            if resting.kept.is_empty() {
                resting.watched = false;
                return;
            }
        }
    }

    /// From now on none is kept.
    pub(crate) fn close(&self) {
        let mut resting = self.resting();
        resting.closed = true;
        resting.kept.clear();
    }
}
