//! Questions, faults, and what must hold.

use super::{
    BTreeSet, Call, DEADLINE, Event, FAULTS_END, Found, Mesh, Millis, Op, Process, SocketAddr, Way, correct,
    found_at, ways,
};
use rand::{Rng as _, seq::IndexedRandom as _};

impl Mesh {
    pub(super) fn ask(&mut self, agent: usize, replica: usize, sure: bool) {
        if !self.replicas[replica].alive {
            return;
        }
        let call = self.calls.len();
        self.calls.push(Call {
            agent,
            replica,
            sure,
            looked: self.now,
            looks: 0,
            found: Vec::new(),
            untold: 0,
            ways: Vec::new(),
            began: self.now,
            answered: 0,
            hops: 0,
            ends: 0,
        });
        self.at(DEADLINE, Event::Deadline { call });
        self.look(call);
    }

    fn look(&mut self, call: usize) {
        let now = self.now;
        let asking = &mut self.calls[call];
        (asking.looked, asking.looks) = (now, asking.looks + 1);
        asking.found.clear();
        self.ask_redis(self.calls[call].replica, Op::Find(call));
    }

    pub(super) fn ask_others(&mut self, call: usize) {
        let own = self.calls[call].replica;
        let others = (0..self.replicas.len()).filter(|other| *other != own && self.replicas[*other].alive);
        let others: Vec<SocketAddr> = others.map(|other| self.replicas[other].address).collect();
        if others.is_empty() {
            return self.decide(call);
        }
        self.calls[call].untold = others.len();
        for address in others {
            let after = self.net();
            self.at(after, Event::Held { call, address });
        }
    }

    pub(super) fn held(&mut self, call: usize, address: SocketAddr) {
        let (key, _) = self.agents[self.calls[call].agent];
        let holder = self.at_address(address);
        let held = holder.and_then(|holder| self.replicas[holder].registry.get(key));
        let found = held.map(|held| found_at(key, address, held.epoch.clone(), false));
        let after = self.net();
        self.at(after, Event::HeldTold { call, found });
    }

    pub(super) fn held_told(&mut self, call: usize, found: Option<Found>) {
        let asking = &mut self.calls[call];
        asking.found.extend(found);
        asking.untold -= 1;
        if asking.untold == 0 {
            self.decide(call);
        }
    }

    pub(super) fn decide(&mut self, call: usize) {
        let (key, server) = self.agents[self.calls[call].agent];
        let replica = &self.replicas[self.calls[call].replica];
        let mut found = std::mem::take(&mut self.calls[call].found);
        if let Some(held) = replica.registry.get(key) {
            correct(
                &mut found,
                found_at(key, replica.address, held.epoch.clone(), false),
            );
        }
        let turn = self.random.random_range(0..100);
        self.calls[call].ways = ways(&[key.agent], server, replica.address, &found, turn);
        self.next_way(call);
    }

    pub(super) fn next_way(&mut self, call: usize) {
        let asking = &self.calls[call];
        if asking.ends > 0 || !self.replicas[asking.replica].alive {
            return;
        }
        if asking.ways.is_empty() {
            return if asking.looks < 2 {
                self.look(call)
            } else {
                self.end(call, false)
            };
        }
        let (key, _) = self.agents[asking.agent];
        match self.calls[call].ways.remove(0) {
            Way::Here(agent, epoch) => {
                assert_eq!(agent, key.agent);
                let registry = &self.replicas[self.calls[call].replica].registry;
                match registry
                    .get(key)
                    .filter(|held| held.epoch >= epoch)
                    .map(|held| held.link)
                {
                    Some(conn) => self.send(call, conn),
                    None => self.next_way(call),
                }
            }
            Way::There(agent, address) => {
                assert_eq!(agent, key.agent);
                let after = self.net();
                self.at(
                    after,
                    Event::Forward {
                        call,
                        address,
                        hops: 1,
                    },
                );
            }
        }
    }

    /// At the replica that is to hold the agent. It has nothing to pass on with.
    pub(super) fn forward(&mut self, call: usize, address: SocketAddr, hops: u32) {
        self.calls[call].hops = self.calls[call].hops.max(hops);
        let (key, _) = self.agents[self.calls[call].agent];
        let holder = self.at_address(address);
        let held = holder.and_then(|holder| self.replicas[holder].registry.get(key));
        match held.map(|held| held.link) {
            Some(conn) => self.send(call, conn),
            None => {
                let after = self.net();
                self.at(after, Event::NotHeld { call });
            }
        }
    }

    fn send(&mut self, call: usize, conn: usize) {
        self.conns[conn].waiting.push(call);
        let after = self.net();
        self.at(after, Event::Arrive { call, conn });
    }

