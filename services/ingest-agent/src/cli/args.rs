//! The command line: every command, flag and word of help. Nothing is decided here.

use std::path::PathBuf;

use binlog::Gtid;
use clap::{
    ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
    builder::BoolishValueParser, error::ErrorKind, parser::ValueSource,
};
use types::Micros;

use super::{
    help,
    names::{Tables, Transaction},
    parse::{self, Limit},
};
use crate::{
    options::TlsMode,
    render::{Format, ReportFormat},
};

/// What changed in a MySQL or MariaDB database, when, by which transaction, and the SQL that would undo it
#[derive(Debug, Parser)]
#[command(name = "trail", version, after_help = help::TRAIL, max_term_width = 110)]
#[command(
    arg_required_else_help = true,
    subcommand_required = true,
    disable_help_subcommand = true
)]
pub(crate) struct Trail {
    /// Folder of the store [default: trail/default in $XDG_DATA_HOME or ~/.local/share]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "TRAIL_STORE",
        hide_env = true,
        help_heading = "Everywhere"
    )]
    pub(crate) store: Option<PathBuf>,

    /// What to tell on standard error: error, warn, info, debug [default: warn; info for watch]
    #[arg(
        long,
        global = true,
        value_name = "LEVEL",
        env = "TRAIL_LOG",
        hide_env = true,
        help_heading = "Everywhere"
    )]
    pub(crate) log: Option<tracing::Level>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands, in the order a person meets them.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Follow a server's binary log and keep every row change
    #[command(after_help = help::WATCH)]
    Watch(Watch),
    /// Read binary log files into the store
    #[command(after_help = help::INDEX)]
    Index(Index),
    /// Row changes, newest first
    #[command(after_help = help::CHANGES)]
    Changes(Changes),
    /// Everything that happened to one row, newest first
    #[command(after_help = help::HISTORY)]
    History(History),
    /// Everything one transaction did, in its own order
    #[command(after_help = help::TXN)]
    Txn(Txn),
    /// Write the SQL that undoes chosen changes; nothing is ever executed
    #[command(after_help = help::UNDO)]
    Undo(Undo),
    /// The tables the store has seen
    Tables(Overview),
    /// A table's columns and key, and how they came to be
    Schema(Schema),
    /// What the store's answers cover: from where to where, and where something is missing
    Coverage(Overview),
    /// What the store holds and where it stands
    Status(Overview),
    /// Read the whole store and check every digest
    #[command(after_help = help::VERIFY)]
    Verify(Report),
    /// Begin a session with a mesh, so that commands with --server ask it
    #[command(after_help = help::LOGIN)]
    Login(Login),
    /// End the session
    #[command(after_help = help::LOGOUT)]
    Logout(Door),
    /// Who the mesh takes us for, and in which tenants
    #[command(after_help = help::WHOAMI)]
    Whoami(Whoami),
    /// The servers of the tenant, as --server takes them
    #[command(after_help = help::SERVERS)]
    Servers(Servers),
    /// Send binary log files of a server without an agent to a mesh, to ask it about them
    #[command(after_help = help::UPLOAD)]
    Upload(Upload),
    /// The uploaded log files of the tenant, as --server takes them
    #[command(after_help = help::UPLOADS)]
    Uploads(Uploads),
    /// The agent of a mesh beside the database: enrol it, run it, look at it
    Agent(super::agent::Agent),
    /// Print the completion script of a shell
    #[command(after_help = help::COMPLETIONS)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

impl Trail {
    /// Whether a call that cannot be read is one of `trail agent`, whose wrong calls end as its other mistakes do.
    pub(crate) fn means_agent() -> bool {
        Self::command()
            .ignore_errors(true)
            .try_get_matches()
            .is_ok_and(|matches| matches.subcommand_name() == Some("agent"))
    }

    /// What the process was called with. Where both a store and a server are named, what the command line says counts for more than a variable.
    pub(crate) fn from_command_line() -> Result<Self, clap::Error> {
        let matches = Self::command().try_get_matches()?;
        let mut trail = Self::from_arg_matches(&matches)?;
        let Some((_, given)) = matches.subcommand() else {
            return Ok(trail);
        };
        if !typed(&matches, "store") && !typed(given, "store") {
            return Ok(trail);
        }
        if let Some(mesh) = trail.command.mesh_mut().filter(|mesh| mesh.server.is_some()) {
            if typed(given, "server") {
                return Err(Self::command().error(
                    ErrorKind::ArgumentConflict,
                    "--store and --server cannot be used together: either a store is asked, or a mesh",
                ));
            }
            mesh.server = None;
        }
        Ok(trail)
    }
}

