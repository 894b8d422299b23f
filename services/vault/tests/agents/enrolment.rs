//! Tokens: each enrols its agent, once.

use std::time::{Duration, Instant};

use proto::{tenant::v1 as tenant_pb, vault::v1 as pb};
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use tonic::Code;

use crate::world::{Keys, No, World};

const GOOD_SHAPE: &str = "bt_enrol_0000000000000000000000000000000000000000";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_enrols_and_opens_what_its_server_was_registered_with() {
    let world = World::new().await;
    let anna = world.owner().await;
    let server = anna.server("db1", "", "correct horse").await;
    let (id, token) = anna.agent("a1", "").await;
    world.wait_for_authority();
    for algorithm in [&PKCS_ED25519, &PKCS_ECDSA_P256_SHA256] {
        let (id, token) = if algorithm == &PKCS_ED25519 {
            (id.clone(), token.clone())
        } else {
            anna.agent("a2", "").await
        };
        let agent = world.enrol_with(&token, Keys::new(algorithm)).await.unwrap();
        assert_eq!((&agent.id, &agent.tenant), (&id, &anna.tenant().to_string()));
        let connection = world.connect(&agent);
        assert_eq!(
            connection.open(&server).await.unwrap(),
            [(pb::SecretKind::MysqlPassword, "correct horse".to_owned())]
        );
        let get = tenant_pb::GetAgentRequest { agent_id: id };
        let get = anna.request("tenant.v1.AgentService/GetAgent", get);
        let seen = anna.agents().get_agent(get).await.unwrap().into_inner().agent;
        assert_eq!(seen.unwrap().state(), tenant_pb::AgentState::Enrolled);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_who_enrol_at_once_with_one_token_one_succeeds() {
    let world = World::new().await;
    let anna = world.owner().await;
    let (_, token) = anna.agent("a1", "").await;
    world.wait_for_authority();
    let all = (0..100).map(|_| world.enrol(&token));
    let all = futures_util::future::join_all(all).await;
    let (good, bad): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
    assert_eq!(good.len(), 1, "{bad:?}");
    for no in bad {
        assert_eq!(no.unwrap_err().reason, "ENROLMENT_TOKEN_INVALID");
    }
    assert_eq!(world.db.sql("SELECT count(*) FROM vault.agent_certificate"), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_token_that_does_not_enrol_is_answered_alike() {
    let world = World::new().await;
    let anna = world.owner().await;
    let other = world.owner().await;
    world.wait_for_authority();
    let schema = anna.schema();

    let (_, used) = anna.agent("used", "").await;
    world.enrol(&used).await.unwrap();
    let (id, expired) = anna.agent("expired", "").await;
    world.db.sql(&format!(
        "UPDATE {schema}.agent SET enrolment_expire_time = now() - interval '1 second' WHERE id = '{id}'"
    ));
    let (id, revoked) = anna.agent("revoked", "").await;
    anna.revoke(&id).await;
    let (agent_id, renewed) = anna.agent("renewed", "").await;
    let renew = tenant_pb::RenewEnrolmentRequest { agent_id };
    let renew = anna.request("tenant.v1.AgentService/RenewEnrolment", renew);
    let fresh = anna.agents().renew_enrolment(renew).await.unwrap().into_inner();
    let (id, frozen) = anna.agent("frozen", "").await;
    world.db.sql(&format!(
        "UPDATE {schema}.agent SET frozen_time = now() WHERE id = '{id}'"
    ));
    let (_, suspended) = other.agent("a1", "").await;
    world.db.sql(&format!(
        "UPDATE tenant.tenant SET state = 'suspended' WHERE id = '{}'",
        other.tenant()
    ));

    let mut first: Option<No> = None;
    for (what, token) in [
        ("of another cell", GOOD_SHAPE.to_owned()),
        ("nothing", String::new()),
        ("garbage", "\u{0}'; DROP TABLE agent; --".to_owned()),
        ("huge", "x".repeat(100_000)),
        ("of another kind", used.replace("bt_enrol_", "bt_invite_")),
        ("mistyped", format!("{}0", &used[..used.len() - 1])),
        ("used", used),
        ("expired", expired),
        ("revoked", revoked),
        ("renewed", renewed),
        ("frozen", frozen),
        ("suspended", suspended),
    ] {
        let began = Instant::now();
        let no = world.enrol(&token).await.unwrap_err();
        assert_eq!(no.code, Code::Unauthenticated, "{what}: {no:?}");
        assert_eq!(no.reason, "ENROLMENT_TOKEN_INVALID", "{what}");
        assert!(began.elapsed() >= Duration::from_millis(150), "{what}");
        let first = first.get_or_insert_with(|| no.clone());
        assert_eq!(&no, first, "{what}");
    }
    world.enrol(&fresh.enrolment_token).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_none_spends_no_token() {
    let world = World::new().await;
    let anna = world.owner().await;
    let (_, token) = anna.agent("a1", "").await;
    world.wait_for_authority();
    let good = Keys::new(&PKCS_ED25519).csr();
    let other = Keys::new(&PKCS_ED25519).csr();
    let lines: Vec<&str> = good.lines().collect();
    let others: Vec<&str> = other.lines().collect();
    let key = Keys::new(&PKCS_ED25519).key.serialize_pem();
    // The key of one and the signature of another.
    let mixed = [lines[0], lines[1], others[2], others[3]].join("\n");
    for (what, csr) in [
        ("nothing", String::new()),
        ("no PEM", "hello".to_owned()),
        ("half", good[..good.len() / 2].to_owned()),
        ("two", format!("{good}{other}")),
        ("something after", format!("{good}hello")),
        ("something before", format!("hello\n{good}")),
        ("a private key", key),
        (
            "another label",
            good.replace("CERTIFICATE REQUEST", "CERTIFICATE"),
        ),
        ("not base64", good.replace('M', "*")),
        ("mixed", mixed),
        ("huge", format!("{good}{}", "\n".repeat(20_000))),
    ] {
        let request = pb::EnrolAgentRequest {
            enrolment_token: token.clone(),
            csr,
        };
        let no = No::from(world.vault().enrol_agent(request).await.unwrap_err());
        assert_eq!(
            (no.code, no.reason.as_str()),
            (Code::InvalidArgument, "CSR_INVALID"),
            "{what}"
        );
    }
    world.enrol(&token).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_vault_enrols_nobody_and_spends_no_token() {
    let mut world = World::sealed().await;
    let (id, token) = {
        let anna = world.owner().await;
        anna.agent("a1", "").await
    };
    let no = world.enrol(&token).await.unwrap_err();
    assert_eq!((no.code, no.reason.as_str()), (Code::Unavailable, "VAULT_SEALED"));
    // A replica that has the root.
    let root = "--root-key=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let port = world.start_vault(&[root]).await;
    world.wait_for_authority();
    let answer = world.enrol_at(port, &token).await;
    assert_eq!(answer.id, id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enrolments_and_attempts_with_spent_tokens_are_in_the_audit_log() {
    let world = World::new().await;
    let anna = world.owner().await;
    let (id, token) = anna.agent("a1", "").await;
    world.wait_for_authority();
    world.enrol(&token).await.unwrap();
    world.enrol(&token).await.unwrap_err();
    let tenant = anna.tenant().to_string();
    let seen = testkit::eventually("two entries", || {
        let seen = world.audited(&tenant, "EnrolAgent");
        (seen.len() == 2).then_some(seen)
    });
    for (entry, outcome, reason) in [
        (&seen[0], "succeeded", ""),
        (&seen[1], "failed", "ENROLMENT_TOKEN_INVALID"),
    ] {
        let text = entry.to_string();
        assert!(text.contains(&id) && text.contains(outcome), "{text}");
        assert!(text.contains(reason) && !text.contains(&token), "{text}");
    }
}
