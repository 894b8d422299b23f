//! Connections to the hub.

use std::{
    path::Path,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use ingest_agent::{
    agent::{self, Answering, Answers, Error, Folder, Mode, Run, Tempo, enrol, seam::Stores},
    serve::Service,
};
use proto::agent::v1::{ConfigureRequest, StatisticsRequest};
use testkit::eventually;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::util::BoxCloneService;

use crate::{enrolling::wanted, stand::Stand};

/// A running agent.
pub(crate) struct Running {
    pub(crate) stores: Arc<Mutex<Option<Arc<Stores>>>>,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), Error>>,
    pub(crate) folder: tempfile::TempDir,
}

/// Patience that tests can wait for.
pub(crate) fn hurried() -> Tempo {
    Tempo {
        refresh: Duration::from_secs(60),
        eager: Duration::from_secs(60),
        hello: Duration::from_secs(2),
        leaving: Duration::from_millis(50),
        look: Duration::from_millis(300),
        handover: Duration::from_secs(10),
        drain: Duration::from_secs(5),
        barred: Duration::from_millis(300),
        revoked: Duration::from_secs(600),
    }
}

pub(crate) async fn enrolled(stand: &Stand) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    enrol(&wanted(stand, folder.path())).await.expect("enrolled");
    folder
}

pub(crate) async fn run(stand: &Stand, mode: Mode, tempo: Tempo) -> Running {
    start(enrolled(stand).await, mode, tempo, "none")
}

pub(crate) fn start(folder: tempfile::TempDir, mode: Mode, tempo: Tempo, proxy: &str) -> Running {
    start_with(folder, mode, tempo, proxy, |answering| answering)
}

/// The same, with something around what answers on each connection.
pub(crate) fn start_with(
    folder: tempfile::TempDir,
    mode: Mode,
    tempo: Tempo,
    proxy: &str,
    around: impl Fn(Answering) -> Answering + Send + Sync + 'static,
) -> Running {
    let stores = Arc::new(Mutex::new(None));
    let stop = CancellationToken::new();
    let run = options(folder.path(), mode, tempo, proxy);
    let (kept, end) = (stores.clone(), stop.clone());
    let task = tokio::spawn(async move {
        let answers = move |stores: Arc<Stores>, keys, about| -> Answers {
            *kept.lock().expect("no panic") = Some(stores.clone());
            let service = Service::new(stores, keys, about);
            Arc::new(move |line| around(BoxCloneService::new(service.on(line))))
        };
        agent::run(run, answers, end).await
    });
    Running {
        stores,
        stop,
        task,
        folder,
    }
}

fn options(folder: &Path, mode: Mode, tempo: Tempo, proxy: &str) -> Run {
    Run {
        folder: Folder::at(folder),
        mode,
        pins: Vec::new(),
        proxy: Some(proxy.to_owned()),
        tempo,
    }
}

impl Running {
    /// What it follows.
    pub(crate) fn stores(&self) -> Arc<Stores> {
        eventually("the stores", || self.stores.lock().expect("no panic").clone())
    }

    /// Tells it to end.
    pub(crate) async fn end(self) {
        drop(self.leave().await);
    }

