//! Stores of uploads that are asked again and again stay open for a moment. Each is opened once, however many ask at the same time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use trail::Reader;
use types::UploadId;

use super::{error::Error, store::Files};

/// How many are open: each has the indexes of its files in memory.
const KEPT: usize = 6;

/// How many are being opened.
const OPENINGS: usize = 2;

/// How long.
const FRESH: Duration = Duration::from_mins(5);

/// A store that is open, or is being opened.
pub(super) type Opened = Arc<OnceCell<Reader>>;

struct Kept {
    files: Files,
    opened: Opened,
    since: Instant,
    used: Instant,
}

type All = HashMap<UploadId, Kept>;

/// Those that are open. Clones are the same.
#[derive(Clone)]
pub(super) struct Readers {
    all: Arc<Mutex<All>>,
    openings: Arc<Semaphore>,
}

impl Default for Readers {
    fn default() -> Self {
        Self {
            all: Arc::default(),
            openings: Arc::new(Semaphore::new(OPENINGS)),
        }
    }
}

impl Readers {
    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leave to open one; who opens keeps it until that is done.
    pub(super) async fn opening(&self) -> Result<OwnedSemaphorePermit, Error> {
        let openings = self.openings.clone();
        openings.acquire_owned().await.map_err(|_| Error::Broken)
    }

    /// The store of these files; in the place of the one that was not asked for longest if there are too many.
    pub(super) fn place(&self, files: Files) -> Opened {
        let now = Instant::now();
        let mut all = self.all();
        if let Some(kept) = all.get_mut(&files.upload)
            && kept.files == files
            && kept.since.elapsed() < FRESH
        {
            kept.used = now;
            return kept.opened.clone();
        }
        if all.len() >= KEPT {
            let oldest = all.iter().min_by_key(|(_, kept)| kept.used).map(|(id, _)| *id);
            oldest.map(|id| all.remove(&id));
        }
        let kept = Kept {
            files,
            opened: Opened::default(),
            since: now,
            used: now,
        };
        let opened = kept.opened.clone();
        all.insert(files.upload, kept);
        opened
    }

    /// Closes that of an upload that is gone.
    pub(super) fn forget(&self, upload: UploadId) {
        self.all().remove(&upload);
    }

    /// Closes those that have been open long enough.
    pub(super) fn sweep(&self) {
        self.all().retain(|_, kept| kept.since.elapsed() < FRESH);
    }
}
