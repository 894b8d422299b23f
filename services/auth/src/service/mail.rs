//! `MailService`.

use std::sync::Arc;

use proto::auth::v1::{self as pb, mail_service_server::MailService};
use tonic::{Request, Response, Status};
use types::{Micros, Secret};

use crate::{Auth, Error, mail::Invitation};

/// Mails of other services.
pub(crate) struct Mails(pub(crate) Arc<Auth>);

fn invitation(request: pb::SendInvitationRequest) -> Result<Invitation, Error> {
    let token = Secret::new(request.token);
    let is_token = |text: &str| {
        (1..=200).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    if !is_token(token.expose()) {
        return Err(Error::TokenInvalid);
    }
    let expires = request.expire_time.map(|time| time.seconds);
    Ok(Invitation {
        to: request.email.parse().map_err(|_| Error::EmailInvalid)?,
        invited_by: request.invited_by,
        tenant_name: request.tenant_name,
        token,
        expires_at: Micros::from_secs(
            expires
                .filter(|seconds| (0..253_402_300_800).contains(seconds))
                .ok_or(Error::TokenInvalid)?,
        ),
    })
}

#[tonic::async_trait]
impl MailService for Mails {
    async fn send_invitation(
        &self,
        request: Request<pb::SendInvitationRequest>,
    ) -> Result<Response<pb::SendInvitationResponse>, Status> {
        let deadline = chassis::origin(&request).deadline;
        let invitation = invitation(request.into_inner())?;
        let queued = async {
            let mut tx = self.0.pool.shared(deadline).await?;
            self.0.outbox.invitation(&mut tx, &invitation).await?;
            tx.commit().await?;
            Ok::<_, Error>(())
        };
        queued.await?;
        self.0.outbox.wake();
        Ok(Response::new(pb::SendInvitationResponse {}))
    }
}
