//! What happens to accounts is in the inbox of the audit logs exactly once, or not at all where it did not happen.

use chassis::policy::{Audit, CallerKind, Table};
use proto::auth::v1 as pb;
use serde_json::Value;
use tonic::{Request, Status};
use types::RequestId;

use crate::{
    actor::{Actor, Credential, code, key_of, wrong_code},
    world::{
        PASSWORD, Person, World, as_caller, eventually, fresh_email, reason, request, request_with, token_of,
    },
};

/// The request by this id.
fn marked<T>(mut request: Request<T>, id: &str) -> Request<T> {
    request
        .metadata_mut()
        .insert("trailmesh-request-id", id.parse().unwrap());
    request
}

/// What is in the inbox under a condition, oldest first: tenant, user, event.
fn inbox(world: &World, condition: &str) -> Vec<(String, String, Value)> {
    let rows = world.database.sql(&format!(
        "SELECT coalesce(json_agg(json_build_array(tenant_id, user_id, event) ORDER BY event->>'end_time', id)::text, '[]') \
         FROM tenant.audit_inbox WHERE {condition}"
    ));
    let rows: Vec<(Option<String>, String, Value)> = serde_json::from_str(&rows).unwrap();
    let row =
        |(tenant, user, event): (Option<String>, String, Value)| (tenant.unwrap_or_default(), user, event);
    rows.into_iter().map(row).collect()
}

fn of_method(world: &World, method: &str) -> Vec<(String, String, Value)> {
    inbox(world, &format!("event->>'method' LIKE '%/{method}'"))
}

/// Calls `method` so that it does something, as request `id`, and tells whose account that was.
async fn act(world: &World, method: &str, id: &str) -> Result<String, Status> {
    let auth = &world.auth;
    match method {
        "SignUp" | "ResendVerification" | "VerifyEmail" => act_at_sign_up(world, method, id).await,
        "RequestPasswordReset" | "ResetPassword" => {
            let person = world.person().await;
            let email = person.email.clone();
            let ask = request(pb::RequestPasswordResetRequest { email });
            auth.accounts()
                .request_password_reset(marked(
                    ask,
                    if method == "ResetPassword" {
                        "req_00000000000000000000000000"
                    } else {
                        id
                    },
                ))
                .await?;
            if method == "ResetPassword" {
                let token = token_of(&world.mail(&person.email, "Set a new password", 1));
                let message = pb::ResetPasswordRequest {
                    token,
                    new_password: "another long password".to_owned(),
                    ..pb::ResetPasswordRequest::default()
                };
                auth.accounts()
                    .reset_password(marked(request(message), id))
                    .await?;
            }
            Ok(world.id(&person))
        }
        "LogIn" => {
            let person = world.person().await;
            auth.sessions()
                .log_in(marked(request(person.log_in()), id))
                .await?;
            Ok(world.id(&person))
        }
        "RefreshSession" => {
            let person = world.person().await;
            let refresh_token = auth.log_in(&person).await?.tokens.unwrap().refresh_token;
            auth.refresh(&refresh_token).await?;
            world
                .database
                .sql("UPDATE auth.session SET recent = '[{\"generation\": 0, \"at\": 1}]'");
            let message = pb::RefreshSessionRequest { refresh_token };
            let answer = auth
                .sessions()
                .refresh_session(marked(request(message), id))
                .await;
            assert_eq!(reason(&answer.unwrap_err()), "REFRESH_TOKEN_REUSED");
            Ok(world.id(&person))
        }
        _ => act_signed_in(world, method, id).await,
    }
}

