//! Following servers in their less usual states: what they say of themselves, how they speak, and what the way to them does.

use std::{fs, path::Path};

use testkit::{Engine, Server, eventually};

use crate::{
    run::{ask, end, on},
    source::{Watching, catch_up, changes_of, here, watch},
};

/// Everything the server has executed, as `--start` takes it.
fn executed(server: &Server) -> String {
    let variable = if server.engine.is_mariadb() {
        "@@gtid_binlog_pos"
    } else {
        "@@gtid_executed"
    };
    server
        .sql(&format!("SELECT {variable}"))
        .replace("\\n", "")
        .replace(char::is_whitespace, "")
}

/// Ends every connection of the account `trail` whose command begins with `command`; how many there were.
fn end_connections(server: &Server, command: &str) -> usize {
    let ids = server.sql(&format!(
        "SELECT ID FROM information_schema.PROCESSLIST WHERE USER = 'trail' AND COMMAND LIKE '{command}%'"
    ));
    ids.lines()
        .map(|id| server.run(format!("KILL {id}").as_bytes(), &[]))
        .count()
}

#[test]
fn a_start_by_gtid_survives_a_lost_connection() {
    for engine in [Engine::Mariadb, Engine::Mysql8] {
        let folder = tempfile::tempdir().expect("a folder");
        let server = Server::private(engine, &folder.path().join("server"), &[]);
        let store = folder.path().join("store");
        server.sql("CREATE DATABASE s; CREATE TABLE s.t (id INT PRIMARY KEY)");
        let watching = Watching::start(watch(&server, &store, &["--start", &executed(&server)]));
        watching.says("following", 1);
        eventually("the dump thread", || {
            (end_connections(&server, "Binlog Dump") > 0).then_some(())
        });
        server.sql("INSERT INTO s.t VALUES (1)");
        watching.says("following", 2);
        eventually("the change", || {
            (changes_of(&store, "s").len() == 1).then_some(())
        });
        assert_eq!(watching.stop("-TERM").0, Some(0));
        // The start is kept even when nothing came after it.
        let other = folder.path().join("other");
        catch_up(&server, &other, &["--start", &executed(&server)]).ends_with(0);
        server.sql("INSERT INTO s.t VALUES (2)");
        catch_up(&server, &other, &[]).ends_with(0);
        assert_eq!(changes_of(&other, "s").len(), 1, "{}", engine.name());
    }
}

#[test]
fn gtids_with_holes_begin_at_the_first_transaction_that_is_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::private(Engine::Mysql8, &folder.path().join("mysql"), &[]);
    server.sql("CREATE DATABASE s; CREATE TABLE s.t (id INT PRIMARY KEY)");
    let whole = executed(&server);
    let (uuid, last) = whole.rsplit_once('-').expect("uuid:1-n");
    let last: u64 = last.parse().expect("a number");
    server.sql("INSERT INTO s.t VALUES (1); INSERT INTO s.t VALUES (2); INSERT INTO s.t VALUES (3)");
    let store = folder.path().join("holes");
    let holes = format!("{uuid}-{}:{}", last + 1, last + 3);
    catch_up(&server, &store, &["--start", &holes]).ends_with(0);
    // The third is in the set, but stands within what the store now covers.
    assert_eq!(changes_of(&store, "s").len(), 2);
    let future = format!("{uuid}-{}", last + 9);
    catch_up(&server, &folder.path().join("future"), &["--start", &future])
        .fails(64, &["has not executed all of", "hint: "]);

    let server = Server::private(Engine::Mariadb, &folder.path().join("mariadb"), &[]);
    server.sql("CREATE DATABASE s; CREATE TABLE s.t (id INT PRIMARY KEY); SET gtid_domain_id = 1; INSERT INTO s.t VALUES (1)");
    let before = executed(&server);
    let (first, _) = before.split_once(',').expect("two domains");
    server.sql("SET gtid_domain_id = 1; INSERT INTO s.t VALUES (2); SET gtid_domain_id = 0; INSERT INTO s.t VALUES (3); SET gtid_domain_id = 1; INSERT INTO s.t VALUES (4)");
    let store = folder.path().join("domains");
    let after = executed(&server);
    let (_, second) = after.split_once(',').expect("two domains");
    // Domain 0 from where it stood at first, domain 1 from its end.
    catch_up(&server, &store, &["--start", &format!("{first},{second}")]).ends_with(0);
    assert_eq!(changes_of(&store, "s").len(), 2);
    let run = catch_up(&server, &store, &[]).ends_with(0);
    assert!(!run.err.contains("GAP"), "{}", run.err);
}

