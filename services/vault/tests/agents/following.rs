//! What agents follow and trust, and which of them count.

use proto::{tenant::v1 as tenant_pb, vault::v1 as pb};
use rcgen::PKCS_ED25519;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tonic::Code;
use types::{AgentId, TenantId};

use crate::world::{Agent, Keys, World};

const PIN: &str = "sha256/AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const NEXT: &str = "sha256/HwECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn reference(agent: &Agent) -> pb::AgentRef {
    pb::AgentRef {
        tenant_id: agent.tenant.clone(),
        agent_id: agent.id.clone(),
        serial: agent.certificate.serial.clone(),
    }
}

fn ders(pem: &[u8]) -> Vec<Vec<u8>> {
    CertificateDer::pem_slice_iter(pem)
        .map(|one| one.unwrap().to_vec())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_told_the_servers_of_its_pool_and_of_no_other() {
    let world = World::new().await;
    let (anna, bert) = (world.owner().await, world.owner().await);
    bert.server("foreign", "", "x").await;
    let pool = anna.pool("eu").await;
    let first = anna.server("db-1", &pool, "correct horse").await;
    anna.server("elsewhere", "", "x").await;
    let frozen = anna.server("db-3", &pool, "x").await;
    let second = anna.server("db-2", &pool, "x").await;
    world.db.sql(&format!(
        "UPDATE {}.server SET frozen_time = now() WHERE id = '{frozen}'",
        anna.schema()
    ));
    let connection = world.connect(&anna.enrolled("a1", &pool).await);
    let told = connection.assignment().await.unwrap().servers;
    let ids: Vec<&str> = told.iter().map(|server| server.id.as_str()).collect();
    assert_eq!(ids, [&first, &second]);
    let server = &told[0];
    assert_eq!(
        (
            server.name.as_str(),
            server.host.as_str(),
            server.port,
            server.username.as_str(),
            server.tls_mode.as_str()
        ),
        ("db-1", "db.example.com", 3306, "replica", "verify-identity")
    );
    assert!(!told.iter().any(|server| format!("{server:?}").contains("horse")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_servers_version_is_another_one_whenever_something_of_it_is() {
    let world = World::new().await;
    let anna = world.owner().await;
    let server = anna.server("db-1", "", "first").await;
    let connection = world.connect(&anna.enrolled("a1", "").await);
    let version = async || {
        let told = connection.assignment().await.unwrap().servers;
        told[0].version.clone()
    };
    let mut seen = vec![version().await];
    assert_eq!(version().await, seen[0]);
    anna.set(&server, pb::SecretKind::MysqlPassword, "second").await;
    seen.push(version().await);
    let key = Keys::new(&PKCS_ED25519).key.serialize_pem();
    anna.set(&server, pb::SecretKind::TlsKey, &key).await;
    seen.push(version().await);
    let schema = anna.schema();
    for set in [
        "name = 'db-9'",
        "host = 'db9.example.com'",
        "port = 3307",
        "username = 'other'",
        "tls_mode = 'verify_ca'",
    ] {
        world.db.sql(&format!("UPDATE {schema}.server SET {set}"));
        seen.push(version().await);
    }
    world
        .db
        .sql(&format!("DELETE FROM {schema}.credential WHERE kind = 'tls_key'"));
    seen.push(version().await);
    let all = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), all, "{seen:?}");
    // Labels are nothing to the agent, and a value that is sealed anew is the same value.
    let before = version().await;
    world.db.sql(&format!(
        "UPDATE {schema}.server SET labels = '{{\"a\": \"b\"}}', version = version + 1"
    ));
    world.db.sql(&format!(
        "UPDATE {schema}.credential SET envelope = 'btv1:9:x', key_version = 9"
    ));
    assert_eq!(version().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_told_what_to_trust_when_it_enrols_and_whenever_it_asks() {
    let mut world = World::new().await;
    let port = world
        .start_vault(&[&format!("--gateway-pins={PIN},{NEXT}")])
        .await;
    let anna = world.owner().await;
    let (_, token) = anna.agent("a1", "").await;
    world.wait_for_authority();
    let (agent, of_enrolment) = world.enrol_trusting(port, &token).await;
    let connection = world.connect_when_trusted(&agent, port, "srv_x").await;
    let trust = connection.assignment().await.unwrap().trust.unwrap();
    assert_eq!(trust, of_enrolment);
    let bundle = std::fs::read(world.authority.bundle_file()).unwrap();
    assert_eq!(ders(trust.bundle.as_bytes()), ders(&bundle));
    assert_eq!(
        (trust.trust_domain.as_str(), trust.region.as_str()),
        ("trailmesh", "eu")
    );
    assert_eq!(trust.pins, [PIN, NEXT]);
    let key = crate::world::signer().verifying_key();
    assert_eq!(
        trust.delegation_keys,
        [pb::DelegationKey {
            kid: key.kid,
            ed25519: key.ed25519.to_vec().into(),
        }]
    );
    // A delegation that auth signs is read with exactly what the agent was told.
    let keys = chassis::token::KeySet::new(trust.region.parse().unwrap());
    keys.replace(
        trust
            .delegation_keys
            .iter()
            .map(|key| chassis::token::VerifyingKey {
                kid: key.kid.clone(),
                ed25519: key.ed25519.as_ref().try_into().unwrap(),
            })
            .collect(),
    );
    let (now, id) = (chassis::token::now(), agent.id.parse().unwrap());
    let signer = crate::world::signer();
    let about = (id, types::ServerId::fresh());
    let token = signer.delegation(&anna.context, now + 60, about, "/x/Y", types::Region::Eu, now);
    keys.delegation(&token.unwrap(), anna.tenant(), id, "/x/Y")
        .unwrap();
    // Without pins the other replica, which may hear of the authority a moment later, tells none.
    let other = world
        .connect_when_trusted(&agent, world.replicas[0], "srv_x")
        .await;
    let told = other.assignment().await.unwrap();
    assert_eq!(told.trust.unwrap().pins, [] as [&str; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_revoked_or_is_beyond_the_plan_is_told_nothing() {
    let world = World::new().await;
    let anna = world.owner().await;
    anna.server("db-1", "", "x").await;
    let (gone, frozen) = (anna.enrolled("a1", "").await, anna.enrolled("a2", "").await);
    let (of_gone, of_frozen) = (world.connect(&gone), world.connect(&frozen));
    for connection in [&of_gone, &of_frozen] {
        assert_eq!(connection.assignment().await.unwrap().servers.len(), 1);
    }
    anna.revoke(&gone.id).await;
    let no = of_gone.assignment().await.unwrap_err();
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::PermissionDenied, "AGENT_REVOKED")
    );
    let schema = anna.schema();
    let freeze = |time: &str| {
        world.db.sql(&format!(
            "UPDATE {schema}.agent SET frozen_time = {time} WHERE id = '{}'",
            frozen.id
        ));
    };
    freeze("now()");
    let no = of_frozen.assignment().await.unwrap_err();
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::FailedPrecondition, "AGENT_FROZEN")
    );
    freeze("NULL");
    assert_eq!(of_frozen.assignment().await.unwrap().servers.len(), 1);
    world.db.sql("UPDATE tenant.tenant SET state = 'suspended'");
    let no = of_frozen.assignment().await.unwrap_err();
    assert_eq!(no.reason, "TENANT_NOT_ACTIVE");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_certificates_those_that_do_not_count_are_named() {
    let world = World::new().await;
    let (anna, bert, carl) = (world.owner().await, world.owner().await, world.owner().await);
    let query = world.asking("query").await;
    let mut agents = Vec::new();
    for name in ["fine", "revoked", "frozen", "expired", "void", "pending"] {
        agents.push(anna.enrolled(name, "").await);
    }
    agents.push(bert.enrolled("fine", "").await);
    agents.push(carl.enrolled("suspended", "").await);
    let mut asked: Vec<pb::AgentRef> = agents.iter().map(reference).collect();
    assert_eq!(query.check(&asked).await.unwrap(), [] as [u32; 0]);

    anna.revoke(&agents[1].id).await;
    let schema = anna.schema();
    for sql in [
        format!(
            "UPDATE {schema}.agent SET frozen_time = now() WHERE id = '{}'",
            agents[2].id
        ),
        format!(
            "UPDATE vault.agent_certificate SET issue_time = now() - interval '2 days', expire_time = now() WHERE agent_id = '{}'",
            agents[3].id
        ),
        format!(
            "UPDATE vault.agent_certificate SET revoke_time = now() WHERE agent_id = '{}'",
            agents[4].id
        ),
        format!(
            "UPDATE tenant.tenant SET state = 'suspended' WHERE id = '{}'",
            carl.tenant()
        ),
    ] {
        world.db.sql(&sql);
    }
    anna.renew_enrolment(&agents[5].id).await;
    // What is of another, or of nobody.
    let with = |change: &dyn Fn(&mut pb::AgentRef)| {
        let mut one = reference(&agents[0]);
        change(&mut one);
        one
    };
    asked.push(with(&|one| one.tenant_id = bert.tenant().to_string()));
    asked.push(with(&|one| one.agent_id = agents[6].id.clone()));
    asked.push(with(&|one| one.serial = agents[6].certificate.serial.clone()));
    asked.push(with(&|one| one.serial = "'; --".to_owned()));
    asked.push(with(&|one| one.agent_id = AgentId::fresh().to_string()));
    asked.push(with(&|one| one.tenant_id = TenantId::fresh().to_string()));
    // The same twice is answered twice.
    asked.push(reference(&agents[0]));
    asked.push(reference(&agents[1]));
    assert_eq!(
        query.check(&asked).await.unwrap(),
        [1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 15]
    );
    assert_eq!(query.check(&[]).await.unwrap(), [] as [u32; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_are_asked_about_at_once_and_no_more_and_by_query_only() {
    let world = World::new().await;
    let anna = world.owner().await;
    let one = reference(&anna.enrolled("a1", "").await);
    let query = world.asking("query").await;
    let thousand = vec![one.clone(); 1_000];
    assert_eq!(query.check(&thousand).await.unwrap(), [] as [u32; 0]);
    let no = query.check(&vec![one.clone(); 1_001]).await.unwrap_err();
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::InvalidArgument, "FIELD_INVALID")
    );
    for (field, bad) in [
        (
            "tenant_id",
            pb::AgentRef {
                tenant_id: "acme".to_owned(),
                ..one.clone()
            },
        ),
        (
            "agent_id",
            pb::AgentRef {
                agent_id: String::new(),
                ..one.clone()
            },
        ),
    ] {
        let no = query.check(&[bad]).await.unwrap_err();
        assert_eq!(no.code, Code::InvalidArgument, "{field}");
    }
    for service in ["gateway", "tenant"] {
        let no = world
            .asking(service)
            .await
            .check(std::slice::from_ref(&one))
            .await
            .unwrap_err();
        assert_eq!(no.reason, "CALLER_NOT_ALLOWED", "{service}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_cannot_be_looked_at_keeps_nobody_else_from_being_named() {
    let world = World::new().await;
    let (anna, bert) = (world.owner().await, world.owner().await);
    let (of_anna, of_bert) = (anna.enrolled("a1", "").await, bert.enrolled("b1", "").await);
    bert.revoke(&of_bert.id).await;
    let schema = anna.schema();
    world
        .db
        .sql(&format!("ALTER TABLE {schema}.agent RENAME TO agent_of_before"));
    let query = world.asking("query").await;
    let asked = [reference(&of_anna), reference(&of_bert)];
    let answer = query.look(&asked).await.unwrap();
    assert_eq!((answer.void, answer.unknown), (vec![1], vec![0]));
    assert_eq!(query.check(&asked[..1]).await.unwrap_err().code, Code::Internal);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_are_told_the_authorities_of_agents() {
    let world = World::new().await;
    let anna = world.owner().await;
    let agent = anna.enrolled("a1", "").await;
    let chain = ders(agent.certificate.chain.as_bytes());
    for service in ["query", "gateway"] {
        let told = world.asking(service).await.authorities().await.unwrap();
        assert_eq!(told, chain[1..], "{service}");
    }
    world
        .operator()
        .await
        .rotate_agent_authority("trailmesh")
        .await
        .unwrap();
    let both = world.asking("query").await.authorities().await.unwrap();
    assert_eq!((both.len(), &both[0]), (2, &chain[1]));
    let no = world.asking("tenant").await.authorities().await.unwrap_err();
    assert_eq!(no.reason, "CALLER_NOT_ALLOWED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_certificate_ran_out_comes_back_as_who_it_was() {
    let world = World::new().await;
    let anna = world.owner().await;
    let server = anna.server("db-1", "", "correct horse").await;
    let before = anna.enrolled("a1", "").await;
    let lost = world.connect(&before);
    lost.open(&server).await.unwrap();
    let token = anna.renew_enrolment(&before.id).await;
    // Pending: nothing of it counts, and it gets nothing by what it has.
    assert_eq!(lost.open(&server).await.unwrap_err().reason, "AGENT_REVOKED");
    assert_eq!(lost.assignment().await.unwrap_err().reason, "AGENT_REVOKED");
    let keys = Keys::new(&PKCS_ED25519);
    assert_eq!(lost.renew(&keys).await.unwrap_err().reason, "AGENT_REVOKED");

    let after = world.enrol(&token).await.unwrap();
    assert_eq!((&after.id, &after.tenant), (&before.id, &before.tenant));
    let back = world.connect(&after);
    assert_eq!(back.open(&server).await.unwrap().len(), 1);
    assert_eq!(back.assignment().await.unwrap().servers.len(), 1);
    // The certificates of before are void, though the agent is enrolled and they have not ended.
    assert_eq!(lost.open(&server).await.unwrap_err().reason, "AGENT_REVOKED");
    assert_eq!(lost.assignment().await.unwrap_err().reason, "AGENT_REVOKED");
    let query = world.asking("query").await;
    let asked = [reference(&before), reference(&after)];
    assert_eq!(query.check(&asked).await.unwrap(), [0]);
    // Nor does the token enrol twice.
    assert_eq!(
        world.enrol(&token).await.unwrap_err().reason,
        "ENROLMENT_TOKEN_INVALID"
    );
    // One that was revoked does not come back.
    anna.revoke(&after.id).await;
    let renew = tenant_pb::RenewEnrolmentRequest {
        agent_id: after.id.clone(),
    };
    let renew = anna.request("tenant.v1.AgentService/RenewEnrolment", renew);
    assert!(anna.agents().renew_enrolment(renew).await.is_err());
}
