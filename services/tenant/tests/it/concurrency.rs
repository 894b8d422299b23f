//! What holds when many ask at once.

use proto::{common::v1::Role as PbRole, tenant::v1::*};
use tonic::Code;
use types::Role;

use crate::world::{Caller, World, new_server};

/// Runs all at once and gives what became of each.
pub(crate) async fn all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    futures_util::future::join_all(futures).await
}

fn demote(caller: &Caller<'_>) -> SetMemberRoleRequest {
    SetMemberRoleRequest {
        user_id: caller.user().to_string(),
        role: PbRole::Admin.into(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_owners_who_demote_each_other_leave_one() {
    let world = World::new().await;
    for round in 0..5 {
        let anna = world.owner(&format!("anna{round}@example.com")).await;
        let bert = world.member(&anna, Some(Role::Owner), &[]).await;
        let outcomes = all([anna.call(demote(&bert)), bert.call(demote(&anna))]).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        for no in outcomes.into_iter().filter_map(Result::err) {
            assert_eq!(
                (no.code, no.reason.as_str()),
                (Code::FailedPrecondition, "LAST_OWNER")
            );
        }
        let tenant = anna.tenant();
        let owners =
            format!("SELECT count(*) FROM tenant.member WHERE tenant_id = '{tenant}' AND role = 'owner'");
        assert_eq!(world.db.sql(&owners), "1");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn owners_who_all_remove_each_other_leave_one() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(world.member(&anna, Some(Role::Owner), &[]).await);
    }
    let everyone: Vec<&Caller<'_>> = others.iter().chain([&anna]).collect();
    let mut attempts = Vec::new();
    for one in &everyone {
        for other in everyone.iter().filter(|other| other.user() != one.user()) {
            let user_id = other.user().to_string();
            attempts.push(one.call(RemoveMemberRequest { user_id }));
        }
    }
    let outcomes = all(attempts).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 3);
    assert_eq!(
        world
            .db
            .sql("SELECT count(*) FROM tenant.member WHERE role = 'owner'"),
        "1"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_name_is_given_once() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let server = || RegisterServerRequest {
        server: Some(new_server("db")),
        ..Default::default()
    };
    let outcomes = all((0..20).map(|_| anna.call(server()))).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for no in outcomes.into_iter().filter_map(Result::err) {
        assert_eq!(
            (no.code, no.reason.as_str()),
            (Code::AlreadyExists, "SERVER_NAME_TAKEN")
        );
    }
    let pool = || CreateAgentPoolRequest { name: "p".to_owned() };
    let outcomes = all((0..20).map(|_| anna.call(pool()))).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    let agent = || CreateAgentRequest {
        name: "a".to_owned(),
        pool_id: String::new(),
    };
    let outcomes = all((0..20).map(|_| anna.call(agent()))).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pool_that_gets_a_server_does_not_go() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    for round in 0..8 {
        let pool_id = anna.pool(&format!("p{round}")).await;
        let server = Some(Server {
            pool_id: pool_id.clone(),
            ..new_server(&format!("db{round}"))
        });
        let (registered, deleted) = tokio::join!(
            anna.call(RegisterServerRequest {
                server,
                ..Default::default()
            }),
            anna.call(DeleteAgentPoolRequest {
                pool_id: pool_id.clone()
            })
        );
        match (registered, deleted) {
            (Ok(_), Err(no)) => assert_eq!(no.reason, "POOL_IN_USE"),
            (Err(no), Ok(_)) => assert_eq!(no.reason, "POOL_NOT_FOUND"),
            both => panic!("{both:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_updates_of_one_version_one_counts() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let before = anna.server("db", "").await;
    let update = |port: i32| UpdateServerRequest {
        server: Some(Server {
            id: before.id.clone(),
            port,
            etag: before.etag.clone(),
            ..Server::default()
        }),
        update_mask: None,
    };
    let outcomes = all((1..=20).map(|port| anna.call(update(port)))).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for no in outcomes.into_iter().filter_map(Result::err) {
        assert_eq!((no.code, no.reason.as_str()), (Code::Aborted, "SERVER_CHANGED"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_proof_of_a_second_factor_does_one_action() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let invite = InviteMemberRequest {
        email: "bert@example.com".to_owned(),
        role: PbRole::Viewer.into(),
        pool_id: String::new(),
    };
    let once = anna.request(invite.clone());
    let again = || {
        let mut request = tonic::Request::new(invite.clone());
        *request.metadata_mut() = once.metadata().clone();
        request
    };
    let outcomes = all((0..10).map(|_| anna.send(again()))).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for no in outcomes.into_iter().filter_map(Result::err) {
        assert_eq!((no.code, no.reason.as_str()), (Code::Aborted, "GRANT_USED"));
    }
}