    /// The same, and its folder stays.
    pub(crate) async fn leave(self) -> tempfile::TempDir {
        self.stop.cancel();
        let ended = self.task.await.expect("no panic");
        assert!(ended.is_ok(), "{ended:?}");
        self.folder
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_dials_and_then_serves() {
    let stand = Stand::start().await;
    let running = run(&stand, Mode::Hosted, hurried()).await;
    let mut held = stand.wait_for_open(1).remove(0);
    assert_eq!((held.hello.generation, held.hello.protocol), (1, 1));
    assert!(!held.hello.boot_id.is_empty());
    let statistics = held
        .client
        .statistics(StatisticsRequest {})
        .await
        .expect("an answer");
    assert!(statistics.into_inner().resident_bytes > 0);
    running.end().await;
    eventually("the end", || stand.open().is_empty().then_some(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_connections_lead_to_distinct_replicas() {
    let stand = Stand::start().await;
    stand.says().replicas = ["a", "a", "b", "c"].map(str::to_owned).to_vec();
    let running = run(&stand, Mode::Hosted, hurried()).await;
    let open = eventually("two replicas", || {
        let open = stand.open();
        let distinct = open.len() == 2 && open[0].replica != open[1].replica;
        distinct.then_some(open)
    });
    assert_eq!(open[0].hello.boot_id, open[1].hello.boot_id, "one agent");
    // The second visit to the same replica was ended by the agent.
    assert!(
        stand
            .held()
            .iter()
            .any(|held| held.replica == "a" && !held.is_open())
    );
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_replica_is_found_when_it_comes() {
    let stand = Stand::start().await;
    let running = run(&stand, Mode::Hosted, hurried()).await;
    stand.wait_for_open(1);
    stand.says().replicas = vec!["a".to_owned(), "b".to_owned()];
    eventually("a second one", || {
        let open = stand.open();
        (open.len() == 2 && open[0].replica != open[1].replica).then_some(())
    });
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_leaves_is_replaced_before_it_is_let_go() {
    let stand = Stand::start().await;
    stand.says().replicas = vec!["a".to_owned(), "b".to_owned()];
    let running = run(&stand, Mode::Hosted, hurried()).await;
    let mut open = stand.wait_for_open(2);
    stand.says().replicas = vec!["c".to_owned(), open[1].replica.clone()];
    open[0]
        .client
        .configure(ConfigureRequest {
            refresh: false,
            leaving: true,
            duplicate: false,
        })
        .await
        .expect("an answer");
    let mut leaving = open[0].closed.clone();
    leaving.wait_for(|closed| *closed).await.expect("closed");
    let replacement = eventually("the replacement", || {
        stand.held().into_iter().find(|held| held.replica == "c")
    });
    assert!(replacement.is_open());
    assert_eq!(replacement.beside, 2, "both were there still when it was greeted");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_cut_is_made_again() {
    let stand = Stand::start().await;
    let running = run(&stand, Mode::Hosted, hurried()).await;
    let held = stand.wait_for_open(1).remove(0);
    let assignments = stand.seen.assignments.load(Ordering::SeqCst);
    held.cut.notify_one();
    eventually("another one", || {
        (stand.held().len() >= 2 && stand.open().len() == 1).then_some(())
    });
    // It might have been cut because the agent does not count any more: the vault is asked.
    eventually("a question", || {
        (stand.seen.assignments.load(Ordering::SeqCst) > assignments).then_some(())
    });
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_an_agent_gives_its_connection_up_and_waits() {
    let stand = Stand::start().await;
    let mut tempo = hurried();
    tempo.barred = Duration::from_secs(3_600);
    let running = run(&stand, Mode::Hosted, tempo).await;
    let mut held = stand.wait_for_open(1).remove(0);
    let assignments = stand.seen.assignments.load(Ordering::SeqCst);
    let told = ConfigureRequest {
        refresh: false,
        leaving: false,
        duplicate: true,
    };
    // Its answer may be cut off with the connection.
    let _ = held.client.configure(told).await;
    held.closed.wait_for(|closed| *closed).await.expect("closed");
    // The vault is asked, because the agent may not count any more; the hub is not dialled again.
    eventually("a question", || {
        (stand.seen.assignments.load(Ordering::SeqCst) > assignments).then_some(())
    });
    assert_eq!(stand.held().len(), 1);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_greet_is_left() {
    let stand = Stand::start().await;
    stand.says().silent = true;
    let mut tempo = hurried();
    tempo.hello = Duration::from_millis(200);
    let running = run(&stand, Mode::Hosted, tempo).await;
    eventually("several attempts", || {
        (stand.seen.prefaces.load(Ordering::SeqCst) >= 4).then_some(())
    });
    stand.says().silent = false;
    stand.wait_for_open(1);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hub_is_the_hub_and_no_other_service() {
    let stand = Stand::start().await;
    stand.says().impostor = true;
    let running = run(&stand, Mode::Hosted, hurried()).await;
    eventually("several attempts", || {
        (stand.seen.prefaces.load(Ordering::SeqCst) >= 4).then_some(())
    });
    assert!(stand.held().is_empty(), "nobody was answered");
    stand.says().impostor = false;
    stand.wait_for_open(1);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_door_is_left_alone_for_as_long_as_it_says() {
    let stand = Stand::start().await;
    let folder = enrolled(&stand).await;
    stand.says().no = Some("DOOR_FULL 6");
    let running = start(folder, Mode::Hosted, hurried(), "none");
    // Of the one who looks for a hub and of the one who asks the vault.
    eventually("the refusals", || {
        (stand.seen.prefaces.load(Ordering::SeqCst) >= 2).then_some(())
    });
    let begun = std::time::Instant::now();
    eventually("more", || {
        (stand.seen.prefaces.load(Ordering::SeqCst) >= 3).then_some(())
    });
    // The one that came first waited meanwhile: the second one may have come half of the time after it.
    assert!(begun.elapsed() >= Duration::from_secs(3), "{:?}", begun.elapsed());
    stand.says().no = None;
    stand.wait_for_open(1);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_and_every_connection_with_it() {
    let stand = Stand::start().await;
    stand.says().replicas = vec!["a".to_owned(), "b".to_owned()];
    // More than half of its life is over when it is given.
    stand.says().life = (86_400, 60_000);
    let folder = enrolled(&stand).await;
    stand.says().life = (86_400, 0);
    let running = start(folder, Mode::Hosted, hurried(), "none");
    eventually("the renewal", || {
        (stand.seen.renewals.load(Ordering::SeqCst) == 1).then_some(())
    });
    let open = eventually("new connections", || {
        let open = stand.open();
        (open.len() == 2 && open.iter().all(|held| held.serial == "2")).then_some(open)
    });
    assert_ne!(open[0].replica, open[1].replica);
    let folder = Folder::at(running.folder.path());
    let status = agent::status(&folder).expect("a status");
    assert!(status.running && !status.certificate_ended);
    running.end().await;
    assert_eq!(stand.seen.renewals.load(Ordering::SeqCst), 1, "once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_agent_ends() {
    let stand = Stand::start().await;
    let running = run(&stand, Mode::Hosted, hurried()).await;
    let held = stand.wait_for_open(1).remove(0);
    stand.says().refusal = Some("AGENT_REVOKED");
    held.cut.notify_one();
    let Err(error) = running.task.await.expect("no panic") else {
        panic!("it ended well")
    };
    assert_eq!(error.exit().status(), 65, "{error}");
    drop(running.folder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pins_that_would_shut_the_door_are_not_believed() {
    let stand = Stand::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut enrolment = wanted(&stand, folder.path());
    // Nobody pins by hand: the vault's pins count.
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &stand.ca).expect("written");
    (enrolment.pins, enrolment.ca) = (Vec::new(), Some(ca));
    enrol(&enrolment).await.expect("enrolled");
    let running = start(folder, Mode::Hosted, hurried(), "none");
    let held = stand.wait_for_open(1).remove(0);
    let other = "sha256/d6qzRu9zOECb90Uez27xWltNsj0e1Md7GkYYkVoZWmM=";
    stand.says().pins = vec![other.to_owned(), stand.spare.to_string()];
    let assignments = stand.seen.assignments.load(Ordering::SeqCst);
    held.cut.notify_one();
    eventually("a question", || {
        (stand.seen.assignments.load(Ordering::SeqCst) > assignments).then_some(())
    });
    stand.wait_for_open(1).remove(0).cut.notify_one();
    eventually("a third one", || {
        (stand.held().len() >= 3 && stand.open().len() == 1).then_some(())
    });
    // Nor after the next start.
    let folder = running.leave().await;
    eventually("the end", || stand.open().is_empty().then_some(()));
    let running = start(folder, Mode::Hosted, hurried(), "none");
    stand.wait_for_open(1);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_change_the_next_one_is_looked_for_soon() {
    let stand = Stand::start().await;
    let mut tempo = hurried();
    tempo.eager = Duration::from_millis(100);
    let running = run(&stand, Mode::Hosted, tempo).await;
    eventually("several looks", || {
        (stand.seen.assignments.load(Ordering::SeqCst) >= 5).then_some(())
    });
    running.end().await;
}
