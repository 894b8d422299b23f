//! How long to wait before the next attempt: twice as long each time, at random up to that, so that many agents do not come back at once.

use std::time::Duration;

use rand::Rng;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);

/// Waiting times that grow while attempts fail ("full jitter").
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// An attempt succeeded.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// An attempt failed: how long to wait now.
    pub(super) fn next(&mut self) -> Duration {
        let ceiling = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures += 1;
        rand::rng().random_range(FIRST / 2..=ceiling)
    }
}

#[cfg(test)]
mod tests {
    use super::{Backoff, LONGEST};

    #[test]
    fn waiting_grows_and_is_bounded() {
        let mut backoff = Backoff::default();
        assert!(backoff.next() <= std::time::Duration::from_millis(500));
        for _ in 0..100 {
            assert!(backoff.next() <= LONGEST);
        }
    }
}
