//! The rules of the house that a compiler does not keep: who may know whom, and how files look.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Which of our crates a crate may link. A new arrow is the rare, watched kind of change: it is made here, with a reason in the commit.
const ARROWS: [(&str, &[&str]); 20] = [
    ("types", &[]),
    ("proto", &[]),
    ("chassis", &["proto", "types"]),
    ("pg", &["types"]),
    ("binlog", &["types"]),
    ("trail", &["binlog", "types"]),
    ("undo", &["binlog", "types"]),
    ("audit", &["types"]),
    ("change", &["binlog", "proto", "types"]),
    ("answer", &["binlog", "change", "proto", "trail", "types", "undo"]),
    ("testkit", &[]),
    ("auth", &["audit", "chassis", "pg", "proto", "types"]),
    ("tenant", &["audit", "chassis", "pg", "proto", "types"]),
    ("vault", &["audit", "chassis", "pg", "proto", "types"]),
    (
        "query",
        &[
            "answer", "binlog", "change", "chassis", "pg", "proto", "trail", "types", "undo",
        ],
    ),
    ("recovery", &["change", "chassis", "pg", "proto", "types"]),
    ("gateway", &["change", "chassis", "proto", "types"]),
    (
        "ingest-agent",
        &[
            "answer", "binlog", "change", "chassis", "proto", "trail", "types", "undo",
        ],
    ),
    (
        "trailmesh",
        &[
            "audit", "auth", "chassis", "gateway", "pg", "proto", "query", "recovery", "tenant", "types",
            "vault",
        ],
    ),
    ("integration-tests", &[]),
];

/// What the agent, which goes to customers' machines, must never contain.
const NOT_IN_THE_AGENT: [&str; 6] = [
    "sqlx",
    "aws-sdk-kms",
    "openssl-sys",
    "native-tls",
    "aws-lc-sys",
    "testkit",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo prints JSON")
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

fn list<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
    value[key].as_array().into_iter().flatten()
}

/// Our crates by name.
fn members(metadata: &Value) -> BTreeMap<String, Value> {
    let ours: BTreeSet<&str> = list(metadata, "workspace_members")
        .filter_map(Value::as_str)
        .collect();
    list(metadata, "packages")
        .filter(|package| ours.contains(text(package, "id")))
        .map(|package| (text(package, "name").to_owned(), package.clone()))
        .collect()
}

#[test]
fn arrows_between_crates_are_those_of_the_plan() {
    let metadata = metadata();
    let members = members(&metadata);
    let planned: BTreeMap<&str, &[&str]> = ARROWS.into_iter().collect();
    assert_eq!(
        members.keys().map(String::as_str).collect::<Vec<_>>(),
        planned.keys().copied().collect::<Vec<_>>()
    );
    for (name, package) in &members {
        let linked: BTreeSet<&str> = list(package, "dependencies")
            .filter(|dependency| dependency["kind"].is_null())
            .map(|dependency| text(dependency, "name"))
            .filter(|dependency| members.contains_key(*dependency))
            .collect();
        for other in linked {
            assert!(
                planned[name.as_str()].contains(&other),
                "{name} must not know {other}"
            );
        }
    }
}

/// The packages that are linked into one of ours.
fn linked_into(metadata: &Value, member: &str) -> BTreeSet<String> {
    let nodes: BTreeMap<&str, &Value> = list(&metadata["resolve"], "nodes")
        .map(|node| (text(node, "id"), node))
        .collect();
    let names: BTreeMap<&str, &str> = list(metadata, "packages")
        .map(|package| (text(package, "id"), text(package, "name")))
        .collect();
    let start = names
        .iter()
        .find(|(_, name)| **name == member)
        .map(|(id, _)| *id)
        .expect("a member of the workspace");
    let mut linked = BTreeSet::new();
    let mut ahead = vec![start];
    while let Some(id) = ahead.pop() {
        if !linked.insert(id) {
            continue;
        }
        for dependency in list(nodes[id], "deps") {
            if list(dependency, "dep_kinds").any(|kind| kind["kind"].is_null()) {
                ahead.push(text(dependency, "pkg"));
            }
        }
    }
    linked.into_iter().map(|id| names[id].to_owned()).collect()
}

#[test]
fn the_agent_links_nothing_it_must_not() {
    let linked = linked_into(&metadata(), "ingest-agent");
    assert!(
        linked.contains("mysql_async"),
        "the walk found {} packages only",
        linked.len()
    );
    for banned in NOT_IN_THE_AGENT {
        assert!(!linked.contains(banned), "the agent links {banned}");
    }
}

#[test]
fn the_gateway_and_the_chassis_have_no_way_to_the_database() {
    let metadata = metadata();
    assert!(
        linked_into(&metadata, "auth").contains("sqlx"),
        "the walk does not find it where it is"
    );
    for name in ["gateway", "chassis"] {
        for banned in ["sqlx", "sqlx-core", "pg"] {
            assert!(
                !linked_into(&metadata, name).contains(banned),
                "{name} links {banned}"
            );
        }
    }
}

#[test]
fn every_crate_takes_the_workspaces_lints() {
    for (name, package) in members(&metadata()) {
        let manifest = fs::read_to_string(text(&package, "manifest_path")).expect("a manifest");
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "{name} does not opt into the lints"
        );
    }
}

/// Every Rust file of the project.
fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut ahead = vec![
        root().join("libs"),
        root().join("services"),
        root().join("integration-tests"),
    ];
    while let Some(folder) = ahead.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                ahead.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 50, "only {} sources were found", found.len());
    found
}

#[test]
fn no_file_outgrows_its_noun() {
    for path in sources() {
        let lines = fs::read_to_string(&path).expect("a source").lines().count();
        assert!(
            lines <= 700,
            "{} has {lines} lines: find its second noun",
            path.display()
        );
    }
}

#[test]
fn nothing_is_left_for_later_in_the_sources() {
    // Assembled here so that this file does not find itself.
    let marks = [
        ["todo", "!("].concat(),
        ["unimplemented", "!("].concat(),
        ["#[ign", "ore"].concat(),
        ["FIX", "ME"].concat(),
        ["should_", "panic"].concat(),
    ];
    for path in sources() {
        let source = fs::read_to_string(&path).expect("a source");
        for mark in &marks {
            assert!(
                !source.contains(mark.as_str()),
                "{} contains {mark}",
                path.display()
            );
        }
    }
}

/// What of a source is product: nothing of a file of tests or of an example, and of others what stands before their tests.
fn product(path: &Path) -> String {
    let inside = path.strip_prefix(root()).expect("a source is in the workspace");
    let is_test = inside.iter().any(|part| {
        ["examples", "tests", "tests.rs", "testkit", "integration-tests"]
            .iter()
            .any(|name| part == *name)
    });
    if is_test {
        return String::new();
    }
    let source = fs::read_to_string(path).expect("a source");
    let end = source.find("#[cfg(test)]\nmod tests {").unwrap_or(source.len());
    source[..end].to_owned()
}

#[test]
fn tasks_are_named_and_owned_by_a_runtime() {
    let mut read = 0;
    for path in sources() {
        let source = product(&path);
        read += usize::from(!source.is_empty());
        for loose in ["tokio::spawn(", "task::spawn("] {
            assert!(
                !source.contains(loose),
                "{} contains {loose}…): a task belongs to chassis::Runtime::spawn, or to a set that its maker waits for",
                path.display()
            );
        }
    }
    assert!(read > 50, "only {read} sources of the product were found");
}
