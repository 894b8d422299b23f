//! What goes on without a request: events on their way into the logs, intents that nobody answered, signatures, and what is too old.
//!
//! Several replicas run these at once. The inbox and the closing are done by whoever has the lock; an end to be signed is taken by one; a log
//! is trimmed by one at a time, and the database says no to the second. None of it looks at tenants for whom there is nothing to do.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use audit::{Event, Outcome, Record};
use futures_util::{StreamExt as _, future::join_all, stream};
use tokio::time;
use tokio_util::sync::CancellationToken;
use types::{AuditId, Errand, Fault as _, TenantId, chain};

use super::{Error, Log, micros, now, read, vault, work};

/// For one round of a task.
const AT_MOST: Duration = Duration::from_secs(20);

/// For one record.
const WRITING: Duration = Duration::from_secs(5);

/// Rows of one round.
const ROUND: i64 = 200;

/// Tenants that one task works for at a time.
const SIDE_BY_SIDE: usize = 8;

async fn repeat<F>(
    what: &'static str,
    pause: Duration,
    stopping: CancellationToken,
    mut once: impl FnMut() -> F,
) where
    F: Future<Output = Result<bool, Error>>,
{
    loop {
        loop {
            match once().await {
                Ok(true) if !stopping.is_cancelled() => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(error = chain(&error), what, "the audit log's task is put off");
                    break;
                }
            }
        }
        tokio::select! {
            () = stopping.cancelled() => return,
            () = time::sleep(pause) => {}
        }
    }
}

/// Brings events to the logs they belong to.
pub(super) async fn inbox(log: Log, pause: Duration, stopping: CancellationToken) {
    repeat("inbox", pause, stopping, || drain(&log)).await;
}

/// What becomes of an event in the inbox.
enum Fate {
    Arrived,
    Nowhere,
    Later,
    Never(String),
}

/// One round; whether there may be more.
async fn drain(log: &Log) -> Result<bool, Error> {
    let mut tx = log.store.directory(Instant::now() + AT_MOST).await?;
    if !work::try_lock(&mut tx, "audit inbox").await? {
        return Ok(false);
    }
    let waiting = work::due_events(&mut tx, ROUND).await?;
    if waiting.is_empty() {
        return Ok(false);
    }
    // In their order: each tenant's queue takes them as they are asked for.
    let fates = join_all(waiting.iter().map(|waiting| deliver(log, waiting))).await;
    let (mut done, mut later) = (Vec::new(), Vec::new());
    for (waiting, fate) in waiting.iter().zip(fates) {
        match fate {
            Fate::Arrived => done.push(waiting.id.clone()),
            Fate::Nowhere => {
                // Most persons are in no tenant when they sign up; only an event that names its tenant is lost.
                if waiting.tenant.is_some() {
                    log.measure.dropped.add(1, &[]);
                }
                done.push(waiting.id.clone());
            }
            Fate::Later => later.push(waiting.id.clone()),
            Fate::Never(problem) => {
                tracing::error!(event = waiting.id, problem, "an audit event is set aside");
                log.measure.set_aside.add(1, &[]);
                work::set_event_aside(&mut tx, &waiting.id, &problem).await?;
            }
        }
    }
    work::forget_events(&mut tx, &done).await?;
    work::put_off_events(&mut tx, &later).await?;
    tx.commit().await.map_err(Error::from)?;
    Ok(waiting.len() as i64 == ROUND)
}

async fn deliver(log: &Log, waiting: &work::Waiting) -> Fate {
    let event: Event = match serde_json::from_str(&waiting.event) {
        Ok(event) => event,
        Err(error) => return Fate::Never(error.to_string()),
    };
    if event.id != waiting.id {
        return Fate::Never("it names itself otherwise than its row".to_owned());
    }
    if let Err(error) = event.id.parse::<AuditId>() {
        return Fate::Never(error.to_string());
    }
    let tenants: Vec<TenantId> = waiting
        .tenants
        .iter()
        .filter_map(|tenant| tenant.parse().ok())
        .collect();
    if tenants.is_empty() {
        return Fate::Nowhere;
    }
    let record = Record::Event {
        id: event.id.clone(),
        time: now(),
        event,
    };
    let deadline = Instant::now() + WRITING;
    let appended = tenants
        .into_iter()
        .map(|tenant| log.appender.append(tenant, record.clone(), deadline));
    let mut fate = Fate::Arrived;
    for outcome in join_all(appended).await {
        match outcome {
            // The one that went meanwhile wants no log any more.
            Ok(_) | Err(Error::Gone) => {}
            Err(error) if error.is_about_the_text() => return Fate::Never(chain(&error)),
            Err(_) => fate = Fate::Later,
        }
    }
    fate
}

