//! The task that delivers: it leases sinks for which entries wait, and carries batches to each.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use audit::format::{Source, line};
use chassis::Runtime;
use opentelemetry::{KeyValue, metrics::Counter};
use rand::Rng as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time,
};
use tokio_util::sync::CancellationToken;
use types::{Errand, Region, chain};

use super::{Failure, Means, config::Sinks, file, send::Letter, syslog, webhook};
use crate::{
    audit::read,
    clients::sink_secret::SinkSecrets,
    domain::sink::Target,
    error::Error,
    service::Core,
    store::{
        self, Store,
        sink::{Claim, Loaded},
    },
};

/// Sinks that are delivered to at once by one process: those that took the last time, and those that did not or were slow.
const WELL: usize = 16;
const FAILING: usize = 8;

/// For one batch, from the look-up of the name to the yes.
const BATCH: Duration = Duration::from_secs(20);

/// After so long another sink is let in, though more waits for this one.
const TURN: Duration = Duration::from_secs(10);

/// A batch that takes longer is that of a slow receiver.
const SLOW: Duration = Duration::from_secs(5);

/// Records that are looked at for one batch, and the bytes after which it is full.
const RECORDS: i64 = 500;
const BYTES: usize = 1 << 20;

/// For the database's part of each step.
const DATABASE: Duration = Duration::from_secs(5);

/// Nobody is tried more seldom.
const SELDOM: Duration = Duration::from_secs(300);

/// All that delivery needs.
#[derive(Debug)]
pub(crate) struct Courier {
    pub(crate) store: Store,
    pub(crate) secrets: SinkSecrets,
    pub(crate) means: Means,
    pub(crate) region: Region,
    /// Between looks for what is due, and the first wait of who fails.
    pub(crate) pause: Duration,
    /// Batches, by how they ended.
    pub(crate) batches: Counter<u64>,
    /// Records that cannot be read.
    pub(crate) unreadable: read::Unreadable,
}

/// Delivers until `stopping`.
pub(crate) async fn deliver(courier: Arc<Courier>, stopping: CancellationToken) {
    let places = [Arc::new(Semaphore::new(WELL)), Arc::new(Semaphore::new(FAILING))];
    let mut under_way = JoinSet::new();
    loop {
        while let Some(ended) = under_way.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(error = chain(&error), "a delivery to a sink ended badly");
            }
        }
        let mut full = false;
        for (failing, places) in [(false, &places[0]), (true, &places[1])] {
            match courier.claim(failing, places).await {
                Ok(claims) => {
                    full |= !claims.is_empty() && places.available_permits() == 0;
                    for (claim, place) in claims {
                        let (courier, stopping) = (courier.clone(), stopping.clone());
                        under_way.spawn(async move { courier.turn(claim, place, stopping).await });
                    }
                }
                Err(error) => tracing::warn!(error = chain(&error), "sinks that are due cannot be found now"),
            }
        }
        tokio::select! {
            () = stopping.cancelled() => break,
            // Where all places are taken, the next free one is used at once.
            Some(_) = under_way.join_next(), if full => {}
            () = time::sleep(courier.pause) => {}
        }
    }
    // Each hears `stopping` and gives its lease back.
    while under_way.join_next().await.is_some() {}
}

impl Courier {
    /// With what the service was configured with.
    pub(crate) fn new(core: &Core, config: &Sinks, runtime: &Runtime) -> Result<Arc<Self>, chassis::Error> {
        Ok(Arc::new(Self {
            store: core.store.clone(),
            secrets: SinkSecrets::new(runtime.peer("vault")?),
            means: config.means().map_err(chassis::Error::service)?,
            region: core.region,
            pause: config.tenant_audit_sink_pause,
            batches: runtime
                .meter()
                .u64_counter("audit.sink.batches")
                .with_description("Batches of audit entries for sinks, by how they ended")
                .build(),
            unreadable: read::Unreadable::new(&runtime.meter()),
        }))
    }

