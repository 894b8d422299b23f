//! A tenant that goes to another installation or comes from one: where it is, and that it has left or arrived. With the admin's
//! connection, in transactions on the shared side.

use serde_json::{Value, json};
use sqlx::PgConnection;
use types::TenantId;

/// What the directory says of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// `active`, `suspended`, `deleting` or `moved`.
    pub state: String,
    /// Where to.
    pub moved_to: Option<String>,
    /// Where its data lives.
    pub region: String,
    /// In which part of it.
    pub cell: String,
}

/// Schema `tenant`, for a copy of one tenant: all but the books of deletions.
pub const SHARED: pg::archive::Shared = pg::archive::Shared {
    schema: "tenant",
    root: Some("tenant"),
    without: &["deletion"],
};

/// The shared tables whose rows stay where a tenant lived: by them people and keys that come are told where it is.
pub const SIGNPOST: [&str; 3] = ["tenant.tenant", "tenant.member", "auth.api_key"];

/// What the directory says of `tenant`. With `lock` it stays so until the transaction ends, and whoever changes anything of the tenant waits.
///
/// # Errors
/// When the database does not answer.
pub async fn standing(
    connection: &mut PgConnection,
    tenant: TenantId,
    lock: bool,
) -> Result<Option<Standing>, pg::Error> {
    let sql = if lock {
        "SELECT state, moved_to, region, cell FROM tenant.tenant WHERE id = $1 FOR UPDATE"
    } else {
        "SELECT state, moved_to, region, cell FROM tenant.tenant WHERE id = $1"
    };
    let query = sqlx::query_as(sql).bind(tenant.to_string()).persistent(false);
    let row: Option<(String, Option<String>, String, String)> = query.fetch_optional(connection).await?;
    Ok(row.map(|(state, moved_to, region, cell)| Standing {
        state,
        moved_to,
        region,
        cell,
    }))
}

/// From the commit on the tenant lives at `host`, and not here.
///
/// # Errors
/// When the database does not answer.
pub async fn leave(connection: &mut PgConnection, tenant: TenantId, host: &str) -> Result<(), pg::Error> {
    let query = sqlx::query("UPDATE tenant.tenant SET state = 'moved', moved_to = $2 WHERE id = $1");
    let query = query.bind(tenant.to_string()).bind(host).persistent(false);
    query.execute(connection).await?;
    Ok(())
}

/// From the commit on a tenant that has been brought here lives here, in this state, `active` or `suspended`. Its subscriptions are looked at
/// again: what was told of them on its way was told to nobody.
///
/// # Errors
/// When the database does not answer.
pub async fn arrive(connection: &mut PgConnection, tenant: TenantId, state: &str) -> Result<(), pg::Error> {
    let query = sqlx::query("UPDATE tenant.tenant SET state = $2, moved_to = NULL WHERE id = $1");
    let query = query.bind(tenant.to_string()).bind(state).persistent(false);
    query.execute(&mut *connection).await?;
    let query = sqlx::query(
        "UPDATE tenant.subscription SET hinted = hinted + 1, attempts = 0, due_time = now(), dead_time = NULL, problem = NULL
         WHERE tenant_id = $1",
    );
    let query = query.bind(tenant.to_string()).persistent(false);
    query.execute(connection).await?;
    Ok(())
}

/// Makes room for rows of table `table` that come: Stripe tells every installation of every subscription, so that one of a tenant that lives
/// elsewhere may be noted here as nobody's.
///
/// # Errors
/// When the database does not answer.
pub async fn make_room(connection: &mut PgConnection, table: &str, rows: &[String]) -> Result<(), pg::Error> {
    if table != "tenant.subscription" {
        return Ok(());
    }
    let query = sqlx::query(
        "DELETE FROM tenant.subscription WHERE tenant_id IS NULL AND id IN (SELECT r::json ->> 'id' FROM unnest($1::text[]) AS r)",
    );
    query.bind(rows).persistent(false).execute(connection).await?;
    Ok(())
}

/// Keeps the vault from opening anything for the tenant's agents, and from issuing certificates, until the transaction ends.
///
/// # Errors
/// When the database does not answer, or it is at it for two seconds.
pub async fn hold_vault(connection: &mut PgConnection, tenant: TenantId) -> Result<(), pg::Error> {
    let query = sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('trailmesh.move:' || $1, 0))");
    let query = query.bind(tenant.to_string()).persistent(false);
    query.execute(connection).await?;
    Ok(())
}

