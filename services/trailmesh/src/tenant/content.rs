//! What an archive says, and what comes of it in a database.
//!
//! Lines, each with a letter before it: `M` the manifest, `K` the tenant's keys in base64, `P` a person, `T` the name of a table, `R` a row of it
//! as JSON, and at the end `E` with the numbers and the SHA-256 of all lines before it.

use std::collections::{BTreeMap, BTreeSet};

use audit::{Hash, Head, Link, Verifier};
use auth::people::{self, Person};
use chassis::SecretString;
use pg::archive::{Admin, Rows, Shared, Table, Version};
use ring::digest::{Context, SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tenant::operator::travel;
use types::TenantId;

use super::Error;

/// Of this file.
pub(super) const FORMAT: u32 = 1;

/// The shared schemas that have rows of tenants. What the vault has goes by its own way.
pub(super) const SHARED: [Shared; 4] = [people::SHARED, travel::SHARED, query::SHARED, recovery::SHARED];

/// Rows that are taken away together, because the source has them no more.
const GONE: usize = 100_000;

const RECORDS: &str = "audit_record";
const CHAIN: &str = "tenant.audit_chain";
pub(super) const INBOX: &str = "tenant.audit_inbox";

/// What the archive begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) format: u32,
    pub(super) program: String,
    pub(super) tenant: String,
    pub(super) region: String,
    pub(super) cell: String,
    /// RFC 3339.
    pub(super) time: String,
    /// `active` or `suspended`: as it is when it has arrived.
    #[serde(default = "active")]
    pub(super) state: String,
    /// Place, service, version and fingerprint of each step that the schemas have.
    pub(super) versions: Vec<(String, String, i32, String)>,
}

fn active() -> String {
    "active".to_owned()
}

/// What is noted at a schema whose tenant is on its way here; and after it, which run of the command brings it.
pub(super) const ARRIVING: &str = "arriving";

pub(super) fn is_arriving(note: Option<&str>) -> bool {
    note.and_then(|note| note.split(' ').next()) == Some(ARRIVING)
}

/// What it ends with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct End {
    pub(super) people: u64,
    pub(super) rows: BTreeMap<String, u64>,
    pub(super) sha256: String,
}

/// As the manifest has the versions.
pub(super) fn versions(versions: Vec<Version>) -> Vec<(String, String, i32, String)> {
    let plain = |version: Version| {
        (
            version.place,
            version.service,
            version.version,
            version.fingerprint,
        )
    };
    versions.into_iter().map(plain).collect()
}

/// Refuses schemas that are not the same to the step.
pub(super) fn same_versions(
    there: &[(String, String, i32, String)],
    here: &[(String, String, i32, String)],
) -> Result<(), Error> {
    let differs = |one: &[(String, String, i32, String)], other: &[(String, String, i32, String)]| {
        one.iter().find(|version| !other.contains(version)).cloned()
    };
    match differs(there, here).or_else(|| differs(here, there)) {
        None => Ok(()),
        Some((place, service, version, _)) => Err(Error::OtherVersion {
            place,
            service,
            version,
        }),
    }
}

/// Rows of a table, whatever their order: how many, and the sum of their digests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) rows: u64,
    digests: [u64; 4],
}

impl Sum {
    pub(super) fn add(&mut self, row: &str) {
        self.rows += 1;
        let bytes = digest(&SHA256, row.as_bytes());
        for (sum, part) in self.digests.iter_mut().zip(bytes.as_ref().chunks_exact(8)) {
            let part = part.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
            *sum = sum.wrapping_add(part);
        }
    }
}

/// The SHA-256 of lines.
pub(super) struct Lines(Context);

impl Lines {
    pub(super) fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    pub(super) fn add(&mut self, line: &str) {
        self.0.update(line.as_bytes());
        self.0.update(b"\n");
    }

