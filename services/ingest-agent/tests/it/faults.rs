//! What happens to a watch when the server, the log or the watch itself breaks.

use std::{path::Path, process::Command};

use testkit::{Engine, Server, eventually};

use crate::{
    run::{ask, end, on},
    source::{Watching, catch_up, changes_of, here, watch},
};

/// The start must be told again as long as every kill came before it was stored.
fn start_unless_stored<'a>(store: &Path, start: &'a str) -> Vec<&'a str> {
    let coverage = ask(store, &["coverage", "--format", "json"]);
    let stored = coverage.status == 0
        && coverage.json()["intervals"]
            .as_array()
            .is_some_and(|all| !all.is_empty());
    if stored {
        Vec::new()
    } else {
        vec!["--start", start]
    }
}

#[test]
fn no_change_is_lost_or_doubled_by_kill_9() {
    for engine in Engine::ALL {
        let server = Server::shared(engine);
        let folder = tempfile::tempdir().expect("a folder");
        let (killed, whole) = (folder.path().join("killed"), folder.path().join("whole"));
        let schema = server.schema("kill");
        server.sql(&format!(
            "CREATE TABLE `{}`.t (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(200))",
            schema.name
        ));
        let start = here(server);
        let workload: String = (0..400)
            .map(|n| format!("START TRANSACTION; INSERT INTO t (v) VALUES ('{n}'), (REPEAT('x', {})); UPDATE t SET v = 'seen' WHERE id = {n}; COMMIT;\n", n % 200))
            .collect();
        let (path, _) = std::thread::scope(|scope| {
            let writer = scope.spawn(|| server.record(&format!("USE `{}`; {workload}", schema.name)));
            // Killed again and again while the server writes, at whatever it is doing then.
            let mut watching = Watching::start(watch(server, &killed, &["--start", &start]));
            while !writer.is_finished() {
                std::thread::sleep(std::time::Duration::from_millis(30));
                watching.kill();
                let args = start_unless_stored(&killed, &start);
                watching = Watching::start(watch(server, &killed, &args));
            }
            watching.kill();
            writer.join().expect("the workload runs")
        });
        catch_up(server, &killed, &start_unless_stored(&killed, &start)).ends_with(0);
        ask(&killed, &["verify"]).ends_with(0);
        end(on(&whole, &["index", path.to_str().expect("a path")])).ends_with(0);
        let position = |line: &String| line.split("\"gtid\"").next().unwrap_or_default().to_owned();
        let ours: Vec<String> = changes_of(&killed, &schema.name).iter().map(position).collect();
        let all: Vec<String> = changes_of(&whole, &schema.name).iter().map(position).collect();
        assert!(all.len() >= 800, "{} changes", all.len());
        assert_eq!(ours, all, "{}", engine.name());
        let coverage = ask(&killed, &["coverage"]).ends_with(0);
        assert!(!coverage.out.contains("gap"), "{}", coverage.out);
    }
}

#[test]
fn a_server_killed_and_started_again_is_followed_on() {
    for engine in [Engine::Mariadb, Engine::Mysql9] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut server = Server::private(engine, &folder.path().join("server"), &[]);
        let store = folder.path().join("store");
        server.sql("CREATE DATABASE s; CREATE TABLE s.t (id INT PRIMARY KEY)");
        let watching = Watching::start(watch(&server, &store, &[]));
        watching.says("following", 1);
        server.sql("INSERT INTO s.t VALUES (1)");
        eventually("the first change", || {
            (changes_of(&store, "s").len() == 1).then_some(())
        });
        server.kill();
        watching.says("trying again", 1);
        server.start_again(&[]);
        server.sql("INSERT INTO s.t VALUES (2)");
        eventually("the change after the crash", || {
            (changes_of(&store, "s").len() == 2).then_some(())
        });
        assert_eq!(watching.stop("-TERM").0, Some(0));
        ask(&store, &["changes"]).ends_with(0);
    }
}

