//! Results on their way to the log. Each tenant has a lane: one whose log cannot be written waits in it, and holds up nobody else.
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use chassis::Peer;
use futures_util::future::join_all;
use proto::tenant::v1::{self as pb, audit_service_client::AuditServiceClient};
use tokio::sync::{
    Semaphore,
    mpsc::{self, Receiver, Sender},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use types::{RequestId, TenantId};

use super::recorder::{TRY, is_final};
use crate::{error::reason_of, upstream::asked};

/// Results that wait.
const MOST: usize = 20_000;
/// Of them, those of one tenant.
const OF_TENANT: usize = 2_000;
/// Results on their way at a time.
const AT_ONCE: usize = 32;
/// Of them, those of one tenant.
const OF_TENANT_AT_ONCE: usize = 8;
/// Besides, tries for tenants whose last one failed: each of them has one at a time.
const AGAIN_AT_ONCE: usize = 8;
/// Between two tries for a tenant.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Nobody waits for the result of a read: those that come in so long after one go together.
const TOGETHER: Duration = Duration::from_millis(20);

/// A result on its way.
pub(super) struct Written {
    pub(super) tenant: TenantId,
    pub(super) request: RequestId,
    pub(super) result: pb::RecordResultRequest,
    pub(super) latest: Instant,
    /// Whether the call changed nothing.
    pub(super) read: bool,
}

/// How many wait: all, and of each tenant.
#[derive(Default)]
struct Room {
    all: Arc<AtomicUsize>,
    of_tenant: Mutex<HashMap<TenantId, usize>>,
}

impl Room {
    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, usize>> {
        self.of_tenant.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, tenant: TenantId) -> bool {
        let mut of_tenant = self.lock();
        let count = of_tenant.entry(tenant).or_default();
        if *count >= OF_TENANT {
            return false;
        }
        *count += 1;
        self.all.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn leave(&self, tenant: TenantId) {
        let mut of_tenant = self.lock();
        if let Some(count) = of_tenant.get_mut(&tenant) {
            *count -= 1;
            if *count == 0 {
                of_tenant.remove(&tenant);
            }
        }
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The results of all tenants.
pub(super) struct Results {
    sender: Sender<Written>,
    receiver: Mutex<Option<Receiver<Written>>>,
    room: Room,
    /// A tenant is in it while somebody writes for it.
    lanes: Mutex<HashMap<TenantId, VecDeque<Written>>>,
    places: Semaphore,
    again: Semaphore,
    told: Box<dyn Fn(&'static str) + Send + Sync>,
}

impl Results {
    /// `told` is called with what became of each.
    pub(super) fn new(told: impl Fn(&'static str) + Send + Sync + 'static) -> Self {
        let (sender, receiver) = mpsc::channel(MOST);
        Self {
            sender,
            receiver: Mutex::new(Some(receiver)),
            room: Room::default(),
            lanes: Mutex::default(),
            places: Semaphore::new(AT_ONCE),
            again: Semaphore::new(AGAIN_AT_ONCE),
            told: Box::new(told),
        }
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.room.all)
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<TenantId, VecDeque<Written>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put(&self, written: Written) {
        let tenant = written.tenant;
        if self.room.enter(tenant) {
            let all = self.room.all.load(Ordering::Relaxed);
            if all <= MOST && self.sender.try_send(written).is_ok() {
                return;
            }
            self.room.leave(tenant);
        }
        (self.told)("given_up");
        tracing::error!("the queue of results is full: an entry of the audit log will end as unknown");
    }

    fn settled(&self, tenant: TenantId, how: &'static str) {
        self.room.leave(tenant);
        (self.told)(how);
    }

    /// Writes them, until `closed` and there are none.
    pub(super) async fn run(self: Arc<Self>, client: AuditServiceClient<Peer>, closed: CancellationToken) {
        let taken = self
            .receiver
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(mut receiver) = taken else { return };
        let writing = TaskTracker::new();
        loop {
            let next = tokio::select! {
                biased;
                next = receiver.recv() => next,
                () = closed.cancelled(), if !receiver.is_closed() => {
                    receiver.close();
                    continue;
                }
            };
            let Some(written) = next else { break };
            let tenant = written.tenant;
            if self.queue(written) {
                writing.spawn(Arc::clone(&self).write_for(tenant, client.clone()));
            }
        }
        writing.close();
        writing.wait().await;
    }

    /// True if nobody writes for the tenant yet.
    fn queue(&self, written: Written) -> bool {
        let mut lanes = self.lanes();
        let fresh = !lanes.contains_key(&written.tenant);
        lanes.entry(written.tenant).or_default().push_back(written);
        fresh
    }

    /// The next of a tenant; none ends its lane. For those that are too late tenant has written an end by itself.
    fn next(&self, tenant: TenantId, most: usize) -> Option<Vec<Written>> {
        let now = Instant::now();
        let mut lanes = self.lanes();
        let lane = lanes.get_mut(&tenant)?;
        let before = lane.len();
        lane.retain(|written| now < written.latest);
        let late = before - lane.len();
        let next: Vec<_> = lane.drain(..lane.len().min(most)).collect();
        if next.is_empty() {
            lanes.remove(&tenant);
        }
        drop(lanes);
        if late > 0 {
            tracing::warn!(%tenant, late, "results could not be written in time");
        }
        for _ in 0..late {
            self.settled(tenant, "given_up");
        }
        (!next.is_empty()).then_some(next)
    }

    async fn write_for(self: Arc<Self>, tenant: TenantId, client: AuditServiceClient<Peer>) {
        let (mut failed, mut pause) = (false, FIRST_PAUSE);
        loop {
            let most = if failed { 1 } else { OF_TENANT_AT_ONCE };
            let Some(next) = self.next(tenant, most) else {
                return;
            };
            let rest = rest_after(&next, most);
            let tries = next
                .into_iter()
                .map(|written| self.write(client.clone(), written, failed));
            let back: Vec<_> = join_all(tries).await.into_iter().flatten().collect();
            failed = !back.is_empty();
            if !failed {
                pause = FIRST_PAUSE;
                if let Some(rest) = rest {
                    tokio::time::sleep(rest).await;
                }
                continue;
            }
            // Nobody ends the lane but this task.
            if let Some(lane) = self.lanes().get_mut(&tenant) {
                lane.extend(back);
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    /// One try; gives it back if another one may help.
    async fn write(
        &self,
        mut client: AuditServiceClient<Peer>,
        written: Written,
        again: bool,
    ) -> Option<Written> {
        let places = if again { &self.again } else { &self.places };
        // They are never closed.
        let place = places.acquire().await;
        let result = written.result.clone();
        let answer = asked(
            written.request,
            Instant::now() + TRY,
            result,
            |result| async move { client.record_result(result).await },
        );
        let answer = answer.await;
        drop(place);
        let Err(status) = answer else {
            self.settled(written.tenant, "written");
            return None;
        };
        if !is_final(&status) {
            return Some(written);
        }
        let (code, reason) = (status.code(), reason_of(&status));
        let entry = written.result.entry_id;
        tracing::warn!(entry, ?code, reason, "a result cannot be written");
        self.settled(written.tenant, "given_up");
        None
    }
}

/// How long others are waited for after these have been written: not where more wait already, nor where somebody looks for what was changed.
fn rest_after(written: &[Written], most: usize) -> Option<Duration> {
    let reads = written.iter().all(|written| written.read);
    (reads && written.len() < most).then_some(TOGETHER)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::{Duration, Instant},
    };

    use proto::tenant::v1 as pb;
    use types::{RequestId, TenantId};

    use super::{OF_TENANT, Results, TOGETHER, Written, rest_after};

    fn written(tenant: TenantId, latest: Instant) -> Written {
        Written {
            tenant,
            request: RequestId::fresh(),
            result: pb::RecordResultRequest::default(),
            latest,
            read: true,
        }
    }

    fn results() -> (Results, Arc<AtomicUsize>) {
        let given_up = Arc::<AtomicUsize>::default();
        let told = Arc::clone(&given_up);
        let results = Results::new(move |how| {
            told.fetch_add(usize::from(how == "given_up"), Ordering::Relaxed);
        });
        (results, given_up)
    }

    #[test]
    fn one_tenant_takes_no_more_than_its_part_of_the_room() {
        let (results, given_up) = results();
        let (tenant, later) = (TenantId::fresh(), Instant::now() + Duration::from_secs(60));
        for _ in 0..OF_TENANT + 7 {
            results.put(written(tenant, later));
        }
        assert_eq!(given_up.load(Ordering::Relaxed), 7);
        results.put(written(TenantId::fresh(), later));
        assert_eq!(given_up.load(Ordering::Relaxed), 7);
        assert_eq!(results.waiting().load(Ordering::Relaxed), OF_TENANT + 1);
        results.settled(tenant, "written");
        results.put(written(tenant, later));
        assert_eq!(given_up.load(Ordering::Relaxed), 7);
    }

    #[test]
    fn results_of_reads_wait_for_each_other_and_those_of_changes_for_nothing() {
        let (tenant, later) = (TenantId::fresh(), Instant::now() + Duration::from_secs(60));
        let mut some: Vec<_> = (0..3).map(|_| written(tenant, later)).collect();
        assert_eq!(rest_after(&some, 8), Some(TOGETHER));
        assert_eq!(rest_after(&some, 3), None);
        some[1].read = false;
        assert_eq!(rest_after(&some, 8), None);
    }

    #[test]
    fn what_is_too_late_is_given_up_and_leaves_its_place() {
        let (results, given_up) = results();
        let (tenant, now) = (TenantId::fresh(), Instant::now());
        assert!(results.room.enter(tenant) && results.room.enter(tenant));
        assert!(results.queue(written(tenant, now)));
        assert!(!results.queue(written(tenant, now + Duration::from_secs(60))));
        assert_eq!(results.next(tenant, 8).expect("one").len(), 1);
        assert_eq!(given_up.load(Ordering::Relaxed), 1);
        assert_eq!(results.waiting().load(Ordering::Relaxed), 1);
        assert!(results.next(tenant, 8).is_none());
        assert!(results.queue(written(tenant, now)));
    }
}
