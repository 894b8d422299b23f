//! `trail agent`: the program beside the database as a part of a mesh.

use std::{
    env,
    fs::File,
    io::{self, Read},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process,
    sync::Arc,
};

use clap::{Args, Subcommand, builder::BoolishValueParser};
use tokio_util::sync::CancellationToken;
use tower::util::BoxCloneService;
use types::{Code, Fault as _, Secret, chain};

use super::{
    help,
    note::{note, raw},
    report::{print, print_json},
    stop::Stop,
};
use crate::{
    agent::{self, Answers, Folder, Mode, Tempo, pins::Pin},
    error::Error,
    exit::Exit,
    render::{ReportFormat, text::visible},
    serve::Service,
};

const TOKEN: &str = "TRAIL_AGENT_TOKEN";
/// Far longer than any token.
const TOKEN_BYTES_MAX: u64 = 4_096;

#[derive(Debug, Args)]
pub(crate) struct Agent {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make this folder an agent of a mesh, with a token that works once
    #[command(after_help = help::AGENT_ENROL)]
    Enrol(Enrol),
    /// Follow the servers that the mesh assigns, and answer its questions about them
    #[command(after_help = help::AGENT_RUN)]
    Run(Run),
    /// Who the folder's agent is and how it goes; asks nobody
    Status(Status),
}

#[derive(Debug, Args)]
struct Place {
    /// The agent's folder, the only one it writes to [default: $STATE_DIRECTORY, or trail/agent in $XDG_DATA_HOME or ~/.local/share]
    #[arg(long, value_name = "DIR", env = "TRAIL_AGENT_DIR", hide_env = true)]
    dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Way {
    /// A key of the mesh's door, as sha256/BASE64 of its SPKI; give at least two: the one in use and one kept for later
    #[arg(
        long = "pin",
        value_name = "PIN",
        value_delimiter = ',',
        env = "TRAIL_AGENT_PIN",
        hide_env = true
    )]
    pins: Vec<Pin>,

    /// The HTTP proxy on the way to the mesh, or none [default: HTTPS_PROXY, unless NO_PROXY names the mesh]
    #[arg(
        long,
        value_name = "URL",
        env = "TRAIL_AGENT_PROXY",
        hide_env = true,
        hide_env_values = true
    )]
    proxy: Option<String>,
}

#[derive(Debug, Args)]
struct Enrol {
    /// The mesh, as https://mesh.example.com
    #[arg(long, value_name = "URL", env = "TRAIL_AGENT_MESH", hide_env = true)]
    mesh: String,

    /// File with the enrolment token, or - for standard input [default: the token is in TRAIL_AGENT_TOKEN]
    #[arg(long, value_name = "FILE", env = "TRAIL_AGENT_TOKEN_FILE", hide_env = true)]
    token_file: Option<PathBuf>,

    /// Authorities that vouch for the mesh, PEM, instead of this machine's
    #[arg(long, value_name = "FILE", env = "TRAIL_AGENT_CA", hide_env = true)]
    ca: Option<PathBuf>,

    /// The folder's agent comes back as who it was, with a new token of it; what it has stored stays
    #[arg(long, env = "TRAIL_AGENT_AGAIN", hide_env = true, value_parser = BoolishValueParser::new())]
    again: bool,

    #[command(flatten)]
    way: Way,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
struct Run {
    /// hosted: passwords of servers come from the mesh's vault and stay in memory; byos: from this agent's own environment
    #[arg(
        long,
        value_enum,
        hide_possible_values = true,
        default_value = "hosted",
        value_name = "MODE",
        env = "TRAIL_AGENT_MODE",
        hide_env = true
    )]
    mode: Mode,

    #[command(flatten)]
    way: Way,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
struct Status {
    /// table for people, json or ndjson (on one line) for programs
    #[arg(
        long,
        value_enum,
        hide_possible_values = true,
        default_value_t,
        value_name = "FORMAT",
        env = "TRAIL_AGENT_FORMAT",
        hide_env = true
    )]
    format: ReportFormat,

    #[command(flatten)]
    place: Place,
}

