//! Subscriptions and the events that hint at them, in the directory.

use pg::Transaction;
use sqlx::types::{Json, chrono::DateTime};
use types::{Micros, Plan, TenantId};

use super::{Time, micros, stored, stored_option};
use crate::{
    billing::{
        event::Event,
        subscription::{State, Subscription, gives},
    },
    domain::plan::effective,
    error::Error,
};

/// Failed looks until nobody tries any more: the last ones are hours apart, so this is some days.
const ATTEMPTS: i32 = 30;

fn instant(time: Micros) -> Result<Time, Error> {
    DateTime::from_timestamp_micros(time.0).ok_or(Error::Stored("time"))
}

/// Keeps an event, and that its subscription is to be looked at. Once for each event: tells whether it is new.
///
/// An event that comes again wakes what nobody looked at any more: that is how Stripe's own button "resend" becomes a way to try again.
pub(crate) async fn receive(tx: &mut Transaction, event: &Event) -> Result<bool, Error> {
    let new = sqlx::query(
        "INSERT INTO tenant.stripe_event (id, kind, event_time, subscription_id) VALUES ($1, $2, to_timestamp($3), $4)
         ON CONFLICT (id) DO NOTHING",
    )
    .bind(&event.id)
    .bind(&event.kind)
    .bind(event.created)
    .bind(&event.subscription)
    .execute(&mut **tx)
    .await?
    .rows_affected()
        == 1;
    let Some(subscription) = &event.subscription else {
        return Ok(new);
    };
    let hint = if new {
        "INSERT INTO tenant.subscription AS s (id) VALUES ($1)
         ON CONFLICT (id) DO UPDATE SET hinted = s.hinted + 1, attempts = 0, due_time = now(), dead_time = NULL, problem = NULL"
    } else {
        "UPDATE tenant.subscription SET hinted = hinted + 1, attempts = 0, due_time = now(), dead_time = NULL, problem = NULL
         WHERE id = $1 AND dead_time IS NOT NULL"
    };
    sqlx::query(hint).bind(subscription).execute(&mut **tx).await?;
    Ok(new)
}

/// A subscription that is to be looked at.
#[derive(Clone, Debug)]
pub(crate) struct Due {
    /// `sub_…`
    pub(crate) id: String,
    /// How many hints there were: whoever looks from now on sees what all of them hinted at.
    pub(crate) hinted: i64,
}

/// Takes the next subscription that is to be looked at. Nobody else takes it until its next try is due, 20 seconds to three hours from now;
/// if this one is not heard of again, that try is made.
pub(crate) async fn take_due(tx: &mut Transaction) -> Result<Option<Due>, Error> {
    let row: Option<(String, i64)> = sqlx::query_as(
        "WITH next AS (
             SELECT id FROM tenant.subscription WHERE seen < hinted AND dead_time IS NULL AND due_time <= now()
             ORDER BY due_time LIMIT 1 FOR UPDATE SKIP LOCKED
         )
         UPDATE tenant.subscription AS s
         SET attempts = s.attempts + 1, due_time = now() + interval '20 seconds' * 2 ^ least(s.attempts, 9)
         FROM next WHERE s.id = next.id RETURNING s.id, s.hinted",
    )
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|(id, hinted)| Due { id, hinted }))
}

/// What a look at a subscription was worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// It is written down.
    New,
    /// Somebody has looked since.
    Old,
    /// It cannot have become that.
    Illegal,
}

/// The tenant that a subscription was seen to be of.
pub(crate) async fn tenant_of(tx: &mut Transaction, id: &str) -> Result<Option<TenantId>, Error> {
    let tenant: Option<Option<String>> =
        sqlx::query_scalar("SELECT tenant_id FROM tenant.subscription WHERE id = $1")
            .bind(id)
            .fetch_optional(&mut **tx)
            .await?;
    stored_option(tenant.flatten().as_deref(), "tenant id")
}

/// Takes a subscription from `tenant`, which it is not of any more. Tells whether there was something to take: nobody has looked since.
pub(crate) async fn take_from(tx: &mut Transaction, tenant: TenantId, due: &Due) -> Result<bool, Error> {
    let taken = sqlx::query(
        "UPDATE tenant.subscription SET tenant_id = NULL WHERE id = $1 AND tenant_id = $2 AND seen < $3",
    )
    .bind(&due.id)
    .bind(tenant.to_string())
    .bind(due.hinted)
    .execute(&mut **tx)
    .await?;
    Ok(taken.rows_affected() == 1)
}

