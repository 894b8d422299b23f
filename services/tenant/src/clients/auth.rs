//! Service auth, which owns the mail server.

use std::time::{Duration, Instant};

use chassis::Peer;
use prost_types::Timestamp;
use proto::auth::v1::{SendInvitationRequest, mail_service_client::MailServiceClient};
use tonic::Code;

use crate::{domain::token::Token, store::invitation::Due};

/// Auth queues a mail, which takes it a row; whoever waits longer waits for nothing.
const AT_MOST: Duration = Duration::from_secs(10);

/// Sends invitations.
#[derive(Clone, Debug)]
pub(crate) struct Mailer {
    client: MailServiceClient<Peer>,
}

/// What became of a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Auth has taken it.
    Sent,
    /// It may be taken later.
    Later(String),
    /// It will never be taken.
    Never(String),
}

impl Mailer {
    /// By this peer.
    pub(crate) fn new(auth: Peer) -> Self {
        Self {
            client: MailServiceClient::new(auth),
        }
    }

    /// Has an invitation mailed whose link carries `token`.
    pub(crate) async fn send(&self, due: &Due, token: &Token) -> Outcome {
        let request = SendInvitationRequest {
            email: due.email.clone(),
            invited_by: due.invited_by.clone(),
            tenant_name: due.tenant_name.clone(),
            token: token.expose().to_owned(),
            expire_time: Some(Timestamp {
                seconds: due.expires.0.div_euclid(1_000_000),
                nanos: 0,
            }),
        };
        let mut client = self.client.clone();
        let deadline = Instant::now() + AT_MOST;
        let call = chassis::deadline::within(deadline, client.send_invitation(request));
        match tokio::time::timeout(AT_MOST, call).await {
            Ok(Ok(_)) => Outcome::Sent,
            Ok(Err(status)) if status.code() == Code::InvalidArgument => Outcome::Never(status.to_string()),
            Ok(Err(status)) => Outcome::Later(status.to_string()),
            Err(_) => Outcome::Later("no answer in time".to_owned()),
        }
    }
}
