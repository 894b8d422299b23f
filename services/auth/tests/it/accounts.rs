//! Sign-up, verification, and what strangers can learn from either: nothing.

use proto::auth::v1 as pb;
use tonic::Code;

use crate::world::{PASSWORD, Person, World, as_caller, eventually, fresh_email, reason, request, token_of};

#[tokio::test(flavor = "multi_thread")]
async fn an_account_begins_with_the_mail_and_signs_in_by_its_password() {
    let world = World::new().await;
    let person = Person {
        email: "Ada.Lovelace@Example.com".to_owned(),
        password: PASSWORD.to_owned(),
    };
    world.auth.sign_up(&person).await.unwrap();
    let early = world.auth.log_in(&person).await.unwrap_err();
    assert_eq!(reason(&early), "CREDENTIALS_WRONG");

    let token = token_of(&world.mail(&person.email, "Verify your address", 1));
    let verify = pb::VerifyEmailRequest { token };
    let account = world
        .auth
        .accounts()
        .verify_email(request(verify.clone()))
        .await
        .unwrap()
        .into_inner()
        .account
        .unwrap();
    assert_eq!(
        (
            account.email.as_str(),
            account.display_name.as_str(),
            account.mfa_enabled
        ),
        (person.email.as_str(), "Ada", false)
    );
    let again = world
        .auth
        .accounts()
        .verify_email(request(verify))
        .await
        .unwrap_err();
    assert_eq!(
        (again.code(), reason(&again).as_str()),
        (Code::InvalidArgument, "TOKEN_INVALID")
    );

    let other_case = Person {
        email: "ada.lovelace@example.COM".to_owned(),
        ..person.clone()
    };
    let tokens = world.auth.log_in(&other_case).await.unwrap().tokens.unwrap();
    let context = world.auth.context(&tokens.access_token).await.unwrap();
    let seen = world
        .auth
        .accounts()
        .get_account(as_caller(pb::GetAccountRequest {}, &context))
        .await
        .unwrap();
    assert_eq!(seen.into_inner().account.unwrap(), account);
}