    async fn claim(
        &self,
        failing: bool,
        places: &Arc<Semaphore>,
    ) -> Result<Vec<(Claim, OwnedSemaphorePermit)>, Error> {
        let mut free = Vec::new();
        while let Ok(place) = places.clone().try_acquire_owned() {
            free.push(place);
        }
        if free.is_empty() {
            return Ok(Vec::new());
        }
        let lease = format!("{:032x}", rand::rng().random::<u128>());
        let mut tx = self.store.directory(Instant::now() + DATABASE).await?;
        let claims = store::sink::claim(&mut tx, failing, free.len(), &lease).await?;
        tx.commit().await?;
        Ok(claims.into_iter().zip(free).collect())
    }

    /// One turn of a sink: batches until nothing waits or others should come in; then its lease ends.
    async fn turn(&self, mut claim: Claim, place: OwnedSemaphorePermit, stopping: CancellationToken) {
        let begun = Instant::now();
        let mut slow = false;
        let outcome = loop {
            let batch_begun = Instant::now();
            let batch = tokio::select! {
                () = stopping.cancelled() => break Ok(()),
                batch = time::timeout(BATCH, self.batch(&mut claim)) => batch.unwrap_or(Err(Failure::NoAnswer)),
            };
            slow |= batch_begun.elapsed() > SLOW;
            match batch {
                Ok(true) if begun.elapsed() < TURN => {}
                Ok(_) => break Ok(()),
                Err(failure) => break Err(failure),
            }
        };
        let ended = self.end(&claim, outcome, slow).await;
        if let Err(error) = ended {
            // The lease ends by itself, and the cursor is where it was: something may come twice.
            tracing::warn!(sink = %claim.sink, error = chain(&error), "the end of a delivery could not be noted");
        }
        drop(place);
    }

    async fn end(&self, claim: &Claim, outcome: Result<(), Failure>, slow: bool) -> Result<(), Error> {
        let mut tx = self.store.directory(Instant::now() + DATABASE).await?;
        match outcome {
            Ok(()) => store::sink::release(&mut tx, claim, slow).await?,
            Err(failure) => {
                let why = failure.to_string();
                tracing::info!(tenant = %claim.tenant, sink = %claim.sink, attempt = claim.attempts + 1, why, "a sink did not take");
                self.batches.add(1, &[KeyValue::new("outcome", "failed")]);
                let wait = wait(self.pause, claim.attempts, rand::rng().random_range(0.5..1.0));
                let wait = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
                store::sink::failed(&mut tx, claim, wait, &why).await?;
            }
        }
        Ok(tx.commit().await?)
    }

    /// Carries one batch, and notes it. Whether there may be more.
    async fn batch(&self, claim: &mut Claim) -> Result<bool, Failure> {
        let own = |error: Error| {
            tracing::warn!(sink = %claim.sink, error = chain(&error), "a batch for a sink was not carried");
            Failure::Own
        };
        let Some((loaded, letters, through)) = self.load(claim).await.map_err(own)? else {
            return Ok(false);
        };
        let most = claim.plan.limits().audit_sinks;
        if loaded.rank > i64::from(most) {
            return Err(Failure::Frozen(most));
        }
        if through == claim.delivered {
            return Ok(false);
        }
        let mut notice = None;
        if !letters.is_empty() {
            notice = Some(self.carry(claim, &loaded, letters).await?);
            self.batches.add(1, &[KeyValue::new("outcome", "taken")]);
        }
        if let Some(notice) = notice.filter(|notice| !notice.is_empty()) {
            tracing::warn!(tenant = %claim.tenant, sink = %claim.sink, notice, "somebody else changed the file of a sink");
        }
        let kept = self.note(claim, through, notice).await.map_err(|error| {
            tracing::warn!(sink = %claim.sink, error = chain(&error), "a batch that was taken could not be noted");
            Failure::Own
        })?;
        claim.delivered = through;
        Ok(kept)
    }

    async fn note(&self, claim: &Claim, through: i64, notice: Option<&str>) -> Result<bool, Error> {
        let mut tx = self.store.directory(Instant::now() + DATABASE).await?;
        let kept = store::sink::advance(&mut tx, claim, through, &claim.file_mark, notice).await?;
        tx.commit().await?;
        Ok(kept)
    }

