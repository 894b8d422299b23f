//! What clients have asked for and not read.
//!
//! An answer that is complete holds no place among the requests in flight, only memory, and of that there is so much for each connection and
//! for all of them. A client that takes nothing of an answer for ten seconds, or next to nothing for longer, loses its connection: HTTP/2's
//! windows would let it keep streams for ever, since nobody reads a body that cannot be sent.
use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use http::Response;
use http_body::{Body as _, Frame, SizeHint};
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body};

/// Without a byte of an answer taken.
const GRACE: Duration = Duration::from_secs(10);
/// Who takes less than this in a second comes to the end of the grace.
const BYTES_PER_SEC: u32 = 256;
/// How often the answers of a connection are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// What one connection may have unread before it asks for more.
const OF_ONE: usize = 4 * 1024 * 1024;
/// What all may have together; beyond it, whoever has most goes.
const OF_ALL: usize = 256 * 1024 * 1024;

/// An extension of answers that are complete in memory though their body does not know its length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Complete {
    /// How many bytes there are.
    pub(crate) bytes: usize,
    /// Whether the call succeeded.
    pub(crate) succeeded: bool,
}

/// An extension of answers whose bytes are in memory once, for everybody.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared;

/// Whether nothing more has to happen for `answer` than that its client reads it.
pub(crate) fn is_complete(answer: &Response<Body>) -> bool {
    answer.extensions().get::<Complete>().is_some() || answer.body().size_hint().exact().is_some()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Of all connections.
#[derive(Debug)]
pub(crate) struct Unread {
    most: usize,
    bytes: AtomicUsize,
    numbers: AtomicU64,
    clients: Mutex<HashMap<u64, Arc<Client>>>,
}

impl Unread {
    pub(crate) fn new() -> Arc<Self> {
        Self::with_most(OF_ALL)
    }

    fn with_most(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            bytes: AtomicUsize::new(0),
            numbers: AtomicU64::new(0),
            clients: Mutex::default(),
        })
    }

    /// A new connection.
    pub(crate) fn client(self: &Arc<Self>) -> Connected {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let client = Arc::new(Client {
            all: Arc::clone(self),
            requests: AtomicU64::new(0),
            under_way: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            answers: Mutex::default(),
            cut: CancellationToken::new(),
        });
        lock(&self.clients).insert(number, Arc::clone(&client));
        Connected { number, client }
    }

    /// Cuts off who has most, until the rest is little enough.
    fn relieve(&self) {
        let clients = lock(&self.clients);
        let mut left: Vec<_> = clients
            .values()
            .filter(|client| !client.cut.is_cancelled())
            .collect();
        let mut bytes: usize = left.iter().map(|client| client.unread()).sum();
        left.sort_by_key(|client| client.unread());
        while bytes > self.most
            && let Some(client) = left.pop()
        {
            bytes = bytes.saturating_sub(client.unread());
            client.cut.cancel();
        }
    }
}

/// A connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Connected {
    number: u64,
    client: Arc<Client>,
}

impl std::ops::Deref for Connected {
    type Target = Arc<Client>;

    fn deref(&self) -> &Arc<Client> {
        &self.client
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        lock(&self.client.all.clients).remove(&self.number);
    }
}

/// What one connection is doing.
#[derive(Debug)]
pub(crate) struct Client {
    all: Arc<Unread>,
    requests: AtomicU64,
    under_way: AtomicUsize,
    bytes: AtomicUsize,
    answers: Mutex<HashMap<u64, Arc<Clock>>>,
    cut: CancellationToken,
}

impl Client {
    /// A request has come.
    pub(crate) fn request(self: &Arc<Self>) -> Busy {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Busy {
            client: Arc::clone(self),
            number,
        }
    }

    /// How many have come.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Whether one is under way, up to the last byte of its answer.
    pub(crate) fn is_busy(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) > 0
    }

    fn unread(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether so much is unread that more is not made.
    pub(crate) fn is_behind(&self) -> bool {
        self.unread() > OF_ONE
    }

    fn charge(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if self.all.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > self.all.most {
            self.all.relieve();
        }
    }

    fn release(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.all.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Returns when the connection must end, and says why.
    pub(crate) async fn must_end(&self) -> &'static str {
        let late = async {
            loop {
                tokio::time::sleep(LOOK).await;
                let now = Instant::now();
                if lock(&self.answers).values().any(|clock| clock.is_over(now)) {
                    return;
                }
            }
        };
        tokio::select! {
            () = late => "unread",
            () = self.cut.cancelled() => "memory",
        }
    }
}

