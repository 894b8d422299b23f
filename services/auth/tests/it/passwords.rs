//! Passwords: which are taken, how they are kept, changed and reset.

use chassis::Configuration as _;
use clap::Parser;
use proto::auth::v1 as pb;
use tonic::{Code, Status};

use crate::{
    actor::{claims, wrong_code},
    throttle::lengthen_delays,
    world::{
        PASSWORD, Person, SEAL_KEY, Setup, World, as_caller, fresh_email, reason, request, request_with,
        token_of,
    },
};

const CHANGE: &str = "/trailmesh.auth.v1.AccountService/ChangePassword";
const NEW: &str = "another horse, other staples";

async fn change(world: &World, context: &str, current: &str, new: &str) -> Result<i32, Status> {
    let message = pb::ChangePasswordRequest {
        current_password: current.to_owned(),
        new_password: new.to_owned(),
    };
    let grant = world.auth.grant(context, CHANGE, &message, "").await?;
    let metadata = [
        ("authorization", &*format!("Bearer {context}")),
        ("trailmesh-grant", &*grant),
    ];
    let answer = world
        .auth
        .accounts()
        .change_password(request_with(message, &metadata))
        .await?;
    Ok(answer.into_inner().ended_sessions)
}

async fn context(world: &World, person: &Person) -> (String, String) {
    let tokens = world.auth.log_in(person).await.unwrap().tokens.unwrap();
    (
        world.auth.context(&tokens.access_token).await.unwrap(),
        tokens.refresh_token,
    )
}

async fn ask_reset(world: &World, email: &str) {
    let message = pb::RequestPasswordResetRequest {
        email: email.to_owned(),
    };
    world
        .auth
        .accounts()
        .request_password_reset(request(message))
        .await
        .unwrap();
}