#[test]
fn a_commit_that_is_logged_but_not_yet_counted_is_no_reset() {
    let folder = tempfile::tempdir().expect("a folder");
    let slow = ["--binlog-group-commit-sync-delay=1000000"];
    let server = Server::private(Engine::Mysql8, &folder.path().join("server"), &slow);
    let store = folder.path().join("store");
    server.sql("CREATE DATABASE s; CREATE TABLE s.t (id INT PRIMARY KEY)");
    let watching = Watching::start(watch(&server, &store, &[]));
    watching.says("following", 1);
    std::thread::scope(|scope| {
        let insert = scope.spawn(|| server.sql("INSERT INTO s.t VALUES (1)"));
        eventually("the change", || {
            (changes_of(&store, "s").len() == 1).then_some(())
        });
        assert_eq!(watching.stop("-TERM").0, Some(0));
        let run = catch_up(&server, &store, &[]).ends_with(0);
        assert!(!run.err.contains("GAP"), "{}", run.err);
        insert.join().expect("the insert ends");
    });
}

#[test]
fn numbers_that_go_down_are_no_reset() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::private(Engine::Mariadb, &folder.path().join("server"), &[]);
    let store = folder.path().join("store");
    server.sql("CREATE DATABASE s; CREATE TABLE s.t (id INT PRIMARY KEY)");
    catch_up(&server, &store, &["--start", "oldest"]).ends_with(0);
    server.sql("SET gtid_seq_no = 10000; INSERT INTO s.t VALUES (1)");
    catch_up(&server, &store, &[]).ends_with(0);
    server.sql("SET server_id = 2, gtid_seq_no = 5000; INSERT INTO s.t VALUES (2)");
    for id in 3..5 {
        let run = catch_up(&server, &store, &[]).ends_with(0);
        assert!(!run.err.contains("GAP"), "{}", run.err);
        server.sql(&format!("SET server_id = 2; INSERT INTO s.t VALUES ({id})"));
    }
    catch_up(&server, &store, &[]).ends_with(0);
    assert_eq!(changes_of(&store, "s").len(), 4);
}

#[test]
fn schemas_that_the_server_does_not_log_are_named() {
    for (engine, option) in [
        (Engine::Mariadb, "--binlog-ignore-db=hidden"),
        (Engine::Mysql9, "--binlog-do-db=hidden"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let server = Server::private(engine, &folder.path().join("server"), &[option]);
        let watching = Watching::start(watch(&server, &folder.path().join("store"), &[]));
        watching.says("following", 1);
        let (_, said) = watching.stop("-TERM");
        let warned = |line: &String| {
            line.contains("warning") && line.contains("hidden") && line.contains("out of the log")
        };
        assert!(said.iter().any(warned), "{said:?}");
    }
}

#[test]
fn a_log_that_the_server_cannot_read_ends_the_watch() {
    let folder = tempfile::tempdir().expect("a folder");
    for engine in [Engine::Mariadb, Engine::Mysql8] {
        let path = folder.path().join(engine.name());
        let server = Server::private(engine, &path.join("server"), &[]);
        server.sql("CREATE DATABASE s; CREATE TABLE s.t (id INT PRIMARY KEY); INSERT INTO s.t VALUES (1)");
        let (file, offset) = server.position();
        server.sql("INSERT INTO s.t VALUES (2); FLUSH BINARY LOGS");
        // The event there says that it is shorter than its own header.
        let log = server.binlog(&file);
        let mut bytes = fs::read(&log).expect("the log");
        let at = usize::try_from(offset).expect("a length") + 9;
        bytes[at..at + 4].copy_from_slice(&3_u32.to_le_bytes());
        fs::write(&log, bytes).expect("the log");
        let watching = Watching::start(watch(&server, &path.join("store"), &["--start", "oldest"]));
        let (status, said) = watching.ends();
        assert_ne!(status, Some(0), "{said:?}");
        let hinted = said.iter().any(|line| line.contains("cannot read its own log"));
        assert!(
            hinted && !said.iter().any(|line| line.contains("GAP")),
            "{said:?}"
        );
        assert_eq!(changes_of(&path.join("store"), "s").len(), 1);
    }
}

#[test]
fn an_event_larger_than_the_servers_packets_is_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = ["--max-allowed-packet=16M"];
    let server = Server::private(Engine::Mariadb, &folder.path().join("server"), &small);
    let store = folder.path().join("store");
    server.sql("CREATE DATABASE s; CREATE TABLE s.t (id INT PRIMARY KEY, a LONGTEXT, b LONGTEXT)");
    let start = here(&server);
    server.sql("INSERT INTO s.t VALUES (1, REPEAT('a', 10000000), REPEAT('b', 10000000))");
    catch_up(&server, &store, &["--start", &start]).ends_with(0);
    let coverage = ask(&store, &["changes", "s.t", "--format", "ndjson"]).ends_with(0);
    assert!(coverage.out.len() > 20_000_000);
}

