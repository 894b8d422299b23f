//! `trailmesh tenant import`: a tenant out of a file. The file is read to its end and found good before anything is written; then all that is
//! written is one transaction. Only the keys go before it, into the vault: asked for again they are the same, and without their tenant open nothing.

use std::{collections::BTreeMap, path::PathBuf};

use auth::people::Person;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use pg::archive::{AT_ONCE, Admin, BYTES_AT_ONCE, Begin};
use serde::de::DeserializeOwned;
use tenant::operator::travel;
use types::{Secret, TenantId};
use vault::operator::TenantKeys;

use super::{
    ArchiveKey, Error, Installation, Telling,
    archive::{Key, Reader},
    content::{self, Chain, End, FORMAT, Landing, Lines, Manifest, SHARED},
};

/// What `trailmesh tenant import` takes.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The file
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    key: ArchiveKey,
    #[command(flatten)]
    pub(super) telling: Telling,
    #[command(flatten)]
    installation: Installation,
}

/// A file that is whole, without its rows.
struct Found {
    tenant: TenantId,
    manifest: Manifest,
    keys: TenantKeys,
    people: Vec<Person>,
    end: End,
    records: u64,
}

fn parse<T: DeserializeOwned>(what: &str, text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        Error::Malformed(format!(
            "{what} is not as it should be (line {line}, column {column})"
        ))
    })
}

fn malformed(problem: &str) -> Error {
    Error::Malformed(problem.to_owned())
}

pub(super) async fn run(options: &Options) -> Result<(), Error> {
    let key = Key::new(&options.key.archive_key)?;
    options.installation.check_to_receive()?;
    let found = read(options, &key)?;
    let tenant = found.tenant;
    let sentence = format!(
        "the archive of {tenant} is whole: made {} in region {}, cell {}; {} records in its audit log",
        found.manifest.time, found.manifest.region, found.manifest.cell, found.records
    );
    options
        .telling
        .step("read", &sentence, &[("tenant", tenant.to_string().into())]);
    let settings = &options.installation.settings;
    if found.manifest.region != settings.region.word() {
        return Err(Error::OtherRegion {
            tenant,
            theirs: found.manifest.region,
            here: settings.region.word().to_owned(),
        });
    }
    let mut admin = options.installation.admin().await?;
    let keys = options.installation.keys().await?;
    admin.begin(Begin::Write).await?;
    content::same_versions(
        &found.manifest.versions,
        &content::versions(admin.versions(&SHARED).await?),
    )?;
    // Before the keys: whoever fails takes those away again, and must not take those of a run that did not.
    travel::hold_import(admin.connection(), tenant).await?;
    refuse_existing(&mut admin, tenant).await?;
    keys.import_tenant_keys(tenant, &found.keys).await?;
    let (rows, renamed) = match land(options, &key, &found, &mut admin).await {
        Ok(landed) => landed,
        Err(error) => {
            // Its own failure would hide why.
            let _ = keys.forget_tenant_keys(tenant).await;
            return Err(error);
        }
    };
    admin.commit().await?;
    admin.close().await;
    let total: u64 = rows.values().sum();
    let sentence = format!(
        "{tenant} is here: {total} rows, {} people ({renamed} of them have another id here), its audit log verifies. \
         Who is new sets a password by \"forgot password\"; second factors and agents are enrolled anew.",
        found.people.len()
    );
    let facts = [
        ("tenant", tenant.to_string().into()),
        ("rows", total.into()),
        ("people", found.people.len().into()),
        ("people_with_another_id", renamed.into()),
        ("audit_records", found.records.into()),
    ];
    options.telling.result("imported", &sentence, &facts);
    Ok(())
}

/// Everything but the keys, up to the commit: how many rows of each table, and how many people have another id here.
async fn land(
    options: &Options,
    key: &Key,
    found: &Found,
    admin: &mut Admin,
) -> Result<(BTreeMap<String, u64>, usize), Error> {
    let installation = &options.installation;
    let (cell, seal_key) = (&installation.settings.cell, &installation.seal_key);
    admin.create_schema(found.tenant).await?;
    let mut landing = Landing::begin(admin, found.tenant, cell).await?;
    landing.settle(seal_key, &found.people).await?;
    let renamed = landing.renamed();
    write(options, key, &mut landing).await?;
    let rows = landing.verify().await?;
    if rows
        .iter()
        .any(|(label, rows)| found.end.rows.get(label) != Some(rows))
    {
        return Err(malformed("its numbers are not those of its rows"));
    }
    if !matches!(found.manifest.state.as_str(), "active" | "suspended") {
        return Err(malformed("its tenant is neither active nor suspended"));
    }
    travel::arrive(admin.connection(), found.tenant, &found.manifest.state).await?;
    Ok((rows, renamed))
}

