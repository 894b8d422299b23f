//! One attempt at reading an upload: what came is opened chunk by chunk, decoded, and becomes a store.

use std::{
    io::{self, Read},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use types::{Errand, chain};

use super::{
    Uploads,
    decode::decode,
    error::Error,
    seal::Place,
    store::{Claim, Files, Outcome, given_up},
    upload::PART,
};

/// Chunks that are open and not yet decoded.
const AHEAD: usize = 2;

/// For one chunk, and for a word to the database.
const AT_MOST: Duration = Duration::from_secs(30);

/// After an attempt that failed for what is not the file's fault: twice this, then longer.
const PAUSE: Duration = Duration::from_secs(2);

/// Of a long file each so many bytes may take so much longer.
const LONGER: (u64, Duration) = (100 << 20, Duration::from_mins(1));

/// How long an attempt at reading so many bytes may take, where the shortest file has `least`.
fn longest(least: Duration, bytes: u64) -> Duration {
    let more = u32::try_from(bytes / LONGER.0).unwrap_or(u32::MAX);
    least.saturating_add(LONGER.1.saturating_mul(more))
}

/// What came, in its order. It ends with an error if whoever opens the chunks does.
struct Chunks {
    next: mpsc::Receiver<Result<Vec<u8>, Error>>,
    chunk: Vec<u8>,
    taken: usize,
    left: u64,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        if self.taken == self.chunk.len() {
            let next = self.next.blocking_recv().unwrap_or(Err(Error::Broken));
            self.chunk = next.map_err(io::Error::other)?;
            self.taken = 0;
        }
        let bytes = &self.chunk[self.taken..];
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        self.taken += count;
        self.left = self.left.saturating_sub(count as u64);
        Ok(count)
    }
}

impl Uploads {
    /// Reads an upload to its end, or as far as it goes.
    pub(super) async fn attempt(&self, claim: &Claim) {
        let longest = longest(self.longest, claim.upload.bytes);
        let done = tokio::select! {
            done = self.read(claim) => done,
            error = self.stay(claim) => Err(error),
            () = self.stopping.cancelled() => Err(Error::Broken),
            () = tokio::time::sleep(longest) => self.give_up(claim, longest).await,
        };
        let Err(error) = done else { return };
        if matches!(error, Error::Superseded | Error::Missing) {
            tracing::info!(upload = %claim.upload.id, "the reading of an upload was taken over, or it is gone");
            return;
        }
        let ours = self.stopping.is_cancelled();
        if !ours {
            tracing::warn!(upload = %claim.upload.id, error = chain(&error), "an upload is read again in a moment");
        }
        // Longer and longer: what keeps failing is for somebody who reads the log.
        let times = u32::try_from(claim.upload.attempt.clamp(0, 7)).unwrap_or(7);
        let pause = if ours {
            Duration::ZERO
        } else {
            PAUSE * 2_u32.pow(times)
        };
        let errand = errand(claim, AT_MOST);
        let off = self.store.put_off(&errand, claim, pause);
        if let Err(error) = off.await {
            // The lease ends by itself.
            tracing::info!(upload = %claim.upload.id, error = chain(&error), "an upload was not given back");
        }
    }

    /// Ends an attempt that takes too long: others wait.
    async fn give_up(&self, claim: &Claim, longest: Duration) -> Result<(), Error> {
        let (seconds, bytes) = (longest.as_secs(), claim.upload.bytes);
        let outcome = given_up(&format!(
            "after {seconds} seconds, and a file of {bytes} bytes is not read for longer"
        ));
        let errand = errand(claim, AT_MOST);
        self.store.complete(&errand, claim, &outcome, &[]).await
    }

    /// Renews the lease until that fails.
    async fn stay(&self, claim: &Claim) -> Error {
        let (mut renewed, mut pause) = (Instant::now(), self.lease / 3);
        loop {
            tokio::time::sleep(pause).await;
            let errand = errand(claim, self.lease / 3);
            match self.store.renew(&errand, claim, self.lease).await {
                Ok(()) => (renewed, pause) = (Instant::now(), self.lease / 3),
                Err(Error::Superseded) => return Error::Superseded,
                Err(error) if renewed.elapsed() > self.lease => return error,
                // Another third, and the lease would be over.
                Err(_) => pause = self.lease / 20,
            }
        }
    }

    async fn read(&self, claim: &Claim) -> Result<(), Error> {
        let (give, next) = mpsc::channel(AHEAD);
        let files = Files {
            upload: claim.upload.id,
            attempt: claim.upload.attempt,
        };
        let shelf = self.shelf(claim.tenant, files);
        let chunks = Chunks {
            next,
            chunk: Vec::new(),
            taken: 0,
            left: claim.upload.bytes,
        };
        let (upload, keep) = (claim.upload.clone(), claim.keep);
        let reading = tokio::task::spawn_blocking(move || decode(&upload, &shelf, chunks, keep));
        let ((), read) = tokio::join!(self.open_all(claim, give), reading);
        let (mut outcome, temporary) = read.map_err(|_| Error::Broken)??;
        let (bytes, size) = (claim.upload.bytes, claim.upload.size);
        if let Outcome::Ready { problem, .. } = &mut outcome
            && problem.is_empty()
            && bytes < size
        {
            *problem = format!("{bytes} of {size} bytes came");
        }
        let errand = errand(claim, AT_MOST);
        self.store.complete(&errand, claim, &outcome, &temporary).await
    }

    /// Opens all chunks, and hands them on.
    async fn open_all(&self, claim: &Claim, give: mpsc::Sender<Result<Vec<u8>, Error>>) {
        for number in 0..claim.upload.bytes.div_ceil(PART as u64) {
            let chunk = self.chunk(claim, number).await;
            let failed = chunk.is_err();
            // Whoever reads may have read enough.
            if give.send(chunk).await.is_err() || failed {
                return;
            }
        }
    }

    async fn chunk(&self, claim: &Claim, number: u64) -> Result<Vec<u8>, Error> {
        let (errand, id) = (errand(claim, AT_MOST), claim.upload.id);
        let key = self.keys.get(&errand, id).await?;
        let sealed = self.store.part(&errand, id, number).await?;
        let place = Place {
            tenant: claim.tenant,
            upload: id,
            file: None,
            number,
            last: false,
        };
        let chunk = key.open(&place, sealed)?;
        let left = claim.upload.bytes - number * PART as u64;
        let right = left.min(PART as u64) == chunk.len() as u64;
        // An older, shorter state of the file's last chunk would open too.
        right.then_some(chunk).ok_or(Error::Changed)
    }
}

fn errand(claim: &Claim, at_most: Duration) -> Errand {
    Errand {
        tenant: claim.tenant,
        deadline: Instant::now() + at_most,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::longest;

    #[test]
    fn a_long_file_is_read_for_longer() {
        let hour = Duration::from_hours(1);
        assert_eq!(longest(hour, 0), hour);
        assert_eq!(longest(hour, 1 << 30), hour + Duration::from_mins(10));
        assert_eq!(longest(hour, 10 << 30), hour + Duration::from_mins(102));
    }
}
