//! What agents did, for the audit log. The first of its kind is written before it takes effect; those like it within the next ten seconds are
//! counted, and written as one.
//!
//! Of refusals an agent has few kinds at once, and so has a tenant: the rest is one entry with its number. So an agent, revoked or not, writes
//! no more than a few rows in ten seconds, whatever it asks for.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use audit::{Actor, Event, Kind, Outcome};
use types::{AgentId, AuditId, TenantId};

/// How long what is alike is counted.
const WINDOW: Duration = Duration::from_secs(10);

/// Kinds of openings that are counted at once; beyond, each is written by itself.
const MOST: usize = 20_000;

/// Of them, those of one tenant. No plan has more servers.
const OF_TENANT: usize = 2_500;

/// Kinds of refusals of one tenant, besides one for its rest.
const REFUSED_OF_TENANT: usize = 200;

/// Of them, those of one agent, besides one for its rest.
const REFUSED_OF_AGENT: usize = 20;

/// The reason of what is counted together.
const MORE: &str = "MORE_REFUSALS";

/// What is alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) tenant: TenantId,
    pub(crate) agent: AgentId,
    /// The method, without its service.
    pub(crate) method: &'static str,
    /// The server, or nothing. Never what an agent has made up.
    pub(crate) target: String,
    /// The reason of the refusal, or nothing.
    pub(crate) reason: &'static str,
}

/// What is counted together, within a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Alike {
    /// What is alike.
    This(Key),
    /// Refusals of an agent for which there is no place of their own.
    RestOfAgent(AgentId),
    /// Refusals of all agents for which there is none.
    Rest,
}

impl Alike {
    fn is_refusal(&self) -> bool {
        !matches!(self, Self::This(key) if key.reason.is_empty())
    }

    fn is_of(&self, other: AgentId) -> bool {
        match self {
            Self::This(key) => key.agent == other,
            Self::RestOfAgent(agent) => *agent == other,
            Self::Rest => false,
        }
    }
}

struct Window {
    since: Instant,
    event: Event,
    more: u64,
}

/// What was counted.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) tenant: TenantId,
    pub(crate) alike: Alike,
    pub(crate) event: Event,
}

#[derive(Default)]
struct Table {
    tenants: HashMap<TenantId, HashMap<Alike, Window>>,
    len: usize,
}

/// What is being counted. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Counted(Arc<Mutex<Table>>);

/// Microseconds since 1970.
fn now() -> i64 {
    let now = time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000;
    i64::try_from(now).unwrap_or(i64::MAX)
}

/// What an agent did, ended now.
pub(crate) fn event(key: &Key, request: &str, code: &str) -> Event {
    let time = now();
    let targets = [
        ("agent_id", key.agent.to_string()),
        ("server_id", key.target.clone()),
    ];
    Event {
        id: AuditId::fresh().to_string(),
        time,
        end_time: time,
        actor: Actor {
            agent_id: key.agent.to_string(),
            ..Actor::default()
        },
        kind: Kind::Security,
        method: format!("/trailmesh.vault.v1.AgentIdentityService/{}", key.method),
        path: String::new(),
        targets: targets
            .into_iter()
            .filter(|(_, id)| !id.is_empty())
            .map(|(field, id)| (field.to_owned(), id))
            .collect(),
        client_address: None,
        user_agent: String::new(),
        request_id: request.to_owned(),
        outcome: if code == "OK" {
            Outcome::Succeeded
        } else {
            Outcome::Failed
        },
        code: code.to_owned(),
        reason: key.reason.to_owned(),
        count: 1,
    }
}

impl Table {
    fn get(&mut self, tenant: TenantId, alike: &Alike) -> Option<&mut Window> {
        self.tenants.get_mut(&tenant)?.get_mut(alike)
    }

    fn insert(&mut self, tenant: TenantId, alike: Alike, event: Event, more: u64) {
        let windows = self.tenants.entry(tenant).or_default();
        let since = Instant::now();
        let before = windows.insert(alike, Window { since, event, more });
        self.len += usize::from(before.is_none());
    }

    /// Where a refusal is counted.
    fn place(&self, key: &Key) -> Alike {
        let this = Alike::This(key.clone());
        let rest = Alike::RestOfAgent(key.agent);
        let Some(windows) = self.tenants.get(&key.tenant) else {
            return if self.len < MOST { this } else { Alike::Rest };
        };
        if windows.contains_key(&this) {
            return this;
        }
        let refused = windows.keys().filter(|alike| alike.is_refusal());
        let of_agent = refused.clone().filter(|alike| alike.is_of(key.agent)).count();
        let room = self.len < MOST && refused.count() < REFUSED_OF_TENANT;
        if room && of_agent < REFUSED_OF_AGENT {
            this
        } else if room || windows.contains_key(&rest) {
            rest
        } else {
            Alike::Rest
        }
    }
}

