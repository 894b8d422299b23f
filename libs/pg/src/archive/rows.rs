//! The rows of one tenant: read as JSON, some at a time; written; and what has changed of them since a moment.
//!
//! What has changed is told by the number of the transaction that wrote a row, which PostgreSQL keeps with it (`xmin`): every change of a row
//! writes it anew. So nothing need be known of who writes a table, nor be noted by them.

use std::collections::BTreeMap;

use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, SqlSafeStr as _};
use types::TenantId;

use super::{Admin, Table};
use crate::Error;

/// Rows that are read and written together.
pub const AT_ONCE: usize = 500;
/// And at most so many bytes of them, unless a single row has more.
pub const BYTES_AT_ONCE: usize = 4 << 20;

/// Transactions that [`Moment`] remembers of a table; when there are more, rows count as changed that are not, which is no harm.
const SEEN: usize = 10_000;

/// Which rows of a table.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    /// All of the tenant's.
    All,
    /// Those that were not yet, or not as they are, at that moment. What was deleted since is not among them.
    Since(&'a Moment),
    /// Those that this transaction has written.
    Written,
}

/// What a transaction of [`Begin::Read`](super::Begin::Read) sees.
#[derive(Clone, Debug)]
pub struct Moment {
    /// The oldest transaction that was under way: those before it are seen.
    from: i64,
    /// The first transaction that had not begun: it and those after it are not seen.
    to: i64,
    /// Of those between, which are seen in which table. The list of transactions under way would not do: it lacks subtransactions.
    seen: BTreeMap<String, Vec<i64>>,
}

impl Moment {
    /// What tells the rows `t` of a table that are not what they were.
    fn has_changed(&self, table: &Table) -> String {
        let seen: &[i64] = self.seen.get(&table.label()).map_or(&[], Vec::as_slice);
        let seen: Vec<String> = seen.iter().map(i64::to_string).collect();
        format!(
            "({} OR ({} AND t.xmin::text::bigint <> ALL ('{{{}}}'::bigint[])))",
            from_on(self.to),
            from_on(self.from),
            seen.join(",")
        )
    }
}

/// Numbers of transactions have 32 bits and begin anew; of two, the later is the one that comes after the other within half of all.
fn from_on(transaction: i64) -> String {
    format!("((t.xmin::text::bigint - {transaction}) & 4294967295) < 2147483648")
}

