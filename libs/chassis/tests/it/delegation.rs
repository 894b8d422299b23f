//! Delegations: good for one agent of one tenant, one method, one subject and a minute, and for nothing else.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chassis::token::{Error, KeySet, LIFETIME, Signer, delegation_ends};
use proptest::prelude::*;
use ring::signature::Ed25519KeyPair;
use types::{AgentId, Context, Fault as _, KeyId, Region, Role, ServerId, Subject, TenantId, UserId};

use crate::scene::{person, signer};

const NOW: i64 = 1_795_000_000;
const HEADER: &str = r#"{"alg":"EdDSA","typ":"dlg+jwt","kid":"key-1"}"#;
const CHANGES: &str = "/trailmesh.agent.v1.AgentService/Changes";

fn keys() -> KeySet {
    let keys = KeySet::new(Region::Eu);
    keys.replace(vec![signer().verifying_key()]);
    keys
}

fn server() -> ServerId {
    "srv_01jdaaaaaaaaaaaaaaaaaaaaaa".parse().expect("an id")
}

fn tenant(context: &Context) -> TenantId {
    context.seat.as_ref().expect("a seat").tenant
}

/// One that holds, for whom it is, and its agent.
fn good() -> (String, Context, AgentId) {
    let (context, agent) = (person(Some(Role::Analyst)), AgentId::fresh());
    let token = signer()
        .delegation(&context, NOW + 60, (agent, server()), CHANGES, Region::Eu, NOW)
        .expect("a token");
    (token, context, agent)
}

fn signed(header: &str, claims: &str) -> String {
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let body = format!("{}.{}", encode(header), encode(claims));
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a key");
    let signature = URL_SAFE_NO_PAD.encode(pair.sign(body.as_bytes()));
    format!("{body}.{signature}")
}

fn claims(token: &str) -> serde_json::Value {
    let claims = token.split('.').nth(1).expect("claims");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).expect("base64")).expect("JSON")
}

#[test]
fn what_auth_signs_the_agent_reads_for_people_and_for_keys() {
    let (token, context, agent) = good();
    let actor = keys()
        .delegation_at(&token, tenant(&context), agent, CHANGES, NOW)
        .unwrap();
    assert_eq!((&actor.subject, actor.expires), (&context.subject, NOW + 60));
    assert_eq!(actor.server, server());
    let names: Vec<String> = claims(&token).as_object().unwrap().keys().cloned().collect();
    assert_eq!(
        names,
        [
            "aud", "exp", "iat", "iss", "jti", "method", "nbf", "region", "server", "sid", "sub", "tenant"
        ]
    );
    let by_key = Context {
        subject: Subject::Key {
            key: KeyId::fresh(),
            owner: UserId::fresh(),
        },
        ..context
    };
    let token = signer()
        .delegation(&by_key, NOW + 60, (agent, server()), CHANGES, Region::Eu, NOW)
        .unwrap();
    let again = keys()
        .delegation_at(&token, tenant(&by_key), agent, CHANGES, NOW)
        .unwrap();
    assert_eq!(again.subject, by_key.subject);
    assert_ne!(again.id, actor.id);
}

#[test]
fn it_is_for_no_other_agent_tenant_method_or_region() {
    let (token, context, agent) = good();
    let tenant = tenant(&context);
    let keys = keys();
    let cause = |tenant, agent, method: &str| {
        let refused = keys
            .delegation_at(&token, tenant, agent, method, NOW)
            .unwrap_err();
        assert_eq!(
            (refused.code(), refused.reason()),
            (types::Code::Unauthenticated, "DELEGATION_INVALID")
        );
        refused.cause()
    };
    assert_eq!(cause(tenant, AgentId::fresh(), CHANGES), "aud");
    assert_eq!(cause(TenantId::fresh(), agent, CHANGES), "tenant");
    for other in [
        "/trailmesh.agent.v1.AgentService/History",
        "/trailmesh.agent.v1.AgentService/changes",
        "Changes",
        "",
    ] {
        assert_eq!(cause(tenant, agent, other), "method");
    }
    let elsewhere = KeySet::new(Region::Us);
    elsewhere.replace(vec![signer().verifying_key()]);
    assert_eq!(
        elsewhere.delegation_at(&token, tenant, agent, CHANGES, NOW),
        Err(Error::Delegation("region"))
    );
}

