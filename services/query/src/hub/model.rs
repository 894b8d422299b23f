//! Who holds which agent, as plain values: what a replica knows of its own connections, and the way a call takes. Nothing here waits or asks.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use types::{AgentId, ServerId, TenantId};

/// A name longer than this is none.
const LONGEST_BOOT: usize = 64;
/// So many digits has every number of 64 bits with zeros in front, so that words sort as numbers do.
const DIGITS: usize = 20;
/// So many ways are tried for one call.
const WAYS: usize = 4;

/// Of two connections with the same name, which is newer: that of the agent's later start. Two processes with equal numbers, which only a
/// copied folder makes, are told apart by their boots, so that there is always exactly one that counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Epoch {
    generation: u64,
    boot: Arc<str>,
}

impl Epoch {
    /// What an agent says of itself, if it can be.
    pub(crate) fn new(generation: u64, boot: &str) -> Option<Self> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let fits = !boot.is_empty() && boot.len() <= LONGEST_BOOT && boot.bytes().all(good);
        fits.then(|| Self {
            generation,
            boot: boot.into(),
        })
    }

    /// The number that an agent counts its starts with.
    #[cfg(test)]
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// As the directory writes it: sorts as the epochs do.
    pub(crate) fn word(&self) -> String {
        format!("{:0DIGITS$}:{}", self.generation, self.boot)
    }

    /// Reads what the directory wrote.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        let (generation, boot) = word.split_once(':')?;
        Self::new(generation.parse().ok()?, boot)
    }
}

/// An agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// Whose.
    pub(crate) tenant: TenantId,
    /// Which.
    pub(crate) agent: AgentId,
}

/// A connection that counts.
#[derive(Debug)]
pub(crate) struct Holding<C> {
    /// Of this replica; no two have the same.
    pub(crate) id: u64,
    /// Of the agent at its end.
    pub(crate) epoch: Epoch,
    /// The connection.
    pub(crate) link: C,
}

/// A connection of an agent that is older than one that counts already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Older;

/// The connections of this replica that count: one for each agent.
#[derive(Debug)]
pub(crate) struct Registry<C> {
    agents: HashMap<Key, Holding<C>>,
    last: u64,
}

impl<C> Default for Registry<C> {
    fn default() -> Self {
        Self {
            agents: HashMap::new(),
            last: 0,
        }
    }
}

impl<C> Registry<C> {
    /// From now on this one counts, with its number, and the one that did before does not: it is given back, to be closed.
    pub(crate) fn insert(
        &mut self,
        key: Key,
        epoch: Epoch,
        link: C,
    ) -> Result<(u64, Option<Holding<C>>), Older> {
        if self.agents.get(&key).is_some_and(|held| held.epoch > epoch) {
            return Err(Older);
        }
        self.last += 1;
        let id = self.last;
        let before = self.agents.insert(key, Holding { id, epoch, link });
        Ok((id, before))
    }

    /// The connection has ended. One that came after it stays.
    pub(crate) fn remove(&mut self, key: Key, id: u64) -> Option<Holding<C>> {
        if self.agents.get(&key).is_some_and(|held| held.id == id) {
            return self.agents.remove(&key);
        }
        None
    }

    /// Somebody holds a connection of this epoch: an older one does not count any more, and is given back to be closed.
    pub(crate) fn displace(&mut self, key: Key, by: &Epoch) -> Option<Holding<C>> {
        if self.agents.get(&key).is_some_and(|held| held.epoch < *by) {
            return self.agents.remove(&key);
        }
        None
    }

    /// The connection of an agent.
    pub(crate) fn get(&self, key: Key) -> Option<&Holding<C>> {
        self.agents.get(&key)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, &Holding<C>)> {
        self.agents.iter().map(|(key, held)| (*key, held))
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.agents.len()
    }
}

/// Which servers an agent said that it follows. It may follow others by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Servers {
    /// So many that they are not listed.
    Many,
    /// These.
    These(Vec<ServerId>),
}

impl Servers {
    /// Whether this server was among them.
    pub(crate) fn has(&self, server: ServerId) -> bool {
        match self {
            Self::Many => true,
            Self::These(these) => these.contains(&server),
        }
    }
}

/// A connection at some replica, as the directory or the replica itself tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The agent.
    pub(crate) agent: AgentId,
    /// Where the replica is.
    pub(crate) address: SocketAddr,
    /// Of the agent at the end of the connection.
    pub(crate) epoch: Epoch,
    /// Whether the replica ends soon.
    pub(crate) leaving: bool,
    /// What the agent follows.
    pub(crate) servers: Servers,
}

/// Puts what the replica at `own` holds of an agent into what is known of it: nobody knows that better. What is written of ourselves counts
/// only as long as it says that something newer is here than what is; it is soon corrected.
pub(crate) fn correct(found: &mut Vec<Found>, own: Found) {
    found.retain(|one| one.agent != own.agent || one.address != own.address || one.epoch > own.epoch);
    found.push(own);
}

/// A way to an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By a connection of this replica, of at least this epoch.
    Here(AgentId, Epoch),
    /// By another replica.
    There(AgentId, SocketAddr),
}

