//! Following real servers.

use testkit::{Engine, Server, eventually};

use crate::{
    run::{ask, end, on},
    source::{Watching, catch_up, changes_of, here, watch},
};

const ROWS: &str = "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20), w INT GENERATED ALWAYS AS (id * 2) STORED); \
     INSERT INTO t (id, v) VALUES (1, 'one'), (2, 'two'); UPDATE t SET v = 'uno' WHERE id = 1; UPDATE t SET id = 20 WHERE id = 2; DELETE FROM t WHERE id = 1;";

#[test]
fn what_is_followed_equals_what_the_files_hold() {
    for engine in Engine::ALL {
        let server = Server::shared(engine);
        let folder = tempfile::tempdir().expect("a folder");
        let (followed, read) = (folder.path().join("followed"), folder.path().join("read"));
        let schema = server.schema("live");
        let start = here(server);
        let (path, _) = server.record(&format!("USE `{}`; {ROWS}", schema.name));
        catch_up(server, &followed, &["--start", &start]).ends_with(0);
        end(on(&read, &["index", path.to_str().expect("a path")])).ends_with(0);
        let ours = changes_of(&followed, &schema.name);
        let indexed = changes_of(&read, &schema.name);
        assert_eq!(ours.len(), 5, "{}", engine.name());
        // MariaDB sends annotations only to replicas that ask for them in a way the client library does not offer.
        let without_query = |lines: &[String]| -> Vec<serde_json::Value> {
            lines
                .iter()
                .map(|line| {
                    let mut change: serde_json::Value = serde_json::from_str(line).expect("JSON");
                    change["query"] = serde_json::Value::Null;
                    change["schema_version"] = serde_json::Value::Null;
                    change
                })
                .collect()
        };
        assert_eq!(without_query(&ours), without_query(&indexed), "{}", engine.name());
        assert_eq!(
            ours.iter().any(|line| line.contains("\"query\":\"UPDATE")),
            !engine.is_mariadb()
        );
        assert!(indexed.iter().any(|line| line.contains("\"query\":\"UPDATE")));
        // Only the live server can say which columns it computes.
        let question = ["schema", &format!("{}.t", schema.name), "--format", "json"];
        let generated = |store| {
            ask(store, &question).ends_with(0).json()["versions"][0]["columns"][2]["generated"].clone()
        };
        assert_eq!(
            (generated(&followed), generated(&read)),
            (true.into(), serde_json::Value::Null)
        );
    }
}

#[test]
fn a_watch_goes_on_where_it_was_stopped() {
    let server = Server::shared(Engine::Mysql8);
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store");
    let schema = server.schema("resume");
    server.sql(&format!("CREATE TABLE `{}`.t (id INT PRIMARY KEY)", schema.name));
    let insert = |id: u32| server.sql(&format!("INSERT INTO `{}`.t VALUES ({id})", schema.name));
    let watching = Watching::start(watch(server, &store, &["--start", &here(server)]));
    watching.says("following", 1);
    insert(1);
    eventually("the first change", || {
        (changes_of(&store, &schema.name).len() == 1).then_some(())
    });
    let (status, _) = watching.stop("-TERM");
    assert_eq!(status, Some(0));
    insert(2);
    let watching = Watching::start(watch(server, &store, &[]));
    insert(3);
    eventually("all changes", || {
        (changes_of(&store, &schema.name).len() == 3).then_some(())
    });
    let (status, _) = watching.stop("-INT");
    assert_eq!(status, Some(0));
    ask(&store, &["changes"]).ends_with(0);
    // A start that contradicts the store is refused, and so is another server.
    catch_up(server, &store, &["--start", "now"]).fails(64, &["already goes up to"]);
    catch_up(Server::shared(Engine::Mysql9), &store, &[]).fails(64, &["the store follows"]);
    catch_up(Server::shared(Engine::Mariadb), &store, &[]).fails(64, &["the store follows"]);
}

