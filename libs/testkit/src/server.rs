//! Database servers started by `./dev`.

use std::{
    collections::HashMap,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::dev::{dev, dev_variables, running};

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// MariaDB 10.11.
    Mariadb,
    /// MySQL 8.0.
    Mysql8,
    /// MySQL 9.7.
    Mysql9,
}

impl Engine {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Mariadb, Self::Mysql8, Self::Mysql9];

    /// The name `./dev` knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mariadb => "mariadb",
            Self::Mysql8 => "mysql8",
            Self::Mysql9 => "mysql9",
        }
    }

    /// Whether it is MariaDB, whose log and SQL differ.
    pub fn is_mariadb(self) -> bool {
        self == Self::Mariadb
    }
}

/// A running server and how to reach it.
#[derive(Debug)]
pub struct Server {
    /// Which one.
    pub engine: Engine,
    /// URL of the account `root`, with its password.
    pub url: String,
    /// URL of the account `trail`, which may replicate and select, without its password.
    pub repl_url: String,
    /// The password of `trail`.
    pub repl_password: String,
    /// Its Unix socket.
    pub socket: PathBuf,
    /// Its own command-line client.
    pub client: PathBuf,
    /// Its own tool that prints binary logs.
    pub binlog_tool: PathBuf,
    /// Its data folder, where the binary logs are.
    pub datadir: PathBuf,
    /// The authority that signed its certificate.
    pub ca: PathBuf,
    /// Where a private server lives, and its process; it is stopped when dropped.
    private: Option<(PathBuf, String)>,
}

/// A schema that belongs to one test and goes with it.
#[derive(Debug)]
pub struct Schema<'s> {
    server: &'s Server,
    /// Its name.
    pub name: String,
}

impl Drop for Schema<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.server
                .sql(&format!("DROP DATABASE IF EXISTS `{}`", self.name));
        }
    }
}

