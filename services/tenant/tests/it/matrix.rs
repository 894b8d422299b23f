//! The page's table of who may give which role to whom, asked of the running service for every triple of roles.
//!
//! `shared/mission`, "Role-Based Access Control": user and role management is for owner and admin. With it goes the rule that the issue
//! names: only owners make (or unmake) admins and owners.

use proto::tenant::v1::*;
use tonic::Code;
use types::Role;

use crate::world::{Caller, World, wire};

/// Actor, and up to which role the people and roles go that they deal with; the mission's column "User & role management".
const MANAGES: [(Role, Option<Role>); 5] = [
    (Role::Owner, Some(Role::Owner)),
    (Role::Admin, Some(Role::Operator)),
    (Role::Operator, None),
    (Role::Analyst, None),
    (Role::Viewer, None),
];

/// What the table says of `actor` dealing with somebody who is or becomes `highest`.
fn expected(actor: Role, highest: Role) -> Result<(), &'static str> {
    let up_to = MANAGES.iter().find(|(role, _)| *role == actor).unwrap().1;
    match up_to {
        None => Err("ROLE_TOO_LOW"),
        Some(most) if highest <= most => Ok(()),
        Some(_) => Err("ONLY_OWNERS"),
    }
}

fn outcome<T>(answer: Result<T, crate::world::No>) -> Result<(), String> {
    answer.map(|_| ()).map_err(|no| {
        assert_eq!(no.code, Code::PermissionDenied, "{no:?}");
        no.reason
    })
}

async fn actors(world: &World) -> (Caller<'_>, Vec<(Role, Caller<'_>)>) {
    let anna = world.owner("anna@example.com").await;
    let mut actors = Vec::new();
    for role in Role::ALL {
        actors.push((*role, world.member(&anna, Some(*role), &[]).await));
    }
    (anna, actors)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_are_set_by_whom_the_table_says() {
    let world = World::new().await;
    let (anna, actors) = actors(&world).await;
    let target = world.member(&anna, Some(Role::Viewer), &[]).await;
    for (actor_role, actor) in &actors {
        for target_role in Role::ALL {
            for new in Role::ALL {
                let reset = format!(
                    "UPDATE tenant.member SET role = '{}' WHERE user_id = '{}'",
                    target_role.word(),
                    target.user()
                );
                world.db.sql(&reset);
                let request = SetMemberRoleRequest {
                    user_id: target.user().to_string(),
                    role: wire(*new).into(),
                };
                let answer = outcome(actor.call(request).await);
                let highest = *target_role.max(new);
                let wanted = expected(*actor_role, highest).map_err(str::to_owned);
                assert_eq!(answer, wanted, "{actor_role:?} makes a {target_role:?} a {new:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_removed_by_whom_the_table_says() {
    let world = World::new().await;
    let (anna, actors) = actors(&world).await;
    for (actor_role, actor) in &actors {
        for target_role in Role::ALL {
            let user_id = world
                .member(&anna, Some(*target_role), &[])
                .await
                .user()
                .to_string();
            let answer = outcome(actor.call(RemoveMemberRequest { user_id }).await);
            let wanted = expected(*actor_role, *target_role).map_err(str::to_owned);
            assert_eq!(answer, wanted, "{actor_role:?} removes a {target_role:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_are_invited_by_whom_the_table_says() {
    let world = World::new().await;
    let (anna, actors) = actors(&world).await;
    let pool_id = anna.pool("eu").await;
    for (actor_role, actor) in &actors {
        for role in Role::ALL {
            let email = format!("{}-{}@example.com", actor_role.word(), role.word());
            let answer = actor.invite(&email, wire(*role), "").await;
            let wanted = expected(*actor_role, *role).map_err(str::to_owned);
            assert_eq!(
                outcome(answer.clone()),
                wanted,
                "{actor_role:?} invites a {role:?}"
            );
            // And they take back what they may give.
            if let Ok(invitation) = answer {
                let invitation_id = invitation.id;
                actor
                    .call(RevokeInvitationRequest { invitation_id })
                    .await
                    .unwrap();
            }
            let email = format!("pool-{email}");
            let in_pool = actor
                .invite(&email, wire(*role), &pool_id)
                .await
                .map(|_| ())
                .map_err(|no| no.reason);
            let too_high = || (*role > Role::Operator).then(|| "POOL_ROLE_TOO_HIGH".to_owned());
            let wanted = wanted.and_then(|()| too_high().map_or(Ok(()), Err));
            assert_eq!(in_pool, wanted, "{actor_role:?} invites a {role:?} of a pool");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_in_a_pool_are_given_and_taken_by_owners_and_admins() {
    let world = World::new().await;
    let (anna, actors) = actors(&world).await;
    let pool_id = anna.pool("eu").await;
    let user_id = world.member(&anna, None, &[]).await.user().to_string();
    for (actor_role, actor) in &actors {
        let wanted = expected(*actor_role, Role::Operator).map_err(str::to_owned);
        let bind = BindRoleRequest {
            user_id: user_id.clone(),
            pool_id: pool_id.clone(),
            role: wire(Role::Operator).into(),
        };
        assert_eq!(outcome(actor.call(bind).await), wanted, "{actor_role:?} binds");
        let unbind = UnbindRoleRequest {
            user_id: user_id.clone(),
            pool_id: pool_id.clone(),
        };
        assert_eq!(
            outcome(actor.call(unbind).await),
            wanted,
            "{actor_role:?} unbinds"
        );
    }
}
