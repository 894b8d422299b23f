//! Authorities follow each other, and nobody notices.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use proto::vault::v1::{self as pb, agent_identity_service_client::AgentIdentityServiceClient};
use rcgen::PKCS_ED25519;
use sqlx::{Connection as _, Executor as _};

use crate::world::{Keys, No, World};

const ROOT: &str = "--root-key=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_authority_takes_over_and_the_first_ends_with_its_last_certificate() {
    let mut world = World::new().await;
    let second_replica = world.start_vault(&[]).await;
    let world_ref = &world;
    let anna = world_ref.owner().await;
    let server = anna.server("db1", "", "the password").await;
    let old = anna.enrolled("old", "").await;
    let first = world.db.sql("SELECT id FROM vault.agent_authority");
    let connections = [
        world.connect(&old),
        world.connect_when_trusted(&old, second_replica, &server).await,
    ];
    for connection in &connections {
        connection.open(&server).await.unwrap();
    }

    // A year later.
    world
        .db
        .sql("UPDATE vault.agent_authority SET activate_time = activate_time - interval '366 days'");
    testkit::eventually("another authority to take over", || {
        let active = world
            .db
            .sql("SELECT id FROM vault.agent_authority WHERE state = 'active'");
        (!active.is_empty() && active != first).then_some(())
    });
    assert_eq!(world.db.sql("SELECT count(*) FROM vault.agent_authority"), "2");
    assert_eq!(
        world
            .db
            .sql("SELECT count(*) FROM vault.own_secret WHERE purpose = 'agent-authority'"),
        "1",
        "the private key of the retired one is gone"
    );

    // Nobody was cut off, on either replica, and the new one's certificates are good at once.
    let new = anna.enrolled("new", "").await;
    assert_ne!(
        new.certificate.chain.split("-----BEGIN").nth(2),
        old.certificate.chain.split("-----BEGIN").nth(2)
    );
    for connection in &connections {
        connection.open(&server).await.unwrap();
    }
    let more = [world.connect(&new), world.connect_to(&new, second_replica)];
    for connection in &more {
        connection.open(&server).await.unwrap();
    }
    // The old agent renews, and so moves to the new authority.
    world
        .db
        .sql("UPDATE vault.agent_certificate SET issue_time = issue_time - interval '30 hours'");
    let renewed = connections[0].renew(&Keys::new(&PKCS_ED25519)).await.unwrap();
    let by = |serial: &str| {
        world.db.sql(&format!(
            "SELECT authority_id FROM vault.agent_certificate WHERE serial = '{serial}'"
        ))
    };
    assert_eq!(by(&old.certificate.serial), first);
    assert_ne!(by(&renewed.serial), first);

    // Its last certificate has ended.
    world.db.sql(&format!(
        "UPDATE vault.agent_certificate SET expire_time = now() WHERE authority_id = '{first}'"
    ));
    let agent = new.clone();
    drop(anna);
    // Whoever starts looks at once.
    let third_replica = world.start_vault(&[]).await;
    testkit::eventually("the first authority to end", || {
        (world.db.sql("SELECT count(*) FROM vault.agent_authority") == "1").then_some(())
    });
    let connection = world.connect_when_trusted(&agent, third_replica, &server).await;
    connection.open(&server).await.unwrap();
    testkit::eventually("its certificates to be refused at the door", || {
        let outcome = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(world.connect(&old).open(&server))
        });
        outcome.is_err_and(|no| no.reason.is_empty()).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_start_at_once_make_one_authority() {
    // Of three replicas one has no root, so that there is no authority before the others start.
    let mut world = World::sealed().await;
    let mut ports = Vec::new();
    for _ in 0..2 {
        let few = ["--database-max-connections=3", ROOT];
        ports.push(world.start_vault(&few).await);
    }
    let anna = world.owner().await;
    let server = anna.server("db1", "", "").await;
    world.wait_for_authority();
    let (_, token) = anna.agent("a1", "").await;
    let agent = world.enrol_at(ports[0], &token).await;
    for port in ports {
        let connection = world.connect_when_trusted(&agent, port, &server).await;
        connection.open(&server).await.unwrap();
    }
    assert_eq!(world.db.sql("SELECT count(*) FROM vault.agent_authority"), "1");
    assert_eq!(
        world
            .db
            .sql("SELECT count(*) FROM vault.own_secret WHERE purpose = 'agent-authority'"),
        "1"
    );
}

/// Whether a replica waits until agents can enrol, by its admin port.
fn waits_for_authority(admin: SocketAddr) -> bool {
    let mut stream = TcpStream::connect(admin).unwrap();
    stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.contains("the authority of agents")
}

