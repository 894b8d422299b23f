//! Reading happens on blocking threads, a slice at a time; what was read waits in a bounded channel. A stream that its reader does not empty
//! holds no thread and no open segment, and one that is dropped stops its reading.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::stream;
use prost::Message;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::{self, JoinHandle},
    time::{sleep, timeout, timeout_at},
};
use trail::Stop;

use crate::{
    budget::{Budget, Room},
    error::Error,
    plan::Made,
    request::Messages,
    turns::{Turn, Turns},
};

/// Messages up to so many bytes may wait wherever there is room for one: a stream has few such places.
const SMALL: usize = 128 << 10;
/// Messages of one stream that wait; one more may be held back.
const FRAMES: usize = 2;
/// An answer of one long message waits no longer for room.
const ROOM: Duration = Duration::from_secs(1);
/// A stream that nobody takes from for that long gives its turn away.
const STALL: Duration = Duration::from_millis(50);

/// When a call must have ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    /// Then.
    pub(crate) deadline: Instant,
}

/// Stops a reading when whoever waits for it goes.
struct Guard(Stop);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.stop();
    }
}

pub(crate) async fn once<T: Send + 'static>(
    turns: &Arc<Turns>,
    call: &Call,
    work: impl FnOnce(&Stop) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let permit = turns.take(call.deadline).await?;
    let stop = Stop::new(Some(call.deadline));
    let _guard = Guard(stop.clone());
    let turn = Turn::new(turns, &stop);
    let task = task::spawn_blocking(move || {
        let _turn = turn.begin(permit);
        work(&turn.stop())
    });
    match timeout_at(call.deadline.into(), task).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(Error::Internal("a reading ended by a panic")),
        Err(_) => Err(Error::Deadline),
    }
}

/// A reading in slices.
pub(crate) trait Work: Send + 'static {
    /// Goes on where the slice before ended, and gives frames to `out`. When that says that the slice is over, it lets go of what is open and
    /// returns [`Next::Later`].
    fn run(&mut self, stop: &Stop, out: &mut Out) -> Result<Next, Error>;

    /// Whether it takes a plan's place now.
    fn is_plan(&self) -> bool {
        false
    }

    /// Lets go of its plan, which may be given back; else it is made again.
    fn put_away(&mut self) -> Option<Made> {
        None
    }

    /// Has its plan again.
    fn take_back(&mut self, _: Made) {}
}

/// What follows a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing.
    End,
    /// The next slice.
    Later,
    /// The next slice, after a while.
    After(Duration),
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It was given, and the slice goes on.
    On,
    /// It was given, or will be before the next slice; this one is over.
    Over,
    /// There was no room for it, and it is gone: the slice is over, and the next one begins with the same message.
    Back,
}

/// Where the frames of one slice go.
#[derive(Debug)]
pub(crate) struct Out {
    frames: mpsc::Sender<Bytes>,
    budget: Arc<Budget>,
    own: Arc<Semaphore>,
    turn: Arc<Turn>,
    /// Room that was waited for.
    room: Option<Room>,
    /// What found no taker.
    held: Option<Bytes>,
    /// For how many bytes there was no room.
    lacks: Option<u32>,
}

impl Out {
    /// Gives a frame.
    pub(crate) fn send(&mut self, mut message: Bytes) -> Result<Sent, Error> {
        if message.len() > SMALL {
            let share = self.budget.share(message.len());
            let Some(room) = self.room(share) else {
                self.lacks = Some(share);
                return Ok(Sent::Back);
            };
            message = room.keep(message);
        }
        match Handle::current().block_on(timeout(STALL, self.frames.reserve())) {
            Ok(Ok(place)) => place.send(message),
            Ok(Err(_)) => return Err(Error::Deadline),
            Err(_) => {
                self.held = Some(message);
                return Ok(Sent::Over);
            }
        }
        Ok(if self.turn.is_over() { Sent::Over } else { Sent::On })
    }

    /// Room for so many bytes.
    fn room(&mut self, share: u32) -> Option<Room> {
        if let Some(room) = self.room.take_if(|room| room.is_for(share)) {
            return Some(room);
        }
        // Whoever keeps some and waits for more may wait for himself.
        self.room = None;
        let room = self.budget.room(share, &self.own, Instant::now() + STALL);
        Handle::current().block_on(room).ok()
    }
}

