//! The way of a credential into the vault, through service tenant.

use proto::{tenant::v1 as tenant_pb, vault::v1 as pb};
use tonic::Code;
use types::{Role, ServerId};

use crate::world::{No, Owner, World};

const CANARY: &str = "canary-77c0 of a value";

async fn set(
    who: &Owner<'_>,
    server_id: &str,
    kind: pb::SecretKind,
    value: &str,
) -> Result<tenant_pb::ServerCredential, No> {
    let request = tenant_pb::SetServerCredentialRequest {
        server_id: server_id.to_owned(),
        kind: kind.into(),
        value: value.to_owned(),
    };
    let request = who.request("tenant.v1.ServerService/SetServerCredential", request);
    let answer = who.servers().set_server_credential(request).await?;
    Ok(answer.into_inner().credential.unwrap())
}

async fn delete(who: &Owner<'_>, server_id: &str, kind: pb::SecretKind) -> Result<(), No> {
    let request = tenant_pb::DeleteServerCredentialRequest {
        server_id: server_id.to_owned(),
        kind: kind.into(),
    };
    let request = who.request("tenant.v1.ServerService/DeleteServerCredential", request);
    who.servers().delete_server_credential(request).await?;
    Ok(())
}

async fn list(who: &Owner<'_>, server_id: &str) -> Result<Vec<tenant_pb::ServerCredential>, No> {
    let request = tenant_pb::ListServerCredentialsRequest {
        server_id: server_id.to_owned(),
    };
    let request = who.request("tenant.v1.ServerService/ListServerCredentials", request);
    let answer = who.servers().list_server_credentials(request).await?;
    Ok(answer.into_inner().credentials)
}

