//! An agent that the mesh does not let in follows on.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ingest_agent::agent::{Mode, Tempo, seam::Followed};
use testkit::{Engine, Server, eventually};

use crate::{
    following::{changes, followed},
    links::{Running, enrolled, hurried, start},
    stand::Stand,
};

/// An agent that follows a server, with a table of a schema of its own.
struct Busy {
    stand: Stand,
    running: Running,
    followed: Arc<Followed>,
    server: &'static Server,
    schema: testkit::Schema<'static>,
}

impl Busy {
    async fn start(tempo: Tempo, life: (u64, u64)) -> Self {
        let server = Server::shared(Engine::Mariadb);
        let schema = server.schema("barred");
        server.sql(&format!("CREATE TABLE `{}`.t (id INT PRIMARY KEY)", schema.name));
        let stand = Stand::start().await;
        stand.says().servers = vec![stand.assigned(server, "1")];
        stand.says().password = Some(server.repl_password.clone());
        stand.says().life = life;
        let running = start(enrolled(&stand).await, Mode::Hosted, tempo, "none");
        let followed = followed(&running, |followed| followed.going().following);
        Self {
            stand,
            running,
            followed,
            server,
            schema,
        }
    }

    /// It says what to do, and stores what is changed now.
    fn follows_on(&self, words: &str) {
        eventually("the problem", || self.told().contains(words).then_some(()));
        let name = &self.schema.name;
        let before = changes(&self.followed, name);
        self.server
            .sql(&format!("INSERT INTO `{name}`.t VALUES ({before})"));
        eventually("the change", || {
            (changes(&self.followed, name) == before + 1).then_some(())
        });
        assert!(!self.running.task.is_finished());
    }

    /// What it has written down for whoever asks how it goes.
    fn told(&self) -> String {
        std::fs::read_to_string(self.running.folder.path().join("status.json")).unwrap_or_default()
    }

    /// The vault is asked, and refuses.
    fn refuse(&self, reason: &'static str) {
        self.stand.says().refusal = Some(reason);
        self.stand.wait_for_open(1).remove(0).cut.notify_one();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_its_certificate_has_ended_it_follows_on() {
    let mut tempo = hurried();
    tempo.eager = Duration::from_millis(500);
    // The mesh renews nothing any more.
    let busy = Busy::start(tempo, (86_400, 86_385)).await;
    busy.stand.says().no = Some("DOOR_FULL 1");
    busy.stand.says().refusal = Some("VAULT_SEALED");
    busy.follows_on("enrol --again");
    busy.running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_agent_follows_on_and_comes_back() {
    let busy = Busy::start(hurried(), (86_400, 0)).await;
    busy.refuse("AGENT_FROZEN");
    busy.follows_on("plan");
    busy.stand.says().refusal = None;
    eventually("that all is well", || {
        (!busy.told().contains("AGENT_FROZEN")).then_some(())
    });
    busy.running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_door_that_refuses_it_does_not_end_it() {
    let busy = Busy::start(hurried(), (86_400, 0)).await;
    busy.stand.says().no = Some("AGENT_FROZEN 1");
    busy.refuse("AGENT_FROZEN");
    busy.follows_on("plan");
    busy.running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_follows_ends_only_when_it_was_called_revoked_for_long() {
    let busy = Busy::start(hurried(), (86_400, 0)).await;
    busy.refuse("AGENT_REVOKED");
    busy.follows_on("AGENT_REVOKED");
    busy.running.end().await;

    let mut tempo = hurried();
    tempo.revoked = Duration::from_secs(1);
    let busy = Busy::start(tempo, (86_400, 0)).await;
    let assignments = busy.stand.seen.assignments.load(Ordering::SeqCst);
    busy.refuse("AGENT_REVOKED");
    let Err(error) = busy.running.task.await.expect("no panic") else {
        panic!("it ended well")
    };
    assert_eq!(error.exit().status(), 65, "{error}");
    assert!(busy.stand.seen.assignments.load(Ordering::SeqCst) > assignments + 1);
}
