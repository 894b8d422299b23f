use std::{net::SocketAddr, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use types::{AgentId, ServerId, TenantId};

use super::{Announced, Directory, Replica};
use crate::{
    Config,
    hub::{
        model::{Epoch, Key, Servers},
        shelf::{Shelf, Shelved},
    },
};

fn directory(url: &str, prefix: &str, port: u16, home: &str) -> Directory {
    #[derive(clap::Parser)]
    struct Own {
        #[command(flatten)]
        config: Config,
    }
    let words = [
        "query".to_owned(),
        "--database-url=postgres://nobody@127.0.0.1/none".to_owned(),
        format!("--redis-url={url}"),
        format!("--redis-prefix={prefix}"),
    ];
    let config = <Own as clap::Parser>::parse_from(words).config;
    let replica = Replica {
        id: format!("replica-{port}"),
        address: SocketAddr::from(([127, 0, 0, 1], port)),
    };
    Directory::new(&config, replica, home.to_owned()).unwrap()
}

/// Leases last 15 seconds there, and the whole test a few: none ends by itself, but replicas leave.
#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one random walk, step by step")]
async fn redis_does_what_the_model_does() {
    let (redis, prefix) = (testkit::Redis::shared(), testkit::Redis::prefix());
    let replicas: Vec<_> = (1..4)
        .map(|port| directory(&redis.url, &prefix, port, "eu/1"))
        .collect();
    let keys: Vec<_> = (0..3)
        .map(|_| Key {
            tenant: TenantId::fresh(),
            agent: AgentId::fresh(),
        })
        .collect();
    let servers = Servers::These(vec![ServerId::fresh(), ServerId::fresh()]);
    let (mut shelf, mut random) = (Shelf::default(), StdRng::seed_from_u64(11));
    let mut became = [0; 4];
    for id in 0..600 {
        let replica = &replicas[random.random_range(0..replicas.len())];
        let (name, key) = (
            replica.replica.id.as_str(),
            keys[random.random_range(0..keys.len())],
        );
        let boot = ["a", "b"][random.random_range(0..2)];
        let epoch = Epoch::new(random.random_range(8..12), boot).unwrap();
        match random.random_range(0..10) {
            0 => {
                let leaving = random.random_bool(0.5);
                let known = shelf.live(name, replica.replica.address, leaving, 0, 1);
                assert_eq!(replica.live(leaving).await.unwrap().known, known);
            }
            1 => {
                shelf.leave(name);
                replica.leave().await.unwrap();
            }
            2 => {
                let old = id - random.random_range(0..4u64).min(id);
                shelf.withdraw(name, key, old);
                replica.withdraw(key, old, Duration::ZERO).await.unwrap();
            }
            _ => {
                // Some are late.
                let id = id - random.random_range(0..30u64).min(id);
                let told = replica.announce(key, id, &epoch, &servers).await.unwrap();
                let wanted = match shelf.announce(name, key, id, &epoch, 0) {
                    Shelved::Taken(older) => Announced::Taken(older),
                    Shelved::Older => Announced::Older,
                    Shelved::Stale => Announced::Stale,
                    Shelved::NoLease => Announced::NoLease,
                };
                let place = match &wanted {
                    Announced::Taken(_) => 0,
                    Announced::Older => 1,
                    Announced::NoLease => 2,
                    Announced::Stale => 3,
                };
                became[place] += 1;
                let sorted = |told| match told {
                    Announced::Taken(mut older) => {
                        older.sort_unstable();
                        Announced::Taken(older)
                    }
                    other => other,
                };
                assert_eq!(sorted(told), sorted(wanted), "{id}");
            }
        }
        let found = replica.find(key.tenant, &[key.agent]).await.unwrap();
        let mut found: Vec<_> = found
            .into_iter()
            .map(|one| {
                assert_eq!((one.agent, &one.servers), (key.agent, &servers));
                (one.address, one.epoch, one.leaving)
            })
            .collect();
        let mut wanted = shelf.find(key, 0);
        found.sort();
        wanted.sort();
        assert_eq!(found, wanted, "{id}");
    }
    assert!(became.iter().all(|count| *count > 20), "{became:?}");
    let seen = replicas[0].seen(keys[0].tenant, &[keys[0].agent]).await.unwrap();
    assert!(
        seen.is_some_and(|seen| seen.agent == keys[0].agent && seen.time.elapsed().unwrap().as_secs() < 600)
    );
    assert_eq!(
        replicas[0]
            .seen(keys[0].tenant, &[AgentId::fresh()])
            .await
            .unwrap(),
        None
    );
}

#[tokio::test]
async fn a_late_announcement_takes_nothing_from_the_connection_that_came_after_it() {
    let (redis, prefix) = (testkit::Redis::shared(), testkit::Redis::prefix());
    let replica = directory(&redis.url, &prefix, 1, "eu/1");
    replica.live(false).await.unwrap();
    let (tenant, agent) = (TenantId::fresh(), AgentId::fresh());
    let key = Key { tenant, agent };
    let (epoch, servers) = (Epoch::new(1, "a").unwrap(), Servers::Many);
    let taken = Announced::Taken(Vec::new());
    assert_eq!(replica.announce(key, 10, &epoch, &servers).await.unwrap(), taken);
    let late = replica.announce(key, 9, &epoch, &servers).await.unwrap();
    assert_eq!(late, Announced::Stale);
    replica.withdraw(key, 9, Duration::ZERO).await.unwrap();
    assert_eq!(replica.find(tenant, &[agent]).await.unwrap().len(), 1);
    assert_eq!(replica.announce(key, 10, &epoch, &servers).await.unwrap(), taken);
    replica.withdraw(key, 10, Duration::ZERO).await.unwrap();
    assert_eq!(replica.find(tenant, &[agent]).await.unwrap().len(), 0);
}

/// One more than are asked for at a time, and again as many that nobody ever saw.
#[tokio::test]
async fn every_agent_of_a_large_pool_is_found() {
    let (redis, prefix) = (testkit::Redis::shared(), testkit::Redis::prefix());
    let replica = directory(&redis.url, &prefix, 1, "eu/1");
    replica.live(false).await.unwrap();
    let (tenant, epoch) = (TenantId::fresh(), Epoch::new(1, "a").unwrap());
    let agents: Vec<_> = (0..2 * super::AGENTS + 2).map(|_| AgentId::fresh()).collect();
    let (there, never) = agents.split_at(super::AGENTS + 1);
    for agent in there {
        let key = Key {
            tenant,
            agent: *agent,
        };
        replica.announce(key, 1, &epoch, &Servers::Many).await.unwrap();
    }
    let found = replica.find(tenant, &agents).await.unwrap();
    let found: Vec<_> = found.iter().map(|one| one.agent).collect();
    assert_eq!(found, there);
    let seen = replica.seen(tenant, &agents).await.unwrap().unwrap();
    assert!(there.contains(&seen.agent));
    assert_eq!(replica.seen(tenant, never).await.unwrap(), None);
    let key = Key {
        tenant,
        agent: there[super::AGENTS],
    };
    assert!(!replica.expects(tenant, &agents).await.unwrap());
    replica.withdraw(key, 1, Duration::from_secs(60)).await.unwrap();
    assert!(replica.expects(tenant, &agents).await.unwrap());
    assert!(!replica.expects(tenant, never).await.unwrap());
}

#[tokio::test]
async fn a_replica_that_leaves_is_not_counted() {
    let (redis, prefix) = (testkit::Redis::shared(), testkit::Redis::prefix());
    let (one, other) = (
        directory(&redis.url, &prefix, 1, "eu/1"),
        directory(&redis.url, &prefix, 2, "eu/1"),
    );
    assert_eq!(one.live(false).await.unwrap().replicas, 1);
    assert_eq!(other.live(false).await.unwrap().replicas, 2);
    assert_eq!(other.live(true).await.unwrap().replicas, 1);
    assert_eq!(one.live(false).await.unwrap().replicas, 1);
}

#[tokio::test]
async fn the_redis_of_another_cell_is_refused_and_one_that_is_away_is_not() {
    let (redis, prefix) = (testkit::Redis::shared(), testkit::Redis::prefix());
    directory(&redis.url, &prefix, 1, "eu/1").settle().await.unwrap();
    for other in ["us/1", "eu/2"] {
        let refused = directory(&redis.url, &prefix, 1, other)
            .settle()
            .await
            .unwrap_err();
        assert!(refused.to_string().contains("eu/1"), "{refused}");
    }
    let away = directory("redis://127.0.0.1:1", &prefix, 1, "us/1");
    away.settle().await.unwrap();
    assert!(away.live(false).await.is_err());
    let began = std::time::Instant::now();
    assert!(away.find(TenantId::fresh(), &[AgentId::fresh()]).await.is_err());
    assert!(began.elapsed().as_millis() < 500);
}