/// Whether the argument stands on the command line itself.
fn typed(matches: &ArgMatches, name: &str) -> bool {
    matches.try_contains_id(name).is_ok() && matches.value_source(name) == Some(ValueSource::CommandLine)
}

impl Command {
    /// Whom to ask, for commands that can ask a mesh.
    pub(crate) fn mesh(&self) -> Option<&Mesh> {
        match self {
            Self::Changes(args) => Some(&args.mesh),
            Self::History(args) => Some(&args.mesh),
            Self::Txn(args) => Some(&args.mesh),
            Self::Undo(args) => Some(&args.mesh),
            Self::Schema(args) => Some(&args.mesh),
            Self::Tables(args) | Self::Coverage(args) | Self::Status(args) => Some(&args.mesh),
            _ => None,
        }
    }

    fn mesh_mut(&mut self) -> Option<&mut Mesh> {
        match self {
            Self::Changes(args) => Some(&mut args.mesh),
            Self::History(args) => Some(&mut args.mesh),
            Self::Txn(args) => Some(&mut args.mesh),
            Self::Undo(args) => Some(&mut args.mesh),
            Self::Schema(args) => Some(&mut args.mesh),
            Self::Tables(args) | Self::Coverage(args) | Self::Status(args) => Some(&mut args.mesh),
            _ => None,
        }
    }
}

/// How the connection to a server is protected.
#[derive(Debug, Args)]
pub(crate) struct TlsFlags {
    /// disabled, preferred, required, verify-ca or verify-identity [default: preferred to this machine, required elsewhere]
    #[arg(
        long,
        value_enum,
        hide_possible_values = true,
        value_name = "MODE",
        env = "TRAIL_TLS_MODE",
        hide_env = true
    )]
    pub(crate) tls_mode: Option<TlsMode>,

    /// Certificates of the authorities to trust, instead of the well-known ones (PEM)
    #[arg(long, value_name = "FILE", env = "TRAIL_TLS_CA", hide_env = true)]
    pub(crate) tls_ca: Option<PathBuf>,

    /// Our certificate, for a server that asks for one (PEM)
    #[arg(long, value_name = "FILE", env = "TRAIL_TLS_CERT", hide_env = true)]
    pub(crate) tls_cert: Option<PathBuf>,

    /// The certificate's private key (PEM)
    #[arg(long, value_name = "FILE", env = "TRAIL_TLS_KEY", hide_env = true)]
    pub(crate) tls_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// The server: mysql://user@host:port/ or mariadb://user@host:port/, or mysql://user@localhost/?socket=/path
    #[arg(value_name = "URL", env = "TRAIL_URL", hide_env = true)]
    pub(crate) url: String,

    #[command(flatten)]
    pub(crate) tls: TlsFlags,

    /// Where to begin, for an empty store: now, oldest, a GTID set, or FILE:POS [default: now]
    #[arg(long, value_name = "PLACE", env = "TRAIL_START", hide_env = true)]
    pub(crate) start: Option<String>,

    /// The id to register with among the server's replicas [default: derived from this installation]
    #[arg(long, value_name = "N", env = "TRAIL_SERVER_ID", hide_env = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) server_id: Option<u32>,

    /// End once everything the server had at the beginning is stored
    #[arg(long, env = "TRAIL_UNTIL_CAUGHT_UP", hide_env = true, value_parser = BoolishValueParser::new())]
    pub(crate) until_caught_up: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Index {
    /// Binary log files
    #[arg(value_name = "FILE", required_unless_present = "dir", conflicts_with = "dir")]
    pub(crate) files: Vec<PathBuf>,

    /// Folder whose binary log files (NAME.000001, NAME.000002, …) to read, in the order of their numbers
    #[arg(long, value_name = "DIR", env = "TRAIL_DIR", hide_env = true)]
    pub(crate) dir: Option<PathBuf>,

    /// For logs that do not name columns: the live server that wrote them, as for watch, to take its tables' present definitions from
    #[arg(long, value_name = "URL", env = "TRAIL_SCHEMA_FROM", hide_env = true)]
    pub(crate) schema_from: Option<String>,

    #[command(flatten)]
    pub(crate) tls: TlsFlags,
}

