//! Whether this service is ready, and for what it waits if not.

use std::sync::Arc;

use tokio::sync::watch;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
    server::HealthReporter,
};

/// What is waited for. Ready when nothing is, and it does not stop.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<watch::Sender<State>>);

#[derive(Clone, Debug, Default)]
struct State {
    waiting: Vec<&'static str>,
    stopping: bool,
}

impl Default for Readiness {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(State::default())))
    }
}

impl Readiness {
    /// Not ready until the latch is released.
    pub fn hold(&self, what: &'static str) -> Latch {
        self.0.send_modify(|state| state.waiting.push(what));
        Latch {
            readiness: self.clone(),
            what,
        }
    }

    /// Never ready again.
    pub(crate) fn stop(&self) {
        self.0.send_modify(|state| state.stopping = true);
    }

    /// Whether it is ready now.
    pub fn is_ready(&self) -> bool {
        self.missing().is_empty()
    }

    /// What keeps it from being ready, sorted; empty when it is.
    pub fn missing(&self) -> Vec<&'static str> {
        let state = self.0.borrow();
        let mut missing = state.waiting.clone();
        missing.sort_unstable();
        if state.stopping {
            missing.push("stopping");
        }
        missing
    }
}

/// Something the service waits for before it is ready. Dropped without [`Latch::release`] it stays missing: what failed to come is not
/// there.
#[derive(Debug)]
#[must_use = "the service is not ready until the latch is released"]
pub struct Latch {
    readiness: Readiness,
    what: &'static str,
}

impl Latch {
    /// It is there.
    pub fn release(self) {
        self.readiness.0.send_modify(|state| {
            if let Some(at) = state.waiting.iter().position(|what| *what == self.what) {
                state.waiting.swap_remove(at);
            }
        });
    }
}

/// gRPC health (`grpc.health.v1`) that says of the whole server and of each of `services` what `readiness` says. The second part keeps it
/// true and never ends by itself.
pub(crate) fn grpc(
    readiness: &Readiness,
    services: Vec<String>,
) -> (HealthServer<impl Health>, impl Future<Output = ()> + use<>) {
    let (reporter, server) = tonic_health::server::health_reporter();
    (server, report(reporter, readiness.0.subscribe(), services))
}

async fn report(reporter: HealthReporter, mut states: watch::Receiver<State>, services: Vec<String>) {
    loop {
        let ready = {
            let state = states.borrow_and_update();
            state.waiting.is_empty() && !state.stopping
        };
        let status = if ready {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for service in services.iter().map(String::as_str).chain([""]) {
            reporter.set_service_status(service, status).await;
        }
        if states.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Readiness;

    #[test]
    fn what_is_held_is_missing_until_released() {
        let readiness = Readiness::default();
        assert!(readiness.is_ready());
        let (identity, keys) = (readiness.hold("identity"), readiness.hold("auth keys"));
        assert_eq!(readiness.missing(), ["auth keys", "identity"]);
        identity.release();
        assert_eq!(readiness.missing(), ["auth keys"]);
        keys.release();
        assert!(readiness.is_ready());
    }

    #[test]
    fn one_word_held_twice_is_released_twice() {
        let readiness = Readiness::default();
        let (first, second) = (readiness.hold("peer"), readiness.hold("peer"));
        first.release();
        assert_eq!(readiness.missing(), ["peer"]);
        second.release();
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_latch_that_is_dropped_stays_missing() {
        let readiness = Readiness::default();
        drop(readiness.hold("database"));
        assert_eq!(readiness.missing(), ["database"]);
    }

    #[test]
    fn what_stops_is_never_ready_again() {
        let readiness = Readiness::default();
        readiness.stop();
        readiness.hold("identity").release();
        assert_eq!(readiness.missing(), ["stopping"]);
    }
}
