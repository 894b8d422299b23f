//! Every type, on every server: what the script restores is what was there, to the byte.

use testkit::Engine;
use undo::{Class, Mode};

use crate::scene::{Scene, redo_script, same, script};

/// Columns, and rows that hold what is hard to write.
fn tables(engine: Engine) -> String {
    let mut sql = String::from("SET sql_mode = 'NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES';\n");
    sql.push_str(include_str!("sql/types.sql"));
    sql.push_str(if engine.is_mariadb() {
        include_str!("sql/types_mariadb.sql")
    } else {
        include_str!("sql/types_mysql.sql")
    });
    if engine == Engine::Mysql9 {
        sql.push_str(include_str!("sql/types_mysql9.sql"));
    }
    sql
}

/// Runs an accident on every table, undoes it, redoes it, undoes it again.
fn there_and_back(engine: Engine, accident: impl Fn(&str, &[String]) -> String) {
    let mut scene = Scene::new(engine, &tables(engine));
    let before = scene.dump();
    let names = scene.server.sql(&format!(
        "SELECT TABLE_NAME, GROUP_CONCAT(COLUMN_NAME ORDER BY ORDINAL_POSITION) FROM information_schema.COLUMNS \
         WHERE TABLE_SCHEMA = '{}' AND COLUMN_NAME <> 'id' AND COLUMN_KEY <> 'PRI' AND COALESCE(GENERATION_EXPRESSION, '') = '' GROUP BY TABLE_NAME",
        scene.schema.name
    ));
    let mut sql = String::from("SET sql_mode = 'NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES';\n");
    for line in names.lines() {
        let (table, columns) = line.split_once('\t').expect("two columns");
        let columns: Vec<String> = columns.split(',').map(str::to_owned).collect();
        sql.push_str(&accident(table, &columns));
    }
    scene.record(&sql, true);
    let after = scene.dump();
    assert_ne!(before, after);
    let plan = scene.plan(Mode::Safe);
    for row in plan.rows() {
        assert_eq!(row.class, Class::Clean, "{row:?}");
    }
    assert!(plan.summary().statements > 20);
    scene.applied(&script(&plan));
    same(&before, &scene.dump(), "undone");
    scene.applied(&redo_script(&plan));
    same(&after, &scene.dump(), "redone");
    scene.applied(&script(&plan));
    same(&before, &scene.dump(), "undone again");
}

#[test]
fn updated_values_of_every_type_come_back() {
    for engine in Engine::ALL {
        // Every row gets the values of the next one.
        there_and_back(engine, |table, columns| {
            let set: Vec<String> = columns.iter().map(|c| format!("a.`{c}` = b.`{c}`")).collect();
            let copy: String = columns.iter().map(|c| format!(", `{c}`")).collect();
            format!(
                "CREATE TEMPORARY TABLE copy AS SELECT id{copy} FROM `{table}`;\n\
                 SET @n = (SELECT COUNT(*) FROM copy);\n\
                 UPDATE `{table}` a JOIN copy b ON b.id = a.id % @n + 1 SET {};\n\
                 DROP TEMPORARY TABLE copy;\n",
                set.join(", ")
            )
        });
    }
}

#[test]
fn deleted_rows_of_every_type_come_back() {
    for engine in Engine::ALL {
        there_and_back(engine, |table, _| format!("DELETE FROM `{table}`;\n"));
    }
}

#[test]
fn inserted_rows_of_every_type_go_again() {
    for engine in Engine::ALL {
        there_and_back(engine, |table, columns| {
            // Their keys would have to be new ones.
            if ["float_keys", "pairs", "byte_keys"].contains(&table) {
                return String::new();
            }
            let columns: String = columns.iter().map(|column| format!(", `{column}`")).collect();
            format!("INSERT INTO `{table}` (id{columns}) SELECT id + 100{columns} FROM `{table}`;\n")
        });
    }
}
