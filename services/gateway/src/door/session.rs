//! A connection of an agent from its `ok` to its end.
use std::{future::poll_fn, time::Duration};

use futures_util::FutureExt as _;
use rand::Rng as _;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::splice::{Moved, Splice};

/// Between two looks at a connection.
const LOOK: Duration = Duration::from_secs(30);
/// Looks without a byte in between before it counts as dead: pings come more often.
const SILENT_LOOKS: u32 = 3;
/// For the other side after one has ended.
const HALF: Duration = Duration::from_secs(10);
/// A moment without a byte.
const QUIET: Duration = Duration::from_millis(250);
/// To say that it is over.
const FAREWELL: Duration = Duration::from_secs(1);

/// When connections end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    look: Duration,
    half: Duration,
    quiet: Duration,
    /// After the drain began they end at random times within this.
    spread: Duration,
    /// And by then at the latest.
    latest: Duration,
}

impl Times {
    /// For a drain of that length.
    pub(super) fn new(drain: Duration) -> Self {
        Self {
            look: LOOK,
            half: HALF,
            quiet: QUIET,
            spread: drain / 2,
            latest: drain.saturating_sub(2 * FAREWELL).max(drain / 2),
        }
    }
}

/// What it is made of.
pub(super) struct Session<'a, A, S, G, M> {
    pub(super) splice: Splice<A, S>,
    pub(super) times: Times,
    pub(super) stopping: &'a CancellationToken,
    /// Whether the agent is one still.
    pub(super) good: G,
    /// Told what went through since the last time.
    pub(super) moved: M,
}

impl<A, S, G, M> Session<'_, A, S, G, M>
where
    A: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
    G: Fn() -> bool,
    M: Fn(Moved),
{
    /// Runs to its end, and says why it came.
    pub(super) async fn run(mut self) -> &'static str {
        let ended = self.serve().await;
        if ended != "closed" && ended != "broken" {
            let _ = timeout(FAREWELL, self.splice.close()).await;
        }
        ended
    }

    async fn serve(&mut self) -> &'static str {
        let (mut told, mut silent) = (Moved::default(), 0);
        let mut look = Instant::now() + self.times.look;
        let mut half = None;
        let ended = loop {
            let due = half.unwrap_or(look).min(look);
            let (stepped, is_due) = tokio::select! {
                stepped = step(&mut self.splice) => (Some(stepped), false),
                () = self.stopping.cancelled() => {
                    break drain(&mut self.splice, self.times).await;
                }
                // After a pause of the whole machine bytes wait too: what came before the look counts.
                () = sleep_until(due) => (step(&mut self.splice).now_or_never(), true),
            };
            match stepped {
                Some(Ok(true)) => break "closed",
                // One side has ended.
                Some(Ok(false)) => half = Some(Instant::now() + self.times.half),
                Some(Err(_)) => break "broken",
                None => {}
            }
            if !is_due {
                continue;
            }
            if half.is_some_and(|half| half <= due) {
                break "half";
            }
            let now = self.splice.moved();
            silent = if now == told { silent + 1 } else { 0 };
            told = self.tell(told);
            if silent == SILENT_LOOKS {
                break "idle";
            }
            if !(self.good)() {
                break "certificate";
            }
            // From now on: looks that were missed would all see the same silence.
            look = Instant::now() + self.times.look;
        };
        self.tell(told);
        ended
    }

    fn tell(&self, told: Moved) -> Moved {
        let now = self.splice.moved();
        (self.moved)(Moved {
            inwards: now.inwards - told.inwards,
            outwards: now.outwards - told.outwards,
        });
        now
    }
}

/// Runs until one side has ended (false), or both have (true).
async fn step<A, S>(splice: &mut Splice<A, S>) -> std::io::Result<bool>
where
    A: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let was_half = splice.is_half();
    poll_fn(|cx| match splice.poll(cx) {
        std::task::Poll::Ready(ended) => std::task::Poll::Ready(ended.map(|()| true)),
        std::task::Poll::Pending if splice.is_half() && !was_half => std::task::Poll::Ready(Ok(false)),
        std::task::Poll::Pending => std::task::Poll::Pending,
    })
    .await
}

