//! A running agent: links to the hub, a steward who asks the vault, followers; all of them end together.

use std::{sync::Arc, time::SystemTime};

use chassis::token::KeySet;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    dial::{Dialer, Mesh, Papers},
    enrol::given,
    error::Error,
    folder::{Folder, Record},
    identity::{Identity, moment},
    link::{Answers, Links, Tempo, chance},
    login::Mode,
    pins::{Pin, Pins},
    proxy::Proxy,
    seam::{About, Stores},
    status,
    steward::Steward,
    supervise::Supervisor,
    trust::Trust,
};

/// What running takes.
#[derive(Debug)]
pub struct Run {
    /// Where the agent's identity is, and where stores go.
    pub folder: Folder,
    /// Where passwords come from.
    pub mode: Mode,
    /// The keys of the mesh's door, instead of those from enrolment: none, or at least two.
    pub pins: Vec<Pin>,
    /// What `--proxy` says.
    pub proxy: Option<String>,
    /// How patient it is.
    pub tempo: Tempo,
}

/// Runs until `stop`. `answers` makes what answers on each connection, from what is followed and the keys that verify delegations.
pub async fn run(
    run: Run,
    answers: impl FnOnce(Arc<Stores>, KeySet, About) -> Answers,
    stop: CancellationToken,
) -> Result<(), Error> {
    // Asked before the lock, so that a folder without an agent is not written to.
    run.folder.record()?;
    let _lock = run.folder.take().await?;
    let record = next_generation(&run.folder)?;
    let mesh = Mesh::parse(&record.mesh)?;
    let proxy = Proxy::choose(run.proxy.as_deref(), &mesh.host, mesh.port)?;
    let papers = papers(&run, &record)?;
    run.folder.make_stores()?;
    let keys = keys(&run.folder, &papers)?;
    let about = About {
        tenant: record.tenant,
        agent: record.agent,
        boot_id: uuid::Uuid::new_v4().to_string(),
        generation: record.generation,
        started: SystemTime::now(),
    };
    tracing::info!(
        agent = %about.agent,
        generation = about.generation,
        mesh = mesh.url(),
        certificate_ends = moment(papers.identity.ends()),
        "started"
    );
    let stores = Arc::new(Stores::default());
    let answers = answers(stores.clone(), keys.clone(), about.clone());
    let refresh = Arc::new(Notify::new());
    let renew = papers.identity.renew_at(chance());
    let papers = watch::Sender::new(Arc::new(papers));
    let (replicas, known) = watch::channel(Vec::new());
    let (problem, troubled) = watch::channel(String::new());
    let dialer = Dialer { mesh, proxy };
    let links = Links {
        dialer: dialer.clone(),
        papers: papers.subscribe(),
        answers,
        tempo: run.tempo,
        refresh: refresh.clone(),
        replicas,
    };
    let steward = Steward {
        supervisor: Supervisor::new(run.folder.clone(), stores.clone()),
        folder: run.folder.clone(),
        dialer,
        papers,
        pinned_by_hand: record.pins.is_some() || !run.pins.is_empty(),
        keys,
        mode: run.mode,
        tempo: run.tempo,
        refresh,
        vault: None,
        renew,
        changed: tokio::time::Instant::now(),
        healthy: tokio::time::Instant::now(),
        revoked: None,
        problem,
    };
    together(
        links,
        steward,
        status::write(run.folder, about, stores, known, troubled),
        stop,
    )
    .await
}

/// Until `stop`, or until one of them cannot go on; then the other one ends too, in order.
async fn together(
    links: Links,
    steward: Steward,
    writer: impl Future<Output = ()> + Send + 'static,
    stop: CancellationToken,
) -> Result<(), Error> {
    let end = stop.child_token();
    let mut parts = JoinSet::new();
    let linked = end.clone();
    parts.spawn(async move {
        links.run(linked).await;
        Ok(())
    });
    parts.spawn(steward.run(end.clone()));
    let mut writers = JoinSet::new();
    writers.spawn(writer);
    let mut outcome = Ok(());
    while let Some(part) = parts.join_next().await {
        end.cancel();
        let ended = part.unwrap_or_else(|error| {
            Err(Error::Internal {
                what: "a part of the agent",
                why: error.to_string(),
            })
        });
        outcome = outcome.and(ended);
    }
    outcome
}

/// Counts this start, on disk before anybody hears of it.
fn next_generation(folder: &Folder) -> Result<Record, Error> {
    let mut record = folder.record()?;
    record.generation = record.generation.saturating_add(1);
    folder.save_record(&record)?;
    Ok(record)
}

/// The keys that verify delegations.
fn keys(folder: &Folder, papers: &Papers) -> Result<KeySet, Error> {
    let keys = KeySet::new(papers.trust.region().ok_or_else(|| Error::NotEnrolled {
        path: folder.path().to_owned(),
    })?);
    keys.replace(papers.trust.keys());
    Ok(keys)
}

fn papers(run: &Run, record: &Record) -> Result<Papers, Error> {
    let identity = Identity::load(&run.folder)?;
    let trust = Trust::load(&run.folder)?;
    let pins = pins(given(&run.pins)?, record, &trust)?;
    Ok(Papers {
        identity: Arc::new(identity),
        trust: Arc::new(trust),
        pins,
    })
}

/// What a person says now, or said at enrolment, or else what the vault says.
fn pins(now: Option<Pins>, record: &Record, trust: &Trust) -> Result<Pins, Error> {
    now.or_else(|| record.pins.clone())
        .or_else(|| trust.pins.clone())
        .ok_or_else(|| Error::Usage {
            what: "--pin".to_owned(),
            why: "the mesh names no keys of its door, so that a person must".to_owned(),
            hint: "ask the mesh's operator for its pins and give --pin twice: for the key in use and for the one kept for later",
        })
}
