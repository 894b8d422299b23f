//! What all answers share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{timeout, timeout_at},
};
use trail::Stop;

use crate::{
    error::Error,
    pump::{self, Call},
    turns::{Plans, TURN, Turns},
};

/// How much at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Answers that read rows.
    pub streams: usize,
    /// Readings of rows. Each may hold the wanted rows of one segment.
    pub readers: usize,
    /// Short looks at a store.
    pub looks: usize,
    /// Plans: each holds the rows that it is about.
    pub plans: usize,
    /// Bytes of long messages that were read and are still held by anybody.
    pub bytes: usize,
    /// Rows of all plans that are watched, together.
    pub watched: usize,
}

impl Default for Limits {
    /// What fits an agent, which has 128 MB.
    fn default() -> Self {
        Self {
            streams: 64,
            readers: 2,
            looks: 4,
            plans: 1,
            bytes: 16 << 20,
            watched: 500_000,
        }
    }
}

/// Places and room for answers.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    streams: Arc<Semaphore>,
    readers: Arc<Turns>,
    looks: Arc<Turns>,
    plans: Plans,
    bytes: Arc<Semaphore>,
    watched: Arc<Semaphore>,
    /// How many streams there were.
    count: AtomicU64,
}

impl Budget {
    /// With these limits.
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            streams: Arc::new(Semaphore::new(limits.streams)),
            readers: Arc::new(Turns::new(limits.readers)),
            looks: Arc::new(Turns::new(limits.looks)),
            plans: Plans::new(limits.plans),
            bytes: Arc::new(Semaphore::new(limits.bytes)),
            watched: Arc::new(Semaphore::new(limits.watched)),
            count: AtomicU64::new(0),
        })
    }

    /// Readings of rows under way.
    pub fn readings(&self) -> usize {
        self.limits.readers - self.readers.free()
    }

    /// Bytes of long messages that somebody holds.
    pub fn held(&self) -> usize {
        self.limits.bytes - self.bytes.available_permits()
    }

    /// Has a short look at something, on a blocking thread. The look ends when nobody waits for it any more.
    ///
    /// # Errors
    /// Those of `work`, and when there was no turn or no time.
    pub async fn look<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl FnOnce(&Stop) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        pump::once(&self.looks, &Call { deadline }, work).await
    }

    /// A place for a call that reads rows.
    pub(crate) fn admit(&self) -> Result<OwnedSemaphorePermit, Error> {
        Arc::clone(&self.streams)
            .try_acquire_owned()
            .map_err(|_| Error::Busy)
    }

    pub(crate) fn readers(&self) -> &Arc<Turns> {
        &self.readers
    }

    pub(crate) fn looks(&self) -> &Arc<Turns> {
        &self.looks
    }

    pub(crate) fn plans(&self) -> &Plans {
        &self.plans
    }

    /// Places for the rows of plans that are watched.
    pub(crate) fn watched(&self) -> Arc<Semaphore> {
        Arc::clone(&self.watched)
    }

    /// The number of a new stream.
    pub(crate) fn number(&self) -> u64 {
        self.count.fetch_add(1, Ordering::Relaxed)
    }

    /// How much of that room a message takes. One that is larger than all of it has it alone.
    pub(crate) fn share(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.limits.bytes)).unwrap_or(u32::MAX)
    }

    /// Room for a long message of a stream. For its own message before, which is on its way, it waits as long as the reader of both likes; for
    /// those of others it does not.
    pub(crate) async fn room(
        &self,
        share: u32,
        own: &Arc<Semaphore>,
        deadline: Instant,
    ) -> Result<Room, Error> {
        let own = timeout_at(deadline.into(), Arc::clone(own).acquire_owned()).await;
        let Ok(Ok(own)) = own else {
            return Err(Error::Deadline);
        };
        let wait = TURN.min(deadline.saturating_duration_since(Instant::now()));
        match timeout(wait, Arc::clone(&self.bytes).acquire_many_owned(share)).await {
            Ok(Ok(shared)) => Ok(Room { shared, _own: own }),
            _ => Err(Error::Busy),
        }
    }
}

/// Room for one long message.
#[derive(Debug)]
pub(crate) struct Room {
    shared: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
}

impl Room {
    /// Whether it is enough.
    pub(crate) fn is_for(&self, share: u32) -> bool {
        self.shared.num_permits() >= share as usize
    }

    /// The message in its room, which is free again when nobody holds its bytes any more: neither the channel, nor the connection that writes them.
    pub(crate) fn keep(self, message: Bytes) -> Bytes {
        Bytes::from_owner(Kept { message, _room: self })
    }
}

struct Kept {
    message: Bytes,
    _room: Room,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.message
    }
}