#[test]
fn it_ends_after_a_minute_and_with_the_context_at_the_latest() {
    let (context, agent) = (person(Some(Role::Analyst)), AgentId::fresh());
    for (context_ends, ends) in [(NOW + 600, NOW + 60), (NOW + 60, NOW + 60), (NOW + 7, NOW + 7)] {
        assert_eq!(delegation_ends(context_ends, NOW), ends);
        let token = signer()
            .delegation(
                &context,
                context_ends,
                (agent, server()),
                CHANGES,
                Region::Eu,
                NOW,
            )
            .unwrap();
        let read = |now| keys().delegation_at(&token, tenant(&context), agent, CHANGES, now);
        assert_eq!(read(NOW).unwrap().expires, ends);
        // Two clocks may differ by half a minute.
        assert!(read(NOW - 30).is_ok() && read(ends + 29).is_ok());
        assert_eq!(read(NOW - 31), Err(Error::Delegation("early")));
        assert_eq!(read(ends + 30), Err(Error::Delegation("expired")));
    }
    assert_eq!(LIFETIME.as_secs(), 60);
}

#[test]
fn without_a_tenant_there_is_none() {
    let nowhere = Context {
        seat: None,
        ..person(None)
    };
    let signed = signer().delegation(
        &nowhere,
        NOW + 60,
        (AgentId::fresh(), server()),
        CHANGES,
        Region::Eu,
        NOW,
    );
    assert_eq!(signed, Err(Error::Delegation("tenant")));
}

#[test]
fn no_token_of_another_kind_is_one() {
    let (token, context, agent) = good();
    let (signer, tenant) = (signer(), tenant(&context));
    let of_context = signer.context(&context, Region::Eu, NOW).unwrap();
    let grant = signer
        .grant(&context, Region::Eu, CHANGES, &[1; 32], NOW)
        .unwrap();
    for other in [of_context, grant] {
        let refused = keys().delegation_at(&other, tenant, agent, CHANGES, NOW);
        assert_eq!(refused, Err(Error::Delegation("typ")));
    }
    assert!(keys().context_at(&token, NOW).is_err());
    assert!(keys().grant_at(&token, CHANGES, &[1; 32], &context, NOW).is_err());
    // Nor one with the right header and claims of another kind.
    let context_claims = claims(&signer.context(&context, Region::Eu, NOW).unwrap()).to_string();
    let refused = keys().delegation_at(&signed(HEADER, &context_claims), tenant, agent, CHANGES, NOW);
    assert_eq!(refused, Err(Error::Delegation("claims")));
}

#[test]
fn headers_have_three_fields_and_no_others() {
    let (token, context, agent) = good();
    let claims = claims(&token).to_string();
    let read =
        |header: &str| keys().delegation_at(&signed(header, &claims), tenant(&context), agent, CHANGES, NOW);
    assert!(read(HEADER).is_ok());
    for header in [
        r#"{"alg":"none","typ":"dlg+jwt","kid":"key-1"}"#,
        r#"{"alg":"EdDSA","typ":"DLG+jwt","kid":"key-1"}"#,
        r#"{"alg":"EdDSA","typ":"ctx+jwt","kid":"key-1"}"#,
        r#"{"alg":"EdDSA","typ":"dlg+jwt"}"#,
        r#"{"alg":"EdDSA","typ":"dlg+jwt","kid":"key-2"}"#,
        r#"{"alg":"EdDSA","typ":"dlg+jwt","kid":"key-1","kid":"key-1"}"#,
        r#"{"alg":"EdDSA","typ":"dlg+jwt","kid":"key-1","jwk":{}}"#,
        r#"{"alg":"EdDSA","typ":"dlg+jwt","kid":"key-1","crit":[]}"#,
        r#"["EdDSA","dlg+jwt","key-1"]"#,
    ] {
        assert!(read(header).is_err(), "{header}");
    }
}

