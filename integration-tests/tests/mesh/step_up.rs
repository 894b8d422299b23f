//! Every method that takes a second factor × every way around it.

use chassis::policy::StepUp;
use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::json;

use crate::{
    mesh::{Answer, Caller, Mesh},
    permissions::{Call, calls},
    person::Person,
};

async fn attempt(caller: &Caller, call: &Call, code: &str) -> Answer {
    let body = json!({});
    caller
        .call_with(
            call.verb.clone(),
            &call.url,
            code,
            call.takes_body.then_some(&body),
        )
        .await
}

#[track_caller]
fn refused(answer: &Answer, reason: &str, call: &Call, way: &str) {
    assert_eq!(
        (answer.status, answer.reason()),
        (StatusCode::UNAUTHORIZED, reason),
        "{} by {way}: {}",
        call.path,
        answer.text
    );
    let challenge = answer.headers["www-authenticate"].to_str().expect("text");
    assert!(
        challenge.contains("insufficient_user_authentication"),
        "{challenge}"
    );
}

/// The method as gRPC or gRPC-Web, with an empty message and no code: the headers of the answer.
async fn without_code(caller: &Caller, call: &Call, content_type: &str) -> HeaderMap {
    let request = caller.client.post(format!("{}{}", caller.url, call.path));
    let request = request
        .bearer_auth(&caller.credential)
        .header("content-type", content_type)
        .header("te", "trailers");
    let answer = request
        .header("x-trailmesh-tenant", &caller.tenant)
        .body(vec![0_u8; 5])
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK, "{}", call.path);
    answer.headers().clone()
}

/// One person per method, because wrong codes lock a factor.
async fn every_way_around(mesh: &Mesh, call: &Call, other: &mut Person) {
    let mut person = Person::new(mesh, "cautious").await;
    person.found_tenant("Cautious").await;
    let made = person
        .caller
        .post("/v1/keys", json!({"name": "k", "role": "ROLE_OWNER"}))
        .await
        .ok();
    let key = person.caller.with(made["secret"].as_str().expect("a key"));
    let recovery = person.enrol().await;
    let used = person.code_again();

    refused(
        &attempt(&person.caller, call, "").await,
        "MFA_CODE_REQUIRED",
        call,
        "no code",
    );
    refused(
        &attempt(&person.caller, call, &used).await,
        "MFA_CODE_INVALID",
        call,
        "the code of the enrolment",
    );
    // It has not even the form of a code.
    let recovered = attempt(&person.caller, call, &recovery[0]).await;
    assert_eq!(
        (recovered.status, recovered.reason()),
        (StatusCode::BAD_REQUEST, "HEADER_INVALID"),
        "{}",
        call.path
    );
    let stolen = other.code_again();
    refused(
        &attempt(&person.caller, call, &stolen).await,
        "MFA_CODE_INVALID",
        call,
        "somebody else's code",
    );
    for content_type in ["application/grpc", "application/grpc-web+proto"] {
        let headers = without_code(&person.caller, call, content_type).await;
        let status = headers
            .get("grpc-status")
            .map(|status| status.to_str().expect("text"));
        assert_eq!(status, Some("16"), "{} by {content_type}: {headers:?}", call.path);
    }
    let by_key = attempt(&key, call, "").await;
    assert!(
        matches!(by_key.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN),
        "{}: {}",
        call.path,
        by_key.text
    );

    once(&mut person, call).await;
}

/// The way that is none around it, once and not twice.
async fn once(person: &mut Person, call: &Call) {
    let code = person.code().await;
    let answer = attempt(&person.caller, call, &code).await;
    assert_ne!(
        answer.status,
        StatusCode::UNAUTHORIZED,
        "{} with a right code: {}",
        call.path,
        answer.text
    );
    if call.path.ends_with("/DisableTotp") {
        // There is no factor any more.
        assert!(answer.status.is_success(), "{}", answer.text);
        return;
    }
    refused(
        &attempt(&person.caller, call, &code).await,
        "MFA_CODE_INVALID",
        call,
        "a code that was used",
    );
    let elsewhere = calls()
        .into_iter()
        .find(|one| one.step_up == StepUp::Totp && one.path != call.path)
        .expect("another");
    let replayed = attempt(&person.caller, &elsewhere, &code).await;
    assert_eq!(
        replayed.status,
        StatusCode::UNAUTHORIZED,
        "{} with the code of {}: {}",
        elsewhere.path,
        call.path,
        replayed.text
    );
}

#[tokio::test]
async fn no_way_leads_around_the_second_factor() {
    let mesh = Mesh::shared();
    let mut other = Person::new(mesh, "other").await;
    other.enrol().await;
    let methods: Vec<Call> = calls()
        .into_iter()
        .filter(|call| call.step_up == StepUp::Totp)
        .collect();
    assert!(
        methods.len() > 10,
        "only {} methods take a second factor",
        methods.len()
    );
    for call in &methods {
        every_way_around(mesh, call, &mut other).await;
    }
}

#[tokio::test]
async fn a_code_is_good_for_one_of_many_calls_at_once() {
    let mesh = Mesh::shared();
    let mut person = Person::new(mesh, "parallel").await;
    person.found_tenant("Parallel").await;
    person.enrol().await;
    let code = person.code().await;
    let calls = (0..100).map(|nth| {
        let (caller, code) = (person.caller.clone(), code.clone());
        let body = json!({"server": {"name": format!("server-{nth}"), "host": "db", "username": "trail"}});
        tokio::spawn(async move {
            caller
                .call_with(Method::POST, "/v1/servers", &code, Some(&body))
                .await
                .status
        })
    });
    let mut passed = 0;
    for call in calls.collect::<Vec<_>>() {
        passed += usize::from(call.await.expect("an answer").is_success());
    }
    assert_eq!(passed, 1);
    let servers = person.caller.get("/v1/servers").await.ok();
    assert_eq!(servers["servers"].as_array().map(Vec::len), Some(1));
}
