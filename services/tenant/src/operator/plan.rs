//! Plans by the operator's word.

use std::{
    fmt,
    time::{Duration, Instant},
};

use types::{Errand, Plan, TenantId};

use crate::{
    Config,
    error::Error,
    store::{self, Store, billing::Known},
};

/// What it may take: a large tenant freezes some thousand rows.
const WORKING: Duration = Duration::from_secs(30);

/// Who did it, in the audit log.
const OPERATOR: &str = "operator";

/// One line of what a plan allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Of what.
    pub what: &'static str,
    /// How many there are.
    pub used: i64,
    /// How many the plan has room for.
    pub most: u32,
    /// How many are frozen.
    pub frozen: i64,
}

/// A tenant's plan, as the operator sees it.
#[derive(Clone, Debug)]
pub struct PlanShown {
    /// Whose.
    pub tenant: TenantId,
    /// The plan that counts.
    pub plan: Plan,
    /// What the operator said last.
    pub agreed: Plan,
    /// What is used of it.
    pub rows: [Row; 4],
    /// The tenant's subscriptions, a line each.
    pub subscriptions: Vec<String>,
}

impl fmt::Display for PlanShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (plan, agreed) = (self.plan.word(), self.agreed.word());
        writeln!(f, "{}: {plan} (agreed: {agreed})", self.tenant)?;
        for Row {
            what,
            used,
            most,
            frozen,
        } in self.rows
        {
            write!(f, "  {what:<10} {used:>5} of {most}")?;
            if frozen > 0 {
                write!(f, ", {frozen} frozen")?;
            }
            writeln!(f)?;
        }
        for line in &self.subscriptions {
            writeln!(f, "  {line}")?;
        }
        Ok(())
    }
}

/// Notes what was agreed on with a tenant, and puts into force what follows: a subscription that gives more goes on giving it. The change
/// goes into the tenant's audit log.
///
/// # Errors
/// When there is no such tenant, or the database cannot be used.
pub async fn set_plan(
    config: &Config,
    dev: bool,
    tenant: TenantId,
    plan: Plan,
) -> Result<PlanShown, chassis::Error> {
    run(config, dev, tenant, Some(plan)).await
}

/// A tenant's plan and what is used of it.
///
/// # Errors
/// As [`set_plan`].
pub async fn show_plan(config: &Config, dev: bool, tenant: TenantId) -> Result<PlanShown, chassis::Error> {
    run(config, dev, tenant, None).await
}

async fn run(
    config: &Config,
    dev: bool,
    tenant: TenantId,
    plan: Option<Plan>,
) -> Result<PlanShown, chassis::Error> {
    let pool = pg::Pool::open(&config.database, "tenant", dev)
        .await
        .map_err(chassis::Error::service)?;
    let outcome = work(&Store::new(pool.clone()), tenant, plan).await;
    pool.close().await;
    outcome.map_err(chassis::Error::service)
}

async fn work(store: &Store, tenant: TenantId, plan: Option<Plan>) -> Result<PlanShown, Error> {
    let deadline = Instant::now() + WORKING;
    let mut tx = store.directory(deadline).await?;
    store::tenant::get(&mut tx, tenant).await?;
    drop(tx);
    let mut tx = store.errand(&Errand { tenant, deadline }).await?;
    tx.enter_shared().await?;
    let mut now = store::tenant::lock(&mut tx, tenant).await?;
    if let Some(plan) = plan {
        store::plan::agree(&mut tx, tenant, plan).await?;
        let (before, after) = store::billing::put_into_force(&mut tx, tenant, OPERATOR).await?;
        tracing::warn!(%tenant, before = before.word(), now = after.word(), "the operator set a plan");
        now = after;
    }
    let used = store::plan::used(&mut tx, tenant, now).await?;
    let limits = now.limits();
    let row = |what, count: crate::domain::plan::Count, most| Row {
        what,
        used: count.used,
        most,
        frozen: count.frozen,
    };
    let shown = PlanShown {
        tenant,
        plan: now,
        agreed: store::plan::agreed(&mut tx, tenant).await?,
        rows: [
            row("servers", used.servers, limits.servers),
            row("members", used.members, limits.members),
            row("API keys", used.api_keys, limits.api_keys),
            row("agents", used.agents, limits.agents),
        ],
        subscriptions: store::billing::of_tenant(&mut tx, tenant)
            .await?
            .iter()
            .map(line)
            .collect(),
    };
    tx.commit().await?;
    Ok(shown)
}

fn line(known: &Known) -> String {
    let Known {
        id,
        state,
        plan,
        gives,
        problem,
        ..
    } = known;
    let mut line = format!("{id}: {}, {}, gives {}", plan.word(), state.word(), gives.word());
    if let Some(problem) = problem {
        line.push_str("; could not be looked at: ");
        line.push_str(problem);
    }
    line
}