/// One request under way; also when it is dropped half-way.
#[derive(Debug)]
pub(crate) struct Busy {
    client: Arc<Client>,
    number: u64,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.client.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Busy {
    /// The request's answer, watched until its last byte is taken.
    pub(crate) fn deliver(self, answer: Response<Body>) -> Response<Delivered> {
        let shared = answer.extensions().get::<Shared>().is_some();
        let known = answer
            .extensions()
            .get::<Complete>()
            .map(|complete| complete.bytes);
        let exact = || {
            answer
                .body()
                .size_hint()
                .exact()
                .and_then(|bytes| usize::try_from(bytes).ok())
        };
        let prepaid = if shared {
            0
        } else {
            known.or_else(exact).unwrap_or_default()
        };
        let clock = Arc::new(Clock::new(Instant::now()));
        lock(&self.client.answers).insert(self.number, Arc::clone(&clock));
        self.client.charge(prepaid);
        let delivery = Arc::new(Delivery {
            busy: self,
            clock,
            shared,
        });
        answer.map(|body| Delivered {
            body,
            prepaid,
            delivery,
        })
    }
}

/// One answer, as long as its body or a byte of it exists.
#[derive(Debug)]
struct Delivery {
    busy: Busy,
    clock: Arc<Clock>,
    shared: bool,
}

impl Drop for Delivery {
    fn drop(&mut self) {
        lock(&self.busy.client.answers).remove(&self.busy.number);
    }
}

/// How long a client may still take for an answer.
#[derive(Debug)]
struct Clock(Mutex<Waiting>);

#[derive(Debug)]
struct Waiting {
    due: Instant,
    /// Bytes handed over and not sent.
    outstanding: usize,
    /// There is nothing to send yet.
    empty: bool,
}

impl Clock {
    fn new(now: Instant) -> Self {
        Self(Mutex::new(Waiting {
            due: now + GRACE,
            outstanding: 0,
            empty: false,
        }))
    }

    fn is_over(&self, now: Instant) -> bool {
        let waiting = lock(&self.0);
        let for_client = waiting.outstanding > 0 || !waiting.empty;
        for_client && waiting.due < now
    }

    /// The body has nothing at present.
    fn pause(&self) {
        lock(&self.0).empty = true;
    }

    /// The body gave so many bytes.
    fn give(&self, bytes: usize) {
        let mut waiting = lock(&self.0);
        if waiting.empty && waiting.outstanding == 0 {
            waiting.due = Instant::now() + GRACE;
        }
        waiting.empty = false;
        waiting.outstanding += bytes;
    }