impl Server {
    /// The server of this engine that all tests of a run share.
    pub fn shared(engine: Engine) -> &'static Self {
        static SERVERS: OnceLock<[OnceLock<Server>; 3]> = OnceLock::new();
        let nth = Engine::ALL.iter().position(|e| *e == engine).expect("one of all");
        SERVERS.get_or_init(Default::default)[nth]
            .get_or_init(|| Self::from(engine, &running(engine.name()), None))
    }

    /// A server of its own in `folder`, started with further `options` of the server.
    pub fn private(engine: Engine, folder: &Path, options: &[&str]) -> Self {
        let path = folder.to_str().expect("a UTF-8 path");
        let arguments = [&["server", "start", engine.name(), path, "--"], options].concat();
        Self::from(engine, &dev_variables(&arguments), Some(folder.to_owned()))
    }

    /// Kills a private server the hard way.
    pub fn kill(&self) {
        let (_, pid) = self.private.as_ref().expect("a private server");
        let killed = Command::new("kill").args(["-9", pid]).status();
        assert!(
            killed.is_ok_and(|status| status.success()),
            "kill -9 {pid} failed"
        );
    }

    /// Starts a private server that was killed on its old data and port, with further `options`.
    pub fn start_again(&mut self, options: &[&str]) {
        let (folder, _) = self.private.take().expect("a private server");
        let port = self.port();
        *self = Self::private(self.engine, &folder, options);
        assert_eq!(self.port(), port, "the server has its old port");
    }

    fn from(engine: Engine, variables: &HashMap<String, String>, private: Option<PathBuf>) -> Self {
        let get = |name: &str| {
            let full = format!("TRAILMESH_TEST_{}_{name}", engine.name().to_uppercase());
            variables
                .get(&full)
                .unwrap_or_else(|| panic!("./dev did not print {full}"))
                .clone()
        };
        Self {
            engine,
            url: get("URL"),
            repl_url: get("REPL_URL"),
            repl_password: get("REPL_PASSWORD"),
            socket: get("SOCKET").into(),
            client: get("CLIENT").into(),
            binlog_tool: get("BINLOG_TOOL").into(),
            datadir: get("DATADIR").into(),
            ca: get("CA").into(),
            private: private.map(|folder| (folder, get("PID"))),
        }
    }

    /// Host, port and password of `root`.
    fn root(&self) -> (String, String, String) {
        let url = url::Url::parse(&self.url).expect("a URL");
        let port = url.port().expect("a port").to_string();
        (
            url.host_str().expect("a host").to_owned(),
            port,
            url.password().unwrap_or_default().to_owned(),
        )
    }

    /// The server's TCP port.
    pub fn port(&self) -> u16 {
        url::Url::parse(&self.url).expect("a URL").port().expect("a port")
    }

    /// The server's own client, logged in as `root`, in batch mode.
    pub fn client(&self) -> Command {
        let (host, port, password) = self.root();
        let mut command = Command::new(&self.client);
        command.args([
            "--protocol=TCP",
            "-uroot",
            "--batch",
            "--raw",
            "--skip-column-names",
        ]);
        command.args([format!("-h{host}"), format!("-P{port}")]);
        command.env("MYSQL_PWD", password).env("LC_ALL", "C.UTF-8");
        command
    }

    /// Feeds `script` to the client with further arguments, as a person would: `mysql … < script`.
    pub fn run(&self, script: &[u8], arguments: &[&str]) -> Output {
        let mut child = self
            .client()
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the client starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        let script = script.to_vec();
        // The client may stop reading at an error: a broken pipe is its business.
        let feeder = std::thread::spawn(move || drop(stdin.write_all(&script)));
        let output = child.wait_with_output().expect("the client ends");
        feeder.join().expect("the feeder ends");
        output
    }

    /// Runs statements as `root` and gives what they print, one line a row, tabs between columns.
    pub fn sql(&self, script: &str) -> String {
        let output = self.run(script.as_bytes(), &["--default-character-set=utf8mb4"]);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{}: {message}\nin: {}",
            self.engine.name(),
            script.chars().take(2_000).collect::<String>()
        );
        String::from_utf8(output.stdout)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }

    /// A new, empty schema whose name begins with `prefix`.
    pub fn schema(&self, prefix: &str) -> Schema<'_> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "{prefix}_{}_{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        self.sql(&format!(
            "DROP DATABASE IF EXISTS `{name}`; CREATE DATABASE `{name}` CHARACTER SET utf8mb4"
        ));
        Schema { server: self, name }
    }

    /// Name and length of the binary log being written.
    pub fn position(&self) -> (String, u64) {
        let status = if self.engine == Engine::Mysql9 {
            "SHOW BINARY LOG STATUS"
        } else {
            "SHOW MASTER STATUS"
        };
        let line = self.sql(status);
        let mut columns = line.trim_end().split('\t');
        let file = columns.next().expect("a file name").to_owned();
        (
            file,
            columns.next().expect("a position").parse().expect("a number"),
        )
    }

    /// Begins a new binary log file.
    pub fn rotate(&self) {
        self.sql("FLUSH BINARY LOGS");
    }

    /// Runs `script` and gives the binary log it was written to, which no other recording shares, and what the client printed.
    pub fn record(&self, script: &str) -> (PathBuf, String) {
        static RECORDING: Mutex<()> = Mutex::new(());
        // A recording that failed leaves nothing behind that the next one would see.
        let _alone = RECORDING.lock().unwrap_or_else(PoisonError::into_inner);
        // Other test binaries may run beside this one.
        let lock = crate::place::lock_file("recording", &self.port().to_string());
        lock.lock().expect("a lock");
        self.rotate();
        let (file, _) = self.position();
        let printed = self.sql(script);
        self.rotate();
        (self.binlog(&file), printed)
    }

    /// The path of a binary log.
    pub fn binlog(&self, file: &str) -> PathBuf {
        self.datadir.join(file)
    }

    /// What the server's own tool prints of a binary log.
    pub fn print_binlog(&self, path: &Path, arguments: &[&str]) -> Vec<u8> {
        let output = Command::new(&self.binlog_tool)
            .args(arguments)
            .arg(path)
            .output()
            .expect("the tool starts");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some((folder, _)) = &self.private {
            let stopped = Command::new(dev())
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
