//! Servers, in the tenant's registry.

use std::collections::BTreeMap;

use pg::{OnConstraint as _, Transaction};
use sqlx::types::Json;
use types::{PoolId, ServerId};

use super::{Time, micros, part, stored, texts};
use crate::{
    domain::{
        page::Page,
        server::{Draft, Engine, Server, Tls},
    },
    error::{Error, Noun},
};

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    name: String,
    host: String,
    port: i32,
    username: String,
    tls_mode: String,
    engine: Option<String>,
    pool_id: String,
    labels: Json<BTreeMap<String, String>>,
    version: i64,
    create_time: Time,
    update_time: Time,
    frozen: bool,
}

impl TryFrom<Row> for Server {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let engine = |word: &str| Engine::from_word(word).ok_or(Error::Stored("engine"));
        Ok(Self {
            id: stored(&row.id, "server id")?,
            said: Draft {
                name: row.name,
                host: row.host,
                port: u16::try_from(row.port).map_err(|_| Error::Stored("port"))?,
                username: row.username,
                tls: Tls::from_word(&row.tls_mode).ok_or(Error::Stored("TLS mode"))?,
                labels: row.labels.0,
                pool: stored(&row.pool_id, "pool id")?,
            },
            engine: row.engine.as_deref().map(engine).transpose()?,
            version: row.version,
            created: micros(row.create_time),
            updated: micros(row.update_time),
            frozen: row.frozen,
        })
    }
}

macro_rules! columns {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            " id, name, host, port, username, tls_mode, engine, pool_id, labels, version, create_time, update_time, frozen_time IS NOT NULL AS frozen ",
            $after
        )
    };
}

/// How many servers there are.
pub(crate) async fn count(tx: &mut Transaction) -> Result<i64, Error> {
    Ok(sqlx::query_scalar("SELECT count(*) FROM server")
        .fetch_one(&mut **tx)
        .await?)
}

/// Writes a new server.
pub(crate) async fn insert(
    tx: &mut Transaction,
    id: ServerId,
    said: &Draft,
    engine: Option<Engine>,
) -> Result<Server, Error> {
    let row: Row = sqlx::query_as(columns!(
        "INSERT INTO server (id, name, host, port, username, tls_mode, pool_id, labels, engine)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING",
        ""
    ))
    .bind(id.to_string())
    .bind(&said.name)
    .bind(&said.host)
    .bind(i32::from(said.port))
    .bind(&said.username)
    .bind(said.tls.word())
    .bind(said.pool.to_string())
    .bind(Json(&said.labels))
    .bind(engine.map(Engine::word))
    .fetch_one(&mut **tx)
    .await
    .on_constraint("server_name_key", || Error::NameTaken(Noun::Server))?;
    row.try_into()
}

/// One server.
pub(crate) async fn get(tx: &mut Transaction, id: ServerId) -> Result<Server, Error> {
    let row: Option<Row> = sqlx::query_as(columns!("SELECT", "FROM server WHERE id = $1"))
        .bind(id.to_string())
        .fetch_optional(&mut **tx)
        .await?;
    row.ok_or(Error::Missing(Noun::Server))?.try_into()
}

/// The server of this name.
pub(crate) async fn named(tx: &mut Transaction, name: &str) -> Result<Server, Error> {
    let row: Option<Row> = sqlx::query_as(columns!("SELECT", "FROM server WHERE name = $1"))
        .bind(name)
        .fetch_optional(&mut **tx)
        .await?;
    row.ok_or(Error::Missing(Noun::Server))?.try_into()
}

/// The servers by name: of the pools in `within`, and of `pool` where one is given.
pub(crate) async fn list(
    tx: &mut Transaction,
    within: Option<Vec<PoolId>>,
    pool: Option<PoolId>,
    page: &Page,
) -> Result<Vec<Server>, Error> {
    let rows: Vec<Row> = sqlx::query_as(columns!(
        "SELECT",
        "FROM server
         WHERE ($1::text[] IS NULL OR pool_id = ANY ($1)) AND ($2::text IS NULL OR pool_id = $2) AND ($3::text IS NULL OR name > $3)
         ORDER BY name LIMIT $4"
    ))
    .bind(texts(within))
    .bind(pool.map(|pool| pool.to_string()))
    .bind(part(page.after.as_ref(), 0))
    .bind(page.limit())
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter().map(Server::try_from).collect()
}

/// Writes what is now said of a server, if it still has the version it was read at.
pub(crate) async fn update(
    tx: &mut Transaction,
    id: ServerId,
    version: i64,
    said: &Draft,
) -> Result<Server, Error> {
    let row: Option<Row> = sqlx::query_as(columns!(
        "UPDATE server SET name = $3, host = $4, port = $5, username = $6, tls_mode = $7, pool_id = $8, labels = $9,
             version = version + 1, update_time = now()
         WHERE id = $1 AND version = $2 RETURNING",
        ""
    ))
    .bind(id.to_string())
    .bind(version)
    .bind(&said.name)
    .bind(&said.host)
    .bind(i32::from(said.port))
    .bind(&said.username)
    .bind(said.tls.word())
    .bind(said.pool.to_string())
    .bind(Json(&said.labels))
    .fetch_optional(&mut **tx)
    .await
    .on_constraint("server_name_key", || Error::NameTaken(Noun::Server))?;
    row.ok_or(Error::ServerChanged)?.try_into()
}

/// Forgets a server, and the access rules that are for it alone.
pub(crate) async fn delete(tx: &mut Transaction, id: ServerId) -> Result<(), Error> {
    sqlx::query("DELETE FROM server WHERE id = $1")
        .bind(id.to_string())
        .execute(&mut **tx)
        .await?;
    Ok(())
}
