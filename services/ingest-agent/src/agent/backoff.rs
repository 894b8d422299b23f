//! How long to wait before the next connection: at random up to a bound that doubles, so that agents which lost the same replica do not come
//! back together. Only a connection that lived for a while ends the doubling: one that is accepted and dropped, again and again, does not.
//! A good-bye of the other side, or a replica that is held already, doubles nothing: services are restarted one after the other, and agents move
//! as fast. But where that does not end, it is a failure too.

use std::time::Duration;

/// The first bound.
const FIRST: Duration = Duration::from_millis(500);
/// The last one.
const LONGEST: Duration = Duration::from_secs(60);
/// A connection that lived so long was a good one.
const STABLE: Duration = Duration::from_secs(60);
/// The bound when nothing failed.
const SOON: Duration = Duration::from_secs(1);
/// So often without a good connection in between. A gateway lets one agent in as often at once.
const FREE: u32 = 16;

/// Waiting times ("full jitter"). It asks neither the clock nor chance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
    /// How often nothing failed.
    free: u32,
}

impl Backoff {
    /// A connection ended, or did not come about: how long to wait. `lived` is how long it was there, `chance` is from 0 to 1, and `at_least`
    /// what the other side asked for.
    pub fn pause(&mut self, lived: Duration, chance: f64, at_least: Option<Duration>) -> Duration {
        if lived >= STABLE {
            *self = Self::default();
        }
        let bound = FIRST.saturating_mul(1 << self.failures.min(7)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let jittered = bound.mul_f64(chance.clamp(0.0, 1.0));
        // What was asked for is spread too, or all who were told the same come together.
        let asked = at_least.map_or(Duration::ZERO, |asked| {
            asked.min(LONGEST * 10) + FIRST.mul_f64(chance.clamp(0.0, 1.0))
        });
        jittered.max(asked)
    }

    /// Another connection is needed, though nothing failed: the other side ended one that it had for so long and said so, or one led where another
    /// one leads.
    pub fn again(&mut self, lived: Duration, chance: f64) -> Duration {
        if lived >= STABLE {
            *self = Self::default();
        }
        if self.free == FREE {
            return self.pause(lived, chance, None);
        }
        self.free += 1;
        SOON.mul_f64(chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Backoff;

    const NOT_AT_ALL: Duration = Duration::ZERO;

    #[test]
    fn bounds_double_from_half_a_second_to_a_minute() {
        let mut backoff = Backoff::default();
        let bounds: Vec<f64> = (0..10)
            .map(|_| backoff.pause(NOT_AT_ALL, 1.0, None).as_secs_f64())
            .collect();
        assert_eq!(bounds, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]);
    }

    #[test]
    fn every_wait_between_nothing_and_the_bound_happens() {
        let mut backoff = Backoff::default();
        backoff.pause(NOT_AT_ALL, 1.0, None);
        assert_eq!(backoff.clone().pause(NOT_AT_ALL, 0.0, None), NOT_AT_ALL);
        assert_eq!(backoff.pause(NOT_AT_ALL, 0.25, None), Duration::from_millis(250));
    }

    #[test]
    fn only_a_minute_of_life_ends_the_doubling() {
        let mut backoff = Backoff::default();
        for _ in 0..20 {
            backoff.pause(Duration::from_secs(59), 1.0, None);
        }
        assert_eq!(
            backoff.pause(Duration::from_secs(59), 1.0, None),
            Duration::from_secs(60)
        );
        assert_eq!(
            backoff.pause(Duration::from_secs(60), 1.0, None),
            Duration::from_millis(500)
        );
    }

    #[test]
    fn what_is_no_failure_doubles_nothing_until_it_does_not_end() {
        let mut backoff = Backoff::default();
        backoff.pause(NOT_AT_ALL, 1.0, None);
        for _ in 0..16 {
            assert_eq!(backoff.again(NOT_AT_ALL, 1.0), Duration::from_secs(1));
        }
        assert_eq!(backoff.clone().again(NOT_AT_ALL, 0.0), NOT_AT_ALL);
        let waits: Vec<u64> = (0..4).map(|_| backoff.again(NOT_AT_ALL, 1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8]);
        let after_a_good_one = backoff.again(Duration::from_secs(60), 1.0);
        assert_eq!(after_a_good_one, Duration::from_secs(1));
        assert_eq!(backoff.again(NOT_AT_ALL, 0.5), Duration::from_millis(500));
    }

    #[test]
    fn what_the_mesh_asks_for_is_waited_and_bounded() {
        let mut backoff = Backoff::default();
        let asked = Some(Duration::from_secs(7));
        assert_eq!(backoff.pause(NOT_AT_ALL, 0.0, asked), Duration::from_secs(7));
        let absurd = Some(Duration::from_secs(1 << 40));
        assert!(backoff.pause(NOT_AT_ALL, 1.0, absurd) <= Duration::from_secs(601));
    }
}