/// One import of a tenant at a time: until the transaction ends, another one waits.
///
/// # Errors
/// When the database does not answer, or another one takes longer than two seconds.
pub async fn hold_import(connection: &mut PgConnection, tenant: TenantId) -> Result<(), pg::Error> {
    let query = sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('trailmesh.import:' || $1, 0))");
    let query = query.bind(tenant.to_string()).persistent(false);
    query.execute(connection).await?;
    Ok(())
}

/// Whether the tenant was ended here by its owner: nothing brings it back.
///
/// # Errors
/// When the database does not answer.
pub async fn has_ended(connection: &mut PgConnection, tenant: TenantId) -> Result<bool, pg::Error> {
    let query = sqlx::query_scalar("SELECT EXISTS (SELECT FROM tenant.deletion WHERE tenant_id = $1)");
    let query = query.bind(tenant.to_string()).persistent(false);
    Ok(query.fetch_one(connection).await?)
}

/// What the rows of [`SIGNPOST`] say beside whose they are and where the tenant is, goes; and what the vault noted, but for the serials of
/// agents' certificates, which are told that the tenant is not served here.
///
/// # Errors
/// When the database does not answer.
pub async fn reduce(connection: &mut PgConnection, tenant: TenantId) -> Result<(), pg::Error> {
    for sql in [
        "UPDATE tenant.tenant SET name = '-' WHERE id = $1",
        "UPDATE tenant.member SET role = NULL WHERE tenant_id = $1",
        "UPDATE auth.api_key SET name = '-', prefix = repeat('-', 11), scopes = '{}', pools = '{}', networks = '{}', last_use_time = NULL,
             last_use_from = NULL WHERE tenant_id = $1",
        "DELETE FROM vault.was_under WHERE tenant_id = $1",
        "DELETE FROM vault.audit_head WHERE tenant_id = $1",
    ] {
        let query = sqlx::query(sql).bind(tenant.to_string()).persistent(false);
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

/// All that the vault noted of the tenant goes, but for the proof that its keys are destroyed.
///
/// # Errors
/// When the database does not answer.
pub async fn forget_in_vault(connection: &mut PgConnection, tenant: TenantId) -> Result<(), pg::Error> {
    let query = sqlx::query("SELECT vault.forget_tenant($1)");
    let query = query.bind(tenant.to_string()).persistent(false);
    query.execute(connection).await?;
    Ok(())
}

/// A copy that is to go again: says that it may, also where the directory does not know of the tenant yet.
///
/// # Errors
/// When the database does not answer.
pub async fn discard(
    connection: &mut PgConnection,
    tenant: TenantId,
    region: &str,
    cell: &str,
) -> Result<(), pg::Error> {
    let query = sqlx::query(
        "INSERT INTO tenant.tenant (id, name, region, cell, state, moved_to) VALUES ($1, '-', $2, $3, 'moved', '-')
         ON CONFLICT (id) DO UPDATE SET state = 'moved', moved_to = '-'",
    );
    let query = query.bind(tenant.to_string()).bind(region).bind(cell);
    query.persistent(false).execute(connection).await?;
    Ok(())
}

/// Events of the tenant's people that wait to be written into its log, as rows of the inbox that are for it alone.
///
/// # Errors
/// When the database does not answer.
pub async fn waiting_events(
    connection: &mut PgConnection,
    tenant: TenantId,
) -> Result<Vec<String>, pg::Error> {
    let query = sqlx::query_scalar(
        "SELECT (to_jsonb(i) || jsonb_build_object('tenant_id', $1::text))::text
         FROM tenant.audit_inbox AS i INNER JOIN tenant.member AS m ON m.user_id = i.user_id AND m.tenant_id = $1
         WHERE i.tenant_id IS NULL ORDER BY i.id",
    );
    let query = query.bind(tenant.to_string()).persistent(false);
    Ok(query.fetch_all(connection).await?)
}

/// A row of schema `tenant` as it is to be where it comes to: not served before it has arrived, in that cell, and with a log whose end that
/// cell's vault has yet to sign.
pub fn resettle(table: &str, row: &mut Value, cell: &str) {
    let changes = match table {
        "tenant" => vec![
            ("cell", json!(cell)),
            ("state", json!("suspended")),
            ("moved_to", Value::Null),
        ],
        "audit_chain" => vec![
            ("signed_size", json!(0)),
            ("ahead_since", row["trim_time"].clone()),
            ("try_time", Value::Null),
            ("statement", Value::Null),
            ("signature", Value::Null),
            ("key_id", Value::Null),
        ],
        _ => vec![],
    };
    if let Some(fields) = row.as_object_mut() {
        for (name, value) in changes {
            fields.insert(name.to_owned(), value);
        }
    }
}
