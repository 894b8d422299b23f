//! Turns: who may read, who waits, and how a reading that finds nothing lets others go first.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use trail::Stop;

use crate::{error::Error, plan::Made};

/// Nobody waits longer for a turn.
pub(crate) const TURN: Duration = Duration::from_secs(10);
/// A reading that others wait for gives its turn away after that long.
const SLICE: Duration = Duration::from_millis(200);
/// A reading that waits for its next turn looks that often whether it is still wanted.
const LOOK: Duration = Duration::from_millis(20);

/// Turns at something, and how many wait for one.
#[derive(Debug)]
pub(crate) struct Turns {
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Turns {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(most)),
            waiting: AtomicUsize::new(0),
        }
    }

    /// How many are free.
    pub(crate) fn free(&self) -> usize {
        self.free.available_permits()
    }

    /// Whether somebody waits.
    fn are_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// A turn, for whoever waits for it.
    pub(crate) async fn take(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, Error> {
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
            return Ok(permit);
        }
        let _waiting = Waiting::new(self);
        self.wait(deadline).await
    }

    async fn wait(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, Error> {
        let wait = TURN.min(deadline.saturating_duration_since(Instant::now()));
        match timeout(wait, Arc::clone(&self.free).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Error::Busy),
        }
    }
}

struct Waiting<'a>(&'a Turns);

impl<'a> Waiting<'a> {
    fn new(turns: &'a Turns) -> Self {
        turns.waiting.fetch_add(1, Ordering::Relaxed);
        Self(turns)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One reading's turn. Between two parts of a store it goes to whoever waits for one, and is waited for again.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Arc<Turns>,
    stop: Stop,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    _permit: Option<OwnedSemaphorePermit>,
    since: Instant,
}

impl Turn {
    /// None yet, for a reading that `stop` ends.
    pub(crate) fn new(turns: &Arc<Turns>, stop: &Stop) -> Arc<Self> {
        Arc::new(Self {
            turns: Arc::clone(turns),
            stop: stop.clone(),
            held: Mutex::new(Held {
                _permit: None,
                since: Instant::now(),
            }),
        })
    }

    /// The stop for the reading itself, which pauses for others.
    pub(crate) fn stop(self: &Arc<Self>) -> Stop {
        let turn = Arc::clone(self);
        self.stop.pausing(Arc::new(move || turn.pause()))
    }

    /// It is this reading's turn until what is returned is dropped.
    pub(crate) fn begin(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> impl Drop + use<> {
        self.have(Some(permit));
        Ends(Arc::clone(self))
    }

    /// Whether it has been long enough, and others wait.
    pub(crate) fn is_over(&self) -> bool {
        self.turns.are_wanted() && self.held().since.elapsed() > SLICE
    }

    fn have(&self, permit: Option<OwnedSemaphorePermit>) {
        let before = std::mem::replace(
            &mut *self.held(),
            Held {
                _permit: permit,
                since: Instant::now(),
            },
        );
        drop(before);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets others go first, if they wait. Blocks.
    fn pause(&self) {
        if !self.is_over() {
            return;
        }
        self.have(None);
        let permit = Handle::current().block_on(self.again());
        self.have(permit);
    }

    /// The next turn; none once nobody wants the answer any more.
    async fn again(&self) -> Option<OwnedSemaphorePermit> {
        let _waiting = Waiting::new(&self.turns);
        let mut next = pin!(Arc::clone(&self.turns.free).acquire_owned());
        loop {
            tokio::select! {
                permit = &mut next => return permit.ok(),
                () = sleep(LOOK) => if self.stop.is_wanted() {
                    return None;
                },
            }
        }
    }
}

struct Ends(Arc<Turn>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.have(None);
    }
}

/// The places for plans, and the plan that rests in one because nobody reads it at the moment.
#[derive(Debug)]
pub(crate) struct Plans {
    turns: Turns,
    resting: Mutex<Option<Resting>>,
}

/// A plan in its place.
pub(crate) struct Resting {
    /// The stream that it belongs to.
    whose: u64,
    pub(crate) made: Option<Made>,
    pub(crate) place: OwnedSemaphorePermit,
}

impl std::fmt::Debug for Resting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Resting({})", self.whose)
    }
}

