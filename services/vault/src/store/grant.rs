//! What is asked about a caller in the transaction of what they do.

use pg::{Connection, OnConstraint as _};
use sqlx::types::chrono::DateTime;
use types::{Grant, Role, Scope};

use super::stored;
use crate::error::Error;

/// Notes in the tenant's schema that this grant has done its one action, which is that of this transaction.
pub(crate) async fn spend(tx: &mut Connection, grant: &Grant) -> Result<(), Error> {
    sqlx::query("INSERT INTO used_grant (id, expire_time) VALUES ($1, $2)")
        .bind(&grant.id)
        .bind(DateTime::from_timestamp(grant.expires, 0))
        .execute(&mut *tx)
        .await
        .on_constraint("used_grant_key", || Error::GrantUsed)?;
    Ok(())
}

/// On the shared side: whether the caller is still in the tenant, with a role in all of it that is high enough. A context token may be a minute
/// old.
pub(crate) async fn still(tx: &mut Connection, scope: &Scope) -> Result<(), Error> {
    let role: Option<Option<String>> =
        sqlx::query_scalar("SELECT role FROM tenant.seat WHERE user_id = $1 AND tenant_id = $2")
            .bind(scope.subject.user().to_string())
            .bind(scope.tenant().to_string())
            .fetch_optional(&mut *tx)
            .await?;
    let role = role.ok_or(Error::NotAMember)?;
    let role: Option<Role> = role.map(|role| stored(&role, "role")).transpose()?;
    if role >= Some(scope.needed) {
        Ok(())
    } else {
        Err(Error::RoleTooLow)
    }
}
