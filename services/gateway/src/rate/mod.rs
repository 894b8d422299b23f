//! Rate limits: an exact sliding window per tenant, user and client address, decided together and for all gateways by one call to Redis.
//!
//! When Redis is slow or away the decision is this gateway's own, from a window that it has kept warm, with its share of the limit: no
//! request fails and none waits longer than one time-out. What guards passwords and codes (`strict`) then gets a third of that share, and
//! all strict calls together have a limit too.
mod breaker;
mod headers;
mod store;
mod window;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

pub(crate) use headers::write as write_headers;
pub(crate) use store::{Absence, Options, Store};
pub(crate) use window::Limit;
use window::{Verdict, Window};

use crate::bounded::Bounded;

/// Windows kept for the day that Redis is away: at most 2 KiB each.
const SHADOWS: usize = 16_384;

/// Keys known to be used up.
const REMEMBERED: usize = 65_536;

/// Without Redis a strict class gets this part of its share.
const STRICT_PART: u32 = 3;

/// Without Redis all strict calls of a gateway together get so many times the limit of one address.
const STRICT_ADDRESSES: u32 = 20;

/// How often this gateway says that it lives.
const ENROL_EVERY: Duration = Duration::from_secs(2);

/// Whose limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// All calls for a tenant.
    Tenant,
    /// All calls of a person, by session or key.
    User,
    /// All calls of a person for all tenants.
    Person,
    /// Calls that guess, from one client address.
    Address,
    /// Calls that guess, from all addresses, while Redis is away.
    Gateway,
}

impl Policy {
    /// Its name in headers and metrics.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::User => "user",
            Self::Person => "person",
            Self::Address => "address",
            Self::Gateway => "gateway",
        }
    }
}

/// One limit that a call is counted in.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    /// Whose limit.
    pub(crate) policy: Policy,
    /// Whose exactly; the part in braces decides where a Redis cluster keeps it.
    pub(crate) name: String,
    /// The limit.
    pub(crate) limit: Limit,
    /// Units of this call.
    pub(crate) cost: u32,
}

/// How one limit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Whose limit.
    pub(crate) policy: Policy,
    /// The limit.
    pub(crate) limit: Limit,
    /// Units left; none if it refused.
    pub(crate) remaining: u32,
    /// Until all is back, or until a refused call would fit.
    pub(crate) time: Duration,
    /// Whether this is what refused the call.
    pub(crate) refuses: bool,
}

/// Who decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Redis.
    Redis,
    /// This gateway, without Redis.
    Local,
    /// This gateway remembered a refusal.
    Memory,
}

/// What became of a call.
#[derive(Clone, Debug)]
pub(crate) struct Decision {
    /// Whether it may go on.
    pub(crate) admitted: bool,
    /// How each limit stands, in the order of the keys.
    pub(crate) standings: Vec<Standing>,
    /// Who decided.
    pub(crate) source: Source,
}

struct Refusal {
    until: Instant,
    units: u32,
    cost: u32,
}

