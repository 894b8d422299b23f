//! Who opens what.

use proto::{tenant::v1 as tenant_pb, vault::v1 as pb};
use rcgen::PKCS_ED25519;
use tonic::Code;
use types::ServerId;

use crate::world::{Agent, Keys, No, World};

const KEY: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n-----END OPENSSH PRIVATE KEY-----\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_an_agent_of_the_servers_pool_opens_it() {
    let world = World::new().await;
    let anna = world.owner().await;
    let bert = world.owner().await;
    let (east, west) = (anna.pool("east").await, anna.pool("west").await);
    let server = anna.server("db1", &east, "the password").await;
    let of_bert = bert.server("db1", "", "of another tenant").await;
    let schema = anna.schema();

    let mine = anna.enrolled("mine", &east).await;
    let other_pool = anna.enrolled("other-pool", &west).await;
    let other_tenant = bert.enrolled("other-tenant", "").await;
    let revoked = anna.enrolled("revoked", &east).await;
    let frozen = anna.enrolled("frozen", &east).await;
    anna.revoke(&revoked.id).await;
    let freeze = |table: &str, id: &str, time: &str| {
        world.db.sql(&format!(
            "UPDATE {schema}.{table} SET frozen_time = {time} WHERE id = '{id}'"
        ));
    };
    freeze("agent", &frozen.id, "now()");

    let password = [(pb::SecretKind::MysqlPassword, "the password".to_owned())];
    assert_eq!(world.connect(&mine).open(&server).await.unwrap(), password);
    let reason = async |agent: &Agent, server: &str| {
        let no = world.connect(agent).open(server).await.unwrap_err();
        assert!(!format!("{no:?}").contains("password"));
        (no.code, no.reason)
    };
    let missing = (Code::NotFound, "SERVER_NOT_FOUND".to_owned());
    assert_eq!(reason(&other_pool, &server).await, missing);
    assert_eq!(reason(&other_tenant, &server).await, missing);
    assert_eq!(reason(&mine, &of_bert).await, missing);
    assert_eq!(
        reason(&revoked, &server).await,
        (Code::PermissionDenied, "AGENT_REVOKED".to_owned())
    );
    assert_eq!(
        reason(&frozen, &server).await,
        (Code::FailedPrecondition, "AGENT_FROZEN".to_owned())
    );
    freeze("agent", &frozen.id, "NULL");
    assert_eq!(world.connect(&frozen).open(&server).await.unwrap(), password);
    freeze("server", &server, "now()");
    assert_eq!(
        reason(&mine, &server).await,
        (Code::FailedPrecondition, "SERVER_FROZEN".to_owned())
    );
    // Whoever may not see a server does not learn that it is frozen.
    assert_eq!(reason(&other_pool, &server).await, missing);
    freeze("server", &server, "NULL");

    let tenant = anna.tenant();
    for (state, wanted) in [("suspended", Some("TENANT_NOT_ACTIVE")), ("active", None)] {
        world.db.sql(&format!(
            "UPDATE tenant.tenant SET state = '{state}' WHERE id = '{tenant}'"
        ));
        let outcome = world.connect(&mine).open(&server).await;
        assert_eq!(outcome.err().map(|no| no.reason).as_deref(), wanted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_and_made_up_servers_are_answered_alike() {
    let world = World::new().await;
    let anna = world.owner().await;
    let bert = world.owner().await;
    let west = anna.pool("west").await;
    let agent = anna.enrolled("a1", "").await;
    let connection = world.connect(&agent);
    let other_pool = anna.server("db1", &west, "x").await;
    let foreign = bert.server("db1", "", "x").await;
    let wanted = connection.open(&ServerId::fresh().to_string()).await.unwrap_err();
    for server in [other_pool.as_str(), &foreign, &agent.id, "", "x", "' OR 1=1"] {
        let no = connection.open(server).await.unwrap_err();
        assert_eq!(no, wanted, "{server}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_service_and_no_person_opens_anything() {
    let world = World::new().await;
    let anna = world.owner().await;
    let server = anna.server("db1", "", "the password").await;
    let port = world.port();
    for name in ["gateway", "tenant", "auth", "vault", "query", "agent"] {
        let service = world.service(name, port).await;
        let mut client = pb::agent_identity_service_client::AgentIdentityServiceClient::new(
            service.peer("vault").unwrap(),
        );
        let open = pb::OpenCredentialsRequest {
            server_id: server.clone(),
        };
        // With the token of the owner, too.
        let open = anna.request("vault.v1.AgentIdentityService/OpenCredentials", open);
        let no = No::from(client.open_credentials(open).await.unwrap_err());
        assert_eq!(
            (no.code, no.reason.as_str()),
            (Code::PermissionDenied, "CALLER_NOT_ALLOWED"),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_is_opened_with_its_newest_value() {
    let world = World::new().await;
    let anna = world.owner().await;
    let server = anna.server("db1", "", "first").await;
    let agent = anna.enrolled("a1", "").await;
    let connection = world.connect(&agent);
    let all = [
        (pb::SecretKind::Dsn, "mysql://replica:pass@db/x"),
        (pb::SecretKind::MysqlPassword, "second"),
        (pb::SecretKind::ServiceToken, "tok_1"),
        (pb::SecretKind::SshKey, KEY),
        (
            pb::SecretKind::TlsKey,
            "-----BEGIN PRIVATE KEY-----\nMC4=\n-----END PRIVATE KEY-----\n",
        ),
    ];
    for (kind, value) in all {
        anna.set(&server, kind, value).await;
    }
    let mut open = connection.open(&server).await.unwrap();
    open.sort_by_key(|(_, value)| value.clone());
    let mut wanted: Vec<_> = all
        .map(|(kind, value)| (kind, value.to_owned()))
        .into_iter()
        .collect();
    wanted.sort_by_key(|(_, value)| value.clone());
    assert_eq!(open, wanted);

    let delete = tenant_pb::DeleteServerCredentialRequest {
        server_id: server.clone(),
        kind: pb::SecretKind::ServiceToken.into(),
    };
    let delete = anna.request("tenant.v1.ServerService/DeleteServerCredential", delete);
    anna.servers().delete_server_credential(delete).await.unwrap();
    assert_eq!(connection.open(&server).await.unwrap().len(), 4);
    let bare = anna.server("db2", "", "").await;
    assert!(connection.open(&bare).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_connection_of_a_revoked_agent_is_worth_nothing() {
    let world = World::new().await;
    let anna = world.owner().await;
    let server = anna.server("db1", "", "the password").await;
    let agent = anna.enrolled("a1", "").await;
    let connection = world.connect(&agent);
    connection.open(&server).await.unwrap();
    anna.revoke(&agent.id).await;
    for no in [
        connection.open(&server).await.unwrap_err(),
        connection.renew(&Keys::new(&PKCS_ED25519)).await.unwrap_err(),
    ] {
        assert_eq!(
            (no.code, no.reason.as_str()),
            (Code::PermissionDenied, "AGENT_REVOKED")
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openings_are_in_the_audit_log_before_they_are_answered_and_then_counted() {
    let mut world = World::new().await;
    let tenant;
    {
        let anna = world.owner().await;
        tenant = anna.tenant().to_string();
        let server = anna.server("db1", "", "the password").await;
        let agent = anna.enrolled("a1", "").await;
        let connection = world.connect(&agent);
        for _ in 0..50 {
            connection.open(&server).await.unwrap();
        }
        connection.open(&ServerId::fresh().to_string()).await.unwrap_err();
        let seen = testkit::eventually("the first entries", || {
            let seen = world.audited(&tenant, "OpenCredentials");
            (seen.len() == 2).then_some(seen)
        });
        let text = seen[0].to_string();
        assert!(text.contains(&server) && text.contains(&agent.id), "{text}");
        assert!(seen[1].to_string().contains("SERVER_NOT_FOUND"));
    }
    // The rest is written when its time is over, or the service ends.
    world.stop_vaults();
    let counts = testkit::eventually("the rest", || {
        let seen = world.audited(&tenant, "OpenCredentials");
        (seen.len() == 3).then_some(seen)
    });
    assert!(counts[2].to_string().contains("\"count\":49"), "{}", counts[2]);
    for entry in counts {
        assert!(!entry.to_string().contains("the password"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_without_measure_fills_neither_the_audit_log_nor_the_vault() {
    let mut world = World::new().await;
    let (tenant, told);
    {
        let anna = world.owner().await;
        tenant = anna.tenant().to_string();
        let server = anna.server("db1", "", "the password").await;
        let (loud, other) = (anna.enrolled("loud", "").await, anna.enrolled("other", "").await);
        anna.revoke(&loud.id).await;
        let connection = world.connect(&loud);
        for _ in 0..20 {
            let no = connection.open(&ServerId::fresh().to_string()).await.unwrap_err();
            assert_eq!(no.reason, "AGENT_REVOKED");
        }
        let calls = (0..900).map(|_| {
            let connection = connection.clone();
            async move { connection.open(&ServerId::fresh().to_string()).await.unwrap_err() }
        });
        let answers = futures_util::future::join_all(calls).await;
        let fast: Vec<_> = answers
            .iter()
            .filter(|no| no.code == Code::ResourceExhausted && no.reason == "AGENT_TOO_FAST")
            .collect();
        assert!(fast.len() > 100, "{} of 900", fast.len());
        told = fast.len() as u64 + 20;
        world.connect(&other).open(&server).await.unwrap();
    }
    world.stop_vaults();
    let seen = testkit::eventually("all of them", || {
        let seen = world.audited(&tenant, "OpenCredentials");
        let count: u64 = seen
            .iter()
            .filter_map(|entry| entry["event"]["count"].as_u64())
            .sum();
        (count >= told).then_some(seen)
    });
    // Three kinds, each once and once more with its number, in each ten seconds that they took.
    assert!(seen.len() < 30, "{} entries", seen.len());
    assert!(!seen.iter().any(|entry| {
        let text = entry.to_string();
        text.contains("AGENT_REVOKED") && text.contains("srv_")
    }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_opened_that_the_audit_log_does_not_learn_of() {
    let world = World::new().await;
    let anna = world.owner().await;
    let server = anna.server("db1", "", "the password").await;
    let agent = anna.enrolled("a1", "").await;
    let connection = world.connect(&agent);
    world
        .db
        .sql("REVOKE INSERT (id, tenant_id, user_id, event) ON tenant.audit_inbox FROM trailmesh_vault");
    for _ in 0..2 {
        let no = connection.open(&server).await.unwrap_err();
        assert_eq!(no.code, Code::Internal, "{no:?}");
    }
    world
        .db
        .sql("GRANT INSERT (id, tenant_id, user_id, event) ON tenant.audit_inbox TO trailmesh_vault");
    connection.open(&server).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_in_no_answer_and_in_no_dump() {
    let world = World::new().await;
    let anna = world.owner().await;
    let canary = "canary-4f1e9a5c-of-a-password";
    let server_id = anna.server("db1", "", canary).await;
    anna.set(&server_id, pb::SecretKind::Dsn, &format!("mysql://u:{canary}@h/"))
        .await;
    let agent = anna.enrolled("a1", "").await;
    world.connect(&agent).open(&server_id).await.unwrap();
    let list = tenant_pb::ListServerCredentialsRequest {
        server_id: server_id.clone(),
    };
    let list = anna.request("tenant.v1.ServerService/ListServerCredentials", list);
    let list = anna.servers().list_server_credentials(list).await.unwrap();
    assert_eq!(list.get_ref().credentials.len(), 2);
    assert!(!format!("{list:?}").contains(canary));
    let get = anna.request(
        "tenant.v1.ServerService/GetServer",
        tenant_pb::GetServerRequest { server_id },
    );
    let get = anna.servers().get_server(get).await.unwrap();
    assert!(!format!("{get:?}").contains(canary));
    let dump = world.db.dump();
    assert!(dump.len() > 10_000);
    let found = |needle: &[u8]| dump.windows(needle.len()).any(|part| part == needle);
    assert!(found(b"btv1:"));
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(canary);
    let hex: String = canary.bytes().map(|byte| format!("{byte:02x}")).collect();
    for needle in [canary, &encoded[..30], &hex] {
        assert!(!found(needle.as_bytes()), "{needle}");
    }
}
