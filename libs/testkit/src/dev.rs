//! What `./dev` starts and tells.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

pub(crate) fn dev() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dev")
}

/// Runs `./dev` and gives the variables it prints.
pub(crate) fn dev_variables(arguments: &[&str]) -> HashMap<String, String> {
    let output = Command::new(dev())
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("./dev runs");
    assert!(
        output.status.success(),
        "./dev {} failed: see above",
        arguments.join(" ")
    );
    let text = String::from_utf8(output.stdout).expect("./dev prints UTF-8");
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), unquoted(value)))
        .collect()
}

/// A word as `./dev` quotes it for a shell: `'…'`, a quote inside written `'\''`.
fn unquoted(word: &str) -> String {
    let inside = word.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
    inside.unwrap_or(word).replace("'\\''", "'")
}

/// The variables of a server that all tests of a run share: from the environment when `./dev test` set them, else by `./dev up`.
pub(crate) fn running(name: &str) -> HashMap<String, String> {
    let set: HashMap<String, String> = std::env::vars()
        .filter(|(variable, _)| variable.starts_with("TRAILMESH_TEST_"))
        .collect();
    let known = set.contains_key(&format!("TRAILMESH_TEST_{}_URL", name.to_uppercase()));
    if known { set } else { dev_variables(&["up", name]) }
}

/// Sends a signal to a process.
pub(crate) fn signal(pid: &str, signal: &str) {
    let sent = Command::new("kill").args([signal, pid]).status();
    assert!(
        sent.is_ok_and(|status| status.success()),
        "kill {signal} {pid} failed"
    );
}

/// A command as the unprivileged user that servers run as; root may not run them.
pub(crate) fn unprivileged(program: &Path) -> Command {
    let root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout == b"0\n");
    if !root {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid=trailmesh-dev",
        "--regid=trailmesh-dev",
        "--clear-groups",
        "--inh-caps=-all",
        "--",
    ]);
    command.arg(program);
    command
}