/// Which changes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Which changes")]
pub(crate) struct Filters {
    /// Only insert, update or delete; may be repeated
    #[arg(
        long = "op",
        value_enum,
        hide_possible_values = true,
        value_name = "OP",
        value_delimiter = ',',
        env = "TRAIL_OP",
        hide_env = true
    )]
    pub(crate) ops: Vec<OpName>,

    /// Committed at or after: 2026-11-21T10:00:00Z, '2026-11-21 10:00', or an age such as 90s, 15m, 2h, 3d
    #[arg(long, value_name = "TIME", value_parser = parse::time, env = "TRAIL_SINCE", hide_env = true)]
    pub(crate) since: Option<Micros>,

    /// Committed at or before (the same forms; a time without a zone is UTC)
    #[arg(long, value_name = "TIME", value_parser = parse::time, env = "TRAIL_UNTIL", hide_env = true)]
    pub(crate) until: Option<Micros>,

    /// Only the transaction with this GTID
    #[arg(long, value_name = "GTID", env = "TRAIL_GTID", hide_env = true)]
    pub(crate) gtid: Option<Gtid>,

    /// Only updates that changed this column
    #[arg(long, value_name = "NAME", env = "TRAIL_COLUMN", hide_env = true)]
    pub(crate) column: Option<String>,
}

/// Which rows, for commands that do not name one row already.
#[derive(Debug, Args)]
#[command(next_help_heading = "Which changes")]
pub(crate) struct Rows {
    /// Only the row with this key: 42, or a,b in key order, or id=42,code=x, or JSON; may be repeated; needs one table
    #[arg(long = "key", value_name = "KEY", env = "TRAIL_KEY", hide_env = true)]
    pub(crate) keys: Vec<String>,
}

/// How many changes, in which order and form.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct Listing {
    /// table for people; json (one array), ndjson (an object per line) or csv for programs
    #[arg(
        long,
        value_enum,
        hide_possible_values = true,
        default_value_t,
        value_name = "FORMAT",
        env = "TRAIL_FORMAT",
        hide_env = true
    )]
    pub(crate) format: Format,

    /// At most this many changes, or all [default: 100 for table, all for the other forms]
    #[arg(long,
        allow_negative_numbers = true, value_name = "N|all", value_parser = parse::limit, env = "TRAIL_LIMIT", hide_env = true)]
    pub(crate) limit: Option<Limit>,

    /// newest or oldest first [default: newest; oldest for txn and with --follow]
    #[arg(
        long,
        value_enum,
        hide_possible_values = true,
        value_name = "ORDER",
        env = "TRAIL_ORDER",
        hide_env = true
    )]
    pub(crate) order: Option<OrderName>,

    /// Go on with new changes as they are stored, until interrupted, after the last 10 (or --limit, or all --since)
    #[arg(long, env = "TRAIL_FOLLOW", hide_env = true, value_parser = BoolishValueParser::new())]
    pub(crate) follow: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Changes {
    /// Tables, as schema.table, or schema.* for all of a schema [default: all]
    #[arg(value_name = "SCHEMA.TABLE")]
    pub(crate) tables: Vec<Tables>,

    #[command(flatten)]
    pub(crate) rows: Rows,
    #[command(flatten)]
    pub(crate) filters: Filters,
    #[command(flatten)]
    pub(crate) listing: Listing,
    #[command(flatten)]
    pub(crate) mesh: Mesh,
}

#[derive(Debug, Args)]
pub(crate) struct History {
    /// The row's table
    #[arg(value_name = "SCHEMA.TABLE")]
    pub(crate) table: Tables,

    /// The row's key: 42, or a,b in key order, or id=42,code=x, or JSON
    pub(crate) key: String,

    #[command(flatten)]
    pub(crate) filters: Filters,
    #[command(flatten)]
    pub(crate) listing: Listing,
    #[command(flatten)]
    pub(crate) mesh: Mesh,
}

