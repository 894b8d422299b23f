//! What is left of test programs that died, or of what they had until their end: databases with the roles of their tenants, and folders.

use std::fs::TryLockError;

use url::Url;

use crate::{
    Postgres,
    place::{is_dead, lock_file, mark, remove_folders},
};

/// Databases that one program drops at its start, which waits for it.
const AT_ONCE: usize = 40;

/// The name of one of this process' databases.
pub(crate) fn database(number: u32) -> String {
    format!("test_{}_{number}", mark())
}

/// Whether the database of this name belongs to a process that is no more.
fn is_left(name: &str) -> bool {
    let mark = name.strip_prefix("test_").and_then(|name| name.rsplit_once('_'));
    mark.is_some_and(|(mark, _number)| is_dead(mark))
}

impl Postgres {
    /// Drops what is left, unless another program is at it.
    pub(crate) fn sweep(&self) {
        let port = Url::parse(&self.url).expect("a URL").port().expect("a port");
        let lock = lock_file("sweep", &port.to_string());
        match lock.try_lock() {
            Ok(()) => self.sweep_alone(),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => panic!("no lock: {error}"),
        }
    }

    fn sweep_alone(&self) {
        remove_folders();
        let names = self.sql_in(
            "postgres",
            "SELECT datname FROM pg_database WHERE datname LIKE 'test\\_%' ORDER BY oid",
        );
        for name in names.lines().filter(|name| is_left(name)).take(AT_ONCE) {
            // What another machine's test does to it at this moment is not worth a failure.
            let _ = self.drop_with_roles(name);
        }
    }

    /// Drops a database. Roles belong to the whole server; those of the database's tenants would stay behind.
    pub(crate) fn drop_with_roles(&self, name: &str) -> Result<(), String> {
        let tenants = self.try_sql(
            name,
            &["SELECT nspname FROM pg_namespace WHERE nspname LIKE 't\\_%'"],
        )?;
        let mut statements = vec![format!("DROP DATABASE {name} WITH (FORCE)")];
        let roles: Vec<&str> = tenants.lines().collect();
        // A statement is an argument of psql, and may not be longer than such a one.
        statements.extend(roles.chunks(500).map(|some| {
            // A tenant that was moved has schemas in two databases: the last one takes the role along.
            format!(
                "DO $do$ DECLARE role text; BEGIN FOREACH role IN ARRAY string_to_array('{}', ' ') LOOP
                   BEGIN EXECUTE format('DROP ROLE IF EXISTS %I', role); EXCEPTION WHEN dependent_objects_still_exist THEN NULL; END;
                 END LOOP; END $do$",
                some.join(" ")
            )
        }));
        let statements: Vec<&str> = statements.iter().map(String::as_str).collect();
        self.try_sql("postgres", &statements).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::is_left;
    use crate::{Postgres, place::tests::process};

    #[test]
    fn a_program_that_died_leaves_no_database_and_no_role_behind_the_next() {
        let postgres = Postgres::shared();
        let own = postgres.empty_database();
        let (mut child, theirs) = process();
        let (name, role) = (format!("test_{theirs}_0"), format!("t_left{}", child.id()));
        postgres.sql_in("postgres", &format!("CREATE ROLE {role} NOLOGIN"));
        postgres.sql_in("postgres", &format!("CREATE DATABASE {name}"));
        postgres.sql_in(&name, &format!("CREATE SCHEMA {role} AUTHORIZATION {role}"));
        let found = |name: &str| {
            postgres.sql_in(
                "postgres",
                &format!(
                    "SELECT (SELECT count(*) FROM pg_database WHERE datname = '{name}') + (SELECT count(*) FROM pg_roles WHERE rolname = '{name}')"
                ),
            )
        };
        postgres.sweep_alone();
        assert_eq!([found(&name), found(&role)], ["1", "1"], "it lives");
        child.kill().unwrap();
        child.wait().unwrap();
        crate::eventually("what is left to go", || {
            // Another program may be at it at this moment.
            postgres.sweep_alone();
            (found(&name) == "0" && found(&role) == "0").then_some(())
        });
        assert_eq!(found(&own.name), "1", "what is a living program's stays");
    }

    #[test]
    fn only_databases_of_tests_are_left_by_tests() {
        for name in [
            "postgres",
            "template_1",
            "test_1_2",
            "test_",
            "unfinished_template_1",
        ] {
            assert!(!is_left(name), "{name}");
        }
    }
}
