//! Service query: what changed, when, by which transaction.

mod config;
mod hub;
mod redact;
mod resolve;
mod service;
mod source;
mod statistics;
mod uploads;

use std::sync::Arc;

use pg::migrate::{Migration, Set};
use proto::query::v1::hub_service_server::HubServiceServer;
use tonic::service::Routes;

use hub::{Hub, HubHandlers};
use resolve::Resolver;
use uploads::{Sources, Uploads};

pub use config::Config;

/// The tables of this service, for `trailmesh migrate`. It goes after service tenant's and vault's sets.
pub const MIGRATIONS: Set = Set {
    service: "query",
    shared: &[
        Migration {
            version: 1,
            name: "uploads",
            sql: include_str!("../migrations/shared/0001_uploads.sql"),
        },
        Migration {
            version: 2,
            name: "page key",
            sql: include_str!("../migrations/shared/0002_page_key.sql"),
        },
    ],
    tenant: &[
        Migration {
            version: 1,
            name: "statistics",
            sql: include_str!("../migrations/tenant/0001_statistics.sql"),
        },
        Migration {
            version: 2,
            name: "uploads",
            sql: include_str!("../migrations/tenant/0002_uploads.sql"),
        },
    ],
};

/// The shared tables with rows of tenants, for a copy of one tenant.
pub const SHARED: pg::archive::Shared = pg::archive::Shared {
    schema: "query",
    root: None,
    without: &[],
};

/// Serves until the runtime is stopped and drained, the agents' connections among what is.
///
/// # Errors
/// When the database or a setting cannot be used.
pub async fn start(config: Config, runtime: chassis::Runtime) -> Result<(), chassis::Error> {
    let pool = pg::Pool::open_in(
        &config.database,
        "query",
        runtime.dev(),
        runtime.region(),
        runtime.cell(),
    )
    .await
    .map_err(chassis::Error::service)?;
    let trust = chassis::agents::follow(runtime.peer("vault")?, runtime.agent_trust()?);
    runtime.spawn("agent authorities", trust);
    let hub = Hub::open(&config, &runtime).await?;
    let resolver = Resolver::open(&runtime)?;
    let (agents, drained) = hub.door();
    let uploads = Uploads::open(&config, pool.clone(), &runtime, resolver.clone())?;
    runtime.spawn("uploads", uploads.clone().run());
    let statistics = statistics::Store::new(pool.clone());
    let collecting = statistics::collect(
        Arc::new(hub.clone()),
        resolver.clone(),
        statistics.clone(),
        config.statistics_pause,
        runtime.stopping(),
    );
    runtime.spawn("statistics", collecting);
    let sources = Arc::new(Sources {
        hub: Arc::new(hub.clone()),
        uploads: uploads.clone(),
    });
    let core = service::Core::new(sources.clone(), resolver.clone(), statistics, pool);
    let asked = HubHandlers::new(hub, sources, resolver, runtime.keys());
    let routes = Routes::new(HubServiceServer::new(asked).max_encoding_message_size(hub::LONGEST))
        .add_service(service::QueryServer(core))
        .add_service(uploads.server());
    runtime.serve_with(routes, agents, drained).await
}
