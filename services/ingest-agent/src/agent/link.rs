//! Connections to the hub: dialled by the agent, answered by it too.
//!
//! After the handshake the roles flip. The agent is the HTTP/2 server, service `query` its only client, and the first call on each connection is
//! Hello, by which the agent learns which replica it has reached. [`Circle`] decides how many connections there are and which go.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rand::Rng as _;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::{Id, JoinError, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::util::BoxCloneService;
use types::{Code, chain};

use super::{
    backoff::Backoff,
    circle::{Circle, Number},
    dial::{Dialer, Inside, Papers, Room},
    error::{DUPLICATE, Error},
    seam::{Line, Word},
};

/// Calls at a time on one connection. Of those that carry rows fewer are let in, and told so: Hello always finds a place.
const STREAMS: u32 = 128;
/// What the hub may send ahead: to one call, and on one connection. Requests are small.
const WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 512 << 10;
/// What of an answer waits for the hub's window.
const AHEAD: usize = 128 << 10;
const HEADERS: u32 = 32 << 10;
/// Is the hub there still? A connection that is open at one end only is found after both.
const PING: Duration = Duration::from_secs(20);
const PONG: Duration = Duration::from_secs(10);
/// A replacement for the only connection that there is, when its replica leaves, is dialled within this: a mesh that restarts has no patience.
const ALONE: Duration = Duration::from_secs(2);
/// News that wait.
const NEWS: usize = 64;

/// What answers on a connection.
pub type Answering = BoxCloneService<Request<Incoming>, Response<Body>, Infallible>;
/// Makes it for each.
pub type Answers = Arc<dyn Fn(Line) -> Answering + Send + Sync>;

/// How patient an agent is.
#[derive(Clone, Copy, Debug)]
pub struct Tempo {
    /// Between two looks at the assignment.
    pub refresh: Duration,
    /// The same at the beginning and after each change, when people are at work.
    pub eager: Duration,
    /// Longest wait for the hub's first call.
    pub hello: Duration,
    /// A replacement for a replica that leaves is dialled within this, at random.
    pub leaving: Duration,
    /// How often a look is taken whether there are more replicas now.
    pub look: Duration,
    /// How long calls that run may go on when their connection was replaced by another one.
    pub handover: Duration,
    /// The same when the agent itself ends.
    pub drain: Duration,
    /// How long a mesh that refuses this agent is left alone.
    pub barred: Duration,
    /// So long the mesh must have said that the agent was revoked before it stops following for good.
    pub revoked: Duration,
}

impl Default for Tempo {
    fn default() -> Self {
        Self {
            refresh: Duration::from_secs(60),
            eager: Duration::from_secs(10),
            hello: Duration::from_secs(10),
            leaving: Duration::from_secs(10),
            look: Duration::from_secs(300),
            // As long as the longest call may take.
            handover: Duration::from_secs(60),
            drain: Duration::from_secs(10),
            barred: Duration::from_secs(180),
            revoked: Duration::from_secs(600),
        }
    }
}

/// All connections to the hub.
pub(super) struct Links {
    pub(super) dialer: Dialer,
    pub(super) papers: watch::Receiver<Arc<Papers>>,
    pub(super) answers: Answers,
    pub(super) tempo: Tempo,
    /// The assignment is to be looked at again.
    pub(super) refresh: Arc<Notify>,
    /// To which replicas there are connections.
    pub(super) replicas: watch::Sender<Vec<String>>,
}

/// What is known while they run.
struct State {
    circle: Circle,
    ends: BTreeMap<Number, CancellationToken>,
    tasks: JoinSet<Over>,
    /// Which connection a task is.
    numbers: BTreeMap<Id, Number>,
    backoff: Backoff,
    next: Instant,
    last: Number,
}

/// How a connection ended.
struct Over {
    number: Number,
    /// How long after the greeting.
    lived: Duration,
    error: Option<Error>,
    /// It was told to.
    told: bool,
    /// The other side ended it, and not because something broke.
    parted: bool,
}

impl State {
    /// Which connection ended, and how; a task that panicked is one too.
    fn over(&mut self, ended: Result<(Id, Over), JoinError>) -> Over {
        match ended {
            Ok((task, over)) => {
                self.numbers.remove(&task);
                over
            }
            Err(error) => Over {
                number: self.numbers.remove(&error.id()).unwrap_or_default(),
                lived: Duration::ZERO,
                error: Some(Error::Internal {
                    what: "a connection to the hub",
                    why: error.to_string(),
                }),
                told: false,
                parted: false,
            },
        }
    }
}

