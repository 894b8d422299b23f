//! One follower for each assigned server: begun, ended and begun anew as the assignment says; what fails is tried again for as long as it is
//! assigned, and the reason stands in its state meanwhile.
//!
//! A server that is not assigned any more is not followed any more. What is stored of it stays: it belongs to whoever owns the disk.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use proto::vault::v1 as pb;
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, task::JoinSet, time::timeout};
use types::ServerId;

use super::{
    folder::Folder,
    follower::{Job, stopped},
    seam::{Followed, Stores},
};
use crate::options::Server;

/// A follower that is told to end and does not is left behind after this.
const END: Duration = Duration::from_secs(20);
/// Memory for rows that are being sorted, of all servers together.
const SORTING: u64 = 32 << 20;
const SORTING_LEAST: u64 = 4 << 20;
/// As many servers as one agent follows at most.
pub(super) const SERVERS_MAX: usize = 256;

/// A server that is assigned to this agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Assigned {
    #[serde(with = "id")]
    pub(super) id: ServerId,
    pub(super) name: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) username: String,
    pub(super) tls_mode: String,
    pub(super) version: String,
}

mod id {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use types::ServerId;

    pub(super) fn serialize<S: Serializer>(id: &ServerId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ServerId, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

impl Assigned {
    /// What the vault said; none if it cannot be.
    pub(super) fn read(told: pb::AssignedServer) -> Option<Self> {
        Some(Self {
            id: told.id.parse().ok()?,
            name: told.name,
            host: told.host,
            port: told.port.try_into().ok()?,
            username: told.username,
            tls_mode: told.tls_mode,
            version: told.version,
        })
    }
}

/// Follows what it is told to follow.
pub(super) struct Supervisor {
    folder: Folder,
    stores: Arc<Stores>,
    running: BTreeMap<ServerId, Running>,
    tasks: JoinSet<()>,
}

struct Running {
    version: String,
    followed: Arc<Followed>,
    /// None while there is no login.
    follower: Option<Follower>,
}

struct Follower {
    stop: watch::Sender<bool>,
    ended: watch::Receiver<bool>,
}

impl Supervisor {
    pub(super) fn new(folder: Folder, stores: Arc<Stores>) -> Self {
        Self {
            folder,
            stores,
            running: BTreeMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Whether a login is needed to follow the server as it is assigned now.
    pub(super) fn needs_login(&self, server: &Assigned) -> bool {
        self.running
            .get(&server.id)
            .is_none_or(|running| running.version != server.version || running.follower.is_none())
    }

    /// Whether any server is followed, or tried to be.
    pub(super) fn follows(&self) -> bool {
        self.running.values().any(|running| running.follower.is_some())
    }

    /// From now on exactly these are assigned.
    pub(super) async fn keep_only(&mut self, servers: &[Assigned]) {
        // Those that ended by themselves are not kept in mind.
        while self.tasks.try_join_next().is_some() {}
        let gone: Vec<ServerId> = self
            .running
            .keys()
            .filter(|id| !servers.iter().any(|server| server.id == **id))
            .copied()
            .collect();
        for id in gone {
            if let Some(running) = self.running.remove(&id) {
                tracing::info!(server = running.followed.name, "not assigned any more");
                self.stores.remove(id);
                end(running).await;
            }
        }
    }

    /// Follows a server with this login; what was begun with another one ends first. `all` is how many there are.
    pub(super) async fn follow(&mut self, server: &Assigned, login: Result<Server, String>, all: usize) {
        let known = self.running.remove(&server.id);
        let followed = match &known {
            Some(known) if known.followed.name == server.name => known.followed.clone(),
            _ => Arc::new(Followed::new(
                server.id,
                server.name.clone(),
                self.folder.store(server.id),
            )),
        };
        if let Some(known) = known {
            end(known).await;
        }
        self.stores.add(followed.clone());
        let follower = match login {
            Ok(login) => {
                tracing::info!(server = server.name, "following");
                Some(self.begin(followed.clone(), login, all))
            }
            Err(problem) => {
                tracing::warn!(server = server.name, problem, "cannot be followed");
                followed.update(|going| stopped(going, problem));
                None
            }
        };
        let running = Running {
            version: server.version.clone(),
            followed,
            follower,
        };
        self.running.insert(server.id, running);
    }

    fn begin(&mut self, followed: Arc<Followed>, login: Server, all: usize) -> Follower {
        let (stop, wanted) = watch::channel(false);
        let (done, ended) = watch::channel(false);
        let job = Job {
            store: followed.store.clone(),
            followed,
            stop: wanted,
            sizes: sizes(all),
        };
        self.tasks.spawn(async move {
            job.run(login).await;
            done.send_replace(true);
        });
        Follower { stop, ended }
    }

    /// Ends all followers, their stores whole.
    pub(super) async fn end(mut self) {
        for running in self.running.values() {
            if let Some(follower) = &running.follower {
                follower.stop.send_replace(true);
            }
        }
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(END, all).await.is_err() {
            tracing::warn!("a follower did not end in time");
        }
    }
}

async fn end(running: Running) {
    let Some(Follower { stop, mut ended }) = running.follower else {
        return;
    };
    stop.send_replace(true);
    // A follower that panicked has dropped its end.
    if timeout(END, ended.wait_for(|ended| *ended)).await.is_err() {
        tracing::warn!(server = running.followed.name, "its follower did not end in time");
    }
}

/// What each of so many stores may take.
fn sizes(all: usize) -> trail::Options {
    let share = SORTING / u64::try_from(all.max(1)).unwrap_or(u64::MAX);
    trail::Options {
        chunk_bytes_max: share.max(SORTING_LEAST),
        ..trail::Options::default()
    }
}

#[cfg(test)]
mod tests {
    use super::sizes;

    #[test]
    fn many_servers_share_the_memory_of_one() {
        assert_eq!(sizes(1).chunk_bytes_max, 32 << 20);
        assert_eq!(sizes(4).chunk_bytes_max, 8 << 20);
        assert_eq!(sizes(1_000).chunk_bytes_max, 4 << 20);
    }
}
