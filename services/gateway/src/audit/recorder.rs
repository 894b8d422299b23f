//! Writes to the record: intents at once, results and refusals from behind the answers.
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use chassis::{Peer, Runtime};
use futures_util::{StreamExt as _, stream};
use http::HeaderMap;
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Meter},
};
use proto::tenant::v1::{self as pb, audit_service_client::AuditServiceClient};
use rand::Rng as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{MissedTickBehavior, interval_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Code, Status};
use types::{AuditId, RequestId, TenantId};

use super::{
    Audited,
    refusals::{Alike, Refusals, WINDOW},
    results::{Results, Written},
    targets::{Ids, Targets},
    waiting::{Batch, Waiting},
};
use crate::{
    answer::status_of,
    error::{Cause, reason_of},
    upstream::asked,
};

/// The service whose log it is.
pub(crate) const SERVICE: &str = "tenant";
/// One try to write an intent: who answers later is not there.
const INTENT_TRY: Duration = Duration::from_secs(3);
/// And so many of them, after a pause: a replica that ends, or has just begun, is no reason to refuse a call. More would be a long wait for no.
const INTENT_TRIES: u32 = 2;
const INTENT_PAUSE: std::ops::RangeInclusive<u64> = 50..=250;
/// One try to write a result or refusals.
pub(super) const TRY: Duration = Duration::from_secs(3);
/// After a call's deadline tenant closes an intent by itself.
const LATEST: Duration = Duration::from_secs(30);
/// Tenants whose refusals are on their way at a time.
const TELLING: usize = 8;
/// What still waits at the end is tried for so long.
const LAST_ROUND: Duration = Duration::from_secs(10);

/// The gateway's pen.
pub(crate) struct Recorder {
    client: Option<AuditServiceClient<Peer>>,
    results: Arc<Results>,
    refusals: Refusals,
    /// Calls that are carried to their end whoever waits for them.
    carried: TaskTracker,
    places: Arc<Semaphore>,
    closed: CancellationToken,
    counted: Counter<u64>,
}

/// What an intent says.
pub(crate) struct Intent {
    pub(crate) tenant: TenantId,
    pub(crate) call: pb::AuditCall,
    pub(crate) targets: Targets,
    pub(crate) audited: Arc<Audited>,
    pub(crate) request: RequestId,
    /// When the call ends at the latest.
    pub(crate) deadline: Instant,
    /// Whether the call does not wait for it.
    pub(crate) at_once: bool,
}

impl Recorder {
    /// `audits`: whether there are methods to be recorded, which takes the address of tenant.
    pub(crate) fn new(runtime: &Runtime, audits: bool) -> Result<Arc<Self>, chassis::Error> {
        let client = audits
            .then(|| runtime.peer(SERVICE).map(AuditServiceClient::new))
            .transpose()?;
        let meter = runtime.meter();
        let counted = meter
            .u64_counter("gateway_audit_records")
            .with_description("Intents, results and refusals, by whether they were written")
            .build();
        let results = Arc::new(Results::new({
            let counted = counted.clone();
            move |how| counted.add(1, &record("result", how))
        }));
        observe(&meter, results.waiting());
        Ok(Arc::new(Self {
            client,
            results,
            refusals: Refusals::default(),
            carried: TaskTracker::new(),
            places: Arc::new(Semaphore::new(runtime.settings().max_in_flight)),
            closed: CancellationToken::new(),
            counted,
        }))
    }

    fn count(&self, what: &'static str, how: &'static str, number: u64) {
        self.counted.add(number, &record(what, how));
    }

    /// Writes down what is about to be done; the entry must then be told how it ended.
    pub(crate) async fn intend(self: &Arc<Self>, intent: Intent) -> Result<Entry, Cause> {
        let Some(client) = self.client.clone() else {
            return Err(Cause::Internal("the audit log has no address".to_owned()));
        };
        let place = Arc::clone(&self.places)
            .try_acquire_owned()
            .map_err(|_| Cause::Overloaded)?;
        let now = Instant::now();
        let left = intent.deadline.saturating_duration_since(now);
        let entry_id = AuditId::fresh().to_string();
        // From here on somebody may wait for a result, even if nobody waits for us any more.
        let mut entry = Entry {
            recorder: Arc::clone(self),
            open: Some(Open {
                tenant: intent.tenant,
                entry_id: entry_id.clone(),
                deadline: intent.deadline,
                request: intent.request,
                audited: intent.audited,
                targets: intent.targets,
                found: Targets::new(),
            }),
            dispatched: intent.at_once,
            _place: place,
        };
        let request = pb::RecordIntentRequest {
            tenant_id: intent.tenant.to_string(),
            entry_id,
            call: Some(intent.call),
            deadline: Some((SystemTime::now() + left).into()),
        };
        let Err(status) = write(client, intent.request, request, intent.deadline).await else {
            entry.dispatched = true;
            self.count("intent", "written", 1);
            return Ok(entry);
        };
        self.count("intent", "failed", 1);
        if is_about_tenant(&status) {
            // It is not kept there, so there is nothing to end.
            entry.open = None;
            return Err(Cause::Service(Box::new(status)));
        }
        tracing::warn!(code = ?status.code(), reason = reason_of(&status), "an intent cannot be written");
        entry.close(
            pb::Outcome::Failed,
            "UNAVAILABLE",
            "AUDIT_UNAVAILABLE",
            Targets::new(),
        );
        Err(Cause::AuditUnavailable)
    }