impl Links {
    /// Keeps the connections until `stop`, then lets calls end.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let (news, mut heard) = mpsc::channel(NEWS);
        let mut state = State {
            circle: Circle::default(),
            ends: BTreeMap::new(),
            tasks: JoinSet::new(),
            numbers: BTreeMap::new(),
            backoff: Backoff::default(),
            next: Instant::now(),
            last: 0,
        };
        let mut look = tokio::time::interval_at(Instant::now() + self.tempo.look, self.tempo.look);
        let mut identity = self.papers.borrow_and_update().identity.clone();
        loop {
            self.replicas.send_if_modified(|known| {
                let now = state.circle.replicas();
                let changed = *known != now;
                *known = now;
                changed
            });
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep_until(state.next), if state.circle.wants_another() => self.dial(&mut state, &news, &stop),
                _ = look.tick(), if state.circle.could_have_more() => self.dial(&mut state, &news, &stop),
                Some((number, word)) = heard.recv() => self.hear(&mut state, number, word),
                Some(ended) = state.tasks.join_next_with_id() => {
                    let over = state.over(ended);
                    self.over(&mut state, over);
                }
                Ok(()) = self.papers.changed() => {
                    let now = self.papers.borrow_and_update().identity.clone();
                    if !Arc::ptr_eq(&identity, &now) {
                        identity = now;
                        self.new_certificate(&mut state);
                    }
                }
            }
        }
        // Nobody listens any more; whoever has news does not wait for a listener.
        drop(heard);
        while state.tasks.join_next().await.is_some() {}
    }

    fn dial(&self, state: &mut State, news: &mpsc::Sender<(Number, Word)>, stop: &CancellationToken) {
        state.last += 1;
        let number = state.last;
        let end = CancellationToken::new();
        state.ends.insert(number, end.clone());
        state.circle.calls(number);
        let link = Link {
            number,
            dialer: self.dialer.clone(),
            papers: self.papers.borrow().clone(),
            answers: self.answers.clone(),
            tempo: self.tempo,
            news: news.clone(),
            end,
            stop: stop.clone(),
        };
        let task = state.tasks.spawn(link.live());
        state.numbers.insert(task.id(), number);
    }

    fn hear(&self, state: &mut State, number: Number, word: Word) {
        match word {
            Word::Hello {
                replica,
                connections,
                replicas,
            } => {
                for over in state.circle.greeted(number, &replica, connections, replicas) {
                    if over == number {
                        // Nothing failed; the next one may lead elsewhere.
                        if state.circle.wants_another() {
                            state.next = Instant::now() + state.backoff.again(Duration::ZERO, chance());
                        }
                    } else {
                        tracing::info!("a connection to the hub was replaced");
                    }
                    if let Some(end) = state.ends.get(&over) {
                        end.cancel();
                    }
                }
            }
            Word::Leaving => {
                tracing::info!("a replica of the hub leaves; another one is looked for");
                state.circle.leaving(number);
                let within = if state.circle.is_held() {
                    self.tempo.leaving
                } else {
                    self.tempo.leaving.min(ALONE)
                };
                state.next = Instant::now() + within.mul_f64(chance());
            }
            Word::Refresh => self.refresh.notify_one(),
            // It has ended the connection on which it was said.
            Word::Duplicate => {}
        }
    }

    fn over(&self, state: &mut State, over: Over) {
        state.circle.ended(over.number);
        state.ends.remove(&over.number);
        if over.told {
            return;
        }
        let asked = over.error.as_ref().and_then(types::Fault::retry_after);
        let mut pause = if over.parted {
            state.backoff.again(over.lived, chance())
        } else {
            state.backoff.pause(over.lived, chance(), asked)
        };
        if over
            .error
            .as_ref()
            .is_some_and(|error| error.is_final() || error.is_duplicate())
        {
            pause = pause.max(self.tempo.barred.mul_f64(0.5 + 0.5 * chance()));
        }
        state.next = Instant::now() + pause;
        // Perhaps because this agent does not count any more: the vault says so.
        self.refresh.notify_one();
        match over.error {
            Some(error) => tracing::warn!(
                "no connection to the hub: {}{}; trying again in {:.1} s",
                chain(&error),
                error.hint().map(|hint| format!("; {hint}")).unwrap_or_default(),
                pause.as_secs_f64()
            ),
            None => tracing::info!(
                "a connection to the hub ended after {:.0} s; trying again in {:.1} s",
                over.lived.as_secs_f64(),
                pause.as_secs_f64()
            ),
        }
    }

    /// Connections live no longer than the certificate they were made with.
    fn new_certificate(&self, state: &mut State) {
        state.circle.renewed();
        state.next = Instant::now() + self.tempo.leaving.mul_f64(chance());
    }
}

