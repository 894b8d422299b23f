//! All rows of one tenant, out of one database and into another; for operators, with the admin's connection.
//!
//! What a tenant has is found out, not listed: every table of its own schema, and in each shared schema that is named every table with a
//! column `tenant_id`, with those that refer to one. So a table that a later migration adds comes along. Rows travel as JSON, one a line; tables
//! in an order in which each stands after those it refers to. However large a table is, some megabytes of it are in memory.

mod rows;
mod tables;

use ring::digest::{SHA256, digest};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection, SqlSafeStr as _,
};
use types::TenantId;

use crate::{
    Error,
    entrance::hex,
    migrate::{Options, admin_options},
};

/// What a change of sides shows. It guards against statements that somebody smuggles in; here nobody does.
const KEY: &str = "operator";

pub use rows::{AT_ONCE, BYTES_AT_ONCE, Moment, Rows};
pub use tables::Table;

/// A shared schema with rows of tenants.
#[derive(Clone, Copy, Debug)]
pub struct Shared {
    /// Its name.
    pub schema: &'static str,
    /// The table in which the tenant's id is in the column `id`.
    pub root: Option<&'static str>,
    /// Tables whose rows stay.
    pub without: &'static [&'static str],
}

/// One step of a schema's history, as the ledger has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The shared schema, or `tenant's own`.
    pub place: String,
    /// Whose step.
    pub service: String,
    /// Which.
    pub version: i32,
    /// SHA-256 of its text.
    pub fingerprint: String,
}

/// How a transaction begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// One moment of the database, read.
    Read,
    /// To write, or to keep others from it.
    Write,
}

/// The admin's connection. One transaction at a time.
pub struct Admin {
    connection: PgConnection,
}

