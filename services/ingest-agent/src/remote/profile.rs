//! Profiles: where a mesh is, who we are there, and the session. One file each, `trail/profiles/NAME.json` in the user's configuration folder (XDG
//! Base Directory Specification), readable by its owner only.

use std::{
    env, fs,
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use types::{Code, Micros};

use crate::error::Error;

/// More than any profile has.
const BYTES_MAX: u64 = 64 * 1024;
/// How long another `trail` may take for a refresh.
const LOCK: Duration = Duration::from_secs(20);
const LOCK_POLL: Duration = Duration::from_millis(20);
const NAME_CHARS_MAX: usize = 63;
/// A link may lead to another one's file.
const NO_FOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();

/// What a file holds. It has secrets, and so no `Debug`.
#[derive(Clone, Default, Deserialize, Serialize)]
pub(crate) struct Profile {
    /// The gateway's URL.
    pub(crate) mesh: String,
    /// Whom to trust there instead of this machine's authorities.
    #[serde(default)]
    pub(crate) ca: Option<PathBuf>,
    /// Whose session it is.
    pub(crate) email: String,
    /// On which tenant's behalf, unless a command says otherwise.
    #[serde(default)]
    pub(crate) tenant: Option<Tenant>,
    /// The access token.
    pub(crate) access_token: String,
    /// Until when it counts, in microseconds since 1970.
    pub(crate) access_expires: i64,
    /// What the next pair of tokens is asked for with.
    pub(crate) refresh_token: String,
    /// When the session ends whatever happens.
    pub(crate) session_expires: i64,
    /// Says at the next login that this machine is known.
    #[serde(default)]
    pub(crate) device_token: String,
}

/// A tenant as a profile remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Tenant {
    /// `tnt_…`
    pub(crate) id: String,
    /// What it is called.
    pub(crate) name: String,
}

/// A profile's file.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The profile's name.
    pub(crate) name: String,
    /// Where it is, or would be.
    pub(crate) file: PathBuf,
}

impl Place {
    /// Where the profile of this name is.
    pub(crate) fn of(name: &str) -> Result<Self, Error> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(plain) {
            return Err(Error::new(
                Code::Invalid,
                "--profile",
                "a name is 1 to 63 letters, digits, - and _",
            ));
        }
        let folder = folder()?;
        Ok(Self {
            name: name.to_owned(),
            file: folder.join(format!("{name}.json")),
        })
    }

    /// What is in it; none if there is no such file.
    pub(crate) fn load(&self) -> Result<Option<Profile>, Error> {
        let mut opening = OpenOptions::new();
        opening.read(true).custom_flags(NO_FOLLOW);
        let mut file = match opening.open(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|error| self.io(&error))?,
        };
        self.check_folder()?;
        let about = file.metadata().map_err(|error| self.io(&error))?;
        if about.uid() != us() {
            return Err(Error::new(
                Code::Refused,
                self.file.display(),
                "it is somebody else's, who may have written another mesh into it",
            ));
        }
        if about.mode() & 0o077 != 0 {
            return Err(Error::new(
                Code::Refused,
                self.file.display(),
                "others can read it, and it holds a session",
            )
            .hint(format!(
                "chmod 600 it, or log in anew if they may have: trail logout --profile {0}, trail login --profile {0}",
                self.name
            )));
        }
        let mut text = String::new();
        Read::take(&mut file, BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(|error| self.io(&error))?;
        let profile = serde_json::from_str(&text).map_err(|_| {
            Error::new(
                Code::Refused,
                self.file.display(),
                "it is not a profile of this version",
            )
            .hint(format!(
                "delete it and log in again: trail login --profile {}",
                self.name
            ))
        })?;
        Ok(Some(profile))
    }

    /// Puts it there, whole or not at all, for nobody else to read.
    pub(crate) fn save(&self, profile: &Profile) -> Result<(), Error> {
        let folder = self.make_folder()?;
        let text = serde_json::to_vec_pretty(profile)
            .map_err(|error| Error::new(Code::Internal, self.file.display(), error))?;
        let write = || {
            // Temporary files have mode 0600.
            let mut file = NamedTempFile::new_in(folder)?;
            file.write_all(&text)?;
            file.write_all(b"\n")?;
            file.as_file().sync_all()?;
            file.persist(&self.file)?;
            // A rotated refresh token that is lost would end the session.
            File::open(folder)?.sync_all()
        };
        write().map_err(|error: io::Error| self.io(&error))
    }

    /// Takes it away.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        match fs::remove_file(&self.file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.io(&error)),
            _ => Ok(()),
        }
    }

    /// Waits until no other `trail` changes it; whoever holds what this gives is alone.
    pub(crate) fn lock(&self) -> Result<File, Error> {
        let folder = self.make_folder()?;
        let path = folder.join(format!("{}.lock", self.name));
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| Error::from_io(path.display(), &error))?;
        let until = Instant::now() + LOCK;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if Instant::now() < until => thread::sleep(LOCK_POLL),
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::new(
                        Code::Timeout,
                        path.display(),
                        "another trail holds it for too long",
                    ));
                }
                Err(TryLockError::Error(error)) => return Err(Error::from_io(path.display(), &error)),
            }
        }
    }

    fn make_folder(&self) -> Result<&Path, Error> {
        let folder = self.file.parent().unwrap_or_else(|| Path::new("."));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| Error::from_io(folder.display(), &error))?;
        self.check_folder()?;
        Ok(folder)
    }

    /// Refuses a folder into which others can put a profile, with a mesh of theirs.
    fn check_folder(&self) -> Result<(), Error> {
        let folder = self.file.parent().unwrap_or_else(|| Path::new("."));
        let about = fs::metadata(folder).map_err(|error| Error::from_io(folder.display(), &error))?;
        if about.uid() == us() && about.mode() & 0o022 == 0 {
            return Ok(());
        }
        let why = "others can write into it, and so put a profile there";
        Err(Error::new(Code::Refused, folder.display(), why).hint("make it yours and chmod 700 it"))
    }

    fn io(&self, error: &io::Error) -> Error {
        Error::from_io(self.file.display(), error)
    }
}

/// Whose process this is.
fn us() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn folder() -> Result<PathBuf, Error> {
    let absolute = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_CONFIG_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".config")))
        .map(|config| config.join("trail/profiles"))
        .ok_or_else(|| {
            Error::new(
                Code::Refused,
                "the profile",
                "neither XDG_CONFIG_HOME nor HOME says where it is",
            )
            .hint("set one of them, or use an API key: TRAIL_API_KEY and --mesh")
        })
}

impl Profile {
    /// Whether its access token counts for another `margin`.
    pub(crate) fn is_fresh(&self, now: Micros, margin: Duration) -> bool {
        let margin = i64::try_from(margin.as_micros()).unwrap_or(i64::MAX);
        self.access_expires > now.0.saturating_add(margin)
    }
}
