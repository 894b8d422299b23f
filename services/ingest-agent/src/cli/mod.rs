//! From the words of the command line to an exit status.

mod agent;
mod args;
mod completions;
mod cover;
mod engines;
mod entries;
mod files;
mod help;
mod list;
mod mesh;
mod note;
mod parse;
mod question;
mod report;
mod schema;
mod source;
mod stop;
mod undo;
mod undo_summary;
mod verify;

use std::{
    env,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use answer::names;
use tracing::Level;
use trail::Reader;
use types::Code;

use self::args::{Command, Trail};
use crate::{error::Error, exit::Exit, render::text::visible};

/// Runs `trail` with the process's own arguments, environment and standard streams.
pub fn main() -> ExitCode {
    let exit = match Trail::from_command_line() {
        Ok(trail) => run(trail).unwrap_or_else(|error| tell(&error)),
        Err(error) => usage(&error),
    };
    exit.into()
}

fn run(trail: Trail) -> Result<Exit, Error> {
    let stays = match &trail.command {
        Command::Watch(_) => true,
        Command::Agent(args) => args.stays(),
        _ => false,
    };
    log_to_stderr(trail.log.unwrap_or(if stays { Level::INFO } else { Level::WARN }));
    let command = match asked_of_a_mesh(trail.command) {
        Ok(done) => return done,
        Err(command) => *command,
    };
    // Only where a store is asked must it be somewhere.
    let store = || store_dir(trail.store);
    match command {
        Command::Watch(args) => engines::watch(&source::watch(args, store()?)?),
        Command::Index(args) => engines::index(&args, store()?),
        Command::Changes(args) => list::changes(&store()?, &args),
        Command::History(args) => list::history(&store()?, &args),
        Command::Txn(args) => list::txn(&store()?, &args),
        Command::Undo(args) => undo::undo(&store()?, &args),
        Command::Tables(args) => report::tables(&store()?, &args.report),
        Command::Schema(args) => schema::schema(&store()?, &args),
        Command::Coverage(args) => report::coverage(&store()?, &args.report),
        Command::Status(args) => report::status(&store()?, &args.report),
        Command::Verify(args) => verify::verify(&store()?, &args),
        Command::Login(args) => mesh::login(&args),
        Command::Logout(args) => mesh::logout(&args),
        Command::Whoami(args) => mesh::whoami(&args),
        Command::Servers(args) => mesh::servers(&args),
        Command::Upload(args) => mesh::upload(&args),
        Command::Uploads(args) => mesh::uploads(&args),
        Command::Agent(args) => agent::agent(args),
        Command::Completions { shell } => completions::print(shell),
    }
}

/// Runs a command that names a server of a mesh; gives back any other.
fn asked_of_a_mesh(command: Command) -> Result<Result<Exit, Error>, Box<Command>> {
    let Some(server) = command.mesh().and_then(|mesh| mesh.server.clone()) else {
        return Err(Box::new(command));
    };
    Ok(match &command {
        Command::Changes(args) => mesh::changes(&server, args),
        Command::History(args) => mesh::history(&server, args),
        Command::Txn(args) => mesh::txn(&server, args),
        Command::Undo(args) => mesh::undo(&server, args),
        Command::Tables(args) => mesh::tables(&server, args),
        Command::Schema(args) => mesh::schema(&server, args),
        Command::Coverage(args) => mesh::coverage(&server, args),
        Command::Status(args) => mesh::status(&server, args),
        _ => return Err(Box::new(command)),
    })
}

/// Opens the store for asking.
fn open(store: &Path) -> Result<Reader, Error> {
    Reader::open(store).map_err(|error| {
        let told = Error::from_fault("the store", &error);
        match error {
            trail::Error::NoStore { .. } => told.hint("--store DIR or TRAIL_STORE names another one"),
            _ => told,
        }
    })
}

/// The store's folder: `--store`, `TRAIL_STORE`, or the one under the user's data folder (XDG Base Directory Specification).
fn store_dir(given: Option<PathBuf>) -> Result<PathBuf, Error> {
    let folder = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    if given.as_ref().is_some_and(|dir| dir.as_os_str().is_empty()) {
        return Err(Error::new(
            Code::Invalid,
            "--store",
            "its value, or that of TRAIL_STORE, is empty",
        ));
    }
    given
        .or_else(|| folder("XDG_DATA_HOME").map(|data| data.join("trail/default")))
        .or_else(|| folder("HOME").map(|home| home.join(".local/share/trail/default")))
        .ok_or_else(|| {
            Error::new(
                Code::Refused,
                "the store",
                "neither XDG_DATA_HOME nor HOME says where it is",
            )
            .hint("give --store DIR, or set TRAIL_STORE")
        })
}

fn log_to_stderr(level: Level) {
    let subscriber = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_max_level(level)
        .with_target(false);
    // A second subscriber in one process is only possible in tests, and the first one stays.
    let _ = subscriber
        .with_ansi(crate::render::screen::Screen::stderr().colour)
        .try_init();
}

/// What clap has to say: help and version are answers, everything else is a mistake in the call.
fn usage(error: &clap::Error) -> Exit {
    if !error.use_stderr() {
        // A closed pipe is the only thing that can go wrong here, and then nobody is listening.
        let _ = error.print();
        return Exit::Done;
    }
    let text = error.render().to_string();
    let text = text
        .strip_prefix("error: ")
        .map_or_else(|| text.clone(), |rest| format!("trail: {rest}"));
    let _ = io::stderr().write_all(text.as_bytes());
    if Trail::means_agent() {
        return Exit::Refused;
    }
    Exit::Usage
}

/// One line that says what went wrong and why, and one that says what to do.
fn tell(error: &Error) -> Exit {
    let Error::Failed(failure) = error else {
        return Exit::Done;
    };
    let mut text = format!("trail: {}: {}\n", visible(&failure.what), visible(&failure.why));
    if let Some(hint) = &failure.hint {
        text.push_str(&format!("hint: {}\n", visible(hint)));
    }
    // Nobody can be told that standard error does not work.
    let _ = io::stderr().write_all(text.as_bytes());
    failure.code.into()
}

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory};

    use super::args::Trail;

    #[test]
    fn every_flag_has_a_variable_and_every_word_its_help() {
        let mut trail = Trail::command();
        trail.build();
        trail.clone().debug_assert();
        trail
            .get_subcommands()
            .for_each(|command| is_told(command, "TRAIL"));
    }

    /// Variables of a command below another one begin with that one's name.
    fn is_told(command: &Command, prefix: &str) {
        assert!(command.get_about().is_some(), "{}", command.get_name());
        for arg in command
            .get_arguments()
            .filter(|arg| !["help", "version"].contains(&arg.get_id().as_str()))
        {
            assert!(
                arg.get_help().is_some(),
                "{} of {}",
                arg.get_id(),
                command.get_name()
            );
            let Some(flag) = arg.get_long().filter(|_| !arg.is_global_set()) else {
                continue;
            };
            let variable = format!("{prefix}_{}", flag.replace('-', "_").to_uppercase());
            let env = arg.get_env().map(|name| name.to_string_lossy().into_owned());
            assert_eq!(env, Some(variable), "--{flag} of {}", command.get_name());
        }
        let below = format!("{prefix}_{}", command.get_name().to_uppercase());
        command
            .get_subcommands()
            .for_each(|command| is_told(command, &below));
    }
}