async fn act_at_sign_up(world: &World, method: &str, id: &str) -> Result<String, Status> {
    let accounts = || world.auth.accounts();
    let person = Person {
        email: fresh_email(),
        password: PASSWORD.to_owned(),
    };
    let message = pb::SignUpRequest {
        email: person.email.clone(),
        password: PASSWORD.to_owned(),
        ..pb::SignUpRequest::default()
    };
    if method == "SignUp" {
        accounts().sign_up(marked(request(message), id)).await?;
        world.mail(&person.email, "Verify your address", 1);
        return Ok(world.id(&person));
    }
    accounts().sign_up(request(message)).await?;
    let token = token_of(&world.mail(&person.email, "Verify your address", 1));
    if method == "VerifyEmail" {
        let message = pb::VerifyEmailRequest { token };
        accounts().verify_email(marked(request(message), id)).await?;
    } else {
        let email = person.email.clone();
        let message = pb::ResendVerificationRequest { email };
        accounts()
            .resend_verification(marked(request(message), id))
            .await?;
        world.mail(&person.email, "Verify your address", 2);
    }
    Ok(world.id(&person))
}

async fn act_signed_in(world: &World, method: &str, id: &str) -> Result<String, Status> {
    let auth = &world.auth;
    let actor = world.actor().await;
    let path = |service: &str| format!("/trailmesh.auth.v1.{service}/{method}");
    match method {
        "LogOut" => {
            let request = as_caller(pb::LogOutRequest {}, &actor.context);
            auth.sessions().log_out(marked(request, id)).await?;
        }
        "RevokeSession" => {
            let session_id = auth.log_in(&actor.person).await?.session.unwrap().id;
            let request = as_caller(pb::RevokeSessionRequest { session_id }, &actor.context);
            auth.sessions().revoke_session(marked(request, id)).await?;
        }
        "RevokeOtherSessions" => {
            auth.log_in(&actor.person).await?;
            let request = as_caller(pb::RevokeOtherSessionsRequest {}, &actor.context);
            auth.sessions().revoke_other_sessions(marked(request, id)).await?;
        }
        "ChangePassword" => {
            let message = pb::ChangePasswordRequest {
                current_password: PASSWORD.to_owned(),
                new_password: "another long password".to_owned(),
            };
            let request = auth
                .confirmed(&actor.context, &path("AccountService"), message, "")
                .await?;
            auth.accounts().change_password(marked(request, id)).await?;
        }
        "EnrolTotp" => {
            let message = pb::EnrolTotpRequest {
                current_password: PASSWORD.to_owned(),
                ..pb::EnrolTotpRequest::default()
            };
            auth.mfa()
                .enrol_totp(marked(as_caller(message, &actor.context), id))
                .await?;
        }
        "ActivateTotp" => {
            let secret = auth.enrol(&actor, None, "").await?.secret;
            let bearer = format!("Bearer {}", actor.context);
            let metadata = [("authorization", bearer.as_str()), ("mfa-code", &code(&secret))];
            let request = request_with(pb::ActivateTotpRequest {}, &metadata);
            auth.mfa().activate_totp(marked(request, id)).await?;
        }
        "DisableTotp" | "RegenerateRecoveryCodes" | "ConsumeStepUp" => {
            act_with_factor(world, &actor, method, id).await?;
        }
        other => panic!("nothing here makes {other} do something: add it, and an event to its handler"),
    }
    Ok(actor.id)
}