impl Agent {
    /// Whether it stays, so that what happens meanwhile is worth telling.
    pub(super) fn stays(&self) -> bool {
        matches!(self.command, Command::Run(_))
    }
}

/// `trail agent …`.
pub(super) fn agent(args: Agent) -> Result<Exit, Error> {
    match args.command {
        Command::Enrol(args) => enrol(args),
        Command::Run(args) => run(args),
        Command::Status(args) => status(&args),
    }
}

fn enrol(args: Enrol) -> Result<Exit, Error> {
    let token = match token(args.token_file.as_deref()) {
        Ok(token) => token,
        Err(error) => return Ok(ended(&error)),
    };
    let folder = match Folder::choose(args.place.dir) {
        Ok(folder) => folder,
        Err(error) => return Ok(ended(&error)),
    };
    let enrol = agent::Enrol {
        folder,
        mesh: args.mesh,
        token,
        pins: args.way.pins,
        ca: args.ca,
        proxy: args.way.proxy,
        again: args.again,
    };
    let stop = Stop::listen()?;
    let outcome = stop.run(|_| agent::enrol(&enrol));
    match outcome {
        Ok(enrolled) => {
            raw(&visible(&format!(
                "enrolled {} of {}; its folder is {}",
                enrolled.agent,
                enrolled.tenant,
                enrol.folder.path().display()
            )));
            if let Some(pin) = enrolled.door_not_pinned {
                note(&format!(
                    "the key that the mesh showed, {pin}, is none of its pins: if your operator confirms it, run the agent with --pin for it and for one more"
                ));
            }
            Ok(Exit::Done)
        }
        Err(error) => Ok(ended(&error)),
    }
}

/// glibc gives every thread a heap of its own and keeps what is freed in each: after a store was read through, 146 MB stayed where 30 are needed.
/// It listens only to the environment of its start, so this starts the same program again in place of itself, unless somebody has chosen already.
/// Where that cannot be done the agent runs as it is.
fn with_few_heaps() {
    const HEAPS: &str = "MALLOC_ARENA_MAX";
    if !cfg!(target_env = "gnu") || env::var_os(HEAPS).is_some() {
        return;
    }
    let Ok(program) = env::current_exe() else { return };
    let mut args = env::args_os();
    let mut again = process::Command::new(program);
    if let Some(name) = args.next() {
        again.arg0(name);
    }
    let failed = again
        .args(args)
        .env(HEAPS, "2")
        .env("MALLOC_TRIM_THRESHOLD_", (1 << 20).to_string())
        .exec();
    tracing::debug!(error = %failed, "the agent goes on with the heaps that it has");
}

fn run(args: Run) -> Result<Exit, Error> {
    with_few_heaps();
    let folder = match Folder::choose(args.place.dir) {
        Ok(folder) => folder,
        Err(error) => return Ok(ended(&error)),
    };
    let run = agent::Run {
        folder,
        mode: args.mode,
        pins: args.way.pins,
        proxy: args.way.proxy,
        tempo: Tempo::default(),
    };
    let stop = Stop::listen()?;
    let outcome = stop.run(|mut wanted| async move {
        let end = CancellationToken::new();
        let mut running = std::pin::pin!(agent::run(run, answers, end.clone()));
        tokio::select! {
            outcome = &mut running => return outcome,
            // A sender that is gone means the same.
            _ = wanted.wait_for(|wanted| *wanted) => end.cancel(),
        }
        tracing::info!("told to end");
        running.await
    });
    match outcome {
        Ok(()) => Ok(Exit::Done),
        Err(error) => Ok(ended(&error)),
    }
}

/// What the agent answers, on every connection the same.
fn answers(
    stores: Arc<agent::seam::Stores>,
    keys: chassis::token::KeySet,
    about: agent::seam::About,
) -> Answers {
    let service = Service::new(stores, keys, about);
    Arc::new(move |line| BoxCloneService::new(service.on(line)))
}

