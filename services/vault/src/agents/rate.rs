//! How often agents may ask: each for itself, and all of a tenant together. A replica knows of its own calls only.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use types::{AgentId, TenantId};

/// Calls at once, and per second from then on.
#[derive(Clone, Copy)]
struct Rate {
    burst: f64,
    per_second: f64,
}

/// An agent opens the servers of its pool when it begins, and each again when it reconnects.
const OF_AGENT: Rate = Rate {
    burst: 300.0,
    per_second: 30.0,
};

/// All agents of a tenant, so that many of them take no more of the vault than ten.
const OF_TENANT: Rate = Rate {
    burst: 3_000.0,
    per_second: 300.0,
};

/// Who is counted at once; those beyond are counted together.
const MOST: usize = 50_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Who {
    Agent(TenantId, AgentId),
    Tenant(TenantId),
    Others,
}

struct Bucket {
    rate: Rate,
    left: f64,
    at: Instant,
}

impl Bucket {
    fn fill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + since * self.rate.per_second).min(self.rate.burst);
        self.at = self.at.max(now);
    }

    /// How long until there is room for one; nothing if there is.
    fn wait(&self) -> Option<Duration> {
        let missing = 1.0 - self.left;
        (missing > 0.0).then(|| Duration::from_secs_f64(missing / self.rate.per_second))
    }
}

/// Who has asked how often. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Rates(Arc<Mutex<HashMap<Who, Bucket>>>);

impl Rates {
    fn lock(&self) -> MutexGuard<'_, HashMap<Who, Bucket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one of the agent's and one of its tenant's, or says how long to wait.
    pub(crate) fn admit(&self, tenant: TenantId, agent: AgentId, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.lock();
        let mut who = [Who::Agent(tenant, agent), Who::Tenant(tenant)];
        for (who, rate) in who.iter_mut().zip([OF_AGENT, OF_TENANT]) {
            if !buckets.contains_key(who) && buckets.len() >= MOST {
                *who = Who::Others;
            }
            let bucket = buckets.entry(*who).or_insert(Bucket {
                rate,
                left: rate.burst,
                at: now,
            });
            bucket.fill(now);
            if let Some(wait) = bucket.wait() {
                return Err(wait);
            }
        }
        for who in who {
            if let Some(bucket) = buckets.get_mut(&who) {
                bucket.left -= 1.0;
            }
        }
        Ok(())
    }

    /// Forgets who has not asked for so long that it does not matter.
    pub(crate) fn forget(&self, now: Instant) {
        self.lock().retain(|_, bucket| {
            bucket.fill(now);
            bucket.left < bucket.rate.burst
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use types::{AgentId, TenantId};

    use super::Rates;

    /// How many of so many calls at once are let in.
    fn let_in(rates: &Rates, tenant: TenantId, agent: AgentId, calls: usize, now: Instant) -> usize {
        (0..calls)
            .filter(|_| rates.admit(tenant, agent, now).is_ok())
            .count()
    }

    #[test]
    fn an_agent_that_asks_without_end_waits_and_the_others_do_not() {
        let (rates, now) = (Rates::default(), Instant::now());
        let (tenant, loud) = (TenantId::fresh(), AgentId::fresh());
        assert_eq!(let_in(&rates, tenant, loud, 1_000, now), 300);
        let wait = rates.admit(tenant, loud, now).unwrap_err();
        assert!(
            wait > Duration::from_millis(30) && wait < Duration::from_millis(40),
            "{wait:?}"
        );
        assert_eq!(let_in(&rates, tenant, AgentId::fresh(), 100, now), 100);
        assert_eq!(
            let_in(&rates, tenant, loud, 100, now + Duration::from_secs(1)),
            30
        );
        // A clock that stands still gives nothing.
        assert_eq!(let_in(&rates, tenant, loud, 1, now), 0);
    }

    #[test]
    fn many_agents_of_one_tenant_take_its_part_and_no_more() {
        let (rates, now) = (Rates::default(), Instant::now());
        let tenant = TenantId::fresh();
        let all: usize = (0..20)
            .map(|_| let_in(&rates, tenant, AgentId::fresh(), 300, now))
            .sum();
        assert_eq!(all, 3_000);
        assert_eq!(let_in(&rates, TenantId::fresh(), AgentId::fresh(), 10, now), 10);
    }

    #[test]
    fn who_is_silent_is_forgotten_and_who_is_not_is_not() {
        let (rates, now) = (Rates::default(), Instant::now());
        let (tenant, agent) = (TenantId::fresh(), AgentId::fresh());
        let_in(&rates, tenant, agent, 300, now);
        rates.forget(now + Duration::from_secs(9));
        assert_eq!(rates.lock().len(), 1);
        rates.forget(now + Duration::from_secs(11));
        assert!(rates.lock().is_empty());
    }

    #[test]
    fn there_is_a_most_and_those_beyond_it_share() {
        let (rates, now) = (Rates::default(), Instant::now());
        for _ in 0..super::MOST / 2 {
            rates.admit(TenantId::fresh(), AgentId::fresh(), now).unwrap();
        }
        assert!(let_in(&rates, TenantId::fresh(), AgentId::fresh(), 1_000, now) < 300);
        assert_eq!(rates.lock().len(), super::MOST + 1);
    }
}
