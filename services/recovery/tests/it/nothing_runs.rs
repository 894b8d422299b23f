//! The promise that nothing in the mesh runs a script, kept by looking at every message that can be sent, and at what this crate is made of.

use std::{collections::BTreeSet, path::Path, process::Command};

use chassis::policy::Table;

const SERVICE: &str = "/trailmesh.recovery.v1.RecoveryService/";

/// Words in the names of fields and methods that would be there if a script, or a statement, could be handed in to be run.
const RUNNING: [&str; 8] = [
    "script",
    "sql",
    "statement",
    "execute",
    "apply",
    "run",
    "restore",
    "command",
];

#[test]
fn the_service_has_these_methods_and_no_other_one() {
    let table = Table::load(proto::DESCRIPTOR_SET).unwrap();
    let methods: BTreeSet<&str> = table
        .rules()
        .filter_map(|rule| rule.path.strip_prefix(SERVICE))
        .collect();
    assert_eq!(
        methods,
        ["GetPlan", "GetScript", "ListPlans", "PlanUndo", "WatchPlan"].into()
    );
}

#[test]
fn no_request_to_any_service_can_carry_a_script_and_no_method_is_called_as_if_it_ran_one() {
    let table = Table::load(proto::DESCRIPTOR_SET).unwrap();
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for service in table.pool().services() {
        for method in service.methods() {
            let path = format!("{}/{}", service.full_name(), method.name());
            let name = method.name().to_lowercase();
            if name != "getscript" && RUNNING.iter().any(|word| name.contains(word)) {
                found.push(path);
            }
            fields(&method.input(), &mut seen, &mut found);
        }
    }
    // What asks an agent for the script, yes or no.
    assert_eq!(found, ["trailmesh.agent.v1.PlanUndoRequest.script"]);
    let asking = table
        .pool()
        .get_message_by_name("trailmesh.agent.v1.PlanUndoRequest")
        .and_then(|message| message.get_field_by_name("script"))
        .unwrap();
    assert_eq!(asking.kind(), prost_reflect::Kind::Bool);
}

fn fields(message: &prost_reflect::MessageDescriptor, seen: &mut BTreeSet<String>, found: &mut Vec<String>) {
    if !seen.insert(message.full_name().to_owned()) {
        return;
    }
    for field in message.fields() {
        let parts: Vec<&str> = field.name().split('_').collect();
        if RUNNING.iter().any(|word| parts.contains(word)) {
            found.push(field.full_name().to_owned());
        }
        if let Some(message) = field.kind().as_message() {
            fields(message, seen, found);
        }
    }
}

/// The names of all packages that are linked into this crate.
fn linked() -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--package", "recovery", "--edges", "normal"])
        .args(["--prefix", "none", "--format", "{p}", "--offline", "--locked"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let tree = String::from_utf8(output.stdout).unwrap();
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    names.map(str::to_owned).collect()
}

#[test]
fn no_client_of_a_customers_database_is_linked() {
    let linked = linked();
    assert!(
        linked.contains("sqlx") && linked.contains("tonic"),
        "the right crate was looked at"
    );
    for banned in [
        "mysql",
        "mysql_async",
        "mysql_common",
        "sqlx-mysql",
        "sqlx-sqlite",
        "ingest-agent",
        "binlog",
        "trail",
        "undo",
    ] {
        assert!(!linked.contains(banned), "{banned}");
    }
}