#[test]
fn what_a_damaged_tail_lost_is_followed_again() {
    for engine in [Engine::Mariadb, Engine::Mysql9] {
        let server = Server::shared(engine);
        let folder = tempfile::tempdir().expect("a folder");
        let store = folder.path().join("store");
        let schema = server.schema("damage");
        let start = here(server);
        let inserts: String = (0..50)
            .map(|id| format!("INSERT INTO `{}`.t VALUES ({id});", schema.name))
            .collect();
        server.sql(&format!(
            "CREATE TABLE `{}`.t (id INT PRIMARY KEY); {inserts}",
            schema.name
        ));
        catch_up(server, &store, &["--start", &start]).ends_with(0);
        let whole = changes_of(&store, &schema.name);
        assert_eq!(whole.len(), 50);
        let tail = store.join("tail-1.log");
        let mut bytes = std::fs::read(&tail).expect("the tail");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&tail, bytes).expect("damage");
        ask(&store, &["changes"]).ends_with(3);
        let run = catch_up(server, &store, &[]).ends_with(0);
        assert!(run.err.contains("tail-1.log was damaged at byte"), "{}", run.err);
        assert_eq!(changes_of(&store, &schema.name), whole, "{}", engine.name());
        ask(&store, &["changes"]).ends_with(0);
        ask(&store, &["verify"]).ends_with(0);
    }
}

#[test]
fn a_purged_log_becomes_a_gap_that_every_answer_names() {
    for engine in [Engine::Mariadb, Engine::Mysql8] {
        let folder = tempfile::tempdir().expect("a folder");
        let server = Server::private(engine, &folder.path().join("server"), &[]);
        let store = folder.path().join("store");
        server.sql("CREATE DATABASE s; CREATE TABLE s.t (id INT PRIMARY KEY); INSERT INTO s.t VALUES (1)");
        catch_up(&server, &store, &["--start", "oldest"]).ends_with(0);
        server.sql(
            "INSERT INTO s.t VALUES (2); FLUSH BINARY LOGS; INSERT INTO s.t VALUES (3); FLUSH BINARY LOGS",
        );
        let (file, _) = server.position();
        // The server keeps logs that a replica is reading, and notices only after a while that ours is gone.
        eventually("the purge", || {
            server.sql(&format!("PURGE BINARY LOGS TO '{file}'"));
            (!server.sql("SHOW BINARY LOGS").contains("binlog.000001")).then_some(())
        });
        server.sql("INSERT INTO s.t VALUES (4)");
        let run = catch_up(&server, &store, &[]).ends_with(0);
        assert!(
            run.err.contains("GAP") && run.err.contains("purged"),
            "{}",
            run.err
        );
        assert_eq!(changes_of(&store, "s").len(), 2);
        let run = ask(&store, &["changes"]).ends_with(3);
        assert!(
            run.err.contains("INCOMPLETE") && run.err.contains("purged"),
            "{}",
            run.err
        );
        ask(&store, &["coverage"]).ends_with(3);
    }
}

