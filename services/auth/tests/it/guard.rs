//! What the gateway asks: who is behind a credential, and was a call confirmed.

use std::time::{Duration, Instant};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use proto::{auth::v1 as pb, common::v1::Role};
use testkit::ChaosProxy;
use tonic::{Code, Status};
use types::{SessionId, TenantId};

use crate::{
    actor::{Credential, claims, code, key_of, refusal},
    world::{World, as_caller, eventually, request},
};

const INVALID: (Code, &str) = (Code::Unauthenticated, "CREDENTIAL_INVALID");

fn said((code, reason): &(Code, String)) -> (Code, &str) {
    (*code, reason)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_ended_is_refused_by_the_very_next_question() {
    let world = World::new().await;
    let second = world.replica().await;
    let actor = world.actor().await;
    let log_in = || async {
        world
            .auth
            .log_in(&actor.person)
            .await
            .unwrap()
            .tokens
            .unwrap()
            .access_token
    };
    for end in ["revoked_at = now()", "expires_at = now()", "idle_until = now()"] {
        let access = log_in().await;
        second.context(&access).await.unwrap();
        let session = claims(&access)["sid"].as_str().unwrap().to_owned();
        world
            .database
            .sql(&format!("UPDATE auth.session SET {end} WHERE id = '{session}'"));
        assert_eq!(said(&refusal(second.context(&access).await)), INVALID, "{end}");
    }
    let access = log_in().await;
    let context = world.auth.context(&access).await.unwrap();
    world
        .auth
        .sessions()
        .log_out(as_caller(pb::LogOutRequest {}, &context))
        .await
        .unwrap();
    assert_eq!(said(&refusal(second.context(&access).await)), INVALID);
    // Its context token lives on for a minute, but confirms nothing.
    assert_eq!(said(&refusal(second.step_up(&context, "").await)), INVALID);
    world.database.sql("DELETE FROM auth.account");
    assert_eq!(said(&refusal(second.context(&actor.access).await)), INVALID);
}

/// `token` with another header or payload, and its MAC as it was.
fn altered(token: &str, header: Option<&str>, payload: Option<&str>) -> String {
    let parts: Vec<&str> = token.split('.').collect();
    let part = |new: Option<&str>, old: &str| {
        new.map_or_else(|| old.to_owned(), |text| BASE64_URL_SAFE_NO_PAD.encode(text))
    };
    format!(
        "{}.{}.{}",
        part(header, parts[0]),
        part(payload, parts[1]),
        parts[2]
    )
}

/// `claims` under `header`, with a MAC by `key`.
fn forged(header: &str, claims: &serde_json::Value, key: &[u8]) -> String {
    let message = format!(
        "{}.{}",
        BASE64_URL_SAFE_NO_PAD.encode(header),
        BASE64_URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let tag = ring::hmac::sign(
        &ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key),
        message.as_bytes(),
    );
    format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag))
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_tokens_get_one_answer() {
    let world = World::new().await;
    let actor = world.actor().await;
    let token = &actor.access;
    let says = claims(token);
    let keys = world
        .auth
        .guard()
        .get_key_set(request(pb::GetKeySetRequest {}))
        .await
        .unwrap()
        .into_inner()
        .keys;
    let header = |kid: &str| format!(r#"{{"typ":"at+jwt","alg":"HS256","kid":"{kid}"}}"#);
    let none = format!(
        "{}.{}.",
        BASE64_URL_SAFE_NO_PAD.encode(r#"{"typ":"at+jwt","alg":"none","kid":"x"}"#),
        token.split('.').nth(1).unwrap()
    );
    let mut attacks = vec![
        String::new(),
        "a.b.c".to_owned(),
        none,
        altered(token, Some(&header("../../../../dev/null")), None),
        altered(token, Some(&header("' OR 1=1 --")), None),
        altered(token, Some(&header("access-unknown")), None),
        altered(token, None, Some(&says.to_string().replace("usr_", "usr_0"))),
        forged(&header("access-unknown"), &says, b""),
        forged(&header(&keys[0].kid), &says, &keys[0].ed25519),
        actor.context.clone(),
        format!("{token}."),
        format!("{token}="),
        "x".repeat(5_000),
        "bt_live_00000000000000000000000000000000000000".to_owned(),
    ];
    // The public key as a MAC key under the kid that signs access tokens.
    let kid = serde_json::from_slice::<serde_json::Value>(
        &BASE64_URL_SAFE_NO_PAD
            .decode(token.split('.').next().unwrap())
            .unwrap(),
    )
    .unwrap();
    attacks.push(forged(
        &header(kid["kid"].as_str().unwrap()),
        &says,
        &keys[0].ed25519,
    ));
    for attack in attacks {
        for credential in [Credential::Access(&attack), Credential::Key(&attack)] {
            let status = world.auth.authenticate(credential, "", "").await.unwrap_err();
            assert_eq!(status.message(), "the credential is not valid", "{attack}");
            assert_eq!(said(&refusal(Err::<(), _>(status))), INVALID, "{attack}");
        }
    }
    let nothing = world
        .auth
        .guard()
        .authenticate(request(pb::AuthenticateRequest::default()))
        .await;
    assert_eq!(said(&refusal(nothing)), INVALID);
    world.auth.context(token).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_is_for_the_tenant_asked_for_or_the_only_one_or_none() {
    let world = World::new().await;
    let actor = world.actor().await;
    let context = |tenant: String| {
        let access = actor.access.clone();
        let auth = &world.auth;
        async move {
            auth.authenticate(Credential::Access(&access), &tenant, "")
                .await
                .map(|token| claims(&token))
        }
    };
    assert_eq!(context(String::new()).await.unwrap().get("seat"), None);
    let (first, second, foreign) = (world.new_tenant(), world.new_tenant(), world.new_tenant());
    world.seat(&first, &actor.id, Some("operator"));
    let says = context(String::new()).await.unwrap();
    assert_eq!(
        (&says["seat"]["tenant"], &says["seat"]["role"]),
        (&first.as_str().into(), &"operator".into())
    );
    world.seat(&second, &actor.id, Some("owner"));
    assert_eq!(
        context(String::new()).await.unwrap().get("seat"),
        None,
        "two tenants, none asked for"
    );
    for (tenant, role) in [(&first, "operator"), (&second, "owner")] {
        let says = context(tenant.clone()).await.unwrap();
        assert_eq!(
            (&says["seat"]["tenant"], &says["seat"]["role"]),
            (&tenant.as_str().into(), &role.into())
        );
    }
    // Another's, one that there is not, and nonsense.
    let mut answers = Vec::new();
    for tenant in [
        foreign,
        TenantId::fresh().to_string(),
        "nonsense".to_owned(),
        "' OR 1=1".to_owned(),
        first.to_uppercase(),
    ] {
        let status = context(tenant).await.unwrap_err();
        answers.push((
            refusal(Err::<(), Status>(status.clone())),
            status.message().to_owned(),
            status.details().to_vec(),
        ));
    }
    assert_eq!(said(&answers[0].0), (Code::NotFound, "TENANT_NOT_FOUND"));
    let same = |(refusal, message, _): &(_, String, _)| (refusal, message) == (&answers[0].0, &answers[0].1);
    assert!(answers.iter().all(same), "{answers:?}");
    // Roles are those of now; a suspended tenant is no tenant.
    world.seat(&first, &actor.id, Some("viewer"));
    assert_eq!(context(first.clone()).await.unwrap()["seat"]["role"], "viewer");
    world.database.sql(&format!(
        "UPDATE tenant.tenant SET state = 'suspended' WHERE id = '{first}'"
    ));
    assert_eq!(said(&refusal(context(first.clone()).await)).1, "TENANT_NOT_FOUND");
    world.seat(&second, &actor.id, None);
    assert_eq!(
        said(&refusal(context(second.clone()).await)).1,
        "TENANT_NOT_FOUND"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_belongs_to_a_tenant_that_has_moved_is_told_where_and_nobody_else() {
    let world = World::new().await;
    let (actor, stranger) = (world.member("admin").await, world.member("owner").await);
    let made = world.key(&actor, key_of(Role::Operator)).await.unwrap();
    world.database.sql(&format!(
        "UPDATE tenant.tenant SET state = 'moved', moved_to = 'https://2.example.com' WHERE id = '{}'",
        actor.tenant
    ));
    let told = |status: &Status| {
        let info = tonic_types::StatusExt::get_details_error_info(status).unwrap();
        (info.reason, info.metadata.get("host").cloned())
    };
    let there = (
        "TENANT_MOVED".to_owned(),
        Some("https://2.example.com".to_owned()),
    );
    for (credential, tenant) in [
        (Credential::Access(&actor.access), actor.tenant.as_str()),
        (Credential::Key(&made.secret), actor.tenant.as_str()),
        (Credential::Key(&made.secret), ""),
    ] {
        let refused = world.auth.authenticate(credential, tenant, "").await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert_eq!(told(&refused), there);
    }
    let refused = world
        .auth
        .authenticate(Credential::Access(&stranger.access), &actor.tenant, "")
        .await
        .unwrap_err();
    assert_eq!(told(&refused), ("TENANT_NOT_FOUND".to_owned(), None));
    // What is the account's own goes on here.
    world.auth.context(&actor.access).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_in_pools_stand_in_the_context() {
    let world = World::new().await;
    let actor = world.member("viewer").await;
    let pool = world.new_pool(&actor.tenant);
    let sql = "INSERT INTO tenant.binding (tenant_id, user_id, pool_id, role) VALUES";
    world.database.sql(&format!(
        "{sql} ('{}', '{}', '{pool}', 'operator')",
        actor.tenant, actor.id
    ));
    world.database.sql("UPDATE tenant.member SET role = NULL");
    let says = claims(&world.auth.context(&actor.access).await.unwrap());
    assert_eq!(says["seat"].get("role"), None);
    assert_eq!(says["seat"]["pools"][&pool], "operator");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_without_a_factor_confirms_by_asking_and_one_with_a_factor_by_its_code() {
    let world = World::new().await;
    let actor = world.actor().await;
    world.auth.step_up(&actor.context, "").await.unwrap();
    let (secret, _) = world.enrol(&actor).await;
    // The context token of before says there is no factor; the database knows better.
    assert_eq!(
        said(&refusal(world.auth.step_up(&actor.context, "").await)),
        (Code::Unauthenticated, "MFA_CODE_REQUIRED")
    );
    assert_eq!(
        claims(&world.auth.context(&actor.access).await.unwrap())["mfa"],
        true
    );
    let shown = world.next_code(&actor, &secret);
    let grant = claims(&world.auth.step_up(&actor.context, &shown).await.unwrap());
    assert_eq!(
        grant["method"],
        "/trailmesh.auth.v1.AccountService/ChangePassword"
    );
    assert_eq!(
        grant["exp"].as_i64().unwrap() - grant["iat"].as_i64().unwrap(),
        60
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_confirms_only_with_its_owners_code() {
    let world = World::new().await;
    let owner = world.member("admin").await;
    let key = world.key(&owner, key_of(Role::Operator)).await.unwrap().secret;
    let context = world.auth.key_context(&key).await.unwrap();
    let refused = refusal(world.auth.step_up(&context, "").await);
    assert_eq!(said(&refused), (Code::FailedPrecondition, "MFA_REQUIRED"));
    let (secret, codes) = world.enrol(&owner).await;
    assert_eq!(
        said(&refusal(world.auth.step_up(&context, "").await)).1,
        "MFA_CODE_REQUIRED"
    );
    assert_eq!(
        said(&refusal(world.auth.step_up(&context, &codes[0]).await)).1,
        "MFA_CODE_INVALID"
    );
    let shown = world.next_code(&owner, &secret);
    world.auth.step_up(&context, &shown).await.unwrap();
    assert_eq!(
        said(&refusal(world.auth.step_up(&owner.context, &shown).await)).1,
        "MFA_CODE_INVALID"
    );
    // A key that has ended confirms nothing, though its context token still lives.
    world.database.sql("UPDATE auth.api_key SET revoke_time = now()");
    let shown = world.next_code(&owner, &secret);
    assert_eq!(
        said(&refusal(world.auth.step_up(&context, &shown).await)),
        INVALID
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_confirmed_is_refused_and_uses_no_code() {
    let world = World::new().await;
    let actor = world.actor().await;
    let (secret, _) = world.enrol(&actor).await;
    let shown = world.next_code(&actor, &secret);
    let ask = |context: &str, method: &str, sha256: usize| {
        let message = pb::ConsumeStepUpRequest {
            context_token: context.to_owned(),
            method: method.to_owned(),
            request_sha256: vec![0; sha256].into(),
            code: shown.clone(),
        };
        let mut guard = world.auth.guard();
        async move { guard.consume_step_up(request(message)).await }
    };
    let change = "/trailmesh.auth.v1.AccountService/ChangePassword";
    for method in [
        "",
        "/x/y",
        "/trailmesh.auth.v1.MfaService/GetMfa",
        "/trailmesh.auth.v1.SessionService/LogIn",
    ] {
        assert_eq!(
            said(&refusal(ask(&actor.context, method, 32).await)).1,
            "METHOD_WITHOUT_STEP_UP",
            "{method}"
        );
    }
    for length in [0, 31, 33] {
        assert_eq!(
            said(&refusal(ask(&actor.context, change, length).await)).1,
            "SHA256_INVALID"
        );
    }
    let changed = altered(
        &actor.context,
        None,
        Some(&claims(&actor.context).to_string().replace("true", "false")),
    );
    for context in ["", "a.b.c", &actor.access, &changed] {
        assert_eq!(said(&refusal(ask(context, change, 32).await)), INVALID);
    }
    ask(&actor.context, change, 32).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_gateway_may_ask() {
    let world = World::new().await;
    let actor = world.actor().await;
    let mut tenant = pb::guard_service_client::GuardServiceClient::new(world.auth.tenant.clone());
    let credential = pb::authenticate_request::Credential::AccessToken(actor.access.clone());
    let message = pb::AuthenticateRequest {
        credential: Some(credential),
        ..pb::AuthenticateRequest::default()
    };
    let refused = tenant.authenticate(request(message)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let refused = tenant
        .consume_step_up(request(pb::ConsumeStepUpRequest::default()))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(
        !tenant
            .get_key_set(request(pb::GetKeySetRequest {}))
            .await
            .unwrap()
            .into_inner()
            .keys
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_session_that_never_was_is_refused_like_any_other() {
    let world = World::new().await;
    let actor = world.actor().await;
    let other = world.actor().await;
    // A right MAC is not enough: the session must be there, and be this person's.
    let session = claims(&other.access)["sid"].as_str().unwrap().to_owned();
    world.database.sql(&format!(
        "UPDATE auth.session SET account_id = '{}' WHERE id = '{session}'",
        actor.id
    ));
    assert_eq!(said(&refusal(world.auth.context(&other.access).await)), INVALID);
    world.database.sql(&format!(
        "UPDATE auth.session SET id = '{}' WHERE id = '{session}'",
        SessionId::fresh()
    ));
    assert_eq!(said(&refusal(world.auth.context(&other.access).await)), INVALID);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_answered_within_milliseconds() {
    let world = World::new().await;
    let actor = world.member("admin").await;
    let key = world.key(&actor, key_of(Role::Viewer)).await.unwrap().secret;
    for _ in 0..50 {
        world.auth.context(&actor.access).await.unwrap();
    }
    let mut times = Vec::new();
    for n in 0..500 {
        let begun = Instant::now();
        let credential = if n % 2 == 0 {
            Credential::Access(&actor.access)
        } else {
            Credential::Key(&key)
        };
        world
            .auth
            .authenticate(credential, "", "192.0.2.1")
            .await
            .unwrap();
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    println!(
        "Authenticate over mutual TLS, debug build: p50 {:?}, p99 {:?}",
        times[250], times[495]
    );
    // Far above the goal of 5 ms, for machines that are busy with other tests.
    assert!(times[250] < Duration::from_millis(250), "{:?}", times[250]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_database_it_lets_nobody_in_and_keeps_nobody_waiting() {
    let mut world = World::new().await;
    let actor = world.member("admin").await;
    let key = world.key(&actor, key_of(Role::Viewer)).await.unwrap().secret;
    let (secret, _) = world.enrol(&actor).await;
    let shown = world.next_code(&actor, &secret);
    let mut url: url::Url = world.database.url("trailmesh_auth").parse().unwrap();
    let proxy = ChaosProxy::start(([127, 0, 0, 1], url.port().unwrap()).into());
    url.set_port(Some(proxy.address().port())).unwrap();
    world.setup.flags.push(format!("--database-url={url}"));
    let replica = world.replica().await;
    let (change, message) = (
        "/trailmesh.auth.v1.AccountService/ChangePassword",
        pb::ChangePasswordRequest::default(),
    );
    for fault in [ChaosProxy::half_open, ChaosProxy::cut] {
        let context = world.auth.context(&actor.access).await.unwrap();
        fault(&proxy);
        let begun = Instant::now();
        let (access, of_key, proof) = tokio::join!(
            replica.context(&actor.access),
            replica.key_context(&key),
            replica.grant(&context, change, &message, &shown),
        );
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        for answer in [access, of_key, proof] {
            let (code, reason) = refusal(answer);
            assert!(
                matches!(code, Code::Unavailable | Code::DeadlineExceeded),
                "{code:?} {reason}"
            );
        }
        // What needs no database is answered still.
        assert_eq!(said(&refusal(replica.context("a.b.c").await)), INVALID);
        proxy.heal();
        eventually("the database", || {
            let asked = tokio::runtime::Handle::current().block_on(replica.key_context(&key));
            asked.ok()
        });
    }
    // The code was not used up by calls that came to nothing. It may be over by now, so the next one shows that codes are taken.
    assert_eq!(
        world.database.sql("SELECT last_step IS NULL FROM auth.factor"),
        "t"
    );
    let context = world.auth.context(&actor.access).await.unwrap();
    replica.step_up(&context, &code(&secret)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_codes_that_come_with_a_key_lock_the_key_and_not_its_owner() {
    let world = World::new().await;
    let owner = world.member("admin").await;
    let (leaked, other) = (
        world.key(&owner, key_of(Role::Operator)).await.unwrap(),
        world.key(&owner, key_of(Role::Operator)).await.unwrap(),
    );
    let (secret, _) = world.enrol(&owner).await;
    let context = world.auth.key_context(&leaked.secret).await.unwrap();
    let wrong = crate::actor::wrong_code(&secret);
    let unlock = "UPDATE auth.api_key SET code_locked_until = NULL, \
                  code_wrong = ARRAY(SELECT w - 900 FROM unnest(code_wrong) AS w)";
    for _ in 0..5 {
        let refused = refusal(world.auth.step_up(&context, &wrong).await);
        assert_eq!(said(&refused).1, "MFA_CODE_INVALID");
    }
    let shown = world.next_code(&owner, &secret);
    let locked = refusal(world.auth.step_up(&context, &shown).await);
    assert_eq!(said(&locked), (Code::ResourceExhausted, "MFA_LOCKED"));
    let mail = world.mail(&owner.person.email, "Wrong codes came with an API key", 1);
    assert!(mail.contains("\"test\""), "{mail}");
    // The owner's own calls, the login and the other key go on, with a code that the locked key did not use up.
    world.auth.step_up(&owner.context, &shown).await.unwrap();
    let shown = world.next_code(&owner, &secret);
    let message = owner.person.log_in();
    let login = crate::world::request_with(message, &[("mfa-code", &shown)]);
    world.auth.sessions().log_in(login).await.unwrap();
    let shown = world.next_code(&owner, &secret);
    let second = world.auth.key_context(&other.secret).await.unwrap();
    world.auth.step_up(&second, &shown).await.unwrap();
    // A right code makes an end of the streak, and is used for everybody.
    world.database.sql(unlock);
    let shown = world.next_code(&owner, &secret);
    world.auth.step_up(&context, &shown).await.unwrap();
    let used = refusal(world.auth.step_up(&owner.context, &shown).await);
    assert_eq!(said(&used).1, "MFA_CODE_INVALID");

    for _ in 5..20 {
        world.database.sql(unlock);
        let refused = refusal(world.auth.step_up(&context, &wrong).await);
        assert_eq!(said(&refused).1, "MFA_CODE_INVALID");
    }
    world.database.sql(unlock);
    let shown = world.next_code(&owner, &secret);
    let over = refusal(world.auth.step_up(&context, &shown).await);
    assert_eq!(said(&over), (Code::FailedPrecondition, "KEY_SUSPENDED"));
    world.auth.step_up(&owner.context, &shown).await.unwrap();
    // Its owner ends it without a code.
    world
        .auth
        .revoke_key(&owner, &leaked.api_key.unwrap().id)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_no_way_around_a_factor_that_is_locked() {
    let world = World::new().await;
    let owner = world.member("admin").await;
    let key = world.key(&owner, key_of(Role::Operator)).await.unwrap().secret;
    let (secret, _) = world.enrol(&owner).await;
    let context = world.auth.key_context(&key).await.unwrap();
    let wrong = crate::actor::wrong_code(&secret);
    for _ in 0..5 {
        assert!(world.auth.step_up(&owner.context, &wrong).await.is_err());
    }
    let shown = world.next_code(&owner, &secret);
    let locked = refusal(world.auth.step_up(&context, &shown).await);
    assert_eq!(said(&locked).1, "MFA_LOCKED");
    assert_eq!(
        world
            .database
            .sql("SELECT cardinality(code_wrong) FROM auth.api_key"),
        "0"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_a_role_in_every_pool_is_known_to_everybody() {
    let world = World::new().await;
    let actor = world.member("viewer").await;
    world.database.sql(&format!(
        "INSERT INTO tenant.pool (id, tenant_id, name)
         SELECT 'agp_' || lpad(n::text, 26, '0'), '{tenant}', 'pool ' || n FROM generate_series(1, 100) AS n;
         INSERT INTO tenant.binding (tenant_id, user_id, pool_id, role)
         SELECT '{tenant}', '{user}', id, 'operator' FROM tenant.pool WHERE tenant_id = '{tenant}'",
        tenant = actor.tenant,
        user = actor.id
    ));
    let context = world.auth.context(&actor.access).await.unwrap();
    let answer = world
        .auth
        .accounts()
        .get_account(as_caller(pb::GetAccountRequest {}, &context))
        .await;
    answer.unwrap();
}
