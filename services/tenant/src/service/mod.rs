//! The gRPC services, one file each: decode, act, encode. Rules are in `domain`, statements in `store`.

pub(crate) mod access_rule;
pub(crate) mod agent;
pub(crate) mod billing;
mod credential;
pub(crate) mod directory;
pub(crate) mod invitation;
pub(crate) mod member;
mod own;
pub(crate) mod pool;
pub(crate) mod server;
pub(crate) mod sink;
pub(crate) mod tenant;
mod wire;

use std::{collections::HashMap, sync::Arc};

use pg::Transaction;
use tokio::sync::Notify;
use types::{Plan, PoolId, Region, Scope};

use crate::{
    clients::sealer::Sealer,
    domain::limit,
    error::{Error, Noun},
    life::Life,
    store::{self, Store},
};

/// What all services here share.
#[derive(Clone, Debug)]
pub(crate) struct Core {
    /// Where things are kept.
    pub(crate) store: Store,
    /// The installation's region: that of every tenant in it.
    pub(crate) region: Region,
    /// Where the installations of other regions are.
    pub(crate) hosts: Arc<HashMap<Region, String>>,
    /// The part of the installation that new tenants go to.
    pub(crate) cell: String,
    /// What new tenants begin with.
    pub(crate) first_plan: Plan,
    /// Seals the credentials of servers.
    pub(crate) sealer: Sealer,
    /// Beginnings and ends of tenants.
    pub(crate) life: Life,
    /// Wakes the task that sends invitations.
    pub(crate) mail_due: Arc<Notify>,
}

/// Refuses one more where there are `count` already.
fn below(count: i64, of: Noun, most: u32) -> Result<(), Error> {
    if count >= i64::from(most) {
        return Err(Error::Limit { of, most });
    }
    Ok(())
}

/// The pool that a request names, or `default` where it names none; in the directory. A pool in which the caller may not do this is as
/// missing as one that there is not.
async fn pool_named(tx: &mut Transaction, scope: &Scope, text: &str) -> Result<PoolId, Error> {
    let found = if text.is_empty() {
        store::pool::default(tx, scope.tenant()).await?
    } else {
        let id = wire::id(text, Noun::Pool)?;
        store::pool::find(tx, scope.tenant(), id)
            .await?
            .map(|pool| pool.id)
    };
    found
        .filter(|pool| scope.covers(*pool))
        .ok_or(Error::Missing(Noun::Pool))
}

/// The pool that a list is narrowed to, if any; in a transaction of the tenant that is in the registry, and stays there.
async fn pool_filter(tx: &mut Transaction, scope: &Scope, text: &str) -> Result<Option<PoolId>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    tx.enter_shared().await?;
    let pool = pool_named(tx, scope, text).await?;
    tx.enter_tenant().await?;
    Ok(Some(pool))
}

/// Refuses an eleventh tenant of one owner.
fn owns_few(count: i64) -> Result<(), Error> {
    if count >= i64::from(limit::TENANTS) {
        return Err(Error::TenantLimit { most: limit::TENANTS });
    }
    Ok(())
}
