//! API keys: what they look like, what they may, and how soon they may no more.

use prost_types::Timestamp;
use proto::{auth::v1 as pb, common::v1::Role};
use tonic::Code;
use types::{KeyId, PoolId};

use crate::{
    actor::{Actor, Credential, claims, key_of, refusal},
    world::{World, as_caller, eventually},
};

const INVALID: (Code, &str) = (Code::Unauthenticated, "CREDENTIAL_INVALID");
const ROLES: [(Role, &str); 5] = [
    (Role::Viewer, "viewer"),
    (Role::Analyst, "analyst"),
    (Role::Operator, "operator"),
    (Role::Admin, "admin"),
    (Role::Owner, "owner"),
];

fn said((code, reason): &(Code, String)) -> (Code, &str) {
    (*code, reason)
}

async fn page(world: &World, actor: &Actor, size: i32, token: &str) -> pb::ListApiKeysResponse {
    let message = pb::ListApiKeysRequest {
        page_size: size,
        page_token: token.to_owned(),
    };
    let answer = world
        .auth
        .keys()
        .list_api_keys(as_caller(message, &actor.context))
        .await;
    answer.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_shown_once_and_acts_for_its_maker_within_its_limits() {
    let world = World::new().await;
    let admin = world.member("admin").await;
    let pool = world.new_pool(&admin.tenant);
    let made = world
        .key(
            &admin,
            pb::CreateApiKeyRequest {
                name: "  deploy ".to_owned(),
                role: Role::Operator.into(),
                scopes: vec![
                    "servers:manage".into(),
                    "tenant:view".into(),
                    "servers:manage".into(),
                ],
                pool_ids: vec![pool.clone()],
                allowed_cidrs: vec!["192.0.2.9/24".into(), "2001:db8::1".into()],
                expire_time: None,
            },
        )
        .await
        .unwrap();
    let key = made.api_key.unwrap();
    assert!(
        made.secret.starts_with("bt_live_") && made.secret.len() == 46,
        "{}",
        made.secret.len()
    );
    assert_eq!(key.prefix, made.secret[..11]);
    assert_eq!((key.name.as_str(), &key.owner_id), ("deploy", &admin.id));
    assert_eq!(key.scopes, ["servers:manage", "tenant:view"]);
    assert_eq!(key.allowed_cidrs, ["192.0.2.0/24", "2001:db8::1/128"]);
    let life = key.expire_time.unwrap().seconds - key.create_time.unwrap().seconds;
    assert_eq!(life, 90 * 86_400);

    let says = claims(&world.auth.key_context(&made.secret).await.unwrap());
    assert_eq!(says["key"], key.id.as_str());
    assert_eq!(says["sub"], admin.id.as_str());
    assert_eq!(says.get("sid"), None);
    assert_eq!(
        says["seat"]["scopes"],
        serde_json::json!(["servers:manage", "tenant:view"])
    );
    assert_eq!(says["seat"]["pools"], serde_json::json!({pool: "operator"}));
    assert_eq!(
        says["seat"].get("role"),
        None,
        "a key of one pool has no role in the tenant"
    );

    let listed = page(&world, &admin, 0, "").await;
    assert_eq!((listed.api_keys.len(), listed.next_page_token.as_str()), (1, ""));
    assert_eq!(listed.api_keys[0].id, key.id);
    let dump = world
        .database
        .sql("SELECT string_agg(k::text, ' ') FROM auth.api_key AS k");
    assert!(!dump.contains(&made.secret[11..]) && dump.contains(&key.prefix));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_the_lower_of_its_role_and_its_owners_role_now() {
    let world = World::new().await;
    let owner = world.member("owner").await;
    let mut keys = Vec::new();
    for (role, word) in ROLES {
        keys.push((word, world.key(&owner, key_of(role)).await.unwrap().secret));
    }
    for (now, _) in ROLES.iter().enumerate() {
        world.seat(&owner.tenant, &owner.id, Some(ROLES[now].1));
        for (of_key, (word, key)) in keys.iter().enumerate() {
            let says = claims(&world.auth.key_context(key).await.unwrap());
            assert_eq!(
                says["seat"]["role"],
                ROLES[now.min(of_key)].1,
                "{word} key of {}",
                ROLES[now].1
            );
        }
    }
    // Roles in single pools only.
    let pool = world.new_pool(&owner.tenant);
    world.database.sql(&format!(
        "UPDATE tenant.member SET role = NULL; \
         INSERT INTO tenant.binding (tenant_id, user_id, pool_id, role) VALUES ('{}', '{}', '{pool}', 'operator')",
        owner.tenant, owner.id
    ));
    for (word, key) in &keys {
        let says = claims(&world.auth.key_context(key).await.unwrap());
        let expected = if ["viewer", "analyst"].contains(word) {
            word
        } else {
            "operator"
        };
        assert_eq!(
            (says["seat"].get("role"), &says["seat"]["pools"][&pool]),
            (None, &expected.into())
        );
    }
    world.seat(&owner.tenant, &owner.id, None);
    for (_, key) in &keys {
        assert_eq!(said(&refusal(world.auth.key_context(key).await)), INVALID);
    }
    world.seat(&owner.tenant, &owner.id, Some("viewer"));
    world.database.sql("UPDATE tenant.tenant SET state = 'suspended'");
    assert_eq!(said(&refusal(world.auth.key_context(&keys[0].1).await)), INVALID);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_not_made_above_its_makers_role_of_now() {
    let world = World::new().await;
    let owner = world.member("owner").await;
    let admin = world.join(&owner.tenant, "admin").await;
    let above = refusal(world.key(&admin, key_of(Role::Owner)).await);
    assert_eq!(said(&above), (Code::PermissionDenied, "ROLE_TOO_HIGH"));
    world.key(&admin, key_of(Role::Admin)).await.unwrap();
    // The context token still says admin; the database knows better.
    world.seat(&owner.tenant, &admin.id, Some("viewer"));
    assert_eq!(
        said(&refusal(world.key(&admin, key_of(Role::Admin)).await)).1,
        "ROLE_TOO_HIGH"
    );
    let operator = world.join(&owner.tenant, "operator").await;
    assert_eq!(
        said(&refusal(world.key(&operator, key_of(Role::Viewer)).await)).1,
        "ROLE_TOO_LOW"
    );
}

/// A mistake in a request for an operator's key, and the reason it is answered with.
type Mistake = (fn(&mut pb::CreateApiKeyRequest), &'static str);

const MISTAKES: &[Mistake] = &[
    (|wanted| wanted.name = " ".into(), "NAME_INVALID"),
    (|wanted| wanted.name = "é".repeat(101), "NAME_INVALID"),
    (|wanted| wanted.name = "a\nb".into(), "NAME_INVALID"),
    (|wanted| wanted.role = 0, "ROLE_INVALID"),
    (|wanted| wanted.role = 99, "ROLE_INVALID"),
    (|wanted| wanted.scopes = vec!["servers:*".into()], "SCOPE_UNKNOWN"),
    (
        |wanted| wanted.scopes = vec!["'; DROP TABLE auth.api_key".into()],
        "SCOPE_UNKNOWN",
    ),
    (
        |wanted| wanted.scopes = vec!["keys:manage".into()],
        "SCOPE_UNKNOWN",
    ),
    (
        |wanted| wanted.scopes = vec!["agents:manage".into()],
        "SCOPE_ABOVE_ROLE",
    ),
    (
        |wanted| wanted.scopes = vec!["tenant:view".into(); 65],
        "TOO_MANY",
    ),
    (|wanted| wanted.pool_ids = vec!["agp_".into(); 65], "TOO_MANY"),
    (
        |wanted| wanted.allowed_cidrs = vec!["10.0.0.0/33".into()],
        "CIDR_INVALID",
    ),
    (
        |wanted| wanted.allowed_cidrs = vec!["example.org".into()],
        "CIDR_INVALID",
    ),
    (
        |wanted| wanted.allowed_cidrs = vec!["10.0.0.0/8".into(); 65],
        "TOO_MANY",
    ),
    (|wanted| wanted.expire_time = at(0), "EXPIRE_TIME_INVALID"),
    (|wanted| wanted.expire_time = at(i64::MAX), "EXPIRE_TIME_INVALID"),
    (|wanted| wanted.expire_time = at(i64::MIN), "EXPIRE_TIME_INVALID"),
];

fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos: 0 })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_wanted_key_is_said_with_its_field() {
    let world = World::new().await;
    let admin = world.member("admin").await;
    for (mistake, reason) in MISTAKES {
        let mut wanted = key_of(Role::Operator);
        mistake(&mut wanted);
        let what = format!("{wanted:?}");
        let status = world.key(&admin, wanted).await.unwrap_err();
        let said_so = refusal(Err::<(), _>(status.clone()));
        assert_eq!(said(&said_so), (Code::InvalidArgument, *reason), "{what}");
        let details = tonic_types::StatusExt::get_error_details(&status);
        let field = &details.bad_request().unwrap().field_violations[0].field;
        assert!(!field.is_empty(), "{what}");
    }
    let now: i64 = world
        .database
        .sql("SELECT extract(epoch FROM clock_timestamp())::bigint")
        .parse()
        .unwrap();
    let ending = |seconds| pb::CreateApiKeyRequest {
        expire_time: at(now + seconds),
        ..key_of(Role::Operator)
    };
    let year = 365 * 86_400;
    let late = refusal(world.key(&admin, ending(year + 60)).await);
    assert_eq!(said(&late).1, "EXPIRE_TIME_INVALID");
    world.key(&admin, ending(year - 60)).await.unwrap();
    assert_eq!(world.database.sql("SELECT count(*) FROM auth.api_key"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn things_of_another_tenant_are_answered_as_nonsense() {
    let world = World::new().await;
    let (admin, other) = (world.member("admin").await, world.member("owner").await);
    let foreign_pool = world.new_pool(&other.tenant);
    let mut answers = Vec::new();
    for pool in [
        foreign_pool,
        PoolId::fresh().to_string(),
        "nonsense".to_owned(),
        "agp_' OR 1=1".to_owned(),
    ] {
        let message = pb::CreateApiKeyRequest {
            pool_ids: vec![pool],
            ..key_of(Role::Viewer)
        };
        let status = world.key(&admin, message).await.unwrap_err();
        answers.push((refusal(Err::<(), _>(status.clone())), status.message().to_owned()));
    }
    assert_eq!(said(&answers[0].0), (Code::NotFound, "POOL_NOT_FOUND"));
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");

    let made = world.key(&other, key_of(Role::Viewer)).await.unwrap();
    let mut answers = Vec::new();
    for key in [
        made.api_key.unwrap().id,
        KeyId::fresh().to_string(),
        "nonsense".to_owned(),
        String::new(),
    ] {
        let status = world.auth.revoke_key(&admin, &key).await.unwrap_err();
        answers.push((refusal(Err::<(), _>(status.clone())), status.message().to_owned()));
    }
    assert_eq!(said(&answers[0].0), (Code::NotFound, "API_KEY_NOT_FOUND"));
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert!(page(&world, &admin, 0, "").await.api_keys.is_empty());
    world.auth.key_context(&made.secret).await.unwrap();
    // A key is for its own tenant, even where its owner has another seat.
    world.seat(&admin.tenant, &other.id, Some("owner"));
    let elsewhere = world
        .auth
        .authenticate(Credential::Key(&made.secret), &admin.tenant, "")
        .await;
    assert_eq!(said(&refusal(elsewhere)), (Code::NotFound, "TENANT_NOT_FOUND"));
    world
        .auth
        .authenticate(Credential::Key(&made.secret), &other.tenant, "")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_counts_only_from_its_networks() {
    let world = World::new().await;
    let admin = world.member("admin").await;
    let message = pb::CreateApiKeyRequest {
        allowed_cidrs: vec!["10.0.0.0/8".into(), "2001:db8::/32".into()],
        ..key_of(Role::Viewer)
    };
    let key = world.key(&admin, message).await.unwrap().secret;
    for address in ["10.1.2.3", "::ffff:10.9.9.9", "2001:db8:ffff::1"] {
        world
            .auth
            .authenticate(Credential::Key(&key), "", address)
            .await
            .unwrap();
    }
    for address in [
        "11.0.0.1",
        "2001:db9::1",
        "::1",
        "",
        "nonsense",
        "10.0.0.1, 11.0.0.1",
    ] {
        let refused = refusal(world.auth.authenticate(Credential::Key(&key), "", address).await);
        assert_eq!(said(&refused), INVALID, "{address}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_key_is_refused_by_the_next_question_and_listed_for_thirty_days() {
    let world = World::new().await;
    let admin = world.member("admin").await;
    let (revoked, expired) = (
        world.key(&admin, key_of(Role::Viewer)).await.unwrap(),
        world.key(&admin, key_of(Role::Viewer)).await.unwrap(),
    );
    let id = revoked.api_key.unwrap().id;
    world.auth.revoke_key(&admin, &id).await.unwrap();
    assert_eq!(
        said(&refusal(world.auth.key_context(&revoked.secret).await)),
        INVALID
    );
    let first = page(&world, &admin, 0, "").await.api_keys;
    let ended = first
        .iter()
        .find(|key| key.id == id)
        .unwrap()
        .revoke_time
        .unwrap();
    // Once more: nothing changes.
    world.auth.revoke_key(&admin, &id).await.unwrap();
    let second = page(&world, &admin, 0, "").await.api_keys;
    assert_eq!(
        second.iter().find(|key| key.id == id).unwrap().revoke_time,
        Some(ended)
    );

    world.auth.key_context(&expired.secret).await.unwrap();
    world.database.sql("UPDATE auth.api_key SET create_time = now() - interval '90 days', expire_time = now() WHERE revoke_time IS NULL");
    assert_eq!(
        said(&refusal(world.auth.key_context(&expired.secret).await)),
        INVALID
    );
    assert_eq!(page(&world, &admin, 0, "").await.api_keys.len(), 2);
    world.database.sql("UPDATE auth.api_key SET revoke_time = revoke_time - interval '31 days', expire_time = expire_time - interval '29 days'");
    let left = page(&world, &admin, 0, "").await.api_keys;
    assert_eq!(left.len(), 1);
    assert_ne!(left[0].id, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn junk_is_refused_without_a_look_at_the_database() {
    let world = World::new().await;
    let admin = world.member("admin").await;
    let key = world.key(&admin, key_of(Role::Viewer)).await.unwrap().secret;
    let unknown = world.key(&admin, key_of(Role::Viewer)).await.unwrap().secret;
    world.database.sql("DELETE FROM auth.api_key");
    assert_eq!(said(&refusal(world.auth.key_context(&unknown).await)), INVALID);
    // From here on looking fails.
    world
        .database
        .sql("REVOKE SELECT ON auth.api_key FROM trailmesh_auth");
    assert_eq!(
        world.auth.key_context(&key).await.unwrap_err().code(),
        Code::Internal
    );
    for place in 0..key.len() {
        for bit in [1, 2, 4] {
            let mut bytes = key.clone().into_bytes();
            bytes[place] ^= bit;
            let changed = String::from_utf8(bytes).unwrap();
            assert_eq!(
                said(&refusal(world.auth.key_context(&changed).await)),
                INVALID,
                "{changed}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_manage_no_keys_and_no_second_factor() {
    let world = World::new().await;
    let mut admin = world.member("owner").await;
    let made = world.key(&admin, key_of(Role::Owner)).await.unwrap();
    admin.context = world.auth.key_context(&made.secret).await.unwrap();
    let listed = world
        .auth
        .keys()
        .list_api_keys(as_caller(pb::ListApiKeysRequest::default(), &admin.context))
        .await;
    assert_eq!(
        said(&refusal(listed)),
        (Code::PermissionDenied, "SESSION_REQUIRED")
    );
    assert_eq!(
        said(&refusal(world.auth.enrol(&admin, None, "").await)).1,
        "SESSION_REQUIRED"
    );
    let message = key_of(Role::Viewer);
    let created = world
        .auth
        .keys()
        .create_api_key(as_caller(message, &admin.context))
        .await;
    assert_eq!(said(&refusal(created)).1, "SESSION_REQUIRED");
}

#[tokio::test(flavor = "multi_thread")]
async fn making_a_key_takes_a_proof_for_exactly_this_key_good_once() {
    let world = World::new().await;
    let admin = world.member("admin").await;
    let (secret, _) = world.enrol(&admin).await;
    let method = "/trailmesh.auth.v1.ApiKeyService/CreateApiKey";
    assert_eq!(
        said(&refusal(
            world.auth.create_key(&admin, key_of(Role::Viewer), "").await
        ))
        .1,
        "MFA_CODE_REQUIRED"
    );
    let shown = world.next_code(&admin, &secret);
    let grant = world
        .auth
        .grant(&admin.context, method, &key_of(Role::Viewer), &shown)
        .await
        .unwrap();
    let call = |message, grant: &str| {
        let request = crate::actor::with_grant(message, &admin.context, grant);
        let mut keys = world.auth.keys();
        async move { keys.create_api_key(request).await }
    };
    assert_eq!(
        said(&refusal(call(key_of(Role::Admin), &grant).await)).1,
        "GRANT_INVALID"
    );
    let bare = as_caller(key_of(Role::Viewer), &admin.context);
    assert_eq!(
        said(&refusal(world.auth.keys().create_api_key(bare).await)).1,
        "GRANT_REQUIRED"
    );
    call(key_of(Role::Viewer), &grant).await.unwrap();
    assert_eq!(
        said(&refusal(call(key_of(Role::Viewer), &grant).await)),
        (Code::Aborted, "GRANT_USED")
    );
    assert_eq!(world.database.sql("SELECT count(*) FROM auth.api_key"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_use_is_noted_to_the_minute_with_its_network() {
    let world = World::new().await;
    let admin = world.member("admin").await;
    let key = world.key(&admin, key_of(Role::Viewer)).await.unwrap().secret;
    assert_eq!(page(&world, &admin, 0, "").await.api_keys[0].last_use_time, None);
    for _ in 0..20 {
        world
            .auth
            .authenticate(Credential::Key(&key), "", "198.51.100.77")
            .await
            .unwrap();
    }
    let noted = eventually("the note", || {
        let noted = world.database.sql("SELECT last_use_from, extract(second FROM last_use_time) = 0 FROM auth.api_key WHERE last_use_time IS NOT NULL");
        (!noted.is_empty()).then_some(noted)
    });
    assert_eq!(noted, "198.51.100.0/24|t");
    let listed = page(&world, &admin, 0, "").await.api_keys;
    assert_eq!(listed[0].last_use_network, "198.51.100.0/24");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_go_through_all_keys_newest_first() {
    let world = World::new().await;
    let admin = world.member("admin").await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(
            world
                .key(&admin, key_of(Role::Viewer))
                .await
                .unwrap()
                .api_key
                .unwrap()
                .id,
        );
    }
    made.reverse();
    let mut seen = Vec::new();
    let mut token = String::new();
    loop {
        let answer = page(&world, &admin, 2, &token).await;
        seen.extend(answer.api_keys.into_iter().map(|key| key.id));
        token = answer.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, made);
    for (size, token, reason) in [
        (-1, "", "PAGE_SIZE_INVALID"),
        (201, "", "PAGE_SIZE_INVALID"),
        (1, "' OR 1=1", "PAGE_TOKEN_INVALID"),
    ] {
        let message = pb::ListApiKeysRequest {
            page_size: size,
            page_token: token.to_owned(),
        };
        let refused = refusal(
            world
                .auth
                .keys()
                .list_api_keys(as_caller(message, &admin.context))
                .await,
        );
        assert_eq!(said(&refused), (Code::InvalidArgument, reason));
    }
}