    pub(super) fn sha256(self) -> String {
        hex(self.0.finish().as_ref())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads the tenant's audit log as it goes by.
pub(super) struct Chain {
    verifier: Verifier,
    end: Option<Head>,
    tenant: String,
    last: Option<(i64, Hash)>,
}

#[derive(Deserialize)]
struct Record {
    seq: i64,
    prev: String,
    hash: String,
    body: String,
}

#[derive(Deserialize)]
struct ChainEnd {
    size: i64,
    hash: String,
}

/// As PostgreSQL writes `bytea`.
fn hash(text: &str) -> Option<Hash> {
    Hash::from_hex(text.strip_prefix("\\x")?)
}

impl Chain {
    pub(super) fn new(tenant: TenantId) -> Self {
        Self {
            verifier: Verifier::new(&tenant.to_string(), Vec::new()),
            end: None,
            tenant: tenant.to_string(),
            last: None,
        }
    }

    /// Looks at a row, if it is one of the log.
    pub(super) fn see(&mut self, table: &str, row: &str) {
        if table == CHAIN {
            let end = serde_json::from_str(row).ok();
            self.end = end.and_then(|end: ChainEnd| {
                Some(Head {
                    tenant: self.tenant.clone(),
                    size: end.size,
                    hash: hash(&end.hash)?,
                    time: String::new(),
                })
            });
        }
        if table == RECORDS {
            let record = serde_json::from_str(row).ok().and_then(|record: Record| {
                Some(Link {
                    sequence: record.seq,
                    prev: hash(&record.prev)?,
                    hash: hash(&record.hash)?,
                    body: record.body,
                })
            });
            match record {
                Some(link) => {
                    self.verifier.push(&link);
                    self.last = Some((link.sequence, link.hash));
                }
                None => self.verifier.push_unreadable(),
            }
        }
    }

    /// How many records there are, if the log is whole and ends where the directory says it does.
    pub(super) fn finish(self) -> Result<u64, Error> {
        let report = self.verifier.finish();
        if let Some(finding) = report.finding {
            return Err(Error::Log(finding.to_string()));
        }
        match self.end {
            Some(end) if self.last != Some((end.size, end.hash)) => Err(Error::Log(format!(
                "it ends with record {} where the directory says {}",
                report.last, end.size
            ))),
            None if self.last.is_some() => Err(Error::Log("the directory does not know its end".to_owned())),
            _ => Ok(report.records),
        }
    }
}

/// A tenant that comes into its schema in a database, in a transaction of `admin` that has begun.
pub(super) struct Landing<'a> {
    admin: &'a mut Admin,
    tenant: TenantId,
    cell: String,
    tables: Vec<Table>,
    renamed: BTreeMap<String, String>,
    /// What this transaction writes.
    sums: BTreeMap<String, Sum>,
    /// The tables that had rows before it.
    before: BTreeSet<String>,
}

impl<'a> Landing<'a> {
    /// For all of the tenant.
    pub(super) async fn begin(admin: &'a mut Admin, tenant: TenantId, cell: &str) -> Result<Self, Error> {
        let tables = admin.tables(tenant, &SHARED).await?;
        Ok(Self {
            admin,
            tenant,
            cell: cell.to_owned(),
            tables,
            renamed: BTreeMap::new(),
            sums: BTreeMap::new(),
            before: BTreeSet::new(),
        })
    }

    /// For nothing but what can be copied before the tenant is fenced.
    pub(super) async fn begin_ahead(
        admin: &'a mut Admin,
        tenant: TenantId,
        cell: &str,
    ) -> Result<Self, Error> {
        let mut landing = Self::begin(admin, tenant, cell).await?;
        landing.tables.retain(|table| table.ahead);
        Ok(landing)
    }

    /// Sees that its people have accounts.
    pub(super) async fn settle(&mut self, seal_key: &SecretString, persons: &[Person]) -> Result<(), Error> {
        self.renamed = people::settle(self.admin.connection(), seal_key, persons).await?;
        Ok(())
    }

    /// People who have another id here than they had.
    pub(super) fn renamed(&self) -> usize {
        self.renamed.len()
    }

    fn table(&self, label: &str) -> Result<&Table, Error> {
        let table = self.tables.iter().find(|table| table.label() == label);
        table.ok_or_else(|| Error::Malformed(format!("there is no table {label}")))
    }

