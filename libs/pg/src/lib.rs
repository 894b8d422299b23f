//! PostgreSQL as Trailmesh uses it: a pool, transactions that belong to a service or to one tenant, migrations, errors with a meaning.
//!
//! A [`Pool`] gives nothing but [`Transaction`]s; there is no way to a table around them. One is begun in a single round trip that says
//! role, `search_path` and time limits, all of them `LOCAL`, so that whatever a session's earlier users left set means nothing, and
//! pgbouncer in transaction mode may hand any session to anybody. The deadline holds for getting a connection, for beginning, for every
//! statement and for the commit, here and on the server. A dropped transaction is rolled back; a statement that is abandoned ends on the
//! server within a quarter of a second, and its connection is used again only if it answers.
//!
//! Round trips: one to begin, two for a statement with values (sqlx asks for its types first), one to commit; and one, which nobody waits
//! for, when sqlx's pool takes the connection back. [`Pool::call`] takes one for all of it.
//!
//! # How a tenant begins and ends
//!
//! A schema takes long to make, so schemas are made ahead ([`prepare_tenant_schema`]), with the ids of the tenants to come; whoever makes a
//! tenant takes one ([`take_prepared_schema`]). Migrations treat them as any other. Closing a schema ([`close_tenant_schema`]) takes its role
//! from all services: from the commit on none of them enters it. Only a closed one can be dropped ([`drop_tenant_schema`]), and only if
//! service tenant's own books, its function `tenant.schema_may_go`, say so.
//!
//! A process of the server remembers the tables of each schema that it has worked in, as long as it lives; so a connection is replaced after
//! [`Settings::database_tenants_per_connection`] tenants. That counts the server's processes, and can only end our own connection: behind
//! pgbouncer, its `server_lifetime` must do that.
//!
//! # What keeps tenants apart
//!
//! A service logs in as `trailmesh_<service>`, which inherits nothing. Its tables are in the schema `<service>`; those of a tenant in
//! `t_<digits of its id>`, with a role of the same name that has rights on this schema only. All objects belong to `trailmesh_owner`, who
//! cannot log in. But a session that may become one tenant may become any: `SET ROLE` asks who logged in. So names, `search_path` and roles
//! keep honest statements apart, and this keeps hostile ones:
//!
//! * Every table has a row level security policy (FORCEd, so views obey it too) that asks `trailmesh.entered()` for the side this
//!   transaction is on: `shared`, or one tenant's schema.
//! * The answer stands in a setting, the ticket, with a seal: a keyed hash over side, backend and start of the transaction. Everyone can
//!   change the setting and nobody can make a seal; one of another transaction does not fit.
//! * `trailmesh.enter()` makes a ticket only while `statement_timestamp() = transaction_timestamp()`, which is so in the message that
//!   carries `BEGIN` and in no later one. So a statement sent later cannot enter again.
//! * To change sides, [`Transaction::enter_shared`] shows a key of which the server knew only the hash, and gives the hash of the next.
//!   Changing closes all cursors, or one opened here would be filled there.
//!
//! Hence arbitrary SQL within a tenant's transaction, whatever it does to roles and settings, reads and changes no row of another tenant
//! nor of the directory. What does **not** hold:
//!
//! * Names, sizes and counters in the catalogs are visible to all, and so are the planner's estimates; tenants' names are random. A
//!   refused INSERT moves an identity column's counter on.
//! * SQL that ends the transaction (COMMIT or ROLLBACK as a statement of its own) and then sends BEGIN and `enter` as one message is, for
//!   the server, the service itself. A statement with bound values cannot: it is one command. A transaction that was ended from within
//!   finds no table any more.
//! * On the shared side all of the service's tables are open, and every tenant's are with `SET ROLE`.
//! * Nothing here keeps such SQL from wasting resources, taking locks, or changing the service's own password.
//!
//! Cost, on a loaded machine of two cores: entering 0.05 to 0.08 ms, the policy 0.05 ms a statement. PostgreSQL 15 lists the roles that a
//! session may take when it first takes one and after each change of a membership, in quadratic time: 12 ms with 2,000 tenants in a
//! cluster. Newer versions do that faster; with 15, a cluster should not have many more.

mod accounts;
pub mod archive;
mod backends;
mod connection;
mod entrance;
mod error;
mod home;
mod life;
pub mod migrate;
mod pool;
mod settings;
mod transaction;
mod warm;

pub use accounts::{service_url, set_passwords};
pub use connection::Connection;
pub use error::{Error, OnConstraint, SettingsError};
pub use home::Home;
pub use life::{
    close_tenant_schema, create_tenant_schema, drop_tenant_schema, prepare_tenant_schema,
    take_prepared_schema,
};
pub use pool::Pool;
pub use settings::{DatabaseUrl, Settings};
pub use transaction::Transaction;