/// Closes intents that nobody answered.
pub(super) async fn close(log: Log, pause: Duration, stopping: CancellationToken) {
    repeat("close", pause, stopping, || close_lost(&log)).await;
}

async fn close_lost(log: &Log) -> Result<bool, Error> {
    let mut tx = log.store.directory(Instant::now() + AT_MOST).await?;
    if !work::try_lock(&mut tx, "audit close").await? {
        return Ok(false);
    }
    let lost = work::lost_intents(&mut tx, ROUND).await?;
    let closed = lost.iter().map(|(tenant, id)| close_one(log, tenant, id));
    let mut put_off = BTreeSet::new();
    for ((tenant, id), outcome) in lost.iter().zip(join_all(closed).await) {
        match outcome {
            Ok(super::append::Written::Fresh(_)) => log.measure.unknown.add(1, &[]),
            Ok(super::append::Written::Already) => work::forget_intent(&mut tx, tenant, id).await?,
            Err(Error::Gone | Error::NoIntent) => {
                log.measure.dropped.add(1, &[]);
                work::forget_intent(&mut tx, tenant, id).await?;
            }
            Err(error) => {
                put_off.insert(tenant.clone());
                tracing::warn!(
                    error = chain(&error),
                    reason = error.reason(),
                    tenant,
                    "an intent is closed later"
                );
            }
        }
    }
    // Whose log is not written waits behind the others.
    work::put_off_intents(&mut tx, &put_off.into_iter().collect::<Vec<_>>()).await?;
    tx.commit().await.map_err(Error::from)?;
    Ok(lost.len() as i64 == ROUND)
}

async fn close_one(log: &Log, tenant: &str, id: &str) -> Result<super::append::Written, Error> {
    let tenant = tenant.parse().map_err(|_| Error::Gone)?;
    let record = Record::Result {
        id: id.to_owned(),
        time: now(),
        outcome: Outcome::Unknown,
        code: "UNKNOWN".to_owned(),
        reason: "RESULT_LOST".to_owned(),
        targets: BTreeMap::new(),
    };
    log.appender
        .append(tenant, record, Instant::now() + WRITING)
        .await
}

/// Has the ends of chains signed that have grown.
pub(super) async fn heads(log: Log, pause: Duration, stopping: CancellationToken) {
    // Two replicas take turns.
    let rest = micros(pause) / 5 * 4;
    repeat("heads", pause, stopping, || sign_grown(&log, rest)).await;
}

async fn sign_grown(log: &Log, rest: i64) -> Result<bool, Error> {
    let mut tx = log.store.directory(Instant::now() + AT_MOST).await?;
    let (unsigned, since) = work::unsigned(&mut tx).await?;
    log.measure.unsigned.record(unsigned, &[]);
    #[allow(clippy::cast_precision_loss, reason = "seconds of a gauge")]
    let behind = since.map_or(0.0, |since| (now() - since.0).max(0) as f64 / 1e6);
    log.measure.behind.record(behind, &[]);
    let ends = work::take_unsigned(&mut tx, rest, ROUND).await?;
    tx.commit().await.map_err(Error::from)?;
    let full = ends.len() as i64 == ROUND;
    let away = AtomicBool::new(false);
    let away = &away;
    stream::iter(ends)
        .for_each_concurrent(SIDE_BY_SIDE, |end| async move {
            if away.load(Ordering::Relaxed) {
                return;
            }
            match sign(log, &end).await {
                Ok(()) => {}
                Err(Signing::Vault(vault::Error::Away(why))) => {
                    if !away.swap(true, Ordering::Relaxed) {
                        tracing::warn!(why, "audit logs are signed later");
                    }
                }
                Err(Signing::Vault(error @ vault::Error::NotAhead(_))) => {
                    tracing::error!(error = chain(&error), tenant = %end.tenant, size = end.size, "an audit log is not what was signed before");
                }
                Err(Signing::Store(error)) => {
                    tracing::warn!(error = chain(&error), "a signature is asked for again");
                }
            }
        })
        .await;
    Ok(full && !away.load(Ordering::Relaxed))
}

/// Why an end has no signature.
enum Signing {
    Vault(vault::Error),
    Store(Error),
}

