//! How often a password may be tried.

use std::time::{Duration, Instant};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use deadpool_redis::redis;
use proto::auth::v1 as pb;
use testkit::Redis;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::world::{Person, Setup, World, distinct, eventually, fresh_email, reason, request_with};

/// A login with a wrong password from an address.
async fn guess(world: &World, email: &str, from: &str) -> Status {
    let message = pb::LogInRequest {
        email: email.to_owned(),
        password: "a wrong password".to_owned(),
        ..pb::LogInRequest::default()
    };
    let message = request_with(message, &[("trailmesh-client-address", from)]);
    world.auth.sessions().log_in(message).await.unwrap_err()
}

/// Makes the delays that begin after the free guesses long, so that no test has to be faster than the first of them, a second: those of
/// strangers, or of who shows this device token or has the session with this id.
pub(crate) fn lengthen_delays(world: &World, email: &str, shown: Option<&str>) {
    let name = |text: &str| {
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        BASE64_URL_SAFE_NO_PAD.encode(&digest.as_ref()[..16])
    };
    let known = shown.map(|text| format!(":{}", name(text))).unwrap_or_default();
    let key = format!("{}:delays:{}{known}", world.prefix, name(email));
    let mut redis = redis::Client::open(world.setup.redis.as_str())
        .unwrap()
        .get_connection()
        .unwrap();
    redis::cmd("SET").arg(key).arg(9).exec(&mut redis).unwrap();
}

/// How many guesses are admitted before one is told to wait, at most `most`.
async fn guesses(world: &World, email: &str, most: u32) -> u32 {
    for number in 0..most {
        let status = guess(world, email, &format!("198.51.100.{number}")).await;
        if status.code() == Code::ResourceExhausted {
            assert_eq!(reason(&status), "TOO_MANY_ATTEMPTS");
            let retry = status
                .get_error_details()
                .retry_info()
                .and_then(|info| info.retry_delay);
            assert!(retry.is_some_and(|delay| !delay.is_zero()));
            return number;
        }
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unauthenticated, "CREDENTIALS_WRONG")
        );
    }
    most
}

/// How many guesses are admitted where memory counts alone, and how long it took to see. The first delay is a second there, which nobody can
/// lengthen: a machine that needed that long from the third guess to the answer to the fourth has shown nothing, and tries another address.
async fn guesses_alone(world: &World, fresh: impl AsyncFn() -> String) -> (u32, Duration) {
    for _ in 0..10 {
        let email = fresh().await;
        let start = Instant::now();
        let first = guesses(world, &email, 2).await;
        let third = Instant::now();
        let more = if first == 2 {
            guesses(world, &email, 2).await
        } else {
            0
        };
        if more < 2 || third.elapsed() < Duration::from_secs(1) {
            return (first + more, start.elapsed());
        }
    }
    panic!("ten times this machine needed a second for two guesses");
}