    /// So many went to the client; some may have been thrown away with it.
    fn take(&self, bytes: usize) {
        let mut waiting = lock(&self.0);
        waiting.outstanding -= bytes;
        let now = Instant::now();
        let credit = Duration::from_secs(1) * u32::try_from(bytes).unwrap_or(u32::MAX) / BYTES_PER_SEC;
        waiting.due = (waiting.due.max(now) + credit.min(GRACE)).min(now + GRACE);
    }
}

/// An answer's body on its way.
#[derive(Debug)]
pub(crate) struct Delivered {
    body: Body,
    /// Bytes counted before they came.
    prepaid: usize,
    delivery: Arc<Delivery>,
}

impl http_body::Body for Delivered {
    type Data = Parcel;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Parcel>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if polled.is_pending() {
            self.delivery.clock.pause();
        }
        let frame = match ready!(polled) {
            Some(Ok(frame)) => frame,
            Some(Err(status)) => return Poll::Ready(Some(Err(status))),
            None => return Poll::Ready(None),
        };
        let this = &mut *self;
        Poll::Ready(Some(Ok(frame.map_data(|bytes| {
            let delivery = Arc::clone(&this.delivery);
            if !delivery.shared {
                let paid = this.prepaid.min(bytes.len());
                this.prepaid -= paid;
                delivery.busy.client.charge(bytes.len() - paid);
            }
            delivery.clock.give(bytes.len());
            Parcel { bytes, delivery }
        }))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Delivered {
    fn drop(&mut self) {
        self.delivery.busy.client.release(self.prepaid);
    }
}

/// Bytes of an answer that are not sent yet.
#[derive(Debug)]
pub(crate) struct Parcel {
    bytes: Bytes,
    delivery: Arc<Delivery>,
}

impl Parcel {
    fn took(&self, bytes: usize) {
        self.delivery.clock.take(bytes);
        if !self.delivery.shared {
            self.delivery.busy.client.release(bytes);
        }
    }
}

impl Buf for Parcel {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.took(count);
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        let taken = self.bytes.split_to(count);
        self.took(count);
        taken
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            self.took(self.bytes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use bytes::Buf as _;
    use http::Response;
    use http_body_util::{BodyExt as _, Full};
    use tonic::body::Body;

    use super::{BYTES_PER_SEC, Clock, GRACE, Shared, Unread};

    fn answer(bytes: usize) -> Response<Body> {
        Response::new(Body::new(Full::from(vec![0; bytes])))
    }

    #[tokio::test]
    async fn what_is_unread_is_counted_until_it_is_sent_or_thrown_away() {
        let all = Unread::with_most(1_000);
        let client = all.client();
        let counted = || {
            (
                client.unread(),
                all.bytes.load(super::Ordering::Relaxed),
                client.is_busy(),
            )
        };
        let mut delivered = client.request().deliver(answer(100)).into_body();
        assert_eq!(counted(), (100, 100, true));
        let mut parcel = delivered
            .frame()
            .await
            .expect("a frame")
            .expect("no error")
            .into_data()
            .expect("data");
        drop(delivered);
        assert_eq!(counted(), (100, 100, true));
        parcel.advance(60);
        assert_eq!(counted(), (40, 40, true));
        drop(parcel);
        assert_eq!(counted(), (0, 0, false));
        drop(client.request().deliver(answer(100)));
        assert_eq!(counted(), (0, 0, false));
        let mut shared = answer(100);
        shared.extensions_mut().insert(Shared);
        let shared = client.request().deliver(shared);
        assert_eq!(counted(), (0, 0, true));
        drop(shared);
        assert!(super::lock(&client.answers).is_empty());
        drop(client);
        assert!(super::lock(&all.clients).is_empty());
    }

    #[test]
    fn when_memory_is_short_whoever_reads_least_goes() {
        let all = Unread::with_most(1_000);
        let clients: Vec<_> = (0..4).map(|_| all.client()).collect();
        let mut held = Vec::new();
        for (client, bytes) in clients.iter().zip([100, 500, 300, 90]) {
            held.push(client.request().deliver(answer(bytes)));
        }
        assert!(clients.iter().all(|client| !client.cut.is_cancelled()));
        held.push(clients[3].request().deliver(answer(20)));
        let cut: Vec<bool> = clients.iter().map(|client| client.cut.is_cancelled()).collect();
        assert_eq!(cut, [false, true, false, false]);
        // Its memory comes back a moment later: that costs nobody else the connection.
        held.push(clients[0].request().deliver(answer(400)));
        assert!(!clients[2].cut.is_cancelled() && !clients[0].cut.is_cancelled());
    }

    #[test]
    fn a_client_has_ten_seconds_and_earns_more_by_reading() {
        let now = Instant::now();
        let over = |clock: &Clock, secs| clock.is_over(now + Duration::from_secs(secs));
        let clock = Clock::new(now);
        assert!(!over(&clock, 9) && over(&clock, 11), "nothing was taken at all");
        clock.pause();
        assert!(!over(&clock, 1_000), "there is nothing to take");
        clock.give(10_000);
        assert!(!over(&clock, 9) && over(&clock, 11));
        clock.pause();
        assert!(over(&clock, 11), "what was given is not taken yet");
        clock.take(9_999);
        assert!(over(&clock, 11));
        clock.take(1);
        assert!(!over(&clock, 1_000));
        // Drops of a few bytes do not hold the time up.
        let past = now.checked_sub(GRACE - Duration::from_secs(1)).expect("a time");
        let clock = Clock::new(past);
        clock.give(1_000_000);
        clock.take(1);
        assert!(over(&clock, 2));
        clock.take(BYTES_PER_SEC as usize * 5);
        assert!(!over(&clock, 5) && over(&clock, 8));
    }
}
