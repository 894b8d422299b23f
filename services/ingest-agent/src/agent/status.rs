//! How an agent goes, as it writes it down itself for `trail agent status`.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::interval};

use super::{
    error::Error,
    folder::Folder,
    identity::{Identity, moment},
    seam::{About, Followed, Stores},
};

const FILE: &str = "status.json";
/// How often it is written, if something has changed.
const WRITE: Duration = Duration::from_secs(5);

/// What `trail agent status` tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The folder.
    pub folder: String,
    /// The mesh.
    pub mesh: String,
    /// Whose it is.
    pub tenant: String,
    /// Which.
    pub agent: String,
    /// How often it was started.
    pub generation: u64,
    /// A process uses the folder at this moment.
    pub running: bool,
    /// When the certificate ends.
    pub certificate_ends: String,
    /// It has ended.
    pub certificate_ended: bool,
    /// As the running agent wrote it last; none if it has never run.
    pub last: Option<Last>,
}

/// What a running agent writes down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// When the agent was started.
    pub started: String,
    /// The replicas of the hub it is connected to.
    pub replicas: Vec<String>,
    /// Why the mesh does not say what to follow, and what to do; empty if it does.
    #[serde(default)]
    pub problem: String,
    /// The servers it follows, by id.
    pub servers: BTreeMap<String, Server>,
}

/// How following one server goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Its name in the tenant.
    pub name: String,
    /// `mysql` or `mariadb`, and its version.
    pub engine: String,
    /// Connected and reading.
    pub following: bool,
    /// If not: why.
    pub problem: String,
    /// Up to where its log is stored.
    pub position: Option<String>,
    /// How far behind the store is.
    pub lag_bytes: Option<u64>,
}

/// Reads what there is to know from a folder; asks nobody.
pub fn status(folder: &Folder) -> Result<Status, Error> {
    let record = folder.record()?;
    let identity = Identity::load(folder)?;
    Ok(Status {
        folder: folder.path().display().to_string(),
        mesh: record.mesh,
        tenant: record.tenant.to_string(),
        agent: record.agent.to_string(),
        generation: record.generation,
        running: folder.is_taken()?,
        certificate_ends: moment(identity.ends()),
        certificate_ended: identity.ends() <= SystemTime::now(),
        last: folder.read_json(FILE)?,
    })
}

/// Writes it down again and again; never ends by itself.
pub(super) async fn write(
    folder: Folder,
    about: About,
    stores: Arc<Stores>,
    replicas: watch::Receiver<Vec<String>>,
    problem: watch::Receiver<String>,
) {
    let mut ticks = interval(WRITE);
    let mut before = Last::default();
    loop {
        ticks.tick().await;
        let last = Last {
            started: moment(about.started),
            replicas: replicas.borrow().clone(),
            problem: problem.borrow().clone(),
            servers: stores
                .all()
                .iter()
                .map(|followed| (followed.server.to_string(), server(followed)))
                .collect(),
        };
        if last == before {
            continue;
        }
        if let Err(error) = folder.write_json(FILE, &last) {
            tracing::warn!(error = types::chain(&error), "how it goes cannot be written down");
        }
        before = last;
    }
}

fn server(followed: &Followed) -> Server {
    let going = followed.going();
    Server {
        name: followed.name.clone(),
        engine: format!("{} {}", going.engine, going.version).trim().to_owned(),
        following: going.following,
        problem: going.problem,
        position: going.position.map(|at| at.to_string()),
        lag_bytes: going.lag_bytes,
    }
}
