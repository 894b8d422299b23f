//! The stores that are open for reading.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use answer::Store;
use prost_types::Timestamp;
use proto::{agent::v1 as pb, change::v1 as change_pb};
use trail::{Reader, Stop};
use types::ServerId;

use super::{VERSION, error::Error};
use crate::agent::seam::{Followed, Going, Stores};

/// What nobody has asked for that long is closed.
const IDLE: Duration = Duration::from_secs(60);

/// Every store that somebody has asked lately. A reader is refreshed rather than opened anew, so that a call does not read a tail from end to end.
#[derive(Debug)]
pub(super) struct Shelf {
    stores: Arc<Stores>,
    started: SystemTime,
    open: Mutex<BTreeMap<ServerId, Arc<Place>>>,
}

/// One store.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    reader: Option<Reader>,
    used: Instant,
}

impl Shelf {
    /// Over these servers, in a program that was started then.
    pub(super) fn new(stores: Arc<Stores>, started: SystemTime) -> Self {
        Self {
            stores,
            started,
            open: Mutex::default(),
        }
    }

    /// The servers.
    pub(super) fn stores(&self) -> &Stores {
        &self.stores
    }

    /// The store of the server with this id, if it is followed.
    pub(super) fn store(self: &Arc<Self>, server_id: &str) -> Result<Arc<dyn Store>, Error> {
        let server: ServerId = server_id
            .parse()
            .map_err(|_| answer::Error::filter("server_id", "it is not the id of a server"))?;
        let followed = self.stores.get(server).ok_or(Error::NotFollowed)?;
        Ok(Arc::new(self.on(followed)))
    }

    /// The stores of all servers.
    pub(super) fn all(self: &Arc<Self>) -> Vec<(ServerId, impl Store + use<>)> {
        let all = self.stores.all().into_iter();
        all.map(|followed| (followed.server, self.on(followed))).collect()
    }

    fn on(self: &Arc<Self>, followed: Arc<Followed>) -> Shelved {
        Shelved {
            shelf: Arc::clone(self),
            followed,
        }
    }

    /// The store as it is now; none if there is none yet. Blocks.
    fn reader(&self, followed: &Followed, stop: &Stop) -> Result<Option<Reader>, answer::Error> {
        let place = self.place(followed);
        let mut kept = place.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.used = Instant::now();
        stop.check()?;
        let reader = match &kept.reader {
            Some(known) => {
                let mut reader = known.stopped_by(stop.clone());
                reader.refresh().map(|_| reader)
            }
            None => Reader::open_until(&place.path, stop.clone()),
        };
        match reader {
            Ok(reader) => {
                kept.reader = Some(reader.stopped_by(Stop::default()));
                Ok(Some(reader))
            }
            // What is known serves the next one.
            Err(error @ trail::Error::Stopped) => Err(error.into()),
            Err(error) => {
                kept.reader = None;
                match error {
                    trail::Error::NoStore { .. } => Ok(None),
                    error => Err(error.into()),
                }
            }
        }
    }

    /// The place of a server's store; on the way, what is idle or not followed any more is closed.
    fn place(&self, followed: &Followed) -> Arc<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|server, place| {
            let idle = place.kept.try_lock().is_ok_and(|kept| kept.used.elapsed() > IDLE);
            self.stores.get(*server).is_some() && !(idle && *server != followed.server)
        });
        let place = open
            .entry(followed.server)
            .or_insert_with(|| Arc::new(Place::new(followed)));
        if place.path != followed.store {
            *place = Arc::new(Place::new(followed));
        }
        Arc::clone(place)
    }
}

impl Place {
    fn new(followed: &Followed) -> Self {
        Self {
            path: followed.store.clone(),
            kept: Mutex::new(Kept {
                reader: None,
                used: Instant::now(),
            }),
        }
    }
}

/// One server's store.
struct Shelved {
    shelf: Arc<Shelf>,
    followed: Arc<Followed>,
}

impl Store for Shelved {
    fn reader(&self, stop: &Stop) -> Result<Option<Reader>, answer::Error> {
        self.shelf.reader(&self.followed, stop)
    }

    fn status(&self) -> pb::StatusResponse {
        pb::StatusResponse {
            state: Some(state(self.followed.going())),
            version: VERSION.to_owned(),
            start_time: Some(Timestamp::from(self.shelf.started)),
        }
    }
}

/// How following goes, without what the store knows.
fn state(going: Going) -> change_pb::FollowState {
    change_pb::FollowState {
        engine: going.engine,
        version: going.version,
        lag_millis: going
            .lag
            .map(|lag| i64::try_from(lag.as_millis()).unwrap_or(i64::MAX)),
        lag_bytes: going.lag_bytes,
        following: going.following,
        problem: going.problem,
        last_connected_time: going.last_connected.map(Timestamp::from),
        log_end: going.log_end.map(|at| change_pb::Place {
            epoch: 0,
            file: at.file.as_str().to_owned(),
            offset: at.offset,
        }),
        ..change_pb::FollowState::default()
    }
}