/// Goes on for a while, a different one for each connection, and then ends at a moment when nothing moves: an agent has another connection,
/// and time to make one elsewhere.
async fn drain<A, S>(splice: &mut Splice<A, S>, times: Times) -> &'static str
where
    A: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let began = Instant::now();
    let spread = times.spread.mul_f64(rand::rng().random_range(0.0..1.0));
    let mut before = None;
    loop {
        let pause = if before.is_none() { spread } else { times.quiet };
        // Not `biased`: bytes that never cease would use up what a task may do at a time, and time would not be looked at.
        let ended = tokio::select! {
            ended = poll_fn(|cx| splice.poll(cx)) => Some(ended),
            // After a pause of the whole machine bytes wait too: what came before the look counts.
            () = sleep(pause) => poll_fn(|cx| splice.poll(cx)).now_or_never(),
        };
        if let Some(ended) = ended {
            return if ended.is_ok() { "closed" } else { "broken" };
        }
        let now = splice.moved();
        if before == Some(now) || began.elapsed() >= times.latest {
            return "drain";
        }
        before = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, AtomicU64, Ordering},
        },
        time::Duration,
    };

    use bytes::Bytes;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
        task::JoinHandle,
        time::Instant,
    };
    use tokio_util::sync::CancellationToken;

    use super::{Moved, SILENT_LOOKS, Session, Splice, Times};

    struct Scene {
        agent: DuplexStream,
        service: DuplexStream,
        stopping: CancellationToken,
        good: Arc<AtomicBool>,
        bytes: Arc<AtomicU64>,
        session: JoinHandle<&'static str>,
    }

    const LOOK: Duration = Duration::from_millis(200);

    fn times() -> Times {
        Times {
            look: LOOK,
            half: LOOK,
            quiet: LOOK / 4,
            spread: LOOK,
            latest: 4 * LOOK,
        }
    }

    fn scene() -> Scene {
        scene_of(times())
    }

    fn scene_of(times: Times) -> Scene {
        let (agent, agent_side) = duplex(64);
        let (service, service_side) = duplex(64);
        let (stopping, good) = (CancellationToken::new(), Arc::new(AtomicBool::new(true)));
        let bytes = Arc::<AtomicU64>::default();
        let (stop, is_good, count) = (stopping.clone(), Arc::clone(&good), Arc::clone(&bytes));
        let session = tokio::spawn(async move {
            let session = Session {
                splice: Splice::new(agent_side, service_side, Bytes::new()),
                times,
                stopping: &stop,
                good: || is_good.load(Ordering::Relaxed),
                moved: |moved: Moved| {
                    count.fetch_add(moved.inwards + moved.outwards, Ordering::Relaxed);
                },
            };
            session.run().await
        });
        Scene {
            agent,
            service,
            stopping,
            good,
            bytes,
            session,
        }
    }

    async fn pass(scene: &mut Scene) -> bool {
        let mut got = [0];
        let passed = async {
            scene.agent.write_all(b"x").await?;
            scene.service.read_exact(&mut got).await
        };
        passed.await.is_ok()
    }

    /// Bytes until it ends, so many pauses apart.
    async fn keep_busy(scene: &mut Scene, pause: Duration, most: u64) -> u64 {
        let mut ticks = tokio::time::interval(pause);
        let mut passed = 0;
        while passed < most && pass(scene).await {
            passed += 1;
            ticks.tick().await;
        }
        passed
    }

    #[tokio::test]
    async fn a_connection_on_which_nothing_moves_ends_and_pings_keep_it() {
        let mut scene = scene();
        let began = Instant::now();
        assert_eq!(keep_busy(&mut scene, LOOK / 2, 16).await, 16);
        assert_eq!(scene.session.await.expect("no panic"), "idle");
        // The last byte waits for fourteen ticks, and three looks see none after it.
        assert!(began.elapsed() >= 14 * LOOK / 2 + SILENT_LOOKS * LOOK);
        assert_eq!(scene.bytes.load(Ordering::Relaxed), 16);
        assert_eq!(scene.agent.read(&mut [0]).await.expect("an end"), 0);
    }

    #[tokio::test]
    async fn what_one_side_still_says_after_the_other_has_ended_arrives_but_not_for_ever() {
        let mut scene = scene();
        scene.agent.shutdown().await.expect("an end");
        assert_eq!(scene.service.read(&mut [0]).await.expect("an end"), 0);
        scene.service.write_all(b"last").await.expect("room");
        let mut last = [0; 4];
        scene.agent.read_exact(&mut last).await.expect("the last words");
        assert_eq!(scene.session.await.expect("no panic"), "half");
    }

    #[tokio::test]
    async fn an_agent_that_is_none_any_more_is_cut_off() {
        let mut scene = scene();
        assert!(keep_busy(&mut scene, LOOK / 4, 8).await == 8);
        scene.good.store(false, Ordering::Relaxed);
        assert!(keep_busy(&mut scene, LOOK / 4, 1_000).await < 1_000);
        assert_eq!(scene.session.await.expect("no panic"), "certificate");
    }

    #[tokio::test]
    async fn a_drain_waits_for_a_quiet_moment_and_not_for_ever() {
        // Far apart for any machine, however long it pauses.
        let spread = 20 * LOOK;
        let far_apart = Times {
            spread,
            latest: 2 * spread,
            ..times()
        };
        let scenes: Vec<_> = (0..20).map(|_| scene_of(far_apart)).collect();
        let began = Instant::now();
        scenes.iter().for_each(|scene| scene.stopping.cancel());
        let ends = scenes.into_iter().map(|scene| async {
            assert_eq!(scene.session.await.expect("no panic"), "drain");
            drop((scene.agent, scene.service));
            began.elapsed()
        });
        let mut ends = futures_util::future::join_all(ends).await;
        ends.sort();
        assert!(ends[0] >= LOOK / 4);
        assert!(ends[19] - ends[0] > LOOK, "they end at different times: {ends:?}");

        let mut busy = scene();
        busy.stopping.cancel();
        let began = Instant::now();
        // The first byte may be older than the drain; of the others a slow machine sends few.
        assert!(keep_busy(&mut busy, LOOK / 10, 1_000_000).await > 1);
        let lasted = began.elapsed();
        assert_eq!(busy.session.await.expect("no panic"), "drain");
        assert!(lasted >= 4 * LOOK, "{lasted:?}");
    }

    #[tokio::test]
    async fn who_ends_by_itself_in_a_drain_is_not_waited_for() {
        let scene = scene();
        scene.stopping.cancel();
        drop((scene.agent, scene.service));
        let ended = scene.session.await.expect("no panic");
        assert!(matches!(ended, "closed" | "broken"), "{ended}");
    }

    #[test]
    fn a_drain_leaves_time_for_the_farewell() {
        for (drain, spread, latest) in [(20, 10, 18), (10, 5, 8), (2, 1, 1), (0, 0, 0)] {
            let times = Times::new(Duration::from_secs(drain));
            assert_eq!((times.spread.as_secs(), times.latest.as_secs()), (spread, latest));
        }
    }
}
