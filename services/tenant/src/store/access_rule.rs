//! Access rules, in the tenant's registry.

use pg::Transaction;
use types::{
    Micros, PoolId, Role, ServerId,
    access::{Effect, Pattern, Rule, Target, columns},
};

use super::{Time, micros, part, stored, stored_option, texts};
use crate::{
    domain::page::Page,
    error::{Error, Noun},
};

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    role: String,
    server_id: Option<String>,
    schema_name: String,
    table_name: String,
    columns: Vec<String>,
    effect: String,
    create_time: Time,
}

impl TryFrom<Row> for (Rule, Micros) {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let wrong = |_| Error::Stored("access rule");
        let target = Target {
            role: stored(&row.role, "role")?,
            server: stored_option(row.server_id.as_deref(), "server id")?,
            schema: Pattern::parse(&row.schema_name).map_err(wrong)?,
            table: Pattern::parse(&row.table_name).map_err(wrong)?,
            columns: columns(&row.columns).map_err(wrong)?,
        };
        let rule = Rule {
            id: stored(&row.id, "access rule id")?,
            target,
            effect: Effect::from_word(&row.effect).ok_or(Error::Stored("effect"))?,
        };
        Ok((rule, micros(row.create_time)))
    }
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, role, server_id, schema_name, table_name, columns, effect, create_time FROM access_rule ",
            $rest
        )
    };
}

/// Writes a new rule, and tells when that was.
pub(crate) async fn insert(tx: &mut Transaction, rule: &Rule) -> Result<Micros, Error> {
    let target = &rule.target;
    let named: Vec<&str> = target.columns.values().map(String::as_str).collect();
    let time: Time = sqlx::query_scalar(
        "INSERT INTO access_rule (id, role, server_id, schema_name, table_name, columns, effect)
         VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING create_time",
    )
    .bind(rule.id.to_string())
    .bind(target.role.word())
    .bind(target.server.map(|server| server.to_string()))
    .bind(target.schema.text())
    .bind(target.table.text())
    .bind(named)
    .bind(rule.effect.word())
    .fetch_one(&mut **tx)
    .await?;
    Ok(micros(time))
}

/// All rules for a role, and when they were made. There are at most [`crate::domain::limit::RULES`] in all.
pub(crate) async fn of_role(tx: &mut Transaction, role: Role) -> Result<Vec<(Rule, Micros)>, Error> {
    let rows: Vec<Row> = sqlx::query_as(select!("WHERE role = $1 ORDER BY id COLLATE \"C\""))
        .bind(role.word())
        .fetch_all(&mut **tx)
        .await?;
    rows.into_iter().map(<(Rule, Micros)>::try_from).collect()
}

/// The rules for a server, of all roles, those for all servers among them.
pub(crate) async fn of_server(tx: &mut Transaction, server: ServerId) -> Result<Vec<(Rule, Micros)>, Error> {
    let rows: Vec<Row> = sqlx::query_as(select!(
        "WHERE server_id IS NULL OR server_id = $1 ORDER BY id COLLATE \"C\""
    ))
    .bind(server.to_string())
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter().map(<(Rule, Micros)>::try_from).collect()
}

/// How many rules there are.
pub(crate) async fn count(tx: &mut Transaction) -> Result<i64, Error> {
    Ok(sqlx::query_scalar("SELECT count(*) FROM access_rule")
        .fetch_one(&mut **tx)
        .await?)
}

/// The rules in the order in which they were made; where pools are given, only those for all servers and for servers of these pools.
pub(crate) async fn list(
    tx: &mut Transaction,
    within: Option<Vec<PoolId>>,
    page: &Page,
) -> Result<Vec<(Rule, Micros)>, Error> {
    let rows: Vec<Row> = sqlx::query_as(select!(
        "WHERE ($1::text[] IS NULL OR server_id IS NULL OR server_id IN (SELECT s.id FROM server AS s WHERE s.pool_id = ANY ($1)))
             AND ($2::text IS NULL OR id COLLATE \"C\" > $2)
         ORDER BY id COLLATE \"C\" LIMIT $3"
    ))
    .bind(texts(within))
    .bind(part(page.after.as_ref(), 0))
    .bind(page.limit())
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter().map(<(Rule, Micros)>::try_from).collect()
}

/// Deletes a rule.
pub(crate) async fn delete(tx: &mut Transaction, id: types::RuleId) -> Result<(), Error> {
    let done = sqlx::query("DELETE FROM access_rule WHERE id = $1")
        .bind(id.to_string())
        .execute(&mut **tx)
        .await?;
    if done.rows_affected() == 0 {
        return Err(Error::Missing(Noun::Rule));
    }
    Ok(())
}
