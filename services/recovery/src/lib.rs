//! Service recovery: chosen changes become a plan, a plan becomes a script, and nothing is ever executed.
//!
//! The agent that has the history plans (crate `undo`); this service asks it through service query, in the caller's name. What it keeps of a plan
//! is what was chosen, numbers, coverage and the script's digest; no row, no value of a conflict and no script stays here.
//!
//! What holds:
//! * Access rules are applied before an agent is asked (`domain::choice`) and to what it answers (`domain::redact`), with the rules of that
//!   moment: a plan may be made by one and read by another, or after the rules have changed.
//! * A script is made again each time, up to the same place in the log. It leaves only if its digest is that of the plan, and its last piece leaves
//!   only after all of it was compared.
//! * A plan of another tenant, of a server in a pool in which the caller has no role, and one that there never was: one and the same answer.
//! * There is no method that runs a script, and no client of a database in this crate but that of its own tables.

mod clients;
mod config;
mod domain;
mod error;
mod service;
mod store;
mod sweep;

use pg::migrate::{Migration, Set};
use proto::recovery::v1::recovery_service_server::RecoveryServiceServer;
use tonic::service::Routes;

pub use config::Config;

/// The tables of this service, for `trailmesh migrate`. It goes after service tenant's set.
pub const MIGRATIONS: Set = Set {
    service: "recovery",
    shared: &[Migration {
        version: 1,
        name: "sweep",
        sql: include_str!("../migrations/shared/0001_sweep.sql"),
    }],
    tenant: &[Migration {
        version: 1,
        name: "plans",
        sql: include_str!("../migrations/tenant/0001_plans.sql"),
    }],
};

/// The shared tables with rows of tenants, for a copy of one tenant.
pub const SHARED: pg::archive::Shared = pg::archive::Shared {
    schema: "recovery",
    root: None,
    without: &[],
};

/// Watchers of one tenant. Each takes a place at its agent, which has 64 for everything.
const WATCHERS_OF_A_TENANT: usize = 32;

/// Serves until the runtime is stopped and drained.
///
/// # Errors
/// When the database cannot be used, or service tenant or query has no address.
pub async fn start(config: Config, runtime: chassis::Runtime) -> Result<(), chassis::Error> {
    let (region, cell) = (runtime.region(), runtime.cell());
    let pool = pg::Pool::open_in(&config.database, "recovery", runtime.dev(), region, cell)
        .await
        .map_err(chassis::Error::service)?;
    let store = store::Store::new(pool, config.recovery_plan_keep);
    let sweep = sweep::run(store.clone(), config.recovery_sweep_pause, runtime.stopping());
    runtime.spawn("sweep", sweep);
    let recovery = service::Recovery {
        store,
        directory: clients::directory::Directory::new(runtime.peer("tenant")?),
        hub: clients::hub::Hub::new(runtime.peer("query")?),
        watchers: chassis::places::Places::new(config.recovery_watchers as usize, WATCHERS_OF_A_TENANT),
        stopping: runtime.stopping(),
        config,
    };
    runtime
        .serve(Routes::new(RecoveryServiceServer::new(recovery)))
        .await
}
