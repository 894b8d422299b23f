//! Every SQL statement of the service: rows in, domain values out, one file a noun. What a person wrote is always bound, never part of a
//! statement.
//!
//! The directory (schema `tenant`) is shared by all tenants, and each statement on it names the tenant. The registry (`server`, `agent`,
//! `access_rule`, `used_grant`) is in the tenant's own schema, which only a transaction made from a [`Scope`] reaches.

pub(crate) mod access_rule;
pub(crate) mod agent;
pub(crate) mod billing;
pub(crate) mod credential;
pub(crate) mod deletion;
pub(crate) mod enrolment;
pub(crate) mod grant;
pub(crate) mod inbox;
pub(crate) mod invitation;
pub(crate) mod member;
pub(crate) mod plan;
pub(crate) mod pool;
pub(crate) mod server;
pub(crate) mod sink;
pub(crate) mod tenant;

use std::{str::FromStr, time::Instant};

use pg::Transaction;
use sqlx::types::chrono::{DateTime, Utc};
use types::{Errand, Micros, Scope, Seat};

use crate::{domain::member::still, error::Error};

/// An instant as columns have it.
pub(crate) type Time = DateTime<Utc>;

/// Where the service keeps things.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pool: pg::Pool,
}

impl Store {
    /// Over this pool.
    pub(crate) fn new(pool: pg::Pool) -> Self {
        Self { pool }
    }

    /// A transaction on the directory.
    pub(crate) async fn directory(&self, deadline: Instant) -> Result<Transaction, Error> {
        Ok(self.pool.shared(deadline).await?)
    }

    /// A transaction on the registry of the scope's tenant.
    pub(crate) async fn registry(&self, scope: &Scope) -> Result<Transaction, Error> {
        Ok(self.pool.tenant(scope).await?)
    }

    /// A transaction on the registry of a tenant for work that nobody asks for at this moment.
    pub(crate) async fn errand(&self, errand: &Errand) -> Result<Transaction, Error> {
        Ok(self.pool.errand(errand).await?)
    }

    /// Appends records to the audit log of the errand's tenant; what `tenant.audit_append` says of each.
    pub(crate) async fn append(&self, errand: &Errand, bodies: &[String]) -> Result<Vec<i64>, Error> {
        Ok(self.pool.call(errand, "tenant.audit_append", bodies).await?)
    }

    /// A transaction that will change something: the proof of the second factor is spent in it where there is one, and the tenant is
    /// locked, so that all changes of one tenant happen one after the other. It begins in the directory.
    ///
    /// The scope to go on with comes along: what the caller is was read again under the lock, and still allows this somewhere; and so was
    /// the tenant's plan.
    pub(crate) async fn change(&self, scope: &Scope) -> Result<(Transaction, Scope), Error> {
        let mut tx = self.pool.tenant(scope).await?;
        if let Some(grant) = &scope.grant {
            grant::spend(&mut tx, grant).await?;
        }
        tx.enter_shared().await?;
        let plan = tenant::lock(&mut tx, scope.tenant()).await?;
        let now = member::roles(&mut tx, scope.tenant(), scope.subject.user()).await?;
        let (role, pools) = now.ok_or(Error::NotAMember)?;
        let seat = Seat {
            plan,
            ..still(&scope.seat, role, pools)
        };
        if seat.highest_role() < Some(scope.needed) {
            return Err(Error::RoleTooLow);
        }
        Ok((
            tx,
            Scope {
                seat,
                ..scope.clone()
            },
        ))
    }

    /// As [`Store::change`], for what is not a thing of one pool: the caller may do this in the whole tenant.
    pub(crate) async fn change_all(&self, scope: &Scope) -> Result<(Transaction, Scope), Error> {
        let (tx, scope) = self.change(scope).await?;
        if !scope.covers_all() {
            return Err(Error::RoleTooLow);
        }
        Ok((tx, scope))
    }
}

fn micros(time: Time) -> Micros {
    Micros(time.timestamp_micros())
}

/// A time from a key of a page.
fn time(text: &str) -> Option<Time> {
    DateTime::from_timestamp_micros(text.parse().ok()?)
}

/// A column that this program wrote from a value of `T`.
fn stored<T: FromStr>(text: &str, what: &'static str) -> Result<T, Error> {
    text.parse().map_err(|_| Error::Stored(what))
}

fn stored_option<T: FromStr>(text: Option<&str>, what: &'static str) -> Result<Option<T>, Error> {
    text.map(|text| stored(text, what)).transpose()
}

/// One part of a page's key.
fn part(after: Option<&Vec<String>>, at: usize) -> Option<&str> {
    after.and_then(|key| key.get(at)).map(String::as_str)
}

/// Ids as an array to bind.
fn texts<T: ToString>(ids: Option<Vec<T>>) -> Option<Vec<String>> {
    ids.map(|ids| ids.iter().map(T::to_string).collect())
}
