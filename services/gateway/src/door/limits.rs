//! How many agents' connections there may be: of one agent, of one tenant, of all, and how many new ones in a second.

use std::{
    collections::HashMap,
    hash::Hash,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use types::{AgentId, TenantId};

/// New connections of one agent: so many at once, and then one in each [`OF_ONE_EVERY`].
const OF_ONE_AT_ONCE: u32 = 16;
const OF_ONE_EVERY: Duration = Duration::from_secs(1);
/// Nobody is told to stay away for longer.
const LONGEST: Duration = Duration::from_secs(60);
/// So many agents, or tenants, are known before those that are not connected are forgotten for the first time.
const KNOWN: usize = 4_096;

/// Which agent.
pub(super) type Who = (TenantId, AgentId);

/// Events one after the other at a rate, with so much of it at once. Times, not counts: an idle rate costs nothing and needs no clock.
#[derive(Debug)]
struct Pace {
    every: Duration,
    at_once: Duration,
    /// When all that was let in would have come one after the other.
    due: Instant,
}

impl Pace {
    fn new(every: Duration, at_once: u32, now: Instant) -> Self {
        Self {
            every,
            at_once: every * at_once,
            due: now,
        }
    }

    /// Lets one in, or says when there is room again.
    fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        let due = self.due.max(now) + self.every;
        let ahead = due.duration_since(now);
        if ahead > self.at_once {
            return Err(ahead - self.at_once);
        }
        self.due = due;
        Ok(())
    }
}

/// New connections of all agents. Whoever is refused is told a time of its own: those who come together do not come back together.
#[derive(Debug)]
pub(super) struct Admission(Mutex<(Pace, Pace)>);

impl Admission {
    /// So many in a second.
    pub(super) fn new(per_second: u32) -> Self {
        Self::since(per_second, Instant::now())
    }

    fn since(per_second: u32, now: Instant) -> Self {
        let per_second = per_second.max(1);
        let every = Duration::from_secs(1) / per_second;
        let longest = u32::try_from(LONGEST.as_secs()).unwrap_or(u32::MAX);
        let told = Pace::new(every, per_second.saturating_mul(longest), now);
        Self(Mutex::new((Pace::new(every, per_second, now), told)))
    }

    /// Whether nobody came for so long that it does not matter any more.
    fn is_idle(&self, now: Instant) -> bool {
        let paces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        paces.0.due <= now && paces.1.due <= now
    }

    /// Lets one in, or says when to come back.
    pub(super) fn admit(&self, now: Instant) -> Result<(), Duration> {
        let mut paces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (admitted, told) = &mut *paces;
        admitted.admit(now).map_err(|wait| {
            // Behind those who were told a time already.
            let _ = told.admit(now);
            wait.max(told.due.duration_since(now)).min(LONGEST)
        })
    }
}

/// How many connections agents may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    /// One agent.
    pub(super) of_agent: usize,
    /// All of them together. A tenant's may have half.
    pub(super) of_all: usize,
    /// New ones in a second, of all. A tenant's may be half.
    pub(super) per_second: u32,
}

/// The agents that are connected here.
#[derive(Debug)]
pub(super) struct Agents {
    most: Most,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    agents: Few<Who, OfAgent>,
    tenants: Few<TenantId, OfTenant>,
}

#[derive(Debug)]
struct OfAgent {
    pace: Pace,
    open: usize,
    replicas: Vec<SocketAddr>,
}

#[derive(Debug)]
struct OfTenant {
    admission: Admission,
    open: usize,
}

/// What is known, without what does not matter any more. It is looked through when it has doubled since the last time, so that a new entry
/// costs the same however many there are.
#[derive(Debug)]
struct Few<K, V> {
    all: HashMap<K, V>,
    look_at: usize,
}

impl<K, V> Default for Few<K, V> {
    fn default() -> Self {
        Self {
            all: HashMap::new(),
            look_at: KNOWN,
        }
    }
}

impl<K: Copy + Eq + Hash, V> Few<K, V> {
    /// The entry of `key`. Where others do not matter any more, they may go.
    fn entry(&mut self, key: K, matters: impl Fn(&V) -> bool, new: impl FnOnce() -> V) -> &mut V {
        if self.all.len() >= self.look_at && !self.all.contains_key(&key) {
            self.all.retain(|_, one| matters(one));
            self.look_at = KNOWN.max(2 * self.all.len());
        }
        self.all.entry(key).or_insert_with(new)
    }
}

