//! What MemberService does with invitations.
//!
//! An invitation is stored with its mail due, and the call succeeds: the mail is the task's ([`crate::task`]), so that service auth or its
//! mail server being down delays an invitation and never loses it.

use pg::Transaction;
use proto::tenant::v1 as pb;
use types::{InvitationId, Micros, PoolId, Role, Scope, TenantId};

use super::{
    below,
    member::{Members, actor},
    own::Own,
    wire,
};
use crate::{
    domain::{
        At as _,
        directory::Invitation,
        email::Address,
        limit,
        member::{self, Standing},
        page::{Page, Query},
        token::{Kind, Token},
    },
    error::{Error, Noun},
    store,
};

/// Deletes what `inviter` has invited and, being that now, could not.
pub(super) async fn withdraw(tx: &mut Transaction, tenant: TenantId, inviter: Standing) -> Result<(), Error> {
    for invitation in store::invitation::by_member(tx, tenant, inviter.user).await? {
        if member::invite(inviter, invitation.role, invitation.pool.is_some()).is_err() {
            store::invitation::delete(tx, tenant, invitation.id).await?;
        }
    }
    Ok(())
}

impl Members {
    pub(super) async fn invite(
        &self,
        scope: &Scope,
        wanted: &pb::InviteMemberRequest,
    ) -> Result<Invitation, Error> {
        let address = Address::parse(&wanted.email).at("email")?;
        let role = wire::role(wanted.role, "role")?;
        let pool: Option<PoolId> = match wanted.pool_id.as_str() {
            "" => None,
            text => Some(wire::id(text, Noun::Pool)?),
        };
        let tenant = scope.tenant();
        let (mut tx, scope) = self.0.store.change_all(scope).await?;
        let actor = actor(&scope);
        if let Some(pool) = pool {
            let found = store::pool::find(&mut tx, tenant, pool).await?;
            found.ok_or(Error::Missing(Noun::Pool))?;
        }
        member::invite(actor, role, pool.is_some())?;
        if store::member::has_address(&mut tx, tenant, &address).await? {
            return Err(Error::MemberExists);
        }
        let new = Invitation {
            id: InvitationId::fresh(),
            email: address.text.clone(),
            role,
            pool,
            invited_by: actor.user,
            created: Micros(0),
            expires: Micros(0),
        };
        if let Some(before) = store::invitation::of_address(&mut tx, tenant, &address).await? {
            // Replacing an invitation takes it back.
            member::uninvite(actor, before.role)?;
            if let Some(invitation) = store::invitation::put_right(&mut tx, tenant, &address, &new).await? {
                tx.commit().await?;
                return Ok(invitation);
            }
            store::invitation::delete(&mut tx, tenant, before.id).await?;
        }
        let open = store::invitation::count(&mut tx, tenant).await?;
        below(open, Noun::Invitation, limit::INVITATIONS)?;
        let members = store::member::count(&mut tx, tenant).await?;
        let plan = scope.seat.plan;
        plan.room("members, open invitations among them", members + open, |limits| {
            limits.members
        })?;
        store::invitation::spend(&mut tx, tenant, limit::INVITATIONS_PER_HOUR).await?;
        let invitation = store::invitation::insert(&mut tx, tenant, &address, &new).await?;
        tx.commit().await?;
        self.0.mail_due.notify_one();
        Ok(invitation)
    }

    pub(super) async fn invitations(
        &self,
        scope: &Scope,
        wanted: &pb::ListInvitationsRequest,
    ) -> Result<pb::ListInvitationsResponse, Error> {
        let query = Query::new("ListInvitations", scope.tenant());
        let page = Page::parse::<1>(&query, wanted.page_size, &wanted.page_token)?;
        let mut tx = self.0.store.directory(scope.deadline).await?;
        let found = store::invitation::list(&mut tx, scope.tenant(), &page).await?;
        let (found, next_page_token) = page.cut(&query, found, |invitation| vec![invitation.id.to_string()]);
        Ok(pb::ListInvitationsResponse {
            invitations: found.into_iter().map(wire::invitation).collect(),
            next_page_token,
        })
    }

    pub(super) async fn uninvite(&self, scope: &Scope, id: &str) -> Result<(), Error> {
        let id = wire::id(id, Noun::Invitation)?;
        let (mut tx, scope) = self.0.store.change_all(scope).await?;
        let actor = actor(&scope);
        let invitation = store::invitation::get(&mut tx, scope.tenant(), id).await?;
        member::uninvite(actor, invitation.role)?;
        store::invitation::delete(&mut tx, scope.tenant(), id).await?;
        Ok(tx.commit().await?)
    }

    pub(super) async fn accept(&self, own: Own, token: &str) -> Result<(TenantId, Role), Error> {
        let user = own.user;
        let token = Token::read(Kind::Invitation, token).ok_or(Error::Missing(Noun::Invitation))?;
        let mut tx = self.0.store.directory(own.deadline).await?;
        let (tenant, id) = store::invitation::opened_by(&mut tx, &token).await?;
        let gone = |error| match error {
            Error::Missing(_) => Error::Missing(Noun::Invitation),
            other => other,
        };
        let plan = store::tenant::lock(&mut tx, tenant).await.map_err(gone)?;
        // Now that the tenant is held, it is seen whether somebody was faster.
        let invitation = store::invitation::get(&mut tx, tenant, id).await?;
        // Nobody gives from afar what they could not give today.
        let inviter = invitation.invited_by;
        let inviter = store::member::standing(&mut tx, tenant, inviter)
            .await?
            .unwrap_or_else(|| Standing::nobody(inviter));
        member::invite(inviter, invitation.role, invitation.pool.is_some())
            .map_err(|_| Error::Missing(Noun::Invitation))?;
        let mine = store::member::address(&mut tx, user).await?;
        let invited = Address::parse(&invitation.email).map_err(|_| Error::Stored("address"))?;
        if !mine.is_some_and(|mine| invited.is(&mine)) {
            return Err(Error::InvitationForAnother);
        }
        let members = store::member::count(&mut tx, tenant).await?;
        plan.room("members", members, |limits| limits.members)?;
        let in_all = invitation.role;
        let role = invitation.pool.is_none().then_some(in_all);
        store::member::insert(&mut tx, tenant, user, role).await?;
        if let Some(pool) = invitation.pool {
            store::member::bind(&mut tx, tenant, user, pool, in_all).await?;
        }
        store::invitation::delete(&mut tx, tenant, id).await?;
        let targets = [("invitation_id", id.to_string())];
        own.tell(&mut tx, tenant, in_all, &targets).await?;
        tx.commit().await?;
        Ok((tenant, in_all))
    }
}
