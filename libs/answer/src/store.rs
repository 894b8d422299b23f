//! What is asked.

use proto::agent::v1 as pb;
use trail::{Reader, Stop};

use crate::error::Error;

/// A store that can be asked, and what is known of its server besides.
pub trait Store: Send + Sync + 'static {
    /// The store as it is now, for a reading that `stop` ends; none if nothing has been read yet. Blocks, and is called again for each slice.
    ///
    /// # Errors
    /// When it cannot be read, or `stop` is wanted.
    fn reader(&self, stop: &Stop) -> Result<Option<Reader>, Error>;

    /// Its status, without what the store itself knows.
    fn status(&self) -> pb::StatusResponse;
}

/// A store that nobody writes into.
#[derive(Debug)]
pub struct Still {
    reader: Reader,
    status: pb::StatusResponse,
}

impl Still {
    /// One that is open.
    pub fn new(reader: Reader, status: pb::StatusResponse) -> Self {
        Self { reader, status }
    }
}

impl Store for Still {
    fn reader(&self, stop: &Stop) -> Result<Option<Reader>, Error> {
        stop.check()?;
        Ok(Some(self.reader.stopped_by(stop.clone())))
    }

    fn status(&self) -> pb::StatusResponse {
        self.status.clone()
    }
}
