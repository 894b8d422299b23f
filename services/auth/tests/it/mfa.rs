//! The second factor: one code, one use, in the whole system.

use std::time::{Duration, Instant};

use proto::auth::v1 as pb;
use tonic::{Code, Status};

use crate::{
    actor::{Actor, claims, code, code_at, refusal, with_grant, wrong_code},
    throttle::lengthen_delays,
    world::{Person, Replica, World, as_caller, eventually, request, request_with},
};

/// What became of a code: the grant, or why there is none.
type Used = Result<String, Status>;

const WRONG: (Code, &str) = (Code::Unauthenticated, "MFA_CODE_INVALID");
const MISSING: (Code, &str) = (Code::Unauthenticated, "MFA_CODE_REQUIRED");

fn said((code, reason): &(Code, String)) -> (Code, &str) {
    (*code, reason)
}

async fn log_in(
    world: &World,
    person: &Person,
    code: &str,
    recovery: &str,
) -> Result<pb::LogInResponse, tonic::Status> {
    let message = pb::LogInRequest {
        recovery_code: recovery.to_owned(),
        ..person.log_in()
    };
    let request = match code {
        "" => request(message),
        code => request_with(message, &[("mfa-code", code)]),
    };
    world
        .auth
        .sessions()
        .log_in(request)
        .await
        .map(tonic::Response::into_inner)
}