/// One stream between its slices.
struct Drive {
    budget: Arc<Budget>,
    call: Call,
    stop: Stop,
    state: State,
    turn: Arc<Turn>,
    /// Which stream it is.
    number: u64,
    /// Room that the next slice needs.
    lacks: Option<u32>,
    /// For the one long message of the stream that may be on its way.
    own: Arc<Semaphore>,
    _place: Option<OwnedSemaphorePermit>,
}

enum State {
    Idle(Box<dyn Work>),
    Running(mpsc::Receiver<Bytes>, JoinHandle<Slice>),
    Ended,
}

struct Slice {
    work: Box<dyn Work>,
    held: Option<Bytes>,
    lacks: Option<u32>,
    next: Result<Next, Error>,
}

/// The one message that `work` makes in a turn of `turns`. Dropping the stream stops it.
pub(crate) fn message<M: Message + 'static>(
    budget: &Arc<Budget>,
    turns: &Arc<Turns>,
    call: Call,
    place: Option<OwnedSemaphorePermit>,
    work: impl FnOnce(&Stop) -> Result<M, Error> + Send + 'static,
) -> Messages {
    let (budget, turns) = (Arc::clone(budget), Arc::clone(turns));
    Box::pin(stream::once(async move {
        let _place = place;
        let work = move |stop: &Stop| {
            let message = Bytes::from(work(stop)?.encode_to_vec());
            if message.len() <= SMALL {
                return Ok(message);
            }
            // Within the turn: there are few, so what waits for room is little.
            let (share, own) = (budget.share(message.len()), Arc::new(Semaphore::new(1)));
            let room = Handle::current().block_on(budget.room(share, &own, Instant::now() + ROOM));
            Ok(room.map_err(|_| Error::Busy)?.keep(message))
        };
        once(&turns, &call, work).await
    }))
}

/// The messages that `work` gives. Dropping the stream stops it.
pub(crate) fn messages(
    budget: &Arc<Budget>,
    call: Call,
    place: Option<OwnedSemaphorePermit>,
    work: Box<dyn Work>,
) -> Messages {
    let stop = Stop::new(Some(call.deadline));
    let drive = Drive {
        budget: Arc::clone(budget),
        call,
        state: State::Idle(work),
        turn: Turn::new(budget.readers(), &stop),
        stop,
        number: budget.number(),
        lacks: None,
        own: Arc::new(Semaphore::new(1)),
        _place: place,
    };
    Box::pin(stream::unfold(drive, |mut drive| async move {
        let message = match drive.next().await {
            Ok(message) => message.map(Ok),
            Err(error) => {
                drive.state = State::Ended;
                Some(Err(error))
            }
        };
        message.map(|message| (message, drive))
    }))
}

impl Drop for Drive {
    fn drop(&mut self) {
        self.stop.stop();
        drop(self.budget.plans().resume(self.number));
    }
}

