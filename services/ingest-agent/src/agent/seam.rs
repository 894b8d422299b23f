//! What those who follow servers and keep connections, and those who answer on them, know of each other.
//!
//! The supervisor writes into [`Stores`] what is followed and how that goes; whoever answers reads it. A connection has a [`Line`], on which the
//! answering side passes on what the mesh said about the connection itself.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use binlog::LogPos;
use tokio::sync::{mpsc, watch};
use types::{AgentId, ServerId, TenantId};

/// Who this agent is, as long as it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Whose it is.
    pub tenant: TenantId,
    /// Which.
    pub agent: AgentId,
    /// New with each start.
    pub boot_id: String,
    /// Counts the starts.
    pub generation: u64,
    /// When this one was.
    pub started: SystemTime,
}

/// How following a server goes, beyond what its store says by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Going {
    /// `mysql` or `mariadb`; empty before the first connection.
    pub engine: String,
    /// The server's version; empty before the first connection.
    pub version: String,
    /// Up to where its log is stored.
    pub position: Option<LogPos>,
    /// When what stands there was written.
    pub written: Option<SystemTime>,
    /// The end of its log when it was last seen.
    pub log_end: Option<LogPos>,
    /// How far the store is behind the server's clock; none while that is not known.
    pub lag: Option<Duration>,
    /// How many bytes of the log are not stored yet; none while that is not known.
    pub lag_bytes: Option<u64>,
    /// Connected and reading.
    pub following: bool,
    /// If not: why, in a sentence without values of rows; else empty.
    pub problem: String,
    /// When it was last connected.
    pub last_connected: Option<SystemTime>,
}

/// A server that this agent follows, and the folder of its store. The folder may not hold a store yet.
#[derive(Debug)]
pub struct Followed {
    /// Which.
    pub server: ServerId,
    /// Its name in the tenant.
    pub name: String,
    /// Where its changes are.
    pub store: PathBuf,
    going: watch::Sender<Going>,
}

impl Followed {
    /// A server that nobody has connected to yet.
    pub fn new(server: ServerId, name: String, store: PathBuf) -> Self {
        Self {
            server,
            name,
            store,
            going: watch::Sender::default(),
        }
    }

    /// How it goes now.
    pub fn going(&self) -> Going {
        self.going.borrow().clone()
    }

    /// Says how it goes from now on.
    pub fn update(&self, change: impl FnOnce(&mut Going)) {
        self.going.send_modify(change);
    }
}

/// The servers that this agent follows now.
#[derive(Debug, Default)]
pub struct Stores {
    all: RwLock<BTreeMap<ServerId, Arc<Followed>>>,
}

impl Stores {
    /// The server, if it is followed.
    pub fn get(&self, server: ServerId) -> Option<Arc<Followed>> {
        self.read().get(&server).cloned()
    }

    /// All of them, by id.
    pub fn all(&self) -> Vec<Arc<Followed>> {
        self.read().values().cloned().collect()
    }

    /// From now on it is followed.
    pub fn add(&self, followed: Arc<Followed>) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(followed.server, followed);
    }

    /// From now on it is not.
    pub fn remove(&self, server: ServerId) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.remove(&server);
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<ServerId, Arc<Followed>>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the mesh says about a connection, or about what is assigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// Who is at the other end.
    Hello {
        /// The replica.
        replica: String,
        /// To how many distinct replicas a connection is wanted.
        connections: u32,
        /// How many replicas there are.
        replicas: u32,
    },
    /// The replica ends soon.
    Leaving,
    /// A process that was started later is this agent too.
    Duplicate,
    /// The assignment is to be fetched again.
    Refresh,
}

/// One connection, as those see it who answer on it.
#[derive(Clone, Debug)]
pub struct Line {
    words: mpsc::Sender<Word>,
}

/// As many words of one connection wait at most; more say nothing new.
const WORDS: usize = 16;

impl Line {
    /// A connection, and where its words arrive.
    pub fn new() -> (Self, mpsc::Receiver<Word>) {
        let (words, heard) = mpsc::channel(WORDS);
        (Self { words }, heard)
    }

    /// Passes a word on. One that finds no room is dropped, as is one that nobody waits for any more.
    pub fn pass(&self, word: Word) {
        // The mesh repeats what counts with the next connection.
        let _ = self.words.try_send(word);
    }
}
