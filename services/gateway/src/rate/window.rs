//! The sliding window itself, pure: the reference that the Redis script is compared with, and the local stand-in while Redis is away.
//!
//! Two laws hold, and are tested by brute force over random traces:
//! 1. in no stretch of one window's length are more than the limit's units admitted;
//! 2. who stays within the units in every stretch of (1 + 1/60) windows is never refused.
//!
//! A limit of at most [`EXACT`] units is kept as a log of admissions and is exact. A larger one is kept as a ring of 60 sub-buckets and
//! the current one, all of them counted in full, so that quota returns at most a sixtieth of a window late.
use std::collections::VecDeque;

/// Sub-buckets of a window, besides the current one.
pub(crate) const BUCKETS: u64 = 60;

/// Up to this many units the exact log is smaller than or about as small as the ring.
pub(crate) const EXACT: u32 = 128;

/// So many units in so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    units: u32,
    width: u64,
}

impl Limit {
    /// `units` per `micros` microseconds, which is rounded up to a multiple of 60. Neither is less than one.
    pub(crate) fn new(units: u32, micros: u64) -> Self {
        Self {
            units: units.max(1),
            width: micros.div_ceil(BUCKETS).max(1),
        }
    }

    /// `units` per minute.
    pub(crate) fn per_minute(units: u32) -> Self {
        Self::new(units, 60_000_000)
    }

    /// How many units.
    pub(crate) fn units(self) -> u32 {
        self.units
    }

    /// The window's length in microseconds.
    pub(crate) fn micros(self) -> u64 {
        self.width * BUCKETS
    }

    /// The share of one of `parts` equal takers, at least one unit.
    pub(crate) fn shared(self, parts: u32) -> Self {
        Self {
            units: (self.units / parts.max(1)).max(1),
            ..self
        }
    }

    /// How Redis keeps it; `window.lua` has the forms.
    pub(crate) fn kind(self) -> &'static str {
        if self.exact() {
            "log"
        } else if u16::try_from(self.units).is_ok() {
            "short"
        } else {
            "ring"
        }
    }

    /// Whether it is kept as a log.
    pub(crate) fn exact(self) -> bool {
        self.units <= EXACT
    }
}

/// What a window says to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It fits.
    Admits {
        /// Units left after this call.
        remaining: u32,
        /// Microseconds of silence after which all units are back.
        restored: u64,
    },
    /// It does not.
    Refuses {
        /// Microseconds until it would fit if nobody else called.
        retry: u64,
    },
}

/// The state of one key. Times are microseconds of any clock; a clock set back by less than a window stands still until it catches up.
#[derive(Clone, Debug)]
pub(crate) enum Window {
    /// Of a small limit.
    Log(Log),
    /// Of a large one.
    Ring(Box<Ring>),
}

impl Window {
    /// An empty window of the kind that `limit` takes.
    pub(crate) fn new(limit: Limit) -> Self {
        if limit.exact() {
            Self::Log(Log::default())
        } else {
            Self::Ring(Box::default())
        }
    }

    /// Says whether `cost` units fit now. Only ages the window.
    pub(crate) fn check(&mut self, limit: Limit, now: u64, cost: u32) -> Verdict {
        let cost = cost.clamp(1, limit.units);
        match self {
            Self::Log(log) => log.check(limit, now, cost),
            Self::Ring(ring) => ring.check(limit, now, cost),
        }
    }

    /// Counts `cost` units, which a check has admitted at the same `now` or which were admitted elsewhere.
    pub(crate) fn take(&mut self, limit: Limit, now: u64, cost: u32) {
        let cost = cost.clamp(1, limit.units);
        match self {
            Self::Log(log) => log.take(limit, now, cost),
            Self::Ring(ring) => ring.take(limit, now, cost),
        }
    }
}

/// Each admission with its time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    entries: VecDeque<(u64, u32)>,
}