async fn log_in(
    world: &World,
    person: &Person,
    device_token: &str,
    from: &str,
) -> Result<pb::LogInResponse, Status> {
    let message = pb::LogInRequest {
        device_token: device_token.to_owned(),
        ..person.log_in()
    };
    let message = request_with(message, &[("trailmesh-client-address", from)]);
    Ok(world.auth.sessions().log_in(message).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_gets_ten_guesses_from_anywhere_whether_or_not_it_exists() {
    let world = World::new().await;
    let (person, nobody) = (world.person().await, fresh_email());
    for email in [&person.email, &nobody] {
        lengthen_delays(&world, email, None);
        assert_eq!(guesses(&world, email, 20).await, 10);
    }
    // From now on the right password is no help either, and all replicas count together.
    let status = log_in(&world, &person, "", "203.0.113.1").await.unwrap_err();
    assert_eq!(reason(&status), "TOO_MANY_ATTEMPTS");
    let other = world.replica().await;
    assert_eq!(
        reason(&other.log_in(&person).await.unwrap_err()),
        "TOO_MANY_ATTEMPTS"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_signs_in_from_a_known_device_during_an_attack() {
    let world = World::new().await;
    let person = world.person().await;
    let device = log_in(&world, &person, "", "192.0.2.1")
        .await
        .unwrap()
        .device_token;
    lengthen_delays(&world, &person.email, None);
    assert_eq!(guesses(&world, &person.email, 20).await, 10);
    for _ in 0..20 {
        let answer = log_in(&world, &person, &device, "192.0.2.1").await.unwrap();
        assert_eq!(answer.device_token, device);
    }
    // The token serves its own account only, and a made-up one serves nobody.
    let other = world.person().await;
    lengthen_delays(&world, &other.email, None);
    assert_eq!(guesses(&world, &other.email, 20).await, 10);
    for token in [
        device.as_str(),
        "bt_dt_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "' OR 1=1; --",
    ] {
        let status = log_in(&world, &other, token, "192.0.2.1").await.unwrap_err();
        assert_eq!(reason(&status), "TOO_MANY_ATTEMPTS");
    }
    // Who holds a stolen device token guesses no more often than a stranger.
    lengthen_delays(&world, &person.email, Some(&device));
    for number in 0..11 {
        let message = pb::LogInRequest {
            device_token: device.clone(),
            password: "a wrong password".to_owned(),
            ..person.log_in()
        };
        let status = world
            .auth
            .sessions()
            .log_in(crate::world::request(message))
            .await
            .unwrap_err();
        assert_eq!(
            reason(&status),
            if number < 10 {
                "CREDENTIALS_WRONG"
            } else {
                "TOO_MANY_ATTEMPTS"
            }
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_tries_a_hundred_accounts_an_hour() {
    let world = World::new().await;
    for _ in 0..100 {
        assert_eq!(
            reason(&guess(&world, &fresh_email(), "2001:db8:1:1::1").await),
            "CREDENTIALS_WRONG"
        );
    }
    assert_eq!(
        reason(&guess(&world, &fresh_email(), "2001:db8:1:1:ffff::2").await),
        "TOO_MANY_ATTEMPTS"
    );
    assert_eq!(
        reason(&guess(&world, &fresh_email(), "2001:db8:1:2::1").await),
        "CREDENTIALS_WRONG"
    );
    // Those who sign in are no guessers: an office behind one address may be large.
    let world = World::new().await;
    let person = world.person().await;
    for _ in 0..15 {
        log_in(&world, &person, "", "198.51.100.9").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_guesses_are_counted_before_they_are_checked() {
    let world = World::with(Setup {
        flags: vec!["--argon2-workers=32".to_owned()],
        ..Setup::default()
    })
    .await;
    let email = fresh_email();
    lengthen_delays(&world, &email, None);
    let guesses = (0..60).map(|_| guess(&world, &email, "192.0.2.9"));
    let answers = futures_util::future::join_all(guesses).await;
    let admitted = answers
        .iter()
        .filter(|status| reason(status) == "CREDENTIALS_WRONG")
        .count();
    assert_eq!(admitted, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_each_replica_counts_for_itself_and_more_strictly() {
    let world = World::with(Setup {
        // Nobody listens there.
        redis: format!("redis://127.0.0.1:{}", testkit::free_port()),
        flags: vec!["--redis-timeout=50ms".to_owned()],
        ..Setup::default()
    })
    .await;
    let person = world.person().await;
    assert!(log_in(&world, &person, "", "192.0.2.1").await.is_ok());
    let known = guesses_alone(&world, async || world.person().await.email).await;
    let unknown = guesses_alone(&world, async || fresh_email()).await;
    assert_eq!((known.0, unknown.0), (3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_hangs_delays_nobody_for_long_and_lets_nobody_in() {
    let folder = tempfile::TempDir::new().unwrap();
    let redis = Redis::private(folder.path());
    let world = World::with(Setup {
        redis: redis.url.clone(),
        flags: vec!["--redis-timeout=100ms".to_owned()],
        ..Setup::default()
    })
    .await;
    let person = world.person().await;
    log_in(&world, &person, "", "192.0.2.1").await.unwrap();
    redis.signal("-STOP");
    let (admitted, took) = guesses_alone(&world, async || world.person().await.email).await;
    assert!(admitted <= 3, "{admitted}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    redis.signal("-CONT");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_spoken_to_over_tls_and_found_again_after_it_died() {
    let folder = tempfile::TempDir::new().unwrap();
    let mut redis = Redis::private(folder.path());
    let world = World::with(Setup {
        redis: redis.tls_url.clone(),
        flags: vec![format!("--redis-ca-file={}", redis.ca.display())],
        ..Setup::default()
    })
    .await;
    let one = fresh_email();
    for _ in 0..5 {
        assert_eq!(
            reason(&guess(&world, &one, "192.0.2.1").await),
            "CREDENTIALS_WRONG"
        );
    }
    redis.signal("-KILL");
    let (admitted, _) = guesses_alone(&world, async || fresh_email()).await;
    assert!(admitted <= 3, "{admitted}");
    redis.start_again();
    // It has forgotten everything, and counts again.
    let other = fresh_email();
    eventually("ten guesses", || {
        let counted = tokio::runtime::Handle::current().block_on(guesses(&world, &fresh_email(), 9));
        (counted == 9).then_some(())
    });
    assert_eq!(guesses(&world, &other, 10).await, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_addresses_wrong_passwords_and_unverified_accounts_get_one_answer() {
    let world = World::new().await;
    let known = world.person().await;
    let unverified = Person {
        email: fresh_email(),
        password: crate::world::PASSWORD.to_owned(),
    };
    world.auth.sign_up(&unverified).await.unwrap();
    world.mail(&unverified.email, "Verify your address", 1);
    let mut answers = Vec::new();
    for (email, password) in [
        (known.email.clone(), "a wrong password".to_owned()),
        (known.email.clone(), String::new()),
        (known.email.clone(), "x".repeat(100_000)),
        (known.email.clone(), "' OR '1'='1".to_owned()),
        (fresh_email(), known.password.clone()),
        (unverified.email.clone(), unverified.password.clone()),
    ] {
        let status = world.auth.log_in(&Person { email, password }).await.unwrap_err();
        answers.push((
            status.code(),
            status.message().to_owned(),
            reason(&status),
            status.details().len(),
        ));
    }
    assert_eq!(distinct(&answers), 1, "{answers:?}");
    assert_eq!(
        (answers[0].0, answers[0].2.as_str()),
        (Code::Unauthenticated, "CREDENTIALS_WRONG")
    );
}

/// Coarse, because machines are busy; but a login that skipped the hash would take a tenth of the time.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_address_takes_as_long_as_a_wrong_password() {
    let world = World::with(Setup {
        flags: vec![
            "--argon2-memory-kib=19456".to_owned(),
            "--argon2-passes=2".to_owned(),
        ],
        ..Setup::default()
    })
    .await;
    let known = [world.person().await, world.person().await];
    let (mut of_known, mut of_unknown) = (Vec::new(), Vec::new());
    for number in 0..18 {
        for (email, times) in [
            (known[number % 2].email.clone(), &mut of_known),
            (fresh_email(), &mut of_unknown),
        ] {
            let start = Instant::now();
            let status = guess(&world, &email, "192.0.2.77").await;
            times.push(start.elapsed());
            assert_eq!(reason(&status), "CREDENTIALS_WRONG");
        }
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        times[times.len() / 2].as_secs_f64()
    };
    let ratio = median(&mut of_unknown) / median(&mut of_known);
    assert!(
        (0.5..2.0).contains(&ratio),
        "{ratio}: {of_known:?} {of_unknown:?}"
    );
}
