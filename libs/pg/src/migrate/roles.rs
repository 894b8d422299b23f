//! Roles, and what nobody should be able to do.

use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

use super::{ALWAYS, Set};
use crate::Error;

/// Functions that reach across databases, sessions or transactions. Everyone may call them in a new database; here nobody but a superuser.
const FAR_REACHING: &[&str] = &[
    "lo_creat",
    "lo_create",
    "lo_from_bytea",
    "lo_open",
    "lo_get",
    "lo_put",
    "lo_import",
    "lo_export",
    "lo_unlink",
    "loread",
    "lowrite",
    "lo_lseek",
    "lo_lseek64",
    "lo_tell",
    "lo_tell64",
    "lo_truncate",
    "lo_truncate64",
    "pg_cancel_backend",
    "pg_terminate_backend",
    "pg_advisory_lock",
    "pg_advisory_lock_shared",
    "pg_try_advisory_lock",
    "pg_try_advisory_lock_shared",
    "pg_notify",
    "pg_export_snapshot",
    "pg_logical_emit_message",
    "dblink",
    "dblink_connect",
    "dblink_connect_u",
    "dblink_exec",
    "dblink_open",
    "dblink_send_query",
];

/// Makes the roles, and closes what PostgreSQL leaves open. What cannot be closed is told.
pub(super) async fn prepare(admin: &mut PgConnection, sets: &[Set]) -> Result<Vec<String>, Error> {
    make(admin, "trailmesh_owner", "NOLOGIN NOINHERIT CREATEROLE").await?;
    for service in ALWAYS.into_iter().chain(sets.iter().map(|set| set.service)) {
        make(admin, &format!("trailmesh_{service}"), "LOGIN NOINHERIT").await?;
    }
    let superuser: bool = ask(
        admin,
        "SELECT rolsuper FROM pg_roles WHERE rolname = current_user",
    )
    .await?;
    // From version 16 on, who made a role is a member, but may not take it.
    let newer = admin
        .server_version_num()
        .is_some_and(|version| version >= 160_000);
    let taking = if newer { "SET" } else { "MEMBER" };
    let may_take = format!("SELECT pg_has_role('trailmesh_owner', '{taking}')");
    if !superuser && !ask(admin, &may_take).await? {
        admin.execute("GRANT trailmesh_owner TO CURRENT_USER").await?;
    }
    let database: String = ask(admin, "SELECT quote_ident(current_database())").await?;
    let owner = "SELECT has_database_privilege('trailmesh_owner', current_database(), 'CREATE')";
    if !ask::<bool>(admin, owner).await? {
        perform(
            admin,
            format!("GRANT CREATE ON DATABASE {database} TO trailmesh_owner"),
        )
        .await?;
    }
    let mut warnings = Vec::new();
    let temporary = "SELECT NOT has_database_privilege('public', current_database(), 'CREATE, TEMPORARY')";
    let revoke = format!("REVOKE CREATE, TEMPORARY ON DATABASE {database} FROM PUBLIC");
    close(
        admin,
        &mut warnings,
        "temporary tables in the database",
        temporary,
        revoke,
    )
    .await?;
    let public = "SELECT coalesce((SELECT NOT has_schema_privilege('public', oid, 'USAGE, CREATE')
                  FROM pg_namespace WHERE nspname = 'public'), true)";
    close(
        admin,
        &mut warnings,
        "the schema public",
        public,
        "REVOKE ALL ON SCHEMA public FROM PUBLIC".to_owned(),
    )
    .await?;
    functions(admin, superuser, &mut warnings).await?;
    Ok(warnings)
}

async fn functions(
    admin: &mut PgConnection,
    superuser: bool,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    let query = sqlx::query_scalar(
        "SELECT p.oid::regprocedure::text FROM pg_proc p
         WHERE p.proname = ANY($1) AND has_function_privilege('public', p.oid, 'EXECUTE')",
    );
    let open: Vec<String> = query
        .bind(FAR_REACHING)
        .persistent(false)
        .fetch_all(&mut *admin)
        .await?;
    if open.is_empty() {
        return Ok(());
    }
    if superuser {
        perform(
            admin,
            format!("REVOKE EXECUTE ON FUNCTION {} FROM PUBLIC", open.join(", ")),
        )
        .await
    } else {
        warnings.push(format!(
            "everyone may call {}: only a superuser can close that",
            open.join(", ")
        ));
        Ok(())
    }
}

/// Tells the functions of the base schema who may call them, and each service's schema whose it is.
pub(super) async fn admit(admin: &mut PgConnection, sets: &[Set]) -> Result<(), Error> {
    for set in sets {
        let service = set.service;
        let present = format!("SELECT to_regnamespace('{service}') IS NOT NULL");
        if ask(admin, &present).await? {
            continue;
        }
        let words = format!(
            "{}; CREATE SCHEMA {service}; GRANT USAGE ON SCHEMA {service} TO trailmesh_{service};
             ALTER DEFAULT PRIVILEGES IN SCHEMA {service} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO trailmesh_{service};
             ALTER DEFAULT PRIVILEGES IN SCHEMA {service} GRANT EXECUTE ON FUNCTIONS TO trailmesh_{service};
             GRANT EXECUTE ON FUNCTION trailmesh.enter(text, text), trailmesh.change_side(text, text, text) TO trailmesh_{service};
             COMMIT",
            super::beginning()
        );
        perform(admin, words).await?;
    }
    for set in sets.iter().filter(|set| !set.tenant.is_empty()) {
        let service = set.service;
        let words = format!(
            "{}; INSERT INTO trailmesh.tenant_services VALUES ('{service}') ON CONFLICT DO NOTHING;
             GRANT EXECUTE ON FUNCTION trailmesh.create_tenant_schema(text) TO trailmesh_{service}; COMMIT",
            super::beginning()
        );
        let known =
            format!("SELECT EXISTS (SELECT FROM trailmesh.tenant_services WHERE service = '{service}')");
        if !ask(admin, &known).await? {
            perform(admin, words).await?;
        }
    }
    Ok(())
}

/// Roles belong to the whole server: another run, for another database of it, may make the same one at this moment.
async fn make(admin: &mut PgConnection, role: &str, kind: &str) -> Result<(), Error> {
    let there = format!("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}')");
    if ask(admin, &there).await? {
        return Ok(());
    }
    match perform(admin, format!("CREATE ROLE {role} {kind}")).await {
        Err(_) if ask(admin, &there).await? => Ok(()),
        outcome => outcome,
    }
}

/// Runs `words` unless `closed` says that it is done; and tells if it then still is not.
async fn close(
    admin: &mut PgConnection,
    warnings: &mut Vec<String>,
    what: &str,
    closed: &str,
    words: String,
) -> Result<(), Error> {
    if ask(admin, closed).await? {
        return Ok(());
    }
    // Who may not revoke gets an error or a mere warning.
    let outcome = perform(admin, words).await;
    if !ask::<bool>(admin, closed).await? {
        let reason = outcome
            .err()
            .map(|error| types::chain(&error))
            .unwrap_or_default();
        warnings.push(format!("everyone may still use {what}: {reason}"));
    }
    Ok(())
}

async fn perform(admin: &mut PgConnection, words: String) -> Result<(), Error> {
    admin.execute(AssertSqlSafe(words)).await?;
    Ok(())
}

async fn ask<T>(admin: &mut PgConnection, question: &str) -> Result<T, Error>
where
    T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    let query = sqlx::query_scalar(AssertSqlSafe(question.to_owned())).persistent(false);
    Ok(query.fetch_one(admin).await?)
}
