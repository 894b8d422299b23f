//! The one folder that an agent writes to, and what lies where in it.
//!
//! `agent.json` says who this is; `identity/agent.pem` holds the private key and the certificate in one file, so that they always fit together;
//! `trust.json` whom it trusts; `assignment.json` what it followed last; `logins.json` where its own passwords went first; `status.json` how it goes; `stores/srv_…/` the changes; `lock` is held
//! while an agent runs. Nothing in it opens a database: credentials never come here.

use std::{
    env,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::{Instant, sleep};
use types::{AgentId, ServerId, TenantId};

use super::{error::Error, pins::Pins};

const RECORD: &str = "agent.json";
const LOCK: &str = "lock";
/// Larger than any of the small files.
const LONGEST: u64 = 4 << 20;
/// A folder that somebody else uses for so long is in use.
const PATIENCE: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(20);

/// An agent's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    dir: PathBuf,
}

/// Who the agent of a folder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The mesh: `https://host:port`.
    pub mesh: String,
    /// Whose it is.
    pub tenant: TenantId,
    /// Which.
    pub agent: AgentId,
    /// How often it was started.
    pub generation: u64,
    /// What a person pinned; none where the mesh's own pins count.
    pub pins: Option<Pins>,
}

#[derive(Serialize, Deserialize)]
struct Written {
    mesh: String,
    tenant: String,
    agent: String,
    generation: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pins: Option<Pins>,
}

/// Held while an agent uses its folder; the operating system gives it back when the process ends, however it does.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Folder {
    /// The folder that was named, or `trail/agent` under the user's data folder (XDG Base Directory Specification).
    pub fn choose(given: Option<PathBuf>) -> Result<Self, Error> {
        let variable = |name| {
            env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let usage = |why: &str| Error::Usage {
            what: "--dir".to_owned(),
            why: why.to_owned(),
            hint: "give --dir DIR, or set TRAIL_AGENT_DIR",
        };
        if given.as_ref().is_some_and(|dir| dir.as_os_str().is_empty()) {
            return Err(usage("its value, or that of TRAIL_AGENT_DIR, is empty"));
        }
        given
            // systemd's StateDirectory=.
            .or_else(|| variable("STATE_DIRECTORY"))
            .or_else(|| variable("XDG_DATA_HOME").map(|data| data.join("trail/agent")))
            .or_else(|| variable("HOME").map(|home| home.join(".local/share/trail/agent")))
            .map(|dir| Self { dir })
            .ok_or_else(|| usage("neither it nor XDG_DATA_HOME nor HOME says where the agent's folder is"))
    }

    /// This one.
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Where a server's changes go.
    pub fn store(&self, server: ServerId) -> PathBuf {
        self.dir.join("stores").join(server.to_string())
    }

    /// Makes it, for its owner only, if it is not there.
    pub(super) fn make(&self) -> Result<(), Error> {
        make_dir(&self.dir)
    }

    /// Makes the folder in which stores are.
    pub(super) fn make_stores(&self) -> Result<(), Error> {
        make_dir(&self.dir.join("stores"))
    }

    /// Takes the folder for this process. Whoever only looks whether it is taken holds it for a moment, so that one try is not enough.
    pub(super) async fn take(&self) -> Result<Lock, Error> {
        let patience = Instant::now() + PATIENCE;
        loop {
            match self.lock() {
                Err(Error::Locked { .. }) if Instant::now() < patience => sleep(MOMENT).await,
                taken => return taken,
            }
        }
    }

    /// Whether a process uses the folder at this moment; writes nothing.
    pub(super) fn is_taken(&self) -> Result<bool, Error> {
        let path = self.dir.join(LOCK);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(Error::file(path)(error)),
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(Error::File {
                path,
                source: error.into(),
            }),
        }
    }

    fn lock(&self) -> Result<Lock, Error> {
        let path = self.dir.join(LOCK);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(Error::file(&path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Locked {
                path: self.dir.clone(),
            }),
            Err(error) => Err(Error::File {
                path,
                source: error.into(),
            }),
        }
    }

    /// Who the folder's agent is.
    pub fn record(&self) -> Result<Record, Error> {
        let written: Written = self.read_json(RECORD)?.ok_or_else(|| Error::NotEnrolled {
            path: self.dir.clone(),
        })?;
        let damaged = || self.damaged(RECORD, "an id in it is none");
        Ok(Record {
            tenant: written.tenant.parse().map_err(|_| damaged())?,
            agent: written.agent.parse().map_err(|_| damaged())?,
            mesh: written.mesh,
            generation: written.generation,
            pins: written.pins,
        })
    }

    /// Writes down who it is.
    pub(super) fn save_record(&self, record: &Record) -> Result<(), Error> {
        self.write_json(
            RECORD,
            &Written {
                mesh: record.mesh.clone(),
                tenant: record.tenant.to_string(),
                agent: record.agent.to_string(),
                generation: record.generation,
                pins: record.pins.clone(),
            },
        )
    }

    pub(super) fn damaged(&self, name: &str, why: &str) -> Error {
        Error::Damaged {
            path: self.dir.join(name),
            why: why.to_owned(),
        }
    }

    /// What a file holds; none if it is not there.
    pub(super) fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Error> {
        let Some(bytes) = self.read(name)? else {
            return Ok(None);
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| self.damaged(name, &error.to_string()))
    }

    pub(super) fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), Error> {
        let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| Error::Internal {
            what: "JSON",
            why: error.to_string(),
        })?;
        bytes.push(b'\n');
        self.write(name, &bytes)
    }

    /// The bytes of a file; none if it is not there.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let path = self.dir.join(name);
        match fs::metadata(&path) {
            Ok(about) if about.len() > LONGEST => {
                return Err(self.damaged(name, "it is far too large"));
            }
            _ => {}
        }
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::file(path)(error)),
        }
    }

    /// Replaces a file as a whole, readable by its owner only; after this it is on disk.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let path = self.dir.join(name);
        let parent = path.parent().unwrap_or(&self.dir);
        make_dir(parent)?;
        let new = path.with_extension("new");
        let replace = || -> io::Result<()> {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            // A file that was left behind keeps the mode it had.
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(parent)?.sync_all()
        };
        replace().map_err(Error::file(&path))
    }
}

