//! Secrets of the configuration: how they are kept, and how they come from files.

use std::{convert::Infallible, ffi::OsString, fmt, fs::File, io::Read, path::Path, str::FromStr};

use types::Secret;

use crate::config::ConfigError;

/// The type of a secret flag: `Debug` prints `***`, there is no `Display`, and the memory is wiped on drop.
#[derive(Clone)]
pub struct SecretString(Secret<String>);

impl SecretString {
    /// Takes the text into custody.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Secret::new(text.into()))
    }

    /// Lends the text to the one place that needs it.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

impl FromStr for SecretString {
    // Whatever is wrong with a secret is said by `Configuration::check`, for clap repeats a refused value in its message.
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self::new(text))
    }
}

impl fmt::Debug for SecretString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl From<String> for SecretString {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

/// A file of a secret is a key, a password or a URL; what is larger is the wrong file.
const LARGEST_SECRET: u64 = 64 * 1024;

/// Lets every argument of `command` (and of its subcommands) that has an environment variable `X` and hides its value also be read
/// from the file that `X_FILE` names. One newline at the file's end is not part of the secret.
///
/// # Errors
/// When both `X` and `X_FILE` are set, or the file cannot be read, is empty, is no UTF-8 or is larger than 64 KiB.
pub fn secrets_from_files(command: clap::Command) -> Result<clap::Command, ConfigError> {
    secrets_from(command, &|name| {
        std::env::var_os(name).filter(|value| !value.is_empty())
    })
}

pub(crate) fn secrets_from(
    mut command: clap::Command,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<clap::Command, ConfigError> {
    let mut found = Vec::new();
    for argument in command.get_arguments() {
        let Some(name) = argument.get_env().and_then(|name| name.to_str()) else {
            continue;
        };
        if !argument.is_hide_env_values_set() {
            continue;
        }
        if let Some(secret) = from_file(name, environment)? {
            found.push((argument.get_id().clone(), secret));
        }
    }
    for (id, secret) in found {
        command = command.mut_arg(id, |argument| {
            // To clap a default does not satisfy what is required.
            argument
                .required(false)
                .default_value(secret)
                .hide_default_value(true)
        });
    }
    let names: Vec<String> = command
        .get_subcommands()
        .map(|sub| sub.get_name().to_owned())
        .collect();
    for name in names {
        let mut refused = None;
        command = command.mut_subcommand(&name, |sub| {
            secrets_from(sub, environment).unwrap_or_else(|error| {
                refused = Some(error);
                clap::Command::new(name.clone())
            })
        });
        if let Some(error) = refused {
            return Err(error);
        }
    }
    Ok(command)
}

fn from_file(
    name: &str,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Option<String>, ConfigError> {
    let file_name = format!("{name}_FILE");
    let Some(path) = environment(&file_name) else {
        return Ok(None);
    };
    if environment(name).is_some() {
        return Err(ConfigError::new(
            file_name,
            format!("{name} is set too, and they may differ"),
            "set one of the two",
        ));
    }
    read(Path::new(&path)).map(Some).map_err(|problem| {
        ConfigError::new(
            file_name,
            problem,
            "name a readable file that holds the secret and nothing else",
        )
    })
}

/// The text of a secret's file. The error is a sentence without any of the content.
fn read(path: &Path) -> Result<String, String> {
    let mut content = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LARGEST_SECRET + 1).read_to_end(&mut content))
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    if content.len() as u64 > LARGEST_SECRET {
        return Err(format!("{} is larger than 64 KiB", path.display()));
    }
    let mut text = String::from_utf8(content).map_err(|_| format!("{} is not UTF-8 text", path.display()))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.is_empty() {
        return Err(format!("{} is empty", path.display()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, ffi::OsString, fs};

    use clap::{Args, FromArgMatches};

    use super::{SecretString, secrets_from};

    #[derive(Args, Debug)]
    struct Group {
        #[arg(long, env = "TRAILMESH_NO_SUCH_KEY", hide_env_values = true)]
        key: Option<SecretString>,
        #[arg(long, env = "TRAILMESH_NO_SUCH_NAME")]
        name: Option<String>,
    }

    fn command() -> clap::Command {
        Group::augment_args(clap::Command::new("test"))
    }

    fn read(environment: &[(&str, &str)], arguments: &[&str]) -> Result<Group, String> {
        let environment: BTreeMap<&str, OsString> = environment
            .iter()
            .map(|(name, value)| (*name, OsString::from(value)))
            .collect();
        let command = secrets_from(command(), &|name| environment.get(name).cloned())
            .map_err(|error| error.to_string())?;
        let matches = command
            .try_get_matches_from([&["test"], arguments].concat())
            .map_err(|error| error.to_string())?;
        Group::from_arg_matches(&matches).map_err(|error| error.to_string())
    }

    fn in_file(content: &[u8]) -> (tempfile::NamedTempFile, String) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, content).unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        (file, path)
    }

    fn key(group: &Group) -> Option<&str> {
        group.key.as_ref().map(SecretString::expose)
    }

    #[test]
    fn a_secret_comes_from_a_file_without_its_last_newline() {
        for (content, secret) in [
            ("canary", "canary"),
            ("canary\n", "canary"),
            ("canary\r\n", "canary"),
            ("canary\n\n", "canary\n"),
            (" canary ", " canary "),
        ] {
            let (_file, path) = in_file(content.as_bytes());
            let group = read(&[("TRAILMESH_NO_SUCH_KEY_FILE", &path)], &[]).unwrap();
            assert_eq!(key(&group), Some(secret));
            assert_eq!(format!("{group:?}"), "Group { key: Some(***), name: None }");
        }
        assert_eq!(key(&read(&[], &[]).unwrap()), None);
    }

    #[test]
    fn a_secret_that_is_required_may_come_from_a_file_too() {
        let (_file, path) = in_file(b"canary");
        let required = command().mut_arg("key", |argument| argument.required(true));
        let environment = |name: &str| (name == "TRAILMESH_NO_SUCH_KEY_FILE").then(|| OsString::from(&path));
        let command = secrets_from(required.clone(), &environment).unwrap();
        assert!(command.try_get_matches_from(["group"]).is_ok());
        assert!(required.try_get_matches_from(["group"]).is_err());
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let (_file, path) = in_file(b"canary");
        let group = read(&[("TRAILMESH_NO_SUCH_KEY_FILE", &path)], &["--key=other"]).unwrap();
        assert_eq!(key(&group), Some("other"));
    }

    #[test]
    fn only_secrets_come_from_files() {
        let (_file, path) = in_file(b"canary");
        let group = read(&[("TRAILMESH_NO_SUCH_NAME_FILE", &path)], &[]).unwrap();
        assert_eq!(group.name, None);
    }

    #[test]
    fn the_variable_and_the_file_together_are_refused() {
        let (_file, path) = in_file(b"canary");
        let both = [
            ("TRAILMESH_NO_SUCH_KEY", "canary-2"),
            ("TRAILMESH_NO_SUCH_KEY_FILE", &path),
        ];
        assert_eq!(
            read(&both, &[]).unwrap_err(),
            "TRAILMESH_NO_SUCH_KEY_FILE: TRAILMESH_NO_SUCH_KEY is set too, and they may differ; set one of the two"
        );
    }

    #[test]
    fn a_file_that_cannot_be_a_secret_is_refused_without_its_content() {
        let (_empty, empty) = in_file(b"\n");
        let (_binary, binary) = in_file(b"canary\xff");
        let (_large, large) = in_file("canary".repeat(20_000).as_bytes());
        for path in [&empty, &binary, &large, "/", "/nonexistent"] {
            let error = read(&[("TRAILMESH_NO_SUCH_KEY_FILE", path)], &[]).unwrap_err();
            assert!(error.starts_with("TRAILMESH_NO_SUCH_KEY_FILE: "), "{error}");
            assert!(error.contains(path) && !error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn help_shows_no_secret_and_subcommands_have_theirs() {
        let (_file, path) = in_file(b"canary");
        let whole = clap::Command::new("whole").subcommand(command());
        let environment = |name: &str| (name == "TRAILMESH_NO_SUCH_KEY_FILE").then(|| OsString::from(&path));
        let mut whole = secrets_from(whole, &environment).unwrap();
        whole.build();
        let sub = whole.find_subcommand_mut("test").unwrap();
        assert!(!sub.render_long_help().to_string().contains("canary"));
        let matches = whole.try_get_matches_from(["whole", "test"]).unwrap();
        let group = Group::from_arg_matches(matches.subcommand_matches("test").unwrap()).unwrap();
        assert_eq!(key(&group), Some("canary"));
    }
}
