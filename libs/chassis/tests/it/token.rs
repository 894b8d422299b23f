//! Tokens: what is written is read back, and nothing else is.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chassis::token::{KeySet, Signer};
use proptest::prelude::*;
use ring::signature::Ed25519KeyPair;
use types::{Context, KeyId, Plan, PoolId, Region, Role, Seat, SessionId, Subject, TenantId, UserId};

use crate::scene::{person, signer};

const NOW: i64 = 1_795_000_000;
const HEADER: &str = r#"{"alg":"EdDSA","typ":"ctx+jwt","kid":"key-1"}"#;

fn keys() -> KeySet {
    let keys = KeySet::new(Region::Eu);
    keys.replace(vec![signer().verifying_key()]);
    keys
}

/// Any header and claims, signed with the right key.
fn signed(header: &str, claims: &str) -> String {
    let body = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims)
    );
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a key");
    let signature = URL_SAFE_NO_PAD.encode(pair.sign(body.as_bytes()));
    format!("{body}.{signature}")
}

fn claims() -> serde_json::Value {
    let token = signer()
        .context(&person(Some(Role::Admin)), Region::Eu, NOW)
        .expect("a token");
    let claims = token.split('.').nth(1).expect("claims");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).expect("base64")).expect("JSON")
}

fn contexts() -> impl Strategy<Value = Context> {
    let role = proptest::sample::select(Role::ALL);
    let pools = proptest::collection::vec(role.clone(), 0..4);
    let scopes = proptest::option::of(proptest::collection::vec("[a-z:\"\\\\é]{0,12}", 0..4));
    let seat = (
        proptest::option::of(role),
        pools,
        scopes,
        proptest::sample::select(Plan::ALL),
    );
    (proptest::option::of(seat), any::<bool>(), any::<bool>()).prop_map(|(seat, by_key, mfa_enabled)| {
        Context {
            subject: if by_key {
                Subject::Key {
                    key: KeyId::fresh(),
                    owner: UserId::fresh(),
                }
            } else {
                Subject::Person {
                    user: UserId::fresh(),
                    session: SessionId::fresh(),
                }
            },
            seat: seat.map(|(role, pools, scopes, plan)| Seat {
                tenant: TenantId::fresh(),
                region: Region::Eu,
                plan,
                role,
                pools: pools.into_iter().map(|role| (PoolId::fresh(), role)).collect(),
                scopes,
            }),
            mfa_enabled,
        }
    })
}

proptest! {
    #[test]
    fn every_context_is_read_back_as_it_was_written(context in contexts()) {
        let token = signer().context(&context, Region::Eu, NOW).unwrap();
        let mut context = context;
        if let Some(seat) = &mut context.seat {
            let own = seat.role;
            seat.pools.retain(|_, role| Some(*role) > own);
        }
        prop_assert_eq!(keys().context_at(&token, NOW), Ok((context, NOW + 60)));
    }

    #[test]
    fn a_token_with_any_one_character_changed_is_refused(at in any::<proptest::sample::Index>(), to in "[ -~]") {
        let token = signer().context(&person(Some(Role::Owner)), Region::Eu, NOW).unwrap();
        let at = at.index(token.len());
        prop_assume!(token[at..=at] != to);
        let changed = format!("{}{to}{}", &token[..at], &token[at + 1..]);
        prop_assert!(keys().context_at(&changed, NOW).is_err());
    }

    #[test]
    fn what_is_no_token_is_refused_without_a_panic(text in "\\PC{0,200}") {
        prop_assert!(keys().context_at(&text, NOW).is_err());
    }
}

/// A seat with as many pools as a tenant has, and the longest of everything.
fn crowded(role: Option<Role>, scopes: usize) -> Context {
    let mut context = person(role);
    let seat = context.seat.as_mut().expect("a seat");
    seat.plan = Plan::Enterprise;
    seat.pools = (0..100).map(|_| (PoolId::fresh(), Role::Operator)).collect();
    seat.scopes = Some((0..scopes).map(|n| format!("{n:*>40}")).collect());
    context
}

