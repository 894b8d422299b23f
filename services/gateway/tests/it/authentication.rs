//! Who may: credentials, tenants, roles, and the second factor.
use std::time::{Duration, Instant};

use ring::digest::{SHA256, digest};
use types::{Context, Role, SessionId, Subject, TenantId, UserId};

use crate::{
    client::Answer,
    echo::message,
    guard::{CODE, asked_at_most},
    house::House,
};

const PRIVATELY: &str = "/v1/echo:privately";
const GRPC: &str = "/trailmesh.echo.v1.EchoService/EchoPrivately";

fn said(answer: &Answer) -> (u16, String) {
    (answer.status.as_u16(), answer.reason())
}

#[tokio::test]
async fn without_a_good_credential_nothing_is_answered() {
    let house = House::start().await;
    let client = house.h2().await;
    let good = house.guard.person(Role::Owner);
    let none = client.post(PRIVATELY, &[("x-mfa-code", CODE)], "{}").await;
    assert_eq!(said(&none), (401, "CREDENTIAL_MISSING".to_owned()));
    assert_eq!(none.header("www-authenticate"), "Bearer");
    let token = good.trim_start_matches("Bearer ");
    let forged = [
        "Bearer a.b.c".to_owned(),
        "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJ1c3JfMSJ9.".to_owned(),
        format!("Bearer {token}x"),
        format!("Basic {token}"),
        format!("Bearer  {token}, Bearer {token}"),
        "Bearer bt_live_0000000000000000000000".to_owned(),
        "Bearer ".to_owned(),
        format!("Bearer {}", "a".repeat(5_000)),
    ];
    for credential in &forged {
        let answer = client
            .post(
                PRIVATELY,
                &[("authorization", credential), ("x-mfa-code", CODE)],
                "{}",
            )
            .await;
        assert_eq!(
            said(&answer),
            (401, "CREDENTIAL_INVALID".to_owned()),
            "{credential}"
        );
        assert_eq!(
            answer.header("www-authenticate"),
            "Bearer error=\"invalid_token\""
        );
        assert!(
            !answer.headers.contains_key("ratelimit"),
            "strangers learn nothing about limits"
        );
        let answer = client
            .grpc(GRPC, &[("authorization", credential), ("x-mfa-code", CODE)], b"")
            .await;
        assert_eq!(answer.grpc_status(), Some(16));
    }
    // No other way to show one.
    for (name, value) in [
        ("x-api-key", token),
        ("cookie", "access_token=x"),
        ("x-authorization", &good),
    ] {
        assert_eq!(
            client.post(PRIVATELY, &[(name, value)], "{}").await.status,
            401,
            "{name}"
        );
    }
    let path = format!("{PRIVATELY}?access_token={token}");
    assert_eq!(client.post(&path, &[], "{}").await.status, 401);
    let answer = client
        .post(
            PRIVATELY,
            &[("authorization", &good), ("x-mfa-code", CODE)],
            r#"{"text":"hi"}"#,
        )
        .await;
    assert_eq!(answer.json()["text"], "hi", "{answer:?}");
}

/// A gateway believes auth's signature and not its word.
#[tokio::test]
async fn a_context_token_of_an_unknown_key_lets_nobody_in() {
    let house = House::start().await;
    let client = house.h2().await;
    let owner = house.guard.person(Role::Owner);
    *house.guard.forges.lock().unwrap() = true;
    let answer = client
        .post(
            PRIVATELY,
            &[("authorization", &owner), ("x-mfa-code", CODE)],
            "{}",
        )
        .await;
    assert_eq!(said(&answer), (503, "AUTH_UNAVAILABLE".to_owned()));
}

#[tokio::test]
async fn roles_scopes_and_tenants_decide_before_anything_is_counted() {
    let house = House::start().await;
    let client = house.h2().await;
    let subject = || Subject::Person {
        user: UserId::fresh(),
        session: SessionId::fresh(),
    };
    let nowhere = Context {
        subject: subject(),
        seat: None,
        mfa_enabled: false,
    };
    let nowhere = house.guard.learn("token", nowhere);
    let viewer = house.guard.person(Role::Viewer);
    let scoped = house.guard.key(Role::Owner, &["tenant:view"]);
    let other = house.guard.key(Role::Owner, &["servers:manage"]);
    for (credential, status, reason) in [
        (&viewer, 200, ""),
        (&scoped, 200, ""),
        (&other, 403, "SCOPE_MISSING"),
        (&nowhere, 400, "TENANT_REQUIRED"),
    ] {
        let answer = client
            .post(
                PRIVATELY,
                &[("authorization", credential), ("x-mfa-code", CODE)],
                "{}",
            )
            .await;
        assert_eq!(answer.status.as_u16(), status, "{answer:?}");
        if status != 200 {
            assert_eq!(answer.reason(), reason);
            assert!(!answer.headers.contains_key("ratelimit"));
        }
    }
    // Somebody else's tenant, one that does not exist, and nonsense are one and the same.
    let foreign = TenantId::fresh().to_string();
    let mut bodies = Vec::new();
    for tenant in [
        foreign.as_str(),
        "tnt_00000000000000000000000000",
        "nonsense",
        "'; DROP TABLE tenants; --",
    ] {
        let headers = [
            ("authorization", viewer.as_str()),
            ("x-mfa-code", CODE),
            ("x-trailmesh-tenant", tenant),
        ];
        let answer = client.post(PRIVATELY, &headers, "{}").await;
        assert_eq!(said(&answer), (404, "TENANT_NOT_FOUND".to_owned()), "{tenant}");
        let id = answer.header("x-request-id").to_owned();
        bodies.push(String::from_utf8_lossy(&answer.body).replace(&id, "-"));
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1);
}

