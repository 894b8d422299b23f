//! Since when versions are what they are, by this process' own clock, which never jumps. The database's may, when another host takes over or
//! its time is set, and a value that is on its way would lose its key.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use types::TenantId;

use crate::domain::state::State;

/// What nobody has looked at for so long, beside what a value may be on its way, is forgotten. Versions that are not gone are looked at each
/// few seconds.
const KEPT: Duration = Duration::from_secs(3_600);

/// A version of a tenant's key in a state.
type What = (TenantId, i64, State);

struct Since {
    first: Instant,
    last: Instant,
}

#[derive(Default)]
struct Inner {
    known: HashMap<What, Since>,
    swept: Option<Instant>,
}

/// What was seen. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Seen(Arc<Mutex<Inner>>);

impl Seen {
    /// Whether it was seen like this for the first time at least `settle` ago; if never, it is now.
    pub(super) fn for_long(&self, what: What, settle: Duration, now: Instant) -> bool {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner
            .swept
            .is_none_or(|swept| now.saturating_duration_since(swept) >= KEPT)
        {
            inner.swept = Some(now);
            inner
                .known
                .retain(|_, since| now.saturating_duration_since(since.last) < settle + KEPT);
        }
        if !matches!(what.2, State::Draining | State::Retired | State::Revoked) {
            return false;
        }
        let since = inner.known.entry(what).or_insert(Since {
            first: now,
            last: now,
        });
        since.last = now;
        now.saturating_duration_since(since.first) >= settle
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use types::TenantId;

    use super::{KEPT, Seen};
    use crate::domain::state::State;

    const SETTLE: Duration = Duration::from_secs(300);

    #[test]
    fn a_version_is_settled_only_after_this_process_has_seen_it_so_for_long() {
        let (seen, now, tenant) = (Seen::default(), Instant::now(), TenantId::fresh());
        let draining = (tenant, 1, State::Draining);
        assert!(!seen.for_long(draining, SETTLE, now));
        assert!(!seen.for_long(draining, SETTLE, now + SETTLE / 2));
        assert!(seen.for_long(draining, SETTLE, now + SETTLE));
        // What it becomes then counts anew, and so does another version.
        let retired = (tenant, 1, State::Retired);
        assert!(!seen.for_long(retired, SETTLE, now + SETTLE));
        assert!(!seen.for_long((tenant, 2, State::Draining), SETTLE, now + SETTLE));
        assert!(seen.for_long(retired, SETTLE, now + SETTLE * 2));
    }

    #[test]
    fn what_is_not_looked_at_any_more_is_forgotten() {
        let (seen, now) = (Seen::default(), Instant::now());
        for _ in 0..100 {
            seen.for_long((TenantId::fresh(), 1, State::Draining), SETTLE, now);
        }
        let what = (TenantId::fresh(), 1, State::Active);
        seen.for_long(what, SETTLE, now + SETTLE + KEPT);
        assert!(seen.0.lock().unwrap().known.is_empty());
    }
}