/// A tenant that is here, in whatever state, is not overwritten.
async fn refuse_existing(admin: &mut Admin, tenant: TenantId) -> Result<(), Error> {
    if let Some(standing) = travel::standing(admin.connection(), tenant, false).await? {
        return Err(Error::Exists(tenant, standing.state));
    }
    if admin.has_schema(tenant).await? {
        return Err(Error::Exists(tenant, "with a schema of its own".to_owned()));
    }
    Ok(())
}

/// Reads the file to its end.
fn read(options: &Options, key: &Key) -> Result<Found, Error> {
    let mut reader = Reader::open(&options.file, key)?;
    let mut next = || -> Result<(char, String), Error> {
        let line = reader.line()?.ok_or_else(|| malformed("it has no end"))?;
        let mut letters = line.chars();
        let letter = letters.next().ok_or_else(|| malformed("it has an empty line"))?;
        Ok((letter, line))
    };
    let mut lines = Lines::new();
    let (letter, line) = next()?;
    if letter != 'M' {
        return Err(malformed("it has no manifest"));
    }
    let manifest: Manifest = parse("the manifest", &line[1..])?;
    if manifest.format != FORMAT {
        return Err(malformed("it is of another version of this program"));
    }
    lines.add(&line);
    let tenant: TenantId = manifest
        .tenant
        .parse()
        .map_err(|_| malformed("its tenant has no id"))?;
    let (mut keys, mut people, mut label) = (None, Vec::new(), String::new());
    let mut rows: BTreeMap<String, u64> = BTreeMap::new();
    let mut chain = Chain::new(tenant);
    let end: End = loop {
        let (letter, line) = next()?;
        let text = &line[1..];
        match letter {
            'K' => {
                let bytes = BASE64_STANDARD.decode(text).map(Secret::new);
                let bytes = bytes.map_err(|_| malformed("its keys are not as they should be"))?;
                keys = Some(TenantKeys::from_bytes(bytes.expose())?);
            }
            'P' => people.push(parse("a person", text)?),
            'T' => {
                text.clone_into(&mut label);
                rows.entry(label.clone()).or_default();
            }
            'R' => {
                chain.see(&label, text);
                *rows.entry(label.clone()).or_default() += 1;
            }
            'E' => break parse("the end", text)?,
            _ => return Err(malformed("it has a line that means nothing")),
        }
        lines.add(&line);
    };
    if reader.line()?.is_some() {
        return Err(malformed("it goes on after its end"));
    }
    if end.rows != rows || end.people != people.len() as u64 || end.sha256 != lines.sha256() {
        return Err(malformed("its numbers are not those of its lines"));
    }
    Ok(Found {
        tenant,
        manifest,
        keys: keys.ok_or_else(|| malformed("it has no keys"))?,
        people,
        end,
        records: chain.finish()?,
    })
}

/// Reads it again, and writes its rows.
async fn write(options: &Options, key: &Key, landing: &mut Landing<'_>) -> Result<(), Error> {
    let mut reader = Reader::open(&options.file, key)?;
    let (mut label, mut rows, mut bytes) = (String::new(), Vec::new(), 0);
    while let Some(line) = reader.line()? {
        let (letter, text) = line.split_at(1);
        if letter == "R" {
            bytes += text.len();
            rows.push(text.to_owned());
        }
        if !rows.is_empty() && (letter != "R" || rows.len() >= AT_ONCE || bytes >= BYTES_AT_ONCE) {
            landing.rows(&label, std::mem::take(&mut rows)).await?;
            bytes = 0;
        }
        if letter == "T" {
            text.clone_into(&mut label);
            options
                .telling
                .step("table", &format!("writing {label}"), &[("table", text.into())]);
        }
    }
    Ok(())
}