impl Log {
    fn age(&mut self, limit: Limit, now: u64) -> u64 {
        let newest = self.entries.back().map_or(0, |entry| entry.0);
        if newest > now + limit.micros() {
            self.entries.clear();
            return now;
        }
        let now = now.max(newest);
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.0 + limit.micros() <= now)
        {
            self.entries.pop_front();
        }
        now
    }

    fn check(&mut self, limit: Limit, clock: u64, cost: u32) -> Verdict {
        let now = self.age(limit, clock);
        let used: u32 = self.entries.iter().map(|entry| entry.1).sum();
        if used + cost <= limit.units {
            return Verdict::Admits {
                remaining: limit.units - used - cost,
                restored: now + limit.micros() - clock,
            };
        }
        let mut missing = used + cost - limit.units;
        let mut ready = now;
        for (time, units) in &self.entries {
            ready = *time;
            missing = missing.saturating_sub(*units);
            if missing == 0 {
                break;
            }
        }
        Verdict::Refuses {
            retry: ready + limit.micros() - clock,
        }
    }

    fn take(&mut self, limit: Limit, now: u64, cost: u32) {
        let now = self.age(limit, now);
        // Units taken elsewhere may exceed a limit that has shrunk since: the log stays as short as a limit's units.
        if self.entries.len() >= limit.units as usize {
            self.entries.pop_front();
        }
        self.entries.push_back((now, cost));
    }
}

/// Units per sub-bucket.
#[derive(Clone, Debug)]
pub(crate) struct Ring {
    /// The number of the current sub-bucket: microseconds divided by its width.
    head: u64,
    /// Units in the current and the past sub-buckets.
    total: u32,
    /// Units in the current one.
    current: u32,
    /// Units in the 60 before, each at its number modulo 60.
    past: [u32; BUCKETS as usize],
}

impl Default for Ring {
    fn default() -> Self {
        Self {
            head: 0,
            total: 0,
            current: 0,
            past: [0; BUCKETS as usize],
        }
    }
}

impl Ring {
    fn age(&mut self, limit: Limit, now: u64) {
        let index = now / limit.width;
        if index > self.head + BUCKETS || self.head > index + BUCKETS {
            *self = Self {
                head: index,
                ..Self::default()
            };
        }
        while self.head < index {
            let slot = &mut self.past[(self.head % BUCKETS) as usize];
            self.total -= *slot;
            *slot = self.current;
            self.current = 0;
            self.head += 1;
        }
    }

    fn check(&mut self, limit: Limit, now: u64, cost: u32) -> Verdict {
        self.age(limit, now);
        let end = |bucket: u64| (bucket + BUCKETS + 1) * limit.width - now;
        if self.total.saturating_add(cost) <= limit.units {
            return Verdict::Admits {
                remaining: limit.units - self.total - cost,
                restored: end(self.head),
            };
        }
        let mut missing = self.total.saturating_add(cost) - limit.units;
        for age in 0..BUCKETS {
            let units = self.past[((self.head + age) % BUCKETS) as usize];
            missing = missing.saturating_sub(units);
            if missing == 0 {
                return Verdict::Refuses {
                    retry: end(self.head + age - BUCKETS),
                };
            }
        }
        Verdict::Refuses {
            retry: end(self.head),
        }
    }