fn status(args: &Status) -> Result<Exit, Error> {
    let found = Folder::choose(args.place.dir.clone()).and_then(|folder| agent::status(&folder));
    let status = match found {
        Ok(status) => status,
        Err(error) => return Ok(ended(&error)),
    };
    match args.format {
        ReportFormat::Table => print(&text(&status))?,
        format => {
            let value = serde_json::to_value(&status)
                .map_err(|error| Error::new(Code::Internal, "the status", error))?;
            print_json(&value, format)?;
        }
    }
    Ok(Exit::Done)
}

fn text(status: &agent::Status) -> String {
    let mut lines = vec![
        ("agent", status.agent.clone()),
        ("tenant", status.tenant.clone()),
        ("mesh", status.mesh.clone()),
        ("folder", status.folder.clone()),
        ("running", if status.running { "yes" } else { "no" }.to_owned()),
        ("started", format!("{} times", status.generation)),
        (
            "certificate",
            format!(
                "{} {}",
                if status.certificate_ended { "ended" } else { "ends" },
                status.certificate_ends
            ),
        ),
    ];
    if let Some(last) = &status.last {
        lines.push(("last started", last.started.clone()));
        if status.running {
            lines.push(("connections", last.replicas.len().to_string()));
            if !last.problem.is_empty() {
                lines.push(("PROBLEM", last.problem.clone()));
            }
        }
        for server in last.servers.values() {
            lines.push(("server", line(server, status.running)));
        }
    }
    lines
        .iter()
        .map(|(name, value)| format!("{name:<14}{}\n", visible(value)))
        .collect()
}

fn line(server: &agent::ServerStatus, running: bool) -> String {
    let mut text = server.name.clone();
    for part in [
        Some(&server.engine).filter(|engine| !engine.is_empty()).cloned(),
        (running && server.following).then(|| "following".to_owned()),
        server.position.as_ref().map(|at| format!("stored up to {at}")),
        server.lag_bytes.map(|bytes| format!("{bytes} bytes behind")),
        Some(&server.problem)
            .filter(|problem| !problem.is_empty())
            .map(|problem| format!("PROBLEM: {problem}")),
    ]
    .into_iter()
    .flatten()
    {
        text.push_str(", ");
        text.push_str(&part);
    }
    text
}

/// The token from one of its places; never from the command line, where other users could read it.
fn token(file: Option<&Path>) -> Result<Secret<String>, agent::Error> {
    let usage = |what: String, why: String| agent::Error::Usage {
        what,
        why,
        hint: "put the token into TRAIL_AGENT_TOKEN, or give --token-file FILE, or --token-file - and the token on standard input",
    };
    let (what, text) = match (file, env::var(TOKEN)) {
        (Some(_), Ok(_)) => {
            return Err(usage(
                format!("--token-file and {TOKEN}"),
                "both are given".to_owned(),
            ));
        }
        (Some(path), Err(_)) => {
            let what = format!("--token-file {}", path.display());
            let text = read(path).map_err(|error| usage(what.clone(), error.to_string()))?;
            (what, text)
        }
        (None, Ok(text)) => (TOKEN.to_owned(), Secret::new(text)),
        (None, Err(_)) => {
            return Err(usage(
                "the enrolment token".to_owned(),
                "it is missing".to_owned(),
            ));
        }
    };
    let token = text.expose().trim();
    if token.is_empty() || token.contains(char::is_whitespace) {
        return Err(usage(what, "it does not hold one token".to_owned()));
    }
    Ok(Secret::new(token.to_owned()))
}

fn read(path: &Path) -> io::Result<Secret<String>> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().take(TOKEN_BYTES_MAX).read_to_string(&mut text)
    } else {
        File::open(path)?.take(TOKEN_BYTES_MAX).read_to_string(&mut text)
    };
    let text = Secret::new(text);
    read.map(|_| text)
}

/// One line that says what went wrong, one that says what to do, and how the process ends.
fn ended(error: &agent::Error) -> Exit {
    raw(&visible(&format!("trail: {}", chain(error))));
    if let Some(hint) = error.hint() {
        raw(&visible(&format!("hint: {hint}")));
    }
    tracing::debug!(reason = error.reason(), "ended");
    error.exit()
}