#[derive(Debug, Args)]
pub(crate) struct Txn {
    /// The transaction: its GTID, or FILE:POS of its beginning, as `trail changes` prints them
    #[arg(value_name = "GTID|FILE:POS")]
    pub(crate) transaction: Transaction,

    /// Only these tables of it
    #[arg(value_name = "SCHEMA.TABLE")]
    pub(crate) tables: Vec<Tables>,

    #[command(flatten)]
    pub(crate) rows: Rows,
    #[command(flatten)]
    pub(crate) filters: Filters,
    #[command(flatten)]
    pub(crate) listing: Listing,
    #[command(flatten)]
    pub(crate) mesh: Mesh,
}

#[derive(Debug, Args)]
pub(crate) struct Undo {
    /// Tables, as schema.table, or schema.* for all of a schema
    #[arg(value_name = "SCHEMA.TABLE")]
    pub(crate) tables: Vec<Tables>,

    #[command(flatten)]
    pub(crate) rows: Rows,
    #[command(flatten)]
    pub(crate) filters: Filters,

    /// Only this transaction
    #[arg(
        long,
        value_name = "GTID|FILE:POS",
        env = "TRAIL_TXN",
        hide_env = true,
        help_heading = "Which changes"
    )]
    pub(crate) txn: Option<Transaction>,

    /// safe leaves out rows whose same columns changed again later; force overwrites those with the older values
    #[arg(
        long,
        value_enum,
        hide_possible_values = true,
        default_value_t,
        value_name = "MODE",
        env = "TRAIL_MODE",
        hide_env = true,
        help_heading = "Plan"
    )]
    pub(crate) mode: ModeName,

    /// A column that every update sets, such as updated_at: later changes of it alone are no conflict; may be repeated. Those with ON UPDATE CURRENT_TIMESTAMP are known where a live server was followed
    #[arg(
        long = "auto-column",
        value_name = "NAME",
        value_delimiter = ',',
        env = "TRAIL_AUTO_COLUMN",
        hide_env = true,
        help_heading = "Plan"
    )]
    pub(crate) auto_columns: Vec<String>,

    /// Tell each row's class and why
    #[arg(long, env = "TRAIL_EXPLAIN", hide_env = true, value_parser = BoolishValueParser::new(), help_heading = "Plan")]
    pub(crate) explain: bool,

    /// Write the script to FILE (readable by you only) instead of standard output
    #[arg(
        short,
        long,
        value_name = "FILE",
        env = "TRAIL_OUTPUT",
        hide_env = true,
        help_heading = "Output"
    )]
    pub(crate) output: Option<PathBuf>,

    /// Also write the script that undoes the undo
    #[arg(
        long,
        value_name = "FILE",
        env = "TRAIL_REDO",
        hide_env = true,
        help_heading = "Output"
    )]
    pub(crate) redo: Option<PathBuf>,

    /// Replace files that exist
    #[arg(long, env = "TRAIL_OVERWRITE", hide_env = true, value_parser = BoolishValueParser::new(), help_heading = "Output")]
    pub(crate) overwrite: bool,

    #[command(flatten)]
    pub(crate) mesh: Mesh,
}

#[derive(Debug, Args)]
pub(crate) struct Report {
    /// table for people, json or ndjson (on one line) for programs
    #[arg(
        long,
        value_enum,
        hide_possible_values = true,
        default_value_t,
        value_name = "FORMAT",
        env = "TRAIL_FORMAT",
        hide_env = true
    )]
    pub(crate) format: ReportFormat,
}

/// A report about a store, or about a server of a mesh.
#[derive(Debug, Args)]
pub(crate) struct Overview {
    #[command(flatten)]
    pub(crate) report: Report,
    #[command(flatten)]
    pub(crate) mesh: Mesh,
}

#[derive(Debug, Args)]
pub(crate) struct Schema {
    /// The table
    #[arg(value_name = "SCHEMA.TABLE")]
    pub(crate) table: Tables,

    #[command(flatten)]
    pub(crate) report: Report,
    #[command(flatten)]
    pub(crate) mesh: Mesh,
}

/// Whom to ask instead of a store.
#[derive(Debug, Args)]
#[command(next_help_heading = "Through a mesh")]
pub(crate) struct Mesh {
    /// Ask the mesh about this server, by name or id (srv_…; upl_… for an uploaded log), instead of a store
    #[arg(long, value_name = "NAME", env = "TRAIL_SERVER", hide_env = true)]
    pub(crate) server: Option<String>,

