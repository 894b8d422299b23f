//! The binary: its words, its exit statuses, and what it opens.

use std::{
    collections::HashSet,
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use testkit::{Engine, Server, eventually};

use crate::stand::{Stand, TOKEN};

/// A call in an environment that holds nothing of the one the tests run in.
fn trail(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trail"));
    for (name, _) in std::env::vars() {
        let proxy = name.to_ascii_lowercase().ends_with("_proxy");
        if name.starts_with("TRAIL_")
            || proxy
            || ["HOME", "XDG_DATA_HOME", "STATE_DIRECTORY"].contains(&&*name)
        {
            command.env_remove(name);
        }
    }
    command.arg("agent").args(args).stdin(Stdio::null());
    command.env("TRAIL_AGENT_DIR", folder);
    command
}

fn end(mut command: Command) -> (i32, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("the binary runs");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr)
    );
    (status.code().expect("no signal ended it"), text)
}

fn enrol(stand: &Stand, folder: &Path) {
    let mut command = trail(folder, &["enrol", "--mesh", &stand.url()]);
    command
        .env("TRAIL_AGENT_TOKEN", TOKEN)
        .env("TRAIL_AGENT_PIN", format!("{},{}", stand.pin, stand.spare));
    let (status, text) = end(command);
    assert_eq!(status, 0, "{text}");
    assert!(text.contains(&stand.agent.to_string()), "{text}");
}

/// A running agent; it is killed when a test fails.
struct Agent(Child);

impl Agent {
    fn start(mut command: Command) -> Self {
        Self(
            command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("the binary starts"),
        )
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([signal, &self.0.id().to_string()])
            .status();
        assert!(sent.is_ok_and(|status| status.success()));
    }

