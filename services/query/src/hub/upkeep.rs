//! What keeps the hub true while nothing happens: signs of life, entries that Redis forgot, agents that were revoked.

use std::{
    collections::BTreeSet,
    sync::{Arc, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use chassis::{AgentStanding, deadline};
use futures_util::{StreamExt as _, stream};
use proto::vault::v1::{self as pb, agent_identity_service_client::AgentIdentityServiceClient};
use rand::seq::SliceRandom as _;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout_at};

use super::{Hub, link::Link, model::Key};

/// How often Redis hears that this replica lives.
const SIGN: Duration = Duration::from_secs(5);
/// The same while it does not answer: it may come back at any time.
const RETRY: Duration = Duration::from_secs(1);
/// How often everything is written again, whatever Redis says.
const AGAIN: Duration = Duration::from_secs(60);
/// Entries that are written at a time.
const AT_ONCE: usize = 32;
/// Ends that Redis is told of later; what is beyond them is found void by who asks.
const OWED: usize = 20_000;
/// How often the vault is asked who was revoked.
const CHECK: Duration = Duration::from_secs(2);
/// The same for one agent that connects: it is let in when the vault does not answer.
const CHECK_ONE: Duration = Duration::from_secs(1);
/// Certificates that are asked for at a time.
const BATCH: usize = 1_000;
/// So many of them at once.
const BATCHES: usize = 4;
/// How long the vault may leave a connection unconfirmed while it confirms others, and how many are cut at once that it did.
const UNCONFIRMED: Duration = Duration::from_secs(30);
const CUT_AT_ONCE: usize = 64;

impl Hub {
    /// Says that this replica lives; and when Redis did not know it, all that it holds.
    pub(super) async fn keep_lease(self) {
        loop {
            let pause = if self.sign().await { SIGN } else { RETRY };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.0.leaving.cancelled() => break,
            }
        }
        // While it drains it lives still.
        loop {
            let _ = self.0.directory.live(true).await;
            sleep(SIGN).await;
        }
    }

    async fn sign(&self) -> bool {
        match self.0.directory.live(false).await {
            Ok(lease) => {
                self.0.replicas.store(lease.replicas.max(1), Ordering::Relaxed);
                let behind = self.0.behind.swap(false, Ordering::Relaxed);
                if !lease.known || behind {
                    tracing::info!("the directory does not know all of this replica; it is told everything");
                    self.announce_all().await;
                }
                let owed = std::mem::take(&mut *self.owed());
                for (key, id) in owed {
                    self.withdraw(key, id, Duration::ZERO).await;
                }
                true
            }
            Err(error) => {
                tracing::warn!(error = types::chain(&error), "the directory of agents is away");
                false
            }
        }
    }

    /// Redis has forgotten the lease just now.
    pub(super) async fn renew_lease(&self) {
        if self
            .0
            .directory
            .live(self.0.leaving.is_cancelled())
            .await
            .is_ok_and(|lease| !lease.known)
        {
            Box::pin(self.announce_all()).await;
        }
    }

    /// Writes all that is held every minute: what was lost one by one comes back.
    pub(super) async fn keep_announced(self) {
        loop {
            sleep(AGAIN).await;
            self.announce_all().await;
        }
    }

    fn owed(&self) -> MutexGuard<'_, Vec<(Key, u64)>> {
        self.0.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection that ended out of the directory, now or when Redis is back. The agent is expected elsewhere for so long.
    pub(super) async fn withdraw(&self, key: Key, id: u64, back: Duration) {
        if let Err(error) = self.0.directory.withdraw(key, id, back).await {
            tracing::debug!(
                error = types::chain(&error),
                "the directory was not told of an end"
            );
            let mut owed = self.owed();
            if owed.len() < OWED {
                owed.push((key, id));
            }
        }
    }

    async fn announce_all(&self) {
        let held: Vec<(u64, Arc<Link>)> = {
            let registry = self.registry();
            registry
                .iter()
                .map(|(_, held)| (held.id, held.link.clone()))
                .collect()
        };
        let announced = stream::iter(held).for_each_concurrent(AT_ONCE, async |(id, link)| {
            self.announce(&link, id).await;
        });
        announced.await;
    }

    /// Cuts off whom the vault does not count any more, also from connections that have calls in work only. While it does not answer, connections stay.
    pub(super) async fn keep_checked(self) {
        let mut ticks = interval(CHECK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = Instant::now();
        loop {
            ticks.tick().await;
            let since = before.elapsed();
            before = Instant::now();
            let mut links = self.open_retired();
            links.extend(self.registry().iter().map(|(_, held)| held.link.clone()));
            // Not always the same ones in the last batch.
            links.shuffle(&mut rand::rng());
            let looked = stream::iter(links.chunks(BATCH).map(<[_]>::to_vec).collect::<Vec<_>>())
                .map(|batch| self.look_at(batch))
                .buffer_unordered(BATCHES)
                .collect::<Vec<_>>();
            let looked: Vec<_> = looked.await.into_iter().flatten().collect();
            // Of nobody is it known: that is the vault's trouble, and cuts nobody.
            if looked.iter().any(|(_, confirmed)| *confirmed) {
                doubt(&looked, since);
            }
        }
    }

    /// Cuts off whom the vault does not count. Gives the others, and whether the vault said that they count.
    async fn look_at(&self, batch: Vec<Arc<Link>>) -> Vec<(Arc<Link>, bool)> {
        let agents = batch.iter().map(|link| reference(link.key, &link.standing));
        let answer = self.check(agents.collect(), Instant::now() + CHECK).await;
        let (void, unknown) = match &answer {
            Some(answer) => (places(&answer.void), places(&answer.unknown)),
            None => (BTreeSet::new(), (0..batch.len()).collect()),
        };
        let mut others = Vec::with_capacity(batch.len());
        for (place, link) in batch.into_iter().enumerate() {
            if void.contains(&place) {
                tracing::info!(tenant = %link.key.tenant, agent = %link.key.agent, "an agent does not count any more");
                link.cut();
            } else {
                others.push((link, !unknown.contains(&place)));
            }
        }
        others
    }

    /// Whether the vault says of an agent that connects that it does not count.
    pub(super) async fn is_void(&self, key: Key, standing: &AgentStanding) -> bool {
        let agents = vec![reference(key, standing)];
        let answer = self.check(agents, Instant::now() + CHECK_ONE).await;
        answer.is_some_and(|answer| !answer.void.is_empty())
    }

    /// Which of these count; none when the vault does not say.
    async fn check(&self, agents: Vec<pb::AgentRef>, until: Instant) -> Option<pb::CheckAgentsResponse> {
        let mut vault = AgentIdentityServiceClient::new(self.0.vault.clone());
        let asked = deadline::within(until, vault.check_agents(pb::CheckAgentsRequest { agents }));
        match timeout_at(until.into(), asked).await {
            Ok(Ok(answer)) => Some(answer.into_inner()),
            Ok(Err(error)) => {
                tracing::debug!(code = ?error.code(), "the vault does not say which agents count");
                None
            }
            Err(_) => None,
        }
    }
}

/// Others were confirmed: whoever was not for long is cut off, a few at a time; it may come again, and is looked at alone then.
fn doubt(looked: &[(Arc<Link>, bool)], since: Duration) {
    let doubtful = looked
        .iter()
        .filter(|(link, confirmed)| link.doubt.asked(*confirmed, since) >= UNCONFIRMED);
    // All are asked, whether they are cut or not.
    let doubtful: Vec<_> = doubtful.collect();
    for (link, _) in doubtful.into_iter().take(CUT_AT_ONCE) {
        tracing::warn!(tenant = %link.key.tenant, agent = %link.key.agent, "the vault does not say whether an agent counts");
        link.cut();
    }
}

fn places(places: &[u32]) -> BTreeSet<usize> {
    let places = places.iter().filter_map(|place| usize::try_from(*place).ok());
    places.collect()
}

fn reference(key: Key, standing: &AgentStanding) -> pb::AgentRef {
    pb::AgentRef {
        tenant_id: key.tenant.to_string(),
        agent_id: key.agent.to_string(),
        serial: standing.serial().to_owned(),
    }
}
