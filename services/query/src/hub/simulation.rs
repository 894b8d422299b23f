//! Replicas, agents and a Redis in virtual time: messages take their time, and things break on purpose. What decides is the product's own code:
//! [`Registry`], [`correct`] and [`ways`]; the directory is its model ([`Shelf`]), which a test compares with the scripts in a real Redis.
//!
//! Every run is its seed. What must hold, whatever happens:
//!
//! * (a) a question reaches only the agent that it is for;
//! * (b) while a newer start of an agent is connected, and the directory counts it and everybody was told, no question that begins then reaches
//!   an older one;
//! * (c) a minute after the last fault every agent that runs is reached by every replica;
//! * (d) a question has one end, in time, and is put to no second agent after one has begun to answer;
//! * (e) what replicas hold, and what the directory says, are the connections that are open;
//! * (f) a question takes one hop at most.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    net::SocketAddr,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use types::{AgentId, ServerId, TenantId};

use super::{
    model::{Epoch, Found, Key, Registry, Servers, Way, correct, ways},
    shelf::{Millis, Shelf, Shelved},
};

const SIGN: Millis = 5_000;
const RETRY: Millis = 1_000;
const LEASE: Millis = 15_000;
const AGAIN: Millis = 60_000;
const DEADLINE: Millis = 10_000;
const FAULTS_END: Millis = 120_000;

#[derive(Clone, Debug)]
enum Event {
    Dial {
        process: usize,
        slot: usize,
    },
    Greeted {
        process: usize,
        slot: usize,
        replica: usize,
    },
    /// A request of a replica arrives at Redis.
    Redis {
        replica: usize,
        op: Op,
    },
    /// Redis' answer arrives at a replica; none is that Redis is away.
    Answer {
        replica: usize,
        op: Op,
        told: Option<Told>,
    },
    Displace {
        address: SocketAddr,
        conn: usize,
    },
    Displaced {
        conn: usize,
    },
    Sign {
        replica: usize,
    },
    Again {
        replica: usize,
    },
    Ask {
        agent: usize,
        replica: usize,
        sure: bool,
    },
    Held {
        call: usize,
        address: SocketAddr,
    },
    HeldTold {
        call: usize,
        found: Option<Found>,
    },
    Forward {
        call: usize,
        address: SocketAddr,
        hops: u32,
    },
    NotHeld {
        call: usize,
    },
    Arrive {
        call: usize,
        conn: usize,
    },
    Deadline {
        call: usize,
    },
    /// The agent's end of a connection has heard that it is over; and the replica's.
    OverThere {
        conn: usize,
    },
    OverHere {
        conn: usize,
    },
    Fault,
}

#[derive(Clone, Debug)]
enum Op {
    Live,
    Announce(usize),
    Withdraw(Key, u64),
    Find(usize),
}

#[derive(Clone, Debug)]
enum Told {
    Live(bool),
    Announced(Shelved),
    Found(Vec<Found>),
    Withdrawn,
}

struct Replica {
    name: String,
    address: SocketAddr,
    alive: bool,
    without_redis: bool,
    behind: bool,
    owed: Vec<(Key, u64)>,
    /// How fast its clock runs.
    pace: f64,
    registry: Registry<usize>,
}

struct Process {
    agent: usize,
    epoch: Epoch,
    alive: bool,
    slots: [Option<usize>; 2],
}

struct Conn {
    process: usize,
    slot: usize,
    replica: usize,
    id: u64,
    here: bool,
    there: bool,
    half: bool,
    /// Replicas that were not heard of yet.
    untold: usize,
    /// When everybody had been told of it.
    acked: Option<Millis>,
    waiting: Vec<usize>,
}

struct Call {
    agent: usize,
    replica: usize,
    sure: bool,
    looked: Millis,
    looks: u32,
    found: Vec<Found>,
    untold: usize,
    ways: Vec<Way>,
    began: Millis,
    answered: u32,
    hops: u32,
    ends: u32,
}

struct Mesh {
    random: StdRng,
    now: Millis,
    number: u64,
    queue: BinaryHeap<Reverse<(Millis, u64)>>,
    events: BTreeMap<u64, Event>,
    shelf: Shelf,
    replicas: Vec<Replica>,
    agents: Vec<(Key, ServerId)>,
    processes: Vec<Process>,
    conns: Vec<Conn>,
    calls: Vec<Call>,
    reached: usize,
    refused: usize,
    faults: BTreeMap<&'static str, usize>,
}