    /// The sink, the next letters for it, and the sequence that it has come to when it has taken them. None when the sink is gone.
    async fn load(&self, claim: &Claim) -> Result<Option<(Loaded, Vec<Letter>, i64)>, Error> {
        let errand = Errand {
            tenant: claim.tenant,
            deadline: Instant::now() + DATABASE,
        };
        let mut tx = self.store.errand(&errand).await?;
        let Some(loaded) = store::sink::load(&mut tx, claim.tenant, claim.sink).await? else {
            return Ok(None);
        };
        let ended = read::ended_after(&mut tx, &self.unreadable, claim.delivered, RECORDS)
            .await
            .map_err(|error| {
                tracing::error!(tenant = %claim.tenant, error = chain(&error), "entries cannot be read for a sink");
                Error::Stored("record of the audit log")
            })?;
        drop(tx);
        let mut through = ended.last;
        let source = self.source(claim);
        let mut letters = Vec::new();
        let mut bytes = 0;
        for entry in ended.entries {
            let line = line(loaded.sink.format, &source, entry.sequence, &entry.event);
            bytes += line.len() + 1;
            if bytes > BYTES {
                // The rest is for the next batch.
                through = letters
                    .last()
                    .map_or(claim.delivered, |last: &Letter| last.sequence);
                break;
            }
            letters.push(Letter {
                sequence: entry.sequence,
                event: entry.event,
                line,
            });
        }
        Ok(Some((loaded, letters, through)))
    }

    fn source(&self, claim: &Claim) -> Source {
        Source {
            tenant: claim.tenant.to_string(),
            region: self.region.word().to_owned(),
        }
    }

    /// Brings the letters to the receiver; what it has to say of a file.
    async fn carry(
        &self,
        claim: &mut Claim,
        loaded: &Loaded,
        letters: Vec<Letter>,
    ) -> Result<&'static str, Failure> {
        match &loaded.sink.target {
            Target::Syslog(place) => {
                syslog::send(&self.means, place, &self.source(claim), &letters).await?;
                Ok("")
            }
            Target::Webhook(place) => {
                let envelope = loaded.secret.as_ref().ok_or(Failure::NoSecret)?;
                let secret = self.secrets.open(envelope).await?;
                webhook::send(&self.means, place, claim.sink, &secret, &letters).await?;
                Ok("")
            }
            Target::File => {
                let folder = self.means.folder.clone().ok_or(Failure::NoFolder)?;
                let (tenant, name, mark) = (claim.tenant, loaded.sink.name.clone(), claim.file_mark.clone());
                let writer = self.means.writers.begin(claim.sink)?;
                let written = tokio::task::spawn_blocking(move || {
                    // Given back by whoever writes, though nobody may wait for that any more.
                    let _writer = writer;
                    file::write(&folder, tenant, &name, &mark, &letters)
                });
                let written = written.await.map_err(|_| Failure::Own)??;
                claim.file_mark = written.mark;
                Ok(written.notice)
            }
        }
    }
}

/// How long who has failed `attempts` times before is left alone: twice as long each time, a part of it by chance.
fn wait(first: Duration, attempts: u32, chance: f64) -> Duration {
    let doubled = first.saturating_mul(2_u32.saturating_pow(attempts.min(20)));
    doubled.clamp(Duration::from_millis(10), SELDOM).mul_f64(chance)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::wait;

    #[test]
    fn who_fails_is_tried_later_and_later_but_not_never() {
        let second = Duration::from_secs(1);
        assert_eq!(wait(second, 0, 1.0), second);
        assert_eq!(wait(second, 3, 1.0), Duration::from_secs(8));
        assert_eq!(wait(second, 3, 0.5), Duration::from_secs(4));
        for attempts in [9, 20, 1_000, u32::MAX] {
            assert_eq!(wait(second, attempts, 1.0), Duration::from_secs(300));
        }
    }
}