async fn act_with_factor(world: &World, actor: &Actor, method: &str, id: &str) -> Result<(), Status> {
    let auth = &world.auth;
    let path = format!("/trailmesh.auth.v1.MfaService/{method}");
    let (secret, _) = world.enrol(actor).await;
    let shown = world.next_code(actor, &secret);
    if method == "ConsumeStepUp" {
        let digest = ring::digest::digest(&ring::digest::SHA256, b"request");
        let message = pb::ConsumeStepUpRequest {
            context_token: actor.context.clone(),
            method: "/trailmesh.auth.v1.MfaService/DisableTotp".to_owned(),
            request_sha256: digest.as_ref().to_vec().into(),
            code: shown,
        };
        auth.guard().consume_step_up(marked(request(message), id)).await?;
    } else if method == "DisableTotp" {
        let message = pb::DisableTotpRequest {};
        let request = auth.confirmed(&actor.context, &path, message, &shown).await?;
        auth.mfa().disable_totp(marked(request, id)).await?;
    } else {
        let message = pb::RegenerateRecoveryCodesRequest {};
        let request = auth.confirmed(&actor.context, &path, message, &shown).await?;
        auth.mfa().regenerate_recovery_codes(marked(request, id)).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_of_accounts_that_the_rules_audit_writes_exactly_one_event() {
    let world = World::new().await;
    let table = Table::load(proto::DESCRIPTOR_SET).unwrap();
    let audited = table.rules().filter(|rule| {
        rule.path.starts_with("/trailmesh.auth.")
            && matches!(rule.audit, Audit::Change | Audit::Security)
            // What has a permission in a tenant is written by the gateway.
            && !(rule.caller == CallerKind::User && rule.lowest_role.is_some())
    });
    let mut checked = 0;
    for rule in audited {
        let id = RequestId::fresh().to_string();
        let user = act(&world, rule.method(), &id)
            .await
            .unwrap_or_else(|status| panic!("{}: {status:?}", rule.path));
        let condition = format!("event->>'request_id' = '{id}'");
        let rows = eventually(&rule.path, || {
            let rows = inbox(&world, &condition);
            (!rows.is_empty()).then_some(rows)
        });
        assert_eq!(rows.len(), 1, "{}: {rows:?}", rule.path);
        let (tenant, whose, event) = &rows[0];
        assert_eq!((tenant.as_str(), whose), ("", &user), "{}", rule.path);
        let read: audit::Event = serde_json::from_value(event.clone()).unwrap();
        assert_eq!(read.method, rule.path);
        assert_eq!(read.kind, audit::Kind::Security);
        assert_eq!(read.client_address, Some("192.0.2.1".parse().unwrap()));
        assert_eq!((read.user_agent.as_str(), read.count), ("tests/1", 1));
        assert!(read.time > 0 && read.time <= read.end_time, "{event}");
        let failed = rule.method() == "RefreshSession";
        assert_eq!(read.outcome == audit::Outcome::Failed, failed, "{event}");
        assert_eq!(read.code == "OK", !failed, "{event}");
        checked += 1;
    }
    assert!(checked >= 16, "{checked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_tells_who_by_what_and_with_which_proof() {
    let world = World::new().await;
    let actor = world.actor().await;
    let (secret, codes) = world.enrol(&actor).await;
    let log_in = pb::LogInRequest {
        recovery_code: codes[0].clone(),
        ..actor.person.log_in()
    };
    let session = world
        .auth
        .sessions()
        .log_in(request(log_in))
        .await
        .unwrap()
        .into_inner()
        .session
        .unwrap();
    let (_, _, event) = of_method(&world, "LogIn").pop().unwrap();
    assert_eq!(event["actor"]["user_id"], actor.id.as_str());
    assert_eq!(event["actor"]["session_id"], session.id.as_str());
    assert_eq!(event["targets"]["second_factor"], "recovery_code");

    let shown = world.next_code(&actor, &secret);
    let method = "/trailmesh.auth.v1.MfaService/DisableTotp";
    let request = world
        .auth
        .confirmed(&actor.context, method, pb::DisableTotpRequest {}, &shown)
        .await
        .unwrap();
    world.auth.mfa().disable_totp(request).await.unwrap();
    let (_, _, used) = of_method(&world, "ConsumeStepUp").pop().unwrap();
    assert_eq!(used["targets"]["method"], method);
    let (_, _, event) = of_method(&world, "DisableTotp").pop().unwrap();
    assert!(
        !event["actor"]["grant_id"].as_str().unwrap().is_empty(),
        "{event}"
    );

    world.enrol(&actor).await;
    assert!(
        auth::remove_factor(&world.config(), true, &actor.person.email)
            .await
            .unwrap()
    );
    let (_, whose, event) = of_method(&world, "RemoveFactor").pop().unwrap();
    assert_eq!(whose, actor.id);
    assert_eq!(event["actor"], serde_json::json!({"service": "operator"}));
    assert_eq!(event["targets"]["user_id"], actor.id.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_for_a_tenants_method_is_told_to_that_tenant_and_keys_are_left_to_the_gateway() {
    let world = World::new().await;
    let actor = world.member("owner").await;
    let (secret, _) = world.enrol(&actor).await;
    let shown = world.next_code(&actor, &secret);
    let made = world
        .auth
        .create_key(&actor, key_of(proto::common::v1::Role::Viewer), &shown)
        .await
        .unwrap();
    let (tenant, _, event) = of_method(&world, "ConsumeStepUp").pop().unwrap();
    assert_eq!(tenant, actor.tenant);
    assert_eq!(
        event["targets"]["method"],
        "/trailmesh.auth.v1.ApiKeyService/CreateApiKey"
    );
    world
        .auth
        .revoke_key(&actor, &made.api_key.unwrap().id)
        .await
        .unwrap();
    assert!(inbox(&world, "event->>'method' LIKE '%ApiKeyService%'").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_attempts_on_accounts_are_told_and_those_on_none_are_not() {
    let world = World::new().await;
    let actor = world.actor().await;
    let stranger = Person {
        email: fresh_email(),
        password: PASSWORD.to_owned(),
    };
    let wrong = Person {
        password: "wrong wrong wrong".to_owned(),
        ..actor.person.clone()
    };
    world.auth.log_in(&stranger).await.unwrap_err();
    world.auth.log_in(&wrong).await.unwrap_err();
    let refused = |reason: &str| {
        let condition = format!("event->>'reason' = '{reason}'");
        eventually(reason, || inbox(&world, &condition).pop())
    };
    let (_, whose, event) = refused("CREDENTIALS_WRONG");
    assert_eq!(whose, actor.id);
    assert_eq!(event["actor"], serde_json::json!({}), "nobody knows who that was");
    assert_eq!(event["targets"]["user_id"], actor.id.as_str());
    assert_eq!(
        (&event["code"], &event["outcome"]),
        (&"UNAUTHENTICATED".into(), &"failed".into())
    );

    let (secret, _) = world.enrol(&actor).await;
    world.auth.log_in(&actor.person).await.unwrap_err();
    refused("MFA_CODE_REQUIRED");
    world
        .auth
        .step_up(&actor.context, &wrong_code(&secret))
        .await
        .unwrap_err();
    let (_, _, event) = refused("MFA_CODE_INVALID");
    assert_eq!(event["actor"]["user_id"], actor.id.as_str());
    assert!(event["actor"]["session_id"].as_str().unwrap().starts_with("ses_"));

    let message = pb::ChangePasswordRequest {
        current_password: "wrong wrong wrong".to_owned(),
        new_password: "another long password".to_owned(),
    };
    let shown = world.next_code(&actor, &secret);
    let path = "/trailmesh.auth.v1.AccountService/ChangePassword";
    let request = world
        .auth
        .confirmed(&actor.context, path, message, &shown)
        .await
        .unwrap();
    world.auth.accounts().change_password(request).await.unwrap_err();
    refused("PASSWORD_WRONG");

    let member = world.member("owner").await;
    let mut key = key_of(proto::common::v1::Role::Viewer);
    key.allowed_cidrs = vec!["198.51.100.0/24".to_owned()];
    let made = world.key(&member, key).await.unwrap();
    let foreign = world
        .auth
        .authenticate(Credential::Key(&made.secret), "", "203.0.113.9")
        .await;
    foreign.unwrap_err();
    let (tenant, _, event) = refused("CREDENTIAL_INVALID");
    assert_eq!(
        (tenant, &event["client_address"]),
        (member.tenant, &"203.0.113.9".into())
    );
    assert_eq!(event["targets"]["key_id"], made.api_key.unwrap().id.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_wrong_passwords_is_one_entry_and_its_count() {
    let mut world = World::new().await;
    let person = world.person().await;
    let wrong = Person {
        password: "wrong wrong wrong".to_owned(),
        ..person.clone()
    };
    for _ in 0..30 {
        world.auth.log_in(&wrong).await.unwrap_err();
    }
    // The end of the service is the end of the window.
    world.auth.stop().await;
    world.restart().await;
    let rows = inbox(&world, "event->>'outcome' = 'failed'");
    let count: u64 = rows
        .iter()
        .map(|(_, _, event)| event["count"].as_u64().unwrap())
        .sum();
    assert_eq!(count, 30);
    let reasons = crate::world::distinct(rows.iter().map(|(_, _, event)| event["reason"].to_string()));
    assert_eq!(reasons, 2, "wrong, and too many");
    // The first of each kind at once and the rest after ten seconds; a slow machine may see one window more.
    assert!(rows.len() <= 6, "{rows:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rolled_back_leaves_no_event_and_what_cannot_be_told_is_not_done() {
    let world = World::new().await;
    let person = world.person().await;
    let before = inbox(&world, "true").len();
    // At the very end of the transaction the action fails.
    world.database.sql(
        "CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$; \
         CREATE CONSTRAINT TRIGGER no AFTER INSERT ON auth.session DEFERRABLE INITIALLY DEFERRED \
         FOR EACH ROW EXECUTE FUNCTION public.no(); SELECT 1",
    );
    world.auth.log_in(&person).await.unwrap_err();
    assert_eq!(inbox(&world, "true").len(), before);
    // Now the action could be done, but not told.
    world.database.sql(
        "DROP TRIGGER no ON auth.session; \
         CREATE TRIGGER no BEFORE INSERT ON tenant.audit_inbox FOR EACH ROW EXECUTE FUNCTION public.no(); SELECT 1",
    );
    world.auth.log_in(&person).await.unwrap_err();
    assert_eq!(world.database.sql("SELECT count(*) FROM auth.session"), "0");
    world
        .database
        .sql("DROP TRIGGER no ON tenant.audit_inbox; SELECT 1");
    world.auth.log_in(&person).await.unwrap();
    assert_eq!(inbox(&world, "true").len(), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_event_has_an_address_of_mail_or_a_secret() {
    let world = World::new().await;
    let actor = world.actor().await;
    let (secret, codes) = world.enrol(&actor).await;
    let log_in = pb::LogInRequest {
        recovery_code: codes[0].clone(),
        ..actor.person.log_in()
    };
    let tokens = world
        .auth
        .sessions()
        .log_in(request(log_in))
        .await
        .unwrap()
        .into_inner()
        .tokens
        .unwrap();
    let shown = world.next_code(&actor, &secret);
    world.auth.step_up(&actor.context, &shown).await.unwrap();
    world
        .auth
        .step_up(&actor.context, &wrong_code(&secret))
        .await
        .unwrap_err();
    eventually("the refusal", || {
        inbox(&world, "event->>'outcome' = 'failed'").pop()
    });
    let all = world
        .database
        .sql("SELECT string_agg(i::text, ' ') FROM tenant.audit_inbox AS i");
    let token = tokens.refresh_token;
    for secret in [
        "@",
        PASSWORD,
        &secret,
        &codes[0],
        &token,
        &tokens.access_token,
        &actor.context,
    ] {
        assert!(!all.contains(secret), "{secret} is in {all}");
    }
    assert!(!stands_in(&all, &shown), "{shown} is in {all}");
}

/// Whether these digits stand in a text by themselves: within a longer number, or a second's millionths, they are there by chance.
fn stands_in(text: &str, digits: &str) -> bool {
    text.match_indices(digits).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + digits.len()..]);
        !before.ends_with(|c: char| c == '.' || c.is_alphanumeric())
            && !after.starts_with(char::is_alphanumeric)
    })
}
