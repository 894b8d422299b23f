//! PostgreSQL: a database of its own for each test, and pgbouncer in front of one.

use std::{
    collections::BTreeSet,
    fs,
    future::Future,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use url::Url;

use crate::{
    dev::{dev_variables, running, signal, unprivileged},
    leftover,
    place::{folder, lock_file},
};

/// A running PostgreSQL server.
#[derive(Debug)]
pub struct Postgres {
    /// URL of the superuser, to the database `postgres`, with full verification of the server.
    pub url: String,
    /// The folder of PostgreSQL's own programs.
    pub bin: PathBuf,
    /// The authority that signed its certificate.
    pub ca: PathBuf,
    /// Where a private server lives, and its process; it is stopped when dropped.
    private: Option<(PathBuf, String)>,
    /// Templates that this process found or made; they stay.
    templates: Mutex<BTreeSet<String>>,
}

impl Postgres {
    /// The server that all tests of a run share.
    pub fn shared() -> &'static Self {
        static SERVER: OnceLock<Postgres> = OnceLock::new();
        SERVER.get_or_init(|| {
            let server = Self::from(&running("postgres"), None);
            server.sweep();
            server
        })
    }

    /// A server of its own in `folder`, to be killed, paused or filled.
    pub fn private(folder: &Path) -> Self {
        let path = folder.to_str().expect("a UTF-8 path");
        Self::from(
            &dev_variables(&["server", "start", "postgres", path]),
            Some(folder.to_owned()),
        )
    }

    fn from(variables: &std::collections::HashMap<String, String>, private: Option<PathBuf>) -> Self {
        let get = |name: &str| variables[&format!("TRAILMESH_TEST_POSTGRES_{name}")].clone();
        Self {
            url: get("URL"),
            bin: get("BIN").into(),
            ca: get("CA").into(),
            private: private.map(|folder| (folder, get("PID"))),
            templates: Mutex::default(),
        }
    }

    /// Sends a signal such as `-STOP`, `-CONT` or `-KILL` to a private server's main process.
    pub fn signal(&self, name: &str) {
        let (_, pid) = self.private.as_ref().expect("a private server");
        signal(pid, name);
    }

    /// Starts a private server again on its old data and port.
    ///
    /// # Panics
    /// When somebody took the port meanwhile: who knows the server by it would wait for nothing.
    pub fn start_again(&mut self) {
        let (folder, _) = self.private.take().expect("a private server");
        let again = Self::private(&folder);
        assert_eq!(again.url, self.url, "the old port is free");
        *self = again;
    }

    /// Runs SQL as the superuser in `database` and gives what it prints, a line a row, `|` between columns.
    pub fn sql_in(&self, database: &str, sql: &str) -> String {
        self.sql_each(database, &[sql])
    }

    /// The same, one after the other by one psql: starting it takes longer than most statements.
    fn sql_each(&self, database: &str, statements: &[&str]) -> String {
        match self.try_sql(database, statements) {
            Ok(printed) => printed,
            Err(message) => panic!("{message}\nin: {}", statements.join(";\n")),
        }
    }

    pub(crate) fn try_sql(&self, database: &str, statements: &[&str]) -> Result<String, String> {
        let mut url = Url::parse(&self.url).expect("a URL");
        url.set_path(database);
        let output = Command::new(self.bin.join("psql"))
            .args([
                "--no-psqlrc",
                "--quiet",
                "--tuples-only",
                "--no-align",
                "--set=ON_ERROR_STOP=1",
            ])
            .arg(format!("--dbname={url}"))
            .args(statements.iter().map(|sql| format!("--command={sql}")))
            .stdin(Stdio::null())
            .output()
            .expect("psql runs");
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let printed = String::from_utf8(output.stdout).expect("UTF-8");
        Ok(printed.trim_end().to_owned())
    }

    /// A new database, copied from a template that `prepare` filled once. `key` names the template: it must change when what `prepare`
    /// does changes, so let it be a digest of the migrations.
    pub fn database<F, T>(&self, key: &str, prepare: F) -> Database<'_>
    where
        F: FnOnce(String) -> T + Send,
        T: Future<Output = ()>,
    {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let template = self.template(key, prepare);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = leftover::database(number);
        self.sql_each(
            "postgres",
            &[
                &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
                &format!("CREATE DATABASE {name} TEMPLATE {template}"),
                // Rights on the database itself are not copied with it.
                &format!(
                    "UPDATE pg_database SET datacl = (SELECT datacl FROM pg_database WHERE datname = '{template}') WHERE datname = '{name}'"
                ),
            ],
        );
        Database { server: self, name }
    }

    /// A new, empty database.
    pub fn empty_database(&self) -> Database<'_> {
        self.database("empty", |_| async {})
    }

    fn template<F, T>(&self, key: &str, prepare: F) -> String
    where
        F: FnOnce(String) -> T + Send,
        T: Future<Output = ()>,
    {
        let digits: String = key.chars().filter(char::is_ascii_alphanumeric).take(40).collect();
        let name = format!("template_{}", digits.to_lowercase());
        let port = Url::parse(&self.url).expect("a URL").port().expect("a port");
        let known = || self.templates.lock().unwrap_or_else(PoisonError::into_inner);
        if known().contains(&name) {
            return name;
        }
        // Other tests, also of other programs, may want the same template at this moment.
        let lock = lock_file("template", &format!("{port} {name}"));
        lock.lock().expect("a lock");
        if self.sql_in(
            "postgres",
            &format!("SELECT 1 FROM pg_database WHERE datname = '{name}'"),
        ) == "1"
        {
            known().insert(name.clone());
            return name;
        }
        let unfinished = format!("unfinished_{name}");
        self.sql_in(
            "postgres",
            &format!("DROP DATABASE IF EXISTS {unfinished} WITH (FORCE)"),
        );
        self.sql_in(
            "postgres",
            &format!("CREATE DATABASE {unfinished} TEMPLATE template0"),
        );
        let mut url = Url::parse(&self.url).expect("a URL");
        url.set_path(&unfinished);
        std::thread::scope(|scope| {
            let work = || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                runtime.block_on(prepare(url.to_string()));
            };
            scope.spawn(work).join().expect("the template is prepared");
        });
        self.set_passwords();
        self.sql_in(
            "postgres",
            &format!("ALTER DATABASE {unfinished} RENAME TO {name}"),
        );
        known().insert(name.clone());
        name
    }

    /// Every role of ours that may log in gets the checkout's password, hashed once (RFC 5802) where PostgreSQL would hash it 4,096 times:
    /// a test program that is not optimised works on that for longer than on all else of a connection.
    fn set_passwords(&self) {
        let hmac = "CREATE FUNCTION pg_temp.hmac(key bytea, message bytea) RETURNS bytea LANGUAGE plpgsql AS $f$ \
             DECLARE i bytea := decode(repeat('36', 64), 'hex'); o bytea := decode(repeat('5c', 64), 'hex'); \
             BEGIN FOR at IN 0 .. length(key) - 1 LOOP \
               i := set_byte(i, at, get_byte(i, at) # get_byte(key, at)); o := set_byte(o, at, get_byte(o, at) # get_byte(key, at)); \
             END LOOP; RETURN sha256(o || sha256(i || message)); END $f$";
        let set = format!(
            "DO $do$ DECLARE r text; salt bytea := sha256('trailmesh'); \
             salted bytea := pg_temp.hmac('{}', salt || '\\x00000001'); \
             verifier text := format('SCRAM-SHA-256$1:%s$%s:%s', encode(salt, 'base64'), \
               encode(sha256(pg_temp.hmac(salted, 'Client Key')), 'base64'), encode(pg_temp.hmac(salted, 'Server Key'), 'base64')); \
             BEGIN FOR r IN SELECT rolname FROM pg_roles WHERE rolcanlogin AND rolname LIKE 'trailmesh\\_%' \
             LOOP EXECUTE format('ALTER ROLE %I PASSWORD %L', r, verifier); END LOOP; END $do$",
            self.password()
        );
        // Roles belong to the whole server, and PostgreSQL fails the second of two that change one at a time.
        let lock = lock_file("passwords", &self.url);
        lock.lock().expect("a lock");
        self.sql_each("postgres", &[hmac, &set]);
    }

    fn password(&self) -> String {
        Url::parse(&self.url)
            .expect("a URL")
            .password()
            .expect("a password")
            .to_owned()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some((folder, _)) = &self.private {
            let stopped = Command::new(crate::dev::dev())
                .args(["server", "stop"])
                .arg(folder)
                .stdin(Stdio::null())
                .output();
            if !std::thread::panicking() {
                assert!(
                    stopped.is_ok_and(|output| output.status.success()),
                    "./dev server stop failed"
                );
            }
        }
    }
}