    /// Writes rows of one of the tenant's own tables, in place of those with the same keys that are there from before.
    pub(super) async fn replace(&mut self, label: &str, rows: &[String]) -> Result<(), Error> {
        self.before.insert(label.to_owned());
        let table = self.table(label)?.clone();
        self.admin.remove(&table, self.tenant, rows).await?;
        let sum = self.sums.entry(label.to_owned()).or_default();
        rows.iter().for_each(|row| sum.add(row));
        Ok(self.admin.write(&table, self.tenant, rows).await?)
    }

    /// Takes away what a table has from before and the source has no more. What the source has is there: so by the numbers of rows alone one
    /// knows whether there is such a row.
    pub(super) async fn keep_what_is_at(&mut self, source: &mut Admin, label: &str) -> Result<(), Error> {
        self.before.insert(label.to_owned());
        let (table, tenant) = (self.table(label)?.clone(), self.tenant);
        let rows = source.count(&table, tenant).await?;
        while self.admin.count(&table, tenant).await? != rows {
            let mut gone = Vec::new();
            let look = async |keys: Vec<String>| -> Result<(), Error> {
                if gone.len() < GONE {
                    gone.extend(source.without(&table, tenant, &keys).await?);
                }
                Ok(())
            };
            self.admin.each_key(&table, tenant, look).await?;
            if gone.is_empty() {
                return Err(Error::Differs(label.to_owned()));
            }
            self.admin.remove(&table, tenant, &gone).await?;
        }
        Ok(())
    }

    /// Writes rows of a table.
    pub(super) async fn rows(&mut self, label: &str, rows: Vec<String>) -> Result<(), Error> {
        let table = self.table(label)?;
        let rows = match &table.schema {
            None => rows,
            Some(_) => rows
                .iter()
                .map(|row| self.settled(&table.name, row))
                .collect::<Result<_, _>>()?,
        };
        let table = table.clone();
        travel::make_room(self.admin.connection(), label, &rows).await?;
        let sum = self.sums.entry(label.to_owned()).or_default();
        rows.iter().for_each(|row| sum.add(row));
        Ok(self.admin.write(&table, self.tenant, &rows).await?)
    }

    fn settled(&self, table: &str, row: &str) -> Result<String, Error> {
        let mut row = plain(row)?;
        people::rename(&mut row, &self.renamed);
        travel::resettle(table, &mut row, &self.cell);
        Ok(row.to_string())
    }

    /// Reads back what was written, and compares it; the rows of each table.
    pub(super) async fn verify_rows(&mut self) -> Result<BTreeMap<String, u64>, Error> {
        self.read_back(&mut Chain::new(self.tenant)).await
    }

    /// The same, and the tenant's audit log as a whole.
    pub(super) async fn verify(mut self) -> Result<BTreeMap<String, u64>, Error> {
        let mut chain = Chain::new(self.tenant);
        let rows = self.read_back(&mut chain).await?;
        chain.finish()?;
        Ok(rows)
    }

    async fn read_back(&mut self, chain: &mut Chain) -> Result<BTreeMap<String, u64>, Error> {
        let mut rows = BTreeMap::new();
        for table in &self.tables {
            let label = table.label();
            let mut sum = Sum::default();
            let add = async |batch: Vec<String>| -> Result<(), Error> {
                for row in batch {
                    chain.see(&label, &row);
                    match table.schema {
                        None => sum.add(&row),
                        Some(_) => sum.add(&plain(&row)?.to_string()),
                    }
                }
                Ok(())
            };
            let was_there = self.before.contains(&label);
            let which = if was_there { Rows::Written } else { Rows::All };
            self.admin.each(table, self.tenant, which, add).await?;
            if sum != self.sums.get(&label).copied().unwrap_or_default() {
                return Err(Error::Differs(label));
            }
            let count = if was_there {
                self.admin.count(table, self.tenant).await?
            } else {
                sum.rows
            };
            rows.insert(label, count);
        }
        Ok(rows)
    }
}

/// A row as a value whose text depends on nothing but what it says.
fn plain(row: &str) -> Result<Value, Error> {
    serde_json::from_str(row).map_err(|error| Error::Malformed(format!("a row is no JSON: {error}")))
}