fn make_dir(dir: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(Error::file(dir))
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::PermissionsExt as _};

    use rustix::fs::{FlockOperation, flock};
    use types::{AgentId, TenantId};

    use super::{Error, Folder, Record};

    #[test]
    fn a_folder_is_for_its_owner_and_for_one_agent() {
        let temporary = tempfile::tempdir().expect("a folder");
        let folder = Folder::at(&temporary.path().join("agent"));
        folder.make().expect("made");
        let mode =
            |path: &std::path::Path| std::fs::metadata(path).map(|about| about.permissions().mode() & 0o777);
        assert_eq!(mode(folder.path()).ok(), Some(0o700));
        let held = folder.lock().expect("the lock");
        assert!(matches!(folder.lock(), Err(Error::Locked { .. })));
        drop(held);
        assert!(folder.lock().is_ok());
        assert!(matches!(folder.record(), Err(Error::NotEnrolled { .. })));
        let record = Record {
            mesh: "https://mesh.example.com".to_owned(),
            tenant: TenantId::fresh(),
            agent: AgentId::fresh(),
            generation: 7,
            pins: None,
        };
        folder.save_record(&record).expect("saved");
        assert_eq!(folder.record().ok(), Some(record));
        assert_eq!(mode(&folder.path().join("agent.json")).ok(), Some(0o600));
        std::fs::write(folder.path().join("agent.json"), "{").expect("written");
        assert!(matches!(folder.record(), Err(Error::Damaged { .. })));
    }
    #[tokio::test]
    async fn a_look_keeps_nobody_from_taking_it() {
        let temporary = tempfile::tempdir().expect("a folder");
        let folder = Folder::at(temporary.path());
        assert!(!folder.is_taken().expect("a look"));
        drop(folder.take().await.expect("taken"));
        let look = File::open(temporary.path().join("lock")).expect("the lock");
        flock(&look, FlockOperation::NonBlockingLockShared).expect("a look");
        assert!(
            !folder.is_taken().expect("another look"),
            "looks do not see each other"
        );
        // The first try comes before the end of the look.
        let (taken, ()) = tokio::join!(folder.take(), async { drop(look) });
        let taken = taken.expect("taken");
        assert!(folder.is_taken().expect("a look"));
        let second = folder.take().await;
        assert!(matches!(second, Err(Error::Locked { .. })));
        drop(taken);
    }
}
