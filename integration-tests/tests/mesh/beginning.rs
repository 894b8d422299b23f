//! The README's first hour of a team, run as it stands there. It waits for some ten codes of an authenticator, of which there is one in half
//! a minute: so it has a name by which it begins before all others of this program, and the others run meanwhile.

use std::{fs, path::Path, process::Command};

use testkit::{Postgres, Redis};

use crate::mesh::{Mesh, program};

/// The two blocks of commands of the chapter "The mesh", pointed at this mesh.
fn script(mesh: &Mesh) -> String {
    let readme =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).expect("a README");
    let (_, chapter) = readme.split_once("\n## The mesh\n").expect("a chapter");
    let (chapter, _) = chapter.split_once("\n## ").expect("the next chapter");
    let blocks: Vec<&str> = chapter
        .split("\n```sh\n")
        .skip(1)
        .map(|block| block.split_once("\n```\n").expect("its end").0)
        .collect();
    let [first, later] = blocks[..] else {
        panic!("{} blocks", blocks.len());
    };
    let (begin, first) = first.split_once('\n').expect("lines");
    assert!(begin.starts_with("API=https://localhost:8443 "), "{begin}");
    let (state, program) = (mesh.state.display(), program());
    format!(
        "set -euo pipefail\ncd {state}\nPATH={}:$PATH\nAPI={} CA={state}/ca.pem MAILS={state}/mail\n{first}\n{later}\n",
        program.parent().expect("a folder").display(),
        mesh.url
    )
}

#[test]
fn the_first_hour_of_the_readme_works_as_written() {
    // With the limits that everybody has.
    let database = Postgres::shared().empty_database();
    let mesh = Mesh::start_with(&[
        ("TRAILMESH_MIGRATE_DATABASE_URL", &database.admin_url()),
        ("TRAILMESH_REDIS_URL", &Redis::shared().url),
        ("TRAILMESH_GATEWAY_STRICT_RATE", "30"),
        ("TRAILMESH_TENANT_FIRST_PLAN", "free"),
    ]);
    let output = Command::new("bash")
        .arg("-c")
        .arg(script(&mesh))
        .output()
        .expect("bash runs");
    let (told, complained) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let all = format!(
        "{told}\n--- on standard error:\n{complained}\n--- log:\n{}",
        mesh.log()
    );
    assert!(output.status.success(), "{all}");
    for words in [
        "\"recoveryCodes\":[\"",
        "\"name\":\"shop\"",
        "ROLE_TOO_LOW",
        "refused: ROLE_TOO_LOW",
        " 429",
        "HTTP/2 429",
        "SECRET_KIND_MYSQL_PASSWORD",
        "nobody wrote it down",
        "KEY_STATE_ACTIVE",
        "RegisterServer",
        "changed, and seen",
        "\"class_uid\"",
        "PLAN_LIMIT",
        "refused: PLAN_LIMIT",
        "DELETION_STATE_DONE",
        "keys-destroyed",
    ] {
        assert!(told.contains(words), "no {words} in:\n{all}");
    }
    let (_, after) = told
        .to_lowercase()
        .split_once("retry-after: ")
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .expect("Retry-After");
    let seconds: u32 = after
        .split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .expect("a number");
    assert!((1..=70).contains(&seconds), "{seconds}");
    assert_eq!(
        told.matches("\"name\":\"shop\"").count(),
        3,
        "registered, and seen by the key and by the member:\n{all}"
    );
    assert!(!all.contains("swordfish"), "{all}");
    drop(mesh);
}
