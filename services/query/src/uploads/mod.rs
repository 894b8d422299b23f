//! Binary logs that are uploaded instead of followed.
//!
//! A file comes in one stream or several (`receive`), is read once into a store as an agent has one, and is asked like an agent's. What is stored of it is sealed with a key of
//! its own (`seal`), which the vault seals and opens (`keys`): the chunks as they came, then the files of the store (`folder`), each in pieces
//! that open in their own place only. Nothing of it is on a disk in the clear, and of the file only some pieces are in memory at a time.
//!
//! * What is READY is whole: the manifest of the store is written last, and the parts go in the transaction that says so.
//! * One replica reads an upload at a time, by a lease; when it dies another begins anew, under another number, and what was left behind goes.
//! * Deleting an upload deletes its key in the same transaction: what a copy of the database elsewhere still has of it opens no more. Other replicas, which
//!   may have the key open, look whether it is still there before they use it ([`keys`]), and whether the upload is while they answer ([`watch`]).
//! * The plan says how many there are and for how long: of those beyond a smaller plan the newest stay open, the others are frozen until there is room.

mod decode;
mod error;
mod folder;
mod keys;
mod origin;
mod pieces;
mod read;
mod readers;
mod receive;
mod seal;
mod service;
mod source;
mod store;
mod streams;
mod turns;
mod upload;
mod watch;
mod work;

use std::{sync::Arc, time::Duration};

use answer::Budget;
use chassis::places::Places;
use proto::query::v1::upload_service_server::UploadServiceServer;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use types::{TenantId, UploadId};

use crate::{Config, resolve::Resolver};
pub(crate) use source::Sources;

use folder::Shelf;
use keys::Keys;
use origin::Known;
use pieces::Pieces;
use readers::Readers;
use store::{Files, Store};
use streams::Streams;

/// The largest message of UploadService: a chunk of a file and its frame.
const LONGEST: usize = upload::PART + (64 << 10);

/// Questions that one replica answers at a time, and those of one tenant.
const QUESTIONS: usize = 64;
const QUESTIONS_OF_ONE: usize = 16;

/// The uploads. Clones are the same.
#[derive(Clone)]
pub(crate) struct Uploads {
    store: Store,
    keys: Keys,
    pieces: Pieces,
    readers: Readers,
    budget: Arc<Budget>,
    /// Questions that are being answered.
    places: Places,
    /// Files that are coming.
    streams: Streams,
    /// Which rules there are.
    resolver: Resolver,
    /// Where tables of other uploads came from.
    known: Known,
    /// Wakes who reads.
    finished: Arc<Notify>,
    stopping: CancellationToken,
    /// For how long an upload belongs to who reads it.
    lease: Duration,
    /// How often is looked for work.
    pause: Duration,
    /// How long reading any file may take; a long one may take longer.
    longest: Duration,
}

impl Uploads {
    /// Over this database, with the peer `vault`. [`Self::run`] reads what is finished.
    ///
    /// # Errors
    /// When the vault has no address.
    pub(crate) fn open(
        config: &Config,
        pool: pg::Pool,
        runtime: &chassis::Runtime,
        resolver: Resolver,
    ) -> Result<Self, chassis::Error> {
        let store = Store::new(pool);
        Ok(Self {
            keys: Keys::new(runtime.peer("vault")?, store.clone()),
            store,
            pieces: Pieces::default(),
            readers: Readers::default(),
            budget: budget(),
            places: Places::new(QUESTIONS, QUESTIONS_OF_ONE),
            streams: Streams::default(),
            resolver,
            known: Known::default(),
            finished: Arc::default(),
            stopping: runtime.stopping(),
            lease: config.upload_lease,
            pause: config.upload_pause,
            longest: config.upload_time,
        })
    }

    /// What serves UploadService.
    pub(crate) fn server(&self) -> UploadServiceServer<Self> {
        UploadServiceServer::new(self.clone()).max_decoding_message_size(LONGEST)
    }

    fn shelf(&self, tenant: TenantId, files: Files) -> Shelf {
        let (store, keys) = (self.store.clone(), self.keys.clone());
        Shelf::new(store, keys, self.pieces.clone(), tenant, files)
    }

    /// Wipes what is open of an upload that is gone.
    fn forget(&self, upload: UploadId) {
        self.keys.forget(upload);
        self.readers.forget(upload);
        self.pieces.forget(upload);
        self.known.forget(upload);
    }
}

/// What all answers of one replica may hold, whoever asks: two agents' worth, since a replica has other things to do.
fn budget() -> Arc<Budget> {
    Budget::new(answer::Limits {
        readers: 4,
        plans: 2,
        bytes: 32 << 20,
        ..answer::Limits::default()
    })
}