impl Mesh {
    fn new(seed: u64, replicas: u16, agents: usize) -> Self {
        let mut mesh = Self {
            random: StdRng::seed_from_u64(seed),
            now: 0,
            number: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            shelf: Shelf::default(),
            replicas: Vec::new(),
            agents: Vec::new(),
            processes: Vec::new(),
            conns: Vec::new(),
            calls: Vec::new(),
            reached: 0,
            refused: 0,
            faults: BTreeMap::new(),
        };
        for port in 1..=replicas {
            mesh.start_replica(SocketAddr::from(([10, 0, 0, 1], port)));
        }
        for number in 0..agents {
            let key = Key {
                tenant: TenantId::fresh(),
                agent: AgentId::fresh(),
            };
            mesh.agents.push((key, ServerId::fresh()));
            mesh.start_process(number, 1);
        }
        mesh
    }

    fn at(&mut self, after: Millis, event: Event) {
        self.number += 1;
        self.queue.push(Reverse((self.now + after, self.number)));
        self.events.insert(self.number, event);
    }

    /// What a message takes.
    fn net(&mut self) -> Millis {
        self.random.random_range(1..40)
    }

    fn start_replica(&mut self, address: SocketAddr) {
        let replica = self.replicas.len();
        self.replicas.push(Replica {
            name: format!("r{replica:04}"),
            address,
            alive: true,
            without_redis: false,
            behind: false,
            owed: Vec::new(),
            pace: self.random.random_range(0.6..1.4),
            registry: Registry::default(),
        });
        self.at(0, Event::Sign { replica });
        self.at(AGAIN, Event::Again { replica });
    }

    fn start_process(&mut self, agent: usize, generation: u64) {
        let process = self.processes.len();
        self.processes.push(Process {
            agent,
            epoch: Epoch::new(generation, &format!("boot-{process:06}")).unwrap(),
            alive: true,
            slots: [None; 2],
        });
        for slot in 0..2 {
            let after = self.random.random_range(1..1_000);
            self.at(after, Event::Dial { process, slot });
        }
    }