#[test]
fn claims_are_those_and_no_others() {
    let (token, context, agent) = good();
    let good = claims(&token);
    let read = |claims: &serde_json::Value| {
        let token = signed(HEADER, &claims.to_string());
        keys().delegation_at(&token, tenant(&context), agent, CHANGES, NOW)
    };
    assert!(read(&good).is_ok());
    for (field, value) in [
        ("iss", "trailmesh".into()),
        ("aud", "trailmesh/eu".into()),
        ("aud", serde_json::json!([agent.to_string()])),
        ("aud", agent.to_string().to_uppercase().into()),
        ("exp", (NOW + 61).into()),
        ("exp", (NOW - 31).into()),
        ("exp", i64::MAX.into()),
        ("iat", (NOW + 31).into()),
        ("iat", i64::MIN.into()),
        ("nbf", (NOW + 31).into()),
        ("jti", "".into()),
        ("sub", "nobody".into()),
        ("sid", serde_json::Value::Null),
        ("key", KeyId::fresh().to_string().into()),
        ("region", "us".into()),
        ("tenant", "x".into()),
        ("server", "x".into()),
        ("server", agent.to_string().into()),
        ("method", "/trailmesh.agent.v1.AgentService/History".into()),
        ("scope", "all".into()),
    ] {
        let mut claims = good.clone();
        claims[field] = value;
        assert!(read(&claims).is_err(), "{field}");
    }
    for field in good.as_object().unwrap().keys() {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().remove(field);
        assert!(read(&claims).is_err(), "{field}");
    }
    let doubled = good
        .to_string()
        .replacen('{', &format!(r#"{{"method":"{CHANGES}","#), 1);
    let doubled = signed(HEADER, &doubled);
    assert!(
        keys()
            .delegation_at(&doubled, tenant(&context), agent, CHANGES, NOW)
            .is_err()
    );
}

#[test]
fn a_key_that_was_given_up_delegates_nothing() {
    let (token, context, agent) = good();
    let keys = keys();
    let other = Signer::new("key-2".into(), &[9; 32]).unwrap();
    assert_eq!(keys.list(), [signer().verifying_key()]);
    keys.replace(vec![other.verifying_key()]);
    let refused = keys.delegation_at(&token, tenant(&context), agent, CHANGES, NOW);
    assert_eq!(refused, Err(Error::Delegation("kid")));
}

proptest! {
    #[test]
    fn with_any_one_character_changed_it_is_refused(at in any::<proptest::sample::Index>(), to in "[ -~]") {
        let (token, context, agent) = good();
        let at = at.index(token.len());
        prop_assume!(token[at..=at] != to);
        let changed = format!("{}{to}{}", &token[..at], &token[at + 1..]);
        prop_assert!(keys().delegation_at(&changed, tenant(&context), agent, CHANGES, NOW).is_err());
    }

    #[test]
    fn every_method_and_instant_is_read_back_and_no_other(method in "\\PC{0,60}", other in "\\PC{0,60}", now in 0_i64..1 << 40) {
        let (context, agent) = (person(Some(Role::Viewer)), AgentId::fresh());
        let token = signer().delegation(&context, now + 60, (agent, server()), &method, Region::Eu, now).unwrap();
        let read = |method: &str| keys().delegation_at(&token, tenant(&context), agent, method, now);
        prop_assert!(read(&method).is_ok());
        prop_assert_eq!(read(&other).is_ok(), method == other);
    }

    #[test]
    fn what_is_no_token_is_refused_without_a_panic(text in "\\PC{0,200}") {
        let refused = keys().delegation_at(&text, TenantId::fresh(), AgentId::fresh(), CHANGES, NOW);
        prop_assert!(refused.is_err());
    }
}
