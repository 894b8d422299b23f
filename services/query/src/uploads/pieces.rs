//! Opened pieces of files, for a moment: readings are small and mostly beside each other. They are in memory only, and wiped when they go.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use types::UploadId;
use zeroize::Zeroizing;

use super::store::Files;

/// How many are kept: 1 MiB each.
const KEPT: usize = 48;

/// How long.
const FRESH: Duration = Duration::from_mins(5);

/// An opened piece.
pub(super) type Piece = Arc<Zeroizing<Vec<u8>>>;

struct Kept {
    piece: Piece,
    opened: Instant,
    used: Instant,
}

type All = HashMap<(Files, u64), HashMap<String, Kept>>;

/// Those that are open. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Pieces(Arc<Mutex<All>>);

impl Pieces {
    fn all(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One of them.
    pub(super) fn get(&self, files: Files, name: &str, number: u64) -> Option<Piece> {
        let mut all = self.all();
        let kept = all.get_mut(&(files, number))?.get_mut(name)?;
        kept.used = Instant::now();
        (kept.opened.elapsed() < FRESH).then(|| kept.piece.clone())
    }

    /// Keeps one more, in the place of the one that was not used for longest if there are too many.
    pub(super) fn put(&self, files: Files, name: &str, number: u64, piece: &Piece) {
        let mut all = self.all();
        while all.values().map(HashMap::len).sum::<usize>() >= KEPT {
            let used = all.values().flat_map(HashMap::values).map(|kept| kept.used).min();
            retain(&mut all, |_, kept| Some(kept.used) != used);
        }
        let now = Instant::now();
        let kept = Kept {
            piece: piece.clone(),
            opened: now,
            used: now,
        };
        all.entry((files, number))
            .or_default()
            .insert(name.to_owned(), kept);
    }

    /// Wipes those of an upload that is gone.
    pub(super) fn forget(&self, upload: UploadId) {
        retain(&mut self.all(), |files, _| files.upload != upload);
    }

    /// Wipes those that have been open long enough.
    pub(super) fn sweep(&self) {
        retain(&mut self.all(), |_, kept| kept.opened.elapsed() < FRESH);
    }
}

fn retain(all: &mut All, stays: impl Fn(Files, &Kept) -> bool) {
    all.retain(|(files, _), names| {
        names.retain(|_, kept| stays(*files, kept));
        !names.is_empty()
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use types::UploadId;
    use zeroize::Zeroizing;

    use super::{KEPT, Pieces};
    use crate::uploads::store::Files;

    #[test]
    fn they_are_bounded_and_those_in_use_stay() {
        let pieces = Pieces::default();
        let files = |attempt| Files {
            upload: UploadId::fresh(),
            attempt,
        };
        let (one, two) = (files(1), files(1));
        let piece = |byte| Arc::new(Zeroizing::new(vec![byte]));
        pieces.put(one, "a", 0, &piece(0));
        for number in 0..2 * KEPT as u64 {
            pieces.put(two, "a", number, &piece(1));
            assert_eq!(pieces.get(one, "a", 0).unwrap()[0], 0);
            assert!(pieces.get(one, "b", 0).is_none());
        }
        let count = (0..2 * KEPT as u64).filter(|number| pieces.get(two, "a", *number).is_some());
        assert_eq!(count.count(), KEPT - 1);
        pieces.forget(one.upload);
        assert!(pieces.get(one, "a", 0).is_none() && pieces.get(two, "a", 2 * KEPT as u64 - 1).is_some());
    }
}