#[tokio::test]
async fn auth_is_asked_once_for_many_requests_and_a_revocation_is_felt_within_a_second() {
    let house = House::start().await;
    let client = house.h2().await;
    let owner = house.guard.person(Role::Owner);
    let headers = [("authorization", owner.as_str()), ("x-mfa-code", CODE)];
    let (asked, began) = (house.guard.asked(), Instant::now());
    let calls = (0..50).map(|_| client.post(PRIVATELY, &headers, "{}"));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.status, 200);
    }
    let asked = house.guard.asked() - asked;
    let most = asked_at_most(began.elapsed());
    assert!((1..=most).contains(&asked), "{asked}, and not {most}");
    house.guard.revoke(&owner);
    let revoked = Instant::now();
    loop {
        // What counts is when it was asked, not when it was answered.
        let asked = revoked.elapsed();
        if client.post(PRIVATELY, &headers, "{}").await.status != 200 {
            break;
        }
        assert!(asked < Duration::from_secs(1), "still let in");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(client.post(PRIVATELY, &headers, "{}").await.status, 401);
}

#[tokio::test]
async fn without_auth_who_was_known_stays_for_five_seconds_and_nobody_new_comes_in() {
    let house = House::start().await;
    let client = house.h2().await;
    let known = house.guard.person(Role::Owner);
    let new = house.guard.person(Role::Owner);
    let list = |who: &str| {
        let (who, client) = (who.to_owned(), &client);
        async move {
            client
                .get("/v1/account/sessions", &[("authorization", &who)])
                .await
        }
    };
    // The method is not implemented by this auth: what matters is who is let through to it.
    assert_eq!(list(&known).await.status, 200);
    house.auth_line.cut();
    let cut = Instant::now();
    let answer = list(&new).await;
    assert_eq!(said(&answer), (503, "AUTH_UNAVAILABLE".to_owned()));
    assert_eq!(answer.header("retry-after"), "1");
    let mut last_in = Duration::ZERO;
    while cut.elapsed() < Duration::from_secs(7) {
        let answer = client
            .post("/v1/echo:privately", &[("authorization", &known)], "{}")
            .await;
        // Let in, it fails at the step-up, which auth would have to answer.
        let reason = answer.reason();
        assert_eq!(answer.status, 503, "{reason}");
        if answer.headers.contains_key("ratelimit") {
            last_in = cut.elapsed();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(
        last_in > Duration::from_secs(2) && last_in < Duration::from_secs(6),
        "{last_in:?}"
    );
    house.auth_line.heal();
    let healed = Instant::now();
    while client
        .post(
            "/v1/echo:privately",
            &[("authorization", &new), ("x-mfa-code", CODE)],
            "{}",
        )
        .await
        .status
        != 200
    {
        assert!(healed.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_code_is_asked_for_by_name_and_bound_to_the_bytes_that_the_service_gets() {
    let house = House::start().await;
    let client = house.h2().await;
    let owner = house.guard.person(Role::Owner);
    let challenge = "Bearer error=\"insufficient_user_authentication\", acr_values=\"urn:bt:acr:totp-per-call\", max_age=\"0\"";
    for (code, reason) in [(None, "MFA_CODE_REQUIRED"), (Some("000000"), "MFA_CODE_INVALID")] {
        let mut headers = vec![("authorization", owner.as_str())];
        headers.extend(code.map(|code| ("x-mfa-code", code)));
        let answer = client.post(PRIVATELY, &headers, "{}").await;
        assert_eq!(said(&answer), (401, reason.to_owned()));
        assert_eq!(answer.header("www-authenticate"), challenge);
        assert!(!answer.headers.contains_key("ratelimit"));
        let answer = client.grpc(GRPC, &headers, b"").await;
        assert_eq!(
            (answer.grpc_status(), answer.header("www-authenticate")),
            (Some(16), challenge)
        );
    }
    let odd = client
        .post(
            PRIVATELY,
            &[("authorization", &owner), ("x-mfa-code", "12 34")],
            "{}",
        )
        .await;
    assert_eq!(said(&odd), (400, "HEADER_INVALID".to_owned()));
    assert!(house.guard.confirmed.lock().unwrap().is_empty());
    // The service checks the proof against the bytes: it would refuse any others.
    let headers = [("authorization", owner.as_str()), ("x-mfa-code", CODE)];
    let answer = client.post(PRIVATELY, &headers, r#"{"text":"bound"}"#).await;
    assert_eq!(answer.json()["text"], "bound", "{answer:?}");
    let bytes = message("EchoPrivatelyRequest", r#"{"text":"bound"}"#);
    let answer = client.grpc(GRPC, &headers, &bytes).await;
    assert_eq!(answer.grpc_status(), Some(0), "{answer:?}");
    let sha256 = digest(&SHA256, &bytes).as_ref().to_vec();
    let confirmed = house.guard.confirmed.lock().unwrap().clone();
    assert_eq!(
        confirmed,
        [(GRPC.to_owned(), sha256.clone()), (GRPC.to_owned(), sha256)]
    );
}

#[tokio::test]
async fn a_request_that_is_wrong_costs_no_code() {
    let house = House::start().await;
    let client = house.h2().await;
    let owner = house.guard.person(Role::Owner);
    let headers = [("authorization", owner.as_str()), ("x-mfa-code", CODE)];
    assert_eq!(
        client.post(PRIVATELY, &headers, r#"{"nothing":1}"#).await.status,
        400
    );
    assert!(house.guard.confirmed.lock().unwrap().is_empty());
}