#[test]
fn a_log_that_begins_anew_is_another_epoch() {
    for (engine, reset) in [
        (Engine::Mysql9, "RESET BINARY LOGS AND GTIDS"),
        (Engine::Mariadb, "RESET MASTER"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let server = Server::private(engine, &folder.path().join("server"), &[]);
        let store = folder.path().join("store");
        server.sql("CREATE DATABASE s; CREATE TABLE s.t (id INT PRIMARY KEY); INSERT INTO s.t VALUES (1); INSERT INTO s.t VALUES (2)");
        catch_up(&server, &store, &["--start", "oldest"]).ends_with(0);
        server.sql(&format!("{reset}; INSERT INTO s.t VALUES (3)"));
        let run = catch_up(&server, &store, &[]).ends_with(0);
        assert!(
            run.err.contains("GAP") && run.err.contains("reset"),
            "{}",
            run.err
        );
        let epochs: Vec<_> = ask(
            &store,
            &["changes", "s.t", "--format", "ndjson", "--order", "oldest"],
        )
        .ndjson()
        .iter()
        .map(|change| change["position"]["epoch"].clone())
        .collect();
        assert_eq!(epochs, [0, 0, 1]);
    }
}

#[test]
fn a_server_that_cannot_be_followed_is_refused_with_the_remedy() {
    for (engine, options, words) in [
        (
            Engine::Mariadb,
            vec!["--binlog-row-metadata=MINIMAL"],
            [
                "binlog_row_metadata is MINIMAL",
                "SET GLOBAL binlog_row_metadata = 'FULL'",
            ],
        ),
        (
            Engine::Mysql8,
            vec!["--binlog-format=STATEMENT"],
            ["binlog_format is STATEMENT", "SET GLOBAL binlog_format = 'ROW'"],
        ),
        (
            Engine::Mysql9,
            vec![
                "--skip-log-bin",
                "--gtid-mode=OFF",
                "--enforce-gtid-consistency=OFF",
            ],
            ["binary logging is off", "log_bin"],
        ),
        (
            Engine::Mysql8,
            vec!["--binlog-row-value-options=PARTIAL_JSON"],
            ["PARTIAL_JSON", "binlog_row_value_options = ''"],
        ),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let server = Server::private(engine, &folder.path().join("server"), &options);
        catch_up(&server, &folder.path().join("store"), &[]).fails(64, &words);
    }
}

#[test]
fn a_statement_in_the_log_stops_the_watch_and_nothing_is_skipped() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::private(Engine::Mysql9, &folder.path().join("server"), &[]);
    let store = folder.path().join("store");
    server.sql("CREATE DATABASE s; CREATE TABLE s.t (id INT PRIMARY KEY)");
    let watching = Watching::start(watch(&server, &store, &[]));
    watching.says("following", 1);
    server.sql("INSERT INTO s.t VALUES (1); SET SESSION binlog_format = 'STATEMENT'; INSERT INTO s.t VALUES (2); SET SESSION binlog_format = 'ROW'; INSERT INTO s.t VALUES (3)");
    let (status, said) = watching.ends();
    assert_eq!(status, Some(64), "{said:?}");
    assert!(
        said.iter()
            .any(|line| line.contains("a statement instead of rows")),
        "{said:?}"
    );
    assert_eq!(changes_of(&store, "s").len(), 1);
    // It stays there until a person decides.
    catch_up(&server, &store, &[]).fails(64, &["a statement instead of rows"]);
}

/// Follows into a folder that is too small until it says so, then makes the folder larger and waits for the end. In a mount namespace
/// of its own, which needs no root.
const SMALL_DISK: &str = r#"
mount -t tmpfs -o size=3m tmpfs "$DISK" || exit 90
"$TRAIL" watch "$URL" --store "$DISK/store" --start "$START" --until-caught-up 2> "$LOG" &
until grep -q 'trying again' "$LOG"; do kill -0 $! 2>/dev/null || exit 91; sleep 0.05; done
"$TRAIL" verify --store "$DISK/store" >> "$LOG" 2>&1 || exit 92
mount -o remount,size=200m "$DISK" || exit 93
wait $! || exit 94
cp -r "$DISK/store" "$KEPT"
"#;

#[test]
fn a_full_disk_is_waited_for_and_nothing_is_torn() {
    let server = Server::shared(Engine::Mariadb);
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir(path("disk")).expect("a folder");
    let schema = server.schema("full");
    let start = here(server);
    let (log, _) = server.record(&format!(
        "USE `{}`; CREATE TABLE t (id INT PRIMARY KEY, v VARBINARY(2000)); INSERT INTO t SELECT seq, RANDOM_BYTES(1000) FROM seq_1_to_8000; DELETE FROM t",
        schema.name
    ));
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", SMALL_DISK])
        .env("TRAIL", env!("CARGO_BIN_EXE_trail"))
        .env("URL", &server.repl_url)
        .env("TRAIL_SOURCE_PASSWORD", &server.repl_password)
        .env("START", &start)
        .env("DISK", path("disk"))
        .env("LOG", path("log"))
        .env("KEPT", path("kept"))
        .status()
        .expect("unshare runs");
    let said = std::fs::read_to_string(path("log")).unwrap_or_default();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(
        said.contains("No space left on device") && said.contains("free some space"),
        "{said}"
    );
    end(on(&path("whole"), &["index", log.to_str().expect("a path")])).ends_with(0);
    let (kept, whole) = (
        changes_of(&path("kept"), &schema.name),
        changes_of(&path("whole"), &schema.name),
    );
    assert_eq!(kept.len(), 16_000);
    let places = |lines: &[String]| {
        lines
            .iter()
            .map(|line| line.split("\"gtid\"").next().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(places(&kept), places(&whole));
}
