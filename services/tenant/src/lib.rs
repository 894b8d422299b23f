//! Service tenant: who is in which tenant and as what, and what each tenant has registered.
//!
//! It owns the *directory* (schema `tenant`: tenants, members, roles in single agent pools, invitations, pools) and in each tenant's own
//! schema the *registry* (servers, agents, access rules). It holds no password and no key: credentials of servers are the vault's, and an
//! agent's or an invitation's token is kept as a digest.
//!
//! How it meets service auth:
//! * auth reads the views `tenant.seat` and `tenant.pool_of`, so the roles in a context token are those of the moment it was made; of a server and
//!   an agent that it is asked about, `tenant.asked` tells it the pool, and whether the agent serves there;
//! * this service reads the view `auth.person` for the verified addresses of members, and asks auth to mail invitations.
//!
//! What holds, whoever calls and how often at once:
//! * All changes of one tenant happen one after the other: each locks the tenant's row first (`Store::change`). So an owner always
//!   remains, and a pool is empty when it goes.
//! * A change that takes a second factor stores the proof's id in the same transaction: one code, one action.
//! * A caller's role is read again inside the transaction of every change; a context token may be a minute old.
//! * An id of another tenant, of another kind, or made up: one and the same answer, which does not repeat it.
//! * What is limited to pools sees, in lists and by id, what is in these pools, and nothing tells it of the rest.

mod audit;
mod billing;
mod clients;
mod config;
mod domain;
mod error;
mod life;
pub mod operator;
mod service;
mod sink;
mod store;
mod task;

use std::sync::Arc;

use pg::migrate::{Migration, Set};
use proto::tenant::v1 as pb;
use tokio::sync::Notify;
use tonic::service::Routes;

pub use audit::{last_audit_head, read_audit_log};
pub use config::{Billing, Config};

/// The tables of this service, for `trailmesh migrate`.
pub const MIGRATIONS: Set = Set {
    service: "tenant",
    shared: &[
        Migration {
            version: 1,
            name: "directory",
            sql: include_str!("../migrations/shared/0001_directory.sql"),
        },
        Migration {
            version: 2,
            name: "invitation_allowance",
            sql: include_str!("../migrations/shared/0002_invitation_allowance.sql"),
        },
        Migration {
            version: 3,
            name: "audit",
            sql: include_str!("../migrations/shared/0003_audit.sql"),
        },
        Migration {
            version: 4,
            name: "plans",
            sql: include_str!("../migrations/shared/0004_plans.sql"),
        },
        Migration {
            version: 5,
            name: "life",
            sql: include_str!("../migrations/shared/0005_life.sql"),
        },
        Migration {
            version: 6,
            name: "sinks",
            sql: include_str!("../migrations/shared/0006_sinks.sql"),
        },
        Migration {
            version: 7,
            name: "enrolment",
            sql: include_str!("../migrations/shared/0007_enrolment.sql"),
        },
        Migration {
            version: 8,
            name: "delegation",
            sql: include_str!("../migrations/shared/0008_delegation.sql"),
        },
    ],
    tenant: &[
        Migration {
            version: 1,
            name: "registry",
            sql: include_str!("../migrations/tenant/0001_registry.sql"),
        },
        Migration {
            version: 2,
            name: "audit",
            sql: include_str!("../migrations/tenant/0002_audit.sql"),
        },
        Migration {
            version: 3,
            name: "plans",
            sql: include_str!("../migrations/tenant/0003_plans.sql"),
        },
        Migration {
            version: 4,
            name: "sinks",
            sql: include_str!("../migrations/tenant/0004_sinks.sql"),
        },
        Migration {
            version: 5,
            name: "credential_version",
            sql: include_str!("../migrations/tenant/0005_credential_version.sql"),
        },
    ],
};

