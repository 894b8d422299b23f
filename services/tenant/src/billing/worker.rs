//! Looks at subscriptions that events hinted at, and at the end of grace.
//!
//! Several replicas may run this at once. Which look counts is decided when it is written (`store::billing::saw`), under the lock of the
//! tenant: that of the most hints. So a look that took long, or one whose process was killed, undoes nothing and is made again.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Meter},
};
use tokio::{sync::Notify, time};
use tokio_util::sync::CancellationToken;
use types::{Errand, TenantId, chain};

use super::{
    stripe::{Failure, Stripe},
    subscription::Subscription,
};
use crate::{
    error::Error,
    store::{
        self, Store,
        billing::{Due, Look},
    },
};

/// For the database's part of one look.
const AT_MOST: Duration = Duration::from_secs(10);

/// For Stripe's.
const LOOK_AT_MOST: Duration = Duration::from_secs(10);

/// How often to look for what is due without a hint of this process.
const PAUSE: Duration = Duration::from_secs(5);

/// How long a tenant is left alone whose plan could not be ended.
const REST: Duration = Duration::from_secs(300);

/// Who changes plans here, in the audit log.
const BILLING: &str = "billing";

/// What of it is measured.
#[derive(Clone, Debug)]
pub(crate) struct Measures {
    events: Counter<u64>,
    looks: Counter<u64>,
    dead: Arc<AtomicI64>,
}

impl Measures {
    /// With the service's meter.
    pub(crate) fn new(meter: &Meter) -> Self {
        let dead = Arc::new(AtomicI64::new(0));
        let shown = dead.clone();
        // The instrument lives as long as its meter.
        let _ = meter
            .i64_observable_gauge("tenant.stripe.dead_letters")
            .with_description("Subscriptions that nobody looks at any more, since it did not help")
            .with_callback(move |gauge| gauge.observe(shown.load(Ordering::Relaxed), &[]))
            .build();
        let count = |name, text| meter.u64_counter(name).with_description(text).build();
        Self {
            events: count("tenant.stripe.events", "Events of Stripe, by outcome"),
            looks: count("tenant.stripe.looks", "Looks at subscriptions, by outcome"),
            dead,
        }
    }

    /// An event came.
    pub(crate) fn event(&self, outcome: &'static str) {
        self.events.add(1, &[KeyValue::new("outcome", outcome)]);
    }

    fn look(&self, outcome: &'static str) {
        self.looks.add(1, &[KeyValue::new("outcome", outcome)]);
    }
}

/// What came of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// It was compared with what is written.
    Look(Look),
    /// It is none of a tenant of this installation.
    Strange,
    /// Its tenant is not active now.
    Resting,
}

/// Tenants whose plan could not be ended, and when that is tried again.
type Rests = HashMap<TenantId, Instant>;

/// What the worker works with.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) store: Store,
    /// None: there are no events, and what was seen before goes on and ends in time.
    pub(crate) stripe: Option<Stripe>,
    pub(crate) measures: Measures,
    /// Tells that there is a hint.
    pub(crate) hinted: Arc<Notify>,
}

impl Worker {
    /// Works until `stopping`.
    pub(crate) async fn run(self, stopping: CancellationToken) {
        let mut rests = Rests::new();
        loop {
            loop {
                match self.one(&mut rests).await {
                    Ok(true) if !stopping.is_cancelled() => {}
                    Ok(_) => break,
                    Err(error) => {
                        tracing::warn!(error = chain(&error), "subscriptions cannot be looked at now");
                        break;
                    }
                }
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = self.hinted.notified() => {}
                () = time::sleep(PAUSE) => {}
            }
        }
    }

    /// Does one thing that is due, and tells whether there was one.
    async fn one(&self, rests: &mut Rests) -> Result<bool, Error> {
        if self.lapse(rests).await? {
            return Ok(true);
        }
        let Some(stripe) = &self.stripe else {
            return Ok(false);
        };
        let mut tx = self.store.directory(Instant::now() + AT_MOST).await?;
        self.measures
            .dead
            .store(store::billing::dead(&mut tx).await?, Ordering::Relaxed);
        let Some(due) = store::billing::take_due(&mut tx).await? else {
            return Ok(false);
        };
        tx.commit().await?;
        let found = stripe.subscription(&due.id, Instant::now() + LOOK_AT_MOST).await;
        let (outcome, problem) = match found {
            Ok(found) => match self.saw(&due, &found).await? {
                Seen::Strange | Seen::Look(Look::Old) => ("nothing", None),
                Seen::Resting => ("resting", None),
                Seen::Look(Look::New) => ("written", None),
                Seen::Look(Look::Illegal) => {
                    let words = format!("it has ended, and now it is {}", found.state.word());
                    ("illegal", Some(Failure::Never(words)))
                }
            },
            Err(failure @ Failure::Never(_)) => ("refused", Some(failure)),
            Err(failure) => ("unreachable", Some(failure)),
        };
        self.measures.look(outcome);
        if let Some(failure) = problem {
            tracing::error!(
                subscription = due.id,
                why = failure.words(),
                "a subscription could not be looked at"
            );
            let mut tx = self.store.directory(Instant::now() + AT_MOST).await?;
            let for_good = matches!(failure, Failure::Never(_));
            store::billing::failed(&mut tx, &due, failure.words(), for_good).await?;
            tx.commit().await?;
        }
        Ok(true)
    }

