//! Logs of another server under the names the store knows.

use std::{fs, path::Path};

use testkit::{Engine, Server};

use crate::{
    run::{ask, end, on},
    source::changes_of,
};

/// What the first log of a fresh server holds after `script`, copied into `folder`, under the server's own name for it.
fn first_log(engine: Engine, folder: &Path, script: &str) -> std::path::PathBuf {
    let server = Server::private(engine, &folder.join("server"), &[]);
    server.sql(script);
    let (name, _) = server.position();
    let copy = folder.join(&name);
    fs::copy(server.binlog(&name), &copy).expect("a copy");
    copy
}

#[test]
fn a_log_of_another_server_is_not_taken_for_one_that_is_known() {
    for engine in Engine::ALL {
        let folder = tempfile::tempdir().expect("a folder");
        let log = |name: &str, script: &str| {
            let folder = folder.path().join(name);
            fs::create_dir(&folder).expect("a folder");
            first_log(engine, &folder, script)
        };
        let table = "CREATE DATABASE s; CREATE TABLE s.t (id INT PRIMARY KEY)";
        let ours = log(
            "ours",
            &format!("{table}; INSERT INTO s.t VALUES (1); INSERT INTO s.t VALUES (2)"),
        );
        // The same statements, so that even the places are the same; and others.
        let alike = log("alike", &format!("{table}; INSERT INTO s.t VALUES (3)"));
        let other = log(
            "other",
            "CREATE DATABASE elsewhere; CREATE TABLE elsewhere.t (id INT PRIMARY KEY)",
        );
        assert_eq!(ours.file_name(), alike.file_name(), "{}", engine.name());
        let store = folder.path().join("store");
        let index = |log: &Path| end(on(&store, &["index", log.to_str().expect("a path")]));
        index(&ours).ends_with(0);
        for foreign in [&alike, &other] {
            index(foreign).fails(
                64,
                &[
                    "the store holds another log under the name",
                    "use another --store",
                ],
            );
        }
        let again = index(&ours).ends_with(0);
        assert!(again.err.contains("were in the store already"), "{}", again.err);
        assert_eq!(changes_of(&store, "s").len(), 2);
        ask(&store, &["verify"]).ends_with(0);
        ask(&store, &["coverage"]).ends_with(0);
    }
}
