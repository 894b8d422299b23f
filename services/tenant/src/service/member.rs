//! MemberService; what it does with invitations is in [`super::invitation`].

use pg::Transaction;
use proto::tenant::v1 as pb;
use tonic::{Request, Response, Status};
use types::{PoolId, Role, Scope, UserId};

use super::{Core, invitation::withdraw, own::Own, wire};
use crate::{
    domain::{
        directory::Member,
        member::{self, Standing},
        page::{Page, Query},
    },
    error::{Error, Noun},
    store,
};

/// MemberService.
#[derive(Clone, Debug)]
pub(crate) struct Members(pub(crate) Core);

/// The caller, as [`store::Store::change`] has read them.
pub(super) fn actor(scope: &Scope) -> Standing {
    Standing {
        user: scope.subject.user(),
        role: scope.seat.role,
    }
}

async fn target(tx: &mut Transaction, scope: &Scope, user: UserId) -> Result<Standing, Error> {
    let found = store::member::standing(tx, scope.tenant(), user).await?;
    found.ok_or(Error::Missing(Noun::Member))
}

/// Who is limited to some pools sees roles in these only.
fn as_seen(mut member: Member, scope: &Scope) -> pb::Member {
    member.bindings.retain(|pool, _| scope.covers(*pool));
    wire::member(member)
}

impl Members {
    async fn list(
        &self,
        scope: &Scope,
        wanted: &pb::ListMembersRequest,
    ) -> Result<pb::ListMembersResponse, Error> {
        let query = Query::new("ListMembers", scope.tenant());
        let page = Page::parse::<2>(&query, wanted.page_size, &wanted.page_token)?;
        let mut tx = self.0.store.directory(scope.deadline).await?;
        let found = store::member::list(&mut tx, scope.tenant(), &page).await?;
        let key = |member: &Member| vec![member.joined.0.to_string(), member.user.to_string()];
        let (found, next_page_token) = page.cut(&query, found, key);
        Ok(pb::ListMembersResponse {
            members: found.into_iter().map(|member| as_seen(member, scope)).collect(),
            next_page_token,
        })
    }

    async fn get(&self, scope: &Scope, user: &str) -> Result<Member, Error> {
        let user = wire::id(user, Noun::Member)?;
        let mut tx = self.0.store.directory(scope.deadline).await?;
        store::member::get(&mut tx, scope.tenant(), user).await
    }

    async fn set_role(&self, scope: &Scope, wanted: &pb::SetMemberRoleRequest) -> Result<Member, Error> {
        let user = wire::id(&wanted.user_id, Noun::Member)?;
        let role = wire::role(wanted.role, "role")?;
        let (mut tx, scope) = self.0.store.change_all(scope).await?;
        let (actor, target) = (actor(&scope), target(&mut tx, &scope, user).await?);
        let owners = store::member::owners(&mut tx, scope.tenant()).await?;
        member::set_role(actor, target, role, owners)?;
        if role == Role::Owner && store::plan::is_frozen(&mut tx, scope.tenant(), user).await? {
            // Owners are never frozen: who waits for room does not get it by becoming one.
            let members = store::member::count(&mut tx, scope.tenant()).await?;
            scope
                .seat
                .plan
                .room("members", members - 1, |limits| limits.members)?;
        }
        store::member::set_role(&mut tx, scope.tenant(), user, role).await?;
        store::plan::settle_members(&mut tx, scope.tenant(), scope.seat.plan).await?;
        let now = Standing {
            user,
            role: Some(role),
        };
        withdraw(&mut tx, scope.tenant(), now).await?;
        finish(tx, &scope, user).await
    }

    async fn remove(&self, scope: &Scope, user: &str) -> Result<(), Error> {
        let user = wire::id(user, Noun::Member)?;
        let (mut tx, scope) = self.0.store.change_all(scope).await?;
        let (actor, target) = (actor(&scope), target(&mut tx, &scope, user).await?);
        let owners = store::member::owners(&mut tx, scope.tenant()).await?;
        member::remove(actor, target, owners)?;
        store::member::delete(&mut tx, scope.tenant(), user).await?;
        store::plan::settle_members(&mut tx, scope.tenant(), scope.seat.plan).await?;
        withdraw(&mut tx, scope.tenant(), Standing::nobody(user)).await?;
        Ok(tx.commit().await?)
    }

    async fn bind(&self, scope: &Scope, user: &str, pool: &str, role: Option<Role>) -> Result<Member, Error> {
        let user = wire::id(user, Noun::Member)?;
        let pool: PoolId = wire::id(pool, Noun::Pool)?;
        let (mut tx, scope) = self.0.store.change_all(scope).await?;
        let (actor, target) = (actor(&scope), target(&mut tx, &scope, user).await?);
        let found = store::pool::find(&mut tx, scope.tenant(), pool).await?;
        let pool = found.ok_or(Error::Missing(Noun::Pool))?.id;
        member::bind(actor, target.user, role)?;
        match role {
            Some(role) => store::member::bind(&mut tx, scope.tenant(), user, pool, role).await?,
            None => store::member::unbind(&mut tx, scope.tenant(), user, pool).await?,
        }
        finish(tx, &scope, user).await
    }
}

