//! The agent beside a database, as a team installs it: the program `trail` in a process of its own.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Output},
};

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::Server;

use crate::{
    mesh::{Place, program, start_mortal},
    person::Person,
};

/// The program `trail`, which `cargo test --workspace` builds beside the tests.
pub(crate) fn trail() -> PathBuf {
    let trail = program().with_file_name("trail");
    assert!(
        trail.is_file(),
        "{} is not there: cargo build -p ingest-agent",
        trail.display()
    );
    trail
}

/// An agent that is enrolled, and its one folder.
pub(crate) struct Beside {
    /// `agt_…`
    pub(crate) id: String,
    /// Everything it writes.
    pub(crate) folder: TempDir,
    process: Option<Child>,
    url: String,
    authority: PathBuf,
}

impl Beside {
    /// Made by somebody who may, enrolled with the token, and running.
    pub(crate) async fn start(place: &Place, maker: &mut Person, name: &str) -> Self {
        let body = json!({"name": name});
        let made = maker.confirmed(Method::POST, "/v1/agents", Some(body)).await.ok();
        let folder = testkit::folder("agent");
        let mut agent = Self {
            id: made["agent"]["id"].as_str().expect("an id").to_owned(),
            folder,
            process: None,
            url: place.url.clone(),
            authority: place.authority(),
        };
        let token = made["enrolmentToken"].as_str().expect("a token");
        let enrolled = agent.run(&["enrol"], &[("TRAIL_AGENT_TOKEN", token)]);
        let said = String::from_utf8_lossy(&enrolled.stderr).into_owned();
        assert!(enrolled.status.success(), "{said}");
        agent.start_again();
        agent
    }

    /// Runs `trail agent …` to its end.
    pub(crate) fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        Command::new(trail())
            .arg("agent")
            .args(arguments)
            .env("TRAIL_AGENT_MESH", &self.url)
            .env("TRAIL_AGENT_CA", &self.authority)
            .env("TRAIL_AGENT_DIR", self.folder.path().join("agent"))
            .envs(environment.iter().copied())
            .output()
            .expect("trail runs")
    }

    /// Starts it where it was.
    pub(crate) fn start_again(&mut self) {
        let log = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.folder.path().join("log"));
        let log = log.expect("a log");
        self.process = Some(start_mortal(&trail(), |command| {
            command
                .args(["agent", "run"])
                .env("TRAIL_AGENT_MESH", &self.url)
                .env("TRAIL_AGENT_CA", &self.authority)
                .env("TRAIL_AGENT_DIR", self.folder.path().join("agent"))
                .stderr(log);
        }));
    }

    /// Kills it the hard way.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("a process to kill");
            process.wait().expect("its end");
        }
    }

    /// What it logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Registers a server with the password of its account `trail`.
pub(crate) async fn register(owner: &mut Person, name: &str, server: &Server) -> String {
    let message = json!({
        "name": name, "host": "127.0.0.1", "port": server.port(), "username": "trail", "tlsMode": "TLS_MODE_REQUIRED",
    });
    let body = json!({"server": message, "password": server.repl_password});
    let made = owner
        .confirmed(Method::POST, "/v1/servers", Some(body))
        .await
        .ok();
    made["server"]["id"].as_str().expect("an id").to_owned()
}

/// Waits until the agent follows the server and has stored everything that it committed so far.
pub(crate) async fn caught_up(owner: &Person, name: &str, server: &Server) -> Value {
    let (file, offset) = server.position();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let answer = owner.caller.get(&format!("/v1/servers/{name}/status")).await;
        let position = &answer.json["state"]["position"];
        let reached = position["file"].as_str().map(str::to_owned) >= Some(file.clone())
            && (position["file"] != file.as_str()
                || position["offset"]
                    .as_str()
                    .and_then(|text| text.parse::<u64>().ok())
                    >= Some(offset));
        if answer.status.is_success() && answer.json["agentConnected"] == true && reached {
            return answer.json;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{name} is not followed up to {file}:{offset}: {}",
            answer.text
        );
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}
