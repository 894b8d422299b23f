//! `trailmesh audit verify`: whether an audit log is what was written. An export is judged offline, with nothing but the keys of the
//! installation; a log can also be judged in its database.
//!
//! Exit codes: 0 whole, 1 touched (or a head is false), 3 not touched as far as can be seen, but there are records that no signature covers
//! which was checked, 65 not an export, 66 a file that cannot be read.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use ::audit::{
    Finding, HeadError, Keys, Report, SignedHead,
    native::{self, Header, LONGEST_LINE, Proof, Reader},
};
use chassis::SecretString;
use clap::{Subcommand, ValueEnum};
use serde_json::json;
use types::TenantId;

/// What `trailmesh audit` takes.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Tell whether an audit log is what was written, and if not, which record is the first that was touched
    Verify(Box<Verify>),
}

#[derive(clap::Args)]
struct Verify {
    /// A native export (GET /v1/audit:export); without one, or with -, standard input
    file: Option<PathBuf>,
    /// What GET /v1/signing-keys answered: with it the signatures are checked too
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// What GET /v1/audit/head answered at some time and was kept apart: the log must still agree with it. May be given several times
    #[arg(long, value_name = "FILE")]
    head: Vec<PathBuf>,
    /// How to tell it
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Judge the log in this database, with the account of service tenant, instead of an export
    #[arg(
        long,
        env = "TRAILMESH_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    database_url: Option<SecretString>,
    /// PEM file of the authority that signed the database server's certificate
    #[arg(long, env = "TRAILMESH_DATABASE_CA_FILE", value_name = "FILE")]
    database_ca_file: Option<PathBuf>,
    /// Take a database server that cannot be verified; for a developer's own machine
    #[arg(long)]
    dev: bool,
    /// Whose log to judge in the database
    #[arg(long, value_name = "TENANT", conflicts_with = "file")]
    tenant: Option<TenantId>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One line of JSON
    Json,
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// A file.
    #[error("cannot read {path}")]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Standard input.
    #[error("cannot read standard input")]
    Input(#[source] io::Error),
    /// A file that is something else.
    #[error("{path} is not what {from} answers")]
    Content { path: PathBuf, from: &'static str },
    /// The export.
    #[error(transparent)]
    Export(#[from] native::Error),
    /// No database was named.
    #[error("which database? Give --database-url with --tenant")]
    NoDatabase,
    /// The database's settings.
    #[error(transparent)]
    Settings(#[from] pg::SettingsError),
    /// The process cannot run at all.
    #[error("cannot start")]
    Start(#[source] io::Error),
    /// The database.
    #[error(transparent)]
    Database(#[from] chassis::Error),
}

impl Error {
    /// As sysexits.h has them, where it has one.
    fn exit_code(&self) -> u8 {
        match self {
            Self::File { .. } | Self::Input(_) => 66,
            Self::Content { .. } | Self::Export(native::Error::NoExport) => 65,
            Self::Export(native::Error::Head(HeadError::UnknownKey(_))) => 3,
            Self::Export(_) | Self::Start(_) | Self::Database(_) => 1,
            Self::NoDatabase | Self::Settings(_) => 2,
        }
    }
}

/// What was found.
struct Verdict {
    tenant: String,
    report: Report,
    proof: Proof,
}

/// Runs the verb.
pub(crate) fn run(options: &Options) -> ExitCode {
    let Verb::Verify(options) = &options.verb;
    match judge(options) {
        Ok(verdict) => {
            let text = match options.format {
                Format::Text => verdict.text(),
                Format::Json => verdict.json(),
            };
            // Nobody reads what cannot be written; the exit code says it too.
            let _ = writeln!(io::stdout(), "{text}");
            ExitCode::from(verdict.exit_code())
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "trailmesh: {}", types::chain(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

fn judge(options: &Verify) -> Result<Verdict, Error> {
    let keys = options.keys.as_deref().map(read_keys).transpose()?;
    let heads = options
        .head
        .iter()
        .map(|path| read_head(path))
        .collect::<Result<Vec<_>, _>>()?;
    if let Some(tenant) = options.tenant {
        return in_database(options, tenant, keys.as_ref(), &heads);
    }
    match options.file.as_deref() {
        Some(path) if path != Path::new("-") => {
            let failed = |source| Error::File {
                path: path.to_owned(),
                source,
            };
            let file = File::open(path).map_err(failed)?;
            export(BufReader::new(file), keys.as_ref(), &heads, failed)
        }
        _ => export(io::stdin().lock(), keys.as_ref(), &heads, Error::Input),
    }
}

fn read_text(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })
}

fn read_keys(path: &Path) -> Result<Keys, Error> {
    Keys::read(&read_text(path)?).ok_or_else(|| Error::Content {
        path: path.to_owned(),
        from: "GET /v1/signing-keys",
    })
}

fn read_head(path: &Path) -> Result<SignedHead, Error> {
    serde_json::from_str(&read_text(path)?).map_err(|_| Error::Content {
        path: path.to_owned(),
        from: "GET /v1/audit/head",
    })
}

/// The next line without its end, and whether it had one; none at the end of the file. A line that is too long, or no text, is told as one
/// that is no record.
fn next_line(input: &mut impl BufRead) -> io::Result<Option<(String, bool)>> {
    let mut bytes = Vec::new();
    let most = LONGEST_LINE as u64;
    if input.by_ref().take(most).read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        return Ok(Some((text(bytes), true)));
    }
    let mut rest = bytes.len() == LONGEST_LINE;
    let too_long = rest;
    while rest {
        let mut more = Vec::new();
        let read = input.by_ref().take(most).read_until(b'\n', &mut more)?;
        rest = read > 0 && more.last() != Some(&b'\n');
    }
    if too_long {
        return Ok(Some(("too long".to_owned(), true)));
    }
    Ok(Some((text(bytes), false)))
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|_| "no text".to_owned())
}

fn export(
    mut input: impl BufRead,
    keys: Option<&Keys>,
    heads: &[SignedHead],
    failed: impl Fn(io::Error) -> Error,
) -> Result<Verdict, Error> {
    let (first, _) = next_line(&mut input)
        .map_err(&failed)?
        .ok_or(native::Error::NoExport)?;
    let mut reader = Reader::new(&first, keys, heads)?;
    while let Some((line, whole)) = next_line(&mut input).map_err(&failed)? {
        reader.push_line(&line, whole);
    }
    Ok(Verdict::of(reader))
}

fn in_database(
    options: &Verify,
    tenant: TenantId,
    keys: Option<&Keys>,
    heads: &[SignedHead],
) -> Result<Verdict, Error> {
    let url = options.database_url.as_ref().ok_or(Error::NoDatabase)?;
    let mut settings = pg::Settings::new(url.expose())?;
    settings.database_ca_file.clone_from(&options.database_ca_file);
    settings.check(options.dev)?;
    let runtime = crate::command_runtime().map_err(Error::Start)?;
    runtime.block_on(async {
        let head = tenant::last_audit_head(&settings, options.dev, tenant).await?;
        let mut reader = Reader::of(&Header::new(tenant.to_string(), head), keys, heads)?;
        tenant::read_audit_log(&settings, options.dev, tenant, |link| match link {
            Some(link) => reader.push(&link),
            None => reader.push_unreadable(),
        })
        .await?;
        Ok(Verdict::of(reader))
    })
}

impl Verdict {
    fn of(reader: Reader) -> Self {
        let tenant = reader.tenant().to_owned();
        let (report, proof) = reader.finish();
        Self {
            tenant,
            report,
            proof,
        }
    }

    fn exit_code(&self) -> u8 {
        match (self.report.finding, self.proof, self.report.unsigned()) {
            (Some(_), ..) => 1,
            (None, Proof::Signed, None) => 0,
            (None, ..) => 3,
        }
    }

    fn word(&self) -> &'static str {
        match self.exit_code() {
            0 => "whole",
            3 => "unproven",
            _ => "touched",
        }
    }

    fn signature(&self) -> &'static str {
        match self.proof {
            Proof::Signed => "checked",
            Proof::Unchecked => "not_checked",
            Proof::Missing => "missing",
        }
    }

    /// The first line.
    fn sentence(&self) -> String {
        let report = &self.report;
        let word = self.word();
        let what = format!("{} records, {} to {}", report.records, report.first, report.last);
        match (report.finding, self.proof, report.unsigned()) {
            (Some(finding), ..) => format!("TOUCHED: {finding} (sequence {})", finding.sequence()),
            (None, ..) if report.records == 0 => format!("{word}: no records"),
            (None, Proof::Signed, None) => format!("{word}: {what}"),
            (None, Proof::Signed, Some((first, last))) => format!(
                "{word}: whole up to {}; {first} to {last} have no signature yet",
                report.covered
            ),
            (None, Proof::Unchecked, _) => format!("{word}: {what}; no signature was checked"),
            (None, Proof::Missing, _) => format!("{word}: {what}; no signature covers any of them"),
        }
    }

    fn text(&self) -> String {
        let report = &self.report;
        let mut lines = vec![self.sentence()];
        lines.push(format!("tenant: {}", self.tenant));
        if let Some(front) = report.front {
            lines.push(format!("also: {front}, and no record that can be read says why"));
        }
        let end = match self.proof {
            Proof::Signed => format!(
                "the vault's signature covers the records up to {}",
                report.covered
            ),
            Proof::Unchecked => format!(
                "a head covers the records up to {}; its signature was NOT checked: give --keys",
                report.covered
            ),
            Proof::Missing => {
                "no signed head covers these records: nothing proves that they are what was written, nor that the end was not cut off".to_owned()
            }
        };
        lines.push(format!("end: {end}"));
        if report.finding.is_none() && report.first > 1 && report.covered > 0 {
            lines.push(format!(
                "front: records 1 to {} were removed by retention, as the log itself says",
                report.first - 1
            ));
        }
        for size in &report.outdated {
            lines.push(format!(
                "note: retention has since removed record {size}, whose head was given: it proves nothing now"
            ));
        }
        lines.join("\n")
    }

    fn json(&self) -> String {
        let report = &self.report;
        let told = |finding: Finding| json!({"what": finding.word(), "sequence": finding.sequence(), "text": finding.to_string()});
        json!({
            "verdict": self.word(),
            "tenant": self.tenant,
            "records": report.records,
            "first": report.first,
            "last": report.last,
            "covered": report.covered,
            "unsigned": report.unsigned().map(|(first, last)| json!({"first": first, "last": last})),
            "signature": self.signature(),
            "finding": report.finding.map(told),
            "front": report.front.map(told),
            "outdated_heads": report.outdated,
        })
        .to_string()
    }
}
