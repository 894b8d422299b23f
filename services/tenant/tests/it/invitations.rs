//! MemberService: invitations, from the call to the seat.

use proto::{common::v1::Role as PbRole, tenant::v1::*};
use tonic::Code;
use types::{InvitationId, Role};

use crate::world::{Caller, No, World};

async fn accept(who: &Caller<'_>, token: &str) -> Result<AcceptInvitationResponse, No> {
    let token = token.to_owned();
    who.call(AcceptInvitationRequest { token }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invitation_is_mailed_and_accepted_once() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let invitation = anna
        .invite("Bert@Example.com", PbRole::Analyst, "")
        .await
        .unwrap();
    assert_eq!(
        (invitation.email.as_str(), invitation.role()),
        ("Bert@Example.com", PbRole::Analyst)
    );
    assert_eq!(invitation.invited_by, anna.user().to_string());
    let days = invitation.expire_time.unwrap().seconds - invitation.create_time.unwrap().seconds;
    assert_eq!(days, 7 * 86_400);
    let open = anna
        .call(ListInvitationsRequest::default())
        .await
        .unwrap()
        .invitations;
    assert_eq!(open, [invitation]);

    let mail = &world.mails(1)[0];
    assert_eq!(
        (
            mail.email.as_str(),
            mail.invited_by.as_str(),
            mail.tenant_name.as_str()
        ),
        ("Bert@Example.com", "anna", "Acme")
    );
    assert!(mail.token.starts_with("bt_invite_"));
    let kept = world.db.sql("SELECT row_to_json(i)::text || row_to_json(t)::text FROM tenant.invitation i JOIN tenant.invitation_token t ON true");
    assert!(!kept.contains(&mail.token[10..42]));

    let bert = world.person("Bert@example.COM");
    let answer = accept(&bert, &mail.token).await.unwrap();
    assert_eq!(
        (answer.tenant_id, answer.role),
        (anna.tenant().to_string(), i32::from(PbRole::Analyst))
    );
    let bert = bert.in_tenant(&anna.tenant().to_string()).await;
    assert_eq!(bert.context.seat.as_ref().unwrap().role, Some(Role::Analyst));
    let no = accept(&bert, &mail.token).await.unwrap_err();
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::NotFound, "INVITATION_NOT_FOUND")
    );
    assert_eq!(
        anna.call(ListInvitationsRequest::default())
            .await
            .unwrap()
            .invitations,
        []
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invitation_into_a_pool_gives_a_role_there_only() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let pool = anna.pool("eu").await;
    anna.invite("bert@example.com", PbRole::Operator, &pool)
        .await
        .unwrap();
    let bert = world.person("bert@example.com");
    accept(&bert, &world.mails(1)[0].token).await.unwrap();
    let seat = bert
        .in_tenant(&anna.tenant().to_string())
        .await
        .context
        .seat
        .unwrap();
    assert_eq!(seat.role, None);
    assert_eq!(seat.pools, [(pool.parse().unwrap(), Role::Operator)].into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_invited_address_accepts() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    anna.invite("bert@example.com", PbRole::Viewer, "").await.unwrap();
    let token = world.mails(1)[0].token.clone();
    for other in ["eve@example.com", "bert@example.org", "bert+x@example.com"] {
        let no = accept(&world.person(other), &token).await.unwrap_err();
        assert_eq!(
            (no.code, no.reason.as_str()),
            (Code::PermissionDenied, "INVITATION_FOR_ANOTHER_ADDRESS"),
            "{other}"
        );
    }
    // An account that has proven no address is not in auth's view.
    let bert = world.person("bert@example.com");
    world
        .db
        .sql("UPDATE auth.account SET verified_at = NULL WHERE email = 'bert@example.com'");
    assert_eq!(
        accept(&bert, &token).await.unwrap_err().reason,
        "INVITATION_FOR_ANOTHER_ADDRESS"
    );
    // Verified after all, and written in another case.
    world.db.sql("UPDATE auth.account SET verified_at = now(), email = 'BERT@Example.com' WHERE email = 'bert@example.com'");
    assert!(accept(&bert, &token).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_expired_and_revoked_tokens_have_one_answer() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let bert = world.person("bert@example.com");
    let first = anna.invite("bert@example.com", PbRole::Viewer, "").await.unwrap();
    let token = world.mails(1)[0].token.clone();
    let mut answers = Vec::new();
    let mut damaged = token.clone();
    damaged.pop();
    for bad in [
        "",
        "nonsense",
        damaged.as_str(),
        "bt_invite_\0",
        "'; DROP TABLE tenant.member; --",
    ] {
        answers.push(accept(&bert, bad).await.unwrap_err());
    }
    anna.call(RevokeInvitationRequest {
        invitation_id: first.id,
    })
    .await
    .unwrap();
    answers.push(accept(&bert, &token).await.unwrap_err());
    anna.invite("bert@example.com", PbRole::Viewer, "").await.unwrap();
    let token = world.mails(2)[1].token.clone();
    world.db.sql("UPDATE tenant.invitation SET expire_time = now()");
    answers.push(accept(&bert, &token).await.unwrap_err());
    for answer in &answers {
        assert_eq!(answer, &answers[0]);
    }
    assert_eq!(answers[0].reason, "INVITATION_NOT_FOUND");
    testkit::eventually("the sweep", || {
        (world.db.sql("SELECT count(*) FROM tenant.invitation") == "0").then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inviting_again_replaces_the_invitation_and_its_token() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let first = anna.invite("bert@example.com", PbRole::Viewer, "").await.unwrap();
    let old = world.mails(1)[0].token.clone();
    age(&world, "10 minutes");
    let second = anna.invite("bert@EXAMPLE.com", PbRole::Admin, "").await.unwrap();
    assert_ne!(first.id, second.id);
    let open = anna
        .call(ListInvitationsRequest::default())
        .await
        .unwrap()
        .invitations;
    assert_eq!(open, [second]);
    let bert = world.person("bert@example.com");
    let new = world.mails(2)[1].token.clone();
    assert_eq!(
        accept(&bert, &old).await.unwrap_err().reason,
        "INVITATION_NOT_FOUND"
    );
    // What an owner invited an admin cannot replace.
    let admin = world.member(&anna, Some(Role::Admin), &[]).await;
    assert_eq!(
        admin
            .invite("bert@example.com", PbRole::Viewer, "")
            .await
            .unwrap_err()
            .reason,
        "ONLY_OWNERS"
    );
    assert_eq!(accept(&bert, &new).await.unwrap().role, i32::from(PbRole::Admin));
}

/// Lets that much time go by since the invitations and mails there are.
fn age(world: &World, time: &str) {
    world.db.sql(&format!(
        "UPDATE tenant.invitation SET create_time = create_time - interval '{time}'"
    ));
    world.db.sql(&format!(
        "UPDATE tenant.invitation_spent SET spend_time = spend_time - interval '{time}'"
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inviting_again_within_ten_minutes_sends_no_new_mail_and_answers_the_same_invitation() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let pool = anna.pool("eu").await;
    let first = anna.invite("bert@example.com", PbRole::Viewer, "").await.unwrap();
    let token = world.mails(1)[0].token.clone();
    let same = anna.invite("BERT@example.com", PbRole::Viewer, "").await.unwrap();
    assert_eq!(same, first);
    // What it gives may be put right.
    let other = anna
        .invite("bert@example.com", PbRole::Operator, &pool)
        .await
        .unwrap();
    let put_right = Invitation {
        role: PbRole::Operator.into(),
        pool_id: pool,
        ..first.clone()
    };
    assert_eq!(other, put_right);
    let admin = world.member(&anna, Some(Role::Admin), &[]).await;
    let by_another = admin
        .invite("bert@example.com", PbRole::Analyst, "")
        .await
        .unwrap();
    assert_eq!(
        (by_another.id, by_another.invited_by),
        (first.id, admin.user().to_string())
    );
    anna.invite("else@example.com", PbRole::Viewer, "").await.unwrap();
    let mails = world.mails(2);
    let to: Vec<&str> = mails.iter().map(|mail| mail.email.as_str()).collect();
    assert_eq!(to, ["bert@example.com", "else@example.com"]);
    let answer = accept(&world.person("bert@example.com"), &token).await.unwrap();
    assert_eq!(answer.role(), PbRole::Analyst);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_sends_fifty_invitations_an_hour_whatever_becomes_of_them() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let bert = world.owner("bert@example.com").await;
    world.mail_is_down(true);
    for _ in 0..50 {
        let invitation_id = anna
            .invite("somebody@example.com", PbRole::Viewer, "")
            .await
            .unwrap()
            .id;
        anna.call(RevokeInvitationRequest { invitation_id })
            .await
            .unwrap();
    }
    let no = anna
        .invite("somebody@example.com", PbRole::Viewer, "")
        .await
        .unwrap_err();
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::ResourceExhausted, "INVITATION_LIMIT")
    );
    let wait = no.retry_after.unwrap().as_secs();
    assert!((3_000..=3_600).contains(&wait), "{wait}");
    // Another tenant's allowance is its own.
    assert!(
        bert.invite("somebody@example.com", PbRole::Viewer, "")
            .await
            .is_ok()
    );
    age(&world, "1 hour");
    assert!(
        anna.invite("somebody@example.com", PbRole::Viewer, "")
            .await
            .is_ok()
    );
    let tenant = anna.tenant();
    let left = format!("SELECT count(*) FROM tenant.invitation_spent WHERE tenant_id = '{tenant}'");
    assert_eq!(world.db.sql(&left), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invitation_is_void_when_the_inviter_could_not_give_it_any_more() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let late = world.member(&anna, Some(Role::Owner), &[]).await;
    let bert = world.person("bert@example.com");
    late.invite("bert@example.com", PbRole::Admin, "").await.unwrap();
    let token = world.mails(1)[0].token.clone();
    // By a hand that does not know of invitations.
    for statement in [
        "UPDATE tenant.member SET role = 'admin'",
        "UPDATE tenant.member SET role = NULL",
        "DELETE FROM tenant.member",
    ] {
        let user = late.user();
        world.db.sql(&format!("{statement} WHERE user_id = '{user}'"));
        let no = accept(&bert, &token).await.unwrap_err();
        assert_eq!(
            (no.code, no.reason.as_str()),
            (Code::NotFound, "INVITATION_NOT_FOUND"),
            "{statement}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_member_may_give_no_more_is_taken_back_with_the_role_or_the_membership() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let late = world.member(&anna, Some(Role::Owner), &[]).await;
    for (address, role) in [
        ("owner@example.com", PbRole::Owner),
        ("admin@example.com", PbRole::Admin),
        ("viewer@example.com", PbRole::Viewer),
    ] {
        late.invite(address, role, "").await.unwrap();
    }
    anna.invite("hers@example.com", PbRole::Owner, "").await.unwrap();
    let open = async || {
        let list = anna.call(ListInvitationsRequest::default()).await.unwrap();
        list.invitations
            .into_iter()
            .map(|open| open.email)
            .collect::<Vec<_>>()
    };
    let demote = |role: PbRole| SetMemberRoleRequest {
        user_id: late.user().to_string(),
        role: role.into(),
    };
    anna.call(demote(PbRole::Admin)).await.unwrap();
    assert_eq!(open().await, ["viewer@example.com", "hers@example.com"]);
    let user_id = late.user().to_string();
    anna.call(RemoveMemberRequest { user_id }).await.unwrap();
    assert_eq!(open().await, ["hers@example.com"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_of_an_invitation_has_its_reason() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let pool = anna.pool("eu").await;
    let admin = world.member(&anna, Some(Role::Admin), &[]).await;
    let reason = |outcome: Result<Invitation, No>| outcome.unwrap_err().reason;
    let no = anna
        .invite("anna@EXAMPLE.com", PbRole::Viewer, "")
        .await
        .unwrap_err();
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::AlreadyExists, "MEMBER_EXISTS")
    );
    assert_eq!(
        reason(admin.invite("x@example.com", PbRole::Admin, "").await),
        "ONLY_OWNERS"
    );
    assert_eq!(
        reason(admin.invite("x@example.com", PbRole::Owner, "").await),
        "ONLY_OWNERS"
    );
    assert_eq!(
        reason(anna.invite("x@example.com", PbRole::Admin, &pool).await),
        "POOL_ROLE_TOO_HIGH"
    );
    assert_eq!(
        reason(anna.invite("x@example.com", PbRole::Viewer, "agp_nonsense").await),
        "POOL_NOT_FOUND"
    );
    let no = anna
        .invite("x@example.com", PbRole::Unspecified, "")
        .await
        .unwrap_err();
    assert_eq!((no.code, no.field.as_str()), (Code::InvalidArgument, "role"));
    for bad in [
        "",
        "x",
        "x@",
        "@example.com",
        "x@example.com\r\nBcc: y@example.com",
        "x@[::1]",
    ] {
        let no = anna.invite(bad, PbRole::Viewer, "").await.unwrap_err();
        assert_eq!(
            (no.code, no.field.as_str()),
            (Code::InvalidArgument, "email"),
            "{bad:?}"
        );
    }
    let invitation_id = anna.invite("y@example.com", PbRole::Owner, "").await.unwrap().id;
    let revoke = RevokeInvitationRequest { invitation_id };
    assert_eq!(admin.refused(revoke.clone()).await.reason, "ONLY_OWNERS");
    anna.call(revoke.clone()).await.unwrap();
    assert_eq!(anna.refused(revoke).await.reason, "INVITATION_NOT_FOUND");
    let unknown = RevokeInvitationRequest {
        invitation_id: InvitationId::fresh().to_string(),
    };
    assert_eq!(anna.refused(unknown).await.code, Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_who_accepts_once_more_stays_what_they_are() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    anna.invite("bert@example.com", PbRole::Owner, "").await.unwrap();
    let token = world.mails(1)[0].token.clone();
    let bert = world.person("bert@example.com");
    let (tenant, user) = (anna.tenant(), bert.user());
    world.db.sql(&format!(
        "INSERT INTO tenant.member (tenant_id, user_id, role) VALUES ('{tenant}', '{user}', 'viewer')"
    ));
    let no = accept(&bert, &token).await.unwrap_err();
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::AlreadyExists, "MEMBER_EXISTS")
    );
    let seat = bert.in_tenant(&tenant.to_string()).await.context.seat.unwrap();
    assert_eq!(seat.role, Some(Role::Viewer));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_token_that_is_used_by_many_at_once_makes_one_member() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    anna.invite("bert@example.com", PbRole::Viewer, "").await.unwrap();
    let token = world.mails(1)[0].token.clone();
    let bert = world.person("bert@example.com");
    let outcomes = crate::concurrency::all((0..10).map(|_| accept(&bert, &token))).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for no in outcomes.into_iter().filter_map(Result::err) {
        assert_eq!(no.reason, "INVITATION_NOT_FOUND");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_that_cannot_be_sent_is_sent_later_and_both_tokens_are_of_one_invitation() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    world.mail_is_down(true);
    anna.invite("bert@example.com", PbRole::Viewer, "").await.unwrap();
    world.refused_mails(1);
    world.mail_is_down(false);
    world.hurry_mails();
    let token = world.mails(1)[0].token.clone();
    testkit::eventually("a note", || {
        (world.db.sql("SELECT count(mail_due) FROM tenant.invitation") == "0").then_some(())
    });
    assert_eq!(world.db.sql("SELECT count(*) FROM tenant.invitation_token"), "2");
    assert!(accept(&world.person("bert@example.com"), &token).await.is_ok());
    assert_eq!(world.db.sql("SELECT count(*) FROM tenant.invitation_token"), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invitation_is_kept_when_auth_is_gone() {
    let world = World::without_auth().await;
    let anna = world.owner("anna@example.com").await;
    let invitation = anna.invite("bert@example.com", PbRole::Viewer, "").await.unwrap();
    let open = anna
        .call(ListInvitationsRequest::default())
        .await
        .unwrap()
        .invitations;
    assert_eq!(open, [invitation]);
    assert_eq!(world.db.sql("SELECT count(mail_due) FROM tenant.invitation"), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invitations_are_paged_and_limited() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    world.mail_is_down(true);
    let mut ids = Vec::new();
    for count in 0..3 {
        ids.push(
            anna.invite(&format!("p{count}@example.com"), PbRole::Viewer, "")
                .await
                .unwrap()
                .id,
        );
    }
    let page = |page_token: String| ListInvitationsRequest {
        page_size: 2,
        page_token,
    };
    let first = anna.call(page(String::new())).await.unwrap();
    let second = anna.call(page(first.next_page_token.clone())).await.unwrap();
    let seen: Vec<String> = first
        .invitations
        .into_iter()
        .chain(second.invitations)
        .map(|i| i.id)
        .collect();
    assert_eq!(seen, ids);
    assert_eq!(anna.refused(page("x".to_owned())).await.field, "page_token");
    let tenant = anna.tenant();
    world.db.sql(&format!(
        "INSERT INTO tenant.invitation (id, tenant_id, email, email_key, role, invited_by, expire_time)
         SELECT 'x' || n, '{tenant}', n::text, n::text, 'viewer', 'u', now() + interval '1 day' FROM generate_series(1, 197) AS n"
    ));
    let no = anna
        .invite("one@more.example", PbRole::Viewer, "")
        .await
        .unwrap_err();
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::ResourceExhausted, "INVITATION_LIMIT")
    );
}