async fn state(world: &World, actor: &Actor) -> pb::GetMfaResponse {
    let request = as_caller(pb::GetMfaRequest {}, &actor.context);
    world.auth.mfa().get_mfa(request).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_factor_begins_with_a_code_of_its_secret_and_ends_the_other_sessions() {
    let world = World::new().await;
    let actor = world.actor().await;
    let other = world
        .auth
        .log_in(&actor.person)
        .await
        .unwrap()
        .tokens
        .unwrap()
        .access_token;
    assert!(!state(&world, &actor).await.totp_active);

    let enrolled = world.auth.enrol(&actor, None, "").await.unwrap();
    assert!(
        enrolled.otpauth_uri.starts_with("otpauth://totp/Trailmesh:"),
        "{}",
        enrolled.otpauth_uri
    );
    assert!(enrolled.otpauth_uri.contains(&enrolled.secret));
    assert_eq!(enrolled.secret.len(), 32, "160 bits");
    assert!(
        !state(&world, &actor).await.totp_active,
        "a secret is no factor yet"
    );
    log_in(&world, &actor.person, "", "").await.unwrap();

    let refused = refusal(world.auth.activate(&actor, &wrong_code(&enrolled.secret)).await);
    assert_eq!(said(&refused), WRONG);
    let activated = world
        .auth
        .activate(&actor, &code(&enrolled.secret))
        .await
        .unwrap();
    assert_eq!(
        (activated.recovery_codes.len(), activated.ended_sessions),
        (10, 2)
    );
    let now = state(&world, &actor).await;
    assert!(now.totp_active && now.totp_active_time.is_some());
    assert_eq!(now.recovery_codes_left, 10);
    let ended = refusal(world.auth.context(&other).await);
    assert_eq!(said(&ended), (Code::Unauthenticated, "CREDENTIAL_INVALID"));
    world.auth.context(&actor.access).await.unwrap();
    let again = refusal(world.auth.activate(&actor, &code(&enrolled.secret)).await);
    assert_eq!(said(&again), (Code::FailedPrecondition, "TOTP_NOT_PENDING"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_used_in_one_place_is_void_in_every_other() {
    let world = World::new().await;
    let actor = world.actor().await;
    let secret = world.auth.enrol(&actor, None, "").await.unwrap().secret;
    let shown = code(&secret);
    world.auth.activate(&actor, &shown).await.unwrap();
    // Used to activate: not good for a login, a step-up, another secret.
    assert_eq!(
        said(&refusal(log_in(&world, &actor.person, &shown, "").await)),
        WRONG
    );
    assert_eq!(
        said(&refusal(world.auth.step_up(&actor.context, &shown).await)),
        WRONG
    );
    assert_eq!(
        said(&refusal(world.auth.enrol(&actor, Some(&shown), "").await)),
        WRONG
    );
    // Used to log in.
    let shown = world.next_code(&actor, &secret);
    log_in(&world, &actor.person, &shown, "").await.unwrap();
    assert_eq!(
        said(&refusal(log_in(&world, &actor.person, &shown, "").await)),
        WRONG
    );
    assert_eq!(
        said(&refusal(world.auth.step_up(&actor.context, &shown).await)),
        WRONG
    );
    // Used to confirm a call.
    let shown = world.next_code(&actor, &secret);
    world.auth.step_up(&actor.context, &shown).await.unwrap();
    assert_eq!(
        said(&refusal(world.auth.step_up(&actor.context, &shown).await)),
        WRONG
    );
    assert_eq!(
        said(&refusal(log_in(&world, &actor.person, &shown, "").await)),
        WRONG
    );
    // Used codes are no guesses: nothing is locked.
    let shown = world.next_code(&actor, &secret);
    world.auth.step_up(&actor.context, &shown).await.unwrap();
}

/// Five hundred uses at once of a code, half of them in another place; none if they took longer than the code lives for certain, since what comes
/// later is a wrong guess.
async fn five_hundred_uses(
    world: &World,
    second: &Replica,
    actor: &Actor,
    secret: &str,
) -> Option<Vec<Used>> {
    let shown = world.next_code(actor, secret);
    let begun = Instant::now();
    let uses = (0..500).map(|n| {
        let replica = if n % 2 == 0 { &world.auth } else { second };
        // On a slow machine some find no connection in time; that says nothing of the code, so they ask again, as a client does.
        let (context, shown) = (&actor.context, &shown);
        async move {
            loop {
                match replica.step_up(context, shown).await {
                    Err(status) if status.code() == Code::Unavailable => {}
                    answer => return answer,
                }
            }
        }
    });
    let used = futures_util::future::join_all(uses).await;
    (begun.elapsed() < Duration::from_secs(30)).then_some(used)
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_parallel_uses_of_one_code_succeed_exactly_once() {
    let world = World::new().await;
    let second = world.replica().await;
    for _ in 0..5 {
        let actor = world.actor().await;
        let (secret, _) = world.enrol(&actor).await;
        let Some(used) = five_hundred_uses(&world, &second, &actor, &secret).await else {
            continue;
        };
        let (granted, refused): (Vec<_>, Vec<_>) = used.into_iter().partition(Result::is_ok);
        assert_eq!((granted.len(), refused.len()), (1, 499));
        for answer in refused {
            assert_eq!(said(&refusal(answer)), WRONG);
        }
        let shown = world.next_code(&actor, &secret);
        world.auth.step_up(&actor.context, &shown).await.unwrap();
        return;
    }
    panic!("this machine takes half a minute for five hundred calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn five_wrong_codes_lock_the_factor_wherever_they_are_tried() {
    let world = World::new().await;
    let actor = world.actor().await;
    let bystander = world.actor().await;
    let (secret, _) = world.enrol(&actor).await;
    let (other_secret, _) = world.enrol(&bystander).await;
    let wrong = wrong_code(&secret);
    // Two at logins whose password is right, which forgives nothing, and three for calls: they count together.
    for wrong in [wrong.as_str(), "abcdef"] {
        assert_eq!(
            said(&refusal(log_in(&world, &actor.person, wrong, "").await)),
            WRONG
        );
    }
    for wrong in ["12345", "1234567", "+12345"] {
        assert_eq!(
            said(&refusal(world.auth.step_up(&actor.context, wrong).await)),
            WRONG
        );
    }
    let shown = world.next_code(&actor, &secret);
    let status = world.auth.step_up(&actor.context, &shown).await.unwrap_err();
    assert_eq!(
        said(&refusal(Err::<(), _>(status.clone()))),
        (Code::ResourceExhausted, "MFA_LOCKED")
    );
    let wait = tonic_types::StatusExt::get_error_details(&status)
        .retry_info()
        .unwrap()
        .retry_delay
        .unwrap();
    assert!((890..=900).contains(&wait.as_secs()), "{wait:?}");
    assert_eq!(
        said(&refusal(log_in(&world, &actor.person, &shown, "").await)).1,
        "MFA_LOCKED"
    );
    let shown = world.next_code(&bystander, &other_secret);
    world.auth.step_up(&bystander.context, &shown).await.unwrap();
    // A quarter of an hour later.
    world.database.sql("UPDATE auth.factor SET locked_until = locked_until - 900, wrong = ARRAY(SELECT w - 900 FROM unnest(wrong) AS w)");
    let shown = world.next_code(&actor, &secret);
    world.auth.step_up(&actor.context, &shown).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn digits_of_other_alphabets_are_no_code() {
    let world = World::new().await;
    let actor = world.actor().await;
    let (secret, _) = world.enrol(&actor).await;
    let shown = world.next_code(&actor, &secret);
    let wide: String = shown
        .chars()
        .filter_map(|digit| char::from_u32(u32::from(digit) - 0x30 + 0xff10))
        .collect();
    let arabic: String = shown
        .chars()
        .filter_map(|digit| char::from_u32(u32::from(digit) - 0x30 + 0x660))
        .collect();
    for text in [wide, arabic, format!(" {shown}"), format!("{shown}\0")] {
        assert_eq!(
            said(&refusal(world.auth.step_up(&actor.context, &text).await)),
            WRONG,
            "{text}"
        );
    }
    world.auth.step_up(&actor.context, &shown).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_over_a_day_suspend_the_factor_and_its_owner_hears_of_it_once() {
    let world = World::new().await;
    let actor = world.actor().await;
    let (secret, recovery) = world.enrol(&actor).await;
    let wrong = wrong_code(&secret);
    let mut looked_at = 0;
    // As fast as locks allow, for a day; the owner uses a right code now and then.
    for quarter in 0..96 {
        for _ in 0..7 {
            let (_, reason) = refusal(world.auth.step_up(&actor.context, &wrong).await);
            looked_at += u32::from(reason == "MFA_CODE_INVALID");
        }
        world.database.sql(
            "UPDATE auth.factor SET locked_until = locked_until - 900, \
             wrong = ARRAY(SELECT w - 900 FROM unnest(wrong) AS w)",
        );
        if quarter % 2 == 1 && looked_at < 20 {
            let shown = world.next_code(&actor, &secret);
            world.auth.step_up(&actor.context, &shown).await.unwrap();
        }
        if looked_at >= 20 && quarter > 8 {
            break;
        }
    }
    assert_eq!(looked_at, 20);
    let shown = world.next_code(&actor, &secret);
    let suspended = refusal(world.auth.step_up(&actor.context, &shown).await);
    assert_eq!(said(&suspended), (Code::FailedPrecondition, "MFA_SUSPENDED"));
    assert_eq!(
        said(&refusal(log_in(&world, &actor.person, &shown, "").await)).1,
        "MFA_SUSPENDED"
    );
    let noticed = eventually("the notice", || {
        let mails = world.mails(&actor.person.email);
        let noticed: Vec<String> = mails
            .into_iter()
            .filter(|mail| mail.contains("suspend"))
            .collect();
        (!noticed.is_empty()).then_some(noticed)
    });
    assert_eq!(noticed.len(), 1);
    // The way back is a recovery code.
    let secret = world.auth.enrol(&actor, None, &recovery[0]).await.unwrap().secret;
    world.auth.activate(&actor, &code(&secret)).await.unwrap();
    let shown = world.next_code(&actor, &secret);
    world.auth.step_up(&actor.context, &shown).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_code_is_wrong() {
    let world = World::new().await;
    let (ada, eve) = (world.actor().await, world.actor().await);
    let (adas, codes) = world.enrol(&ada).await;
    world.enrol(&eve).await;
    let shown = world.next_code(&ada, &adas);
    assert_eq!(
        said(&refusal(world.auth.step_up(&eve.context, &shown).await)),
        WRONG
    );
    assert_eq!(
        said(&refusal(log_in(&world, &eve.person, &shown, "").await)),
        WRONG
    );
    assert_eq!(
        said(&refusal(world.auth.enrol(&eve, Some(&shown), "").await)),
        WRONG
    );
    assert_eq!(
        said(&refusal(log_in(&world, &eve.person, "", &codes[0]).await)),
        WRONG
    );
    assert_eq!(
        said(&refusal(world.auth.enrol(&eve, None, &codes[0]).await)),
        WRONG
    );
    world.auth.step_up(&ada.context, &shown).await.unwrap();
    log_in(&world, &ada.person, "", &codes[0]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_code_works_once_and_never_confirms_a_call() {
    let world = World::new().await;
    let actor = world.actor().await;
    let (_, codes) = world.enrol(&actor).await;
    assert_eq!(
        said(&refusal(world.auth.step_up(&actor.context, &codes[0]).await)),
        WRONG
    );
    assert_eq!(
        said(&refusal(log_in(&world, &actor.person, &codes[0], "").await)),
        WRONG
    );
    let typed = codes[0].to_lowercase().replace('-', " ");
    log_in(&world, &actor.person, "", &typed).await.unwrap();
    assert_eq!(
        said(&refusal(log_in(&world, &actor.person, "", &codes[0]).await)),
        WRONG
    );
    assert_eq!(state(&world, &actor).await.recovery_codes_left, 9);
    // Eight at once for one code.
    let tries = (0..8).map(|_| world.auth.enrol(&actor, None, &codes[1]));
    let answers = futures_util::future::join_all(tries).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    assert_eq!(state(&world, &actor).await.recovery_codes_left, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn replacing_an_active_factor_takes_its_code_and_it_counts_until_the_new_one_does() {
    let world = World::new().await;
    let actor = world.actor().await;
    let (old, _) = world.enrol(&actor).await;
    assert_eq!(said(&refusal(world.auth.enrol(&actor, None, "").await)), MISSING);
    assert_eq!(
        said(&refusal(
            world.auth.enrol(&actor, Some(&wrong_code(&old)), "").await
        )),
        WRONG
    );
    let shown = world.next_code(&actor, &old);
    let new = world.auth.enrol(&actor, Some(&shown), "").await.unwrap().secret;
    let shown = world.next_code(&actor, &old);
    world.auth.step_up(&actor.context, &shown).await.unwrap();
    let missing = world
        .auth
        .mfa()
        .activate_totp(as_caller(pb::ActivateTotpRequest {}, &actor.context))
        .await;
    assert_eq!(said(&refusal(missing)), MISSING);
    world.auth.activate(&actor, &code(&new)).await.unwrap();
    let shown = world.next_code(&actor, &old);
    assert_eq!(
        said(&refusal(world.auth.step_up(&actor.context, &shown).await)),
        WRONG
    );
    let shown = world.next_code(&actor, &new);
    world.auth.step_up(&actor.context, &shown).await.unwrap();
    assert_eq!(world.database.sql("SELECT count(*) FROM auth.factor"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolled_secret_waits_ten_minutes() {
    let world = World::new().await;
    let actor = world.actor().await;
    let secret = world.auth.enrol(&actor, None, "").await.unwrap().secret;
    world
        .database
        .sql("UPDATE auth.factor SET create_time = create_time - interval '10 minutes'");
    let late = refusal(world.auth.activate(&actor, &code(&secret)).await);
    assert_eq!(said(&late), (Code::FailedPrecondition, "TOTP_NOT_PENDING"));
    // A later enrolment replaces an earlier one.
    let first = world.auth.enrol(&actor, None, "").await.unwrap().secret;
    let second = world.auth.enrol(&actor, None, "").await.unwrap().secret;
    assert_eq!(
        said(&refusal(world.auth.activate(&actor, &code(&first)).await)),
        WRONG
    );
    world.auth.activate(&actor, &code(&second)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_good_for_one_call_once() {
    let world = World::new().await;
    let actor = world.actor().await;
    let (secret, codes) = world.enrol(&actor).await;
    let bare = world
        .auth
        .mfa()
        .disable_totp(as_caller(pb::DisableTotpRequest {}, &actor.context))
        .await;
    assert_eq!(said(&refusal(bare)).1, "GRANT_REQUIRED");
    // A proof for one call is none for another.
    let regenerate = "/trailmesh.auth.v1.MfaService/RegenerateRecoveryCodes";
    let shown = world.next_code(&actor, &secret);
    let grant = world
        .auth
        .grant(
            &actor.context,
            regenerate,
            &pb::RegenerateRecoveryCodesRequest {},
            &shown,
        )
        .await
        .unwrap();
    let other = world
        .auth
        .mfa()
        .disable_totp(with_grant(pb::DisableTotpRequest {}, &actor.context, &grant))
        .await;
    assert_eq!(said(&refusal(other)).1, "GRANT_INVALID");
    // Twenty calls with one proof: one is served.
    let calls = (0..20).map(|_| {
        let request = with_grant(pb::RegenerateRecoveryCodesRequest {}, &actor.context, &grant);
        let mut client = world.auth.mfa();
        async move { client.regenerate_recovery_codes(request).await }
    });
    let answers = futures_util::future::join_all(calls).await;
    let (served, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(served.len(), 1);
    for answer in refused {
        assert_eq!(said(&refusal(answer)), (Code::Aborted, "GRANT_USED"));
    }
    let new = served
        .into_iter()
        .next()
        .unwrap()
        .unwrap()
        .into_inner()
        .recovery_codes;
    assert_eq!(
        said(&refusal(log_in(&world, &actor.person, "", &codes[0]).await)),
        WRONG
    );
    log_in(&world, &actor.person, "", &new[0]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_factor_an_account_is_as_before_it() {
    let world = World::new().await;
    let actor = world.actor().await;
    let (secret, codes) = world.enrol(&actor).await;
    log_in(&world, &actor.person, "", &codes[0]).await.unwrap();
    let shown = world.next_code(&actor, &secret);
    let method = "/trailmesh.auth.v1.MfaService/DisableTotp";
    let request = world
        .auth
        .confirmed(&actor.context, method, pb::DisableTotpRequest {}, &shown)
        .await
        .unwrap();
    let disabled = world.auth.mfa().disable_totp(request).await.unwrap().into_inner();
    assert_eq!(disabled.ended_sessions, 1);
    let now = state(&world, &actor).await;
    assert_eq!((now.totp_active, now.recovery_codes_left), (false, 0));
    log_in(&world, &actor.person, "", "").await.unwrap();
    // Without a factor there is nothing to take away, and nothing to recover.
    let request = world
        .auth
        .confirmed(&actor.context, method, pb::DisableTotpRequest {}, "")
        .await
        .unwrap();
    assert_eq!(
        said(&refusal(world.auth.mfa().disable_totp(request).await)),
        (Code::FailedPrecondition, "MFA_NOT_ACTIVE")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_secrets_nor_recovery_codes_stand_in_the_database() {
    let world = World::new().await;
    let actor = world.actor().await;
    let (secret, codes) = world.enrol(&actor).await;
    let dump = world.database.sql(
        "SELECT string_agg(f::text, ' ') FROM auth.factor AS f UNION ALL SELECT string_agg(r::text, ' ') FROM auth.recovery_code AS r \
         UNION ALL SELECT string_agg(k::text, ' ') FROM auth.signing_key AS k",
    );
    assert!(dump.len() > 1_000);
    let bytes = totp_rs::Secret::try_from_base32(&secret).unwrap();
    let hex: String = bytes
        .as_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    for secret in [secret, hex, codes[0].clone(), codes[0].replace('-', "")] {
        assert!(!dump.contains(&secret));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_of_the_future_or_of_a_minute_ago_is_wrong() {
    let world = World::new().await;
    let actor = world.actor().await;
    let (secret, _) = world.enrol(&actor).await;
    let now: u64 = world
        .database
        .sql("SELECT extract(epoch FROM clock_timestamp())::bigint")
        .parse()
        .unwrap();
    world.next_code(&actor, &secret);
    for time in [now - 120, now - 90, now + 90, now + 300] {
        assert_eq!(
            said(&refusal(
                world.auth.step_up(&actor.context, &code_at(&secret, time)).await
            )),
            WRONG
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_factor_takes_the_password_and_a_session_alone_chooses_none() {
    let world = World::new().await;
    let mut actor = world.actor().await;
    for password in ["", "not the password"].into_iter().cycle().take(10) {
        let refused = refusal(world.auth.enrol_with(&actor, None, "", password).await);
        assert_eq!(said(&refused), (Code::Unauthenticated, "PASSWORD_WRONG"));
    }
    lengthen_delays(
        &world,
        &actor.person.email,
        claims(&actor.context)["sid"].as_str(),
    );
    let late = refusal(world.auth.enrol(&actor, None, "").await);
    assert_eq!(said(&late), (Code::ResourceExhausted, "TOO_MANY_ATTEMPTS"));
    assert_eq!(world.database.sql("SELECT count(*) FROM auth.factor"), "0");
    // The tries of a stolen session keep the owner's own from nothing.
    let login = log_in(&world, &actor.person, "", "").await.unwrap();
    actor.access = login.tokens.unwrap().access_token;
    actor.context = world.auth.context(&actor.access).await.unwrap();
    let (secret, _) = world.enrol(&actor).await;
    // Once there is a factor its code is the proof.
    let refused = refusal(world.auth.enrol(&actor, None, "").await);
    assert_eq!(said(&refused), MISSING);
    let shown = world.next_code(&actor, &secret);
    world.auth.enrol_with(&actor, Some(&shown), "", "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_takes_a_lost_factor_away_and_its_owner_hears_of_it() {
    let world = World::new().await;
    let actor = world.actor().await;
    let (_, codes) = world.enrol(&actor).await;
    let remove = async |email: &str| auth::remove_factor(&world.config(), true, email).await;
    assert!(remove("nobody@example.com").await.is_err());
    assert!(remove("no address").await.is_err());
    assert!(remove(&actor.person.email.to_uppercase()).await.unwrap());
    assert!(
        !remove(&actor.person.email).await.unwrap(),
        "there is none any more"
    );
    let ended = refusal(world.auth.context(&actor.access).await);
    assert_eq!(said(&ended), (Code::Unauthenticated, "CREDENTIAL_INVALID"));
    log_in(&world, &actor.person, "", "").await.unwrap();
    let mail = world.mail(&actor.person.email, "An operator removed your second factor", 1);
    assert!(mail.contains("by an operator of this installation"), "{mail}");
    assert!(!codes.is_empty());
    assert_eq!(world.database.sql("SELECT count(*) FROM auth.recovery_code"), "0");
}