    fn status(mut self) -> Option<i32> {
        eventually("its end", || self.0.try_wait().expect("a status")).code()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_listens_nowhere_and_ends_when_told() {
    let server = Server::shared(Engine::Mariadb);
    let (stand, folder) = (Stand::start().await, tempfile::tempdir().expect("a folder"));
    enrol(&stand, folder.path());
    stand.says().servers = vec![stand.assigned(server, "1")];
    let mut command = trail(folder.path(), &["run", "--mode", "byos"]);
    command.env("TRAIL_SERVER_SHOP_DB_PASSWORD", &server.repl_password);
    let agent = Agent::start(command);
    stand.wait_for_open(1);
    let mut held = stand.open().remove(0);
    eventually("following", || {
        let text = fs::read_to_string(folder.path().join("status.json")).ok()?;
        text.contains("\"following\": true").then_some(())
    });
    assert_eq!(listening(agent.0.id()), Vec::<String>::new());
    let told = held
        .client
        .statistics(proto::agent::v1::StatisticsRequest {})
        .await;
    let told = told.expect("an answer").into_inner();
    assert_eq!(told.servers.len(), 1);
    assert!(told.resident_bytes < 128 << 20, "{}", told.resident_bytes);
    let (status, text) = end(trail(folder.path(), &["run"]));
    assert_eq!(status, 1, "{text}");
    assert!(text.contains("in use by another"), "{text}");
    let (status, text) = end(trail(folder.path(), &["status"]));
    assert_eq!(status, 0);
    assert!(
        text.contains("running       yes") && text.contains("shop-db"),
        "{text}"
    );
    agent.signal("-TERM");
    assert_eq!(agent.status(), Some(0));
    let (_, text) = end(trail(folder.path(), &["status", "--format", "json"]));
    assert!(text.contains("\"running\": false"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mesh_does_not_decide_where_an_own_password_goes() {
    let server = Server::shared(Engine::Mariadb);
    let (stand, folder) = (Stand::start().await, tempfile::tempdir().expect("a folder"));
    enrol(&stand, folder.path());
    let mut assigned = stand.assigned(server, "1");
    stand.says().servers = vec![assigned.clone()];
    let run = || {
        let mut command = trail(folder.path(), &["run", "--mode", "byos"]);
        command.env("TRAIL_SERVER_SHOP_DB_PASSWORD", &server.repl_password);
        Agent::start(command)
    };
    let last = |words: &str| {
        let text = fs::read_to_string(folder.path().join("status.json")).ok()?;
        text.contains(words).then_some(())
    };
    let agent = run();
    eventually("following", || last("\"following\": true"));
    agent.signal("-TERM");
    assert_eq!(agent.status(), Some(0));
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    elsewhere.set_nonblocking(true).expect("it does not wait");
    // Another server of the mesh, by the name of the one whose password is here.
    assigned.id = types::ServerId::fresh().to_string();
    assigned.host = "127.0.0.1".to_owned();
    assigned.port = elsewhere.local_addr().expect("an address").port().into();
    assigned.tls_mode = "disabled".to_owned();
    assigned.version = "2".to_owned();
    stand.says().servers = vec![assigned];
    let agent = run();
    eventually("a problem", || last("TRAIL_SERVER_SHOP_DB_URL"));
    let nobody = elsewhere.accept().expect_err("nobody came");
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
    agent.signal("-TERM");
    assert_eq!(agent.status(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_server_does_not_make_the_agent_large() {
    let server = Server::shared(Engine::Mariadb);
    let schema = server.schema("busy");
    server.sql(&format!(
        "CREATE TABLE `{}`.t (id INT PRIMARY KEY, v VARCHAR(500))",
        schema.name
    ));
    let (stand, folder) = (Stand::start().await, tempfile::tempdir().expect("a folder"));
    enrol(&stand, folder.path());
    stand.says().servers = vec![stand.assigned(server, "1")];
    stand.says().password = Some(server.repl_password.clone());
    let agent = Agent::start(trail(folder.path(), &["run"]));
    stand.wait_for_open(1);
    let last = |words: &str| {
        let text = fs::read_to_string(folder.path().join("status.json")).ok()?;
        text.contains(words).then_some(())
    };
    eventually("following", || last("\"following\": true"));
    // 100 MB of rows in two transactions.
    for from in [1, 100_001] {
        server.sql(&format!(
            "USE `{}`; INSERT INTO t SELECT seq, REPEAT(CHAR(97 + seq % 26), 500) FROM seq_{from}_to_{}",
            schema.name,
            from + 99_999
        ));
    }
    let (file, offset) = server.position();
    eventually("all of it", || {
        let text = fs::read_to_string(folder.path().join("status.json")).ok()?;
        let value: serde_json::Value = serde_json::from_str(&text).ok()?;
        let servers = value["servers"].as_object()?;
        let at = servers.values().next()?["position"].as_str()?.to_owned();
        let (reached, stored) = at.rsplit_once(':')?;
        (reached > file.as_str() || (reached == file && stored.parse::<u64>().ok()? >= offset)).then_some(())
    });
    let status = fs::read_to_string(format!("/proc/{}/status", agent.0.id())).expect("its status");
    let peak: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok())
        .expect("its peak");
    assert!(peak < 128 << 10, "{peak} kB");
    agent.signal("-TERM");
    assert_eq!(agent.status(), Some(0));
}

/// Sockets of the process that wait for somebody: TCP and UDP without a peer, Unix sockets that accept.
fn listening(pid: u32) -> Vec<String> {
    let sockets: HashSet<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("its files")
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|target| {
            let target = target.to_str()?;
            Some(target.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect();
    assert!(!sockets.is_empty(), "it is connected");
    let mut found = Vec::new();
    for (table, inode, waits) in [
        ("tcp", 9, (3, "0A")),
        ("tcp6", 9, (3, "0A")),
        ("udp", 9, (3, "07")),
        ("udp6", 9, (3, "07")),
        // Flags of a Unix socket: __SO_ACCEPTCON.
        ("unix", 6, (3, "00010000")),
    ] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let ours = words.get(inode).is_some_and(|inode| sockets.contains(*inode));
            if ours && words.get(waits.0) == Some(&waits.1) {
                found.push(format!("{table}: {line}"));
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_statuses_say_who_must_act() {
    let (stand, folder) = (Stand::start().await, tempfile::tempdir().expect("a folder"));
    for (args, words) in [
        (&["run"][..], "no enrolled agent"),
        (&["status"][..], "no enrolled agent"),
        (&["enrol", "--mesh", "https://mesh.example.com"][..], "token"),
        (&["enrol"][..], "--mesh"),
        (&["run", "--pin", "sha256/x"][..], "a pin is"),
        (&["frobnicate"][..], "frobnicate"),
    ] {
        let (status, text) = end(trail(folder.path(), args));
        assert_eq!(status, 64, "{args:?}: {text}");
        assert!(text.contains(words), "{args:?}: {text}");
    }
    let mut command = trail(folder.path(), &["enrol", "--mesh", &stand.url()]);
    command
        .env("TRAIL_AGENT_TOKEN", "enr_used")
        .env("TRAIL_AGENT_PIN", format!("{},{}", stand.pin, stand.spare));
    let (status, text) = end(command);
    assert_eq!(status, 65, "{text}");
    assert!(text.contains("hint: ") && !text.contains("enr_used"), "{text}");
    enrol(&stand, folder.path());
    stand.says().refusal = Some("AGENT_REVOKED");
    let (status, text) = end(trail(folder.path(), &["run"]));
    assert_eq!(status, 65, "{text}");
    assert!(
        text.contains("AGENT_REVOKED") && text.contains("hint: "),
        "{text}"
    );
    stand.says().refusal = None;
    let other = format!(
        "{},{}",
        stand.spare, "sha256/d6qzRu9zOECb90Uez27xWltNsj0e1Md7GkYYkVoZWmM="
    );
    let mut command = trail(folder.path(), &["run"]);
    command.env("TRAIL_AGENT_PIN", other);
    let prefaces = stand.seen.prefaces.load(std::sync::atomic::Ordering::SeqCst);
    let agent = Agent::start(command);
    let accepted = stand.seen.accepted.load(std::sync::atomic::Ordering::SeqCst);
    eventually("an attempt", || {
        (stand.seen.accepted.load(std::sync::atomic::Ordering::SeqCst) > accepted).then_some(())
    });
    agent.signal("-INT");
    assert_eq!(agent.status(), Some(0));
    assert_eq!(
        stand.seen.prefaces.load(std::sync::atomic::Ordering::SeqCst),
        prefaces,
        "nothing was said to a door whose key is not pinned"
    );
}

#[test]
fn the_certificate_of_an_agent_that_slept_too_long_opens_nothing() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (stand, folder) = (Stand::start().await, tempfile::tempdir().expect("a folder"));
        stand.says().life = (86_400, 86_500);
        enrol(&stand, folder.path());
        let (status, text) = end(trail(folder.path(), &["run"]));
        assert_eq!(status, 65, "{text}");
        assert!(text.contains("ended at") && text.contains("--again"), "{text}");
    });
}
