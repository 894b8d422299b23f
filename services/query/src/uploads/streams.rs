//! Which files are coming at the moment: one stream fills an upload at a time, and few come at once.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chassis::places::{Place, Places};
use tokio_util::sync::CancellationToken;
use types::{TenantId, UploadId};

use super::error::Error;

/// Streams at a time in one replica, and those of one tenant: each holds some 4 MiB and, while a chunk is stored, a connection to the database.
const STREAMS: usize = 8;
const STREAMS_OF_ONE: usize = 2;

/// An older stream of the same upload is gone after so long: what it is just storing is stored.
const LEAVES: Duration = Duration::from_secs(25);

/// The streams of a replica. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    places: Places,
    under_way: Arc<Mutex<HashMap<(TenantId, UploadId), Older>>>,
}

/// What a newer stream knows of one under way.
#[derive(Clone, Debug, Default)]
struct Older {
    replaced: CancellationToken,
    gone: CancellationToken,
}

/// The turn of one stream, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    streams: Streams,
    of: (TenantId, UploadId),
    older: Older,
    _place: Place,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            places: Places::new(STREAMS, STREAMS_OF_ONE),
            under_way: Arc::default(),
        }
    }
}

impl Streams {
    fn under_way(&self) -> MutexGuard<'_, HashMap<(TenantId, UploadId), Older>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The turn of a new stream. One that fills the same upload is ended first: mostly it is one whose sender has lost it, and comes again.
    pub(super) async fn enter(&self, tenant: TenantId, upload: UploadId) -> Result<Turn, Error> {
        let until = tokio::time::Instant::now() + LEAVES;
        while let Some(gone) = self.replace((tenant, upload)) {
            if tokio::time::timeout_at(until, gone.cancelled()).await.is_err() {
                return Err(Error::Replaced);
            }
        }
        let (of, older) = ((tenant, upload), Older::default());
        let place = self.places.take(tenant)?;
        match self.under_way().entry(of) {
            Entry::Vacant(free) => free.insert(older.clone()),
            // Another one that waited as well was faster.
            Entry::Occupied(_) => return Err(Error::Replaced),
        };
        Ok(Turn {
            streams: self.clone(),
            of,
            older,
            _place: place,
        })
    }

    /// Tells the stream that fills this upload to end, and gives what says that it has.
    fn replace(&self, of: (TenantId, UploadId)) -> Option<CancellationToken> {
        let older = self.under_way().get(&of).cloned()?;
        older.replaced.cancel();
        Some(older.gone)
    }
}

impl Turn {
    /// Returns when a newer stream fills the upload.
    pub(super) async fn replaced(&self) {
        self.older.replaced.cancelled().await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.streams.under_way().remove(&self.of);
        self.older.gone.cancel();
    }
}

#[cfg(test)]
mod tests {
    use types::{TenantId, UploadId};

    use super::{Error, Streams};

    #[tokio::test]
    async fn a_newer_stream_has_the_turn_once_the_older_one_has_left() {
        let (streams, tenant, upload) = (Streams::default(), TenantId::fresh(), UploadId::fresh());
        let older = streams.enter(tenant, upload).await.unwrap();
        let newer = tokio::spawn({
            let streams = streams.clone();
            async move { streams.enter(tenant, upload).await }
        });
        older.replaced().await;
        assert!(!newer.is_finished());
        drop(older);
        let newer = newer.await.unwrap().unwrap();
        assert!(!newer.older.replaced.is_cancelled());
        drop(newer);
        assert!(streams.under_way().is_empty());
    }

    #[tokio::test]
    async fn another_tenants_stream_is_not_ended_and_one_tenant_has_few() {
        let (streams, tenant, upload) = (Streams::default(), TenantId::fresh(), UploadId::fresh());
        let first = streams.enter(tenant, upload).await.unwrap();
        let other = streams.enter(TenantId::fresh(), upload).await.unwrap();
        assert!(!first.older.replaced.is_cancelled() && !other.older.replaced.is_cancelled());
        let _second = streams.enter(tenant, UploadId::fresh()).await.unwrap();
        let third = streams.enter(tenant, UploadId::fresh()).await.unwrap_err();
        assert!(matches!(third, Error::OwnStreams(2)), "{third}");
        drop(first);
        streams.enter(tenant, UploadId::fresh()).await.unwrap();
    }
}