impl Window {
    fn add(&mut self, more: u64, end_time: i64) {
        self.more += more;
        self.event.end_time = self.event.end_time.max(end_time);
    }
}

/// The first of what is counted together says what it is.
fn first_of(alike: &Alike, event: Event) -> Event {
    if matches!(alike, Alike::This(_)) {
        return event;
    }
    Event {
        reason: MORE.to_owned(),
        targets: event
            .targets
            .into_iter()
            .filter(|(field, _)| field == "agent_id")
            .collect(),
        ..event
    }
}

impl Counted {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an opening if one like it was written just now. Else it is to be written by itself, and then told by [`Self::written`].
    pub(crate) fn add(&self, key: &Key, event: &Event) -> bool {
        let mut table = self.lock();
        let window = table.get(key.tenant, &Alike::This(key.clone()));
        window.is_some_and(|window| {
            window.add(1, event.end_time);
            true
        })
    }

    /// `event` has been written: what is like it is counted from now on.
    pub(crate) fn written(&self, key: Key, event: Event) {
        let mut table = self.lock();
        let (tenant, alike) = (key.tenant, Alike::This(key));
        let windows = table.tenants.get(&tenant);
        let of_tenant = windows.map_or(0, HashMap::len);
        if table.len < MOST && of_tenant < OF_TENANT && table.get(tenant, &alike).is_none() {
            table.insert(tenant, alike, event, 0);
        }
    }

    /// Counts a refusal. Of those alike the first is given back, to be written now; if that fails, say [`Self::unwritten`].
    pub(crate) fn refuse(&self, key: &Key, event: Event) -> Option<Taken> {
        let mut table = self.lock();
        let (tenant, alike) = (key.tenant, table.place(key));
        if let Some(window) = table.get(tenant, &alike) {
            window.add(1, event.end_time);
            return None;
        }
        let event = first_of(&alike, event);
        table.insert(tenant, alike.clone(), event.clone(), 0);
        Some(Taken { tenant, alike, event })
    }

    /// The first one of its kind is to be written with those that follow it.
    pub(crate) fn unwritten(&self, first: Taken) {
        self.give_back(vec![first]);
    }

    /// Takes what has been counted long enough, or all of it.
    pub(crate) fn take(&self, all: bool) -> Vec<Taken> {
        let mut taken = Vec::new();
        let mut table = self.lock();
        table.tenants.retain(|tenant, windows| {
            let over = |window: &Window| all || window.since.elapsed() >= WINDOW;
            for (alike, window) in windows.extract_if(|_, window| over(window)) {
                let event = Event {
                    id: AuditId::fresh().to_string(),
                    count: window.more,
                    ..window.event
                };
                if window.more > 0 {
                    let tenant = *tenant;
                    taken.push(Taken { tenant, alike, event });
                }
            }
            !windows.is_empty()
        });
        table.len = table.tenants.values().map(HashMap::len).sum();
        taken
    }