async fn reset(world: &World, token: &str, new: &str) -> Result<i32, Status> {
    let message = pb::ResetPasswordRequest {
        token: token.to_owned(),
        new_password: new.to_owned(),
        recovery_code: String::new(),
    };
    Ok(world
        .auth
        .accounts()
        .reset_password(request(message))
        .await?
        .into_inner()
        .ended_sessions)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_password_ends_the_other_sessions_and_is_told_by_mail() {
    let world = World::new().await;
    let person = world.person().await;
    let (_, other) = context(&world, &person).await;
    let (mine, kept) = context(&world, &person).await;
    let wrong = change(&world, &mine, "not the password", NEW).await.unwrap_err();
    assert_eq!(
        (wrong.code(), reason(&wrong).as_str()),
        (Code::Unauthenticated, "PASSWORD_WRONG")
    );
    let weak = change(&world, &mine, PASSWORD, "password").await.unwrap_err();
    assert_eq!(
        (weak.code(), reason(&weak).as_str()),
        (Code::InvalidArgument, "PASSWORD_COMMON")
    );
    assert_eq!(change(&world, &mine, PASSWORD, NEW).await.unwrap(), 1);
    assert_eq!(
        reason(&world.auth.refresh(&other).await.unwrap_err()),
        "INVALID_GRANT"
    );
    assert!(world.auth.refresh(&kept).await.is_ok());
    assert_eq!(
        reason(&world.auth.log_in(&person).await.unwrap_err()),
        "CREDENTIALS_WRONG"
    );
    let person = Person {
        password: NEW.to_owned(),
        ..person
    };
    assert!(world.auth.log_in(&person).await.is_ok());
    world.mail(&person.email, "Your password was changed", 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_changes_one_password_once_and_none_other() {
    let world = World::new().await;
    let person = world.person().await;
    let (context, _) = context(&world, &person).await;
    let message = |new: &str| pb::ChangePasswordRequest {
        current_password: PASSWORD.to_owned(),
        new_password: new.to_owned(),
    };
    let without = world
        .auth
        .accounts()
        .change_password(as_caller(message(NEW), &context))
        .await
        .unwrap_err();
    assert_eq!(without.code(), Code::PermissionDenied, "{without:?}");
    let grant = world
        .auth
        .grant(&context, CHANGE, &message(NEW), "")
        .await
        .unwrap();
    let call = |message: pb::ChangePasswordRequest| {
        let metadata = [
            ("authorization", &*format!("Bearer {context}")),
            ("trailmesh-grant", &*grant),
        ];
        let request = request_with(message, &metadata);
        let mut accounts = world.auth.accounts();
        async move { accounts.change_password(request).await }
    };
    let other = call(message("a password that was not confirmed"))
        .await
        .unwrap_err();
    assert_eq!(other.code(), Code::PermissionDenied, "{other:?}");
    call(message(NEW)).await.unwrap();
    world
        .database
        .sql("UPDATE auth.account SET password_at = password_at - interval '1 hour'");
    // The same bytes again: the password of today is another one, and the grant is used.
    let again = call(message(NEW)).await.unwrap_err();
    assert_eq!(reason(&again), "PASSWORD_WRONG");
    assert_eq!(world.database.sql("SELECT count(*) FROM auth.used_grant"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_takes_the_mails_token_once_and_ends_every_session_and_device() {
    let world = World::new().await;
    let person = world.person().await;
    let (_, session) = context(&world, &person).await;
    ask_reset(&world, &person.email).await;
    let first = token_of(&world.mail(&person.email, "Set a new password", 1));
    ask_reset(&world, &person.email).await;
    let second = token_of(&world.mail(&person.email, "Set a new password", 2));
    assert_ne!(first, second);
    let weak = reset(&world, &second, "short").await.unwrap_err();
    assert_eq!(reason(&weak), "PASSWORD_TOO_SHORT");
    assert_eq!(reset(&world, &second, NEW).await.unwrap(), 1);
    for token in [&second, &first] {
        let status = reset(&world, token, "yet another horse").await.unwrap_err();
        assert_eq!(reason(&status), "TOKEN_INVALID");
    }
    assert_eq!(
        reason(&world.auth.refresh(&session).await.unwrap_err()),
        "INVALID_GRANT"
    );
    let person = Person {
        password: NEW.to_owned(),
        ..person
    };
    assert!(world.auth.log_in(&person).await.is_ok());
    assert_eq!(world.database.sql("SELECT count(*) FROM auth.device"), "1");
    world.mail(&person.email, "Your password was changed", 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_takes_the_second_factor_too_and_a_wrong_code_leaves_the_token_good() {
    let world = World::new().await;
    let actor = world.actor().await;
    let (secret, recovery) = world.enrol(&actor).await;
    let email = &actor.person.email;
    let reset = async |token: &str, new: &str, code: &str, recovery: &str| {
        let message = pb::ResetPasswordRequest {
            token: token.to_owned(),
            new_password: new.to_owned(),
            recovery_code: recovery.to_owned(),
        };
        let metadata: &[(&'static str, &str)] = if code.is_empty() {
            &[]
        } else {
            &[("mfa-code", code)]
        };
        world
            .auth
            .accounts()
            .reset_password(request_with(message, metadata))
            .await
    };
    ask_reset(&world, email).await;
    let token = token_of(&world.mail(email, "Set a new password", 1));
    let without = reset(&token, NEW, "", "").await.unwrap_err();
    assert_eq!(
        (without.code(), reason(&without).as_str()),
        (Code::Unauthenticated, "MFA_CODE_REQUIRED")
    );
    let wrong = reset(&token, NEW, &wrong_code(&secret), "").await.unwrap_err();
    assert_eq!(reason(&wrong), "MFA_CODE_INVALID");
    assert!(
        reset(&token, NEW, &world.next_code(&actor, &secret), "")
            .await
            .is_ok()
    );
    ask_reset(&world, email).await;
    let token = token_of(&world.mail(email, "Set a new password", 2));
    assert_eq!(
        reason(&reset(&token, PASSWORD, "", "AAAA").await.unwrap_err()),
        "MFA_CODE_INVALID"
    );
    assert!(reset(&token, PASSWORD, "", &recovery[0]).await.is_ok());
    ask_reset(&world, email).await;
    let token = token_of(&world.mail(email, "Set a new password", 3));
    assert_eq!(
        reason(&reset(&token, NEW, "", &recovery[0]).await.unwrap_err()),
        "MFA_CODE_INVALID"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_cannot_keep_an_owner_from_changing_the_password_nor_guess_at_it_there() {
    let world = World::new().await;
    let person = world.person().await;
    let (context, _) = context(&world, &person).await;
    for _ in 0..11 {
        let wrong = Person {
            password: "a wrong password".to_owned(),
            ..person.clone()
        };
        world.auth.log_in(&wrong).await.unwrap_err();
    }
    let mut answers = Vec::new();
    for _ in 0..9 {
        answers.push(reason(
            &change(&world, &context, "not the password", NEW)
                .await
                .unwrap_err(),
        ));
    }
    assert!(
        answers.iter().all(|answer| answer == "PASSWORD_WRONG"),
        "{answers:?}"
    );
    assert!(change(&world, &context, PASSWORD, NEW).await.is_ok());
    lengthen_delays(&world, &person.email, claims(&context)["sid"].as_str());
    let mut last = String::new();
    for _ in 0..3 {
        last = reason(
            &change(&world, &context, "not the password", NEW)
                .await
                .unwrap_err(),
        );
    }
    assert_eq!(last, "TOO_MANY_ATTEMPTS");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_end_and_serve_their_own_purpose_only() {
    let world = World::new().await;
    let person = world.person().await;
    ask_reset(&world, &person.email).await;
    let token = token_of(&world.mail(&person.email, "Set a new password", 1));
    let verify = pb::VerifyEmailRequest { token: token.clone() };
    let status = world
        .auth
        .accounts()
        .verify_email(request(verify))
        .await
        .unwrap_err();
    assert_eq!(reason(&status), "TOKEN_INVALID");
    let left = world.database.sql("SELECT extract(epoch FROM expires_at - created_at)::int FROM auth.email_token WHERE purpose = 'reset'");
    assert_eq!(left, "3600");
    world
        .database
        .sql("UPDATE auth.email_token SET expires_at = clock_timestamp() - interval '1 ms'");
    assert_eq!(
        reason(&reset(&world, &token, NEW).await.unwrap_err()),
        "TOKEN_INVALID"
    );
    for nonsense in [
        "",
        "bt_pr_",
        "bt_pr_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "'; DELETE FROM auth.account; --",
    ] {
        assert_eq!(
            reason(&reset(&world, nonsense, NEW).await.unwrap_err()),
            "TOKEN_INVALID"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn weak_passwords_are_refused_by_name_of_field_and_reason() {
    use tonic_types::StatusExt as _;
    let world = World::new().await;
    for (password, wanted) in [
        ("seven77".to_owned(), "PASSWORD_TOO_SHORT"),
        ("ä".repeat(257), "PASSWORD_TOO_LONG"),
        ("Password1".to_owned(), "PASSWORD_COMMON"),
        ("ada.lovelace9".to_owned(), "PASSWORD_LIKE_ADDRESS"),
    ] {
        let person = Person {
            email: "ada.lovelace@example.com".to_owned(),
            password,
        };
        let status = world.auth.sign_up(&person).await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::InvalidArgument, wanted)
        );
        let details = status.get_error_details();
        assert_eq!(
            details.bad_request().unwrap().field_violations[0].field,
            "password"
        );
    }
    let person = Person {
        email: fresh_email(),
        password: "🐴 richtig 正しい ".to_owned(),
    };
    world.auth.sign_up(&person).await.unwrap();
    let token = token_of(&world.mail(&person.email, "Verify your address", 1));
    world
        .auth
        .accounts()
        .verify_email(request(pb::VerifyEmailRequest { token }))
        .await
        .unwrap();
    assert!(world.auth.log_in(&person).await.is_ok());
    let trimmed = Person {
        password: person.password.trim().to_owned(),
        ..person
    };
    assert_eq!(
        reason(&world.auth.log_in(&trimmed).await.unwrap_err()),
        "CREDENTIALS_WRONG"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_renews_a_hash_of_another_cost() {
    let mut world = World::new().await;
    let person = world.person().await;
    let stored = |world: &World| {
        world
            .database
            .sql("SELECT encode(password, 'hex') FROM auth.account")
    };
    let before = stored(&world);
    world.auth.log_in(&person).await.unwrap();
    assert_eq!(stored(&world), before);
    world.setup = Setup {
        flags: vec!["--argon2-passes=2".to_owned()],
        ..Setup::default()
    };
    world.restart().await;
    world.auth.log_in(&person).await.unwrap();
    let after = stored(&world);
    assert_ne!(after, before);
    world.auth.log_in(&person).await.unwrap();
    assert_eq!(stored(&world), after);
    // Sealed: what a copy of the database shows is not even a hash to guess at.
    assert!(
        !world
            .database
            .sql("SELECT encode(password, 'escape') FROM auth.account")
            .contains("argon2")
    );
}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    config: auth::Config,
}

#[test]
fn what_would_be_unsafe_is_refused_outside_dev() {
    let problems = |flags: &[&str], dev: bool| {
        let seal = format!("--seal-key={SEAL_KEY}");
        let mut arguments = vec![
            "auth",
            &seal,
            "--database-url=postgres://trailmesh_auth:hunter2@db.example/trailmesh",
            "--public-url=https://trail.example",
        ];
        arguments.extend(flags);
        let config = Cli::try_parse_from(arguments).unwrap().config;
        assert!(!format!("{config:?}").contains("hunter2"));
        let settings = chassis::Settings {
            dev,
            ..chassis::Settings::default()
        };
        let problems = config.problems(&settings);
        problems
            .into_iter()
            .map(|problem| problem.name)
            .collect::<Vec<_>>()
    };
    let good = [
        "--redis-url=rediss://:hunter2@cache.example",
        "--smtp-url=smtps://u:hunter2@mail.example",
    ];
    assert_eq!(problems(&good, false), Vec::<String>::new());
    for (flags, wanted) in [
        (
            vec![good[0], "--smtp-url=smtp://mail.example"],
            "TRAILMESH_AUTH_SMTP_URL",
        ),
        (vec![good[0], "--mail-dir=mails"], "TRAILMESH_AUTH_SMTP_URL"),
        (
            vec!["--redis-url=redis://cache.example", good[1]],
            "TRAILMESH_REDIS_URL",
        ),
        (
            vec![good[0], good[1], "--argon2-memory-kib=19455", "--argon2-passes=2"],
            "TRAILMESH_AUTH_ARGON2_MEMORY_KIB",
        ),
        (
            vec![good[0], good[1], "--turnstile-secret=hunter2"],
            "TRAILMESH_AUTH_TURNSTILE_HOSTNAMES",
        ),
        (
            vec![good[0], good[1], "--session-lifetime=721h"],
            "TRAILMESH_AUTH_SESSION_LIFETIME",
        ),
        (
            vec![good[0], good[1], "--turnstile-url=http://challenges.example"],
            "TRAILMESH_AUTH_TURNSTILE_URL",
        ),
        (
            vec![good[0], good[1], "--mail-from=no mailbox"],
            "TRAILMESH_AUTH_MAIL_FROM",
        ),
    ] {
        assert_eq!(problems(&flags, false), [wanted], "{flags:?}");
    }
    assert_eq!(
        problems(
            &[
                "--redis-url=redis://localhost",
                "--mail-dir=mails",
                "--argon2-memory-kib=64"
            ],
            true
        ),
        Vec::<String>::new()
    );
}