#[test]
fn an_encrypted_log_is_followed() {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = folder.path().join("keys");
    fs::write(&keys, format!("1;{}\n", "a7".repeat(32))).expect("a key");
    let options = [
        "--plugin-load-add=file_key_management".to_owned(),
        format!("--file-key-management-filename={}", keys.display()),
        "--encrypt-binlog=ON".to_owned(),
    ];
    open_to_the_server(&keys);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let server = Server::private(Engine::Mariadb, &folder.path().join("server"), &options);
    let store = folder.path().join("store");
    server.sql("CREATE DATABASE s; CREATE TABLE s.t (id INT PRIMARY KEY); INSERT INTO s.t VALUES (1); FLUSH BINARY LOGS; INSERT INTO s.t VALUES (2)");
    catch_up(&server, &store, &["--start", "oldest"]).ends_with(0);
    server.sql("INSERT INTO s.t VALUES (3)");
    catch_up(&server, &store, &[]).ends_with(0);
    assert_eq!(changes_of(&store, "s").len(), 3);
}

/// The servers may run as another user than the tests.
fn open_to_the_server(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("the mode");
    let folder = path.parent().expect("a folder");
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("the mode");
}

#[test]
fn a_certificate_without_the_hosts_name_passes_only_where_names_do_not_count() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::private(
        Engine::Mysql8,
        &folder.path().join("server"),
        &["--bind-address=127.0.0.1,127.0.0.2"],
    );
    let ca = server.ca.to_str().expect("a path").to_owned();
    let url = server.repl_url.replace("127.0.0.1", "127.0.0.2");
    let try_with = |store: &str, args: &[&str]| {
        let args = [&["watch", &url, "--until-caught-up"], args].concat();
        let mut command = on(&folder.path().join(store), &args);
        command.env("TRAIL_SOURCE_PASSWORD", &server.repl_password);
        end(command)
    };
    try_with("ca", &["--tls-mode", "verify-ca", "--tls-ca", &ca]).ends_with(0);
    try_with("identity", &["--tls-mode", "verify-identity", "--tls-ca", &ca])
        .fails(64, &["TLS", "not valid for name", "hint:"]);
    // Another authority than the one that signed it.
    try_with("other", &["--tls-mode", "verify-ca"]).fails(64, &["TLS", "hint:"]);
}

#[test]
fn compressed_transactions_are_followed_as_the_files_hold_them() {
    for engine in [Engine::Mysql8, Engine::Mysql9] {
        let server = Server::shared(engine);
        let folder = tempfile::tempdir().expect("a folder");
        let (followed, read) = (folder.path().join("followed"), folder.path().join("read"));
        let schema = server.schema("packed");
        let start = here(server);
        let (path, _) = server.record(&format!(
            "USE `{}`; SET SESSION binlog_transaction_compression = ON; CREATE TABLE t (id INT PRIMARY KEY, v TEXT); \
             INSERT INTO t VALUES (1, REPEAT('x', 9000)), (2, 'b'); START TRANSACTION; UPDATE t SET v = 'c'; DELETE FROM t WHERE id = 1; COMMIT; \
             SET SESSION binlog_transaction_compression = OFF; INSERT INTO t VALUES (3, 'd')",
            schema.name
        ));
        catch_up(server, &followed, &["--start", &start]).ends_with(0);
        end(on(&read, &["index", path.to_str().expect("a path")])).ends_with(0);
        let without_version = |store: &Path| -> Vec<serde_json::Value> {
            let parse = |line: &String| {
                let mut change: serde_json::Value = serde_json::from_str(line).expect("JSON");
                change["schema_version"] = serde_json::Value::Null;
                change
            };
            changes_of(store, &schema.name).iter().map(parse).collect()
        };
        let ours = without_version(&followed);
        assert_eq!(ours.len(), 6, "{}", engine.name());
        assert_eq!(ours, without_version(&read), "{}", engine.name());
    }
}

#[test]
fn a_lost_second_connection_is_opened_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::private(Engine::Mysql8, &folder.path().join("server"), &[]);
    let store = folder.path().join("store");
    server.sql("CREATE DATABASE s");
    let watching = Watching::start(watch(&server, &store, &[]));
    watching.says("following", 1);
    for table in ["a", "b"] {
        server.sql(&format!(
            "CREATE TABLE s.{table} (id INT PRIMARY KEY, w INT GENERATED ALWAYS AS (id * 2) STORED); INSERT INTO s.{table} (id) VALUES (1)"
        ));
        eventually("the change", || {
            let table = format!("s.{table}");
            (ask(&store, &["changes", &table, "--format", "ndjson"])
                .out
                .lines()
                .count()
                == 1)
                .then_some(())
        });
        let schema = ask(&store, &["schema", &format!("s.{table}"), "--format", "json"]).ends_with(0);
        assert_eq!(
            schema.json()["versions"][0]["columns"][1]["generated"],
            true,
            "{table}"
        );
        assert_eq!(end_connections(&server, "Sleep"), 1, "the second connection");
    }
    assert_eq!(watching.stop("-TERM").0, Some(0));
}
