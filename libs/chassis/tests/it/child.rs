//! Services in processes of their own, so that they can be told to stop. A child is this test binary again, told by an environment
//! variable to run the one test that is a service; without the variable that test does nothing.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    process::{Child, Command, ExitCode, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use chassis::{ConfigError, Configuration, Error, Peer, Runtime, SecretString, Settings};
use clap::Parser;
use proto::auth::v1::{
    self as pb,
    mail_service_client::MailServiceClient,
    mail_service_server::{MailService, MailServiceServer},
};
use rustix::process::{Pid, Signal, kill_process};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, service::Routes};

const CHILD: &str = "TRAILMESH_TEST_CHASSIS_CHILD";

/// What the child service is told.
#[derive(clap::Args, Debug)]
struct Config {
    /// The service it is.
    #[arg(long, env = "TRAILMESH_TEST_NAME", default_value = "auth")]
    name: String,
    /// What it does: see `start`.
    #[arg(long, env = "TRAILMESH_TEST_MODE", default_value = "serve")]
    mode: String,
    /// A secret that nobody may see.
    #[arg(long, env = "TRAILMESH_TEST_KEY", hide_env_values = true)]
    key: Option<SecretString>,
}

impl Configuration for Config {
    fn check(&self, _settings: &Settings) -> Result<(), ConfigError> {
        if self.key.as_ref().is_some_and(|key| key.expose().len() < 8) {
            return Err(ConfigError::new(
                "TRAILMESH_TEST_KEY",
                "it is shorter than eight characters",
                "give a longer one",
            ));
        }
        Ok(())
    }
}

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    config: Config,
}

/// Hands an invitation on to the next one, if there is one.
struct Mail {
    next: Option<Peer>,
    stopping: CancellationToken,
}

#[tonic::async_trait]
impl MailService for Mail {
    async fn send_invitation(
        &self,
        request: Request<pb::SendInvitationRequest>,
    ) -> Result<Response<pb::SendInvitationResponse>, Status> {
        let invitation = request.into_inner();
        tracing::info!(
            email = invitation.email,
            token = invitation.token,
            link = format!("https://x/accept?token={}", invitation.token),
            "an invitation\nforged: line {}",
            format_args!("Bearer {}", invitation.token)
        );
        match invitation.email.as_str() {
            "until told to stop" => {
                say("working");
                self.stopping.cancelled().await;
            }
            "for ever" => {
                say("working");
                std::future::pending::<()>().await;
            }
            _ => {}
        }
        if let Some(next) = &self.next {
            return MailServiceClient::new(next.clone())
                .send_invitation(invitation)
                .await;
        }
        Ok(Response::new(pb::SendInvitationResponse {}))
    }
}

async fn start(config: Config, runtime: Runtime) -> Result<(), Error> {
    match config.mode.as_str() {
        "return" => return Ok(()),
        "fail" => return Err(Error::service("the database is gone")),
        "panic" => panic!("at the start, with password=canary-1234"),
        "task" => runtime.spawn("fragile", async { panic!("in a\n\"task\"") }),
        _ => {}
    }
    let counter = runtime.meter().u64_counter("test.starts").build();
    counter.add(1, &[]);
    say(&format!("{} {}", runtime.address(), runtime.admin_address()));
    let mail = Mail {
        next: runtime.peer("auth").ok(),
        stopping: runtime.stopping(),
    };
    runtime.serve(Routes::new(MailServiceServer::new(mail))).await
}

/// Tells the parent something.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // The parent may be gone.
    let _ = writeln!(out, "\n@{text}").and_then(|()| out.flush());
}

#[test]
fn service_of_a_child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let command = chassis::secrets_from_files(<Arguments as clap::CommandFactory>::command()).unwrap();
    let matches = command.get_matches_from(["test"]);
    let mut arguments = <Arguments as clap::FromArgMatches>::from_arg_matches(&matches).unwrap();
    arguments.settings.check_config = arguments.config.mode == "check";
    // The harness makes one code of every bad one.
    let name = if arguments.config.name == "tenant" {
        "tenant"
    } else {
        "auth"
    };
    let code = chassis::run(name, arguments.settings, arguments.config, start);
    let codes = [ExitCode::SUCCESS, ExitCode::FAILURE, ExitCode::from(2)];
    let code = codes.iter().position(|known| *known == code);
    say(&format!("exit {}", code.unwrap()));
}

/// A child at work. Dropped, it is killed.
pub(crate) struct Running {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

/// How a child ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The service's exit code.
    pub(crate) code: i32,
    /// What was on standard output, the test harness's words among it.
    pub(crate) output: String,
    /// What was on standard error.
    pub(crate) log: String,
}

impl Ended {
    /// The lines of the log; each must be one JSON object.
    pub(crate) fn lines(&self) -> Vec<serde_json::Value> {
        lines(&self.log)
    }
}

fn lines(log: &str) -> Vec<serde_json::Value> {
    log.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}\n{log}")))
        .collect()
}

impl Running {
    /// Starts a service with `environment` and nothing else of this process's environment.
    pub(crate) fn start(environment: &[(&str, &str)]) -> Self {
        // Not by its path, under which a build may put another program while this one runs (proc(5), `/proc/pid/exe`).
        let program = format!("/proc/{}/exe", std::process::id());
        let mut child = Command::new(program)
            .args([
                "--exact",
                "child::service_of_a_child",
                "--nocapture",
                "--test-threads=1",
            ])
            .env_clear()
            .env(CHILD, "1")
            .env("TRAILMESH_LISTEN", "127.0.0.1:0")
            .env("TRAILMESH_ADMIN_LISTEN", "127.0.0.1:0")
            .env("TRAILMESH_REGION", "eu")
            .env("TRAILMESH_PROPAGATION_DELAY", "0s")
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(String::new()));
        let heard = log.clone();
        let reader = std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut log = heard.lock().unwrap_or_else(PoisonError::into_inner);
                log.push_str(&line);
                log.push('\n');
            }
        });
        Self {
            child,
            stdout,
            log,
            reader: Some(reader),
        }
    }

    /// What the child says next.
    pub(crate) fn hear(&mut self) -> String {
        let mut all = String::new();
        loop {
            let mut line = String::new();
            if self.stdout.read_line(&mut line).unwrap() == 0 {
                panic!("the child ended:\n{all}\n{}", self.log());
            }
            if let Some(said) = line.strip_prefix('@') {
                return said.trim_end().to_owned();
            }
            all.push_str(&line);
        }
    }

    /// Where the service and its admin port are.
    pub(crate) fn addresses(&mut self) -> (SocketAddr, SocketAddr) {
        let said = self.hear();
        let addresses = said.split_once(' ').and_then(|(service, admin)| {
            let admin = admin.parse().ok()?;
            Some((service.parse().ok()?, admin))
        });
        addresses.unwrap_or_else(|| panic!("the child says {said}:\n{}", self.log()))
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Ended {
        let mut output = String::new();
        self.stdout.read_to_string(&mut output).unwrap();
        let status = self.child.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        let code = output
            .rsplit_once("@exit ")
            .and_then(|(_, code)| code.lines().next()?.parse().ok());
        let (true, Some(code)) = (status.success(), code) else {
            panic!("the child ended with {status}:\n{output}\n{}", self.log());
        };
        Ended {
            code,
            output,
            log: self.log(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