/// A database that belongs to one test and goes with it.
#[derive(Debug)]
pub struct Database<'s> {
    server: &'s Postgres,
    /// Its name.
    pub name: String,
}

impl Database<'_> {
    /// URL of the superuser.
    pub fn admin_url(&self) -> String {
        let mut url = Url::parse(&self.server.url).expect("a URL");
        url.set_path(&self.name);
        url.to_string()
    }

    /// URL of a role of ours that may log in, for example `trailmesh_auth`.
    pub fn url(&self, role: &str) -> String {
        let mut url = Url::parse(&self.admin_url()).expect("a URL");
        url.set_username(role).expect("a user name");
        url.to_string()
    }

    /// Runs SQL as the superuser and gives what it prints, a line a row, `|` between columns.
    pub fn sql(&self, sql: &str) -> String {
        self.server.sql_in(&self.name, sql)
    }
}

impl Database<'_> {
    /// All of it as SQL, for searching it.
    pub fn dump(&self) -> Vec<u8> {
        self.server.dump_of(&self.admin_url())
    }
}

impl Postgres {
    /// All of the database `postgres` as SQL, for searching it.
    pub fn dump(&self) -> Vec<u8> {
        self.dump_of(&self.url)
    }

    fn dump_of(&self, url: &str) -> Vec<u8> {
        let output = Command::new(self.bin.join("pg_dump"))
            .arg(format!("--dbname={url}"))
            .stdin(Stdio::null())
            .output()
            .expect("pg_dump runs");
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{message}");
        output.stdout
    }
}

