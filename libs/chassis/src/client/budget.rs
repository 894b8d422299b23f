//! How many calls may be sent again: a fifth of all, and a few for who calls seldom. Without it, retries double the load of a service that
//! fails because of its load.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// What a call earns, in retries.
const EARNED: f64 = 0.2;
/// What is there at first, and comes back with time.
const RESERVE: f64 = 3.0;
/// How fast the reserve comes back, a second.
const REFILL: f64 = 0.3;
/// What can be saved.
const MOST: f64 = 10.0;

pub(super) struct Budget(Mutex<State>);

struct State {
    retries: f64,
    at: Instant,
}

impl Default for Budget {
    fn default() -> Self {
        Self(Mutex::new(State {
            retries: RESERVE,
            at: Instant::now(),
        }))
    }
}

impl Budget {
    /// A call is sent for the first time.
    pub(super) fn earn(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.retries = (state.retries + EARNED).min(MOST);
    }

    /// Whether a call may be sent again.
    pub(super) fn spend(&self) -> bool {
        self.spend_at(Instant::now())
    }

    fn spend_at(&self, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(state.at).as_secs_f64();
        state.at = now;
        if state.retries < RESERVE {
            state.retries = (state.retries + passed * REFILL).min(RESERVE);
        }
        let allowed = state.retries >= 1.0;
        if allowed {
            state.retries -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Budget;

    #[test]
    fn a_fifth_of_the_calls_and_three_may_be_repeated() {
        let (budget, now) = (Budget::default(), Instant::now());
        let spent = |calls: usize| {
            (0..calls)
                .filter(|_| {
                    budget.earn();
                    budget.spend_at(now)
                })
                .count()
        };
        assert_eq!(spent(3), 3);
        assert!((190..=202).contains(&spent(1_000)));
    }

    #[test]
    fn the_reserve_comes_back_with_time_and_no_more_than_it() {
        let (budget, now) = (Budget::default(), Instant::now());
        while budget.spend_at(now) {}
        let later = now + Duration::from_secs(3_600);
        let spent = (0..100).filter(|_| budget.spend_at(later)).count();
        assert_eq!(spent, 3);
    }
}
