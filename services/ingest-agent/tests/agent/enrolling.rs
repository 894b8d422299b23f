//! Becoming an agent.

use std::sync::atomic::Ordering;

use ingest_agent::agent::{Enrol, Error, Folder, enrol, pins::Pin};
use types::Secret;

use crate::stand::{Stand, TOKEN};

/// Enrolment that knows the door's keys.
pub(crate) fn wanted(stand: &Stand, folder: &std::path::Path) -> Enrol {
    Enrol {
        folder: Folder::at(folder),
        mesh: stand.url(),
        token: Secret::new(TOKEN.to_owned()),
        pins: vec![stand.pin, stand.spare],
        ca: None,
        proxy: Some("none".to_owned()),
        again: false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_becomes_an_identity_that_stays_here() {
    let (stand, temporary) = (Stand::start().await, tempfile::tempdir().expect("a folder"));
    let folder = temporary.path().join("agent");
    let enrolled = enrol(&wanted(&stand, &folder)).await.expect("enrolled");
    assert_eq!((enrolled.tenant, enrolled.agent), (stand.tenant, stand.agent));
    assert_eq!(enrolled.door_not_pinned, None);
    let record = Folder::at(&folder).record().expect("a record");
    assert_eq!((record.generation, record.mesh), (0, stand.url()));
    let again = enrol(&wanted(&stand, &folder)).await;
    assert!(matches!(again, Err(Error::Usage { .. })), "{again:?}");
    assert_eq!(
        stand.seen.enrolments.load(Ordering::SeqCst),
        1,
        "no token is spent on a refusal"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_not_pinned_gets_nothing() {
    let (stand, temporary) = (Stand::start().await, tempfile::tempdir().expect("a folder"));
    let other = "sha256/d6qzRu9zOECb90Uez27xWltNsj0e1Md7GkYYkVoZWmM=";
    let pins: Vec<Pin> = vec![other.parse().expect("a pin"), stand.spare];
    let mut enrolment = wanted(&stand, temporary.path());
    enrolment.pins = pins;
    match enrol(&enrolment).await {
        Err(Error::NotPinned { shown, .. }) => assert_eq!(shown, stand.pin.to_string()),
        other => panic!("{other:?}"),
    }
    // The handshake itself was broken off, so that not a byte was said inside of it.
    assert_eq!(stand.seen.accepted.load(Ordering::SeqCst), 1);
    assert_eq!(stand.seen.shaken.load(Ordering::SeqCst), 0);
    enrolment.pins = vec![stand.pin];
    assert!(
        matches!(enrol(&enrolment).await, Err(Error::Usage { .. })),
        "one pin is too few"
    );
    assert_eq!(stand.seen.accepted.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_pins_an_authority_must_vouch_for_the_door() {
    let (stand, temporary) = (Stand::start().await, tempfile::tempdir().expect("a folder"));
    let mut enrolment = wanted(&stand, &temporary.path().join("agent"));
    enrolment.pins = Vec::new();
    let unknown = enrol(&enrolment).await;
    assert!(matches!(unknown, Err(Error::Unreachable { .. })), "{unknown:?}");
    assert_eq!(stand.seen.enrolments.load(Ordering::SeqCst), 0);
    let ca = temporary.path().join("ca.pem");
    std::fs::write(&ca, &stand.ca).expect("written");
    enrolment.ca = Some(ca);
    let enrolled = enrol(&enrolment).await.expect("enrolled");
    assert_eq!(
        enrolled.door_not_pinned, None,
        "the vault's pins hold the door's key"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_door_without_tls_1_3_is_none() {
    let stand = Stand::start_with(&[&rustls::version::TLS12]).await;
    let temporary = tempfile::tempdir().expect("a folder");
    let refused = enrol(&wanted(&stand, temporary.path())).await;
    assert!(matches!(refused, Err(Error::Unreachable { .. })), "{refused:?}");
    assert_eq!(stand.seen.shaken.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_does_not_enrol_leaves_no_agent_behind() {
    let (stand, temporary) = (Stand::start().await, tempfile::tempdir().expect("a folder"));
    let mut enrolment = wanted(&stand, temporary.path());
    enrolment.token = Secret::new("enr_other".to_owned());
    let Err(error) = enrol(&enrolment).await else {
        panic!("enrolled")
    };
    assert_eq!(error.exit().status(), 65, "{error}");
    assert!(error.hint().is_some());
    assert!(matches!(
        enrolment.folder.record(),
        Err(Error::NotEnrolled { .. })
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_comes_back_as_who_it_was() {
    let (stand, temporary) = (Stand::start().await, tempfile::tempdir().expect("a folder"));
    let mut enrolment = wanted(&stand, &temporary.path().join("agent"));
    enrolment.again = true;
    assert!(
        matches!(enrol(&enrolment).await, Err(Error::Usage { .. })),
        "there is nobody to come back"
    );
    enrolment.again = false;
    enrol(&enrolment).await.expect("enrolled");
    let store = enrolment.folder.path().join("stores");
    std::fs::create_dir(&store).expect("a folder");
    let key = || std::fs::read(enrolment.folder.path().join("identity/agent.pem")).expect("a key");
    let (old, mut again) = (key(), wanted(&stand, enrolment.folder.path()));
    again.again = true;
    // Its own pins are remembered.
    again.pins = Vec::new();
    enrol(&again).await.expect("enrolled again");
    assert_ne!(old, key());
    assert!(store.exists());
    let (now, other) = (key(), Stand::start().await);
    again.mesh = other.url();
    again.pins = vec![other.pin, other.spare];
    let refused = enrol(&again).await;
    assert!(matches!(refused, Err(Error::Usage { .. })), "{refused:?}");
    assert_eq!(now, key(), "another agent's token changes nothing");
}
