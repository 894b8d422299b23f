//! Service vault: keys, secrets and the agents' certificate authority.
//!
//! The key tree: the root (this process' configuration, or AWS KMS) wraps key-encryption keys, these wrap each tenant's data keys, and from
//! a data key comes the key of each single place: tenant, kind, record, field and version. So what was sealed for one place opens in no other.
//! A sealed value is an *envelope*: text that the service which owns the record keeps with it. The vault keeps keys, never values; the tables
//! that hold envelopes are listed in `store::sealed`, and the vault changes nothing in them but the envelope and the number of its key.
//!
//! Without its root the vault is *sealed*: it answers UNAVAILABLE `VAULT_SEALED` and everything else of the mesh goes on. It unseals by itself.
//! Auth keeps a seal key of its own, so that people can sign in then.
//!
//! Keys change by themselves (`rotation`): new versions when they are due, everything sealed anew under them, then the old ones are destroyed.
//! There is no method that shows a database's credential to a person or a service.
//!
//! What is wiped and what is not: keys and opened values are in memory that is wiped when dropped, and the process writes no core dump and
//! takes no debugger ([`process`]). Copies that libraries make on the stack or in buffers of the network are not wiped.

mod agents;
mod config;
mod destroy;
mod domain;
mod error;
mod keys;
pub mod operator;
mod process;
mod root;
mod rotation;
mod service;
mod sign;
mod store;

use pg::migrate::{Migration, Set};
use proto::vault::v1 as pb;
use tonic::service::Routes;

pub use agents::{mesh::Pin, operator::AgentIdentities};
pub use config::Config;

/// The tables of this service, for `trailmesh migrate`. It goes after service tenant's set.
pub const MIGRATIONS: Set = Set {
    service: "vault",
    shared: &[
        Migration {
            version: 1,
            name: "keys",
            sql: include_str!("../migrations/shared/0001_keys.sql"),
        },
        Migration {
            version: 2,
            name: "agents",
            sql: include_str!("../migrations/shared/0002_agents.sql"),
        },
        Migration {
            version: 3,
            name: "the end of a tenant",
            sql: include_str!("../migrations/shared/0003_life.sql"),
        },
    ],
    tenant: &[
        Migration {
            version: 1,
            name: "credential",
            sql: include_str!("../migrations/tenant/0001_credential.sql"),
        },
        Migration {
            version: 2,
            name: "keys of uploads",
            sql: include_str!("../migrations/tenant/0002_upload_key.sql"),
        },
    ],
};

/// Which installation this is. Keys that the root wraps are bound to it.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) region: types::Region,
    pub(crate) name: String,
}

/// What every handler and task shares.
#[derive(Clone)]
pub(crate) struct Core {
    pub(crate) pool: pg::Pool,
    pub(crate) keys: keys::Keys,
    pub(crate) rotation: rotation::Rotation,
}

impl Core {
    /// Signs the head of a tenant's audit chain; `before` is the statement of the head before.
    async fn sign_head(
        &self,
        tx: &mut pg::Transaction,
        tenant: types::TenantId,
        size: i64,
        hash: &[u8],
        before: Option<&str>,
    ) -> Result<sign::Signed, error::Error> {
        let time = store::text(store::head::now(tx).await?);
        let head = domain::statement::Head::new(self.keys.cell(), tenant, size, hash, &time, before);
        self.keys.signer()?.sign(&head)
    }
}

/// Serves until the runtime is stopped and drained.
///
/// # Errors
/// When the database or a setting cannot be used.
pub async fn start(config: Config, runtime: chassis::Runtime) -> Result<(), chassis::Error> {
    process::close().map_err(chassis::Error::service)?;
    let pool = pg::Pool::open_in(
        &config.database,
        "vault",
        runtime.dev(),
        runtime.region(),
        runtime.cell(),
    )
    .await
    .map_err(chassis::Error::service)?;
    let cell = Cell {
        region: runtime.region(),
        name: runtime.cell().to_owned(),
    };
    let core = core(pool, &config, cell, &runtime.meter()).map_err(chassis::Error::service)?;
    runtime.spawn("epoch", core.keys.clone().watch(runtime.stopping()));
    runtime.spawn("unseal", core.keys.clone().keep_unsealing(runtime.stopping()));
    runtime.spawn("rotation", core.rotation.clone().run(runtime.stopping()));
    let agents = agents(core.clone(), &config, &runtime)?;
    let ready = runtime.hold_ready("the authority of agents");
    runtime.spawn("agents", agents.clone().run(runtime.stopping(), ready));
    let served = runtime.serve(routes(&core, &agents)).await;
    agents.finish().await;
    served
}

fn agents(core: Core, config: &Config, runtime: &chassis::Runtime) -> Result<agents::Agents, chassis::Error> {
    let realm = agents::Realm {
        trust_domain: runtime.settings().trust_domain.clone(),
        region: runtime.region(),
        cell: runtime.cell().to_owned(),
    };
    let settings = agents::Settings {
        rotate_after: config.agent_authority_rotate_after,
        settle: config.agent_authority_settle,
    };
    if !runtime.settings().peers.iter().any(|peer| peer.name == "auth") {
        tracing::warn!("no address of auth is configured: agents are told no keys, and serve no rows");
    }
    let mesh = agents::mesh::Mesh {
        bundle: runtime.bundle()?,
        keys: runtime.keys(),
        pins: config.gateway_pins.clone(),
    };
    Ok(agents::Agents::new(
        core,
        realm,
        runtime.agent_trust()?,
        mesh,
        settings,
    ))
}

/// Everything, sealed, with nothing running.
fn core(
    pool: pg::Pool,
    config: &Config,
    cell: Cell,
    meter: &opentelemetry::metrics::Meter,
) -> Result<Core, error::Error> {
    let keys = keys::Keys::new(pool.clone(), config, cell, meter)?;
    Ok(Core {
        rotation: rotation::Rotation::new(pool.clone(), keys.clone(), config.into(), meter),
        pool,
        keys,
    })
}

fn routes(core: &Core, agents: &agents::Agents) -> Routes {
    Routes::new(pb::secret_service_server::SecretServiceServer::new(
        service::secret::Secrets(core.clone()),
    ))
    .add_service(pb::key_service_server::KeyServiceServer::new(
        service::key::KeyVersions(core.clone()),
    ))
    .add_service(
        pb::agent_identity_service_server::AgentIdentityServiceServer::new(service::agent::AgentIdentities(
            agents.clone(),
        )),
    )
}
