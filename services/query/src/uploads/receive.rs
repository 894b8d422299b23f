//! Takes a file in as it comes.
//!
//! A chunk is stored when it is full, and the last one when the stream ends in order. Of a stream no more than a chunk and a message are in
//! memory, and nothing is read while a chunk is being stored: HTTP/2's windows hold the sender back.

use std::time::{Duration, Instant};

use proto::query::v1 as pb;
use tonic::{Code, Streaming};
use types::{Errand, Plan, Scope, UploadId};

use super::{
    Uploads,
    error::Error,
    store::{Chunk, room_for},
    streams::Turn,
    upload::{PART, State, Upload, begins_well},
};

/// A stream of which fewer bytes than these come for so long is ended: places are few, and others wait for them. The gateway waits for half as long
/// for a client's bytes, and sends at most 64 KiB of them at a time, as `trail` does.
const IDLE: Duration = Duration::from_mins(1);
const LEAST: u64 = 16 << 10;

/// A chunk is stored by then, or not at all.
const STORED: Duration = Duration::from_secs(20);

/// So long before its deadline a stream is ended in order: what has come is stored, and its sender is told how far it came.
const SPARE: Duration = Duration::from_secs(5);

/// A file that is being taken in.
struct Intake<'a> {
    uploads: &'a Uploads,
    scope: &'a Scope,
    id: UploadId,
    plan: Plan,
    /// As long as the file is, if that was said.
    size: u64,
    /// How many of its bytes are stored.
    stored: u64,
    /// Which chunk is being filled.
    number: u64,
    /// Its bytes, those that are stored already too.
    chunk: Vec<u8>,
}

/// Why no more messages are read.
enum End {
    /// The sender has sent all that it has.
    Orderly,
    /// Something of ours; what came is stored, and the sender goes on in another stream.
    Pause(&'static str),
}

fn wrong(problem: &'static str) -> Error {
    Error::field("upload_id", problem)
}

/// What a message that cannot be had means.
fn broken(status: &tonic::Status) -> Error {
    match status.code() {
        // tonic's word for a message that is longer than it may be.
        Code::OutOfRange | Code::ResourceExhausted => Error::message_length(),
        _ => Error::BrokenOff,
    }
}

impl Uploads {
    /// Takes in what comes, and gives the offset to go on at.
    pub(super) async fn receive(
        &self,
        scope: &Scope,
        mut stream: Streaming<pb::UploadFileRequest>,
    ) -> Result<u64, Error> {
        let first = tokio::time::timeout(IDLE, stream.message()).await;
        let first = first.map_err(|_| Error::BrokenOff)?.map_err(|no| broken(&no))?;
        let first = first.ok_or_else(|| wrong("the first message says which upload"))?;
        let id: UploadId = first.upload_id.parse().map_err(|_| Error::Missing)?;
        // A stream that cannot go on here, or of an upload that is not there for its sender, ends nobody else's.
        let errand = errand(scope);
        takes(
            &self.store.find(&errand, id).await?,
            scope.seat.plan,
            first.offset,
        )?;
        let turn = self.streams.enter(scope.tenant(), id).await?;
        // The older stream may have stored a little more before it left.
        let upload = self.store.find(&errand, id).await?;
        takes(&upload, scope.seat.plan, first.offset)?;
        let mut intake = Intake::open(self, scope, upload).await?;
        intake.take(&first.data).await?;
        drop(first);
        let end = intake.follow(&turn, &mut stream).await?;
        intake.keep().await?;
        match end {
            End::Orderly => Ok(intake.stored),
            End::Pause(why) => Err(Error::ToBeContinued {
                why,
                bytes: intake.stored,
            }),
        }
    }
}

/// Work for the upload that a call takes as long as it may, and not as long as its stream.
fn errand(scope: &Scope) -> Errand {
    Errand {
        tenant: scope.tenant(),
        deadline: scope.deadline.min(Instant::now() + STORED),
    }
}

/// Whether the upload takes bytes that begin at this offset.
fn takes(upload: &Upload, plan: Plan, offset: u64) -> Result<(), Error> {
    if upload.state != State::Open {
        return Err(Error::NotOpen);
    }
    upload.open_to(plan)?;
    if offset != upload.bytes {
        return Err(Error::Offset { right: upload.bytes });
    }
    Ok(())
}

/// How fast a stream comes.
struct Pace {
    /// [`LEAST`] bytes have come by then.
    until: Instant,
    came: u64,
}

impl Pace {
    fn from(now: Instant) -> Self {
        Self {
            until: now + IDLE,
            came: 0,
        }
    }

