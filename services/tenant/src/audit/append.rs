//! The writing end. Records of one tenant go to the database one batch after the other: what arrives while a batch is written makes up the
//! next one, so a tenant takes one connection however much it writes, and a commit carries many records.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use audit::Record;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::JoinSet,
    time::timeout_at,
};
use types::{Errand, TenantId};

use super::Error;
use crate::store::Store;

/// The most records of one batch.
const BATCH: usize = 200;

/// The most records of one tenant that wait.
const QUEUE: usize = 2_000;

/// The most tenants whose queues begin at the same moment.
const TENANTS: usize = 4_096;

/// Tenants that are written to at a time: the other connections are for readers.
const WRITERS: usize = 4;

/// For one batch.
const AT_MOST: Duration = Duration::from_secs(5);

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It is in the chain, under this number.
    Fresh(i64),
    /// It was there already.
    Already,
}

type Answer = Result<Written, Error>;

#[derive(Debug)]
struct Waiting {
    body: String,
    answer: oneshot::Sender<Answer>,
}

/// Appends to logs. Clones share their queues.
#[derive(Clone, Debug)]
pub(super) struct Appender {
    inner: Arc<Inner>,
    /// Tenants whose queue has just begun.
    begun: mpsc::Sender<TenantId>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    /// A tenant is in it while somebody writes for it.
    queues: Mutex<HashMap<TenantId, VecDeque<Waiting>>>,
    writers: Semaphore,
}

impl Appender {
    /// And the task that writes what is queued, for as long as there is an appender.
    pub(super) fn new(store: Store) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let inner = Arc::new(Inner {
            store,
            queues: Mutex::default(),
            writers: Semaphore::new(WRITERS),
        });
        let (begun, begins) = mpsc::channel(TENANTS);
        let writing = Arc::clone(&inner).write(begins);
        (Self { inner, begun }, writing)
    }

    /// Appends a record, and answers once it is durable.
    pub(super) async fn append(&self, tenant: TenantId, record: Record, deadline: Instant) -> Answer {
        let body = record.bounded().body().map_err(|_| Error::Stored(0))?;
        let (answer, told) = oneshot::channel();
        self.queue(tenant, Waiting { body, answer })?;
        match timeout_at(deadline.into(), told).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(Error::Late),
        }
    }

    fn queue(&self, tenant: TenantId, waiting: Waiting) -> Result<(), Error> {
        let mut queues = self.inner.queues();
        match queues.entry(tenant) {
            Entry::Occupied(mut queue) => {
                if queue.get().len() >= QUEUE {
                    return Err(Error::Busy);
                }
                queue.get_mut().push_back(waiting);
            }
            Entry::Vacant(place) => {
                self.begun.try_send(tenant).map_err(|_| Error::Busy)?;
                place.insert(VecDeque::from([waiting]));
            }
        }
        Ok(())
    }
}

impl Inner {
    fn queues(&self) -> MutexGuard<'_, HashMap<TenantId, VecDeque<Waiting>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next batch; none ends the writing for this tenant. Who no longer waits for an answer did nothing that must be written down.
    fn batch(&self, tenant: TenantId) -> Option<Vec<Waiting>> {
        let mut queues = self.queues();
        let queue = queues.get_mut(&tenant)?;
        let mut batch = Vec::new();
        while batch.len() < BATCH
            && let Some(waiting) = queue.pop_front()
        {
            if !waiting.answer.is_closed() {
                batch.push(waiting);
            }
        }
        if batch.is_empty() {
            queues.remove(&tenant);
            return None;
        }
        Some(batch)
    }

    /// Writes for each tenant whose queue begins, until nobody can queue any more.
    async fn write(self: Arc<Self>, mut begins: mpsc::Receiver<TenantId>) {
        let mut writing = JoinSet::new();
        loop {
            tokio::select! {
                begun = begins.recv() => match begun {
                    Some(tenant) => drop(writing.spawn(Arc::clone(&self).write_for(tenant))),
                    None => break,
                },
                Some(ended) = writing.join_next() => {
                    // A tenant whose writer is gone would wait for ever: better that the service begins anew.
                    if let Err(error) = ended && error.is_panic() {
                        std::panic::resume_unwind(error.into_panic());
                    }
                }
            }
        }
        while writing.join_next().await.is_some() {}
    }

    async fn write_for(self: Arc<Self>, tenant: TenantId) {
        loop {
            let turn = self.writers.acquire().await;
            let Some(batch) = self.batch(tenant) else {
                return;
            };
            let (bodies, answers): (Vec<_>, Vec<_>) = batch
                .into_iter()
                .map(|waiting| (waiting.body, waiting.answer))
                .unzip();
            let outcomes = self.write_each(tenant, &bodies).await;
            for (answer, outcome) in answers.into_iter().zip(outcomes) {
                // Who has gone away needs no answer.
                let _ = answer.send(outcome);
            }
            drop(turn);
        }
    }

    /// One that the database does not take must not fail those beside it.
    async fn write_each(&self, tenant: TenantId, bodies: &[String]) -> Vec<Answer> {
        let mut outcome = self.write_together(tenant, bodies).await;
        if let Err(Error::Service(error)) = &outcome
            && matches!(
                **error,
                crate::error::Error::Database(
                    pg::Error::Unavailable(_) | pg::Error::Conflict(_) | pg::Error::Unknown(_)
                )
            )
        {
            // Nothing is written twice: ids decide.
            outcome = self.write_together(tenant, bodies).await;
        }
        match outcome {
            Ok(answers) => answers,
            Err(error) if error.is_about_the_text() && bodies.len() > 1 => {
                let mut answers = Vec::with_capacity(bodies.len());
                for body in bodies {
                    let alone = self.write_together(tenant, std::slice::from_ref(body)).await;
                    answers.extend(alone.unwrap_or_else(|error| vec![Err(error)]));
                }
                answers
            }
            Err(error) => bodies.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn write_together(&self, tenant: TenantId, bodies: &[String]) -> Result<Vec<Answer>, Error> {
        let deadline = Instant::now() + AT_MOST;
        let numbers = self.store.append(&Errand { tenant, deadline }, bodies).await?;
        let answer = |number: i64| match number {
            -1 => Err(Error::NoIntent),
            0 => Ok(Written::Already),
            number => Ok(Written::Fresh(number)),
        };
        Ok(numbers.into_iter().map(answer).collect())
    }
}
