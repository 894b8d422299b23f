//! How the scripts behave under the servers' own clients: whole or not at all, whatever the session is like.

use std::process::Output;

use testkit::Engine;
use undo::{Class, Mode};

use crate::scene::{Scene, same, script};

const SHOP: &str = "
CREATE TABLE orders (id INT PRIMARY KEY, status VARCHAR(20), note TEXT, total DECIMAL(10,2));
INSERT INTO orders VALUES (1, 'paid', 'first', 10), (2, 'paid', 'it''s \\\\ two', 20), (3, 'new', NULL, 30), (4, 'sent', 'four', 40);
";
const ACCIDENT: &str = "UPDATE orders SET status = 'void', note = 'oops'; DELETE FROM orders WHERE id = 4;";

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_row_that_changed_since_stops_everything() {
    for engine in Engine::ALL {
        let mut scene = Scene::new(engine, SHOP);
        scene.record(ACCIDENT, true);
        let script = script(&scene.plan(Mode::Safe));
        let change = format!(
            "UPDATE `{}`.orders SET status = 'kept' WHERE id = 2",
            scene.schema.name
        );
        scene.server.sql(&change);
        let before = scene.dump();
        // The statements come in the order 4 (insert), 4, 3, 2, 1: the fourth finds what it must not overwrite.
        let output = scene.apply(&script, &[]);
        assert!(!output.status.success());
        assert!(output.stdout.is_empty());
        let text = told(&output);
        assert!(text.contains("ERROR 1231 (42000) at line "), "{text}");
        assert!(
            text.contains("UNDO STOPPED: NOTHING WAS APPLIED. The row is not as planned at statement 4"),
            "{text}"
        );
        same(&before, &scene.dump(), "nothing was applied");
        // A client that goes on after errors commits nothing either, and says so at the end.
        let text = told(&scene.apply(&script, &["--force"]));
        assert!(
            text.trim_end().ends_with("'UNDO STOPPED: NOTHING WAS APPLIED'"),
            "{text}"
        );
        same(&before, &scene.dump(), "nothing was applied under --force");
    }
}

#[test]
fn a_script_is_applied_once() {
    for engine in Engine::ALL {
        let mut scene = Scene::new(engine, SHOP);
        let before = scene.dump();
        scene.record(ACCIDENT, true);
        let script = script(&scene.plan(Mode::Safe));
        scene.applied(&script);
        let output = scene.apply(&script, &[]);
        assert!(!output.status.success());
        same(&before, &scene.dump(), "the second time does nothing");
    }
}

#[test]
fn the_session_makes_no_difference() {
    let sessions: &[&[&str]] = &[
        &["--init-command=SET SESSION autocommit = 0"],
        &["--init-command=SET SESSION sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT'"],
        &["--init-command=SET SESSION sql_mode = 'TRADITIONAL,PAD_CHAR_TO_FULL_LENGTH'"],
        &["--init-command=SET SESSION sql_mode = ''"],
        &["--init-command=SET SESSION time_zone = '-07:00'"],
        &["--init-command=SET SESSION foreign_key_checks = 0"],
        &["--init-command=SET SESSION transaction_isolation = 'READ-UNCOMMITTED'"],
        &["--init-command=SET SESSION completion_type = CHAIN"],
        &["--safe-updates"],
        &["--default-character-set=latin1"],
        &["--default-character-set=gbk"],
        &["--force"],
        &["--comments"],
        &["--unbuffered"],
        &["--table"],
    ];
    for engine in Engine::ALL {
        let setup = format!(
            "{SHOP} CREATE TABLE `größe` (`schlüssel` CHAR(9) PRIMARY KEY, t TIMESTAMP(3) NULL); INSERT INTO `größe` VALUES ('ß', '2026-11-21 10:00:00.123'); CREATE TABLE keyless (a INT, b TEXT); INSERT INTO keyless VALUES (1, 'x'), (1, 'x'), (2, NULL);"
        );
        let accident = format!(
            "{ACCIDENT} UPDATE `größe` SET t = '2020-01-01', `schlüssel` = 'SS'; UPDATE keyless SET a = 2; DELETE FROM keyless LIMIT 1;"
        );
        let mut scene = Scene::new(engine, &setup);
        let before = scene.dump();
        scene.record(&accident, true);
        let plan = scene.plan(Mode::Safe);
        let (script, redo) = (script(&plan), crate::scene::redo_script(&plan));
        for session in sessions {
            // MariaDB 10.11 knows the isolation level by its old name only.
            let session: Vec<String> = session
                .iter()
                .map(|argument| match engine.is_mariadb() {
                    true => argument.replace("transaction_isolation", "tx_isolation"),
                    false => (*argument).to_owned(),
                })
                .collect();
            let session: Vec<&str> = session.iter().map(String::as_str).collect();
            let output = scene.apply(&script, &session);
            assert!(
                output.status.success(),
                "{engine:?} {session:?}: {}",
                told(&output)
            );
            assert_eq!(
                (told(&output), output.stdout.len()),
                (String::new(), 0),
                "{session:?}"
            );
            same(&before, &scene.dump(), "undone");
            scene.applied(&redo);
        }
    }
}

#[test]
fn what_the_server_sets_by_itself_is_restored_too() {
    for engine in Engine::ALL {
        let mut scene = Scene::new(
            engine,
            "CREATE TABLE t (id INT PRIMARY KEY, n INT, changed DATETIME DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP);
             INSERT INTO t VALUES (1, 1, '2020-01-01 00:00:00');",
        );
        let before = scene.dump();
        // The accident left the stamp alone; its undo must, too.
        scene.record("UPDATE t SET n = 2, changed = changed;", true);
        let plan = scene.plan(Mode::Safe);
        scene.applied(&script(&plan));
        same(&before, &scene.dump(), "undone");
    }
}

