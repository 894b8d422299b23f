//! `trailmesh tenant export`: one moment of a tenant, in a file. Services go on meanwhile.

use std::{collections::BTreeMap, path::PathBuf};

use auth::people;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use pg::archive::{Admin, Begin, Rows};
use serde::Serialize;
use serde_json::Value;
use tenant::operator::travel;
use types::TenantId;

use super::{
    ArchiveKey, Error, Installation, Telling,
    archive::{Key, Writer},
    content::{self, ARRIVING, Chain, End, FORMAT, INBOX, Lines, Manifest, SHARED, is_arriving},
};

/// What `trailmesh tenant export` takes.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// tnt_…
    #[arg(value_name = "TENANT", value_parser = super::tenant)]
    id: TenantId,
    /// The file to make
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    key: ArchiveKey,
    #[command(flatten)]
    pub(super) telling: Telling,
    #[command(flatten)]
    installation: Installation,
}

/// The file, and the sum of what is in it.
struct Book {
    writer: Writer,
    lines: Lines,
}

impl Book {
    fn line(&mut self, letter: char, text: &str) -> Result<(), Error> {
        let line = format!("{letter}{text}");
        self.lines.add(&line);
        Ok(self.writer.line(&line)?)
    }

    fn json(&mut self, letter: char, value: &impl Serialize) -> Result<(), Error> {
        let text = serde_json::to_string(value).map_err(|error| Error::Malformed(error.to_string()))?;
        self.line(letter, &text)
    }
}

pub(super) async fn run(options: &Options) -> Result<(), Error> {
    let key = Key::new(&options.key.archive_key)?;
    options.installation.check()?;
    let mut admin = options.installation.admin().await?;
    let keys = options.installation.keys().await?;
    admin.begin(Begin::Read).await?;
    let tenant = options.id;
    let found = travel::standing(admin.connection(), tenant, false).await?;
    let found = found.ok_or(Error::NoTenant(tenant))?;
    if !matches!(found.state.as_str(), "active" | "suspended") {
        return Err(Error::NotActive(tenant, found.state));
    }
    if is_arriving(admin.note(tenant).await?.as_deref()) {
        return Err(Error::NotActive(tenant, ARRIVING.to_owned()));
    }
    let mut book = Book {
        writer: Writer::create(&options.file, &key)?,
        lines: Lines::new(),
    };
    let manifest = Manifest {
        format: FORMAT,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        tenant: tenant.to_string(),
        region: found.region,
        cell: found.cell,
        time: now(),
        state: found.state,
        versions: content::versions(admin.versions(&SHARED).await?),
    };
    book.json('M', &manifest)?;
    // After the moment that is read: what was sealed by then opens with one of these.
    let unwrapped = keys.export_tenant_keys(tenant).await?.to_bytes()?;
    book.line('K', &BASE64_STANDARD.encode(unwrapped.expose()))?;
    let persons = persons(&mut admin, tenant).await?;
    for person in &persons {
        book.json('P', person)?;
    }
    let rows = tables(&mut admin, tenant, options.telling, &mut book).await?;
    admin.rollback().await?;
    admin.close().await;
    let Book { mut writer, lines } = book;
    let end = End {
        people: persons.len() as u64,
        rows,
        sha256: lines.sha256(),
    };
    let text = serde_json::to_string(&end).map_err(|error| Error::Malformed(error.to_string()))?;
    writer.line(&format!("E{text}"))?;
    writer.finish()?;
    let total: u64 = end.rows.values().sum();
    let sentence = format!(
        "{tenant}: {total} rows and {} people in {}",
        end.people,
        options.file.display()
    );
    let facts: [(&str, Value); 5] = [
        ("tenant", tenant.to_string().into()),
        ("file", options.file.display().to_string().into()),
        ("rows", total.into()),
        ("people", end.people.into()),
        ("sha256", end.sha256.into()),
    ];
    options.telling.result("exported", &sentence, &facts);
    Ok(())
}

fn now() -> String {
    let now = time::OffsetDateTime::now_utc();
    now.format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_default()
}

/// Who has a seat, and who has made a key.
pub(super) async fn persons(admin: &mut Admin, tenant: TenantId) -> Result<Vec<people::Person>, Error> {
    let mut ids = Vec::new();
    for table in admin.tables(tenant, &SHARED).await? {
        let column = match table.label().as_str() {
            "tenant.member" => "user_id",
            "auth.api_key" => "owner_id",
            _ => continue,
        };
        let read = |row: &String| {
            serde_json::from_str::<Value>(row)
                .ok()?
                .get(column)?
                .as_str()
                .map(str::to_owned)
        };
        let gather = async |rows: Vec<String>| -> Result<(), Error> {
            ids.extend(rows.iter().filter_map(read));
            Ok(())
        };
        admin.each(&table, tenant, Rows::All, gather).await?;
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(people::people(admin.connection(), &ids).await?)
}

async fn tables(
    admin: &mut Admin,
    tenant: TenantId,
    telling: Telling,
    book: &mut Book,
) -> Result<BTreeMap<String, u64>, Error> {
    let mut counts = BTreeMap::new();
    let mut chain = Chain::new(tenant);
    for table in admin.tables(tenant, &SHARED).await? {
        let label = table.label();
        book.line('T', &label)?;
        let mut count = 0;
        let put = async |rows: Vec<String>| -> Result<(), Error> {
            count += rows.len() as u64;
            for row in rows {
                chain.see(&label, &row);
                book.line('R', &row)?;
            }
            Ok(())
        };
        admin.each(&table, tenant, Rows::All, put).await?;
        if label == INBOX {
            for row in travel::waiting_events(admin.connection(), tenant).await? {
                count += 1;
                book.line('R', &row)?;
            }
        }
        if count > 0 {
            let facts = [("table", label.clone().into()), ("rows", count.into())];
            telling.step("read", &format!("{label}: {count} rows"), &facts);
        }
        counts.insert(label, count);
    }
    chain.finish()?;
    Ok(counts)
}