/// From 0 to 1.
pub(super) fn chance() -> f64 {
    rand::rng().random_range(0.0..1.0)
}

/// One connection.
struct Link {
    number: Number,
    dialer: Dialer,
    papers: Arc<Papers>,
    answers: Answers,
    tempo: Tempo,
    news: mpsc::Sender<(Number, Word)>,
    /// Another connection has taken its place.
    end: CancellationToken,
    /// The agent ends.
    stop: CancellationToken,
}

/// How far a connection came.
#[derive(Default)]
struct Course {
    greeted: Option<Instant>,
    parted: bool,
}

impl Course {
    /// It ended by itself.
    fn over(&mut self, ended: Result<(), hyper::Error>) -> Result<(), Error> {
        match (ended, self.greeted) {
            (Ok(()), None) => Err(unreachable("it closed the connection before the greeting")),
            (Err(error), None) => Err(unreachable(&chain(&error))),
            (Ok(()), Some(_)) => {
                self.parted = true;
                Ok(())
            }
            (Err(error), Some(_)) => {
                tracing::debug!(%error, "a connection to the hub broke");
                // A gateway that ends closes its half; what is inside of it does not hear why.
                self.parted = is_end(&error);
                Ok(())
            }
        }
    }
}

/// Whether the other side closed a connection in order, as far as it goes.
fn is_end(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::UnexpectedEof)
}

type Connection = http2::Connection<TokioIo<Inside>, TowerToHyperService<Answering>, TokioExecutor>;

impl Link {
    async fn live(self) -> Over {
        let mut course = Course::default();
        let error = tokio::select! {
            () = self.end.cancelled() => None,
            () = self.stop.cancelled() => None,
            dialled = self.dialer.open(&self.papers, Room::Hub) => match dialled {
                Ok((stream, _)) => self.serve(stream, &mut course).await.err(),
                Err(error) => Some(error),
            },
        };
        Over {
            number: self.number,
            lived: course.greeted.map_or(Duration::ZERO, |at| at.elapsed()),
            error,
            parted: course.parted,
            told: self.end.is_cancelled() || self.stop.is_cancelled(),
        }
    }

    /// Answers until the connection ends, or is told to and has done what it had begun.
    async fn serve(&self, stream: Inside, course: &mut Course) -> Result<(), Error> {
        let (line, mut words) = Line::new();
        let mut connection: Pin<&mut Connection> = pin!(
            http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(STREAMS)
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_send_buf_size(AHEAD)
                .max_header_list_size(HEADERS)
                .keep_alive_interval(PING)
                .keep_alive_timeout(PONG)
                .serve_connection(
                    TokioIo::new(stream),
                    TowerToHyperService::new((self.answers)(line))
                )
        );
        let hello = Instant::now() + self.tempo.hello;
        let mut closed: Option<Instant> = None;
        let mut stopping = false;
        loop {
            let last = closed.unwrap_or(hello);
            tokio::select! {
                ended = connection.as_mut() => {
                    return course.over(ended);
                }
                Some(word) = words.recv() => {
                    if word == Word::Duplicate {
                        return Err(duplicate());
                    }
                    if matches!(word, Word::Hello { .. }) && course.greeted.is_none() {
                        course.greeted = Some(Instant::now());
                    }
                    // Nobody listens any more only at the very end.
                    let _ = self.news.send((self.number, word)).await;
                }
                () = self.end.cancelled(), if closed.is_none() => {
                    connection.as_mut().graceful_shutdown();
                    closed = Some(Instant::now() + self.tempo.handover);
                }
                () = self.stop.cancelled(), if !stopping => {
                    stopping = true;
                    let drained = Instant::now() + self.tempo.drain;
                    if closed.is_none() {
                        connection.as_mut().graceful_shutdown();
                    }
                    closed = Some(closed.map_or(drained, |closed| closed.min(drained)));
                }
                () = sleep_until(last), if closed.is_some() || course.greeted.is_none() => {
                    return match closed {
                        Some(_) => Ok(()),
                        None => Err(unreachable("it did not greet")),
                    };
                }
            }
        }
    }
}

fn duplicate() -> Error {
    Error::Mesh {
        code: Code::Conflict,
        reason: DUPLICATE.to_owned(),
        message: "another process, which was started later, is this agent too".to_owned(),
        retry_after: None,
    }
}

fn unreachable(why: &str) -> Error {
    Error::Unreachable {
        what: "the hub".to_owned(),
        why: why.to_owned(),
    }
}
