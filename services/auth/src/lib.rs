//! Who is asking: accounts, sessions, second factors, API keys; and the context token by which every other service knows.
//!
//! Auth alone holds keys that sign. It hands out access tokens to people and, through the gateway, context tokens (Ed25519, 60 seconds) to
//! services, which verify them with the published key set. What a person may do in a tenant is not here: it is read, at the moment of each
//! question, from the view `tenant.seat`. Auth calls no other service.
//!
//! What it keeps is in the schema `auth`. Nothing in it signs anybody in: of passwords there is an argon2id hash, of mailed tokens, device
//! tokens, API keys and recovery codes a digest, of refresh tokens only the key they are signed with; hashes and keys are sealed with a key
//! that is not in the database ([`Config::seal_key`]). The clock that decides is the database's. What ends — a session, a key, a factor — is
//! a committed row, which the next question of a gateway sees.
//!
//! What strangers can ask (sign-up, a mail, a password reset) is answered before anybody has looked whether the address is known (`mail`),
//! and a login does the same work for an unknown address as for a wrong password. How often passwords may be tried is counted in Redis, and
//! without it more strictly in each replica (`throttle`). Passwords are hashed on threads of their own within a bound of memory (`hashers`).
//!
//! `service` decodes, acts and encodes; `domain` decides and is pure; `store` has every SQL statement.

mod config;
mod domain;
mod error;
mod hashers;
mod history;
mod mail;
mod operator;
pub mod people;
mod rings;
mod seal;
mod service;
mod store;
mod throttle;
mod turnstile;

use std::sync::Arc;

use proto::auth::v1::{
    account_service_server::AccountServiceServer, api_key_service_server::ApiKeyServiceServer,
    guard_service_server::GuardServiceServer, mail_service_server::MailServiceServer,
    mfa_service_server::MfaServiceServer, session_service_server::SessionServiceServer,
};
use tonic::service::Routes;

pub use config::{Config, Tokens};
pub use operator::remove_factor;
pub use rings::rotate_keys;

use error::Error;

/// The history of the schema `auth`.
pub const MIGRATIONS: pg::migrate::Set = pg::migrate::Set {
    service: "auth",
    shared: &[
        pg::migrate::Migration {
            version: 1,
            name: "accounts, sessions, mails",
            sql: include_str!("../migrations/0001_accounts.sql"),
        },
        pg::migrate::Migration {
            version: 2,
            name: "second factors, API keys, signing keys",
            sql: include_str!("../migrations/0002_factors.sql"),
        },
        pg::migrate::Migration {
            version: 3,
            name: "allowances of mails, wrong codes of API keys",
            sql: include_str!("../migrations/0003_allowances.sql"),
        },
        pg::migrate::Migration {
            version: 4,
            name: "keys that a plan has no room for",
            sql: include_str!("../migrations/0004_plans.sql"),
        },
        pg::migrate::Migration {
            version: 5,
            name: "the end of a tenant",
            sql: include_str!("../migrations/0005_life.sql"),
        },
    ],
    tenant: &[],
};

/// What every handler and task shares.
pub(crate) struct Auth {
    pub(crate) config: Config,
    pub(crate) dev: bool,
    pub(crate) region: types::Region,
    pub(crate) pool: pg::Pool,
    pub(crate) sealer: seal::Sealer,
    pub(crate) rings: rings::Rings,
    pub(crate) hashers: hashers::Hashers,
    pub(crate) throttle: throttle::Throttle,
    pub(crate) turnstile: Option<turnstile::Turnstile>,
    pub(crate) outbox: mail::Outbox,
    pub(crate) refusals: history::Refusals,
}

impl Auth {
    async fn build(config: Config, runtime: &chassis::Runtime) -> Result<Self, Error> {
        let dev = runtime.dev();
        let sealer = seal::Sealer::new(&config.seal_key)?;
        let home = format!("{}/{}", runtime.region().word(), runtime.cell());
        let throttle = throttle::Throttle::new(&config, home)?;
        throttle.settle().await?;
        let pool = pg::Pool::open_in(&config.database, "auth", dev, runtime.region(), runtime.cell()).await?;
        let rings = rings::Rings::load(pool.clone(), sealer.clone(), config.tokens.clone(), runtime).await?;
        Ok(Self {
            dev,
            region: runtime.region(),
            rings,
            hashers: hashers::Hashers::start(config.cost(), config.argon2_workers.into())?,
            throttle,
            turnstile: turnstile::Turnstile::new(&config)?,
            outbox: mail::Outbox::new(sealer.clone(), config.public_url()?),
            refusals: history::Refusals::start(pool.clone(), runtime),
            sealer,
            pool,
            config,
        })
    }
}

/// Serves until the runtime is stopped and drained.
///
/// # Errors
/// When the database, a key or a setting cannot be used.
pub async fn start(config: Config, runtime: chassis::Runtime) -> Result<(), chassis::Error> {
    let ready = runtime.hold_ready("database");
    let auth = Arc::new(
        Auth::build(config, &runtime)
            .await
            .map_err(chassis::Error::service)?,
    );
    let courier = mail::Courier::new(auth.clone()).map_err(chassis::Error::service)?;
    runtime.spawn("mail", courier.run(runtime.stopping()));
    let routes = Routes::new(AccountServiceServer::new(service::account::Accounts(
        auth.clone(),
    )))
    .add_service(SessionServiceServer::new(service::session::Sessions(
        auth.clone(),
    )))
    .add_service(MailServiceServer::new(service::mail::Mails(auth.clone())))
    .add_service(MfaServiceServer::new(service::mfa::Mfa(auth.clone())))
    .add_service(ApiKeyServiceServer::new(service::api_key::ApiKeys::new(
        auth.clone(),
        &runtime,
    )))
    .add_service(GuardServiceServer::new(service::guard::Guard::new(
        auth.clone(),
        &runtime,
    )));
    ready.release();
    let served = runtime.serve(routes).await;
    auth.refusals.finish().await;
    served
}