    #[command(flatten)]
    pub(crate) door: Door,
}

/// Where a mesh is, and as whom to ask it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Through a mesh")]
pub(crate) struct Door {
    /// The profile that trail login wrote [default: default]
    #[arg(
        long,
        value_name = "NAME",
        default_value = "default",
        hide_default_value = true,
        env = "TRAIL_PROFILE",
        hide_env = true
    )]
    pub(crate) profile: String,

    /// The mesh's address, https://HOST[:PORT] [default: the profile's]
    #[arg(long, value_name = "URL", env = "TRAIL_MESH", hide_env = true)]
    pub(crate) mesh: Option<String>,

    /// Certificate of the mesh's own authority (PEM) [default: the profile's, or those this machine trusts]
    #[arg(long, value_name = "FILE", env = "TRAIL_CA", hide_env = true)]
    pub(crate) ca: Option<PathBuf>,

    /// The tenant, by id or name [default: the profile's]
    #[arg(long, value_name = "TENANT", env = "TRAIL_TENANT", hide_env = true)]
    pub(crate) tenant: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Login {
    /// The address of the account [default: the profile's, or asked for]
    #[arg(long, value_name = "ADDRESS", env = "TRAIL_EMAIL", hide_env = true)]
    pub(crate) email: Option<String>,

    /// The code that your authenticator shows now, or a recovery code [default: asked for if it is needed]
    #[arg(long, value_name = "CODE", env = "TRAIL_CODE", hide_env = true)]
    pub(crate) code: Option<String>,

    #[command(flatten)]
    pub(crate) door: Door,
}

#[derive(Debug, Args)]
pub(crate) struct Whoami {
    #[command(flatten)]
    pub(crate) report: Report,
    #[command(flatten)]
    pub(crate) door: Door,
}

#[derive(Debug, Args)]
pub(crate) struct Servers {
    #[command(flatten)]
    pub(crate) report: Report,
    #[command(flatten)]
    pub(crate) door: Door,
}

#[derive(Debug, Args)]
pub(crate) struct Upload {
    /// Binary log files, under the names that their server gave them
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,

    /// What the upload is to be called: a-z, 0-9 and -, beginning with a letter; of several files each adds its own number
    #[arg(long, value_name = "NAME", env = "TRAIL_NAME", hide_env = true)]
    pub(crate) name: String,

    /// The registered server whose log it is, by name or id (srv_…): what is hidden of a table is hidden in the log under its older names too
    #[arg(long, value_name = "SERVER", env = "TRAIL_SERVER", hide_env = true)]
    pub(crate) server: Option<String>,

    /// For how many days to keep it [default: 30]
    #[arg(long, value_name = "DAYS", env = "TRAIL_RETENTION_DAYS", hide_env = true, value_parser = clap::value_parser!(u32).range(1..=365))]
    pub(crate) retention_days: Option<u32>,

    /// Of a file that is damaged or cut off, keep what came before
    #[arg(long, env = "TRAIL_KEEP_WHAT_CAME", hide_env = true, value_parser = BoolishValueParser::new())]
    pub(crate) keep_what_came: bool,

    #[command(flatten)]
    pub(crate) report: Report,
    #[command(flatten)]
    pub(crate) door: Door,
}

// Global, so that they may stand before and after `delete`.
#[derive(Debug, Args)]
#[command(mut_args(|arg| arg.global(true)))]
pub(crate) struct Uploads {
    #[command(subcommand)]
    pub(crate) command: Option<UploadsCommand>,

    #[command(flatten)]
    pub(crate) report: Report,
    #[command(flatten)]
    pub(crate) door: Door,
}

#[derive(Debug, Subcommand)]
pub(crate) enum UploadsCommand {
    /// Delete uploads and the keys that open them
    Delete {
        /// Their ids (upl_…) or names
        #[arg(value_name = "UPLOAD", required = true)]
        uploads: Vec<String>,
    },
}

/// What a change did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OpName {
    Insert,
    Update,
    Delete,
}

/// Which end of the log comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OrderName {
    Newest,
    Oldest,
}

/// What to do with rows that later changes conflict with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeName {
    #[default]
    Safe,
    Force,
}
