//! Limits of size and time.

use std::time::{Duration, Instant};

use proto::{common::v1::Role as PbRole, tenant::v1::*};
use sqlx::Connection as _;
use tonic::Code;
use types::Role;

use crate::{
    rpc::Rpc,
    world::{Caller, World, new_server},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_is_full_of_something_takes_no_more_of_it() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    anna.invite("bert@example.com", PbRole::Viewer, "").await.unwrap();
    let token = world.mails(1)[0].token.clone();
    let (tenant, schema) = (anna.tenant(), format!("t_{}", anna.tenant().digits()));
    world.db.sql(&format!(
        "INSERT INTO {schema}.server (id, name, host, port, username, tls_mode, pool_id)
             SELECT 's' || n, 's' || n, 'h', 1, '', 'required', 'p' FROM generate_series(1, 2000) AS n;
         INSERT INTO {schema}.agent (id, name, pool_id, enrolment_sha256, enrolment_expire_time)
             SELECT 'a' || n, 'a' || n, 'p', sha256(n::text::bytea), now() FROM generate_series(1, 4000) AS n;
         INSERT INTO tenant.pool (id, tenant_id, name) SELECT 'p' || n, '{tenant}', 'p' || n FROM generate_series(1, 99) AS n;
         INSERT INTO tenant.member (user_id, tenant_id, role) SELECT 'u' || n, '{tenant}', 'viewer' FROM generate_series(1, 4999) AS n"
    ));
    let no = anna.refused(CreateAgentPoolRequest { name: "x".into() }).await;
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::ResourceExhausted, "POOL_LIMIT")
    );
    let full = [
        anna.refused(RegisterServerRequest {
            server: Some(new_server("x")),
            ..Default::default()
        })
        .await,
        anna.refused(CreateAgentRequest {
            name: "x".into(),
            pool_id: String::new(),
        })
        .await,
        anna.invite("carl@example.com", PbRole::Viewer, "")
            .await
            .unwrap_err(),
        world
            .person("bert@example.com")
            .refused(AcceptInvitationRequest { token })
            .await,
    ];
    for no in full {
        assert_eq!(
            (no.code, no.reason.as_str()),
            (Code::FailedPrecondition, "PLAN_LIMIT")
        );
        assert!(
            no.message.ends_with("no plan has room for more"),
            "{}",
            no.message
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_another_change_waits_no_longer_than_the_deadline() {
    let world = World::new().await;
    let (anna, bert) = (
        world.owner("anna@example.com").await,
        world.owner("bert@example.com").await,
    );
    let mut holder = sqlx::PgConnection::connect(&world.db.admin_url()).await.unwrap();
    let mut held = holder.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM tenant.tenant WHERE id = $1 FOR UPDATE")
        .bind(anna.tenant().to_string())
        .execute(&mut *held)
        .await
        .unwrap();
    let make = || CreateAgentPoolRequest { name: "p".to_owned() };
    let mut request = anna.request(make());
    request.set_timeout(Duration::from_millis(400));
    let began = Instant::now();
    let no = anna.send(request).await.unwrap_err();
    assert_eq!(no.code, Code::DeadlineExceeded);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    // Neither reading nor another tenant waits.
    assert!(anna.call(ListAgentPoolsRequest::default()).await.is_ok());
    assert!(bert.call(make()).await.is_ok());
    held.rollback().await.unwrap();
    assert!(anna.call(make()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_without_its_proof_of_a_second_factor_is_refused() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let wanted = DeleteServerRequest {
        server_id: anna.server("db", "").await.id,
    };
    let mut bare = anna.request(wanted.clone());
    bare.metadata_mut().remove("trailmesh-grant");
    let no = anna.send(bare).await.unwrap_err();
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::PermissionDenied, "GRANT_REQUIRED")
    );
    // The proof of another request.
    let other = anna.request(DeleteServerRequest {
        server_id: "srv_other".into(),
    });
    let mut borrowed = anna.request(wanted.clone());
    let grant = other.metadata().get("trailmesh-grant").unwrap().clone();
    borrowed.metadata_mut().insert("trailmesh-grant", grant);
    assert!(anna.send(borrowed).await.is_err());
    assert!(anna.call(wanted).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_of_a_server_takes_a_proof_of_a_second_factor() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let id = anna.server("db", "").await.id;
    let server_id = id.clone();
    let update = |port| UpdateServerRequest {
        server: Some(Server {
            id: id.clone(),
            port,
            ..Server::default()
        }),
        update_mask: None,
    };
    let server = Some(new_server("new"));
    let refusals = [
        bare(
            &anna,
            RegisterServerRequest {
                server,
                ..Default::default()
            },
        )
        .await,
        bare(&anna, update(1)).await,
        bare(&anna, DeleteServerRequest { server_id }).await,
        bare(&anna, SetServerCredentialRequest::default()).await,
        bare(&anna, DeleteServerCredentialRequest::default()).await,
    ];
    assert_eq!(refusals, ["GRANT_REQUIRED"; 5]);
    // One that changes nothing spends its proof too.
    for port in [1, 1] {
        let once = anna.request(update(port));
        let mut again = tonic::Request::new(update(port));
        *again.metadata_mut() = once.metadata().clone();
        anna.send(once).await.unwrap();
        assert_eq!(anna.send(again).await.unwrap_err().reason, "GRANT_USED");
    }
}

/// The reason why a request without a proof is refused.
async fn bare<Q: Rpc>(who: &Caller<'_>, request: Q) -> String {
    let mut request = who.request(request);
    request.metadata_mut().remove("trailmesh-grant");
    who.send(request).await.unwrap_err().reason
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_change_leaves_nothing_and_does_not_use_up_its_proof() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    anna.server("db", "").await;
    let schema = format!("t_{}", anna.tenant().digits());
    let used = || world.db.sql(&format!("SELECT count(*) FROM {schema}.used_grant"));
    assert_eq!(used(), "1");
    anna.refused(RegisterServerRequest {
        server: Some(new_server("db")),
        ..Default::default()
    })
    .await;
    let admin = world.member(&anna, Some(Role::Admin), &[]).await;
    let user_id = anna.user().to_string();
    admin.refused(RemoveMemberRequest { user_id }).await;
    assert_eq!(used(), "1");
}