impl Plans {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            turns: Turns::new(most),
            resting: Mutex::default(),
        }
    }

    /// A place. A plan that rests in it goes; it is made again when somebody reads on.
    pub(crate) async fn take(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, Error> {
        let _waiting = Waiting::new(&self.turns);
        drop(self.resting().take());
        self.turns.wait(deadline).await
    }

    /// Lets a plan rest, unless somebody waits for its place or nobody for the plan.
    pub(crate) fn rest(&self, whose: u64, made: Option<Made>, place: OwnedSemaphorePermit, stop: &Stop) {
        let mut resting = self.resting();
        if !stop.is_wanted() && !self.turns.are_wanted() {
            *resting = Some(Resting { whose, made, place });
        }
    }

    /// What rests of this stream, if it does still.
    pub(crate) fn resume(&self, whose: u64) -> Option<Resting> {
        self.resting().take_if(|resting| resting.whose == whose)
    }

    fn resting(&self) -> MutexGuard<'_, Option<Resting>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, AtomicU64, Ordering},
        },
        time::{Duration, Instant},
    };

    use tokio::task::{JoinHandle, spawn_blocking, yield_now};
    use trail::Stop;

    use super::{SLICE, Turn, Turns};

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    /// A reading that finds nothing, and pauses again and again as a search does between two parts of a store.
    struct Search {
        looks: Arc<AtomicU64>,
        ended: Arc<AtomicBool>,
        task: JoinHandle<()>,
    }

    impl Search {
        async fn begin(turns: &Arc<Turns>, stop: &Stop) -> Self {
            let turn = Turn::new(turns, stop);
            let permit = turns.take(soon()).await.expect("a turn");
            let (looks, ended) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
            let (look, end) = (Arc::clone(&looks), Arc::clone(&ended));
            let task = spawn_blocking(move || {
                let _turn = turn.begin(permit);
                while !end.load(Ordering::Relaxed) {
                    turn.pause();
                    look.fetch_add(1, Ordering::Relaxed);
                }
            });
            Self { looks, ended, task }
        }

        /// Waits until it has looked again.
        async fn looks(&self) {
            let (before, by) = (self.looks.load(Ordering::Relaxed), soon());
            while self.looks.load(Ordering::Relaxed) == before {
                assert!(Instant::now() < by, "it does not go on");
                yield_now().await;
            }
        }

        async fn end(mut self) {
            self.ended.store(true, Ordering::Relaxed);
            (&mut self.task).await.expect("no panic");
        }
    }

    impl Drop for Search {
        fn drop(&mut self) {
            // A test that fails ends, too.
            self.ended.store(true, Ordering::Relaxed);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_search_lets_others_go_first_and_goes_on_after_them() {
        let turns = Arc::new(Turns::new(1));
        let search = Search::begin(&turns, &Stop::new(None)).await;
        search.looks().await;
        assert_eq!(turns.free(), 0, "it gave its turn to nobody");
        let begun = Instant::now();
        let other = turns.take(soon()).await.expect("the search's turn");
        assert!(begun.elapsed() < 10 * SLICE, "{:?}", begun.elapsed());
        // It stands still while another reads.
        let before = search.looks.load(Ordering::Relaxed);
        let third = turns.take(Instant::now() + SLICE).await;
        assert!(third.is_err(), "two have one turn");
        assert!(search.looks.load(Ordering::Relaxed) <= before + 1);
        drop(other);
        search.looks().await;
        assert_eq!(turns.free(), 0);
        search.end().await;
        assert_eq!(turns.free(), 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_search_that_nobody_wants_any_more_waits_for_no_turn() {
        let turns = Arc::new(Turns::new(1));
        let stop = Stop::new(None);
        let search = Search::begin(&turns, &stop).await;
        let other = turns.take(soon()).await.expect("the search's turn");
        stop.stop();
        search.looks().await;
        assert_eq!(turns.free(), 0, "the other's turn is its own");
        search.end().await;
        drop(other);
        assert_eq!(turns.free(), 1);
    }
}
