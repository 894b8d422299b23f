//! Servers that are assigned are followed.

use std::sync::{Arc, atomic::Ordering};

use ingest_agent::agent::{Mode, seam::Followed};
use proto::agent::v1::ConfigureRequest;
use testkit::{Engine, Server, eventually};
use trail::Filter;

use crate::{
    links::{Running, hurried, run, start},
    stand::Stand,
};

/// The one server it follows, once that is as `is` wants it.
pub(crate) fn followed(running: &Running, is: impl Fn(&Followed) -> bool) -> Arc<Followed> {
    let stores = running.stores();
    eventually("the server's state", || {
        stores.all().into_iter().find(|followed| is(followed))
    })
}

async fn refresh(stand: &Stand) {
    let mut held = stand.wait_for_open(1).remove(0);
    held.client
        .configure(ConfigureRequest {
            refresh: true,
            leaving: false,
            duplicate: false,
        })
        .await
        .expect("an answer");
}

pub(crate) fn changes(followed: &Followed, schema: &str) -> usize {
    let Ok(reader) = trail::Reader::open(&followed.store) else {
        return 0;
    };
    let found = reader.find(&Filter::default()).expect("changes");
    let mut count = 0;
    for change in found {
        count += usize::from(change.expect("a change").table.schema == schema);
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_assigned_is_followed_and_what_is_not_is_left() {
    let server = Server::shared(Engine::Mariadb);
    let schema = server.schema("agent");
    server.sql(&format!("CREATE TABLE `{}`.t (id INT PRIMARY KEY)", schema.name));
    let stand = Stand::start().await;
    let mut assigned = stand.assigned(server, "1");
    stand.says().servers = vec![assigned.clone()];
    stand.says().password = Some(server.repl_password.clone());
    let running = run(&stand, Mode::Hosted, hurried()).await;
    let first = followed(&running, |followed| followed.going().following);
    let going = first.going();
    assert_eq!((going.engine.as_str(), going.problem.as_str()), ("mariadb", ""));
    server.sql(&format!("INSERT INTO `{}`.t VALUES (1), (2)", schema.name));
    eventually("the changes", || {
        (changes(&first, &schema.name) == 2).then_some(())
    });
    assert_eq!(stand.seen.openings.load(Ordering::SeqCst), 1);

    // The same version is left alone, a new one is begun anew with what the vault says then.
    refresh(&stand).await;
    assigned.version = "2".to_owned();
    stand.says().servers = vec![assigned.clone()];
    refresh(&stand).await;
    eventually("another login", || {
        (stand.seen.openings.load(Ordering::SeqCst) == 2).then_some(())
    });
    server.sql(&format!("INSERT INTO `{}`.t VALUES (3)", schema.name));
    eventually("the third change", || {
        (changes(&first, &schema.name) == 3).then_some(())
    });

    stand.says().servers.clear();
    refresh(&stand).await;
    let stores = running.stores();
    eventually("nothing to follow", || stores.all().is_empty().then_some(()));
    assert!(
        first.store.exists(),
        "what is stored belongs to whoever owns the disk"
    );
    let kept = running.folder.path().to_owned();
    nothing_holds(&kept, &server.repl_password);
    running.end().await;
}

/// No file below `folder` holds these words.
fn nothing_holds(folder: &std::path::Path, words: &str) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            nothing_holds(&path, words);
        } else {
            let bytes = std::fs::read(&path).expect("a file");
            let found = bytes
                .windows(words.len())
                .any(|window| window == words.as_bytes());
            assert!(!found, "{} holds the password", path.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_be_followed_says_why_and_spoils_nothing() {
    let server = Server::shared(Engine::Mariadb);
    let stand = Stand::start().await;
    let good = stand.assigned(server, "1");
    let mut closed = stand.assigned(server, "1");
    closed.port = testkit::free_port().into();
    closed.name = "nobody-there".to_owned();
    stand.says().servers = vec![closed, good];
    stand.says().password = Some(server.repl_password.clone());
    let running = run(&stand, Mode::Hosted, hurried()).await;
    followed(&running, |followed| {
        followed.name == "shop-db" && followed.going().following
    });
    let broken = followed(&running, |followed| {
        followed.name == "nobody-there" && !followed.going().problem.is_empty()
    });
    assert!(!broken.going().following);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_a_state_until_it_is_right() {
    let server = Server::shared(Engine::Mariadb);
    let stand = Stand::start().await;
    let mut assigned = stand.assigned(server, "1");
    stand.says().servers = vec![assigned.clone()];
    stand.says().password = Some("wrong".to_owned());
    let running = run(&stand, Mode::Hosted, hurried()).await;
    let state = followed(&running, |followed| !followed.going().problem.is_empty());
    assert!(
        state.going().problem.contains("1045"),
        "{}",
        state.going().problem
    );
    stand.says().password = Some(server.repl_password.clone());
    assigned.version = "2".to_owned();
    stand.says().servers = vec![assigned];
    refresh(&stand).await;
    let right = followed(&running, |followed| followed.going().following);
    assert_eq!(right.going().problem, "");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_mesh_what_was_followed_is_followed_on() {
    let server = Server::shared(Engine::Mariadb);
    let schema = server.schema("alone");
    server.sql(&format!("CREATE TABLE `{}`.t (id INT PRIMARY KEY)", schema.name));
    let stand = Stand::start().await;
    stand.says().servers = vec![stand.assigned(server, "1")];
    stand.says().password = Some(server.repl_password.clone());
    let running = run(&stand, Mode::Hosted, hurried()).await;
    let followed = followed(&running, |followed| followed.going().following);
    stand.says().no = Some("DOOR_FULL 1");
    stand.says().refusal = Some("VAULT_SEALED");
    stand.wait_for_open(1).remove(0).cut.notify_one();
    let prefaces = stand.seen.prefaces.load(Ordering::SeqCst);
    eventually("refusals", || {
        (stand.seen.prefaces.load(Ordering::SeqCst) >= prefaces + 2).then_some(())
    });
    server.sql(&format!("INSERT INTO `{}`.t VALUES (1)", schema.name));
    eventually("the change", || {
        (changes(&followed, &schema.name) == 1).then_some(())
    });
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn byos_asks_nobody_for_passwords() {
    let server = Server::shared(Engine::Mariadb);
    let stand = Stand::start().await;
    stand.says().servers = vec![stand.assigned(server, "1")];
    stand.says().password = Some(server.repl_password.clone());
    let folder = crate::links::enrolled(&stand).await;
    let running = start(folder, Mode::Byos, hurried(), "none");
    let state = followed(&running, |followed| !followed.going().problem.is_empty());
    assert!(state.going().problem.contains("TRAIL_SERVER_SHOP_DB_PASSWORD"));
    assert_eq!(stand.seen.openings.load(Ordering::SeqCst), 0);
    running.end().await;
}