    /// Writes down what was seen, and puts into force what follows.
    ///
    /// A subscription that does not say whose it is any more is of the tenant that it was of: what is known of it goes on to be true.
    async fn saw(&self, due: &Due, found: &Subscription) -> Result<Seen, Error> {
        let mut tx = self.store.directory(Instant::now() + AT_MOST).await?;
        let before = store::billing::tenant_of(&mut tx, &due.id).await?;
        drop(tx);
        if let Some(before) = before.filter(|before| found.tenant.is_some_and(|now| now != *before))
            && !self.take_from(before, due).await?
        {
            return self.rests(due).await;
        }
        if let Some(tenant) = found.tenant.or(before) {
            match self.saw_of(tenant, due, found).await {
                Err(Error::Missing(_)) => {}
                look => return look.map(Seen::Look),
            }
            let mut tx = self.store.directory(Instant::now() + AT_MOST).await?;
            if store::tenant::rests(&mut tx, tenant).await? {
                drop(tx);
                return self.rests(due).await;
            }
        }
        let mut tx = self.store.directory(Instant::now() + AT_MOST).await?;
        store::billing::not_ours(&mut tx, due).await?;
        tx.commit().await?;
        Ok(Seen::Strange)
    }

    async fn rests(&self, due: &Due) -> Result<Seen, Error> {
        let mut tx = self.store.directory(Instant::now() + AT_MOST).await?;
        store::billing::waits(&mut tx, due).await?;
        tx.commit().await?;
        Ok(Seen::Resting)
    }

    /// Ends what the subscription gave to a tenant that it is not of any more. False when that has to wait, since the tenant rests.
    async fn take_from(&self, tenant: TenantId, due: &Due) -> Result<bool, Error> {
        let deadline = Instant::now() + AT_MOST;
        let mut tx = self.store.directory(deadline).await?;
        if store::tenant::rests(&mut tx, tenant).await? {
            return Ok(false);
        }
        match store::tenant::get(&mut tx, tenant).await {
            Err(Error::Missing(_)) => return Ok(true),
            found => found?,
        };
        drop(tx);
        let mut tx = self.store.errand(&Errand { tenant, deadline }).await?;
        tx.enter_shared().await?;
        store::tenant::lock(&mut tx, tenant).await?;
        if store::billing::take_from(&mut tx, tenant, due).await? {
            store::billing::put_into_force(&mut tx, tenant, BILLING).await?;
            tx.commit().await?;
        }
        Ok(true)
    }

    async fn saw_of(&self, tenant: TenantId, due: &Due, found: &Subscription) -> Result<Look, Error> {
        let deadline = Instant::now() + AT_MOST;
        // Whether there is such a tenant is asked first: there is no entering what has no schema.
        let mut tx = self.store.directory(deadline).await?;
        store::tenant::get(&mut tx, tenant).await?;
        drop(tx);
        let mut tx = self.store.errand(&Errand { tenant, deadline }).await?;
        tx.enter_shared().await?;
        store::tenant::lock(&mut tx, tenant).await?;
        let look = store::billing::saw(&mut tx, tenant, due.hinted, found).await?;
        if look != Look::New {
            return Ok(look);
        }
        let (before, now) = store::billing::put_into_force(&mut tx, tenant, BILLING).await?;
        tx.commit().await?;
        if before != now {
            tracing::info!(%tenant, before = before.word(), now = now.word(), "a subscription changed the plan");
        }
        Ok(look)
    }

    /// Ends what a subscription gave whose payment has failed for too long. Tells whether there was one. A tenant whose plan cannot be ended
    /// is left alone for a while, and keeps nobody else waiting.
    async fn lapse(&self, rests: &mut Rests) -> Result<bool, Error> {
        rests.retain(|_, until| Instant::now() < *until);
        let resting: Vec<TenantId> = rests.keys().copied().collect();
        let mut tx = self.store.directory(Instant::now() + AT_MOST).await?;
        let Some(tenant) = store::billing::lapsed(&mut tx, &resting).await? else {
            return Ok(false);
        };
        drop(tx);
        if let Err(error) = self.lapse_of(tenant).await {
            tracing::warn!(%tenant, error = chain(&error), "a payment has failed for too long, and the plan cannot be ended now");
            rests.insert(tenant, Instant::now() + REST);
        }
        Ok(true)
    }

    async fn lapse_of(&self, tenant: TenantId) -> Result<(), Error> {
        let deadline = Instant::now() + AT_MOST;
        let mut tx = self.store.errand(&Errand { tenant, deadline }).await?;
        tx.enter_shared().await?;
        store::tenant::lock(&mut tx, tenant).await?;
        store::billing::noticed(&mut tx, tenant).await?;
        store::billing::put_into_force(&mut tx, tenant, BILLING).await?;
        tx.commit().await?;
        tracing::info!(%tenant, "a payment has failed for too long: the plan has ended");
        Ok(())
    }
}