async fn finish(mut tx: Transaction, scope: &Scope, user: UserId) -> Result<Member, Error> {
    let member = store::member::get(&mut tx, scope.tenant(), user).await?;
    tx.commit().await?;
    Ok(member)
}

#[tonic::async_trait]
impl pb::member_service_server::MemberService for Members {
    async fn list_members(
        &self,
        request: Request<pb::ListMembersRequest>,
    ) -> Result<Response<pb::ListMembersResponse>, Status> {
        let scope = chassis::scope(&request)?;
        Ok(Response::new(self.list(&scope, request.get_ref()).await?))
    }

    async fn get_member(
        &self,
        request: Request<pb::GetMemberRequest>,
    ) -> Result<Response<pb::GetMemberResponse>, Status> {
        let scope = chassis::scope(&request)?;
        let member = self.get(&scope, &request.get_ref().user_id).await?;
        let member = Some(as_seen(member, &scope));
        Ok(Response::new(pb::GetMemberResponse { member }))
    }

    async fn set_member_role(
        &self,
        request: Request<pb::SetMemberRoleRequest>,
    ) -> Result<Response<pb::SetMemberRoleResponse>, Status> {
        let scope = chassis::scope(&request)?;
        let member = self.set_role(&scope, request.get_ref()).await?;
        let member = Some(as_seen(member, &scope));
        Ok(Response::new(pb::SetMemberRoleResponse { member }))
    }

    async fn remove_member(
        &self,
        request: Request<pb::RemoveMemberRequest>,
    ) -> Result<Response<pb::RemoveMemberResponse>, Status> {
        let scope = chassis::scope(&request)?;
        self.remove(&scope, &request.get_ref().user_id).await?;
        Ok(Response::new(pb::RemoveMemberResponse {}))
    }

    async fn bind_role(
        &self,
        request: Request<pb::BindRoleRequest>,
    ) -> Result<Response<pb::BindRoleResponse>, Status> {
        let scope = chassis::scope(&request)?;
        let wanted = request.get_ref();
        let role = wire::role(wanted.role, "role").map_err(Error::from)?;
        let member = self
            .bind(&scope, &wanted.user_id, &wanted.pool_id, Some(role))
            .await?;
        let member = Some(as_seen(member, &scope));
        Ok(Response::new(pb::BindRoleResponse { member }))
    }

    async fn unbind_role(
        &self,
        request: Request<pb::UnbindRoleRequest>,
    ) -> Result<Response<pb::UnbindRoleResponse>, Status> {
        let scope = chassis::scope(&request)?;
        let wanted = request.get_ref();
        let member = self.bind(&scope, &wanted.user_id, &wanted.pool_id, None).await?;
        let member = Some(as_seen(member, &scope));
        Ok(Response::new(pb::UnbindRoleResponse { member }))
    }

    async fn invite_member(
        &self,
        request: Request<pb::InviteMemberRequest>,
    ) -> Result<Response<pb::InviteMemberResponse>, Status> {
        let scope = chassis::scope(&request)?;
        let invitation = self.invite(&scope, request.get_ref()).await?;
        let invitation = Some(wire::invitation(invitation));
        Ok(Response::new(pb::InviteMemberResponse { invitation }))
    }

    async fn list_invitations(
        &self,
        request: Request<pb::ListInvitationsRequest>,
    ) -> Result<Response<pb::ListInvitationsResponse>, Status> {
        let scope = chassis::scope(&request)?;
        Ok(Response::new(self.invitations(&scope, request.get_ref()).await?))
    }

    async fn revoke_invitation(
        &self,
        request: Request<pb::RevokeInvitationRequest>,
    ) -> Result<Response<pb::RevokeInvitationResponse>, Status> {
        let scope = chassis::scope(&request)?;
        self.uninvite(&scope, &request.get_ref().invitation_id).await?;
        Ok(Response::new(pb::RevokeInvitationResponse {}))
    }

    async fn accept_invitation(
        &self,
        request: Request<pb::AcceptInvitationRequest>,
    ) -> Result<Response<pb::AcceptInvitationResponse>, Status> {
        let own = Own::new("MemberService/AcceptInvitation", &request)?;
        let (tenant, role) = self.accept(own, &request.get_ref().token).await?;
        Ok(Response::new(pb::AcceptInvitationResponse {
            tenant_id: tenant.to_string(),
            role: wire::pb_role(Some(role)),
        }))
    }
}
