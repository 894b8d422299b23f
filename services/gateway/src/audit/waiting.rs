//! Refusals that wait to be written, by tenant: one whose log cannot be written comes after all others, and after a pause.
use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use proto::tenant::v1 as pb;

use super::refusals::WINDOW;

/// Refusals that wait.
const MOST: usize = 10_000;
/// Of them, those of one tenant.
const OF_TENANT: usize = 1_000;
/// Refusals of one message.
const BATCH: usize = 100;
/// Tenants whose last try failed are tried again, so many in one round.
const AGAIN: usize = 16;
/// Between two tries for one of them.
const FIRST_PAUSE: Duration = WINDOW;
const LONGEST_PAUSE: Duration = Duration::from_secs(160);

/// What waits of one tenant.
#[derive(Default)]
struct OfTenant {
    refusals: VecDeque<pb::Refusal>,
    /// Since it failed last.
    failed: Option<(Instant, Duration)>,
}

/// One message.
pub(super) struct Batch {
    pub(super) tenant: String,
    pub(super) refusals: Vec<pb::Refusal>,
}

/// All that waits.
#[derive(Default)]
pub(super) struct Waiting {
    tenants: HashMap<String, OfTenant>,
    len: usize,
}

impl Waiting {
    /// Gives how many found no room: the oldest of their tenant's, or of whoever has the most.
    pub(super) fn add(&mut self, refusals: Vec<pb::Refusal>) -> u64 {
        let mut lost = 0;
        for refusal in refusals {
            let of = self.tenants.entry(refusal.tenant_id.clone()).or_default();
            of.refusals.push_back(refusal);
            self.len += 1;
            if of.refusals.len() > OF_TENANT {
                of.refusals.pop_front();
                self.len -= 1;
                lost += 1;
            }
        }
        while self.len > MOST {
            let longest = self.tenants.values_mut().max_by_key(|of| of.refusals.len());
            let Some(longest) = longest else { break };
            // Not one by one: to look for the longest takes long.
            let half = longest.refusals.len().div_ceil(2).min(self.len - MOST);
            longest.refusals.drain(..half);
            self.len -= half;
            lost += half as u64;
        }
        self.tenants.retain(|_, of| !of.refusals.is_empty());
        lost
    }

    /// What is to be written now, those whose last try failed at the end; in the `last` round all of it.
    pub(super) fn due(&self, last: bool, now: Instant) -> Vec<String> {
        let (mut due, mut again) = (Vec::new(), Vec::new());
        for (tenant, of) in &self.tenants {
            match of.failed {
                None => due.push(tenant.clone()),
                Some((since, pause)) if last || now.saturating_duration_since(since) >= pause => {
                    again.push((since, tenant.clone()));
                }
                Some(_) => {}
            }
        }
        again.sort_unstable();
        let most = if last { again.len() } else { AGAIN };
        due.extend(again.into_iter().take(most).map(|(_, tenant)| tenant));
        due
    }

    /// The next message of a tenant, which stays until [`Waiting::done`].
    pub(super) fn batch(&self, tenant: &str) -> Option<Batch> {
        let of = self.tenants.get(tenant)?;
        Some(Batch {
            tenant: tenant.to_owned(),
            refusals: of.refusals.iter().take(BATCH).cloned().collect(),
        })
    }

    /// The first of a tenant's have been written, or never will be.
    pub(super) fn done(&mut self, tenant: &str, count: usize) {
        if let Some(of) = self.tenants.get_mut(tenant) {
            self.len -= of.refusals.drain(..count.min(of.refusals.len())).len();
            of.failed = None;
            if of.refusals.is_empty() {
                self.tenants.remove(tenant);
            }
        }
    }

    /// A tenant's could not be written.
    pub(super) fn failed(&mut self, tenant: &str, now: Instant) {
        if let Some(of) = self.tenants.get_mut(tenant) {
            let pause = of.failed.map_or(FIRST_PAUSE, |(_, pause)| 2 * pause);
            of.failed = Some((now, pause.min(LONGEST_PAUSE)));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proto::tenant::v1 as pb;

    use super::{MOST, OF_TENANT, Waiting};

    fn of(tenant: &str, count: usize) -> Vec<pb::Refusal> {
        let refusal = pb::Refusal {
            tenant_id: tenant.to_owned(),
            ..pb::Refusal::default()
        };
        vec![refusal; count]
    }

    #[test]
    fn a_tenant_that_fails_comes_last_and_after_a_pause() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        waiting.add(of("a", 250));
        waiting.failed("a", now);
        waiting.add(of("b", 1));
        assert_eq!(waiting.due(false, now), ["b"]);
        assert_eq!(waiting.due(true, now), ["b", "a"]);
        let after = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(waiting.due(false, after(10)), ["b", "a"]);
        waiting.failed("a", after(10));
        assert_eq!(waiting.due(false, after(29)), ["b"]);
        assert_eq!(waiting.due(false, after(30)), ["b", "a"]);
        let batch = waiting.batch("a").expect("a batch");
        assert_eq!(batch.refusals.len(), 100);
        waiting.done("a", 100);
        assert_eq!((waiting.len(), waiting.due(false, now).len()), (151, 2));
        waiting.done("b", 1);
        assert_eq!(waiting.due(false, now), ["a"]);
    }

    #[test]
    fn who_fails_takes_no_more_than_a_part_of_the_room() {
        let mut waiting = Waiting::default();
        waiting.add(of("b", 5));
        assert_eq!(waiting.add(of("a", OF_TENANT + 3)), 3);
        assert_eq!(waiting.len(), OF_TENANT + 5);
        let mut lost = 0;
        for tenant in 0..20 {
            lost += waiting.add(of(&tenant.to_string(), OF_TENANT));
        }
        assert_eq!(waiting.len(), MOST);
        assert_eq!(lost as usize, 21 * OF_TENANT + 5 - MOST);
        assert_eq!(waiting.batch("b").expect("those of b").refusals.len(), 5);
    }
}
