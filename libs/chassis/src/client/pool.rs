//! All addresses of a service, asked for again every few seconds, and the choice among them.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use http::{Request, Response};
use rand::Rng as _;
use tokio::{
    net::lookup_host,
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tonic::{Status, body::Body};

use super::{
    Unanswered,
    endpoint::{Connector, Endpoint},
    wait,
};
use crate::{runtime::Tasks, status};

/// Names are asked for again after a random time between these: a new replica gets calls within ten seconds.
const REFRESH: std::ops::Range<f64> = 5.0..10.0;
/// The same while there is no address at all, and at the earliest after connections fail.
const HURRY: Duration = Duration::from_millis(500);
/// How long a resolver may take.
const LOOKUP: Duration = Duration::from_secs(5);

/// A call that got no answer from one endpoint.
pub(super) enum Failure {
    /// Certainly never sent; here it is.
    Unsent { status: Status, body: Body },
    /// Sent, but certainly not looked at.
    Unprocessed(Status),
    /// Perhaps received.
    Broken(Status),
    /// Answered with UNAVAILABLE.
    Refused {
        wait: Duration,
        response: Response<Body>,
    },
}

impl Failure {
    pub(super) fn unreachable(peer: &str, request: Request<Body>) -> Self {
        Self::Unsent {
            status: status(&Unanswered::Unreachable(peer.to_owned())),
            body: request.into_body(),
        }
    }

    pub(super) fn unprocessed(peer: &str) -> Self {
        Self::Unprocessed(status(&Unanswered::Unreachable(peer.to_owned())))
    }

    pub(super) fn broken(peer: &str) -> Self {
        Self::Broken(status(&Unanswered::Broken(peer.to_owned())))
    }

    pub(super) fn refused(refused: &Status, response: Response<Body>) -> Self {
        Self::Refused {
            wait: wait(refused),
            response,
        }
    }

    /// Whether the service certainly did not see it.
    pub(super) fn unseen(&self) -> bool {
        matches!(self, Self::Unsent { .. } | Self::Unprocessed(_))
    }

    /// How long the service asks to wait.
    pub(super) fn wait(&self) -> Duration {
        match self {
            Self::Refused { wait, .. } => *wait,
            Self::Unsent { .. } | Self::Unprocessed(_) | Self::Broken(_) => Duration::ZERO,
        }
    }

    /// What the caller gets if this was the last attempt.
    pub(super) fn answer(self) -> Result<Response<Body>, Status> {
        match self {
            Self::Unsent { status, .. } | Self::Unprocessed(status) | Self::Broken(status) => Err(status),
            Self::Refused { response, .. } => Ok(response),
        }
    }

    /// The body that was not sent.
    pub(super) fn into_body(self) -> Option<Body> {
        match self {
            Self::Unsent { body, .. } => Some(body),
            Self::Unprocessed(_) | Self::Broken(_) | Self::Refused { .. } => None,
        }
    }
}

/// What is known of a service's addresses.
#[derive(Clone, Default)]
struct Known {
    asked: bool,
    endpoints: Arc<[Arc<Endpoint>]>,
}

pub(super) struct Pool(Arc<Inner>);

struct Inner {
    peer: String,
    host: String,
    port: u16,
    connector: Connector,
    tasks: Tasks,
    known: watch::Sender<Known>,
    hurry: Notify,
}

impl Pool {
    pub(super) fn open(peer: &str, host: &str, port: u16, connector: Connector, tasks: &Tasks) -> Self {
        let pool = Self::unresolved(peer, host, port, connector, tasks);
        tasks.run(resolve(Arc::downgrade(&pool.0)));
        pool
    }

    /// Nobody asks for its addresses yet.
    pub(super) fn unresolved(peer: &str, host: &str, port: u16, connector: Connector, tasks: &Tasks) -> Self {
        Self(Arc::new(Inner {
            peer: peer.to_owned(),
            // An address of IPv6 stands in brackets in a URL.
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            connector,
            tasks: tasks.clone(),
            known: watch::Sender::new(Known::default()),
            hurry: Notify::new(),
        }))
    }

    /// What a look-up of the name answered.
    pub(super) fn learn(&self, looked: io::Result<Vec<SocketAddr>>) {
        self.0.learn(looked);
    }

    /// Sends one call to one of the addresses.
    pub(super) async fn send(
        &self,
        request: Request<Body>,
        deadline: Instant,
    ) -> Result<Response<Body>, Failure> {
        let endpoints = self.endpoints().await;
        let Some(endpoint) = choose(&endpoints, Instant::now()) else {
            return Err(Failure::Unsent {
                status: status(&Unanswered::NoAddress(self.0.peer.clone())),
                body: request.into_body(),
            });
        };
        let sent = endpoint.send(request, deadline).await;
        if matches!(&sent, Err(Failure::Unsent { .. })) {
            self.0.hurry.notify_one();
        }
        sent
    }

    /// All of them, those that failed just now last.
    pub(super) async fn addresses(&self) -> Vec<SocketAddr> {
        let (endpoints, now) = (self.endpoints().await, Instant::now());
        let of = |avoided: bool| endpoints.iter().filter(move |of| of.avoided(now) == avoided);
        of(false).chain(of(true)).map(|of| of.address).collect()
    }

    /// The name is asked for again soon.
    pub(super) fn look_again(&self) {
        self.0.hurry.notify_one();
    }

    async fn endpoints(&self) -> Arc<[Arc<Endpoint>]> {
        let mut known = self.0.known.subscribe();
        // The sender lives in `self`, and each look-up is bounded, so the first answer comes.
        match known.wait_for(|known| known.asked).await {
            Ok(known) => known.endpoints.clone(),
            Err(_) => Arc::default(),
        }
    }
}

/// The less busy of two taken at random: nearly as good as the least busy of all, and does not send everybody to the same one. Those that
/// failed just now only if there is no other.
fn choose(endpoints: &[Arc<Endpoint>], now: Instant) -> Option<&Arc<Endpoint>> {
    let good: Vec<&Arc<Endpoint>> = endpoints
        .iter()
        .filter(|endpoint| !endpoint.avoided(now))
        .collect();
    let from = if good.is_empty() {
        endpoints.iter().collect()
    } else {
        good
    };
    let mut random = rand::rng();
    match from.len() {
        0 => None,
        1 => from.first().copied(),
        count => {
            let first = random.random_range(0..count);
            let second = (first + random.random_range(1..count)) % count;
            let (first, second) = (from[first], from[second]);
            Some(if second.busy() < first.busy() {
                second
            } else {
                first
            })
        }
    }
}

/// Keeps the addresses true as long as somebody has the pool.
async fn resolve(known: Weak<Inner>) {
    loop {
        let Some(inner) = known.upgrade() else { return };
        let pool = Pool(inner);
        let inner = &pool.0;
        pool.learn(lookup(&inner.host, inner.port).await);
        let empty = inner.known.borrow().endpoints.is_empty();
        let pause = Duration::from_secs_f64(rand::rng().random_range(REFRESH));
        tokio::select! {
            () = sleep(if empty { HURRY } else { pause }) => {}
            () = inner.hurry.notified() => {
                drop(pool);
                sleep(HURRY).await;
            }
        }
    }
}

async fn lookup(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let found = timeout(LOOKUP, lookup_host((host, port))).await??;
    Ok(found.collect())
}

impl Inner {
    fn learn(&self, looked: io::Result<Vec<SocketAddr>>) {
        self.known.send_modify(|known| {
            known.asked = true;
            match looked {
                Ok(addresses) if !addresses.is_empty() => {
                    known.endpoints = self.merge(&known.endpoints, addresses);
                }
                Ok(_) => tracing::warn!(peer = self.peer, "the name has no address; the known ones stay"),
                Err(error) => {
                    tracing::warn!(peer = self.peer, %error, "the name cannot be resolved; the known addresses stay");
                }
            }
        });
    }

    /// One endpoint for each address; those that are known keep their connections.
    fn merge(&self, known: &[Arc<Endpoint>], mut addresses: Vec<SocketAddr>) -> Arc<[Arc<Endpoint>]> {
        addresses.sort_unstable();
        addresses.dedup();
        let endpoint = |address: SocketAddr| {
            let old = known.iter().find(|endpoint| endpoint.address == address);
            old.cloned().unwrap_or_else(|| {
                Endpoint::new(address, &self.peer, self.connector.clone(), self.tasks.clone())
            })
        };
        addresses.into_iter().map(endpoint).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{io, net::SocketAddr, sync::Arc, time::Instant};

    use super::{Connector, Pool, Tasks, choose};

    fn pool() -> Pool {
        Pool::unresolved("auth", "auth", 1, Connector::plain(), &Tasks::default())
    }

    fn addresses(ports: &[u16]) -> Vec<SocketAddr> {
        ports
            .iter()
            .map(|port| SocketAddr::from(([127, 0, 0, 1], *port)))
            .collect()
    }

    fn ports(pool: &Pool) -> Vec<u16> {
        pool.0
            .known
            .borrow()
            .endpoints
            .iter()
            .map(|endpoint| endpoint.address.port())
            .collect()
    }

    #[test]
    fn an_empty_or_failed_answer_keeps_the_known_addresses() {
        let pool = pool();
        pool.learn(Ok(addresses(&[3, 1, 2, 1])));
        assert_eq!(ports(&pool), [1, 2, 3]);
        pool.learn(Ok(Vec::new()));
        assert_eq!(ports(&pool), [1, 2, 3]);
        pool.learn(Err(io::ErrorKind::NotFound.into()));
        assert_eq!(ports(&pool), [1, 2, 3]);
    }

    #[test]
    fn known_addresses_keep_their_connections() {
        let pool = pool();
        pool.learn(Ok(addresses(&[1, 2])));
        let before = pool.0.known.borrow().endpoints.clone();
        pool.learn(Ok(addresses(&[2, 3])));
        let after = pool.0.known.borrow().endpoints.clone();
        assert_eq!(ports(&pool), [2, 3]);
        assert!(Arc::ptr_eq(&before[1], &after[0]));
    }

    #[test]
    fn every_address_is_chosen_and_none_of_an_empty_set() {
        let pool = pool();
        assert!(choose(&pool.0.known.borrow().endpoints, Instant::now()).is_none());
        pool.learn(Ok(addresses(&[1, 2, 3])));
        let known = pool.0.known.borrow().endpoints.clone();
        let mut seen = [0; 3];
        for _ in 0..300 {
            let port = choose(&known, Instant::now()).unwrap().address.port();
            seen[usize::from(port) - 1] += 1;
        }
        assert!(seen.iter().all(|count| *count > 30), "{seen:?}");
    }

    #[test]
    fn an_address_that_failed_is_avoided_while_there_is_another() {
        let pool = pool();
        pool.learn(Ok(addresses(&[1, 2])));
        let known = pool.0.known.borrow().endpoints.clone();
        known[0].failed();
        let now = Instant::now();
        for _ in 0..50 {
            assert_eq!(choose(&known, now).unwrap().address.port(), 2);
        }
        assert!(choose(&known[..1], now).is_some());
        let later = now + std::time::Duration::from_secs(5);
        assert!((0..200).any(|_| choose(&known, later).unwrap().address.port() == 1));
    }
}
