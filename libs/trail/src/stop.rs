//! A reading that nobody waits for any more ends early.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use crate::Error;

/// Records of a tail between two looks at whether the answer is still wanted: about a millisecond.
pub(crate) const STOP_RECORDS: u32 = 1_024;

/// A wish that readings end, shared by its clones. Searches look at it every few thousand records, also where nothing matches, and then end
/// with [`Error::Stopped`].
#[derive(Clone, Default)]
pub struct Stop {
    wanted: Arc<AtomicBool>,
    deadline: Option<Instant>,
    pause: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl Stop {
    /// One that is wanted by itself from `deadline` on, if there is one.
    pub fn new(deadline: Option<Instant>) -> Self {
        Self {
            wanted: Arc::default(),
            deadline,
            pause: None,
        }
    }

    /// The same wish, with a pause: `pause` is called between two parts of a store, where a search holds none of it in memory, and may take its
    /// time there, so that others can go first.
    #[must_use]
    pub fn pausing(&self, pause: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self {
            pause: Some(pause),
            ..self.clone()
        }
    }

    /// The place for a pause, if there is to be one. Then the error, if it is wanted.
    pub(crate) fn pause(&self) -> Result<(), Error> {
        if let Some(pause) = &self.pause {
            pause();
        }
        self.check()
    }

    /// From now on it is wanted.
    pub fn stop(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }

    /// Whether it is wanted.
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
            || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// The error, if it is wanted.
    pub fn check(&self) -> Result<(), Error> {
        if self.is_wanted() {
            Err(Error::Stopped)
        } else {
            Ok(())
        }
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stop({})", self.is_wanted())
    }
}
