//! Keys that change while they are in use.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use proto::vault::v1 as pb;
use tonic::Code;
use types::TenantId;

use crate::{
    child::Running,
    world::{Person, Vault, World, eventually},
};

/// Seals and keeps so many secrets of a tenant.
async fn fill(world: &World, vault: &Vault, owner: &Person, count: u64) -> Vec<pb::SecretPlace> {
    let mut rows = Vec::new();
    for number in 0..count {
        let place = owner.sink(number);
        let sealed = vault.seal(&place, &format!("value {number}")).await;
        rows.push((place, sealed));
    }
    world.keep_all(&rows);
    rows.into_iter().map(|(place, _)| place).collect()
}

/// Every kept secret of these places opens.
async fn all_open(world: &World, vault: &Vault, places: &[pb::SecretPlace]) {
    for (place, envelope) in world.kept_of(places.to_vec()) {
        let opened = vault.open(&place, &envelope).await;
        let number: u64 = place.record_id[4..].parse().unwrap();
        assert_eq!(opened, Ok(format!("value {number}")), "{}", place.tenant_id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_sealed_anew_and_the_old_version_goes() {
    let world = World::new();
    let vault = world.vault(&["--settle=200ms"]).await;
    let owner = world.tenant().await;
    let places = fill(&world, &vault, &owner, 30).await;
    let old = world.kept(&places[0]);
    assert_eq!(world.under(owner.tenant()), "1|30");

    let made = vault.ask_as(&owner, pb::RotateKeyRequest {}).await.unwrap();
    let made = made.version.unwrap();
    assert_eq!((made.version, made.state()), (2, pb::KeyState::Active));
    eventually("the old version to be destroyed", async || {
        (world.states(owner.tenant()) == "1|destroyed\n2|active").then_some(())
    })
    .await;
    assert_eq!(world.under(owner.tenant()), "2|30");
    all_open(&world, &vault, &places).await;
    let no = eventually("it to be forgotten", async || {
        vault.open(&places[0], &old).await.err()
    })
    .await;
    assert_eq!(no.reason, "SECRET_UNREADABLE");

    let seen = vault.ask_as(&owner, pb::GetEncryptionRequest {}).await.unwrap();
    let told: Vec<_> = seen
        .versions
        .iter()
        .map(|version| (version.version, version.state(), version.secrets))
        .collect();
    assert_eq!(
        told,
        [(2, pb::KeyState::Active, 30), (1, pb::KeyState::Destroyed, 0)]
    );
    assert!(seen.versions[1].end_time.is_some() && seen.next_rotation_time.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_due_change_by_themselves() {
    let world = World::new();
    let vault = world.vault(&["--settle=100ms"]).await;
    let owner = world.tenant().await;
    let places = fill(&world, &vault, &owner, 5).await;
    world.db.sql(
        "UPDATE vault.data_key SET create_time = now() - interval '31 days';
         UPDATE vault.kek SET create_time = now() - interval '91 days'",
    );
    eventually("both keys to be replaced", async || {
        let keks = world
            .db
            .sql("SELECT version, state, wrapped IS NULL FROM vault.kek ORDER BY version");
        let done =
            keks == "1|destroyed|t\n2|active|f" && world.states(owner.tenant()) == "1|destroyed\n2|active";
        done.then_some(())
    })
    .await;
    assert_eq!(
        world.db.sql("SELECT DISTINCT kek_version FROM vault.own_secret"),
        "2"
    );
    let status = world.operator().await.status().await.unwrap();
    let keks: Vec<_> = status.keks.iter().map(|kek| (kek.0, kek.1.as_str())).collect();
    assert_eq!(keks, [(2, "active"), (1, "destroyed")]);
    let told = status.to_string();
    assert!(told.contains("destroyed  1") && told.contains("local:"), "{told}");
    all_open(&world, &vault, &places).await;
    // Who starts now has only the new ones.
    all_open(&world, &world.vault(&[]).await, &places).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_does_not_open_keeps_its_version_from_going() {
    let world = World::new();
    let vault = world.vault(&["--settle=50ms"]).await;
    let owner = world.tenant().await;
    let places = fill(&world, &vault, &owner, 3).await;
    let schema = crate::world::schema(&places[0].tenant_id);
    // As a row that was restored into another place.
    world.db.sql(&format!(
        "UPDATE {schema}.audit_sink SET id = 'asn_elsewhere' WHERE id = '{}'",
        places[0].record_id
    ));
    vault.ask_as(&owner, pb::RotateKeyRequest {}).await.unwrap();
    eventually("the others to be sealed anew", async || {
        (world.under(owner.tenant()) == "1|1\n2|2").then_some(())
    })
    .await;
    let before = vault.metrics().await;
    eventually("some more rounds", async || {
        let rounds = vault.metrics().await;
        (rounds.contains("vault_rewrap_unreadable") && rounds != before).then_some(())
    })
    .await;
    assert_eq!(world.states(owner.tenant()), "1|draining\n2|active");
    // Put back, it goes its way.
    world.db.sql(&format!(
        "UPDATE {schema}.audit_sink SET id = '{}' WHERE id = 'asn_elsewhere'",
        places[0].record_id
    ));
    eventually("the version to go", async || {
        (world.states(owner.tenant()) == "1|destroyed\n2|active").then_some(())
    })
    .await;
    all_open(&world, &vault, &places).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_arrives_late_is_not_lost() {
    let world = World::new();
    // The time in which this test, on a machine however busy, sees that the version is retired and stores the value.
    let vault = world.vault(&["--settle=4s"]).await;
    let owner = world.tenant().await;
    let late = owner.sink(99);
    let sealed = vault.seal(&late, "value 99").await;
    vault.ask_as(&owner, pb::RotateKeyRequest {}).await.unwrap();
    eventually("the empty version to be retired", async || {
        world
            .states(owner.tenant())
            .starts_with("1|retired")
            .then_some(())
    })
    .await;
    world.keep(&late, &sealed);
    eventually("it to be sealed anew", async || {
        (world.under(owner.tenant()) == "2|1").then_some(())
    })
    .await;
    eventually("the version to go", async || {
        world
            .states(owner.tenant())
            .starts_with("1|destroyed")
            .then_some(())
    })
    .await;
    all_open(&world, &vault, &[late]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_version_is_refused_everywhere_and_what_was_under_it_is_listed() {
    let world = World::new();
    let (vault, other) = (
        world.vault(&["--settle=300ms"]).await,
        world.vault(&["--rotation-pause=1h"]).await,
    );
    let owner = world.tenant().await;
    let places = fill(&world, &vault, &owner, 20).await;
    let old = world.kept(&places[0]);
    for vault in [&vault, &other] {
        assert_eq!(vault.open(&places[0], &old).await.unwrap(), "value 0");
    }
    let revoke = |version| pb::RevokeKeyVersionRequest { version };
    let no = vault.ask_as(&owner, revoke(7)).await.unwrap_err();
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::NotFound, "KEY_VERSION_NOT_FOUND")
    );

    // The active one: the next is made first.
    let answer = vault.ask_as(&owner, revoke(1)).await.unwrap();
    let revoked = Instant::now();
    assert_eq!(answer.version.unwrap().state(), pb::KeyState::Revoked);
    let listed: BTreeSet<_> = answer
        .exposed
        .iter()
        .map(|secret| (secret.record_id.clone(), secret.kind.clone()))
        .collect();
    let expected: BTreeSet<_> = places
        .iter()
        .map(|place| (place.record_id.clone(), "sink_secret".to_owned()))
        .collect();
    assert_eq!(listed, expected);
    loop {
        let began = Instant::now();
        match other.open(&places[0], &old).await {
            Ok(_) => assert!(began < revoked + Duration::from_secs(1), "opened a second later"),
            Err(no) => {
                assert_eq!(
                    (no.code, no.reason.as_str()),
                    (Code::FailedPrecondition, "KEY_VERSION_REVOKED")
                );
                break;
            }
        }
    }
    assert_eq!(
        vault.open(&places[0], &old).await.unwrap_err().reason,
        "KEY_VERSION_REVOKED"
    );
    all_open(&world, &vault, &places).await;
    all_open(&world, &other, &places).await;
    // Asked again, the same; and in the end its bytes are gone.
    let again = vault.ask_as(&owner, revoke(1)).await.unwrap();
    assert_eq!(again.exposed.len(), 20);
    eventually("the bytes to be gone", async || {
        let gone = world.db.sql(&format!(
            "SELECT state, wrapped IS NULL FROM vault.data_key WHERE tenant_id = '{}' AND version = 1",
            owner.tenant()
        ));
        (gone == "revoked|t").then_some(())
    })
    .await;
    // One that was rotated away before: what was under it is known all the same.
    vault.ask_as(&owner, pb::RotateKeyRequest {}).await.unwrap();
    eventually("the second version to go", async || {
        world.states(owner.tenant()).contains("2|destroyed").then_some(())
    })
    .await;
    let answer = vault.ask_as(&owner, revoke(2)).await.unwrap();
    assert_eq!(answer.version.unwrap().state(), pb::KeyState::Revoked);
    assert_eq!(answer.exposed.len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_of_a_second_factor_is_good_for_one_rotation_and_the_role_is_that_of_now() {
    let world = World::new();
    let vault = world.vault(&[]).await;
    let owner = world.tenant().await;
    vault.seal(&owner.sink(1), "x").await;
    let request = vault.request(&owner, pb::RotateKeyRequest {});
    let copy = |of: &tonic::Request<pb::RotateKeyRequest>| {
        let mut copy = tonic::Request::new(*of.get_ref());
        *copy.metadata_mut() = of.metadata().clone();
        copy
    };
    assert_eq!(
        vault
            .send_as(copy(&request))
            .await
            .unwrap()
            .version
            .unwrap()
            .version,
        2
    );
    let no = vault.send_as(copy(&request)).await.unwrap_err();
    assert_eq!((no.code, no.reason.as_str()), (Code::Aborted, "GRANT_USED"));

    let (tenant, user) = (owner.tenant(), owner.context.subject.user());
    for (change, reason) in [
        (
            format!(
                "UPDATE tenant.member SET role = 'admin' WHERE tenant_id = '{tenant}' AND user_id = '{user}'"
            ),
            "ROLE_TOO_LOW",
        ),
        (
            format!("DELETE FROM tenant.member WHERE tenant_id = '{tenant}' AND user_id = '{user}'"),
            "NOT_A_MEMBER",
        ),
    ] {
        world.db.sql(&change);
        let no = vault.ask_as(&owner, pb::RotateKeyRequest {}).await.unwrap_err();
        assert_eq!((no.code, no.reason.as_str()), (Code::PermissionDenied, reason));
        let no = vault
            .ask_as(&owner, pb::RevokeKeyVersionRequest { version: 1 })
            .await
            .unwrap_err();
        assert_eq!(no.reason, reason);
    }
    assert!(world.states(tenant).lines().count() == 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_tenant_has_more_than_so_many_versions_at_once() {
    let world = World::new();
    let vault = world.vault(&["--settle=1h"]).await;
    let owner = world.tenant().await;
    let mut made = 0;
    let no = loop {
        match vault.ask_as(&owner, pb::RotateKeyRequest {}).await {
            Ok(_) => made += 1,
            Err(no) => break no,
        }
    };
    assert_eq!(
        (made, no.code, no.reason.as_str()),
        (32, Code::ResourceExhausted, "KEY_VERSION_LIMIT")
    );
    // But one that is known to others is given up, however many there are.
    let revoke = pb::RevokeKeyVersionRequest { version: 32 };
    let gone = vault.ask_as(&owner, revoke).await.unwrap().version.unwrap();
    assert_eq!((gone.version, gone.state()), (32, pb::KeyState::Revoked));
    assert!(world.states(owner.tenant()).ends_with("32|revoked\n33|active"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_does_not_open_keeps_its_kek_and_stops_no_other() {
    let world = World::new();
    let vault = world.vault(&["--rotation-pause=50ms"]).await;
    let (broken, sound) = (world.tenant().await, world.tenant().await);
    let places = fill(&world, &vault, &sound, 3).await;
    vault.seal(&broken.sink(1), "lost").await;
    world.db.sql(&format!(
        "UPDATE vault.data_key SET wrapped = 'damaged' WHERE tenant_id = '{}';
         INSERT INTO vault.own_secret (purpose, id, kek_version, sealed) VALUES ('old', 'x', 1, 'damaged')",
        broken.tenant()
    ));
    // By the operator, and by itself.
    assert_eq!(world.operator().await.rotate_kek().await.unwrap(), 2);
    age(&world);
    let keks = || {
        world
            .db
            .sql("SELECT version, state FROM vault.kek ORDER BY version")
    };
    eventually("the KEK in between to go", async || {
        (keks() == "1|draining\n2|destroyed\n3|active").then_some(())
    })
    .await;
    assert_eq!(
        world.db.sql(
            "SELECT kek_version FROM vault.data_key UNION ALL SELECT kek_version FROM vault.own_secret ORDER BY 1"
        )
        .lines()
        .filter(|version| *version == "1")
        .count(),
        2
    );
    eventually("it to be counted", async || {
        vault
            .metrics()
            .await
            .contains("vault_keys_unreadable")
            .then_some(())
    })
    .await;
    all_open(&world, &vault, &places).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_of_the_databases_clock_ends_no_version() {
    let world = World::new();
    let vault = world.vault(&["--settle=1h", "--rotation-pause=20ms"]).await;
    let owner = world.tenant().await;
    let late = owner.sink(1);
    let sealed = vault.seal(&late, "value 1").await;
    vault.ask_as(&owner, pb::RotateKeyRequest {}).await.unwrap();
    for _ in 0..3 {
        // What is counted next is noted together with what becomes of the version.
        world.db.sql(
            "UPDATE vault.data_key SET supersede_time = now() - interval '2 hours', remaining = 7 WHERE version = 1",
        );
        eventually("it to be looked at", async || {
            let remaining = world
                .db
                .sql("SELECT remaining FROM vault.data_key WHERE version = 1");
            (remaining == "0").then_some(())
        })
        .await;
    }
    assert_eq!(world.states(owner.tenant()), "1|draining\n2|active");
    world.keep(&late, &sealed);
    eventually("it to be sealed anew", async || {
        (world.under(owner.tenant()) == "2|1").then_some(())
    })
    .await;
    all_open(&world, &vault, &[late]).await;
}

/// Reads and opens kept secrets all the time; the first failure ends it.
struct Readers {
    stop: Arc<AtomicBool>,
    opened: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Readers {
    fn start(world: &Arc<World>, vault: &Arc<Vault>, places: &[pb::SecretPlace]) -> Self {
        let (stop, opened) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let tasks = (0..2_usize).map(|reader| {
            let (world, vault, places) = (world.clone(), vault.clone(), places.to_vec());
            let (stop, opened) = (stop.clone(), opened.clone());
            tokio::spawn(async move {
                let mut at = reader * places.len() / 2;
                while !stop.load(Ordering::Relaxed) {
                    at = (at + 17) % places.len();
                    let some: Vec<_> = places.iter().cycle().skip(at).take(20).cloned().collect();
                    let world = world.clone();
                    let some = tokio::task::spawn_blocking(move || world.kept_of(some))
                        .await
                        .unwrap();
                    for (place, envelope) in some {
                        let value = vault.open(&place, &envelope).await;
                        assert!(value.is_ok(), "{value:?}: {envelope}");
                        opened.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        });
        Self {
            tasks: tasks.collect(),
            stop,
            opened,
        }
    }

    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.opened.load(Ordering::Relaxed)
    }
}

/// Makes every key look old enough to be replaced.
fn age(world: &World) {
    world.db.sql(
        "UPDATE vault.data_key SET create_time = now() - interval '31 days' WHERE state = 'active';
         UPDATE vault.kek SET create_time = now() - interval '91 days' WHERE state = 'active'",
    );
}

/// A vault that rotates, in a process of its own, until nothing is left to do.
async fn finish(world: &World, tenants: &[TenantId]) {
    let mut child = Running::start(world, &["--settle=2s", "--rotation-pause=20ms"]);
    let deadline = Instant::now() + Duration::from_secs(180);
    for tenant in tenants {
        loop {
            let states = world.states(*tenant);
            let (before, last) = states.rsplit_once('\n').unwrap_or(("", &states));
            let gone = before.lines().all(|line| line.ends_with("|destroyed"));
            if gone && last.ends_with("|active") {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "{states}\n{}\n{}",
                world.under(*tenant),
                child.log(world)
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    eventually("the KEKs to go", async || {
        let keks = world
            .db
            .sql("SELECT count(*) FROM vault.kek WHERE state <> 'destroyed'");
        (keks == "1").then_some(())
    })
    .await;
    child.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_is_killed_at_any_step_is_finished_by_the_next_and_everything_opens_meanwhile() {
    let world = Arc::new(World::new());
    let vault = Arc::new(world.vault(&["--rotation-pause=1h"]).await);
    let owner = world.tenant().await;
    let tenant = owner.tenant();
    let places = fill(&world, &vault, &owner, 40).await;
    let schema = crate::world::schema(&tenant.to_string());
    // Each step of the rotation by what it writes; the process is killed while it writes it, and nothing of that step is committed.
    let steps = [
        ("vault.kek", "INSERT"),
        ("vault.kek", "UPDATE"),
        ("vault.data_key", "UPDATE"),
        ("vault.own_secret", "UPDATE"),
        ("vault.data_key", "INSERT"),
        ("vault.purge", "UPDATE"),
        ("vault.epoch", "UPDATE"),
        ("vault.was_under", "INSERT"),
        (&format!("{schema}.audit_sink"), "UPDATE"),
    ];
    world.db.sql(&format!(
        "CREATE FUNCTION public.stall() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(600); RETURN NEW; END $$;
         GRANT USAGE ON SCHEMA public TO {schema}, trailmesh_vault"
    ));
    let readers = Readers::start(&world, &vault, &places);
    let asleep = "FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
    for (table, event) in steps {
        age(&world);
        world.db.sql(&format!(
            "CREATE TRIGGER stall BEFORE {event} ON {table} FOR EACH ROW EXECUTE FUNCTION public.stall()"
        ));
        let mut child = Running::start(&world, &["--settle=2s", "--rotation-pause=20ms"]);
        eventually(&format!("the step {event} {table}"), async || {
            (world.db.sql(&format!("SELECT count(*) > 0 {asleep}")) == "t").then_some(())
        })
        .await;
        child.kill();
        world
            .db
            .sql(&format!("SELECT pg_terminate_backend(pid, 10000) {asleep}"));
        world.db.sql(&format!("DROP TRIGGER stall ON {table}"));
        all_open(&world, &vault, &places[..3]).await;
    }
    finish(&world, &[tenant]).await;
    all_open(&world, &vault, &places).await;
    let opened = readers.end().await;
    assert!(opened > 0);
    assert_eq!(world.under(tenant).lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_is_killed_again_and_again_loses_nothing() {
    let world = Arc::new(World::new());
    let vault = Arc::new(world.vault(&["--rotation-pause=1h"]).await);
    let owners = [world.tenant().await, world.tenant().await];
    let mut places = Vec::new();
    for owner in &owners {
        places.extend(fill(&world, &vault, owner, 300).await);
    }
    let readers = Readers::start(&world, &vault, &places);
    for round in 0..12_u64 {
        age(&world);
        let mut child = Running::start(&world, &["--settle=2s", "--rotation-pause=10ms"]);
        // From before its first step to after its last.
        tokio::time::sleep(Duration::from_millis(round * 37 % 400)).await;
        child.kill();
    }
    let tenants: Vec<_> = owners.iter().map(Person::tenant).collect();
    finish(&world, &tenants).await;
    assert!(readers.end().await > 0);
    all_open(&world, &vault, &places).await;
}
