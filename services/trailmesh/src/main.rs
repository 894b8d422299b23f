//! `trailmesh`: the binary of the mesh.
//!
//! `trailmesh auth`, `vault`, `tenant`, `query`, `recovery` and `gateway` each run one service; `trailmesh up --dev` runs all of them in one process for
//! a developer's machine. `trailmesh migrate` prepares the database, `trailmesh identity` makes certificates for a mesh without an authority
//! of its own, `trailmesh docs` writes what is generated from the protos.

mod audit;
mod authority;
mod docs;
mod identity;
mod keys;
mod migrate;
mod operator;
mod plan;
mod seed;
mod tenant;
mod up;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use chassis::Settings;
use clap::{CommandFactory as _, Parser, Subcommand};

/// A request through the gateway makes some hundred small allocations on whichever thread has time for it: the allocator of the C library takes
/// a tenth more of the processor for them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The mesh of Trailmesh: who may do what with the changes of your databases.
#[derive(Parser)]
#[command(name = "trailmesh", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run auth: accounts, sessions, API keys, second factors
    Auth(Box<Service<auth::Config>>),
    /// Run vault: keys, secrets of servers, certificates of agents
    Vault(Box<Service<vault::Config>>),
    /// Run tenant: tenants, members, servers, agents, access rules; or export, import, move one of them
    Tenant(Box<Tenant>),
    /// Run query: the agents' connections, changes, uploaded logs
    Query(Box<Service<query::Config>>),
    /// Run recovery: plans and scripts that undo changes
    Recovery(Box<Service<recovery::Config>>),
    /// Run gateway: the public door, HTTPS/JSON and gRPC
    Gateway(Box<Service<gateway::Config>>),
    /// Run all services in one process, on a developer's machine
    Up(Box<up::Options>),
    /// Prepare the database, or tell what it lacks
    Migrate(migrate::Options),
    /// Make new keys that sign access tokens and context tokens, at once instead of after 30 days (auth)
    RotateKeys(Box<operator::Options>),
    /// Take a lost second factor away, for an owner without recovery codes
    RemoveFactor(Box<operator::RemoveFactor>),
    /// Tell, turn or give up the keys that secrets of servers are sealed with
    Keys(keys::Options),
    /// Set or show what a tenant has bought
    Plan(plan::Options),
    /// Prove an audit log
    Audit(audit::Options),
    /// Make certificates for a mesh on one machine
    Identity(identity::Options),
    /// Write what is generated from the protos: the OpenAPI document, the table of permissions
    Docs(docs::Options),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// The flags of one service.
#[derive(clap::Args)]
struct Service<C: clap::Args> {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    config: C,
}

/// The service tenant, or work on one tenant.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
struct Tenant {
    #[command(flatten)]
    service: Service<::tenant::Config>,
    #[command(subcommand)]
    verb: Option<crate::tenant::Verb>,
}

fn main() -> ExitCode {
    let cli: Cli = match chassis::arguments() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match cli.command {
        Command::Auth(service) => chassis::run("auth", service.settings, service.config, auth::start),
        Command::Vault(service) => chassis::run("vault", service.settings, service.config, vault::start),
        Command::Tenant(tenant) => match tenant.verb {
            Some(verb) => crate::tenant::run(verb),
            None => {
                let Service { settings, config } = tenant.service;
                chassis::run("tenant", settings, config, ::tenant::start)
            }
        },
        Command::Query(service) => chassis::run("query", service.settings, service.config, query::start),
        Command::Recovery(service) => {
            chassis::run("recovery", service.settings, service.config, recovery::start)
        }
        Command::Gateway(service) => {
            chassis::run("gateway", service.settings, service.config, gateway::start)
        }
        Command::Up(options) => up::run(*options),
        Command::Migrate(options) => finish(migrate::run(options)),
        Command::RotateKeys(options) => finish(operator::rotate_keys(&options)),
        Command::RemoveFactor(options) => finish(operator::remove_factor(&options)),
        Command::Keys(options) => finish(keys::run(options)),
        Command::Plan(options) => finish(plan::run(options)),
        Command::Audit(options) => audit::run(&options),
        Command::Identity(options) => finish(identity::run(&options)),
        Command::Docs(options) => finish(docs::run(&options)),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "trailmesh", &mut io::stdout());
            ExitCode::SUCCESS
        }
    }
}

/// What a command that is no service runs on, with the one provider of cryptography set.
fn command_runtime() -> io::Result<tokio::runtime::Runtime> {
    // An error says that it is set already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// The exit code of a command that is no service: 0, or 1 and a sentence on standard error.
fn finish<E: std::error::Error>(outcome: Result<(), E>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error),
    }
}

fn complain(error: &dyn std::error::Error) -> ExitCode {
    let _ = writeln!(io::stderr(), "trailmesh: {}", types::chain(error));
    ExitCode::FAILURE
}