    fn run_until(&mut self, end: Millis) {
        while let Some(Reverse((time, number))) = self.queue.peek().copied() {
            if time > end {
                break;
            }
            self.queue.pop();
            self.now = time;
            if let Some(event) = self.events.remove(&number) {
                self.happen(event);
            }
        }
        self.now = end;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Dial { process, slot } => self.dial(process, slot),
            Event::Greeted {
                process,
                slot,
                replica,
            } => self.greeted(process, slot, replica),
            Event::Redis { replica, op } => self.redis(replica, op),
            Event::Answer { replica, op, told } => self.answer(replica, op, told),
            Event::Displace { address, conn } => self.displace(address, conn),
            Event::Displaced { conn } => self.displaced(conn),
            Event::Sign { replica } => self.ask_redis(replica, Op::Live),
            Event::Again { replica } => self.again(replica),
            Event::Ask { agent, replica, sure } => self.ask(agent, replica, sure),
            Event::Held { call, address } => self.held(call, address),
            Event::HeldTold { call, found } => self.held_told(call, found),
            Event::Forward { call, address, hops } => self.forward(call, address, hops),
            Event::NotHeld { call } => self.next_way(call),
            Event::Arrive { call, conn } => self.arrive(call, conn),
            Event::Deadline { call } => self.end(call, false),
            Event::OverThere { conn } => self.over_there(conn),
            Event::OverHere { conn } => self.over_here(conn),
            Event::Fault => self.fault(),
        }
    }

    // Agents.

    fn dial(&mut self, process: usize, slot: usize) {
        if !self.processes[process].alive {
            return;
        }
        let other = self.processes[process].slots[1 - slot];
        let taken = other.map(|conn| self.conns[conn].replica);
        let free: Vec<usize> = (0..self.replicas.len())
            .filter(|replica| self.replicas[*replica].alive)
            .collect();
        let Some(replica) = free
            .choose(&mut self.random)
            .copied()
            .filter(|replica| Some(*replica) != taken)
        else {
            return self.dial_again(process, slot);
        };
        let after = 3 * self.net();
        self.at(
            after,
            Event::Greeted {
                process,
                slot,
                replica,
            },
        );
    }

    fn dial_again(&mut self, process: usize, slot: usize) {
        let after = self.random.random_range(100..5_000);
        self.at(after, Event::Dial { process, slot });
    }

    fn greeted(&mut self, process: usize, slot: usize, replica: usize) {
        if !self.processes[process].alive {
            return;
        }
        let held = self.processes[process].slots[1 - slot];
        let twice = held.is_some_and(|conn| self.conns[conn].replica == replica);
        if !self.replicas[replica].alive || twice {
            return self.dial_again(process, slot);
        }
        let (key, _) = self.agents[self.processes[process].agent];
        let epoch = self.processes[process].epoch.clone();
        let conn = self.conns.len();
        let Ok((id, before)) = self.replicas[replica].registry.insert(key, epoch, conn) else {
            return self.dial_again(process, slot);
        };
        self.conns.push(Conn {
            process,
            slot,
            replica,
            id,
            here: true,
            there: true,
            half: false,
            untold: 0,
            acked: None,
            waiting: Vec::new(),
        });
        self.processes[process].slots[slot] = Some(conn);
        if let Some(before) = before {
            self.cut(before.link);
        }
        self.ask_redis(replica, Op::Announce(conn));
    }

    /// The replica closes a connection.
    fn cut(&mut self, conn: usize) {
        self.over_here(conn);
        if !self.conns[conn].half {
            let after = self.net();
            self.at(after, Event::OverThere { conn });
        }
    }

    fn over_there(&mut self, conn: usize) {
        if !std::mem::replace(&mut self.conns[conn].there, false) {
            return;
        }
        let (process, slot) = (self.conns[conn].process, self.conns[conn].slot);
        if self.processes[process].slots[slot] == Some(conn) {
            self.processes[process].slots[slot] = None;
            self.dial_again(process, slot);
        }
    }

    fn over_here(&mut self, conn: usize) {
        if !std::mem::replace(&mut self.conns[conn].here, false) {
            return;
        }
        let (process, replica, id) = (
            self.conns[conn].process,
            self.conns[conn].replica,
            self.conns[conn].id,
        );
        let (key, _) = self.agents[self.processes[process].agent];
        self.replicas[replica].registry.remove(key, id);
        if self.replicas[replica].alive {
            self.ask_redis(replica, Op::Withdraw(key, id));
        }
        for call in std::mem::take(&mut self.conns[conn].waiting) {
            let after = self.net();
            self.at(after, Event::NotHeld { call });
        }
    }

    // Redis.

    fn ask_redis(&mut self, replica: usize, op: Op) {
        let after = self.random.random_range(1..20);
        self.at(after, Event::Redis { replica, op });
    }

    fn redis(&mut self, replica: usize, op: Op) {
        let now = self.now;
        let Replica {
            name,
            address,
            without_redis,
            ..
        } = &self.replicas[replica];
        if *without_redis {
            let after = self.random.random_range(1..500);
            return self.at(
                after,
                Event::Answer {
                    replica,
                    op,
                    told: None,
                },
            );
        }
        let told = match &op {
            Op::Live => Told::Live(self.shelf.live(name, *address, false, now, LEASE)),
            Op::Announce(conn) => {
                let process = &self.processes[self.conns[*conn].process];
                let (key, _) = self.agents[process.agent];
                let id = self.conns[*conn].id;
                Told::Announced(self.shelf.announce(name, key, id, &process.epoch, now))
            }
            Op::Withdraw(key, id) => {
                self.shelf.withdraw(name, *key, *id);
                Told::Withdrawn
            }
            Op::Find(call) => {
                let (key, _) = self.agents[self.calls[*call].agent];
                let found = self.shelf.find(key, now).into_iter();
                Told::Found(
                    found
                        .map(|(address, epoch, leaving)| found_at(key, address, epoch, leaving))
                        .collect(),
                )
            }
        };
        let after = self.random.random_range(1..20);
        self.at(
            after,
            Event::Answer {
                replica,
                op,
                told: Some(told),
            },
        );
    }

    fn answer(&mut self, replica: usize, op: Op, told: Option<Told>) {
        if !self.replicas[replica].alive {
            return;
        }
        match (op, told) {
            (Op::Live, told) => self.signed(replica, told),
            (Op::Announce(conn), Some(Told::Announced(shelved))) => self.announced(replica, conn, shelved),
            (Op::Announce(_), _) => self.replicas[replica].behind = true,
            (Op::Withdraw(key, id), None) => self.replicas[replica].owed.push((key, id)),
            (Op::Withdraw(..), _) => {}
            (Op::Find(call), Some(Told::Found(found))) if !found.is_empty() => {
                self.calls[call].found = found;
                self.decide(call);
            }
            (Op::Find(call), _) => self.ask_others(call),
        }
    }

    fn signed(&mut self, replica: usize, told: Option<Told>) {
        let pace = self.replicas[replica].pace;
        let pause = if told.is_some() { SIGN } else { RETRY };
        self.at((pause as f64 * pace) as Millis, Event::Sign { replica });
        let Some(Told::Live(known)) = told else { return };
        if !known {
            for conn in self.conns.iter_mut().filter(|conn| conn.replica == replica) {
                conn.acked = None;
            }
        }
        if std::mem::take(&mut self.replicas[replica].behind) || !known {
            self.announce_all(replica);
        }
        for (key, id) in std::mem::take(&mut self.replicas[replica].owed) {
            self.ask_redis(replica, Op::Withdraw(key, id));
        }
    }

    fn announce_all(&mut self, replica: usize) {
        let mut held: Vec<usize> = self.replicas[replica]
            .registry
            .iter()
            .map(|(_, held)| held.link)
            .collect();
        held.sort_unstable();
        for conn in held {
            self.ask_redis(replica, Op::Announce(conn));
        }
    }

    fn again(&mut self, replica: usize) {
        if self.replicas[replica].alive {
            self.announce_all(replica);
            self.at(AGAIN, Event::Again { replica });
        }
    }

    fn announced(&mut self, replica: usize, conn: usize, shelved: Shelved) {
        if !self.conns[conn].here {
            // It ended while Redis was told: that is taken back.
            if matches!(shelved, Shelved::Taken(_)) {
                let (key, _) = self.agents[self.processes[self.conns[conn].process].agent];
                self.ask_redis(replica, Op::Withdraw(key, self.conns[conn].id));
            }
            return;
        }
        match shelved {
            Shelved::Taken(older) if older.is_empty() => {
                let now = self.now;
                self.conns[conn].acked.get_or_insert(now);
            }
            Shelved::Taken(older) => {
                self.conns[conn].untold += older.len();
                for address in older {
                    let after = self.net();
                    self.at(after, Event::Displace { address, conn });
                }
            }
            Shelved::Older => self.cut(conn),
            Shelved::Stale => {}
            Shelved::NoLease => {
                self.replicas[replica].behind = true;
                self.ask_redis(replica, Op::Live);
            }
        }
    }

    fn at_address(&self, address: SocketAddr) -> Option<usize> {
        (0..self.replicas.len()).find(|replica| {
            let replica = &self.replicas[*replica];
            replica.alive && replica.address == address
        })
    }

    fn displace(&mut self, address: SocketAddr, conn: usize) {
        if let Some(replica) = self.at_address(address) {
            let process = &self.processes[self.conns[conn].process];
            let (key, _) = self.agents[process.agent];
            let epoch = process.epoch.clone();
            if let Some(older) = self.replicas[replica].registry.displace(key, &epoch) {
                self.cut(older.link);
            }
        }
        let after = self.net();
        self.at(after, Event::Displaced { conn });
    }

    fn displaced(&mut self, conn: usize) {
        let now = self.now;
        let told = &mut self.conns[conn];
        told.untold -= 1;
        if told.untold == 0 {
            told.acked.get_or_insert(now);
        }
    }
}

fn found_at(key: Key, address: SocketAddr, epoch: Epoch, leaving: bool) -> Found {
    Found {
        agent: key.agent,
        address,
        epoch,
        leaving,
        servers: Servers::Many,
    }
}

#[path = "simulation_calls.rs"]
mod calls;