    /// At the agent, which begins to answer.
    pub(super) fn arrive(&mut self, call: usize, conn: usize) {
        let Some(place) = self.conns[conn]
            .waiting
            .iter()
            .position(|waiting| *waiting == call)
        else {
            return;
        };
        let link = &self.conns[conn];
        let process = &self.processes[link.process];
        if link.half || !link.there || !process.alive {
            return;
        }
        let (wanted, got) = (self.calls[call].agent, process.agent);
        assert_eq!(wanted, got, "(a) call {call}");
        let looked = self.calls[call].looked;
        let (key, _) = self.agents[got];
        let known = self.shelf.find(key, self.now);
        let newer = self.conns.iter().find(|other| {
            let of = &self.processes[other.process];
            let told = other.acked.is_some_and(|acked| acked < looked);
            let open = other.here && other.there && !other.half && self.replicas[other.replica].alive;
            let address = self.replicas[other.replica].address;
            let counts = known
                .iter()
                .any(|(at, epoch, _)| *at == address && *epoch == of.epoch);
            of.agent == got && of.epoch > process.epoch && told && open && of.alive && counts
        });
        if let Some(other) = newer {
            let of = &self.processes[other.process].epoch;
            panic!(
                "(b) call {call} at {}, looked at {looked}: by {} connection {conn} at replica {} of {:?}, though at {:?} replica {} had {of:?} {:?}",
                self.now,
                self.calls[call].replica,
                link.replica,
                process.epoch,
                other.acked,
                other.replica,
                self.replicas
                    .iter()
                    .map(|one| (one.alive, one.without_redis, one.address.port()))
                    .collect::<Vec<_>>(),
            );
        }
        self.conns[conn].waiting.swap_remove(place);
        if self.calls[call].ends > 0 {
            return;
        }
        self.calls[call].answered += 1;
        assert_eq!(self.calls[call].answered, 1, "(d) call {call}");
        self.end(call, true);
    }

    pub(super) fn end(&mut self, call: usize, reached: bool) {
        let now = self.now;
        let asking = &mut self.calls[call];
        if asking.ends > 0 {
            return;
        }
        asking.ends = 1;
        assert!(asking.hops <= 1, "(f) call {call}");
        assert!(now <= asking.began + DEADLINE, "(d) call {call} ends late");
        let alive = self.replicas[asking.replica].alive;
        assert!(
            !asking.sure || reached || !alive,
            "(c) call {call} of agent {} by {}",
            asking.agent,
            asking.replica
        );
        *(if reached {
            &mut self.reached
        } else {
            &mut self.refused
        }) += 1;
    }

    // Faults.

    pub(super) fn fault(&mut self) {
        let alive: Vec<usize> = (0..self.replicas.len())
            .filter(|one| self.replicas[*one].alive)
            .collect();
        let replica = *alive.choose(&mut self.random).unwrap();
        let what = match self.random.random_range(0..7) {
            0 if alive.len() > 1 => self.crash(replica),
            1 => {
                self.replicas[replica].without_redis = true;
                "partition"
            }
            2 => {
                self.replicas[replica].without_redis = false;
                "partition heals"
            }
            3 => {
                self.shelf.flush();
                for conn in &mut self.conns {
                    conn.acked = None;
                }
                "flush"
            }
            4 => {
                let agent = self.random.random_range(0..self.agents.len());
                let latest = self.processes.iter().filter(|one| one.agent == agent);
                let latest = latest.map(|one| one.epoch.generation()).max().unwrap();
                let same = self.random.random_bool(0.3);
                self.start_process(agent, if same { latest } else { latest + 1 });
                "doubled"
            }
            5 => self.restart(),
            _ => self.half_open(),
        };
        *self.faults.entry(what).or_default() += 1;
    }