    /// Carries a call to its end, though its caller may go away.
    pub(crate) fn carry<F>(&self, call: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.carried.spawn(call)
    }

    /// Counts a refusal.
    pub(crate) fn refused(&self, alike: Alike, code: &str, call: impl FnOnce() -> pb::AuditCall) {
        self.refusals.add(alike, code, call);
    }

    /// Writes what is in the queues, until [`Recorder::close`] was called and they are empty.
    pub(crate) async fn run(self: Arc<Self>) {
        let Some(client) = self.client.clone() else {
            return;
        };
        let results = Arc::clone(&self.results);
        tokio::join!(
            results.run(client.clone(), self.closed.clone()),
            self.tell_refusals(client)
        );
    }

    /// Waits for the calls that are still carried, and lets [`Recorder::run`] end.
    pub(crate) async fn close(&self) {
        self.carried.close();
        self.carried.wait().await;
        self.closed.cancel();
    }

    async fn tell_refusals(&self, client: AuditServiceClient<Peer>) {
        let mut waiting = Waiting::default();
        let mut ticks = interval_at(tokio::time::Instant::now() + WINDOW, WINDOW);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let last = tokio::select! {
                _ = ticks.tick() => false,
                () = self.closed.cancelled() => true,
            };
            let (taken, lost) = self.refusals.take();
            let mut lost = lost + waiting.add(taken);
            if last {
                // What is not written then is lost, and counted.
                let _ = tokio::time::timeout(LAST_ROUND, self.send(&client, &mut waiting, last)).await;
                lost += waiting.len() as u64;
            } else {
                self.send(&client, &mut waiting, last).await;
            }
            if lost > 0 {
                tracing::error!(lost, "refusals are missing in the audit log");
                self.count("refusal", "given_up", lost);
            }
            if last {
                return;
            }
        }
    }

    /// Sends what waits, some tenants at a time; of each until it is sent or something fails.
    async fn send(&self, client: &AuditServiceClient<Peer>, waiting: &mut Waiting, last: bool) {
        let mut due = waiting.due(last, Instant::now());
        while !due.is_empty() {
            let batches: Vec<_> = due.iter().filter_map(|tenant| waiting.batch(tenant)).collect();
            let mut answers = stream::iter(batches)
                .map(|batch| self.tell(client.clone(), batch))
                .buffered(TELLING);
            due.clear();
            while let Some((tenant, settled)) = answers.next().await {
                match settled {
                    Some(count) => {
                        waiting.done(&tenant, count);
                        due.push(tenant);
                    }
                    None => waiting.failed(&tenant, Instant::now()),
                }
            }
        }
    }

    /// One try for one tenant; gives how many are written or never will be, or nothing if another try may help.
    async fn tell(&self, mut client: AuditServiceClient<Peer>, batch: Batch) -> (String, Option<usize>) {
        let (tenant, count) = (batch.tenant, batch.refusals.len());
        let request = pb::RecordRefusalsRequest {
            refusals: batch.refusals,
        };
        let until = Instant::now() + TRY;
        let answer = asked(RequestId::fresh(), until, request, |request| async move {
            client.record_refusals(request).await
        });
        let settled = match answer.await {
            Ok(_) => {
                self.count("refusal", "written", count as u64);
                Some(count)
            }
            Err(status) if is_final(&status) => {
                tracing::error!(tenant, code = ?status.code(), reason = reason_of(&status), "refusals cannot be written");
                self.count("refusal", "given_up", count as u64);
                Some(count)
            }
            Err(status) => {
                tracing::warn!(tenant, code = ?status.code(), "refusals wait to be written");
                None
            }
        };
        (tenant, settled)
    }
}

/// Writes an intent. It has an id, so it can be sent again when nobody answered.
async fn write(
    client: AuditServiceClient<Peer>,
    number: RequestId,
    intent: pb::RecordIntentRequest,
    deadline: Instant,
) -> Result<(), Status> {
    let mut tries = 1;
    loop {
        let until = deadline.min(Instant::now() + INTENT_TRY);
        let mut client = client.clone();
        let answer = asked(number, until, intent.clone(), |request| async move {
            client.record_intent(request).await
        });
        let Err(status) = answer.await else { return Ok(()) };
        let pause = Duration::from_millis(rand::rng().random_range(INTENT_PAUSE));
        let nobody = matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded);
        if !nobody || tries == INTENT_TRIES || Instant::now() + pause >= deadline {
            return Err(status);
        }
        tries += 1;
        tokio::time::sleep(pause).await;
    }
}

