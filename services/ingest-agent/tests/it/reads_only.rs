//! The promise that `trail` never writes to a database, kept by looking at its sources: every statement it can send is a constant of
//! one file, each of them reads or sets a variable of its own session, and no other call sends anything.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where the client library may be used, and where its statements are.
const ENGINE: &str = "src/source";
const STATEMENTS: &str = "src/source/sql.rs";

/// Methods of the client library's `Queryable` that send text to the server.
const SENDERS: [&str; 16] = [
    ".query(",
    ".query_drop(",
    ".query_first(",
    ".query_fold(",
    ".query_iter(",
    ".query_map(",
    ".query_stream(",
    ".exec(",
    ".exec_batch(",
    ".exec_drop(",
    ".exec_first(",
    ".exec_fold(",
    ".exec_iter(",
    ".exec_map(",
    ".exec_stream(",
    ".prep(",
];

/// Crates that speak to a database. Only the first may be linked.
const CLIENTS: [&str; 7] = [
    "mysql_async",
    "mysql",
    "sqlx",
    "diesel",
    "sea-orm",
    "tokio-postgres",
    "postgres",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// The constants of the statements' file: name and text.
fn statements() -> Vec<(String, String)> {
    let source = fs::read_to_string(root().join(STATEMENTS)).expect("the statements");
    let mut found = Vec::new();
    for item in source.split("\npub const ").skip(1) {
        let (name, rest) = item.split_once(": &str =").expect("every constant is a string");
        let rest = rest
            .trim_start()
            .strip_prefix('"')
            .expect("every constant is one plain string");
        let (text, _) = rest.split_once("\";").expect("an end");
        // A backslash at a line's end joins it to the next one without its indentation.
        let text: String = text.split("\\\n").map(str::trim_start).collect();
        found.push((name.to_owned(), text));
    }
    let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    assert_eq!(
        code.filter(|line| line.contains("const ")).count(),
        found.len(),
        "every constant is read by this test"
    );
    found
}

#[test]
fn every_statement_reads_or_sets_its_own_session() {
    let all = statements();
    assert!(!all.is_empty());
    for (name, text) in all {
        let upper = text.to_uppercase();
        assert!(
            !text.contains(';') && !text.contains('{'),
            "{name} is one fixed statement: {text}"
        );
        for word in [
            "INTO ",
            "FOR UPDATE",
            "FOR SHARE",
            "LOCK",
            " GLOBAL ",
            "PERSIST",
            "PASSWORD",
            "CALL ",
        ] {
            let reads_globals = upper.starts_with("SHOW GLOBAL VARIABLES ") && word == " GLOBAL ";
            assert!(
                reads_globals || !upper.contains(word),
                "{name} has {word:?}: {text}"
            );
        }
        let reads = ["SELECT ", "SHOW "].iter().any(|verb| upper.starts_with(verb));
        let sets = upper.strip_prefix("SET ").is_some_and(|list| {
            list.split(',').map(str::trim).all(|part| {
                let target = part.split('=').next().unwrap_or_default().trim();
                target.starts_with("@@SESSION.")
                    || (target.starts_with('@') && !target.starts_with("@@"))
                    || target.starts_with("SESSION ")
            })
        });
        assert!(
            reads || sets,
            "{name} neither reads nor sets a session variable: {text}"
        );
    }
}

#[test]
fn nothing_is_sent_that_is_not_one_of_them() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let mut sent = 0;
    for path in files {
        let source = fs::read_to_string(&path).expect("a source");
        let engine = path.starts_with(root().join(ENGINE));
        if !engine {
            assert!(
                !source.contains("mysql_async"),
                "{} uses the client library outside {ENGINE}",
                path.display()
            );
            continue;
        }
        // Its other traits make any text a statement: `"…".run(conn)`.
        for (at, _) in source.match_indices("prelude::") {
            assert!(
                source[at..].starts_with("prelude::Queryable"),
                "{} imports more than Queryable",
                path.display()
            );
        }
        for sender in SENDERS {
            for (at, _) in source.match_indices(sender) {
                let argument = source[at + sender.len()..].trim_start();
                let end = argument.find([',', ')']).expect("an argument");
                let argument = &argument[..end];
                let named = argument.strip_prefix("sql::").is_some_and(is_constant)
                    || source.contains(&format!("let {argument} = if")) && choices(&source, argument);
                assert!(
                    named,
                    "{} sends {argument:?}, which is not a constant of {STATEMENTS}",
                    path.display()
                );
                sent += 1;
            }
        }
    }
    assert!(sent > 0, "the engine asks the server something");
}

fn is_constant(name: &str) -> bool {
    statements().iter().any(|(known, _)| known == name)
}

/// Whether the variable is chosen among constants only: `let name = if … { sql::A } else { sql::B };`.
fn choices(source: &str, name: &str) -> bool {
    let Some((_, rest)) = source.split_once(&format!("let {name} = if")) else {
        return false;
    };
    let line = rest.split(';').next().unwrap_or_default();
    let braces: Vec<&str> = line
        .split('{')
        .skip(1)
        .map(|part| part.split('}').next().unwrap_or_default().trim())
        .collect();
    braces.len() >= 2
        && braces
            .iter()
            .all(|choice| choice.strip_prefix("sql::").is_some_and(is_constant))
}

#[test]
fn no_crate_below_can_reach_a_server() {
    let libs = root().join("../../libs");
    let text = fs::read_to_string(root().join("Cargo.toml")).expect("the manifest");
    for client in &CLIENTS[1..] {
        assert!(
            !linked(&text).any(|name| name == *client),
            "the agent links {client}"
        );
    }
    let mut seen = Vec::new();
    let mut open = vec![text];
    while let Some(text) = open.pop() {
        for name in linked(&text) {
            let manifest = libs.join(name).join("Cargo.toml");
            let Ok(below) = fs::read_to_string(&manifest) else {
                continue;
            };
            if seen.iter().any(|known| known == name) {
                continue;
            }
            for client in CLIENTS {
                let named = linked(&below).any(|name| name == client);
                assert!(!named, "{} links {client}", manifest.display());
            }
            seen.push(name.to_owned());
            open.push(below);
        }
    }
    seen.sort_unstable();
    assert_eq!(
        seen,
        [
            "answer", "binlog", "change", "chassis", "proto", "trail", "types", "undo"
        ]
    );
}

/// The names that begin the lines of a manifest before its dependencies of tests.
fn linked(manifest: &str) -> impl Iterator<Item = &str> {
    let linked = manifest.split("[dev-dependencies]").next();
    let lines = linked.unwrap_or_default().lines();
    lines.filter_map(|line| line.split(['.', ' ', '=']).next())
}