    fn crash(&mut self, replica: usize) -> &'static str {
        self.replicas[replica].alive = false;
        for conn in 0..self.conns.len() {
            if self.conns[conn].replica == replica && self.conns[conn].here {
                let after = if self.random.random_bool(0.1) {
                    30_000
                } else {
                    self.net()
                };
                self.over_here(conn);
                self.at(after, Event::OverThere { conn });
            }
        }
        // Another one comes to its place, by its address.
        let address = self.replicas[replica].address;
        self.start_replica(address);
        "crash"
    }

    /// An agent's process is killed, and starts again.
    fn restart(&mut self) -> &'static str {
        let alive: Vec<usize> = (0..self.processes.len())
            .filter(|one| self.processes[*one].alive)
            .collect();
        let process = *alive.choose(&mut self.random).unwrap();
        let (agent, generation) = (
            self.processes[process].agent,
            self.processes[process].epoch.generation(),
        );
        self.processes[process].alive = false;
        for conn in self.processes[process].slots.into_iter().flatten() {
            let after = if self.random.random_bool(0.2) {
                30_000
            } else {
                self.net()
            };
            self.at(after, Event::OverHere { conn });
        }
        self.start_process(agent, generation + 1);
        "restart"
    }

    fn half_open(&mut self) -> &'static str {
        let open: Vec<usize> = (0..self.conns.len())
            .filter(|one| self.conns[*one].here && self.conns[*one].there)
            .collect();
        if let Some(conn) = open.choose(&mut self.random).copied() {
            self.conns[conn].half = true;
            let (here, there) = (
                self.random.random_range(0..30_000),
                self.random.random_range(0..30_000),
            );
            self.at(here, Event::OverHere { conn });
            self.at(there, Event::OverThere { conn });
        }
        "half open"
    }

    /// All faults are over: Redis can be reached.
    pub(super) fn heal(&mut self) {
        for replica in &mut self.replicas {
            replica.without_redis = false;
        }
    }

    /// Agents that run twice run once from now on: the older ones would come and be sent away for ever.
    pub(super) fn end_doubles(&mut self) {
        for process in 0..self.processes.len() {
            let (agent, epoch) = (
                self.processes[process].agent,
                self.processes[process].epoch.clone(),
            );
            let newer = |other: &Process| other.alive && other.agent == agent && other.epoch > epoch;
            if !self.processes.iter().any(newer) {
                continue;
            }
            self.processes[process].alive = false;
            for conn in 0..self.conns.len() {
                if self.conns[conn].process == process && self.conns[conn].here {
                    let after = self.net();
                    self.at(after, Event::OverHere { conn });
                }
            }
        }
    }

    /// (e)
    pub(super) fn assert_nothing_is_left_over(&mut self) {
        let mut open = BTreeSet::new();
        for conn in self
            .conns
            .iter()
            .filter(|conn| conn.here && self.replicas[conn.replica].alive)
        {
            let process = &self.processes[conn.process];
            assert!(
                conn.there && process.alive,
                "(e) a replica holds what nobody is at"
            );
            let (key, _) = self.agents[process.agent];
            assert!(
                open.insert((key, self.replicas[conn.replica].address, process.epoch.clone())),
                "(e) twice"
            );
        }
        let (mut held, mut found) = (BTreeSet::new(), BTreeSet::new());
        for replica in self.replicas.iter().filter(|replica| replica.alive) {
            held.extend(
                replica
                    .registry
                    .iter()
                    .map(|(key, one)| (key, replica.address, one.epoch.clone())),
            );
        }
        for (key, _) in &self.agents {
            let of = self.shelf.find(*key, self.now).into_iter();
            found.extend(of.map(|(address, epoch, _)| (*key, address, epoch)));
        }
        let held: Vec<_> = held.symmetric_difference(&open).collect();
        assert!(held.is_empty(), "(e) registries and connections: {held:?}");
        let found: Vec<_> = found.symmetric_difference(&open).collect();
        assert!(found.is_empty(), "(e) directory and connections: {found:?}");
    }
}

fn run(seed: u64) -> Mesh {
    let mut mesh = Mesh::new(seed, 3, 20);
    let mut time: Millis = 2_000;
    while time < FAULTS_END {
        time += mesh.random.random_range(200..6_000);
        mesh.at(time, Event::Fault);
    }
    for _ in 0..2_000 {
        let (agent, replica) = (mesh.random.random_range(0..20), mesh.random.random_range(0..12));
        let time = mesh.random.random_range(0..FAULTS_END);
        if replica < 3 {
            mesh.at(
                time,
                Event::Ask {
                    agent,
                    replica,
                    sure: false,
                },
            );
        } else {
            // Whoever is there by then: asked when the time comes.
            mesh.at(
                time,
                Event::Ask {
                    agent,
                    replica: replica % 3,
                    sure: false,
                },
            );
        }
    }
    mesh.run_until(FAULTS_END + 10_000);
    mesh.heal();
    mesh.run_until(FAULTS_END + 70_000);
    for agent in 0..20 {
        for replica in 0..mesh.replicas.len() {
            let after = mesh.random.random_range(0..1_000);
            mesh.at(
                after,
                Event::Ask {
                    agent,
                    replica,
                    sure: true,
                },
            );
        }
    }
    mesh.run_until(FAULTS_END + 80_000);
    mesh.end_doubles();
    mesh.run_until(FAULTS_END + 90_000);
    assert!(
        mesh.calls
            .iter()
            .all(|call| call.ends == 1 || !mesh.replicas[call.replica].alive),
        "(d)"
    );
    mesh.assert_nothing_is_left_over();
    mesh
}

/// `TRAILMESH_TEST_SEEDS` runs more of them; a failure names its seed.
#[test]
fn whatever_breaks_questions_reach_their_agents_and_nobody_else() {
    let seeds = std::env::var("TRAILMESH_TEST_SEEDS").ok();
    let seeds = seeds.and_then(|seeds| seeds.parse().ok()).unwrap_or(150);
    let (mut reached, mut refused, mut faults) = (0, 0, std::collections::BTreeMap::new());
    for seed in 0..seeds {
        let mesh = std::panic::catch_unwind(|| run(seed));
        let mesh = mesh.unwrap_or_else(|_| panic!("seed {seed}"));
        (reached, refused) = (reached + mesh.reached, refused + mesh.refused);
        for (what, count) in mesh.faults {
            *faults.entry(what).or_insert(0) += count;
        }
    }
    println!("{seeds} seeds: {reached} reached, {refused} not; {faults:?}");
    assert!(reached > 10 * refused, "{reached} reached, {refused} not");
    assert_eq!(faults.len(), 7, "{faults:?}");
}

#[test]
fn a_run_is_its_seed() {
    let (one, other) = (run(5), run(5));
    assert_eq!(
        (one.number, one.reached, one.refused),
        (other.number, other.reached, other.refused)
    );
}