fn record(what: &'static str, how: &'static str) -> [KeyValue; 2] {
    [KeyValue::new("record", what), KeyValue::new("outcome", how)]
}

fn observe(meter: &Meter, behind: Arc<AtomicUsize>) {
    // Observed for as long as the meter lives.
    let _queue = meter
        .u64_observable_gauge("gateway_audit_queue")
        .with_description("Results of calls that are not yet in the audit log")
        .with_callback(move |observer| observer.observe(behind.load(Ordering::Relaxed) as u64, &[]))
        .build();
}

/// Whether trying again cannot help.
pub(super) fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::OutOfRange
    )
}

/// Whether tenant says that the tenant is not here, and not that it cannot write.
fn is_about_tenant(status: &Status) -> bool {
    matches!(status.code(), Code::NotFound | Code::FailedPrecondition)
}

struct Open {
    tenant: TenantId,
    entry_id: String,
    deadline: Instant,
    request: RequestId,
    audited: Arc<Audited>,
    targets: Targets,
    /// What the service found it to be about.
    found: Targets,
}

/// An intent that is written. Dropped without a word it ends as unknown.
pub(crate) struct Entry {
    recorder: Arc<Recorder>,
    open: Option<Open>,
    dispatched: bool,
    _place: OwnedSemaphorePermit,
}

impl Entry {
    /// The service has begun its answer, and says what it is about.
    pub(crate) fn begun(&mut self, metadata: &HeaderMap) {
        if let Some(open) = &mut self.open {
            Ids::read_server(metadata, &mut open.found);
        }
    }

    /// It ended with this status, and over the wire this message came back.
    pub(crate) fn end(mut self, status: &Status, message: Option<&[u8]>) {
        let mut targets = Targets::new();
        if let (Code::Ok, Some(open), Some(message)) = (status.code(), &self.open, message) {
            open.audited.made.read(message, &mut targets);
            targets.retain(|name, id| open.targets.get(name) != Some(id));
        }
        let (_, code) = status_of(status.code());
        let reason = reason_of(status).unwrap_or_default();
        self.close(outcome(status.code(), &reason), code, &reason, targets);
    }

    fn close(&mut self, outcome: pb::Outcome, code: &str, reason: &str, mut targets: Targets) {
        let Some(open) = self.open.take() else { return };
        targets.extend(
            open.found
                .into_iter()
                .filter(|(name, id)| open.targets.get(name) != Some(id)),
        );
        self.recorder.results.put(Written {
            tenant: open.tenant,
            request: open.request,
            latest: open.deadline + LATEST,
            read: open.audited.is_read(),
            result: pb::RecordResultRequest {
                tenant_id: open.tenant.to_string(),
                entry_id: open.entry_id,
                outcome: outcome.into(),
                code: code.to_owned(),
                reason: reason.to_owned(),
                targets: targets.into_iter().collect(),
            },
        });
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let late = self
            .open
            .as_ref()
            .is_some_and(|open| open.deadline <= Instant::now());
        let code = if late { "DEADLINE_EXCEEDED" } else { "CANCELLED" };
        match self.dispatched {
            true => self.close(pb::Outcome::Unknown, code, "", Targets::new()),
            false => self.close(pb::Outcome::Failed, code, "NOT_BEGUN", Targets::new()),
        }
    }
}

/// Whether a call was done, as far as its status says.
fn outcome(code: Code, reason: &str) -> pb::Outcome {
    match code {
        Code::Ok => pb::Outcome::Succeeded,
        // The service may have done it and then broken down, or answered nobody.
        Code::Cancelled | Code::Unknown | Code::DeadlineExceeded | Code::Internal | Code::DataLoss => {
            pb::Outcome::Unknown
        }
        Code::Unavailable if reason == "PEER_CONNECTION_BROKEN" || reason.is_empty() => pb::Outcome::Unknown,
        _ => pb::Outcome::Failed,
    }
}

#[cfg(test)]
mod tests {
    use proto::tenant::v1::Outcome;
    use tonic::Code;

    use super::outcome;

    #[test]
    fn what_may_have_been_done_is_never_told_as_failed() {
        for (code, reason, wanted) in [
            (Code::Ok, "", Outcome::Succeeded),
            (Code::NotFound, "SERVER_NOT_FOUND", Outcome::Failed),
            (Code::PermissionDenied, "ROLE_TOO_LOW", Outcome::Failed),
            (Code::Unavailable, "PEER_UNREACHABLE", Outcome::Failed),
            (Code::Unavailable, "OVERLOADED", Outcome::Failed),
            (Code::Unavailable, "PEER_CONNECTION_BROKEN", Outcome::Unknown),
            (Code::Unavailable, "", Outcome::Unknown),
            (Code::DeadlineExceeded, "DEADLINE_EXCEEDED", Outcome::Unknown),
            (Code::Internal, "PANICKED", Outcome::Unknown),
            (Code::Cancelled, "", Outcome::Unknown),
        ] {
            assert_eq!(outcome(code, reason), wanted, "{code:?} {reason}");
        }
    }
}