/// Until this connection ends, no vault of the world comes to its keys.
async fn hold_keys_back(world: &World) -> sqlx::PgConnection {
    let mut admin = sqlx::PgConnection::connect(&world.db.admin_url()).await.unwrap();
    admin
        .execute("BEGIN; LOCK TABLE vault.kek IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    admin
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vault_that_is_ready_enrols() {
    let mut world = World::sealed().await;
    let anna = world.owner().await;
    let (_, token) = anna.agent("a1", "").await;
    let (_, second) = anna.agent("a2", "").await;
    let server = anna.server("db1", "", "").await;
    // Without a root nobody waits for it.
    let first = world.admins[0];
    testkit::eventually("the sealed one to be ready", || {
        (!waits_for_authority(first)).then_some(())
    });
    // With one, its keys take as long as the database does.
    let held = hold_keys_back(&world).await;
    let port = world.start_vault(&[ROOT]).await;
    let gateway = world.service("gateway", port).await;
    let mut client = AgentIdentityServiceClient::new(gateway.peer("vault").unwrap());
    let request = pb::EnrolAgentRequest {
        enrolment_token: token,
        csr: Keys::new(&PKCS_ED25519).csr(),
    };
    let no: No = client.enrol_agent(request.clone()).await.unwrap_err().into();
    assert_eq!(no.reason, "VAULT_SEALED");
    assert!(waits_for_authority(world.admins[1]));
    held.close().await.unwrap();
    testkit::eventually("the authority", || {
        (!waits_for_authority(world.admins[1])).then_some(())
    });
    client.enrol_agent(request).await.unwrap();

    // One that finds the authority waits for its keys all the same.
    let agent = world.enrol_at(port, &second).await;
    let held = hold_keys_back(&world).await;
    let port = world.start_vault(&[ROOT]).await;
    let until = Instant::now() + Duration::from_secs(60);
    // Until it has found it, it lets the agent in at no door.
    while let Err(no) = world.connect_to(&agent, port).open(&server).await
        && no.reason != "VAULT_SEALED"
    {
        assert!(Instant::now() < until, "{no:?}");
    }
    assert!(waits_for_authority(world.admins[2]));
    held.close().await.unwrap();
    testkit::eventually("its keys", || {
        (!waits_for_authority(world.admins[2])).then_some(())
    });
    let opened = world.connect_to(&agent, port).open(&server).await;
    assert!(
        !matches!(&opened, Err(no) if no.reason == "VAULT_SEALED"),
        "{opened:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_move_with_their_tenant() {
    let (from, to) = (World::new().await, World::new().await);
    let anna = from.owner().await;
    let server = anna.server("db1", "", "the password").await;
    let agent = anna.enrolled("a1", "").await;
    let outcome = to.connect(&agent).open(&server).await;
    assert!(outcome.unwrap_err().reason.is_empty(), "refused at the door");

    let carried = from.operator().await.export_agents(anna.tenant()).await.unwrap();
    let text = serde_json::to_string(&carried).unwrap();
    assert!(text.contains(&agent.id) && !text.contains("PRIVATE"));
    let carried: vault::AgentIdentities = serde_json::from_str(&text).unwrap();
    let operator = to.operator().await;
    for _ in 0..2 {
        operator.import_agents(anna.tenant(), &carried).await.unwrap();
    }
    // It is known now; its tenant is not there in this test.
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let no = to.connect(&agent).open(&server).await.unwrap_err();
        if !no.reason.is_empty() {
            assert_eq!(no.reason, "TENANT_NOT_ACTIVE");
            break;
        }
        assert!(std::time::Instant::now() < limit, "never trusted: {no:?}");
    }
    // Whoever vouched for it there issues nothing here, and vouches for nobody else.
    let states = to
        .db
        .sql("SELECT state FROM vault.agent_authority ORDER BY state");
    assert_eq!(states, "active\nretired");
    let other = anna.enrolled("a2", "").await;
    let no = to.connect(&other).open(&server).await.unwrap_err();
    assert_eq!(no.reason, "AGENT_REVOKED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_that_is_none_is_not_let_in_and_cuts_nobody_off() {
    let mut world = World::new().await;
    let anna = world.owner().await;
    let tenant = anna.tenant();
    let server = anna.server("db1", "", "the password").await;
    let agent = anna.enrolled("a1", "").await;
    drop(anna);
    // From an archive it is refused: no certificate, or called otherwise than by it.
    let operator = world.operator().await;
    let carried = operator.export_agents(tenant).await.unwrap();
    let good = serde_json::to_value(&carried).unwrap();
    for (field, value) in [
        ("id", serde_json::json!("0011223344556677")),
        ("certificate", serde_json::json!([1, 2, 3])),
    ] {
        let mut bad = good.clone();
        bad["authorities"][0][field] = value;
        let bad: vault::AgentIdentities = serde_json::from_value(bad).unwrap();
        assert!(operator.import_agents(tenant, &bad).await.is_err(), "{field}");
    }
    operator.import_agents(tenant, &carried).await.unwrap();
    // In the table it is left out, also by whoever starts now.
    world.db.sql(
        "INSERT INTO vault.agent_authority (id, certificate, state, activate_time, expire_time)
         VALUES ('0011223344556677', 'damaged', 'retired', now(), now() + interval '1 day')",
    );
    let port = world.start_vault(&[]).await;
    let connection = world.connect_when_trusted(&agent, port, &server).await;
    connection.open(&server).await.unwrap();
    world.connect(&agent).open(&server).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_gives_up_a_certificate_and_an_authority() {
    let world = World::new().await;
    let anna = world.owner().await;
    let server = anna.server("db1", "", "the password").await;
    let agent = anna.enrolled("a1", "").await;
    let connection = world.connect(&agent);
    connection.open(&server).await.unwrap();
    let operator = world.operator().await;
    assert!(operator.rotate_agent_authority("trailmesh").await.unwrap());
    // One at a time.
    assert!(!operator.rotate_agent_authority("trailmesh").await.unwrap());
    assert_eq!(
        world
            .db
            .sql("SELECT state FROM vault.agent_authority ORDER BY state"),
        "active\nnext"
    );
    connection.open(&server).await.unwrap();
    let serial = &agent.certificate.serial;
    assert!(operator.revoke_agent_certificate(serial).await.unwrap());
    assert!(!operator.revoke_agent_certificate("0").await.unwrap());
    let no = connection.open(&server).await.unwrap_err();
    assert_eq!(no.reason, "AGENT_REVOKED");
}
