//! One agent, and what may happen to it.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tonic::Code;

use crate::{
    agent::Agent,
    world::{Asker, CHANGES, COUNT, Followed, Replica, STATUS, World, reason},
};

/// Waits for what must come soon.
async fn soon(what: &str, seconds: u64, mut probe: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !probe().await {
        assert!(
            began.elapsed() < Duration::from_secs(seconds),
            "not within {seconds} s: {what}"
        );
        sleep(Duration::from_millis(20)).await;
    }
}

/// A replica that the agent is connected to, and one that it is not, of three.
async fn near_and_far(replicas: &[Replica], of: &Followed) -> (SocketAddr, SocketAddr) {
    soon("two connections", 20, async || of.agent.connected() == 2).await;
    let (mut near, mut far) = (None, None);
    for replica in replicas {
        let held = replica.metric("trailmesh_hub_connections").await > 0.0;
        *(if held { &mut near } else { &mut far }) = Some(replica.address);
    }
    (near.unwrap(), far.unwrap())
}

fn in_seconds(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_answers_by_every_replica() {
    let world = World::new().await;
    let replicas = world.replicas(3).await;
    let (asker, agent) = (world.asker(), world.agent());
    for replica in &replicas {
        let who = asker.until_reached(replica.address, &agent, 20).await;
        assert_eq!(who, format!("{} {} 1", agent.tenant, agent.id));
    }
    assert_eq!(agent.agent.misrouted(), 0);
    // One person each time here, so one delegation for each question; none is signed twice for one way.
    assert!(world.neighbours.delegated() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_agents_with_one_name_the_later_start_answers_and_never_again_the_earlier() {
    let world = World::new().await;
    let replicas = world.replicas(2).await;
    let (asker, first) = (world.asker(), world.agent());
    for replica in &replicas {
        asker.until_reached(replica.address, &first, 20).await;
    }
    let name = (first.tenant, first.id);
    let servers = [first.server.clone()];
    let second = Agent::new(name, 2, &servers, &first.identity, &world.door);
    tokio::spawn(second.clone().run());
    let wanted = format!("{} {} 2", first.tenant, first.id);
    soon("the later start", 20, async || {
        asker
            .who(replicas[0].address, &first)
            .await
            .is_ok_and(|who| who == wanted)
    })
    .await;
    for round in 0..60 {
        let replica = &replicas[round % 2];
        match asker.who(replica.address, &first).await {
            Ok(who) => assert_eq!(who, wanted, "round {round}"),
            // Its other connection may be on the way still.
            Err(status) => assert_eq!(reason(&status).0, Code::Unavailable, "{status:?}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
    let before = first.agent.calls();
    soon("the earlier start is sent away", 20, async || {
        first.agent.connected() == 0
    })
    .await;
    assert_eq!(first.agent.calls(), before);
    soon("it is told why", 20, async || first.agent.told_duplicate() > 0).await;
    assert_eq!(second.told_duplicate(), 0);
    second.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_listening_ends_the_agents_stream_here_and_by_the_hop() {
    let world = World::new().await;
    let replicas = world.replicas(3).await;
    let (asker, agent) = (world.asker(), world.agent());
    let (near, far) = near_and_far(&replicas, &agent).await;
    for address in [near, far] {
        asker.until_reached(address, &agent, 20).await;
        let peer = asker.peer(address);
        let answer = Asker::begin(peer, agent.tenant, &agent.server, CHANGES, in_seconds(30)).await;
        let mut answer = answer.unwrap();
        assert!(answer.message().await.unwrap().is_some());
        assert_eq!(agent.agent.streams(), 1);
        let dropped = Instant::now();
        drop(answer);
        soon("the stream is reset", 2, async || agent.agent.streams() == 0).await;
        assert!(
            dropped.elapsed() < Duration::from_secs(1),
            "{:?}",
            dropped.elapsed()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_waits_longer_than_its_deadline() {
    let world = World::new().await;
    let replicas = world.replicas(3).await;
    let (asker, agent) = (world.asker(), world.agent());
    let (near, far) = near_and_far(&replicas, &agent).await;
    for address in [near, far] {
        asker.until_reached(address, &agent, 20).await;
        let began = Instant::now();
        let late = asker.first(address, &agent, COUNT, 1).await.unwrap_err();
        assert_eq!(reason(&late).0, Code::DeadlineExceeded, "{late:?}");
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_not_there_is_refused_at_once_with_when_it_was() {
    let world = World::new().await;
    let replicas = world.replicas(2).await;
    let (asker, agent) = (world.asker(), world.agent());
    asker.until_reached(replicas[1].address, &agent, 20).await;
    agent.agent.kill();
    soon("it is gone", 10, async || {
        asker.who(replicas[0].address, &agent).await.is_err()
    })
    .await;
    for replica in &replicas {
        let began = Instant::now();
        let gone = asker.who(replica.address, &agent).await.unwrap_err();
        assert_eq!(
            reason(&gone),
            (Code::Unavailable, "AGENT_NOT_CONNECTED".to_owned())
        );
        assert!(gone.message().contains("last seen 20"), "{gone:?}");
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
    soon("nothing is held", 10, async || {
        replicas[0].metric("trailmesh_hub_connections").await
            + replicas[1].metric("trailmesh_hub_connections").await
            < 0.5
    })
    .await;
    let never = world.asker();
    let other = Followed {
        server: types::ServerId::fresh().to_string(),
        ..agent
    };
    let unknown = never.who(replicas[0].address, &other).await.unwrap_err();
    assert_eq!(reason(&unknown).1, "SERVER_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_agent_is_cut_off_within_five_seconds_and_a_sealed_vault_cuts_nobody() {
    let world = World::new().await;
    let replicas = world.replicas(2).await;
    let (asker, agent, other) = (world.asker(), world.agent(), world.agent());
    let address = replicas[0].address;
    asker.until_reached(address, &agent, 20).await;
    asker.until_reached(address, &other, 20).await;
    let peer = asker.peer(address);
    let stream = Asker::begin(peer, agent.tenant, &agent.server, CHANGES, in_seconds(60)).await;
    let mut stream = stream.unwrap();
    world.neighbours.seal(true);
    world.neighbours.revoke(agent.id);
    let sealed = Instant::now();
    while sealed.elapsed() < Duration::from_secs(3) {
        assert!(stream.message().await.unwrap().is_some());
    }
    assert_eq!(agent.agent.connected(), 2);
    world.neighbours.seal(false);
    let revoked = Instant::now();
    let broken = loop {
        match stream.message().await {
            Ok(_) => assert!(revoked.elapsed() < Duration::from_secs(5)),
            Err(status) => break status,
        }
    };
    assert_eq!(reason(&broken).1, "AGENT_CONNECTION_BROKEN");
    soon("it stays away", 5, async || {
        asker.who(address, &agent).await.is_err()
    })
    .await;
    assert!(
        revoked.elapsed() < Duration::from_secs(5),
        "{:?}",
        revoked.elapsed()
    );
    for _ in 0..20 {
        let refused = asker.who(address, &agent).await.unwrap_err();
        assert_eq!(reason(&refused).1, "AGENT_NOT_CONNECTED");
        asker.who(address, &other).await.unwrap();
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_ends_fails_no_question() {
    let world = World::new().await;
    let mut replicas = world.replicas(3).await;
    let (asker, agent) = (world.asker(), world.agent());
    for replica in &replicas {
        asker.until_reached(replica.address, &agent, 20).await;
    }
    soon("two connections", 20, async || agent.agent.connected() == 2).await;
    let ending = replicas.remove(0);
    let staying = [replicas[0].address, replicas[1].address];
    world.open(&replicas);
    let asking = {
        let (asker, server, tenant) = (asker.clone(), agent.server.clone(), agent.tenant);
        tokio::spawn(async move {
            let mut count = 0;
            loop {
                for address in staying {
                    let peer = asker.peer(address);
                    let answer = Asker::begin(peer, tenant, &server, STATUS, in_seconds(10)).await;
                    if let Err(status) = answer.unwrap().message().await {
                        panic!("question {count}: {status:?}");
                    }
                    count += 1;
                }
                tokio::task::yield_now().await;
            }
        })
    };
    let began = Instant::now();
    ending.stop().await;
    assert!(agent.agent.told_leaving() <= 1);
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    soon("two connections again", 20, async || agent.agent.connected() == 2).await;
    assert!(!asking.is_finished());
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_slowly_holds_up_nobody_else() {
    let world = World::new().await;
    let replicas = world.replicas(2).await;
    let (asker, agent) = (world.asker(), world.agent());
    asker.until_reached(replicas[0].address, &agent, 20).await;
    let mut unread = Vec::new();
    for _ in 0..40 {
        let peer = asker.peer(replicas[0].address);
        let stream = Asker::begin(peer, agent.tenant, &agent.server, CHANGES, in_seconds(60)).await;
        unread.push(stream.unwrap());
    }
    // Until their windows are full: 32 KiB a millisecond each.
    sleep(Duration::from_secs(2)).await;
    for replica in &replicas {
        let began = Instant::now();
        asker.who(replica.address, &agent).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
    drop(unread);
    soon("all are reset", 5, async || agent.agent.streams() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_own_connection_answers_meanwhile_counts_only_if_the_directory_knows_none_that_is_newer() {
    let world = World::new().await;
    let replicas = world.replicas(1).await;
    let (asker, agent) = (world.asker(), world.agent());
    asker.until_reached(replicas[0].address, &agent, 20).await;
    // Another replica, which nobody can reach, says that it has a later start of the agent; nobody has told this one.
    let wanted = format!("*:agent:{}:{}", agent.tenant, agent.id);
    let held = world.redis_says::<Vec<String>>(&["KEYS", &wanted]).await;
    let (prefix, _) = held[0].split_once(":agent:").unwrap();
    let newer = format!("1 {:020}:boot *", 9);
    let place = format!("127.0.0.1:{} 0", testkit::free_port());
    world
        .redis_says::<String>(&["SET", &format!("{prefix}:lease:other"), &place])
        .await;
    world
        .redis_says::<u32>(&["HSET", &held[0], "other", &newer])
        .await;
    for _ in 0..5 {
        let refused = asker.who(replicas[0].address, &agent).await.unwrap_err();
        assert_eq!(reason(&refused).0, Code::Unavailable, "{refused:?}");
    }
    // Nor is the connection here waited for, at whose end nobody may be.
    let refused = asker.first(replicas[0].address, &agent, COUNT, 15).await;
    let refused = refused.unwrap_err();
    assert_eq!(reason(&refused).0, Code::Unavailable, "{refused:?}");
    world.redis_says::<u32>(&["HDEL", &held[0], "other"]).await;
    asker.until_reached(replicas[0].address, &agent, 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_is_asked_while_the_directory_is_looked_into_and_a_look_that_tells_nothing_changes_nothing()
{
    let world = World::new().await;
    let replicas = world.replicas(1).await;
    let (asker, agent) = (world.asker(), world.agent());
    asker.until_reached(replicas[0].address, &agent, 20).await;
    world.redis.signal("-STOP");
    let (asked, before) = (asker.who(replicas[0].address, &agent), agent.agent.calls());
    let seen = async {
        soon("the agent is asked", 5, async || agent.agent.calls() > before).await;
        Instant::now()
    };
    let answered = async {
        let who = asked.await.unwrap();
        (who, Instant::now())
    };
    let (seen, (who, answered)) = tokio::join!(seen, answered);
    assert_eq!(who, format!("{} {} 1", agent.tenant, agent.id));
    assert!(seen < answered);
    assert_eq!(agent.agent.calls(), before + 1);
    world.redis.signal("-CONT");
}

/// `localhost` is the name that has two addresses everywhere: one for each replica.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_replicas_ask_each_other_and_when_it_is_back_it_is_told_everything() {
    let world = World::new().await;
    let port = testkit::free_port();
    let peer = format!("--peer=query=https://localhost:{port}");
    let mut replicas = Vec::new();
    for host in ["127.0.0.1", "[::1]"] {
        let listen = format!("--listen={host}:{port}");
        replicas.push(world.replica(&[listen, peer.clone()]).await);
    }
    world.door.set(&[replicas[0].address]);
    let (asker, agent) = (world.asker(), world.agent());
    for replica in &replicas {
        asker.until_reached(replica.address, &agent, 20).await;
    }
    world.redis.signal("-STOP");
    for replica in &replicas {
        let began = Instant::now();
        for _ in 0..5 {
            asker.who(replica.address, &agent).await.unwrap();
        }
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    }
    let late = world.agent();
    for replica in &replicas {
        asker.until_reached(replica.address, &late, 20).await;
    }
    world.redis.signal("-CONT");
    let held = format!("*:agent:{}:{}", late.tenant, late.id);
    soon("the directory knows who came meanwhile", 10, async || {
        world.redis_says::<Vec<String>>(&["KEYS", &held]).await.len() == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_at_whose_end_nobody_is_is_found() {
    let world = World::new().await;
    let replica = world.replica(&[]).await;
    let proxy = testkit::ChaosProxy::start(replica.address);
    world.door.set(&[proxy.address()]);
    let (asker, agent) = (world.asker(), world.agent());
    asker.until_reached(replica.address, &agent, 20).await;
    proxy.half_open();
    world.door.set(&[]);
    let began = Instant::now();
    soon("the dead connection is found", 40, async || {
        replica.metric("trailmesh_hub_connections").await < 0.5
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(32), "{:?}", began.elapsed());
    let gone = asker.who(replica.address, &agent).await.unwrap_err();
    assert_eq!(reason(&gone).1, "AGENT_NOT_CONNECTED");
    proxy.heal();
    world.door.set(&[proxy.address()]);
    asker.until_reached(replica.address, &agent, 30).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_lost_its_only_connection_a_moment_ago_is_waited_for() {
    let world = World::new().await;
    let replicas = world.replicas(2).await;
    let proxy = testkit::ChaosProxy::start(replicas[0].address);
    world.door.set(&[proxy.address()]);
    let (asker, agent) = (world.asker(), world.agent());
    for replica in &replicas {
        asker.until_reached(replica.address, &agent, 20).await;
    }
    for round in 0..10 {
        proxy.reset();
        let replica = &replicas[round % 2];
        let who = asker.who(replica.address, &agent).await;
        assert!(who.is_ok(), "round {round}: {who:?}");
    }
}