impl Drive {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let deadline = self.call.deadline;
        loop {
            match std::mem::replace(&mut self.state, State::Ended) {
                State::Ended => return Ok(None),
                State::Idle(work) => self.state = self.start(work).await?,
                State::Running(mut frames, task) => {
                    let frame = timeout_at(deadline.into(), frames.recv()).await;
                    if let Some(frame) = frame.map_err(|_| Error::Deadline)? {
                        self.state = State::Running(frames, task);
                        return Ok(Some(frame));
                    }
                    let slice = task
                        .await
                        .map_err(|_| Error::Internal("a reading ended by a panic"))?;
                    self.lacks = slice.lacks;
                    match slice.next? {
                        Next::End => {}
                        Next::Later => self.state = State::Idle(slice.work),
                        Next::After(pause) => {
                            // What is held is given first.
                            self.state = State::Idle(slice.work);
                            if slice.held.is_none() {
                                let end = timeout_at(deadline.into(), sleep(pause)).await;
                                end.map_err(|_| Error::Deadline)?;
                            }
                        }
                    }
                    if let Some(frame) = slice.held {
                        return Ok(Some(frame));
                    }
                }
            }
        }
    }

    /// Begins a slice, once there is all that it needs.
    async fn start(&mut self, mut work: Box<dyn Work>) -> Result<State, Error> {
        let deadline = self.call.deadline;
        let mut place = None;
        if work.is_plan() {
            place = Some(match self.budget.plans().resume(self.number) {
                Some(resting) => {
                    resting.made.into_iter().for_each(|made| work.take_back(made));
                    resting.place
                }
                None => self.budget.plans().take(deadline).await?,
            });
        }
        let room = match self.lacks.take() {
            Some(share) => Some(self.budget.room(share, &self.own, deadline).await?),
            None => None,
        };
        let permit = self.budget.readers().take(deadline).await?;
        let (give, frames) = mpsc::channel(FRAMES);
        let mut out = Out {
            frames: give,
            budget: Arc::clone(&self.budget),
            own: Arc::clone(&self.own),
            turn: Arc::clone(&self.turn),
            room,
            held: None,
            lacks: None,
        };
        let (turn, stop) = (Arc::clone(&self.turn), self.turn.stop());
        let (budget, number) = (Arc::clone(&self.budget), self.number);
        let task = task::spawn_blocking(move || {
            let _turn = turn.begin(permit);
            let next = work.run(&stop, &mut out);
            if let (Some(place), Ok(Next::Later), true) = (place, &next, work.is_plan()) {
                budget.plans().rest(number, work.put_away(), place, &stop);
            }
            Slice {
                work,
                held: out.held.take(),
                lacks: out.lacks,
                next,
            }
        });
        Ok(State::Running(frames, task))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc, Mutex,
            atomic::{AtomicUsize, Ordering},
        },
        time::{Duration, Instant},
    };

    use bytes::Bytes;
    use futures_util::StreamExt as _;
    use tokio::task::{JoinSet, yield_now};
    use trail::Stop;

    use super::{Call, Next, Out, Sent, Work, messages};
    use crate::{Budget, Error, Limits};

    const LONG: usize = 300 << 10;
    const ROOM: usize = 1 << 20;
    const READERS: usize = 2;
    const STREAMS: usize = 64;

    /// How many bytes of messages there are, wherever they are, and were at most.
    #[derive(Debug, Default)]
    struct Alive {
        now: AtomicUsize,
        most: AtomicUsize,
    }

    struct Counted(Arc<Alive>, Vec<u8>);

    impl Counted {
        fn message(alive: &Arc<Alive>) -> Bytes {
            let now = alive.now.fetch_add(LONG, Ordering::SeqCst) + LONG;
            alive.most.fetch_max(now, Ordering::SeqCst);
            Bytes::from_owner(Self(Arc::clone(alive), vec![0; LONG]))
        }
    }

    impl AsRef<[u8]> for Counted {
        fn as_ref(&self) -> &[u8] {
            &self.1
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.now.fetch_sub(LONG, Ordering::SeqCst);
        }
    }

    /// An answer of long messages.
    struct Long {
        left: usize,
        alive: Arc<Alive>,
    }

    impl Work for Long {
        fn run(&mut self, _: &Stop, out: &mut Out) -> Result<Next, Error> {
            while self.left > 0 {
                let sent = out.send(Counted::message(&self.alive))?;
                if sent != Sent::Back {
                    self.left -= 1;
                }
                if sent != Sent::On {
                    return Ok(Next::Later);
                }
            }
            Ok(Next::End)
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn long_messages_that_are_taken_and_kept_stay_within_the_budget() {
        let budget = Budget::new(Limits {
            bytes: ROOM,
            readers: READERS,
            ..Limits::default()
        });
        let (alive, kept) = (Arc::<Alive>::default(), Arc::<Mutex<Vec<Bytes>>>::default());
        let call = Call {
            deadline: Instant::now() + Duration::from_secs(60),
        };
        let mut streams = JoinSet::new();
        for _ in 0..STREAMS {
            let work = Long {
                left: 1,
                alive: Arc::clone(&alive),
            };
            let mut answer = messages(&budget, call, None, Box::new(work));
            let kept = Arc::clone(&kept);
            streams.spawn(async move {
                let mut count = 0;
                while let Some(message) = answer.next().await {
                    kept.lock().expect("whole").push(message.expect("room in time"));
                    count += 1;
                }
                count
            });
        }
        // Nothing is let go before there is no room for another one.
        while !streams.is_empty() {
            if budget.held() + LONG > ROOM {
                kept.lock().expect("whole").clear();
            }
            while let Some(count) = streams.try_join_next() {
                assert_eq!(count.expect("no panic"), 1);
            }
            yield_now().await;
        }
        kept.lock().expect("whole").clear();
        assert_eq!((budget.held(), alive.now.load(Ordering::SeqCst)), (0, 0));
        // Beyond the budget there is what a reading has just made, before it has room for it.
        let most = alive.most.load(Ordering::SeqCst);
        assert!(most <= ROOM + READERS * LONG, "there were {most} bytes");
    }
}