    fn take(&mut self, limit: Limit, now: u64, cost: u32) {
        self.age(limit, now);
        let cost = cost.min(u32::MAX - self.total);
        self.total += cost;
        self.current += cost;
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::{BUCKETS, Limit, Verdict, Window};

    /// What a trace admitted, judged by counting and nothing else.
    struct Judge {
        limit: Limit,
        admitted: Vec<(u64, u32)>,
    }

    impl Judge {
        fn within(&self, now: u64, length: u64) -> u32 {
            let recent = self
                .admitted
                .iter()
                .rev()
                .take_while(|(time, _)| time + length > now);
            recent.map(|(_, cost)| cost).sum()
        }

        /// Both laws, at one call.
        fn judge(&mut self, now: u64, cost: u32, verdict: Verdict) {
            let (units, window) = (self.limit.units(), self.limit.micros());
            match verdict {
                Verdict::Admits { .. } => {
                    self.admitted.push((now, cost));
                    assert!(
                        self.within(now, window) <= units,
                        "law 1 at {now} of {:?}",
                        self.admitted
                    );
                }
                Verdict::Refuses { retry } => {
                    let generous = if self.limit.exact() {
                        window
                    } else {
                        window + window / BUCKETS
                    };
                    assert!(
                        self.within(now, generous) + cost > units,
                        "law 2 at {now} of {:?}",
                        self.admitted
                    );
                    assert!(retry > 0 && retry <= generous);
                }
            }
        }
    }

    fn trace(random: &mut StdRng) {
        let units = if random.random_bool(0.5) {
            random.random_range(1..=12)
        } else {
            random.random_range(129..=160)
        };
        let limit = Limit::new(units, 60 * random.random_range(1..=20));
        let mut judge = Judge {
            limit,
            admitted: Vec::new(),
        };
        let mut window = Window::new(limit);
        let mut now = random.random_range(0..1_000_000);
        for _ in 0..random.random_range(4..14) {
            now += match random.random_range(0..8) {
                0..4 => 0,
                4..6 => random.random_range(0..=limit.micros() / 8),
                6 => random.random_range(0..=limit.micros() / BUCKETS),
                _ => random.random_range(0..=limit.micros() * 5 / 4),
            };
            let cost = random.random_range(1..=units.div_ceil(3));
            let verdict = window.check(limit, now, cost);
            if let Verdict::Admits { .. } = verdict {
                window.take(limit, now, cost);
            } else if let Verdict::Refuses { retry } = verdict
                && random.random_bool(0.1)
            {
                assert!(matches!(
                    window.clone().check(limit, now + retry, cost),
                    Verdict::Admits { .. }
                ));
                assert!(matches!(
                    window.clone().check(limit, now + retry - 1, cost),
                    Verdict::Refuses { .. }
                ));
            }
            judge.judge(now, cost, verdict);
        }
    }

    #[test]
    fn a_million_random_traces_keep_both_laws() {
        std::thread::scope(|scope| {
            for seed in 0..4 {
                scope.spawn(move || {
                    let mut random = StdRng::seed_from_u64(seed);
                    (0..250_000).for_each(|_| trace(&mut random));
                });
            }
        });
    }

    #[test]
    fn a_burst_at_the_edge_of_two_windows_is_counted_once() {
        for units in [100, 1_000] {
            let limit = Limit::per_minute(units);
            let mut window = Window::new(limit);
            let mut admitted = 0;
            for step in 0..4 * units {
                // Half just before a full minute, the rest just after it: fixed windows would admit twice the limit.
                let now = if step < 2 * units {
                    119_999_000
                } else {
                    120_001_000
                };
                if let Verdict::Admits { .. } = window.check(limit, now, 1) {
                    window.take(limit, now, 1);
                    admitted += 1;
                }
            }
            assert_eq!(admitted, units);
        }
    }

    #[test]
    fn refused_calls_consume_nothing() {
        for units in [5, 500] {
            let limit = Limit::per_minute(units);
            let mut window = Window::new(limit);
            for _ in 0..units {
                window.take(limit, 1, 1);
            }
            for now in 1..1_000 {
                assert!(matches!(window.check(limit, now, 1), Verdict::Refuses { .. }));
            }
            let back = limit.micros() + limit.micros() / BUCKETS + 1;
            assert!(matches!(
                window.check(limit, back, units),
                Verdict::Admits { remaining: 0, .. }
            ));
        }
    }

    #[test]
    fn a_clock_set_back_a_little_gives_nothing_and_set_back_a_lot_begins_anew() {
        for units in [5, 500] {
            let limit = Limit::per_minute(units);
            let mut window = Window::new(limit);
            window.take(limit, 600_000_000, units);
            assert!(matches!(
                window.check(limit, 595_000_000, 1),
                Verdict::Refuses { .. }
            ));
            assert!(matches!(
                window.check(limit, 1_000_000, 1),
                Verdict::Admits { .. }
            ));
        }
    }

    #[test]
    fn a_call_dearer_than_the_limit_takes_all_of_it() {
        let limit = Limit::per_minute(3);
        let mut window = Window::new(limit);
        assert!(matches!(
            window.check(limit, 0, 20),
            Verdict::Admits { remaining: 0, .. }
        ));
        window.take(limit, 0, 20);
        assert_eq!(window.check(limit, 0, 1), Verdict::Refuses { retry: 60_000_000 });
    }
}