/// What an answer shows.
fn seen<T>(answer: Result<tonic::Response<T>, tonic::Status>) -> String {
    match answer {
        Ok(answer) => {
            let mut keys: Vec<_> = answer.metadata().keys().map(|key| format!("{key:?}")).collect();
            keys.sort();
            format!("ok {keys:?}")
        }
        Err(status) => format!("{:?} {} {}", status.code(), status.message(), reason(&status)),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn known_and_unknown_addresses_get_the_same_answers() {
    let world = World::new().await;
    let known = world.person().await;
    let unknown = fresh_email();
    let mut accounts = world.auth.accounts();
    let mut answers = Vec::new();
    for email in [known.email.clone(), unknown.clone()] {
        let sign_up = pb::SignUpRequest {
            email: email.clone(),
            password: "what a stranger would like".to_owned(),
            ..pb::SignUpRequest::default()
        };
        let resend = pb::ResendVerificationRequest { email: email.clone() };
        let reset = pb::RequestPasswordResetRequest { email: email.clone() };
        answers.push([
            seen(accounts.request_password_reset(request(reset)).await),
            seen(accounts.resend_verification(request(resend)).await),
            seen(accounts.sign_up(request(sign_up)).await),
        ]);
        // What is written before the answer is the same too; the mails differ.
        eventually("both to be decided", || {
            (world
                .database
                .sql("SELECT count(*) FROM auth.outbox WHERE done_at IS NULL")
                == "0")
                .then_some(())
        });
    }
    assert_eq!(answers[0], answers[1]);
    world.mail(&known.email, "You already have an account", 1);
    world.mail(&known.email, "Set a new password", 1);
    world.mail(&unknown, "Verify your address", 1);
    // 1 of the person's own sign-up, 2 now; and only the sign-up's to the unknown address.
    assert_eq!(
        (world.mails(&known.email).len(), world.mails(&unknown).len()),
        (3, 1)
    );
    assert_eq!(
        world
            .database
            .sql("SELECT count(*) FROM auth.outbox WHERE body IS NOT NULL"),
        "0"
    );
    // The stranger's sign-up changed nothing.
    assert!(world.auth.log_in(&known).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_click_activates_the_password_of_its_own_sign_up() {
    let world = World::new().await;
    let owner = Person {
        email: fresh_email(),
        password: PASSWORD.to_owned(),
    };
    let attacker = Person {
        password: "known to the attacker".to_owned(),
        ..owner.clone()
    };
    world.auth.sign_up(&attacker).await.unwrap();
    world.mail(&owner.email, "Verify your address", 1);
    world.auth.sign_up(&owner).await.unwrap();
    let mine = token_of(&world.mail(&owner.email, "Verify your address", 2));
    world.auth.sign_up(&attacker).await.unwrap();
    let theirs = token_of(&world.mail(&owner.email, "Verify your address", 3));
    let verify = |token: &str| {
        request(pb::VerifyEmailRequest {
            token: token.to_owned(),
        })
    };
    world.auth.accounts().verify_email(verify(&mine)).await.unwrap();
    assert!(world.auth.log_in(&owner).await.is_ok());
    assert_eq!(
        reason(&world.auth.log_in(&attacker).await.unwrap_err()),
        "CREDENTIALS_WRONG"
    );
    let status = world
        .auth
        .accounts()
        .verify_email(verify(&theirs))
        .await
        .unwrap_err();
    assert_eq!(reason(&status), "TOKEN_INVALID");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mail_of_a_sign_up_is_sent_again_until_the_address_is_verified() {
    let world = World::new().await;
    let person = Person {
        email: fresh_email(),
        password: PASSWORD.to_owned(),
    };
    world.auth.sign_up(&person).await.unwrap();
    let first = token_of(&world.mail(&person.email, "Verify your address", 1));
    let resend = || {
        request(pb::ResendVerificationRequest {
            email: person.email.clone(),
        })
    };
    world.auth.accounts().resend_verification(resend()).await.unwrap();
    let second = token_of(&world.mail(&person.email, "Verify your address", 2));
    assert_ne!(first, second);
    // Tokens are good for a day and kept as digests.
    let left = "SELECT DISTINCT extract(epoch FROM expires_at - created_at)::int FROM auth.email_token";
    assert_eq!(world.database.sql(left), "86400");
    world.database.sql("UPDATE auth.email_token SET expires_at = clock_timestamp() WHERE created_at = (SELECT min(created_at) FROM auth.email_token)");
    let verify = |token: &str| {
        request(pb::VerifyEmailRequest {
            token: token.to_owned(),
        })
    };
    assert_eq!(
        reason(
            &world
                .auth
                .accounts()
                .verify_email(verify(&first))
                .await
                .unwrap_err()
        ),
        "TOKEN_INVALID"
    );
    world.auth.accounts().verify_email(verify(&second)).await.unwrap();
    assert!(world.auth.log_in(&person).await.is_ok());
}

/// A sign-up under a name.
async fn sign_up_as(world: &World, person: &Person, name: &str) {
    let message = pb::SignUpRequest {
        email: person.email.clone(),
        password: person.password.clone(),
        display_name: name.to_owned(),
        turnstile_token: String::new(),
    };
    world.auth.accounts().sign_up(request(message)).await.unwrap();
}

/// Waits until nothing is left to decide or to send.
fn quiet(world: &World) {
    eventually("the outbox to be empty", || {
        (world
            .database
            .sql("SELECT count(*) FROM auth.outbox WHERE done_at IS NULL")
            == "0")
            .then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resend_hands_nobody_the_sign_up_of_a_stranger() {
    let world = World::new().await;
    let victim = Person {
        email: fresh_email(),
        password: PASSWORD.to_owned(),
    };
    let attacker = Person {
        password: "known to the attacker".to_owned(),
        ..victim.clone()
    };
    let resend = || {
        request(pb::ResendVerificationRequest {
            email: victim.email.clone(),
        })
    };
    sign_up_as(&world, &victim, "Ada").await;
    let first = world.mail(&victim.email, "Verify your address", 1);
    assert!(first.contains("as \"Ada\" at 20"), "{first}");
    let when = |mail: &str| mail.split("\" at ").nth(1).unwrap()[..20].to_owned();
    world.auth.accounts().resend_verification(resend()).await.unwrap();
    let again = world.mail(&victim.email, "Verify your address", 2);
    assert!(again.contains("as \"Ada\""), "{again}");
    assert_eq!(
        when(&first),
        when(&again),
        "the time of the sign-up, not of the mail"
    );

    sign_up_as(&world, &attacker, "Eve").await;
    let theirs = world.mail(&victim.email, "Verify your address", 3);
    assert!(theirs.contains("as \"Eve\""), "{theirs}");
    world.auth.accounts().resend_verification(resend()).await.unwrap();
    let letter = world.mail(&victim.email, "Sign up again", 1);
    assert!(!letter.contains("token"), "{letter}");
    quiet(&world);
    assert_eq!(world.mails(&victim.email).len(), 4);

    // The victim signs up again, as the letter says, and opens that mail: nothing else counts from then on.
    sign_up_as(&world, &victim, "Ada").await;
    let verify = |mail: &str| {
        request(pb::VerifyEmailRequest {
            token: token_of(mail),
        })
    };
    let mine = world.mail(&victim.email, "Verify your address", 4);
    world.auth.accounts().verify_email(verify(&mine)).await.unwrap();
    assert!(world.auth.log_in(&victim).await.is_ok());
    for mail in [&theirs, &first, &again] {
        let status = world
            .auth
            .accounts()
            .verify_email(verify(mail))
            .await
            .unwrap_err();
        assert_eq!(reason(&status), "TOKEN_INVALID");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_gets_five_mails_of_a_kind_an_hour_that_strangers_ask_for() {
    let world = World::new().await;
    let person = world.person().await;
    for _ in 0..10 {
        let message = pb::RequestPasswordResetRequest {
            email: person.email.clone(),
        };
        world
            .auth
            .accounts()
            .request_password_reset(request(message))
            .await
            .unwrap();
        quiet(&world);
    }
    // And the one of the sign-up.
    assert_eq!(world.mails(&person.email).len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_ups_in_somebodys_name_take_no_password_reset_away() {
    let world = World::new().await;
    let person = world.person().await;
    for _ in 0..7 {
        sign_up_as(&world, &person, "Eve").await;
        quiet(&world);
    }
    let message = pb::RequestPasswordResetRequest {
        email: person.email.clone(),
    };
    world
        .auth
        .accounts()
        .request_password_reset(request(message))
        .await
        .unwrap();
    world.mail(&person.email, "Set a new password", 1);
    // That of the person's own sign-up, one about all of the strangers', and the reset.
    assert_eq!(world.mails(&person.email).len(), 3);
}

fn code<T>(result: Result<T, tonic::Status>) -> Code {
    result.map_or_else(|status| status.code(), |_| Code::Ok)
}

/// Puts `text` into every field of AccountService that takes one; the codes of the answers.
async fn in_accounts(world: &World, text: &str) -> Vec<Code> {
    let t = || text.to_owned();
    let mut accounts = world.auth.accounts();
    let mut codes = Vec::new();
    for (email, password, display_name) in [
        (t(), PASSWORD.to_owned(), String::new()),
        (fresh_email(), format!("{text} long enough"), String::new()),
        (fresh_email(), PASSWORD.to_owned(), t()),
    ] {
        let message = pb::SignUpRequest {
            email,
            password,
            display_name,
            turnstile_token: t(),
        };
        codes.push(code(accounts.sign_up(request(message)).await));
    }
    let message = pb::VerifyEmailRequest { token: t() };
    codes.push(code(accounts.verify_email(request(message)).await));
    let message = pb::ResendVerificationRequest { email: t() };
    codes.push(code(accounts.resend_verification(request(message)).await));
    let message = pb::RequestPasswordResetRequest { email: t() };
    codes.push(code(accounts.request_password_reset(request(message)).await));
    let message = pb::ResetPasswordRequest {
        token: t(),
        new_password: t(),
        recovery_code: t(),
    };
    codes.push(code(accounts.reset_password(request(message)).await));
    codes
}

/// The same for SessionService and MailService.
async fn in_sessions_and_mails(world: &World, person: &Person, context: &str, text: &str) -> Vec<Code> {
    let t = || text.to_owned();
    let mut sessions = world.auth.sessions();
    let mut codes = Vec::new();
    let message = pb::LogInRequest {
        recovery_code: t(),
        device_token: t(),
        ..person.log_in()
    };
    codes.push(code(sessions.log_in(request(message)).await));
    let message = pb::LogInRequest {
        email: t(),
        password: t(),
        ..pb::LogInRequest::default()
    };
    codes.push(code(sessions.log_in(request(message)).await));
    codes.push(code(world.auth.refresh(text).await));
    let message = pb::ListSessionsRequest {
        page_size: 0,
        page_token: t(),
    };
    codes.push(code(sessions.list_sessions(as_caller(message, context)).await));
    let message = pb::RevokeSessionRequest { session_id: t() };
    codes.push(code(sessions.revoke_session(as_caller(message, context)).await));
    let message = pb::SendInvitationRequest {
        email: fresh_email(),
        invited_by: t(),
        tenant_name: t(),
        token: t(),
        expire_time: Some(prost_types::Timestamp {
            seconds: 2_000_000_000,
            nanos: 0,
        }),
    };
    codes.push(code(world.auth.mails().send_invitation(request(message)).await));
    codes
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_would_be_sql_or_a_header_is_text() {
    let world = World::new().await;
    let person = world.person().await;
    let tokens = world.auth.log_in(&person).await.unwrap().tokens.unwrap();
    let context = world.auth.context(&tokens.access_token).await.unwrap();
    for text in [
        "'; DROP TABLE auth.account CASCADE; --",
        "' OR '1'='1",
        "\\'; SELECT pg_sleep(10); --",
        "$1",
        "a\0b",
        "x\r\nBcc: eve@example.com",
    ] {
        let mut codes = in_accounts(&world, text).await;
        codes.extend(in_sessions_and_mails(&world, &person, &context, text).await);
        let expected = [
            Code::Ok,
            Code::InvalidArgument,
            Code::Unauthenticated,
            Code::NotFound,
        ];
        assert!(
            codes.iter().all(|code| expected.contains(code)),
            "{text:?}: {codes:?}"
        );
    }
    assert!(world.auth.log_in(&person).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn service_tenant_sees_verified_people_and_nothing_else() {
    let world = World::new().await;
    let person = world.person().await;
    let unverified = Person {
        email: fresh_email(),
        password: PASSWORD.to_owned(),
    };
    world.auth.sign_up(&unverified).await.unwrap();
    world.mail(&unverified.email, "Verify your address", 1);
    let mut settings = pg::Settings::new(&world.database.url("trailmesh_tenant")).unwrap();
    settings.database_ca_file = Some(testkit::Postgres::shared().ca.clone());
    let pool = pg::Pool::open(&settings, "tenant", true).await.unwrap();
    let soon = || std::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut tx = pool.shared(soon()).await.unwrap();
    let people: Vec<(String, String, String)> =
        sqlx::query_as("SELECT user_id, email, display_name FROM auth.person")
            .fetch_all(&mut *tx)
            .await
            .unwrap();
    assert_eq!(
        people,
        [(world.id(&person), person.email.clone(), "Ada".to_owned())]
    );
    drop(tx);
    for table in [
        "account",
        "session",
        "email_token",
        "device",
        "outbox",
        "used_grant",
    ] {
        let mut tx = pool.shared(soon()).await.unwrap();
        let statement = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM auth.{table}"));
        let refused = sqlx::query(statement)
            .fetch_one(&mut *tx)
            .await
            .unwrap_err()
            .to_string();
        assert!(refused.contains("permission denied"), "{table}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_of_a_person_stands_in_the_database() {
    let world = World::new().await;
    let person = world.person().await;
    let answer = world.auth.log_in(&person).await.unwrap();
    let tokens = answer.tokens.unwrap();
    let message = pb::RequestPasswordResetRequest {
        email: person.email.clone(),
    };
    world
        .auth
        .accounts()
        .request_password_reset(request(message))
        .await
        .unwrap();
    let mail = world.mail(&person.email, "Set a new password", 1);
    let tables = world
        .database
        .sql("SELECT table_name FROM information_schema.tables WHERE table_schema = 'auth'");
    let mut dump = String::new();
    for table in tables.lines() {
        dump += &world.database.sql(&format!(
            "SELECT t.*::text, encode(t::text::bytea, 'escape') FROM auth.\"{table}\" AS t"
        ));
    }
    assert!(dump.contains(&person.email));
    for secret in [
        PASSWORD,
        &token_of(&mail),
        &tokens.access_token,
        &tokens.refresh_token,
        &answer.device_token,
        "argon2",
    ] {
        assert!(!dump.contains(secret), "{secret}");
        let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        assert!(!dump.contains(&hex), "{secret}");
    }
}