/// The ways to ask one of `agents` about `server`, best first, given what is known of their connections, those of the replica at `own` among
/// them. Connections that are older than another one of the same agent are none, wherever they are. `turn` is any number: it spreads calls.
pub(crate) fn ways(
    agents: &[AgentId],
    server: ServerId,
    own: SocketAddr,
    found: &[Found],
    turn: usize,
) -> Vec<Way> {
    let mut ranked = Vec::new();
    for (place, agent) in agents.iter().enumerate() {
        let of_agent = || found.iter().filter(|one| one.agent == *agent);
        let Some(newest) = of_agent().map(|one| &one.epoch).max() else {
            continue;
        };
        let place = (place + turn) % agents.len();
        for (count, one) in of_agent().filter(|one| one.epoch == *newest).enumerate() {
            let here = one.address == own;
            let rank = (
                !one.servers.has(server),
                place,
                one.leaving,
                !here,
                (count + turn) % 2,
            );
            let way = if here {
                Way::Here(*agent, one.epoch.clone())
            } else {
                Way::There(*agent, one.address)
            };
            ranked.push((rank, way));
        }
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    let mut ways: Vec<Way> = Vec::new();
    for (_, way) in ranked {
        if !ways.contains(&way) && ways.len() < WAYS {
            ways.push(way);
        }
    }
    ways
}

/// For [`ways`]: the turn in which `prefer` is the first of `agents`, if it is one of them; else the one that it is.
pub(crate) fn turn_for(prefer: Option<AgentId>, agents: &[AgentId], turn: usize) -> usize {
    let first = prefer.and_then(|prefer| agents.iter().position(|agent| *agent == prefer));
    let Some(first) = first else { return turn };
    let turn = turn % (usize::MAX / 2) + agents.len();
    turn - (turn + first) % agents.len()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use types::{AgentId, ServerId, TenantId};

    use super::{Epoch, Found, Key, Older, Registry, Servers, Way, turn_for, ways};

    fn epoch(generation: u64) -> Epoch {
        Epoch::new(generation, "boot").unwrap()
    }

    fn key() -> Key {
        Key {
            tenant: TenantId::fresh(),
            agent: AgentId::fresh(),
        }
    }

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn found(agent: AgentId, port: u16, generation: u64) -> Found {
        Found {
            agent,
            address: at(port),
            epoch: epoch(generation),
            leaving: false,
            servers: Servers::Many,
        }
    }

    #[test]
    fn words_sort_as_epochs_do_and_are_read_back() {
        let mut all = Vec::new();
        for generation in [0, 9, 10, 99, 100, u64::MAX] {
            for boot in ["0", "9-a", "a_b", "b"] {
                all.push(Epoch::new(generation, boot).unwrap());
            }
        }
        for one in &all {
            assert_eq!(Epoch::from_word(&one.word()).as_ref(), Some(one));
            for other in &all {
                assert_eq!(one.cmp(other), one.word().cmp(&other.word()));
            }
        }
        for bad in ["", " ", "a b", "a:b", "é", &"a".repeat(65)] {
            assert_eq!(Epoch::new(1, bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_newest_connection_of_an_agent_counts_and_no_other() {
        let (mut registry, key) = (Registry::default(), key());
        let (first, none) = registry.insert(key, epoch(2), "first").unwrap();
        assert!(none.is_none());
        assert_eq!(registry.insert(key, epoch(1), "old").unwrap_err(), Older);
        let (second, before) = registry.insert(key, epoch(2), "second").unwrap();
        assert_eq!(before.unwrap().link, "first");
        assert!(registry.remove(key, first).is_none());
        assert!(registry.displace(key, &epoch(2)).is_none());
        assert_eq!(registry.get(key).unwrap().link, "second");
        assert_eq!(registry.displace(key, &epoch(3)).unwrap().link, "second");
        assert!(registry.remove(key, second).is_none());
        assert_eq!((registry.len(), registry.iter().count()), (0, 0));
    }

    #[test]
    fn an_older_connection_is_no_way_wherever_it_is() {
        let (agent, server) = (AgentId::fresh(), ServerId::fresh());
        let known = [found(agent, 1, 4), found(agent, 2, 5), found(agent, 3, 5)];
        let ways = ways(&[agent], server, at(1), &known, 0);
        assert_eq!(ways, [Way::There(agent, at(2)), Way::There(agent, at(3))]);
    }

    #[test]
    fn near_before_far_staying_before_leaving_and_followers_before_the_rest() {
        let (one, other, server) = (AgentId::fresh(), AgentId::fresh(), ServerId::fresh());
        let mut known = [found(one, 2, 5), found(one, 1, 5), found(one, 3, 5)];
        known[0].leaving = true;
        let found_ways = ways(&[one], server, at(1), &known, 0);
        assert_eq!(
            found_ways,
            [
                Way::Here(one, epoch(5)),
                Way::There(one, at(3)),
                Way::There(one, at(2))
            ]
        );
        let mut known = [found(one, 2, 5), found(other, 2, 1)];
        known[0].servers = Servers::These(vec![]);
        known[1].servers = Servers::These(vec![server]);
        for turn in 0..4 {
            let found_ways = ways(&[one, other], server, at(1), &known, turn);
            assert_eq!(found_ways[0], Way::There(other, at(2)), "{turn}");
        }
        assert!(ways(&[one], server, at(1), &[], 3).is_empty());
        let foreign = found(AgentId::fresh(), 1, 1);
        assert!(ways(&[one], server, at(1), &[foreign], 0).is_empty());
    }

    #[test]
    fn an_agent_that_is_preferred_is_asked_first_in_any_turn() {
        let (agents, server) = ([(); 3].map(|()| AgentId::fresh()), ServerId::fresh());
        let known = agents.map(|agent| found(agent, 2, 1));
        for turn in [0, 1, 2, 3, 17, usize::MAX] {
            for agent in agents {
                let turn = turn_for(Some(agent), &agents, turn);
                let found_ways = ways(&agents, server, at(1), &known, turn);
                assert_eq!(found_ways[0], Way::There(agent, at(2)), "{turn}");
                assert_eq!(found_ways.len(), 3);
            }
            assert_eq!(turn_for(None, &agents, turn), turn);
            assert_eq!(turn_for(Some(AgentId::fresh()), &agents, turn), turn);
        }
    }
}