    /// What was taken could not be written: it is taken again next time. What has no place any more is counted with the rest.
    pub(crate) fn give_back(&self, taken: Vec<Taken>) {
        let mut table = self.lock();
        for Taken { tenant, alike, event } in taken {
            let alike = match alike {
                Alike::This(key) if !key.reason.is_empty() => table.place(&key),
                Alike::RestOfAgent(_) if table.len >= MOST && table.get(tenant, &alike).is_none() => {
                    Alike::Rest
                }
                alike => alike,
            };
            let more = event.count;
            match table.get(tenant, &alike) {
                Some(window) => window.add(more, event.end_time),
                None => {
                    let event = first_of(&alike, event);
                    table.insert(tenant, alike, event, more);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use types::{AgentId, TenantId};

    use super::{Counted, Key, MORE, Taken, event};

    fn key(tenant: TenantId, agent: AgentId, target: &str, reason: &'static str) -> Key {
        Key {
            tenant,
            agent,
            method: "OpenCredentials",
            target: target.to_owned(),
            reason,
        }
    }

    fn opening() -> Key {
        key(TenantId::fresh(), AgentId::fresh(), "srv_1", "")
    }

    /// Refuses `calls` calls, each for another server; gives what is to be written at once.
    fn refused(counted: &Counted, tenant: TenantId, agent: AgentId, calls: usize) -> Vec<Taken> {
        let refuse = |call: usize| {
            let key = key(tenant, agent, &format!("srv_{call}"), "SERVER_FROZEN");
            counted.refuse(&key, event(&key, "req_1", "FAILED_PRECONDITION"))
        };
        (0..calls).filter_map(refuse).collect()
    }

    #[test]
    fn only_what_follows_a_written_one_is_counted() {
        let (counted, key) = (Counted::default(), opening());
        let first = event(&key, "req_1", "OK");
        assert!(!counted.add(&key, &first));
        // It could not be written: the next one is to be written too.
        assert!(!counted.add(&key, &first));
        counted.written(key.clone(), first.clone());
        for _ in 0..5 {
            assert!(counted.add(&key, &event(&key, "req_2", "OK")));
        }
        assert!(counted.take(false).is_empty());
        let taken = counted.take(true);
        assert_eq!(taken.len(), 1);
        let last = &taken[0].event;
        assert_eq!((taken[0].tenant, last.count), (key.tenant, 5));
        assert_ne!(last.id, first.id);
        assert!(last.end_time >= first.end_time);
        counted.give_back(taken.clone());
        assert!(counted.add(&key, &first));
        assert_eq!(counted.take(true)[0].event.count, 6);
        assert!(counted.take(true).is_empty());
        assert!(!counted.add(&key, &first));
    }

    #[test]
    fn what_happened_once_is_not_told_twice() {
        let (counted, key) = (Counted::default(), opening());
        counted.written(key.clone(), event(&key, "req_1", "OK"));
        assert!(counted.take(true).is_empty());
        assert_eq!(refused(&counted, key.tenant, key.agent, 1).len(), 1);
        assert!(counted.take(true).is_empty());
    }

    #[test]
    fn a_refusal_that_could_not_be_written_is_counted_with_the_next() {
        let counted = Counted::default();
        let (tenant, agent) = (TenantId::fresh(), AgentId::fresh());
        let first = refused(&counted, tenant, agent, 1).remove(0);
        counted.unwritten(first);
        assert!(refused(&counted, tenant, agent, 1).is_empty());
        assert_eq!(counted.take(true)[0].event.count, 2);
    }

    #[test]
    fn one_agent_writes_a_few_refusals_and_their_number() {
        let counted = Counted::default();
        let (tenant, agent) = (TenantId::fresh(), AgentId::fresh());
        let first = refused(&counted, tenant, agent, 1_000);
        assert_eq!(first.len(), super::REFUSED_OF_AGENT + 1);
        let rest = &first.last().unwrap().event;
        assert_eq!(
            (rest.reason.as_str(), rest.actor.agent_id.clone()),
            (MORE, agent.to_string())
        );
        assert!(rest.targets.iter().all(|(field, _)| field == "agent_id"));
        let taken = counted.take(true);
        assert_eq!((taken.len(), taken[0].event.count), (1, 1_000 - 21));
        // Again as many in the next ten seconds, and what could not be written stays in its place.
        assert_eq!(refused(&counted, tenant, agent, 1_000).len(), 21);
        counted.give_back(taken);
        let counts: u64 = counted.take(true).iter().map(|taken| taken.event.count).sum();
        assert_eq!(counts, 2 * (1_000 - 21));
    }

    #[test]
    fn agents_of_one_tenant_write_no_more_than_it_may_and_nothing_of_the_others_place() {
        let (counted, tenant) = (Counted::default(), TenantId::fresh());
        let mut first = Vec::new();
        for _ in 0..300 {
            first.extend(refused(&counted, tenant, AgentId::fresh(), 30));
        }
        assert_eq!(first.len(), super::REFUSED_OF_TENANT + 1);
        let more: u64 = counted.take(true).iter().map(|taken| taken.event.count).sum();
        assert_eq!(more + first.len() as u64, 300 * 30);
        let (counted, other) = (Counted::default(), opening());
        for server in 0..super::OF_TENANT + 10 {
            let key = key(tenant, AgentId::fresh(), &format!("srv_{server}"), "");
            counted.written(key.clone(), event(&key, "req_1", "OK"));
        }
        assert_eq!(counted.lock().len, super::OF_TENANT);
        counted.written(other.clone(), event(&other, "req_1", "OK"));
        assert!(counted.add(&other, &event(&other, "req_2", "OK")));
    }

    #[test]
    fn no_more_kinds_are_counted_than_there_is_room_for() {
        let counted = Counted::default();
        for _ in 0..super::MOST + 10 {
            let key = opening();
            counted.written(key.clone(), event(&key, "req_1", "OK"));
        }
        assert_eq!(counted.lock().len, super::MOST);
        // The refusals of one more tenant are one entry.
        assert_eq!(
            refused(&counted, TenantId::fresh(), AgentId::fresh(), 100).len(),
            1
        );
        assert_eq!(counted.lock().len, super::MOST + 1);
    }
}