impl Admin {
    /// The moment that this transaction reads, for rows that are read since then.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn moment(&mut self, tables: &[Table], tenant: TenantId) -> Result<Moment, Error> {
        let query = sqlx::query_as(
            "SELECT pg_snapshot_xmin(s)::text::bigint & 4294967295, pg_snapshot_xmax(s)::text::bigint & 4294967295
             FROM pg_current_snapshot() AS s",
        );
        let (from, to) = query.persistent(false).fetch_one(self.connection()).await?;
        let mut seen = BTreeMap::new();
        for table in tables {
            self.side_of(table, tenant).await?;
            let words = format!(
                "SELECT DISTINCT t.xmin::text::bigint FROM {} AS t WHERE {} LIMIT {}",
                table.place(tenant),
                from_on(from),
                SEEN + 1
            );
            let query = sqlx::query_scalar(AssertSqlSafe(words).into_sql_str()).persistent(false);
            let found: Vec<i64> = query.fetch_all(self.connection()).await?;
            if found.len() <= SEEN {
                seen.insert(table.label(), found);
            }
        }
        self.side("shared").await?;
        Ok(Moment { from, to, seen })
    }

    /// Reads the tenant's rows of a table, as JSON in the order of the primary key, and gives them to `take`, some at a time.
    ///
    /// # Errors
    /// When the database does not answer; and those of `take`.
    pub async fn each<E: From<Error>>(
        &mut self,
        table: &Table,
        tenant: TenantId,
        which: Rows<'_>,
        take: impl AsyncFnMut(Vec<String>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.side_of(table, tenant).await?;
        let which = match which {
            Rows::All => "true".to_owned(),
            Rows::Since(moment) => moment.has_changed(table),
            Rows::Written => "t.xmin = pg_current_xact_id()::xid".to_owned(),
        };
        let order = match table.key.as_slice() {
            [] => String::new(),
            _ => format!(" ORDER BY {}", table.key("")),
        };
        let words = format!(
            "SELECT {} FROM {} AS t WHERE ({}) AND {which}{order}",
            table.columns(),
            table.place(tenant),
            table.condition(tenant),
        );
        self.read(&words, take).await
    }

    /// The same with the columns of the primary key alone.
    ///
    /// # Errors
    /// When the database does not answer; and those of `take`.
    pub async fn each_key<E: From<Error>>(
        &mut self,
        table: &Table,
        tenant: TenantId,
        take: impl AsyncFnMut(Vec<String>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.side_of(table, tenant).await?;
        let words = format!(
            "SELECT {} FROM {} WHERE {}",
            table.key(""),
            table.place(tenant),
            table.condition(tenant)
        );
        self.read(&words, take).await
    }

    async fn read<E: From<Error>>(
        &mut self,
        words: &str,
        mut take: impl AsyncFnMut(Vec<String>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.words(format!(
            "DECLARE tenant_rows NO SCROLL CURSOR FOR SELECT row_to_json(r)::text FROM ({words}) AS r"
        ))
        .await?;
        while self.fetch(&mut take).await? {}
        self.words("CLOSE tenant_rows".to_owned()).await?;
        Ok(self.side("shared").await?)
    }

    /// Whether there may be more. Rows are taken from the connection one by one: the server waits with what is not yet asked for, so that what
    /// is in memory is what is given on, and no more.
    async fn fetch<E: From<Error>>(
        &mut self,
        take: &mut impl AsyncFnMut(Vec<String>) -> Result<(), E>,
    ) -> Result<bool, E> {
        let words = format!("FETCH {AT_ONCE} FROM tenant_rows");
        let query = sqlx::query_scalar(AssertSqlSafe(words).into_sql_str()).persistent(false);
        let mut stream = query.fetch(self.connection());
        let (mut rows, mut bytes, mut count) = (Vec::new(), 0, 0);
        while let Some(row) = stream.try_next().await.map_err(Error::from)? {
            let row: String = row;
            bytes += row.len();
            count += 1;
            rows.push(row);
            if bytes >= BYTES_AT_ONCE {
                take(std::mem::take(&mut rows)).await?;
                bytes = 0;
            }
        }
        if !rows.is_empty() {
            take(rows).await?;
        }
        Ok(count == AT_ONCE)
    }

    /// Writes rows that [`Self::each`] gave.
    ///
    /// # Errors
    /// When the database does not take them.
    pub async fn write(&mut self, table: &Table, tenant: TenantId, rows: &[String]) -> Result<(), Error> {
        let place = table.place(tenant);
        let columns = table.columns();
        let words = format!(
            "INSERT INTO {place} ({columns}) OVERRIDING SYSTEM VALUE \
             SELECT {columns} FROM json_populate_recordset(NULL::{place}, $1::text::json)"
        );
        self.with(table, tenant, &words, rows).await
    }

    /// Deletes the rows that have the keys of these, which are rows or keys alone.
    ///
    /// # Errors
    /// When the database does not let them go.
    pub async fn remove(&mut self, table: &Table, tenant: TenantId, rows: &[String]) -> Result<(), Error> {
        let place = table.place(tenant);
        let words = format!(
            "DELETE FROM {place} AS t USING json_populate_recordset(NULL::{place}, $1::text::json) AS r \
             WHERE ({}) = ({})",
            table.key("t."),
            table.key("r."),
        );
        self.with(table, tenant, &words, rows).await
    }

    /// Runs a statement with all of the rows, some at a time.
    async fn with(
        &mut self,
        table: &Table,
        tenant: TenantId,
        words: &str,
        rows: &[String],
    ) -> Result<(), Error> {
        self.side_of(table, tenant).await?;
        let mut rest = rows;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take(AT_ONCE).take_while(|row| {
                bytes += row.len();
                bytes <= BYTES_AT_ONCE
            });
            let (now, later) = rest.split_at(fits.count().max(1));
            let query = sqlx::query(AssertSqlSafe(words.to_owned()).into_sql_str());
            let query = query.bind(format!("[{}]", now.join(","))).persistent(false);
            query.execute(self.connection()).await?;
            rest = later;
        }
        self.side("shared").await
    }

    /// How many rows the tenant has in a table.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn count(&mut self, table: &Table, tenant: TenantId) -> Result<u64, Error> {
        self.side_of(table, tenant).await?;
        let (place, condition) = (table.place(tenant), table.condition(tenant));
        let words = format!("SELECT count(*) FROM {place} WHERE {condition}");
        let query = sqlx::query_scalar(AssertSqlSafe(words).into_sql_str()).persistent(false);
        let count: i64 = query.fetch_one(self.connection()).await?;
        self.side("shared").await?;
        Ok(count.unsigned_abs())
    }

    /// Those of these keys that no row has.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn without(
        &mut self,
        table: &Table,
        tenant: TenantId,
        keys: &[String],
    ) -> Result<Vec<String>, Error> {
        self.side_of(table, tenant).await?;
        let place = table.place(tenant);
        let words = format!(
            "SELECT k FROM unnest($1::text[]) AS k CROSS JOIN LATERAL json_populate_record(NULL::{place}, k::json) AS r \
             WHERE NOT EXISTS (SELECT FROM {place} AS t WHERE ({}) = ({}))",
            table.key("t."),
            table.key("r."),
        );
        let query = sqlx::query_scalar(AssertSqlSafe(words).into_sql_str()).bind(keys);
        let without = query.persistent(false).fetch_all(self.connection()).await?;
        self.side("shared").await?;
        Ok(without)
    }
}