#[test]
fn the_largest_seat_fits_into_a_token_that_is_read_back() {
    // 100 pools and 64 scopes are the most that service tenant and an API key allow.
    for role in [None, Some(Role::Viewer)] {
        let context = crowded(role, 64);
        let token = signer().context(&context, Region::Eu, NOW).unwrap();
        assert_eq!(keys().context_at(&token, NOW), Ok((context, NOW + 60)));
    }
}

#[test]
fn what_nobody_would_read_is_not_signed() {
    let signed = signer().context(&crowded(None, 400), Region::Eu, NOW);
    let refused = signed.map(|token| token.len()).unwrap_err();
    assert_eq!(
        (types::Fault::code(&refused), types::Fault::reason(&refused)),
        (types::Code::Internal, "TOKEN_TOO_LONG")
    );
}

#[test]
fn pools_in_which_a_role_adds_nothing_are_left_out() {
    let mut context = crowded(Some(Role::Operator), 0);
    let seat = context.seat.as_mut().expect("a seat");
    let more = PoolId::fresh();
    seat.pools.insert(more, Role::Admin);
    let token = signer().context(&context, Region::Eu, NOW).unwrap();
    let (read, _) = keys().context_at(&token, NOW).unwrap();
    let read = read.seat.expect("a seat");
    assert_eq!(read.pools.into_iter().collect::<Vec<_>>(), [(more, Role::Admin)]);
    assert!(token.len() < 1_000, "{}", token.len());
}

#[test]
fn a_token_counts_from_half_a_minute_before_its_time_to_half_a_minute_after() {
    let token = signer().context(&person(None), Region::Eu, NOW).unwrap();
    for (now, good) in [
        (NOW - 31, false),
        (NOW - 30, true),
        (NOW + 89, true),
        (NOW + 90, false),
    ] {
        assert_eq!(keys().context_at(&token, now).is_ok(), good, "{}", now - NOW);
    }
}

#[test]
fn headers_have_three_fields_and_no_others() {
    let claims = claims().to_string();
    assert!(keys().context_at(&signed(HEADER, &claims), NOW).is_ok());
    for header in [
        r#"{"alg":"none","typ":"ctx+jwt","kid":"key-1"}"#,
        r#"{"alg":"HS256","typ":"ctx+jwt","kid":"key-1"}"#,
        r#"{"alg":"eddsa","typ":"ctx+jwt","kid":"key-1"}"#,
        r#"{"alg":"EdDSA","typ":"JWT","kid":"key-1"}"#,
        r#"{"alg":"EdDSA","typ":"at+jwt","kid":"key-1"}"#,
        r#"{"alg":"EdDSA","typ":"grant+jwt","kid":"key-1"}"#,
        r#"{"alg":"EdDSA","typ":"ctx+jwt"}"#,
        r#"{"alg":"EdDSA","kid":"key-1"}"#,
        r#"{"alg":"EdDSA","typ":"ctx+jwt","kid":"../key-1"}"#,
        r#"{"alg":"EdDSA","typ":"ctx+jwt","kid":""}"#,
        r#"{"alg":"EdDSA","alg":"EdDSA","typ":"ctx+jwt","kid":"key-1"}"#,
        r#"{"alg":"EdDSA","typ":"ctx+jwt","kid":"key-1","jku":"https://x"}"#,
        r#"{"alg":"EdDSA","typ":"ctx+jwt","kid":"key-1","jwk":{}}"#,
        r#"{"alg":"EdDSA","typ":"ctx+jwt","kid":"key-1","x5c":[]}"#,
        r#"{"alg":"EdDSA","typ":"ctx+jwt","kid":"key-1","x5u":"x"}"#,
        r#"{"alg":"EdDSA","typ":"ctx+jwt","kid":"key-1","crit":[]}"#,
        r#"{"alg":"EdDSA","typ":"ctx+jwt","kid":"key-1","b64":false}"#,
        r#"{"alg":"EdDSA","typ":"ctx+jwt","kid":"key-1","zip":"DEF"}"#,
        r#"["EdDSA","ctx+jwt","key-1"]"#,
        "",
    ] {
        assert!(
            keys().context_at(&signed(header, &claims), NOW).is_err(),
            "{header}"
        );
    }
}

