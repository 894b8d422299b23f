//! MemberService: who is in a tenant, and as what.

use proto::{common::v1::Role as PbRole, tenant::v1::*};
use tonic::Code;
use types::{Role, UserId};

use crate::world::{Caller, World};

fn set_role(who: &Caller<'_>, role: PbRole) -> SetMemberRoleRequest {
    SetMemberRoleRequest {
        user_id: who.user().to_string(),
        role: role.into(),
    }
}

fn bind(who: &Caller<'_>, pool_id: &str, role: PbRole) -> BindRoleRequest {
    BindRoleRequest {
        user_id: who.user().to_string(),
        pool_id: pool_id.to_owned(),
        role: role.into(),
    }
}

fn unbind(who: &Caller<'_>, pool_id: &str) -> UnbindRoleRequest {
    UnbindRoleRequest {
        user_id: who.user().to_string(),
        pool_id: pool_id.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_listed_in_the_order_in_which_they_joined() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let mut joined = vec![anna.user().to_string()];
    for role in [Some(Role::Viewer), None, Some(Role::Admin)] {
        joined.push(world.member(&anna, role, &[]).await.user().to_string());
    }
    let mut token = String::new();
    let mut seen = Vec::new();
    loop {
        let request = ListMembersRequest {
            page_size: 3,
            page_token: token,
        };
        let page = anna.call(request).await.unwrap();
        seen.extend(page.members);
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(
        seen.iter()
            .map(|member| member.user_id.clone())
            .collect::<Vec<_>>(),
        joined
    );
    assert_eq!(seen[0].email, "anna@example.com");
    assert_eq!(seen[0].display_name, "anna");
    let roles: Vec<PbRole> = seen.iter().map(Member::role).collect();
    assert_eq!(
        roles,
        [PbRole::Owner, PbRole::Viewer, PbRole::Unspecified, PbRole::Admin]
    );
    let user_id = joined[1].clone();
    assert_eq!(
        anna.call(GetMemberRequest { user_id })
            .await
            .unwrap()
            .member
            .as_ref(),
        Some(&seen[1])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_is_set_and_is_seen_by_auth_at_once() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let bert = world.member(&anna, Some(Role::Viewer), &[]).await;
    let after = anna
        .call(set_role(&bert, PbRole::Operator))
        .await
        .unwrap()
        .member
        .unwrap();
    assert_eq!(after.role(), PbRole::Operator);
    let bert = bert.in_tenant(&anna.tenant().to_string()).await;
    assert_eq!(bert.context.seat.unwrap().role, Some(Role::Operator));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_of_a_role_has_its_reason() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let admin = world.member(&anna, Some(Role::Admin), &[]).await;
    let viewer = world.member(&anna, Some(Role::Viewer), &[]).await;

    let no = anna.refused(set_role(&anna, PbRole::Viewer)).await;
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::PermissionDenied, "OWN_ROLE")
    );
    let user_id = anna.user().to_string();
    assert_eq!(
        anna.refused(RemoveMemberRequest { user_id }).await.reason,
        "OWN_ROLE"
    );
    let no = admin.refused(set_role(&viewer, PbRole::Admin)).await;
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::PermissionDenied, "ONLY_OWNERS")
    );
    let no = admin.refused(set_role(&anna, PbRole::Admin)).await;
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::FailedPrecondition, "LAST_OWNER")
    );
    let no = anna.refused(set_role(&viewer, PbRole::Unspecified)).await;
    assert_eq!((no.code, no.field.as_str()), (Code::InvalidArgument, "role"));
    let no = anna
        .refused(SetMemberRoleRequest {
            user_id: UserId::fresh().to_string(),
            role: 1,
        })
        .await;
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::NotFound, "MEMBER_NOT_FOUND")
    );
    let no = viewer.refused(set_role(&admin, PbRole::Viewer)).await;
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::PermissionDenied, "ROLE_TOO_LOW")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_was_lost_counts_at_once_whatever_the_token_says() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let was_admin = world.member(&anna, Some(Role::Admin), &[]).await;
    let viewer = world.member(&anna, Some(Role::Viewer), &[]).await;
    anna.call(set_role(&was_admin, PbRole::Viewer)).await.unwrap();
    let no = was_admin.refused(set_role(&viewer, PbRole::Operator)).await;
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::PermissionDenied, "ROLE_TOO_LOW")
    );
    assert_eq!(
        was_admin
            .invite("x@example.com", PbRole::Viewer, "")
            .await
            .unwrap_err()
            .reason,
        "ROLE_TOO_LOW"
    );
    let user_id = was_admin.user().to_string();
    anna.call(RemoveMemberRequest { user_id }).await.unwrap();
    assert_eq!(
        was_admin
            .refused(set_role(&viewer, PbRole::Operator))
            .await
            .reason,
        "NOT_A_MEMBER"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_member_has_no_seat_and_no_binding() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let pool = anna.pool("eu").await;
    let bert = world
        .member(&anna, Some(Role::Viewer), &[(&pool, Role::Operator)])
        .await;
    let user_id = bert.user().to_string();
    anna.call(RemoveMemberRequest {
        user_id: user_id.clone(),
    })
    .await
    .unwrap();
    assert_eq!(world.seat(bert.user(), &anna.tenant().to_string()).await, None);
    assert_eq!(world.db.sql("SELECT count(*) FROM tenant.binding"), "0");
    let no = anna.refused(RemoveMemberRequest { user_id }).await;
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::NotFound, "MEMBER_NOT_FOUND")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_in_one_pool_is_given_and_taken() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let (eu, us) = (anna.pool("eu").await, anna.pool("us").await);
    let bert = world.member(&anna, None, &[]).await;
    let member = anna
        .call(bind(&bert, &eu, PbRole::Viewer))
        .await
        .unwrap()
        .member
        .unwrap();
    assert_eq!(member.bindings.len(), 1);
    // Again is another role in the same pool.
    anna.call(bind(&bert, &eu, PbRole::Operator)).await.unwrap();
    let member = anna
        .call(bind(&bert, &us, PbRole::Analyst))
        .await
        .unwrap()
        .member
        .unwrap();
    let roles: Vec<(&str, PbRole)> = member
        .bindings
        .iter()
        .map(|b| (b.pool_id.as_str(), b.role()))
        .collect();
    assert_eq!(
        roles,
        [(eu.as_str(), PbRole::Operator), (us.as_str(), PbRole::Analyst)]
    );

    let bert = bert.in_tenant(&anna.tenant().to_string()).await;
    let seat = bert.context.seat.clone().unwrap();
    assert_eq!((seat.role, seat.pools.len()), (None, 2));

    let member = anna.call(unbind(&bert, &eu)).await.unwrap().member.unwrap();
    assert_eq!(member.bindings.len(), 1);
    assert_eq!(
        anna.call(unbind(&bert, &eu)).await.unwrap().member.unwrap(),
        member
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_of_a_role_in_a_pool_has_its_reason() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let eu = anna.pool("eu").await;
    let bert = world.member(&anna, Some(Role::Viewer), &[]).await;
    for high in [PbRole::Admin, PbRole::Owner] {
        let no = anna.refused(bind(&bert, &eu, high)).await;
        assert_eq!(
            (no.code, no.reason.as_str(), no.field.as_str()),
            (Code::InvalidArgument, "POOL_ROLE_TOO_HIGH", "role")
        );
    }
    assert_eq!(
        anna.refused(bind(&bert, &eu, PbRole::Unspecified)).await.field,
        "role"
    );
    assert_eq!(
        anna.refused(bind(&anna, &eu, PbRole::Viewer)).await.reason,
        "OWN_ROLE"
    );
    assert_eq!(anna.refused(unbind(&anna, &eu)).await.reason, "OWN_ROLE");
    let nobody = world.person("nobody@example.com");
    assert_eq!(
        anna.refused(bind(&nobody, &eu, PbRole::Viewer)).await.reason,
        "MEMBER_NOT_FOUND"
    );
    assert_eq!(
        anna.refused(bind(&bert, "", PbRole::Viewer)).await.reason,
        "POOL_NOT_FOUND"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_limited_to_a_pool_sees_of_others_the_roles_in_it_only() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let (eu, us) = (anna.pool("eu").await, anna.pool("us").await);
    let bert = world.member(&anna, None, &[(&eu, Role::Viewer)]).await;
    let user_id = world
        .member(&anna, None, &[(&eu, Role::Analyst), (&us, Role::Operator)])
        .await
        .user()
        .to_string();
    let seen = bert
        .call(GetMemberRequest {
            user_id: user_id.clone(),
        })
        .await
        .unwrap()
        .member
        .unwrap();
    assert_eq!(
        seen.bindings
            .iter()
            .map(|b| b.pool_id.as_str())
            .collect::<Vec<_>>(),
        [eu.as_str()]
    );
    let all = bert.call(ListMembersRequest::default()).await.unwrap();
    assert!(!format!("{all:?}").contains(&us));
    assert_eq!(
        anna.call(GetMemberRequest { user_id })
            .await
            .unwrap()
            .member
            .unwrap()
            .bindings
            .len(),
        2
    );
}
