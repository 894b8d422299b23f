//! An answer that goes on ends when its upload goes, wherever that was done: by deleting it, by its time, or because there is no more room for it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tonic::Status;
use types::{Errand, Plan, UploadId};

use super::{Uploads, error::Error, source::unreadable};
use crate::source::Messages;

/// How often is looked. What is sent was there no longer ago than this.
const LOOK: Duration = Duration::from_secs(1);

/// An answer, and what it is about.
struct Watched {
    uploads: Uploads,
    errand: Errand,
    id: UploadId,
    /// The plan of who asks, as it was when they asked.
    plan: Plan,
    messages: Messages,
    looked: Instant,
}

impl Uploads {
    /// These messages, as long as the upload is there.
    pub(super) fn watched(
        &self,
        errand: Errand,
        (id, plan): (UploadId, Plan),
        messages: Messages,
    ) -> Messages {
        let watched = Watched {
            uploads: self.clone(),
            errand,
            id,
            plan,
            messages,
            looked: Instant::now(),
        };
        stream::unfold(Some(watched), |watched| async {
            let mut watched = watched?;
            let next = watched.next().await?;
            let goes_on = next.is_ok().then_some(watched);
            Some((next, goes_on))
        })
        .boxed()
    }
}

impl Watched {
    async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        loop {
            let again = self.looked + LOOK;
            let next = tokio::select! {
                biased;
                () = tokio::time::sleep_until(again.into()) => None,
                next = self.messages.next() => Some(next),
            };
            let failed = match next {
                Some(Some(Ok(message))) => return Some(Ok(message)),
                Some(None) => return None,
                // It may have failed because the upload is gone, and then that is what is said.
                Some(Some(Err(status))) => Some(status),
                None => None,
            };
            let there = self.look().await;
            if let Err(gone) = there {
                return Some(Err(unreadable(gone, self.id)));
            }
            if let Some(status) = failed {
                return Some(Err(status));
            }
        }
    }

    async fn look(&mut self) -> Result<(), Error> {
        let looked = Instant::now();
        let found = self.uploads.store.find(&self.errand, self.id).await;
        if matches!(found, Err(Error::Missing)) {
            self.uploads.forget(self.id);
        }
        found?.open_to(self.plan)?;
        self.looked = looked;
        Ok(())
    }
}
