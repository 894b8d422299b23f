//! When a signing key counts. A key is written once and never changed; its state follows from the clock, so that replicas which read
//! the same rows agree without telling each other.

use std::time::Duration;

/// What a ring's keys sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Access tokens, HMAC-SHA-256.
    Access,
    /// Context and grant tokens, Ed25519.
    Context,
}

impl Kind {
    /// Both rings.
    pub(crate) const ALL: [Self; 2] = [Self::Access, Self::Context];

    /// As the table writes it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Context => "context",
        }
    }
}

/// What a key is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Published, and verifies, but does not sign yet.
    Next,
    /// Signs.
    Active,
    /// A later one signs; tokens of this one are still valid.
    VerifyOnly,
    /// Good for nothing.
    Retired,
}

/// How a ring turns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// A key signs for this long.
    pub(crate) rotate_after: Duration,
    /// A new key is published this long before it signs: so that all know it by then.
    pub(crate) lead: Duration,
    /// A replaced key verifies for this long: the life of what it signed, and a minute.
    pub(crate) verify_for: Duration,
}

/// The state, at `now`, of a key that signs from `starts[index]` on. `starts` are all keys of the ring in ascending order; times are
/// milliseconds since 1970 by the database's clock.
pub(crate) fn state(starts: &[i64], index: usize, now: i64, rules: &Rules) -> State {
    // The first key of all signs from whenever: the clock may have been set back.
    let active = starts.iter().rposition(|start| *start <= now).unwrap_or(0);
    match starts.get(index + 1) {
        _ if index > active => State::Next,
        _ if index == active => State::Active,
        Some(replaced) if now < replaced.saturating_add(millis(rules.verify_for)) => State::VerifyOnly,
        _ => State::Retired,
    }
}

/// When a key that is to be made now shall begin to sign; none when none is to be made. `wanted` asks for one before its time.
pub(crate) fn due(starts: &[i64], now: i64, wanted: bool, rules: &Rules) -> Option<i64> {
    let Some(newest) = starts.last() else {
        return Some(now);
    };
    // A next key is there already: two of them would retire one unused.
    if *newest > now {
        return None;
    }
    let begins = now.saturating_add(millis(rules.lead));
    let old = begins >= newest.saturating_add(millis(rules.rotate_after));
    (wanted || old).then_some(begins)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{Rules, State, due, state};

    const RULES: Rules = Rules {
        rotate_after: Duration::from_secs(30 * 86_400),
        lead: Duration::from_secs(60),
        verify_for: Duration::from_secs(16 * 60),
    };
    const DAY: i64 = 86_400_000;

    #[test]
    fn a_key_goes_from_next_to_active_to_verify_only_to_retired() {
        let starts = [0, 30 * DAY, 60 * DAY];
        let at = |now| state(&starts, 1, now, &RULES);
        assert_eq!(at(30 * DAY - 1), State::Next);
        assert_eq!(at(30 * DAY), State::Active);
        assert_eq!(at(60 * DAY - 1), State::Active);
        assert_eq!(at(60 * DAY), State::VerifyOnly);
        assert_eq!(at(60 * DAY + 16 * 60_000 - 1), State::VerifyOnly);
        assert_eq!(at(60 * DAY + 16 * 60_000), State::Retired);
    }

    #[test]
    fn the_first_key_signs_at_once_and_later_ones_after_all_know_them() {
        assert_eq!(due(&[], 5, false, &RULES), Some(5));
        assert_eq!(due(&[5], 6, false, &RULES), None);
        assert_eq!(due(&[5], 6, true, &RULES), Some(60_006));
        assert_eq!(due(&[5, 60_006], 7, true, &RULES), None);
        let month = 30 * DAY;
        assert_eq!(due(&[0], month - 60_001, false, &RULES), None);
        assert_eq!(due(&[0], month - 60_000, false, &RULES), Some(month));
    }

    #[test]
    fn a_clock_set_back_before_the_first_key_still_signs() {
        assert_eq!(state(&[100], 0, 50, &RULES), State::Active);
    }

    proptest! {
        #[test]
        fn exactly_one_key_signs_whenever_it_is(mut starts in proptest::collection::vec(0_i64..1_000_000, 1..6), now in -10_i64..2_000_000) {
            starts.sort_unstable();
            starts.dedup();
            let active = (0..starts.len()).filter(|index| state(&starts, *index, now, &RULES) == State::Active).count();
            prop_assert_eq!(active, 1);
        }

        #[test]
        fn what_signed_a_moment_ago_still_verifies(mut starts in proptest::collection::vec(0_i64..100_000_000, 1..6), now in 0_i64..100_000_000, age in 0_i64..900_000) {
            starts.sort_unstable();
            starts.dedup();
            let signer = (0..starts.len()).find(|index| state(&starts, *index, now - age, &RULES) == State::Active).unwrap();
            prop_assert!(state(&starts, signer, now, &RULES) != State::Retired);
        }
    }
}
