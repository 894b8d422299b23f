//! Thousands of agents, a replica that is killed, and a Redis that forgets everything.

use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use tokio::time::sleep;

use crate::world::{Asker, Followed, Replica, World};

/// For thousands of handshakes, which are the machine's work and promised to nobody.
const LONG: Duration = Duration::from_secs(600);

/// As many as `TRAILMESH_TEST_AGENTS` says.
fn agents() -> usize {
    let count = std::env::var("TRAILMESH_TEST_AGENTS").ok();
    count.and_then(|count| count.parse().ok()).unwrap_or(2_000)
}

/// Asks every agent by one of the replicas until all have answered as who they are; how long it took. Whatever is asked later than `bound` is
/// answered: how many can be asked in that time is the machine's.
async fn all_reached(asker: &Asker, replicas: &[Replica], agents: &[Followed], bound: Duration) -> Duration {
    let began = Instant::now();
    let asked = stream::iter(agents.iter().enumerate()).for_each_concurrent(64, async |(place, of)| {
        let address = replicas[place % replicas.len()].address;
        loop {
            let asked = began.elapsed();
            match asker.who(address, of).await {
                Ok(who) => {
                    assert_eq!(who, format!("{} {} 1", of.tenant, of.id));
                    return;
                }
                Err(status) => assert!(asked < bound, "{place} asked after {asked:?}: {status:?}"),
            }
            sleep(Duration::from_millis(200)).await;
        }
    });
    asked.await;
    began.elapsed()
}

/// What replicas hold: connections that count, and all that are open.
async fn held(replicas: &[Replica]) -> (f64, f64) {
    let (mut counting, mut open) = (0.0, 0.0);
    for replica in replicas {
        counting += replica
            .metric("trailmesh_hub_connections{what=\"counting\"")
            .await;
        open += replica.metric("trailmesh_hub_connections{what=\"open\"").await;
    }
    (counting, open)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_agents_are_reached_again_when_a_replica_is_killed_and_redis_forgets() {
    let world = World::new().await;
    let mut replicas = world.replicas(3).await;
    let asker = world.asker();
    let began = Instant::now();
    let agents: Vec<_> = (0..agents()).map(|_| world.agent()).collect();
    let up = all_reached(&asker, &replicas, &agents, LONG).await;
    println!(
        "{} agents, made in {:?}, reached in {up:?}",
        agents.len(),
        began.elapsed() - up
    );

    replicas.pop().unwrap().kill().await;
    world.open(&replicas);
    assert!(world.redis_says::<usize>(&["DBSIZE"]).await > agents.len());
    let flushed: String = world.redis_says(&["FLUSHALL"]).await;
    assert_eq!(flushed, "OK");
    let again = all_reached(&asker, &replicas, &agents, Duration::from_secs(60)).await;
    println!("all reached again in {again:?}");

    let began = Instant::now();
    let live = loop {
        let live: usize = agents.iter().map(|of| of.agent.connected()).sum();
        let (counting, open) = held(&replicas).await;
        let (counting, open) = (counting.round() as usize, open.round() as usize);
        if live == 2 * agents.len() && counting == live && open == live {
            break live;
        }
        assert!(
            began.elapsed() < LONG,
            "{live} live, {counting} counting, {open} open"
        );
        sleep(Duration::from_millis(500)).await;
    };
    println!("{live} connections after {:?}", began.elapsed());
    let misrouted: usize = agents.iter().map(|of| of.agent.misrouted()).sum();
    assert_eq!(misrouted, 0);
}