/// The schema of a tenant.
fn place(tenant: TenantId) -> String {
    format!("t_{}", tenant.digits())
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn lock() -> String {
    hex(digest(&SHA256, KEY.as_bytes()).as_ref())
}

impl Admin {
    /// Connects to the database of `admin_url`.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn connect(admin_url: &str, options: &Options) -> Result<Self, Error> {
        let connection = admin_options(admin_url, options)?.connect().await?;
        Ok(Self { connection })
    }

    /// For statements of the services whose tables they are.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Begins a transaction, on the shared side.
    ///
    /// # Errors
    /// When the database does not answer, or a lock is not to be had within two seconds.
    pub async fn begin(&mut self, begin: Begin) -> Result<(), Error> {
        let mode = match begin {
            Begin::Read => "ISOLATION LEVEL REPEATABLE READ READ ONLY",
            Begin::Write => "ISOLATION LEVEL READ COMMITTED READ WRITE",
        };
        let words = format!(
            "BEGIN {mode}; SET LOCAL ROLE trailmesh_owner; SET LOCAL TimeZone = 'UTC'; SET LOCAL lock_timeout = '2s'; \
             SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL client_min_messages = warning; \
             SELECT trailmesh.enter('shared', '{}')",
            lock()
        );
        self.words(words).await
    }

    /// Keeps the tenant's own tables from every change until the transaction ends; they can be read.
    ///
    /// # Errors
    /// [`Error::Conflict`] when they are in use for two seconds.
    pub async fn fence(&mut self, tables: &[Table], tenant: TenantId) -> Result<(), Error> {
        let own = tables.iter().filter(|table| table.schema.is_none());
        let names: Vec<String> = own.map(|table| table.place(tenant)).collect();
        self.words(format!("LOCK TABLE {} IN EXCLUSIVE MODE", names.join(", ")))
            .await
    }

    /// Commits.
    ///
    /// # Errors
    /// When it is not certain that it was.
    pub async fn commit(&mut self) -> Result<(), Error> {
        self.words("COMMIT".to_owned())
            .await
            .map_err(Error::while_committing)
    }

    /// Takes everything back.
    ///
    /// # Errors
    /// When the connection is lost, which comes to the same.
    pub async fn rollback(&mut self) -> Result<(), Error> {
        self.words("ROLLBACK".to_owned()).await
    }

    /// Ends the connection.
    pub async fn close(self) {
        // It ends in any case.
        let _ = self.connection.close().await;
    }

    async fn words(&mut self, words: String) -> Result<(), Error> {
        self.connection.execute(AssertSqlSafe(words)).await?;
        Ok(())
    }

    /// Goes to the tenant's side, or back to the shared one.
    async fn side(&mut self, side: &str) -> Result<(), Error> {
        let query = sqlx::query("SELECT trailmesh.change_side($1, $2, $3)");
        let query = query.bind(side).bind(KEY).bind(lock()).persistent(false);
        query.execute(&mut self.connection).await?;
        Ok(())
    }

    async fn side_of(&mut self, table: &Table, tenant: TenantId) -> Result<(), Error> {
        match table.schema {
            Some(_) => self.side("shared").await,
            None => self.side(&place(tenant)).await,
        }
    }

    /// The region and cell that the database is marked with.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn home(&mut self) -> Result<Option<(String, String)>, Error> {
        let query = sqlx::query_as("SELECT region, cell FROM trailmesh.cell").persistent(false);
        Ok(query.fetch_optional(&mut self.connection).await?)
    }

    /// The versions of the shared schemas and of new tenants' schemas.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn versions(&mut self, shared: &[Shared]) -> Result<Vec<Version>, Error> {
        let query = sqlx::query_as(
            "SELECT place, service, version, fingerprint FROM trailmesh.ledger WHERE place = ANY($1)
             UNION ALL SELECT 'tenant''s own', service, version, fingerprint FROM trailmesh.templates ORDER BY 1, 2, 3",
        );
        let places: Vec<&str> = shared.iter().map(|shared| shared.schema).collect();
        let query = query.bind(places).persistent(false);
        let rows: Vec<(String, String, i32, String)> = query.fetch_all(&mut self.connection).await?;
        let version = |(place, service, version, fingerprint)| Version {
            place,
            service,
            version,
            fingerprint,
        };
        Ok(rows.into_iter().map(version).collect())
    }

    /// Whether the tenant has a schema here.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn has_schema(&mut self, tenant: TenantId) -> Result<bool, Error> {
        let query =
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM trailmesh.tenant_schemas WHERE name = $1)");
        let query = query.bind(place(tenant)).persistent(false);
        Ok(query.fetch_one(&mut self.connection).await?)
    }

    /// What is noted at the tenant's schema.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn note(&mut self, tenant: TenantId) -> Result<Option<String>, Error> {
        let query = sqlx::query_scalar("SELECT obj_description(to_regnamespace($1), 'pg_namespace')");
        let query = query.bind(place(tenant)).persistent(false);
        Ok(query.fetch_one(&mut self.connection).await?)
    }

    /// Notes something at the tenant's schema, or nothing any more.
    ///
    /// # Errors
    /// When there is no such schema.
    pub async fn set_note(&mut self, tenant: TenantId, note: Option<&str>) -> Result<(), Error> {
        let note = note.map_or_else(
            || "NULL".to_owned(),
            |note| format!("'{}'", note.replace('\'', "''")),
        );
        self.words(format!("COMMENT ON SCHEMA {} IS {note}", place(tenant)))
            .await
    }

    /// Lets the services enter a schema that is open.
    ///
    /// # Errors
    /// When there is none.
    pub async fn admit(&mut self, tenant: TenantId) -> Result<(), Error> {
        self.call("admit", tenant).await
    }

    /// Makes the tenant's schema, empty.
    ///
    /// # Errors
    /// When there is one.
    pub async fn create_schema(&mut self, tenant: TenantId) -> Result<(), Error> {
        self.call("create_tenant_schema", tenant).await
    }

    /// From the commit on nothing in the tenant's schema is changed by a service, not even by one that has entered it and waits there for a lock,
    /// nor by a function of the schemas' owner.
    ///
    /// # Errors
    /// When there is none.
    pub async fn silence_schema(&mut self, tenant: TenantId) -> Result<(), Error> {
        let place = place(tenant);
        self.words(format!(
            "REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA {place} FROM {place}, trailmesh_owner"
        ))
        .await
    }

    /// From the commit on no service enters the tenant's schema.
    ///
    /// # Errors
    /// When there is none.
    pub async fn close_schema(&mut self, tenant: TenantId) -> Result<(), Error> {
        self.call("close_tenant_schema", tenant).await
    }

    /// Says that the schema is closed, so that it can be dropped, and takes its role from nobody: where another database of this server has
    /// a schema of the tenant, that role is its too.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn shut_schema(&mut self, tenant: TenantId) -> Result<(), Error> {
        let query = sqlx::query("UPDATE trailmesh.tenant_schemas SET state = 'closed' WHERE name = $1");
        let query = query.bind(place(tenant)).persistent(false);
        query.execute(&mut self.connection).await?;
        Ok(())
    }

    /// Drops the tenant's schema, which is closed and which service tenant's books let go.
    ///
    /// # Errors
    /// When it may not go.
    pub async fn drop_schema(&mut self, tenant: TenantId) -> Result<(), Error> {
        self.call("drop_tenant_schema", tenant).await
    }

    async fn call(&mut self, function: &str, tenant: TenantId) -> Result<(), Error> {
        let words = format!("SELECT trailmesh.{function}($1)");
        let query = sqlx::query(AssertSqlSafe(words).into_sql_str()).bind(place(tenant));
        query.persistent(false).execute(&mut self.connection).await?;
        Ok(())
    }

    /// Deletes the tenant's rows from these shared tables.
    ///
    /// # Errors
    /// When the database does not let them go.
    pub async fn erase(&mut self, tables: &[Table], tenant: TenantId) -> Result<(), Error> {
        for table in tables.iter().rev().filter(|table| table.schema.is_some()) {
            let condition = table.condition(tenant);
            self.words(format!("DELETE FROM {} WHERE {condition}", table.place(tenant)))
                .await?;
        }
        Ok(())
    }
}