/// Serves until the runtime is stopped and drained.
///
/// # Errors
/// When the database cannot be used, or service auth has no address.
pub async fn start(config: Config, runtime: chassis::Runtime) -> Result<(), chassis::Error> {
    let (region, cell) = (runtime.region(), runtime.cell());
    let pool = pg::Pool::open_in(&config.database, "tenant", runtime.dev(), region, cell)
        .await
        .map_err(chassis::Error::service)?;
    let mailer = clients::auth::Mailer::new(runtime.peer("auth")?);
    let store = store::Store::new(pool);
    let keys = clients::vault::Keys::new(runtime.peer("vault")?);
    let life = life::Life::new(store.clone(), keys, config.tenant_prepared);
    let of_region = |region: &types::Region| {
        let host = runtime.settings().host_of(*region)?;
        Some((*region, host.to_owned()))
    };
    let hosts = types::Region::ALL.iter().filter_map(of_region).collect();
    let core = service::Core {
        hosts: Arc::new(hosts),
        store,
        life: life.clone(),
        region: runtime.region(),
        cell: runtime.cell().to_owned(),
        first_plan: config.tenant_first_plan,
        sealer: clients::sealer::Sealer::new(runtime.peer("vault")?),
        mail_due: Arc::new(Notify::new()),
    };
    let hinted = Arc::new(Notify::new());
    let worker = billing::worker::Worker {
        store: core.store.clone(),
        stripe: billing::stripe::Stripe::new(&config.billing).map_err(chassis::Error::service)?,
        measures: billing::worker::Measures::new(&runtime.meter()),
        hinted,
    };
    let payments = service::billing::Billing {
        core: core.clone(),
        stripe: worker.stripe.clone(),
        measures: worker.measures.clone(),
        hinted: worker.hinted.clone(),
    };
    runtime.spawn("billing", worker.run(runtime.stopping()));
    let courier = sink::Courier::new(&core, &config.sinks, &runtime)?;
    runtime.spawn("audit-sinks", sink::deliver(courier.clone(), runtime.stopping()));
    let sinks = pb::audit_sink_service_server::AuditSinkServiceServer::new(service::sink::Sinks(
        core.clone(),
        courier,
    ));
    let log = audit::Log::start(core.store.clone(), &config, &runtime);
    let mail = task::mail(
        core.store.clone(),
        mailer,
        core.mail_due.clone(),
        config.tenant_mail_pause,
        runtime.stopping(),
    );
    runtime.spawn("invitation-mail", mail);
    let sweep = task::sweep(core.store.clone(), config.tenant_sweep_pause, runtime.stopping());
    runtime.spawn("sweep", sweep);
    let pause = config.tenant_life_pause;
    runtime.spawn("prepare", life.clone().prepare(pause, runtime.stopping()));
    runtime.spawn("deletions", life.end(pause, runtime.stopping()));
    let billing = pb::billing_service_server::BillingServiceServer::new(payments);
    runtime
        .serve(
            routes(&core)
                .add_service(billing)
                .add_service(log.service())
                .add_service(sinks),
        )
        .await
}

fn routes(core: &service::Core) -> Routes {
    Routes::new(pb::tenant_service_server::TenantServiceServer::new(
        service::tenant::Tenants(core.clone()),
    ))
    .add_service(pb::member_service_server::MemberServiceServer::new(
        service::member::Members(core.clone()),
    ))
    .add_service(pb::agent_pool_service_server::AgentPoolServiceServer::new(
        service::pool::Pools(core.clone()),
    ))
    .add_service(pb::agent_service_server::AgentServiceServer::new(
        service::agent::Agents(core.clone()),
    ))
    .add_service(pb::server_service_server::ServerServiceServer::new(
        service::server::Servers(core.clone()),
    ))
    .add_service(pb::access_rule_service_server::AccessRuleServiceServer::new(
        service::access_rule::AccessRules(core.clone()),
    ))
    .add_service(pb::directory_service_server::DirectoryServiceServer::new(
        service::directory::Directory(core.clone()),
    ))
}