#[test]
fn claims_are_those_and_no_others() {
    let good = claims();
    for (field, value) in [
        ("iss", "trailmesh".into()),
        ("aud", "trailmesh/us".into()),
        ("aud", serde_json::json!(["trailmesh/eu"])),
        ("exp", (NOW + 61).into()),
        ("exp", (NOW - 31).into()),
        ("exp", i64::MAX.into()),
        ("exp", serde_json::json!(1e300)),
        ("iat", (NOW + 31).into()),
        ("iat", i64::MIN.into()),
        ("nbf", (NOW + 31).into()),
        ("sub", "nobody".into()),
        ("sub", UserId::fresh().to_string().to_uppercase().into()),
        ("sid", serde_json::Value::Null),
        ("key", KeyId::fresh().to_string().into()),
        ("mfa", "yes".into()),
        ("admin", true.into()),
    ] {
        let mut claims = good.clone();
        claims[field] = value;
        assert!(
            keys()
                .context_at(&signed(HEADER, &claims.to_string()), NOW)
                .is_err(),
            "{field}"
        );
    }
    for field in ["iss", "aud", "iat", "nbf", "exp", "jti", "sub", "sid", "mfa"] {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().remove(field);
        assert!(
            keys()
                .context_at(&signed(HEADER, &claims.to_string()), NOW)
                .is_err(),
            "{field}"
        );
    }
    for (field, value) in [
        ("role", "Owner"),
        ("plan", "gold"),
        ("region", "moon"),
        ("tenant", "x"),
    ] {
        let mut claims = good.clone();
        claims["seat"][field] = value.into();
        assert!(
            keys()
                .context_at(&signed(HEADER, &claims.to_string()), NOW)
                .is_err(),
            "{field}"
        );
    }
}

#[test]
fn keys_that_stand_twice_are_refused_at_every_level() {
    let good = claims().to_string();
    let pool = PoolId::fresh();
    let doubled = [
        good.replacen('{', r#"{"sub":"usr_1","#, 1),
        good.replacen(r#""seat":{"#, r#""seat":{"role":"owner","#, 1),
        good.replacen(
            r#""pools":{}"#,
            &format!(r#""pools":{{"{pool}":"viewer","{pool}":"owner"}}"#),
            1,
        ),
    ];
    for claims in doubled {
        assert_ne!(claims, good);
        assert!(
            keys().context_at(&signed(HEADER, &claims), NOW).is_err(),
            "{claims}"
        );
    }
}

#[test]
fn encodings_are_canonical_and_short() {
    let token = signer().context(&person(None), Region::Eu, NOW).unwrap();
    let (rest, signature) = token.rsplit_once('.').unwrap();
    // 64 bytes end in a character of which two bits count: three others decode to the same bytes.
    let twin = match signature.chars().last().unwrap() {
        'A' => 'B',
        'Q' => 'R',
        'g' => 'h',
        _ => 'x',
    };
    let twin = format!("{rest}.{}{twin}", &signature[..signature.len() - 1]);
    for bad in [
        format!("{token}="),
        format!("{token}=="),
        format!("{token}\n"),
        format!(" {token}"),
        format!("{token}."),
        format!(".{token}"),
        token.replacen('.', "..", 1),
        twin,
        rest.to_owned(),
        format!("{rest}."),
    ] {
        assert!(keys().context_at(&bad, NOW).is_err(), "{bad}");
    }
    let mut long = claims();
    long["jti"] = "x".repeat(12_288).into();
    assert!(
        keys()
            .context_at(&signed(HEADER, &long.to_string()), NOW)
            .is_err()
    );
}

#[test]
fn keys_come_and_go_while_it_runs() {
    let keys = KeySet::new(Region::Eu);
    let (old, new) = (signer(), Signer::new("key-2".into(), &[9; 32]).unwrap());
    let context = person(None);
    let by_old = old.context(&context, Region::Eu, NOW).unwrap();
    let by_new = new.context(&context, Region::Eu, NOW).unwrap();
    let good = |token: &str| keys.context_at(token, NOW).is_ok();
    assert!(keys.is_empty() && !good(&by_old));
    keys.replace(vec![old.verifying_key()]);
    assert!(good(&by_old) && !good(&by_new));
    keys.replace(vec![old.verifying_key(), new.verifying_key()]);
    assert!(good(&by_old) && good(&by_new));
    keys.replace(vec![new.verifying_key()]);
    assert!(!good(&by_old) && good(&by_new));
}