async fn sign(log: &Log, end: &work::End) -> Result<(), Signing> {
    match log.vault.sign(end.tenant, end.size, &end.hash).await {
        Ok(head) => keep(log, end.tenant, end.size, &head)
            .await
            .map_err(Signing::Store),
        Err(error @ vault::Error::NotAhead(_)) => match overtaken(log, end.tenant).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Signing::Vault(error)),
            Err(error) => Err(error),
        },
        Err(error) => Err(Signing::Vault(error)),
    }
}

/// Whether the vault has signed a later end of this very chain: two of us asked at once, or its answer was lost.
async fn overtaken(log: &Log, tenant: TenantId) -> Result<bool, Signing> {
    let Some(signed) = log.vault.last(tenant).await.map_err(Signing::Vault)? else {
        return Ok(false);
    };
    let Ok(head) = signed.read() else {
        return Ok(false);
    };
    if !is_ours(log, tenant, &head).await.map_err(Signing::Store)? {
        return Ok(false);
    }
    keep(log, tenant, head.size, &signed)
        .await
        .map_err(Signing::Store)?;
    Ok(true)
}

async fn is_ours(log: &Log, tenant: TenantId, head: &audit::Head) -> Result<bool, Error> {
    let deadline = Instant::now() + AT_MOST;
    let mut tx = log.store.errand(&Errand { tenant, deadline }).await?;
    let links = read::links_after(&mut tx, head.size - 1, head.size, 1).await?;
    Ok(links.first().is_some_and(|link| link.hash == head.hash))
}

/// Keeps a copy of what the vault signed.
async fn keep(log: &Log, tenant: TenantId, size: i64, head: &audit::SignedHead) -> Result<(), Error> {
    let mut tx = log.store.directory(Instant::now() + AT_MOST).await?;
    work::signed(&mut tx, tenant, size, head).await?;
    Ok(tx.commit().await?)
}

/// Signs the end of this tenant's chain now, if the vault is there. The last head, whichever it is, and whether it is of now.
pub(super) async fn sign_now(
    log: &Log,
    tenant: TenantId,
) -> Result<(Option<audit::SignedHead>, bool), Error> {
    let mut tx = log.store.directory(Instant::now() + AT_MOST).await?;
    let end = work::chain_end(&mut tx, tenant).await?;
    tx.commit().await.map_err(Error::from)?;
    let fresh = match end {
        None => false,
        Some(end) => match sign(log, &end).await {
            Ok(()) => true,
            Err(Signing::Vault(_)) => false,
            Err(Signing::Store(error)) => return Err(error),
        },
    };
    let mut tx = log.store.directory(Instant::now() + AT_MOST).await?;
    Ok((work::last_signed(&mut tx, tenant).await?, fresh))
}

/// Removes what plans no longer keep, and what is left of tenants that are gone.
pub(super) async fn trim(log: Log, pause: Duration, stopping: CancellationToken) {
    repeat("trim", pause, stopping, || trim_old(&log)).await;
}

async fn trim_old(log: &Log) -> Result<bool, Error> {
    let mut tx = log.store.directory(Instant::now() + AT_MOST).await?;
    log.measure.dropped.add(work::forget_gone(&mut tx).await?, &[]);
    let due = work::untrimmed(&mut tx, ROUND).await?;
    tx.commit().await.map_err(Error::from)?;
    for name in &due {
        let Ok(tenant) = name.parse() else { continue };
        match trim_one(log, tenant).await {
            Ok(0) => {}
            Ok(removed) => {
                log.measure.trimmed.add(removed, &[]);
                tracing::info!(%tenant, removed, "records of the audit log were too old to be kept");
            }
            Err(error) => tracing::warn!(error = chain(&error), %tenant, "an audit log is trimmed later"),
        }
        let mut tx = log.store.directory(Instant::now() + AT_MOST).await?;
        work::looked_at(&mut tx, name).await?;
        tx.commit().await.map_err(Error::from)?;
    }
    Ok(due.len() as i64 == ROUND)
}

async fn trim_one(log: &Log, tenant: TenantId) -> Result<u64, Error> {
    let mut all = 0;
    loop {
        let deadline = Instant::now() + AT_MOST;
        let mut tx = log.store.errand(&Errand { tenant, deadline }).await?;
        let removed: i64 = sqlx::query_scalar("SELECT tenant.audit_trim()")
            .fetch_one(&mut *tx)
            .await?;
        tx.commit().await?;
        if removed == 0 {
            return Ok(all);
        }
        all += u64::try_from(removed).unwrap_or_default();
    }
}