/// Notes that the subscription's tenant rests: it is looked at again, however long that takes.
pub(crate) async fn waits(tx: &mut Transaction, due: &Due) -> Result<(), Error> {
    sqlx::query(
        "UPDATE tenant.subscription SET problem = 'its tenant is not active', attempts = least(attempts, 9)
         WHERE id = $1 AND seen < $2",
    )
    .bind(&due.id)
    .bind(due.hinted)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Writes down what was seen when there were `hinted` hints. The tenant is held by this transaction.
pub(crate) async fn saw(
    tx: &mut Transaction,
    tenant: TenantId,
    hinted: i64,
    found: &Subscription,
) -> Result<Look, Error> {
    let row: Option<(i64, Option<String>)> =
        sqlx::query_as("SELECT seen, state FROM tenant.subscription WHERE id = $1 FOR UPDATE")
            .bind(&found.id)
            .fetch_optional(&mut **tx)
            .await?;
    let Some((seen, before)) = row else {
        return Ok(Look::Old);
    };
    if seen >= hinted {
        return Ok(Look::Old);
    }
    let before = before.as_deref().map(state).transpose()?;
    if before.is_some_and(|before| !before.may_become(found.state)) {
        return Ok(Look::Illegal);
    }
    sqlx::query(
        "UPDATE tenant.subscription
         SET tenant_id = $2, customer_id = $3, state = $4, plan = coalesce($5, plan, 'free'),
             paid_until = coalesce($6, paid_until, now()), grace_until = $7, seen = $8, attempts = 0, due_time = now(), problem = NULL,
             lapsed = false
         WHERE id = $1",
    )
    .bind(&found.id)
    .bind(tenant.to_string())
    .bind(&found.customer)
    .bind(found.state.word())
    .bind(found.plan.map(Plan::word))
    .bind(found.paid_until.map(instant).transpose()?)
    .bind(found.grace_until().map(instant).transpose()?)
    .bind(hinted)
    .execute(&mut **tx)
    .await?;
    Ok(Look::New)
}

/// Notes that the subscription is none of a tenant of this installation.
pub(crate) async fn not_ours(tx: &mut Transaction, due: &Due) -> Result<(), Error> {
    sqlx::query(
        "UPDATE tenant.subscription SET seen = $2, problem = 'of no tenant here' WHERE id = $1 AND seen < $2",
    )
    .bind(&due.id)
    .bind(due.hinted)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Notes why a look failed. `for_good` is when trying again cannot help; so is having tried long enough.
pub(crate) async fn failed(tx: &mut Transaction, due: &Due, why: &str, for_good: bool) -> Result<(), Error> {
    sqlx::query(
        "UPDATE tenant.subscription SET problem = $3, dead_time = CASE WHEN $4 OR attempts >= $5 THEN now() END
         WHERE id = $1 AND hinted = $2",
    )
    .bind(&due.id)
    .bind(due.hinted)
    .bind(why)
    .bind(for_good)
    .bind(ATTEMPTS)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// How many subscriptions nobody looks at any more, since it did not help.
pub(crate) async fn dead(tx: &mut Transaction) -> Result<i64, Error> {
    Ok(
        sqlx::query_scalar("SELECT count(*) FROM tenant.subscription WHERE dead_time IS NOT NULL")
            .fetch_one(&mut **tx)
            .await?,
    )
}

/// A tenant one of whose subscriptions is past due for longer than its plan goes on, which nobody has noticed yet. None of those `but`, and
/// none that somebody holds: who waits for one keeps all others waiting.
pub(crate) async fn lapsed(tx: &mut Transaction, but: &[TenantId]) -> Result<Option<TenantId>, Error> {
    let but: Vec<String> = but.iter().map(TenantId::to_string).collect();
    let tenant: Option<String> = sqlx::query_scalar(
        "SELECT s.tenant_id FROM tenant.subscription AS s JOIN tenant.tenant AS t ON t.id = s.tenant_id AND t.state = 'active'
         WHERE s.state = 'past_due' AND NOT s.lapsed AND s.grace_until <= now() AND s.tenant_id <> ALL ($1)
         ORDER BY s.grace_until LIMIT 1 FOR NO KEY UPDATE OF t SKIP LOCKED",
    )
    .bind(but)
    .fetch_optional(&mut **tx)
    .await?;
    stored_option(tenant.as_deref(), "tenant id")
}

/// Notes that it was noticed.
pub(crate) async fn noticed(tx: &mut Transaction, tenant: TenantId) -> Result<(), Error> {
    sqlx::query(
        "UPDATE tenant.subscription SET lapsed = true WHERE tenant_id = $1 AND state = 'past_due' AND grace_until <= now()",
    )
    .bind(tenant.to_string())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// A subscription as it was seen last.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) id: String,
    pub(crate) customer: String,
    pub(crate) state: State,
    pub(crate) plan: Plan,
    pub(crate) paid_until: Micros,
    /// What it gives at this moment.
    pub(crate) gives: Plan,
    /// Why it could not be looked at since.
    pub(crate) problem: Option<String>,
}

type KnownRow = (
    String,
    String,
    String,
    String,
    Time,
    Option<Time>,
    Option<String>,
    Time,
);

fn state(word: &str) -> Result<State, Error> {
    State::from_word(word).ok_or(Error::Stored("state of a subscription"))
}

/// The tenant's subscriptions, the one that counts first: what has not ended, what gives more, what is newer.
pub(crate) async fn of_tenant(tx: &mut Transaction, tenant: TenantId) -> Result<Vec<Known>, Error> {
    let rows: Vec<KnownRow> = sqlx::query_as(
        "SELECT id, customer_id, state, plan, paid_until, grace_until, problem, now() FROM tenant.subscription
         WHERE tenant_id = $1 AND state IS NOT NULL ORDER BY create_time DESC, id LIMIT 100",
    )
    .bind(tenant.to_string())
    .fetch_all(&mut **tx)
    .await?;
    let known = |(id, customer, word, plan, paid, grace, problem, now): KnownRow| {
        let (state, plan) = (state(&word)?, stored(&plan, "plan")?);
        Ok(Known {
            id,
            customer,
            state,
            plan,
            paid_until: micros(paid),
            gives: gives(state, plan, grace.map(micros), micros(now)),
            problem,
        })
    };
    let mut known: Vec<Known> = rows.into_iter().map(known).collect::<Result<_, Error>>()?;
    known.sort_by_key(|one| (one.state == State::Ended, std::cmp::Reverse(one.gives)));
    Ok(known)
}

/// Gives the tenant, which this transaction holds, the plan that follows from the operator's word and its subscriptions; the record of a
/// change goes into the audit log in the same transaction. Tells the plan before and now. Ends in the directory.
pub(crate) async fn put_into_force(
    tx: &mut Transaction,
    tenant: TenantId,
    by: &'static str,
) -> Result<(Plan, Plan), Error> {
    let agreed = super::plan::agreed(tx, tenant).await?;
    let subscriptions = of_tenant(tx, tenant).await?;
    let plan = effective(agreed, subscriptions.iter().map(|one| one.gives));
    let before = super::plan::set(tx, tenant, plan).await?;
    if before != plan {
        record(tx, tenant, by, (before, plan)).await?;
    }
    Ok((before, plan))
}

async fn record(
    tx: &mut Transaction,
    tenant: TenantId,
    by: &'static str,
    (before, now): (Plan, Plan),
) -> Result<(), Error> {
    let time: Time = sqlx::query_scalar("SELECT clock_timestamp()")
        .fetch_one(&mut **tx)
        .await?;
    let time = micros(time).0;
    let id = types::AuditId::fresh().to_string();
    let event = audit::Event {
        id: id.clone(),
        time,
        end_time: time,
        actor: audit::Actor {
            service: by.to_owned(),
            ..audit::Actor::default()
        },
        kind: audit::Kind::Change,
        method: "/trailmesh.operator/SetPlan".to_owned(),
        path: String::new(),
        targets: [("plan", now.word()), ("plan_before", before.word())]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        client_address: None,
        user_agent: String::new(),
        request_id: String::new(),
        outcome: audit::Outcome::Succeeded,
        code: "OK".to_owned(),
        reason: String::new(),
        count: 1,
    };
    sqlx::query("INSERT INTO tenant.audit_inbox (id, tenant_id, event) VALUES ($1, $2, $3)")
        .bind(id)
        .bind(tenant.to_string())
        .bind(Json(&event))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Forgets events that are older than Stripe could send them again, and then some; and subscriptions of nobody here.
pub(crate) async fn sweep(tx: &mut Transaction) -> Result<u64, Error> {
    sqlx::query(
        "DELETE FROM tenant.subscription
         WHERE tenant_id IS NULL AND (seen = hinted OR dead_time IS NOT NULL) AND create_time <= now() - interval '30 days'",
    )
    .execute(&mut **tx)
    .await?;
    let done =
        sqlx::query("DELETE FROM tenant.stripe_event WHERE receive_time <= now() - interval '400 days'")
            .execute(&mut **tx)
            .await?;
    Ok(done.rows_affected())
}