    /// These bytes came, and it is `now` when they are taken in. What that took was not the sender's time.
    fn came(&mut self, bytes: usize, began: Instant, now: Instant) {
        self.came += bytes as u64;
        if self.came >= LEAST {
            *self = Self::from(now);
        } else {
            self.until += now.saturating_duration_since(began);
        }
    }
}

impl<'a> Intake<'a> {
    /// Goes on where the upload ends so far.
    async fn open(uploads: &'a Uploads, scope: &'a Scope, upload: Upload) -> Result<Self, Error> {
        let (number, rest) = (upload.bytes / PART as u64, upload.bytes % PART as u64);
        let mut chunk = Vec::with_capacity(PART);
        if rest > 0 {
            let errand = errand(scope);
            let key = uploads.keys.get(&errand, upload.id).await?;
            chunk.extend(uploads.store.begun(&errand, upload.id, &key, number).await?);
            if chunk.len() as u64 != rest {
                return Err(Error::Changed);
            }
        }
        Ok(Self {
            uploads,
            scope,
            id: upload.id,
            plan: scope.seat.plan,
            size: upload.size,
            stored: upload.bytes,
            number,
            chunk,
        })
    }

    /// Takes message after message, up to the end of the stream or ours.
    async fn follow(
        &mut self,
        turn: &Turn,
        stream: &mut Streaming<pb::UploadFileRequest>,
    ) -> Result<End, Error> {
        let now = Instant::now();
        let left = self.scope.deadline.saturating_duration_since(now);
        let until = now + left.saturating_sub(SPARE.min(left / 2));
        let stopping = self.uploads.stopping.clone();
        let mut pace = Pace::from(now);
        loop {
            let message = tokio::select! {
                biased;
                () = turn.replaced() => return Err(Error::Replaced),
                () = stopping.cancelled() => return Ok(End::Pause("this replica ends")),
                () = tokio::time::sleep_until(until.into()) => return Ok(End::Pause("a stream lasts no longer")),
                message = tokio::time::timeout_at(pace.until.into(), stream.message()) => message,
            };
            let message = match message {
                Ok(Ok(Some(message))) => message,
                Ok(Ok(None)) => return Ok(End::Orderly),
                Ok(Err(status)) => return Err(broken(&status)),
                Err(_) => return Ok(End::Pause("less than 16 KiB came in a minute")),
            };
            if !message.upload_id.is_empty() || message.offset != 0 {
                return Err(wrong(
                    "only the first message says which upload, and where its bytes begin",
                ));
            }
            if message.data.is_empty() {
                return Err(Error::field("data", "each message but the first brings some"));
            }
            let began = Instant::now();
            self.take(&message.data).await?;
            pace.came(message.data.len(), began, Instant::now());
        }
    }

    /// How many bytes of the file there are, with those that are not stored yet.
    fn end(&self) -> u64 {
        self.number * PART as u64 + self.chunk.len() as u64
    }

    async fn take(&mut self, mut data: &[u8]) -> Result<(), Error> {
        if data.len() > PART {
            return Err(Error::message_length());
        }
        let end = self.end() + data.len() as u64;
        if self.size > 0 && end > self.size {
            return Err(Error::TooLarge(self.size));
        }
        room_for(self.plan, end)?;
        while !data.is_empty() {
            let (now, later) = data.split_at(data.len().min(PART - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            data = later;
            if self.number == 0 {
                begins_well(&self.chunk)?;
            }
            if self.chunk.len() == PART {
                self.keep().await?;
            }
        }
        Ok(())
    }

    /// Stores what has come.
    async fn keep(&mut self) -> Result<(), Error> {
        if self.end() == self.stored {
            return Ok(());
        }
        let errand = errand(self.scope);
        // Asked for again each time: the key of an upload that was deleted is not kept by a stream.
        let key = self.uploads.keys.get(&errand, self.id).await?;
        let chunk = Chunk {
            number: self.number,
            data: &self.chunk,
            before: self.stored,
        };
        self.stored = self.uploads.store.append(&errand, self.id, &key, chunk).await?;
        if self.chunk.len() == PART {
            self.number += 1;
            self.chunk.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{IDLE, LEAST, Pace};

    #[test]
    fn bytes_keep_a_stream_open_and_not_messages() {
        let (begin, step) = (Instant::now(), Duration::from_secs(10));
        let mut pace = Pace::from(begin);
        pace.came(1, begin + step, begin + step);
        pace.came(1, begin + step * 5, begin + step * 5);
        assert_eq!(pace.until, begin + IDLE);
        // What storing them takes does not count.
        pace.came(1, begin + step * 5, begin + step * 6);
        assert_eq!(pace.until, begin + IDLE + step);
        pace.came(LEAST as usize, begin + step * 6, begin + step * 7);
        assert_eq!((pace.until, pace.came), (begin + step * 7 + IDLE, 0));
    }
}
