//! What a server says now of tables whose columns old logs do not name: `trail index --schema-from`.

use std::collections::HashMap;

use binlog::{ColumnDefinition, Definition, LogPos};
use mysql_async::{Conn, prelude::Queryable};

use super::{
    connect::{self, Connector, Facts},
    fault::Fault,
    sql,
};
use crate::{error::Error, options::Server};

/// A server's answer, in the order in which it was asked: what is in the log after its end came after the definitions.
#[derive(Debug)]
pub struct Catalogue {
    /// The server, for messages.
    pub what: String,
    /// Whether it is MariaDB.
    pub is_mariadb: bool,
    /// By (schema, table); tables the server does not have, or does not show us, are missing.
    pub definitions: HashMap<(String, String), Definition>,
    /// Its logs, oldest first, with their lengths; none if it writes no log.
    pub logs: Vec<LogPos>,
}

/// Asks for the definitions of `tables`, on one connection, and then for the logs.
pub async fn definitions(
    server: &Server,
    tables: impl Iterator<Item = &(String, String)>,
) -> Result<Catalogue, Error> {
    let connector = Connector::new(server)?;
    let mut conn = connector
        .connect()
        .await
        .map_err(|fault| fault.into_error(&connector.what))?;
    let answer = ask(&connector, &mut conn, tables)
        .await
        .map_err(|fault| fault.into_error(&connector.what));
    // The answer is complete; how the connection ends changes nothing.
    let _ = tokio::time::timeout(connect::ANSWER, conn.disconnect()).await;
    answer
}

async fn ask(
    connector: &Connector,
    conn: &mut Conn,
    tables: impl Iterator<Item = &(String, String)>,
) -> Result<Catalogue, Fault> {
    let facts = Facts::ask(connector, conn).await?;
    let collations = collations(connector, conn, &facts).await?;
    let mut definitions = HashMap::new();
    for (schema, table) in tables {
        if let Some(found) = definition(connector, conn, &collations, schema, table).await? {
            definitions.insert((schema.clone(), table.clone()), found);
        }
    }
    let logs = if facts.has_log() {
        connect::logs(connector, conn).await?
    } else {
        Vec::new()
    };
    Ok(Catalogue {
        what: connector.what.clone(),
        is_mariadb: facts.is_mariadb(),
        definitions,
        logs,
    })
}

async fn collations(
    connector: &Connector,
    conn: &mut Conn,
    facts: &Facts,
) -> Result<HashMap<String, u16>, Fault> {
    let mut known: Vec<(String, u64)> = connector.answer(conn.query(sql::COLLATIONS)).await?;
    if facts.has_shared_collations() {
        let shared: Vec<(String, u64)> = connector.answer(conn.query(sql::SHARED_COLLATIONS)).await?;
        known.extend(shared);
    }
    Ok(known
        .into_iter()
        .filter_map(|(name, id)| Some((name, u16::try_from(id).ok()?)))
        .collect())
}

type Described = (String, String, String, Option<String>, String, u8, String);

async fn definition(
    connector: &Connector,
    conn: &mut Conn,
    collations: &HashMap<String, u16>,
    schema: &str,
    table: &str,
) -> Result<Option<Definition>, Fault> {
    let columns: Vec<Described> = connector
        .answer(conn.exec(sql::DEFINITION, (schema, table)))
        .await?;
    if columns.is_empty() {
        return Ok(None);
    }
    let key: Vec<(String, Option<u32>)> = connector.answer(conn.exec(sql::KEY, (schema, table))).await?;
    Ok(Some(Definition {
        columns: columns.into_iter().map(|row| column(row, collations)).collect(),
        key: key
            .into_iter()
            .map(|(name, prefix)| (name, prefix.unwrap_or(0)))
            .collect(),
    }))
}

fn column(row: Described, collations: &HashMap<String, u16>) -> ColumnDefinition {
    let (name, data_type, column_type, collation, nullable, generated, extra) = row;
    let extra = extra.to_ascii_lowercase();
    ColumnDefinition {
        name,
        data_type,
        column_type,
        // A collation without a number is text of no known width, never bytes.
        collation: collation.map(|name| collations.get(&name).copied().unwrap_or(u16::MAX)),
        nullable: nullable.eq_ignore_ascii_case("yes"),
        invisible: extra.contains("invisible"),
        generated: generated != 0,
        on_update: extra.contains("on update"),
    }
}