#[test]
fn later_edits_of_other_people_survive() {
    for engine in Engine::ALL {
        let mut scene = Scene::new(engine, SHOP);
        scene.record(
            "UPDATE orders SET status = 'void', note = 'oops'; DELETE FROM orders WHERE total > 25;",
            true,
        );
        scene.record(
            "UPDATE orders SET total = 11 WHERE id = 1; UPDATE orders SET status = 'sent' WHERE id = 2; INSERT INTO orders VALUES (3, 'again', 'by hand', 31);",
            false,
        );
        let safe = scene.plan(Mode::Safe);
        scene.applied(&script(&safe));
        let rows = |scene: &Scene| {
            scene.server.sql(&format!(
                "SELECT * FROM `{}`.orders ORDER BY id",
                scene.schema.name
            ))
        };
        let text = rows(&scene);
        assert_eq!(
            text,
            "1\tpaid\tfirst\t11.00\n2\tsent\toops\t20.00\n3\tagain\tby hand\t31.00\n4\tsent\tfour\t40.00\n"
        );
        scene.applied(&crate::scene::redo_script(&safe));
        scene.applied(&script(&scene.plan(Mode::Force)));
        let text = rows(&scene);
        assert_eq!(
            text,
            "1\tpaid\tfirst\t11.00\n2\tpaid\tit's \\ two\t20.00\n3\tagain\tby hand\t31.00\n4\tsent\tfour\t40.00\n"
        );
    }
}

#[test]
fn hostile_names_and_values_are_only_names_and_values() {
    let hostile = [
        "x'); DROP TABLE t; -- ",
        "*/ DROP TABLE t; /*",
        "a`b``c",
        "new\nline\ndelimiter //",
        "q\"u'o\\",
        "\\",
        "ends in \\",
        "größe 中文",
        "tab\t",
    ];
    for engine in Engine::ALL {
        let mut setup = String::from("SET sql_mode = 'NO_BACKSLASH_ESCAPES';");
        let mut accident = setup.clone();
        for (nth, name) in hostile.iter().enumerate() {
            let (table, value) = (
                format!("`{}`", name.trim_end().replace('`', "``")),
                name.replace('\'', "''"),
            );
            setup.push_str(&format!(
                "CREATE TABLE {table} ({table} VARCHAR(60) CHARACTER SET utf8mb4 PRIMARY KEY, `n` BLOB); INSERT INTO {table} VALUES ('{value}', '{value}');\n"
            ));
            accident.push_str(&match nth % 2 {
                0 => format!("DELETE FROM {table};\n"),
                _ => format!("UPDATE {table} SET {table} = CONCAT({table}, '!'), n = X'00';\n"),
            });
        }
        let mut scene = Scene::new(engine, &setup);
        let before = scene.dump();
        scene.record(&accident, true);
        let plan = scene.plan(Mode::Safe);
        assert_eq!(plan.summary().statements, hostile.len() as u64);
        scene.applied(&script(&plan));
        same(&before, &scene.dump(), "undone");
    }
}

#[test]
fn system_versioned_tables_are_left_to_their_own_history() {
    for columns in [
        "id INT PRIMARY KEY, n INT",
        "id INT, n INT",
        "id INT PRIMARY KEY, n INT, s TIMESTAMP(6) GENERATED ALWAYS AS ROW START, e TIMESTAMP(6) GENERATED ALWAYS AS ROW END, PERIOD FOR SYSTEM_TIME (s, e)",
    ] {
        let setup = format!(
            "CREATE TABLE t ({columns}) WITH SYSTEM VERSIONING; INSERT INTO t (id, n) VALUES (1, 1), (2, 2);"
        );
        let mut scene = Scene::new(Engine::Mariadb, &setup);
        scene.record("UPDATE t SET n = 9 WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t (id, n) VALUES (3, 3);", true);
        let plan = scene.plan(Mode::Force);
        assert!(
            plan.rows()
                .all(|row| row.class == Class::Unknown && row.why.contains("FOR SYSTEM_TIME")),
            "{columns}"
        );
        assert_eq!(plan.summary().statements, 0);
    }
}

#[test]
fn an_altered_table_is_written_as_it_is_now() {
    for engine in Engine::ALL {
        let mut scene = Scene::new(engine, SHOP);
        let rows = |scene: &Scene| {
            let select = "SELECT id, status, note, total FROM orders ORDER BY id";
            scene
                .server
                .sql(&format!("USE `{}`; {select}", scene.schema.name))
        };
        let before = rows(&scene);
        scene.record(ACCIDENT, true);
        scene.record(
            "ALTER TABLE orders ADD COLUMN seen INT NOT NULL DEFAULT 7 FIRST, MODIFY total DECIMAL(14,2), ADD INDEX (status);
             UPDATE orders SET seen = 8;",
            false,
        );
        let plan = scene.plan(Mode::Safe);
        scene.applied(&script(&plan));
        assert_eq!(rows(&scene), before);
        let seen = format!("SELECT id, seen FROM `{}`.orders ORDER BY id", scene.schema.name);
        assert_eq!(
            scene.server.sql(&seen),
            "1\t8\n2\t8\n3\t8\n4\t7\n",
            "what was written later stays"
        );
    }
}