async fn register(who: &Owner<'_>, name: &str, password: &str) -> Result<String, No> {
    let request = tenant_pb::RegisterServerRequest {
        server: Some(tenant_pb::Server {
            name: name.to_owned(),
            host: "db.example.com".to_owned(),
            username: "replica".to_owned(),
            ..tenant_pb::Server::default()
        }),
        password: password.to_owned(),
    };
    let request = who.request("tenant.v1.ServerService/RegisterServer", request);
    let answer = who.servers().register_server(request).await?;
    Ok(answer.into_inner().server.unwrap().id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_count_up_and_are_never_used_twice() {
    let world = World::new().await;
    let anna = world.owner().await;
    let server = register(&anna, "db1", "first").await.unwrap();
    let kind = pb::SecretKind::MysqlPassword;
    let found = list(&anna, &server).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].kind(), found[0].version), (kind, 1));
    assert_eq!(found[0].key_version, 1);
    assert!(found[0].set_time.is_some());
    assert_eq!(set(&anna, &server, kind, "second").await.unwrap().version, 2);
    delete(&anna, &server, kind).await.unwrap();
    assert!(list(&anna, &server).await.unwrap().is_empty());
    // It is no secret that there is none: deleting can be repeated.
    delete(&anna, &server, kind).await.unwrap();
    assert_eq!(set(&anna, &server, kind, "third").await.unwrap().version, 3);
    let token = pb::SecretKind::ServiceToken;
    assert_eq!(set(&anna, &server, token, "tok").await.unwrap().version, 1);
    assert_eq!(list(&anna, &server).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_those_who_set_it_at_once_the_last_one_is_opened() {
    let world = World::new().await;
    let anna = world.owner().await;
    let server = register(&anna, "db1", "").await.unwrap();
    let kind = pb::SecretKind::MysqlPassword;
    let values: Vec<String> = (0..6).map(|number| format!("value {number}")).collect();
    let all = values.iter().map(|value| set(&anna, &server, kind, value));
    let all = futures_util::future::join_all(all).await;
    let mut last = (0, String::new());
    let mut versions = Vec::new();
    for (outcome, value) in all.into_iter().zip(&values) {
        let version = outcome.unwrap().version;
        versions.push(version);
        last = last.max((version, value.clone()));
    }
    versions.sort_unstable();
    assert_eq!(versions, [1, 2, 3, 4, 5, 6]);
    let agent = anna.enrolled("a1", "").await;
    let open = world.connect(&agent).open(&server).await.unwrap();
    assert_eq!(open, [(kind, last.1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_cannot_be_are_refused_without_a_word_of_them() {
    let world = World::new().await;
    let anna = world.owner().await;
    let server = register(&anna, "db1", "").await.unwrap();
    let long = |length: usize| format!("{CANARY}{}", "x".repeat(length));
    for (kind, value) in [
        (pb::SecretKind::MysqlPassword, String::new()),
        (pb::SecretKind::MysqlPassword, long(1_024)),
        (pb::SecretKind::MysqlPassword, format!("{CANARY}\0")),
        (pb::SecretKind::ServiceToken, CANARY.to_owned()),
        (pb::SecretKind::ServiceToken, long(65_536)),
        (pb::SecretKind::SshKey, CANARY.to_owned()),
        (pb::SecretKind::TlsKey, CANARY.to_owned()),
        (pb::SecretKind::Dsn, format!("{CANARY}\n")),
        (pb::SecretKind::SinkSecret, CANARY.to_owned()),
        (pb::SecretKind::Unspecified, CANARY.to_owned()),
    ] {
        let no = set(&anna, &server, kind, &value).await.unwrap_err();
        assert_eq!(
            (no.code, no.reason.as_str()),
            (Code::InvalidArgument, "FIELD_INVALID"),
            "{kind:?}"
        );
        let said = format!("{no:?} {}", String::from_utf8_lossy(&no.bytes));
        assert!(!said.contains("canary"), "{said}");
    }
    for password in [long(1_024), format!("{CANARY}\0")] {
        let no = register(&anna, "db2", &password).await.unwrap_err();
        assert_eq!(no.reason, "FIELD_INVALID");
        assert!(!format!("{no:?}").contains("canary"));
    }
    let schema = anna.schema();
    assert_eq!(
        world.db.sql(&format!("SELECT count(*) FROM {schema}.server")),
        "1"
    );
    assert_eq!(
        world.db.sql(&format!("SELECT count(*) FROM {schema}.credential")),
        "0"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_manage_the_server_sets_nothing() {
    let world = World::new().await;
    let anna = world.owner().await;
    let bert = world.owner().await;
    let (east, west) = (anna.pool("east").await, anna.pool("west").await);
    let server = anna.server("db1", &east, "the password").await;
    let kind = pb::SecretKind::MysqlPassword;
    let made_up = ServerId::fresh().to_string();
    for who in [&bert, &anna.member(None, &[(&west, Role::Operator)])] {
        for id in [server.as_str(), &made_up, "x"] {
            for no in [
                set(who, id, kind, CANARY).await.unwrap_err(),
                delete(who, id, kind).await.unwrap_err(),
                list(who, id).await.unwrap_err(),
            ] {
                assert_eq!(
                    (no.code, no.reason.as_str()),
                    (Code::NotFound, "SERVER_NOT_FOUND")
                );
            }
        }
    }
    for role in [Role::Viewer, Role::Analyst] {
        let who = anna.member(Some(role), &[]);
        assert_eq!(
            set(&who, &server, kind, CANARY).await.unwrap_err().reason,
            "ROLE_TOO_LOW"
        );
        assert_eq!(
            delete(&who, &server, kind).await.unwrap_err().reason,
            "ROLE_TOO_LOW"
        );
        assert_eq!(list(&who, &server).await.unwrap().len(), 1);
    }
    let who = anna.member(None, &[(&east, Role::Operator)]);
    assert_eq!(set(&who, &server, kind, "new").await.unwrap().version, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_code_sets_one_value() {
    let world = World::new().await;
    let anna = world.owner().await;
    let server_id = register(&anna, "db1", "").await.unwrap();
    let request = tenant_pb::SetServerCredentialRequest {
        server_id: server_id.clone(),
        kind: pb::SecretKind::MysqlPassword.into(),
        value: "x".to_owned(),
    };
    let request = anna.request("tenant.v1.ServerService/SetServerCredential", request);
    let metadata = request.metadata().clone();
    let again = || {
        let mut again = tonic::Request::new(request.get_ref().clone());
        *again.metadata_mut() = metadata.clone();
        again
    };
    anna.servers().set_server_credential(again()).await.unwrap();
    let no = No::from(anna.servers().set_server_credential(again()).await.unwrap_err());
    assert_eq!(no.reason, "GRANT_USED");
    assert_eq!(list(&anna, &server_id).await.unwrap()[0].version, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_vault_stops_passwords_and_nothing_else() {
    let world = World::sealed().await;
    let anna = world.owner().await;
    let no = register(&anna, "db1", "the password").await.unwrap_err();
    assert_eq!((no.code, no.reason.as_str()), (Code::Unavailable, "VAULT_SEALED"));
    let schema = anna.schema();
    assert_eq!(
        world.db.sql(&format!("SELECT count(*) FROM {schema}.server")),
        "0"
    );
    assert_eq!(
        world.db.sql(&format!("SELECT count(*) FROM {schema}.used_grant")),
        "0"
    );
    let server = register(&anna, "db1", "").await.unwrap();
    let no = set(&anna, &server, pb::SecretKind::MysqlPassword, "x")
        .await
        .unwrap_err();
    assert_eq!((no.code, no.reason.as_str()), (Code::Unavailable, "VAULT_SEALED"));
    assert!(list(&anna, &server).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vault_that_is_gone_stops_passwords_and_nothing_else() {
    let mut world = World::new().await;
    world.stop_vaults();
    let anna = world.owner().await;
    let no = testkit::eventually("the vault to be gone", || {
        let outcome = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(register(&anna, "db1", "the password"))
        });
        outcome.err().filter(|no| no.reason == "VAULT_UNAVAILABLE")
    });
    assert_eq!(no.code, Code::Unavailable);
    register(&anna, "db2", "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_value_opens_in_its_place_and_of_its_version_only() {
    let world = World::new().await;
    let anna = world.owner().await;
    let first = register(&anna, "db1", "of the first").await.unwrap();
    let second = register(&anna, "db2", "of the second").await.unwrap();
    let agent = anna.enrolled("a1", "").await;
    let connection = world.connect(&agent);
    let schema = anna.schema();
    let envelope = |server: &str| {
        world.db.sql(&format!(
            "SELECT envelope FROM {schema}.credential WHERE server_id = '{server}'"
        ))
    };
    let put = |server: &str, envelope: &str| {
        world.db.sql(&format!(
            "UPDATE {schema}.credential SET envelope = '{envelope}' WHERE server_id = '{server}'"
        ));
    };
    let (of_first, of_second) = (envelope(&first), envelope(&second));
    // Moved to another server.
    put(&second, &of_first);
    let no = connection.open(&second).await.unwrap_err();
    assert_eq!(no.reason, "SECRET_UNREADABLE");
    put(&second, &of_second);
    connection.open(&second).await.unwrap();
    // Of before.
    set(&anna, &first, pb::SecretKind::MysqlPassword, "newer")
        .await
        .unwrap();
    put(&first, &of_first);
    let no = connection.open(&first).await.unwrap_err();
    assert_eq!(no.reason, "SECRET_UNREADABLE");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_that_does_not_open_hides_none_of_the_others() {
    let world = World::new().await;
    let anna = world.owner().await;
    let server = anna.server("db1", "", "the password").await;
    anna.set(&server, pb::SecretKind::ServiceToken, "the-token").await;
    let agent = anna.enrolled("a1", "").await;
    let damage = |kind: &str| {
        world.db.sql(&format!(
            "UPDATE {}.credential SET envelope = envelope || 'x' WHERE kind = '{kind}'",
            anna.schema()
        ));
    };
    damage("service_token");
    let connection = world.connect(&agent);
    let opened = connection.open(&server).await.unwrap();
    assert_eq!(
        opened,
        [(pb::SecretKind::MysqlPassword, "the password".to_owned())]
    );
    let tenant = anna.tenant().to_string();
    let broken = testkit::eventually("the broken credential in the log", || {
        let told = world.audited(&tenant, "OpenCredentials");
        let broken = told
            .into_iter()
            .filter(|record| record["event"]["reason"] == "SECRET_UNREADABLE");
        Some(broken.collect::<Vec<_>>()).filter(|broken| !broken.is_empty())
    });
    assert_eq!(broken.len(), 1, "{broken:?}");
    let targets = &broken[0]["event"]["targets"];
    assert_eq!(targets["kind"], "service_token");
    assert_eq!(targets["server_id"], server);
    // Nothing at all opens.
    damage("mysql_password");
    let no = connection.open(&server).await.unwrap_err();
    assert_eq!(no.reason, "SECRET_UNREADABLE");
}
