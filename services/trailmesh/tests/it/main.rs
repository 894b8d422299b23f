//! The program as one types it. What it serves is tested as a whole in `integration-tests`, which runs the binary that is built for these.

#[cfg(test)]
mod audit;
#[cfg(test)]
mod plan;
#[cfg(test)]
mod travel;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output, Stdio},
};

/// Runs it with nothing in its environment.
fn trailmesh(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trailmesh"))
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .expect("trailmesh runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn help_and_completions_know_every_command() {
    let help = trailmesh(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    let completions = trailmesh(&["completions", "bash"]);
    assert_eq!(completions.status.code(), Some(0));
    for command in [
        "auth",
        "tenant",
        "gateway",
        "up",
        "migrate",
        "rotate-keys",
        "remove-factor",
        "plan",
        "identity",
        "docs",
    ] {
        assert!(text(&help.stdout).contains(command), "{command}");
        assert!(text(&completions.stdout).contains(command), "{command}");
    }
}

#[test]
fn what_docs_writes_stands_in_the_checkout() {
    let folder = tempfile::tempdir().expect("a folder");
    let written = trailmesh(&["docs", folder.path().to_str().expect("a path")]);
    assert_eq!(written.status.code(), Some(0), "{}", text(&written.stderr));
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    for name in ["api/openapi.yaml", "permissions.md"] {
        let fresh = fs::read_to_string(folder.path().join(name)).expect("a file");
        let kept = fs::read_to_string(docs.join(name)).expect("a file");
        assert!(fresh == kept, "docs/{name} is stale: run ./dev docs");
    }
}

#[test]
fn a_command_without_its_database_says_which_variable_names_it() {
    let refused = trailmesh(&["migrate", "status"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr).contains("TRAILMESH_MIGRATE_DATABASE_URL"),
        "{}",
        text(&refused.stderr)
    );
}

#[test]
fn an_unknown_command_is_wrong_usage() {
    assert_eq!(trailmesh(&["fly"]).status.code(), Some(2));
}

#[test]
fn keys_are_readable_by_their_owner_only_and_the_authority_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("a path");
    let made = trailmesh(&["identity", path, "auth", "gateway"]);
    assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
    let authority = fs::read(folder.path().join("ca.pem")).expect("a file");
    assert_eq!(trailmesh(&["identity", path, "tenant"]).status.code(), Some(0));
    assert_eq!(fs::read(folder.path().join("ca.pem")).expect("a file"), authority);
    for name in ["ca-key", "auth-key", "gateway-key", "tenant-key", "localhost-key"] {
        let mode = fs::metadata(folder.path().join(format!("{name}.pem")))
            .expect("a file")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}
