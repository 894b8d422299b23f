//! Agents, in the tenant's registry.

use pg::{OnConstraint as _, Transaction};
use types::{AgentId, PoolId};

use super::{Time, micros, part, stored, texts};
use crate::{
    domain::{
        agent::{Agent, State},
        page::Page,
        token::Token,
    },
    error::{Error, Noun},
};

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    name: String,
    pool_id: String,
    state: String,
    create_time: Time,
    enrolment_expire_time: Option<Time>,
    revoke_time: Option<Time>,
    frozen: bool,
}

impl TryFrom<Row> for Agent {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let state = match (row.state.as_str(), row.enrolment_expire_time, row.revoke_time) {
            ("pending", Some(until), _) => State::Pending { until: micros(until) },
            ("enrolled", _, _) => State::Enrolled,
            ("revoked", _, Some(at)) => State::Revoked { at: micros(at) },
            _ => return Err(Error::Stored("state of an agent")),
        };
        Ok(Self {
            id: stored(&row.id, "agent id")?,
            name: row.name,
            pool: stored(&row.pool_id, "pool id")?,
            state,
            created: micros(row.create_time),
            frozen: row.frozen,
        })
    }
}

macro_rules! columns {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            " id, name, pool_id, state, create_time, enrolment_expire_time, revoke_time, frozen_time IS NOT NULL AS frozen ",
            $after
        )
    };
}

/// How many agents are not revoked.
pub(crate) async fn count(tx: &mut Transaction) -> Result<i64, Error> {
    let count = sqlx::query_scalar("SELECT count(*) FROM agent WHERE state <> 'revoked'");
    Ok(count.fetch_one(&mut **tx).await?)
}

/// Writes a new agent that may enrol with `token` for 24 hours.
pub(crate) async fn insert(
    tx: &mut Transaction,
    id: AgentId,
    name: &str,
    pool: PoolId,
    token: &Token,
) -> Result<Agent, Error> {
    let row: Row = sqlx::query_as(columns!(
        "INSERT INTO agent (id, name, pool_id, enrolment_sha256, enrolment_expire_time)
         VALUES ($1, $2, $3, $4, now() + interval '24 hours') RETURNING",
        ""
    ))
    .bind(id.to_string())
    .bind(name)
    .bind(pool.to_string())
    .bind(token.sha256())
    .fetch_one(&mut **tx)
    .await
    .on_constraint("agent_name_key", || Error::NameTaken(Noun::Agent))?;
    row.try_into()
}

/// One agent.
pub(crate) async fn get(tx: &mut Transaction, id: AgentId) -> Result<Agent, Error> {
    let row: Option<Row> = sqlx::query_as(columns!("SELECT", "FROM agent WHERE id = $1"))
        .bind(id.to_string())
        .fetch_optional(&mut **tx)
        .await?;
    row.ok_or(Error::Missing(Noun::Agent))?.try_into()
}

/// The agents by name, revoked ones for 30 days: of the pools in `within`, and of `pool` where one is given. A name may stand twice, once
/// living and else revoked, so that the id is part of a page's key.
pub(crate) async fn list(
    tx: &mut Transaction,
    within: Option<Vec<PoolId>>,
    pool: Option<PoolId>,
    page: &Page,
) -> Result<Vec<Agent>, Error> {
    let rows: Vec<Row> = sqlx::query_as(columns!(
        "SELECT",
        "FROM agent
         WHERE ($1::text[] IS NULL OR pool_id = ANY ($1)) AND ($2::text IS NULL OR pool_id = $2)
             AND ($3::text IS NULL OR (name, id COLLATE \"C\") > ($3, $4))
             AND (revoke_time IS NULL OR revoke_time > now() - interval '30 days')
         ORDER BY name, id COLLATE \"C\" LIMIT $5"
    ))
    .bind(texts(within))
    .bind(pool.map(|pool| pool.to_string()))
    .bind(part(page.after.as_ref(), 0))
    .bind(part(page.after.as_ref(), 1))
    .bind(page.limit())
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter().map(Agent::try_from).collect()
}

/// The agents of a pool that are enrolled and that the plan has room for, by id. No plan has more than a few hundred.
pub(crate) async fn serving(tx: &mut Transaction, pool: PoolId) -> Result<Vec<AgentId>, Error> {
    let rows: Vec<String> = sqlx::query_scalar(
        "SELECT id FROM agent WHERE pool_id = $1 AND state = 'enrolled' AND frozen_time IS NULL ORDER BY id COLLATE \"C\"",
    )
    .bind(pool.to_string())
    .fetch_all(&mut **tx)
    .await?;
    rows.iter().map(|id| stored(id, "agent id")).collect()
}

/// Gives an agent another token, for 24 hours. One that has enrolled has to do so again: no certificate of it counts until then, and those of
/// before not even then (see the vault).
pub(crate) async fn renew(tx: &mut Transaction, id: AgentId, token: &Token) -> Result<Agent, Error> {
    let row: Option<Row> = sqlx::query_as(columns!(
        "UPDATE agent SET state = 'pending', enrolment_sha256 = $2, enrolment_expire_time = now() + interval '24 hours'
         WHERE id = $1 AND state <> 'revoked' RETURNING",
        ""
    ))
    .bind(id.to_string())
    .bind(token.sha256())
    .fetch_optional(&mut **tx)
    .await?;
    row.ok_or(Error::AgentRevoked)?.try_into()
}

/// Ends an agent that is not ended yet.
pub(crate) async fn revoke(tx: &mut Transaction, id: AgentId) -> Result<(), Error> {
    sqlx::query(
        "UPDATE agent SET state = 'revoked', revoke_time = now(), enrolment_sha256 = NULL, enrolment_expire_time = NULL
         WHERE id = $1 AND state <> 'revoked'",
    )
    .bind(id.to_string())
    .execute(&mut **tx)
    .await?;
    Ok(())
}
