//! Following one server, and what is told of it meanwhile.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use types::Code;

use super::{
    backoff::Backoff,
    link::chance,
    seam::{Followed, Going},
};
use crate::{
    error::Error as Told,
    options::{Server, Watch},
    source::{self, Notice, Probe, behind},
};

/// How often a server is asked how long its log is.
const PROBE: Duration = Duration::from_secs(10);
/// What needs a person is looked at again so often.
const PERSON: Duration = Duration::from_secs(60);

/// Nobody is connected any more.
pub(super) fn stopped(going: &mut Going, problem: String) {
    going.following = false;
    going.problem = problem;
    going.lag = None;
    going.lag_bytes = None;
}

/// Following one server.
pub(super) struct Job {
    pub(super) followed: Arc<Followed>,
    pub(super) store: PathBuf,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) sizes: trail::Options,
}

impl Job {
    /// Until it is told to stop.
    pub(super) async fn run(mut self, login: Server) {
        let mut probe = match Probe::new(&login) {
            Ok(probe) => probe,
            Err(error) => return self.followed.update(|going| stopped(going, sentence(&error))),
        };
        let watch = Watch {
            server: login,
            start: None,
            store: self.store.clone(),
            until_caught_up: false,
            server_id: None,
            sizes: self.sizes,
        };
        let mut backoff = Backoff::default();
        loop {
            let begun = tokio::time::Instant::now();
            let mut notify = noter(self.followed.clone());
            let outcome = tokio::select! {
                outcome = source::watch(&watch, &mut notify, self.stop.clone()) => outcome,
                () = look(&self.followed, &mut probe) => return,
            };
            let Err(error) = outcome else { break };
            let pause = match &error {
                Told::Failed(failure) if waits_for_a_person(failure.code) => {
                    PERSON.mul_f64(0.5 + chance() / 2.0)
                }
                _ => backoff.pause(begun.elapsed(), chance(), None),
            };
            let problem = sentence(&error);
            tracing::warn!(
                server = self.followed.name,
                problem,
                "not followed; trying again in {:.1} s",
                pause.as_secs_f64()
            );
            self.followed.update(|going| stopped(going, problem));
            if timeout(pause, self.stop.wait_for(|stop| *stop)).await.is_ok() {
                break;
            }
        }
        self.followed.update(|going| stopped(going, String::new()));
    }
}

fn waits_for_a_person(code: Code) -> bool {
    !matches!(code, Code::Unavailable | Code::Timeout | Code::Exhausted)
}

/// Asks again and again how long the server's log is. Never ends by itself.
async fn look(followed: &Followed, probe: &mut Probe) {
    loop {
        sleep(PROBE).await;
        if !followed.going().following {
            continue;
        }
        match probe.logs().await {
            Ok(logs) => followed.update(|going| {
                going.log_end = logs.last().cloned();
                measure(going, &logs);
            }),
            Err(error) => tracing::debug!(
                server = followed.name,
                problem = sentence(&error),
                "the length of its log is not known"
            ),
        }
    }
}

fn measure(going: &mut Going, logs: &[binlog::LogPos]) {
    going.lag_bytes = going.position.as_ref().and_then(|at| behind(logs, at));
    going.lag = match (going.lag_bytes, going.written) {
        (Some(0), _) => Some(Duration::ZERO),
        (Some(_), Some(written)) => Some(SystemTime::now().duration_since(written).unwrap_or_default()),
        _ => None,
    };
}

/// What the engine says becomes the server's state, and what a person should know a line in the log.
fn noter(followed: Arc<Followed>) -> impl FnMut(Notice<'_>) + Send + Sync {
    move |notice| {
        let server = followed.name.as_str();
        match notice {
            Notice::Following { source, from } => {
                tracing::info!(server, engine = source.engine, version = source.version, from = %from, "connected");
                followed.update(|going| {
                    going.engine.clone_from(&source.engine);
                    going.version.clone_from(&source.version);
                    going.position = Some(from.clone());
                    going.following = true;
                    going.problem.clear();
                    going.last_connected = Some(SystemTime::now());
                });
            }
            Notice::Stored { at, written } => followed.update(|going| {
                going.position = Some(at.clone());
                if written != 0 {
                    going.written = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(written.into()));
                }
            }),
            Notice::Warning(text) => tracing::warn!(server, "{text}"),
            Notice::Gap(text) => {
                tracing::warn!(
                    server,
                    "GAP: {text}; what happened in between is not in the store"
                );
            }
            Notice::Waiting { why, pause } => {
                let problem = sentence(why);
                tracing::warn!(
                    server,
                    problem,
                    "connection lost; trying again in {:.1} s",
                    pause.as_secs_f64()
                );
                followed.update(|going| stopped(going, problem));
            }
        }
    }
}

fn sentence(error: &Told) -> String {
    match error {
        Told::Closed => "the connection was closed".to_owned(),
        Told::Failed(failure) => format!("{}: {}", failure.what, failure.why),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use binlog::LogPos;

    use super::{Going, measure};

    #[test]
    fn lag_is_told_only_where_it_is_known() {
        let logs = [LogPos::new("b.1", 100), LogPos::new("b.2", 50)];
        let mut going = Going::default();
        measure(&mut going, &logs);
        assert_eq!((going.lag, going.lag_bytes), (None, None));
        going.position = Some(LogPos::new("b.2", 50));
        measure(&mut going, &logs);
        assert_eq!((going.lag, going.lag_bytes), (Some(Duration::ZERO), Some(0)));
        going.position = Some(LogPos::new("b.1", 90));
        going.written = Some(SystemTime::now() - Duration::from_secs(60));
        measure(&mut going, &logs);
        assert_eq!(going.lag_bytes, Some(60));
        assert!(going.lag.is_some_and(|lag| lag >= Duration::from_secs(60)));
    }
}