#[test]
fn a_watch_begins_after_given_transactions() {
    for engine in Engine::ALL {
        let server = Server::shared(engine);
        let folder = tempfile::tempdir().expect("a folder");
        let schema = server.schema("gtid");
        server.sql(&format!(
            "CREATE TABLE `{}`.t (id INT PRIMARY KEY); INSERT INTO `{}`.t VALUES (1)",
            schema.name, schema.name
        ));
        let executed = if engine.is_mariadb() {
            "@@gtid_binlog_pos"
        } else {
            "@@gtid_executed"
        };
        let gtids = server
            .sql(&format!("SELECT {executed}"))
            .replace("\\n", "")
            .replace(char::is_whitespace, "");
        server.sql(&format!("INSERT INTO `{}`.t VALUES (2), (3)", schema.name));
        catch_up(server, folder.path(), &["--start", &gtids]).ends_with(0);
        let changes = changes_of(folder.path(), &schema.name);
        assert_eq!(changes.len(), 2, "{}: {changes:?}", engine.name());
        // And goes on from there.
        server.sql(&format!("INSERT INTO `{}`.t VALUES (4)", schema.name));
        catch_up(server, folder.path(), &[]).ends_with(0);
        assert_eq!(
            changes_of(folder.path(), &schema.name).len(),
            3,
            "{}",
            engine.name()
        );
    }
}

#[test]
fn transport_and_passwords_are_as_demanded() {
    for engine in Engine::ALL {
        let server = Server::shared(engine);
        let folder = tempfile::tempdir().expect("a folder");
        let start = here(server);
        let ca = server.ca.to_str().expect("a path");
        let try_with = |nth: usize, args: &[&str]| {
            let store = folder.path().join(nth.to_string());
            catch_up(server, &store, &[&["--start", start.as_str()], args].concat())
        };
        for (nth, mode) in ["disabled", "preferred", "required"].into_iter().enumerate() {
            try_with(nth, &["--tls-mode", mode]).ends_with(0);
        }
        try_with(3, &["--tls-mode", "verify-ca", "--tls-ca", ca]).ends_with(0);
        try_with(4, &["--tls-mode", "verify-identity", "--tls-ca", ca]).ends_with(0);
        // The system's authorities did not sign it.
        try_with(5, &["--tls-mode", "verify-ca"]).fails(64, &["TLS", "hint:"]);
        let mut wrong = watch(server, &folder.path().join("6"), &["--until-caught-up"]);
        wrong.env("TRAIL_SOURCE_PASSWORD", "wrong");
        let run = end(wrong).fails(64, &["Access denied", "TRAIL_SOURCE_PASSWORD"]);
        assert!(!run.err.contains("wrong"), "{}", run.err);
        // An account that must use TLS, and one by the Unix socket.
        let user = format!("tls_only_{}", std::process::id());
        server.sql(&format!("DROP USER IF EXISTS {user}; CREATE USER {user} IDENTIFIED BY 'p' REQUIRE SSL; GRANT REPLICATION SLAVE, REPLICATION CLIENT, SELECT ON *.* TO {user}"));
        let url = server.repl_url.replace("trail@", &format!("{user}@"));
        for (mode, status) in [("disabled", 64), ("required", 0)] {
            let mut command = on(
                &folder.path().join(mode),
                &[
                    "watch",
                    &url,
                    "--until-caught-up",
                    "--start",
                    &start,
                    "--tls-mode",
                    mode,
                ],
            );
            command.env("TRAIL_SOURCE_PASSWORD", "p");
            end(command).ends_with(status);
        }
        server.sql(&format!("DROP USER {user}"));
        let socket = format!("mysql://trail@localhost/?socket={}", server.socket.display());
        let mut command = on(
            &folder.path().join("socket"),
            &["watch", &socket, "--until-caught-up", "--start", &start],
        );
        command.env("TRAIL_SOURCE_PASSWORD", &server.repl_password);
        end(command).ends_with(0);
    }
    let server = Server::shared(Engine::Mysql8);
    let folder = tempfile::tempdir().expect("a folder");
    let url = server.repl_url.replace("trail@", "trail_native@");
    let mut command = on(folder.path(), &["watch", &url, "--until-caught-up"]);
    command.env("TRAIL_SOURCE_PASSWORD", &server.repl_password);
    end(command).ends_with(0);
}

