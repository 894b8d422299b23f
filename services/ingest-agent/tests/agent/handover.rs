//! Calls in work while connections come and go.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::Request;
use hyper::body::Incoming;
use ingest_agent::agent::{Answering, Mode};
use proto::agent::v1::{ConfigureRequest, StatisticsRequest};
use testkit::eventually;
use tokio::{sync::watch, time::timeout};
use tower::{Service as _, util::BoxCloneService};

use crate::{
    links::{Running, enrolled, hurried, run, start_with},
    stand::{Held, Stand},
};

/// An agent whose answers to Statistics wait until they are let go.
async fn held_back(stand: &Stand, tempo: ingest_agent::agent::Tempo) -> (Running, watch::Sender<bool>) {
    let (gate, open) = watch::channel(false);
    let around = move |answering: Answering| -> Answering {
        let open = open.clone();
        BoxCloneService::new(tower::service_fn(move |request: Request<Incoming>| {
            let (mut inner, mut open) = (answering.clone(), open.clone());
            async move {
                if request.uri().path().ends_with("/Statistics") {
                    let _ = open.wait_for(|open| *open).await;
                }
                inner.call(request).await
            }
        }))
    };
    let folder = enrolled(stand).await;
    (start_with(folder, Mode::Hosted, tempo, "none", around), gate)
}

/// A call in work.
async fn ask(held: &Held) -> tokio::task::JoinHandle<Result<(), tonic::Status>> {
    let mut client = held.client.clone();
    let call = tokio::spawn(async move { client.statistics(StatisticsRequest {}).await.map(|_| ()) });
    // What is asked after it is answered after it has arrived.
    configure(held, false).await;
    call
}

async fn configure(held: &Held, leaving: bool) {
    let request = ConfigureRequest {
        refresh: false,
        leaving,
        duplicate: false,
    };
    held.client.clone().configure(request).await.expect("an answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_ends_on_the_connection_that_was_replaced() {
    let stand = Stand::start().await;
    let mut tempo = hurried();
    tempo.drain = Duration::from_millis(100);
    let (running, gate) = held_back(&stand, tempo).await;
    let first = stand.wait_for_open(1).remove(0);
    let mut call = ask(&first).await;
    stand.says().replicas = vec!["b".to_owned()];
    configure(&first, true).await;
    eventually("the replacement", || {
        stand.held().into_iter().find(|held| held.replica == "b")
    });
    let early = timeout(tempo.drain * 10, &mut call).await;
    assert!(early.is_err(), "it is neither answered nor cut: {early:?}");
    gate.send_replace(true);
    assert!(call.await.expect("no panic").is_ok());
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_the_agent_does_not_wait_as_long() {
    let stand = Stand::start().await;
    let mut tempo = hurried();
    tempo.drain = Duration::from_millis(100);
    tempo.handover = Duration::from_secs(600);
    let (running, _gate) = held_back(&stand, tempo).await;
    let first = stand.wait_for_open(1).remove(0);
    let call = ask(&first).await;
    stand.says().replicas = vec!["b".to_owned()];
    configure(&first, true).await;
    let second = eventually("the replacement", || {
        stand.held().into_iter().find(|held| held.replica == "b")
    });
    let other = ask(&second).await;
    timeout(Duration::from_secs(20), running.end())
        .await
        .expect("both were cut");
    assert!(call.await.expect("no panic").is_err());
    assert!(other.await.expect("no panic").is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_panics_is_made_again() {
    let stand = Stand::start().await;
    let folder = enrolled(&stand).await;
    let first = Arc::new(AtomicBool::new(true));
    let around = move |answering: Answering| -> Answering {
        assert!(!first.swap(false, Ordering::SeqCst), "the first one breaks");
        answering
    };
    let running = start_with(folder, Mode::Hosted, hurried(), "none", around);
    stand.wait_for_open(1);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_looked_at_can_be_run() {
    let stand = Stand::start().await;
    let running = run(&stand, Mode::Hosted, hurried()).await;
    stand.wait_for_open(1);
    let folder = running.leave().await;
    let lock = folder.path().join("lock");
    std::fs::remove_file(&lock).expect("a lock");
    let at = ingest_agent::agent::Folder::at(folder.path());
    assert!(!ingest_agent::agent::status(&at).expect("a status").running);
    assert!(!lock.exists(), "whoever looks writes nothing");
}