impl Agents {
    /// So many connections.
    pub(super) fn new(most: Most) -> Arc<Self> {
        Arc::new(Self {
            most,
            known: Mutex::default(),
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more connection of `who`. Whoever is refused here has taken nothing from other tenants.
    pub(super) fn enter(self: &Arc<Self>, who: Who, now: Instant) -> Result<Entered, Crowd> {
        let mut known = self.known();
        let Known { agents, tenants } = &mut *known;
        let matters = |agent: &OfAgent| agent.open > 0 || agent.pace.due > now;
        let agent = agents.entry(who, matters, || OfAgent {
            pace: Pace::new(OF_ONE_EVERY, OF_ONE_AT_ONCE, now),
            open: 0,
            replicas: Vec::new(),
        });
        agent.pace.admit(now).map_err(Crowd::Hasty)?;
        if agent.open >= self.most.of_agent {
            return Err(Crowd::Many);
        }
        let matters = |tenant: &OfTenant| tenant.open > 0 || !tenant.admission.is_idle(now);
        let tenant = tenants.entry(who.0, matters, || OfTenant {
            admission: Admission::since(self.most.per_second.div_ceil(2), now),
            open: 0,
        });
        if tenant.open >= self.most.of_all.div_ceil(2) {
            return Err(Crowd::ManyOfTenant);
        }
        tenant.admission.admit(now).map_err(Crowd::Hasty)?;
        agent.open += 1;
        tenant.open += 1;
        drop(known);
        Ok(Entered {
            agents: Arc::clone(self),
            who,
            replica: None,
        })
    }
}

/// Why an agent may not have another connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crowd {
    /// It has as many as it may.
    Many,
    /// The agents of its tenant have.
    ManyOfTenant,
    /// It comes too often, or all of its tenant's together do: so long until it may again.
    Hasty(Duration),
}

/// A connection of an agent, until it is dropped.
#[derive(Debug)]
pub(super) struct Entered {
    agents: Arc<Agents>,
    who: Who,
    replica: Option<SocketAddr>,
}

impl Entered {
    /// Puts those first to which the agent has no connection from here.
    pub(super) fn prefer(&self, replicas: &mut [SocketAddr]) {
        let known = self.agents.known();
        let Some(agent) = known.agents.all.get(&self.who) else {
            return;
        };
        replicas.sort_by_key(|replica| agent.replicas.iter().filter(|held| *held == replica).count());
    }

    /// This is where it leads.
    pub(super) fn leads_to(&mut self, replica: SocketAddr) {
        if let Some(agent) = self.agents.known().agents.all.get_mut(&self.who) {
            agent.replicas.push(replica);
            self.replica = Some(replica);
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let (mut known, now) = (self.agents.known(), Instant::now());
        let Known { agents, tenants } = &mut *known;
        if let Some(tenant) = tenants.all.get_mut(&self.who.0) {
            tenant.open -= 1;
            if tenant.open == 0 && tenant.admission.is_idle(now) {
                tenants.all.remove(&self.who.0);
            }
        }
        let Some(agent) = agents.all.get_mut(&self.who) else {
            return;
        };
        agent.open -= 1;
        let held = agent.replicas.iter().position(|held| Some(*held) == self.replica);
        if let Some(place) = held {
            agent.replicas.swap_remove(place);
        }
        if agent.open == 0 && agent.pace.due <= now {
            agents.all.remove(&self.who);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use types::{AgentId, TenantId};

    use super::{Admission, Agents, Crowd, KNOWN, LONGEST, Most};

    fn most(of_agent: usize) -> Most {
        Most {
            of_agent,
            of_all: 1_000,
            per_second: 1_000,
        }
    }

    #[test]
    fn those_who_are_sent_away_together_come_back_one_after_the_other() {
        let (admission, now) = (Admission::new(100), Instant::now());
        let (mut let_in, mut waits) = (0, Vec::new());
        for _ in 0..4_000 {
            match admission.admit(now) {
                Ok(()) => let_in += 1,
                Err(wait) => waits.push(wait),
            }
        }
        assert_eq!(let_in, 100);
        for second in 1..39 {
            let back = waits
                .iter()
                .filter(|wait| wait.as_millis() / 1_000 == second)
                .count();
            assert!((95..=105).contains(&back), "{back} come back after {second} s");
        }
        assert!(waits.iter().all(|wait| *wait <= LONGEST));
        // Who comes back when it was told is let in, as long as no others come.
        let refused = waits
            .iter()
            .filter(|wait| admission.admit(now + **wait + Duration::from_millis(11)).is_err());
        assert_eq!(refused.count(), 0);
    }

    #[test]
    fn nobody_is_told_to_stay_away_for_longer_than_a_minute() {
        let (admission, now) = (Admission::new(1), Instant::now());
        let longest = (0..1_000).filter_map(|_| admission.admit(now).err()).max();
        assert_eq!(longest, Some(LONGEST));
    }

    #[test]
    fn one_agent_has_so_many_connections_and_comes_so_often() {
        let (agents, now) = (Agents::new(most(2)), Instant::now());
        let (one, other) = (
            (TenantId::fresh(), AgentId::fresh()),
            (TenantId::fresh(), AgentId::fresh()),
        );
        let first = agents.enter(one, now).expect("room");
        let second = agents.enter(one, now).expect("room");
        assert_eq!(agents.enter(one, now).expect_err("no third"), Crowd::Many);
        let others = agents.enter(other, now).expect("another agent is not concerned");
        drop(second);
        let second = agents.enter(one, now).expect("room again");
        drop((first, second));
        let mut entered = 0;
        let refused = loop {
            match agents.enter(one, now) {
                Ok(_) => entered += 1,
                Err(crowd) => break crowd,
            }
        };
        assert_eq!((entered, refused), (12, Crowd::Hasty(Duration::from_secs(1))));
        assert!(agents.enter(one, now + Duration::from_secs(1)).is_ok());
        drop(others);
    }

    #[test]
    fn the_second_connection_of_an_agent_leads_to_another_replica() {
        let (agents, now) = (Agents::new(most(8)), Instant::now());
        let who = (TenantId::fresh(), AgentId::fresh());
        let all: Vec<std::net::SocketAddr> = (1..=3).map(|port| ([127, 0, 0, 1], port).into()).collect();
        let mut first = agents.enter(who, now).expect("room");
        first.leads_to(all[0]);
        let mut second = agents.enter(who, now).expect("room");
        let mut replicas = all.clone();
        second.prefer(&mut replicas);
        assert_eq!(replicas, [all[1], all[2], all[0]]);
        second.leads_to(all[1]);
        drop(first);
        let third = agents.enter(who, now).expect("room");
        let mut replicas = all.clone();
        third.prefer(&mut replicas);
        assert_eq!(replicas, [all[0], all[2], all[1]]);
    }

    #[test]
    fn a_tenant_has_half_of_all_connections_and_half_of_the_new_ones_at_most() {
        let (door, now) = (
            Most {
                of_agent: 8,
                of_all: 20,
                per_second: 8,
            },
            Instant::now(),
        );
        let (agents, tenant) = (Agents::new(door), TenantId::fresh());
        let enter = |tenant, now| agents.enter((tenant, AgentId::fresh()), now);
        let mut held: Vec<_> = (0..4).map(|_| enter(tenant, now).expect("room")).collect();
        let refused: Vec<_> = (0..8).map(|_| enter(tenant, now).unwrap_err()).collect();
        // They come back one after the other, and another tenant is not concerned.
        let wait = |crowd: &Crowd| match crowd {
            Crowd::Hasty(wait) => wait.as_millis(),
            other => panic!("{other:?}"),
        };
        let waits: Vec<_> = refused.iter().map(wait).collect();
        assert!(waits.is_sorted() && waits[7] > 1_500, "{waits:?}");
        let others = enter(TenantId::fresh(), now).expect("another tenant is not concerned");
        for second in 1..=6 {
            held.push(enter(tenant, now + Duration::from_secs(second)).expect("room"));
        }
        let later = now + Duration::from_secs(60);
        assert_eq!(enter(tenant, later).unwrap_err(), Crowd::ManyOfTenant);
        held.pop();
        held.push(enter(tenant, later).expect("room again"));
        drop((held, others));
        assert_eq!(agents.known().tenants.all[&tenant].open, 0);
    }

    #[test]
    fn those_who_are_gone_are_looked_for_once_in_a_while_and_not_for_each_that_comes() {
        let most = Most {
            of_agent: 1,
            of_all: 100_000,
            per_second: 100_000,
        };
        let (agents, now) = (Agents::new(most), Instant::now());
        let enter = || agents.enter((TenantId::fresh(), AgentId::fresh()), now);
        let held: Vec<_> = (0..KNOWN + 2).map(|_| enter().expect("room")).collect();
        {
            let known = agents.known();
            let looks = (known.agents.look_at, known.tenants.look_at);
            assert_eq!(looks, (2 * KNOWN, 2 * KNOWN));
        }
        drop(held);
        // They are kept as long as their paces are: then one look is enough for all.
        let later = now + Duration::from_secs(600);
        for _ in 0..KNOWN {
            let _ = agents.enter((TenantId::fresh(), AgentId::fresh()), later);
        }
        let known = agents.known();
        let left = (known.agents.all.len(), known.tenants.all.len());
        assert!(left.0 <= KNOWN && left.1 <= KNOWN, "{left:?}");
    }
}