#[test]
fn an_account_without_rights_is_told_which_it_needs() {
    for engine in Engine::ALL {
        let server = Server::shared(engine);
        let folder = tempfile::tempdir().expect("a folder");
        let user = format!("powerless_{}", std::process::id());
        server.sql(&format!(
            "DROP USER IF EXISTS {user}; CREATE USER {user} IDENTIFIED BY 'p'"
        ));
        let url = server.repl_url.replace("trail@", &format!("{user}@"));
        let mut command = on(folder.path(), &["watch", &url, "--until-caught-up"]);
        command.env("TRAIL_SOURCE_PASSWORD", "p");
        end(command).fails(64, &["GRANT REPLICATION SLAVE, REPLICATION CLIENT, SELECT"]);
        server.sql(&format!("DROP USER {user}"));
    }
}

#[test]
fn a_source_that_is_not_there_is_unreachable() {
    let folder = tempfile::tempdir().expect("a folder");
    // A port that was free a moment ago and that nobody listens on.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .expect("a port")
        .port();
    let url = format!("mysql://trail@127.0.0.1:{port}/");
    end(on(folder.path(), &["watch", &url])).fails(69, &["127.0.0.1"]);
}

#[test]
fn a_second_writer_is_refused_and_readers_are_not() {
    let server = Server::shared(Engine::Mysql8);
    let folder = tempfile::tempdir().expect("a folder");
    let watching = Watching::start(watch(server, folder.path(), &["--start", &here(server)]));
    watching.says("following", 1);
    catch_up(server, folder.path(), &[]).fails(1, &["writ"]);
    ask(folder.path(), &["status"]).ends_with(0);
    assert_eq!(watching.stop("-TERM").0, Some(0));
}

#[test]
fn a_column_the_server_sets_on_every_update_is_no_conflict() {
    for engine in Engine::ALL {
        let server = Server::shared(engine);
        let folder = tempfile::tempdir().expect("a folder");
        let (store, script) = (folder.path().join("store"), folder.path().join("undo.sql"));
        let schema = server.schema("stamp");
        let use_it = format!("USE `{}`;", schema.name);
        server.sql(&format!(
            "{use_it} CREATE TABLE t (id INT PRIMARY KEY, status CHAR(9), note CHAR(9), updated_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6)); \
             INSERT INTO t (id, status) VALUES (1, 'new'), (2, 'new')"
        ));
        let start = here(server);
        server.sql(&format!("{use_it} UPDATE t SET status = 'void'"));
        server.sql(&format!("{use_it} UPDATE t SET note = 'mine' WHERE id = 1"));
        catch_up(server, &store, &["--start", &start]).ends_with(0);
        let stamp = || server.sql(&format!("{use_it} SELECT id, updated_at FROM t WHERE id = 1"));
        let later = stamp();
        let table = format!("{}.t", schema.name);
        let run = ask(
            &store,
            &[
                "undo",
                &table,
                "--column",
                "status",
                "-o",
                script.to_str().expect("a path"),
            ],
        )
        .ends_with(0);
        let counts = |class: &str| {
            run.err
                .lines()
                .any(|line| line.split_whitespace().take(2).eq([class, "1"]))
        };
        assert!(
            counts("clean") && counts("disjoint"),
            "{}: {}",
            engine.name(),
            run.err
        );
        let applied = server.run(&std::fs::read(&script).expect("the script"), &[]);
        assert!(
            applied.status.success(),
            "{}",
            String::from_utf8_lossy(&applied.stderr)
        );
        assert_eq!(
            server.sql(&format!("{use_it} SELECT id, status, note FROM t ORDER BY id")),
            "1\tnew\tmine\n2\tnew\tNULL\n"
        );
        assert_eq!(stamp(), later, "the later edit's time stays");
    }
}
