//! Whether Redis is asked at all.
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Notify;

/// After so many failures in a row nobody asks until a probe has succeeded.
const FAILURES: u32 = 3;

/// Closed while calls succeed. Open, it lets no call through: only the task that mends the connection closes it again, so that no
/// request ever pays for a probe.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    failures: AtomicU32,
    opened: Notify,
}

impl Breaker {
    /// Whether calls may pass.
    pub(crate) fn is_closed(&self) -> bool {
        self.failures.load(Ordering::Relaxed) < FAILURES
    }

    /// A call succeeded. Opened in the meantime, it stays open.
    pub(crate) fn succeeded(&self) {
        let _ = self
            .failures
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |failures| {
                (1..FAILURES).contains(&failures).then_some(0)
            });
    }

    /// A call failed.
    pub(crate) fn failed(&self) {
        if self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1) >= FAILURES {
            self.failures.store(FAILURES, Ordering::Relaxed);
            self.opened.notify_one();
        }
    }

    /// Opens it at once: there is no connection yet.
    pub(crate) fn open(&self) {
        self.failures.store(FAILURES, Ordering::Relaxed);
        self.opened.notify_one();
    }

    /// A probe succeeded.
    pub(crate) fn close(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// Waits until it is open.
    pub(crate) async fn until_open(&self) {
        while self.is_closed() {
            self.opened.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Breaker;

    #[tokio::test]
    async fn three_failures_in_a_row_open_it_and_only_a_probe_closes_it() {
        let breaker = Breaker::default();
        for _ in 0..5 {
            breaker.failed();
            breaker.failed();
            breaker.succeeded();
        }
        assert!(breaker.is_closed());
        (0..3).for_each(|_| breaker.failed());
        assert!(!breaker.is_closed());
        breaker.until_open().await;
        breaker.succeeded();
        assert!(!breaker.is_closed(), "a late answer proves nothing");
        breaker.close();
        assert!(breaker.is_closed());
    }
}
