//! Which tables have rows of a tenant, and in which order.

use std::collections::{BTreeMap, BTreeSet};

use types::TenantId;

use super::{Admin, Shared, place, quoted};
use crate::Error;

/// Where a table's rows of one tenant are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The shared schema; none for the tenant's own.
    pub schema: Option<String>,
    /// Its name.
    pub name: String,
    /// Whether a copy of its rows can be made before the tenant is fenced, and be made what they are by then with little: rows that are large,
    /// have a key, and stand for themselves.
    pub ahead: bool,
    pub(super) columns: Vec<String>,
    /// The primary key.
    pub(super) key: Vec<String>,
    condition: String,
}

impl Table {
    /// As archives and people name it.
    pub fn label(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{schema}.{}", self.name),
            None => self.name.clone(),
        }
    }

    pub(super) fn place(&self, tenant: TenantId) -> String {
        let schema = self.schema.clone().unwrap_or_else(|| place(tenant));
        format!("{}.{}", quoted(&schema), quoted(&self.name))
    }

    /// An id is letters, digits and a `_`.
    pub(super) fn condition(&self, tenant: TenantId) -> String {
        self.condition.replace("$1", &format!("'{tenant}'"))
    }

    pub(super) fn columns(&self) -> String {
        listed(&self.columns, "")
    }

    /// The columns of the primary key, each after `prefix`.
    pub(super) fn key(&self, prefix: &str) -> String {
        listed(&self.key, prefix)
    }
}

fn listed(columns: &[String], prefix: &str) -> String {
    let columns: Vec<String> = columns
        .iter()
        .map(|column| format!("{prefix}{}", quoted(column)))
        .collect();
    columns.join(", ")
}

impl Admin {
    /// The tables with rows of the tenant, each after those it refers to.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tables(&mut self, tenant: TenantId, shared: &[Shared]) -> Result<Vec<Table>, Error> {
        let own = place(tenant);
        let mut schemas: Vec<&str> = shared.iter().map(|shared| shared.schema).collect();
        schemas.push(&own);
        let query = sqlx::query_as(
            "SELECT c.oid::bigint, n.nspname::text, c.relname::text,
                    ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                          AND a.attgenerated = '' ORDER BY a.attnum),
                    ARRAY(SELECT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY(i.indkey)
                          WHERE i.indrelid = c.oid AND i.indisprimary ORDER BY array_position(i.indkey::int2[], a.attnum)),
                    EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attstorage = 'e')
                    AND EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
                    AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND NOT i.indisprimary)
                    AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.contype = 'f' AND c.oid IN (k.conrelid, k.confrelid))
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = ANY($1) AND c.relkind = 'r' ORDER BY n.nspname, c.relname",
        );
        let rows: Vec<Relation> = query
            .bind(&schemas)
            .persistent(false)
            .fetch_all(self.connection())
            .await?;
        let query = sqlx::query_as(
            "SELECT k.conrelid::bigint, k.confrelid::bigint,
                    CASE WHEN cardinality(k.conkey) = 1 THEN (SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = k.conrelid AND a.attnum = k.conkey[1]) END,
                    CASE WHEN cardinality(k.conkey) = 1 THEN (SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = k.confrelid AND a.attnum = k.confkey[1]) END
             FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE k.contype = 'f' AND k.conrelid <> k.confrelid AND n.nspname = ANY($1)",
        );
        let references: Vec<Reference> = query
            .bind(&schemas)
            .persistent(false)
            .fetch_all(self.connection())
            .await?;
        Ok(arrange(rows, &references, &own, shared))
    }
}

/// Number, schema, name, columns, primary key, and whether it has columns that are stored as they are, outside of the row (`EXTERNAL`), which
/// is how large values that cannot be compressed are, and nothing but its key that a row could be in the way of another by.
type Relation = (i64, String, String, Vec<String>, Vec<String>, bool);

/// Which table refers to which; by which column to which, if it is one.
type Reference = (i64, i64, Option<String>, Option<String>);

/// What is the tenant's, and in which order.
fn arrange(relations: Vec<Relation>, references: &[Reference], own: &str, shared: &[Shared]) -> Vec<Table> {
    let mut found: BTreeMap<i64, Table> = BTreeMap::new();
    for relation in &relations {
        if let Some(table) = told_by_itself(relation, own, shared) {
            found.insert(relation.0, table);
        }
    }
    for relation in &relations {
        if !found.contains_key(&relation.0)
            && let Some(table) = told_by_another(relation, references, &found, shared)
        {
            found.insert(relation.0, table);
        }
    }
    in_order(&found, references)
}

/// A table that says itself whose its rows are.
fn told_by_itself(relation: &Relation, own: &str, shared: &[Shared]) -> Option<Table> {
    let (_, schema, name, columns, key, ahead) = relation;
    let home = shared.iter().find(|shared| shared.schema == schema);
    let condition = match home {
        None if schema == own => "true",
        Some(home) if home.without.contains(&name.as_str()) => return None,
        Some(home) if home.root == Some(name) => "id = $1",
        Some(_) if columns.iter().any(|column| column == "tenant_id") => "tenant_id = $1",
        _ => return None,
    };
    Some(Table {
        schema: home.map(|_| schema.clone()),
        name: name.clone(),
        // Shared tables are everybody's: they are not fenced.
        ahead: *ahead && home.is_none(),
        columns: columns.clone(),
        key: key.clone(),
        condition: condition.to_owned(),
    })
}

/// A shared table whose rows are whose the rows are that they refer to.
fn told_by_another(
    relation: &Relation,
    references: &[Reference],
    found: &BTreeMap<i64, Table>,
    shared: &[Shared],
) -> Option<Table> {
    let (oid, schema, name, columns, key, _) = relation;
    let home = shared.iter().find(|shared| shared.schema == schema)?;
    if home.without.contains(&name.as_str()) {
        return None;
    }
    let (parent, column, referred) = references.iter().find_map(|(child, parent, column, referred)| {
        let parent = found.get(parent).filter(|_| child == oid)?;
        let of_one_schema = parent.schema.as_deref() == Some(schema);
        of_one_schema.then_some((parent, column.as_ref()?, referred.as_ref()?))
    })?;
    let condition = format!(
        "{} IN (SELECT {} FROM {}.{} WHERE {})",
        quoted(column),
        quoted(referred),
        quoted(schema),
        quoted(&parent.name),
        parent.condition
    );
    Some(Table {
        schema: Some(schema.clone()),
        name: name.clone(),
        ahead: false,
        columns: columns.clone(),
        key: key.clone(),
        condition,
    })
}

/// Each after those it refers to.
fn in_order(found: &BTreeMap<i64, Table>, references: &[Reference]) -> Vec<Table> {
    let mut done = BTreeSet::new();
    let mut tables = Vec::new();
    while done.len() < found.len() {
        let ready = found.keys().find(|oid| {
            let waits = references.iter().any(|(child, parent, ..)| {
                child == *oid && found.contains_key(parent) && !done.contains(parent)
            });
            !done.contains(*oid) && !waits
        });
        // In a circle of references no order is right, and the database will say so.
        let next = ready.or_else(|| found.keys().find(|oid| !done.contains(*oid)));
        let Some(oid) = next else { break };
        done.insert(*oid);
        tables.push(found[oid].clone());
    }
    tables
}