impl Drop for Database<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let dropped = self.server.drop_with_roles(&self.name);
        assert!(dropped.is_ok(), "{dropped:?}");
    }
}

/// pgbouncer in transaction mode before a database; stopped when dropped.
#[derive(Debug)]
pub struct Pgbouncer {
    process: Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Pgbouncer {
    /// Starts one that keeps at most `connections` to the server, for all `roles` together each.
    pub fn start(database: &Database<'_>, roles: &[&str], connections: u32) -> Self {
        let folder = folder("pgbouncer");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
        let server = Url::parse(&database.admin_url()).expect("a URL");
        let (password, server_port) = (database.server.password(), server.port().expect("a port"));
        let port = crate::free_port();
        let users: String = roles
            .iter()
            .map(|role| format!("\"{role}\" \"{password}\"\n"))
            .collect();
        let at = folder.path().display();
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={server_port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {at}/users\npool_mode = transaction\n\
             default_pool_size = {connections}\nmax_client_conn = 2000\nserver_tls_sslmode = verify-ca\nserver_tls_ca_file = {at}/ca.pem\n\
             logfile =\nignore_startup_parameters = extra_float_digits,search_path\n"
        );
        fs::write(folder.path().join("users"), users).expect("a file");
        fs::write(folder.path().join("pgbouncer.ini"), settings).expect("a file");
        fs::copy(&database.server.ca, folder.path().join("ca.pem")).expect("a file");
        for name in ["users", "pgbouncer.ini", "ca.pem"] {
            fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(0o644))
                .expect("permissions");
        }
        let process = unprivileged(Path::new("/usr/sbin/pgbouncer"))
            .arg(folder.path().join("pgbouncer.ini"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pgbouncer starts");
        crate::eventually("pgbouncer to listen", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        // The way from here to pgbouncer is loopback without TLS; that from pgbouncer to the server is verified.
        let url = format!(
            "postgres://user:{password}@127.0.0.1:{port}/{}?sslmode=disable",
            database.name
        );
        Self {
            process,
            url,
            _folder: folder,
        }
    }

    /// URL of a role, through pgbouncer.
    pub fn url(&self, role: &str) -> String {
        let mut url = Url::parse(&self.url).expect("a URL");
        url.set_username(role).expect("a user name");
        url.to_string()
    }
}

impl Drop for Pgbouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{Pgbouncer, Postgres};

    #[test]
    fn databases_are_copies_and_pgbouncer_reaches_them() {
        let postgres = Postgres::shared();
        let database = postgres.empty_database();
        database.sql("CREATE TABLE canary (id int)");
        let other = postgres.empty_database();
        assert_eq!(other.sql("SELECT to_regclass('canary') IS NULL"), "t");
        let pgbouncer = Pgbouncer::start(&database, &["postgres"], 2);
        let output = Command::new(postgres.bin.join("psql"))
            .args([
                "--no-psqlrc",
                "--tuples-only",
                "--no-align",
                "--command=SELECT count(*) FROM canary",
            ])
            .arg(format!("--dbname={}", pgbouncer.url("postgres")))
            .output()
            .expect("psql runs");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout).trim(),
            "0",
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
