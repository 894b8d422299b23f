//! The command line, and what it lacks: told by the names of environment variables, all at once.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{ArgMatches, Command, FromArgMatches, Parser, error::ErrorKind};

use super::{ConfigError, Settings, secrets_from_files};

/// The exit code of a process whose configuration cannot be used, as clap's for a command line that cannot.
pub(crate) const MISCONFIGURED: u8 = 2;

/// Why a command line is not taken.
#[derive(Debug)]
pub(crate) enum Refused {
    /// clap says why; also `--help` and `--version`, which are no errors.
    Clap(clap::Error),
    /// These settings are missing or wrong.
    Settings(Vec<ConfigError>),
}

/// Reads the command line of the process, with its secrets from files ([`secrets_from_files`]). What it lacks is named by environment
/// variable, all of it together with what is wrong with the [`Settings`], on standard error; then the answer is the exit code.
///
/// # Errors
/// The exit code with which the process is to end: that of clap, or 2 for a configuration that cannot be used.
pub fn arguments<P: Parser>() -> Result<P, ExitCode> {
    let refused = match secrets_from_files(P::command()) {
        Ok(command) => match matches(command, std::env::args_os().collect()) {
            Ok(matches) => match P::from_arg_matches(&matches) {
                Ok(parsed) => return Ok(parsed),
                Err(error) => Refused::Clap(error),
            },
            Err(refused) => refused,
        },
        Err(error) => Refused::Settings(vec![error]),
    };
    Err(tell(&refused))
}

/// Says why. Nothing can be done about an error stream that is closed.
fn tell(refused: &Refused) -> ExitCode {
    match refused {
        Refused::Clap(error) => {
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(MISCONFIGURED))
        }
        Refused::Settings(problems) => {
            for problem in problems {
                let _ = writeln!(io::stderr(), "{problem}");
            }
            ExitCode::from(MISCONFIGURED)
        }
    }
}

pub(crate) fn matches(command: Command, line: Vec<OsString>) -> Result<ArgMatches, Refused> {
    command
        .clone()
        .try_get_matches_from(line.clone())
        .map_err(|error| {
            if error.kind() != ErrorKind::MissingRequiredArgument {
                return Refused::Clap(error);
            }
            // Once more with nothing required, to see what is there.
            let Ok(found) = lenient(command.clone()).try_get_matches_from(line) else {
                return Refused::Clap(error);
            };
            let problems = problems(&command, &found);
            if problems.is_empty() {
                return Refused::Clap(error);
            }
            Refused::Settings(problems)
        })
}

fn lenient(command: Command) -> Command {
    command
        .mut_args(|argument| {
            let from_environment = argument.get_env().is_some();
            let required = argument.is_required_set() && !from_environment;
            argument.required(required)
        })
        .mut_subcommands(lenient)
}

/// What is required and missing in the (sub)command that `found` is of, and what is wrong with its settings of the mesh if it has them.
fn problems(command: &Command, found: &ArgMatches) -> Vec<ConfigError> {
    if let Some((name, found)) = found.subcommand()
        && let Some(command) = command.find_subcommand(name)
    {
        return problems(command, found);
    }
    let mut all: Vec<ConfigError> = command
        .get_arguments()
        .filter(|argument| argument.is_required_set() && !found.contains_id(argument.get_id().as_str()))
        .filter_map(|argument| {
            let name = argument.get_env()?.to_str()?;
            let file = if argument.is_hide_env_values_set() {
                format!(", or name a file that holds it in {name}_FILE")
            } else {
                String::new()
            };
            Some(ConfigError::new(name, "it is missing", format!("set it{file}")))
        })
        .collect();
    let is_service = command
        .get_arguments()
        .any(|argument| argument.get_id() == "check_config");
    if !all.is_empty() && is_service {
        all.extend(
            Settings::from_arg_matches(found)
                .iter()
                .flat_map(Settings::problems),
        );
    }
    all
}

#[cfg(test)]
mod tests {
    use clap::{Parser, Subcommand};

    use super::{Refused, matches};
    use crate::{SecretString, Settings};

    #[derive(Parser, Debug)]
    struct Cli {
        #[command(subcommand)]
        command: Sub,
    }

    #[derive(Subcommand, Debug)]
    enum Sub {
        /// A service
        Serve {
            #[command(flatten)]
            settings: Box<Settings>,
            /// A secret
            #[arg(long, env = "TRAILMESH_NO_SUCH_KEY", hide_env_values = true)]
            key: SecretString,
            /// A name
            #[arg(long, env = "TRAILMESH_NO_SUCH_NAME")]
            name: String,
            /// What has a default
            #[arg(long, env = "TRAILMESH_NO_SUCH_COUNT", default_value_t = 1)]
            count: u8,
        },
        /// Another command
        Other {
            #[arg(long)]
            flag: String,
            #[arg(long, env = "TRAILMESH_NO_SUCH_KEY")]
            key: String,
        },
    }

    fn refused(line: &[&str]) -> Refused {
        let line = [&["test"], line].concat();
        let command = <Cli as clap::CommandFactory>::command();
        matches(command, line.iter().map(Into::into).collect()).unwrap_err()
    }

    fn told(line: &[&str]) -> Vec<String> {
        match refused(line) {
            Refused::Settings(problems) => problems.iter().map(ToString::to_string).collect(),
            Refused::Clap(error) => panic!("{error}"),
        }
    }

    #[test]
    fn all_that_is_missing_is_named_by_its_variable_at_once() {
        let told_of_nothing = told(&["serve", "--check-config"]);
        assert_eq!(
            told_of_nothing[..2],
            [
                "TRAILMESH_NO_SUCH_KEY: it is missing; set it, or name a file that holds it in TRAILMESH_NO_SUCH_KEY_FILE",
                "TRAILMESH_NO_SUCH_NAME: it is missing; set it",
            ]
        );
        let identity = [
            "TRAILMESH_IDENTITY_CERT_FILE",
            "TRAILMESH_IDENTITY_KEY_FILE",
            "TRAILMESH_TRUST_BUNDLE_FILE",
        ];
        assert_eq!(told_of_nothing.len(), 5);
        for (told, name) in told_of_nothing[2..].iter().zip(identity) {
            assert!(told.starts_with(&format!("{name}: ")), "{told}");
        }
        assert_eq!(
            told(&["serve", "--dev", "--key=canary"]),
            ["TRAILMESH_NO_SUCH_NAME: it is missing; set it"]
        );
        let all = ["test", "serve", "--key=canary", "--name=x"];
        let command = <Cli as clap::CommandFactory>::command();
        assert!(matches(command, all.iter().map(Into::into).collect()).is_ok());
    }

    #[test]
    fn what_clap_says_of_other_mistakes_stays() {
        for line in [
            &["serve", "--no-such-flag"][..],
            &["serve", "--count=x", "--dev"],
            &["serve", "--help"],
            &["other", "--key=canary"],
            &["other"],
            &[],
        ] {
            assert!(matches!(refused(line), Refused::Clap(_)), "{line:?}");
        }
    }
}