/// Decides.
pub(crate) struct Limiter {
    store: Option<Arc<Store>>,
    shadows: Mutex<Bounded<String, Window>>,
    refused: Mutex<Bounded<String, Refusal>>,
    /// Gateways that share the limits, as last known.
    gateways: AtomicU32,
    began: Instant,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Limiter {
    /// Without a store each gateway counts for itself.
    pub(crate) fn new(store: Option<Arc<Store>>) -> Self {
        Self {
            store,
            shadows: Mutex::new(Bounded::new(SHADOWS)),
            refused: Mutex::new(Bounded::new(REMEMBERED)),
            gateways: AtomicU32::new(1),
            began: Instant::now(),
        }
    }

    /// Keeps the connection to Redis and the number of gateways. Never ends.
    pub(crate) async fn tend(self: Arc<Self>) {
        let Some(store) = &self.store else {
            return std::future::pending().await;
        };
        let counting = async {
            loop {
                if let Some(count) = store.enrol().await {
                    self.gateways.store(count.max(1), Ordering::Relaxed);
                }
                let pause = if store.is_used() {
                    ENROL_EVERY
                } else {
                    ENROL_EVERY / 10
                };
                tokio::time::sleep(pause).await;
            }
        };
        tokio::join!(Arc::clone(store).mend(), counting);
    }

    /// Counts a call in all of `keys`, or in none of them if one refuses. `strict`: the class that must not be guessed.
    pub(crate) async fn decide(&self, keys: &[Key], strict: bool) -> Decision {
        let now = Instant::now();
        if let Some(decision) = self.remembered(keys, now) {
            return decision;
        }
        let asked = match &self.store {
            Some(store) => store.decide(keys, || self.remembered(keys, now).is_some()).await,
            None => Err(Absence::Avoided),
        };
        let decision = match asked {
            Ok(Some(verdicts)) => self.by_redis(keys, &verdicts),
            Ok(None) => {
                return self
                    .remembered(keys, now)
                    .unwrap_or_else(|| self.alone(keys, strict));
            }
            Err(_) => self.alone(keys, strict),
        };
        if !decision.admitted {
            self.remember(keys, &decision, now);
        }
        decision
    }

    fn by_redis(&self, keys: &[Key], verdicts: &[Verdict]) -> Decision {
        let decision = decision(keys.iter().map(|key| key.limit), keys, verdicts, Source::Redis);
        if decision.admitted {
            let mut shadows = lock(&self.shadows);
            for key in keys {
                let now = self.clock();
                window(&mut shadows, &key.name, key.limit).take(key.limit, now, key.cost);
            }
        }
        decision
    }

    /// Decides without Redis, with this gateway's share.
    fn alone(&self, keys: &[Key], strict: bool) -> Decision {
        let gateways = self.gateways.load(Ordering::Relaxed);
        let parts = if self.store.is_none() {
            1
        } else if strict {
            gateways.saturating_mul(STRICT_PART)
        } else {
            gateways
        };
        let mut asked = keys.to_vec();
        if let Some(address) = keys.iter().find(|key| strict && key.policy == Policy::Address) {
            let units = address.limit.units().saturating_mul(STRICT_ADDRESSES);
            asked.push(Key {
                policy: Policy::Gateway,
                name: "strict".to_owned(),
                limit: Limit::new(units, address.limit.micros()),
                ..address.clone()
            });
        }
        let now = self.clock();
        let mut shadows = lock(&self.shadows);
        let mut verdicts = Vec::with_capacity(asked.len());
        for key in &asked {
            let share = key.limit.shared(parts);
            verdicts.push(window(&mut shadows, &key.name, key.limit).check(share, now, key.cost));
        }
        let limits = asked.iter().map(|key| key.limit.shared(parts));
        let mut decision = decision(limits, &asked, &verdicts, Source::Local);
        if decision.admitted {
            for key in &asked {
                window(&mut shadows, &key.name, key.limit).take(key.limit, now, key.cost);
            }
        }
        // What all addresses share is told only when it refuses.
        if decision
            .standings
            .last()
            .is_some_and(|standing| !standing.refuses)
        {
            decision.standings.truncate(keys.len());
        }
        decision
    }

    fn clock(&self) -> u64 {
        // Far from zero, so that a window can look back.
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX / 2) + (1 << 40)
    }

    /// How long `key` is known to be used up.
    pub(crate) fn spent(&self, key: &Key) -> Option<Duration> {
        let decision = self.remembered(std::slice::from_ref(key), Instant::now())?;
        decision.standings.first().map(|standing| standing.time)
    }

    /// A refusal of before that still holds for one of `keys`.
    fn remembered(&self, keys: &[Key], now: Instant) -> Option<Decision> {
        let mut refused = lock(&self.refused);
        let holding = keys.iter().find_map(|key| {
            let refusal = refused.get(&key.name)?;
            let holds = refusal.until > now && refusal.units == key.limit.units() && refusal.cost <= key.cost;
            holds.then_some((key, refusal.until - now))
        });
        let (key, time) = holding?;
        let standing = Standing {
            policy: key.policy,
            limit: key.limit,
            remaining: 0,
            time,
            refuses: true,
        };
        Some(Decision {
            admitted: false,
            standings: vec![standing],
            source: Source::Memory,
        })
    }

    fn remember(&self, keys: &[Key], decision: &Decision, now: Instant) {
        let mut refused = lock(&self.refused);
        for (key, standing) in keys.iter().zip(&decision.standings) {
            if standing.refuses {
                let refusal = Refusal {
                    until: now + standing.time,
                    units: key.limit.units(),
                    cost: key.cost,
                };
                refused.put(key.name.clone(), refusal);
            }
        }
    }
}

fn decision(
    limits: impl Iterator<Item = Limit>,
    keys: &[Key],
    verdicts: &[Verdict],
    source: Source,
) -> Decision {
    let standings: Vec<Standing> = keys
        .iter()
        .zip(limits)
        .zip(verdicts)
        .map(|((key, limit), verdict)| {
            let (remaining, micros, refuses) = match *verdict {
                Verdict::Admits { remaining, restored } => (remaining, restored, false),
                Verdict::Refuses { retry } => (0, retry, true),
            };
            Standing {
                policy: key.policy,
                limit,
                remaining,
                time: Duration::from_micros(micros),
                refuses,
            }
        })
        .collect();
    Decision {
        admitted: !standings.iter().any(|standing| standing.refuses),
        standings,
        source,
    }
}

fn window<'m>(shadows: &'m mut Bounded<String, Window>, name: &str, limit: Limit) -> &'m mut Window {
    shadows.get_or_put(name, || Window::new(limit))
}

#[cfg(test)]
mod tests;
