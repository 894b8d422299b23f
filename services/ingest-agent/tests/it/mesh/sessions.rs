//! `login`, `whoami`, `logout`, and sessions that renew themselves.

use std::{
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt},
    process::{Command, Stdio},
};

use super::{EMAIL, Mesh, PASSWORD, SERVER, door::locked, people::CODE};
use crate::{run::end, shop::accident};

#[test]
fn a_login_makes_a_profile_that_only_its_owner_can_read() {
    let (store, _) = accident();
    let mesh = Mesh::over(&store);
    let run = mesh.log_in(&[]).ends_with(0);
    assert_eq!(run.out, format!("logged in to {} as {EMAIL}\n", mesh.door.url));
    assert!(run.err.contains("note: tenant Shop (tnt_"), "{}", run.err);
    let about = std::fs::metadata(mesh.profile()).expect("a profile");
    assert_eq!(about.mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(mesh.profile()).expect("text");
    assert!(text.contains("refresh-1") && !text.contains(PASSWORD), "{text}");
    let mut command = mesh.trail(&["changes", "--server", SERVER]);
    // The profile remembers whom to trust.
    command.env_remove("TRAIL_CA");
    let run = end(command).ends_with(0);
    assert!(run.out.contains("shop.orders"), "{}", run.out);
    assert!(
        locked(&mesh.door.state.people.named)
            .last()
            .is_some_and(|named| named.starts_with("tnt_"))
    );
    std::fs::set_permissions(mesh.profile(), std::fs::Permissions::from_mode(0o644)).expect("a mode");
    end(mesh.trail(&["changes", "--server", SERVER])).fails(64, &["others can read it", "chmod 600"]);
}

#[test]
fn who_is_not_logged_in_is_told_how() {
    let (store, _) = accident();
    let mesh = Mesh::over(&store);
    end(mesh.trail(&["changes", "--server", SERVER]))
        .fails(64, &["nobody is logged in", "trail login --mesh"]);
    end(mesh.trail(&["login"])).fails(2, &["--mesh", "hint"]);
    end(mesh.trail(&["login", "--mesh", "http://localhost", "--email", EMAIL])).fails(2, &["https://"]);
    end(mesh.trail(&[
        "login",
        "--mesh",
        &mesh.door.url,
        "--email",
        EMAIL,
        "--profile",
        "../x",
    ]))
    .fails(2, &["--profile"]);
    let mut command = mesh.trail(&["login", "--mesh", &mesh.door.url, "--email", EMAIL]);
    command.stdin(super::stdin("wrong", mesh.home.path()));
    end(command).fails(64, &["the address or the password is wrong"]);
    assert!(!mesh.profile().exists());
}

#[test]
fn a_second_factor_is_given_by_a_flag_or_asked_for() {
    let (store, _) = accident();
    let mesh = Mesh::over(&store);
    *locked(&mesh.door.state.people.factor) = true;
    mesh.log_in(&["--code", "000000"]).fails(64, &["code", "--code"]);
    mesh.log_in(&["--code", CODE]).ends_with(0);
    mesh.log_in(&["--code", "abcd-efgh"]).ends_with(0);
}

#[test]
fn at_a_terminal_the_password_is_not_shown_and_the_code_is_asked_for() {
    let (store, _) = accident();
    let mesh = Mesh::over(&store);
    *locked(&mesh.door.state.people.factor) = true;
    mesh.door.state.people.joins("tnt_second", "Second");
    let line = format!("{} login --mesh {}", env!("CARGO_BIN_EXE_trail"), mesh.door.url);
    let mut command = Command::new("script");
    command
        .args([
            "--quiet",
            "--return",
            "--echo",
            "never",
            "--command",
            &line,
            "/dev/null",
        ])
        .env("XDG_CONFIG_HOME", mesh.home.path())
        .env("TRAIL_CA", &mesh.door.ca)
        .env("NO_COLOR", "1")
        .env_remove("TRAIL_EMAIL")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().expect("script(1)");
    let mut input = child.stdin.take().expect("a pipe");
    let mut output = child.stdout.take().expect("a pipe");
    let mut said = String::new();
    for (question, answer) in [
        ("address: ", EMAIL),
        ("password: ", PASSWORD),
        ("code of your authenticator: ", "000000"),
        (
            "that code does not count; each works once\r\ncode of your authenticator: ",
            CODE,
        ),
        ("which tenant (its number, or nothing for none): ", "2"),
    ] {
        until(&mut output, &mut said, question);
        input.write_all(format!("{answer}\n").as_bytes()).expect("typed");
    }
    until(&mut output, &mut said, "note: tenant Second (tnt_second)");
    drop(input);
    assert!(child.wait().expect("ended").success(), "{said}");
    assert!(!said.contains(PASSWORD), "{said}");
    let text = std::fs::read_to_string(mesh.profile()).expect("text");
    assert!(text.contains("tnt_second"), "{text}");
}

/// Reads until `wanted` stands at the end of what was read, or in it.
fn until(from: &mut impl std::io::Read, said: &mut String, wanted: &str) {
    let begin = said.len();
    let mut byte = [0];
    while !said[begin..].contains(wanted) {
        let read = from.read(&mut byte).expect("the terminal");
        assert!(read > 0, "{wanted:?} never came: {said}");
        said.push(char::from(byte[0]));
    }
}

#[test]
fn a_session_renews_itself_once_however_many_ask() {
    let (store, _) = accident();
    let mesh = Mesh::over(&store);
    *locked(&mesh.door.state.people.lives) = 5;
    mesh.log_in(&[]).ends_with(0);
    *locked(&mesh.door.state.people.lives) = 900;
    let asking: Vec<_> = (0..6)
        .map(|_| {
            let mut command = mesh.trail(&["status", "--server", SERVER]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().expect("started")
        })
        .collect();
    for child in asking {
        let output = child.wait_with_output().expect("ended");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    // Once by the login itself, whose token had too little left for its own question, and once by all of these.
    let number = locked(&mesh.door.state.people.session).expect("a session");
    let text = std::fs::read_to_string(mesh.profile()).expect("text");
    assert!(
        number <= 3 && text.contains(&format!("refresh-{number}")),
        "{number}: {text}"
    );
}

#[test]
fn a_session_that_has_ended_says_log_in() {
    let (store, _) = accident();
    let mesh = Mesh::over(&store);
    mesh.log_in(&[]).ends_with(0);
    *locked(&mesh.door.state.people.session) = None;
    end(mesh.trail(&["status", "--server", SERVER])).fails(64, &["the session", "trail login"]);
}

#[test]
fn whoami_and_logout() {
    let (store, _) = accident();
    let mesh = Mesh::over(&store);
    mesh.log_in(&[]).ends_with(0);
    let run = end(mesh.trail(&["whoami"])).ends_with(0);
    for word in [EMAIL, "Shop", "operator", "chosen", &mesh.door.url] {
        assert!(run.out.contains(word), "{word}: {}", run.out);
    }
    let json = end(mesh.trail(&["whoami", "--format", "json"]))
        .ends_with(0)
        .json();
    assert_eq!(json["tenants"][0]["role"], "operator");
    let key = end(mesh.with_key(&["whoami", "--format", "json"]))
        .ends_with(0)
        .json();
    assert_eq!(
        (key["by"].as_str(), key["tenants"][0]["name"].as_str()),
        (Some("api key"), Some("Shop"))
    );
    end(mesh.trail(&["logout"])).ends_with(0);
    assert!(!mesh.profile().exists() && locked(&mesh.door.state.people.session).is_none());
    end(mesh.trail(&["whoami"])).fails(64, &["nobody is logged in"]);
    end(mesh.trail(&["logout"])).ends_with(0);
}

#[test]
fn a_tenant_is_named_by_its_name_or_id() {
    let (store, _) = accident();
    let mesh = Mesh::over(&store);
    mesh.door.state.people.joins("tnt_second", "Second");
    mesh.log_in(&["--tenant", "Second"]).ends_with(0);
    let named = || locked(&mesh.door.state.people.named).last().cloned();
    end(mesh.trail(&["status", "--server", SERVER])).ends_with(0);
    assert_eq!(named().as_deref(), Some("tnt_second"));
    end(mesh.trail(&["status", "--server", SERVER, "--tenant", "Shop"])).ends_with(0);
    assert!(named().is_some_and(|named| named.starts_with("tnt_") && named != "tnt_second"));
    end(mesh.trail(&["status", "--server", SERVER, "--tenant", "Third"])).fails(1, &["tenant Third"]);
}
