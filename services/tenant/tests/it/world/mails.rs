//! The neighbour auth.

use super::*;

/// An auth that keeps what it should mail.
#[derive(Clone, Default)]
pub(crate) struct Mails {
    pub(super) taken: Arc<Mutex<Vec<SendInvitationRequest>>>,
    pub(super) down: Arc<AtomicBool>,
    pub(super) refused: Arc<AtomicUsize>,
}

#[allow(clippy::disallowed_methods, reason = "a neighbour that fails as told")]
#[tonic::async_trait]
impl mail_service_server::MailService for Mails {
    async fn send_invitation(
        &self,
        request: Request<SendInvitationRequest>,
    ) -> Result<Response<auth_pb::SendInvitationResponse>, Status> {
        if self.down.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(Status::unavailable("no mail server"));
        }
        self.taken.lock().unwrap().push(request.into_inner());
        Ok(Response::new(auth_pb::SendInvitationResponse {}))
    }
}

#[allow(clippy::disallowed_methods, reason = "a neighbour that fails as told")]
#[tonic::async_trait]
impl guard_service_server::GuardService for Mails {
    async fn authenticate(
        &self,
        _: Request<auth_pb::AuthenticateRequest>,
    ) -> Result<Response<auth_pb::AuthenticateResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn consume_step_up(
        &self,
        _: Request<auth_pb::ConsumeStepUpRequest>,
    ) -> Result<Response<auth_pb::ConsumeStepUpResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn delegate(
        &self,
        _: Request<auth_pb::DelegateRequest>,
    ) -> Result<Response<auth_pb::DelegateResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get_key_set(
        &self,
        _: Request<auth_pb::GetKeySetRequest>,
    ) -> Result<Response<auth_pb::GetKeySetResponse>, Status> {
        let key = signer().verifying_key();
        let keys = vec![auth_pb::VerifyingKey {
            kid: key.kid,
            ed25519: key.ed25519.to_vec().into(),
        }];
        Ok(Response::new(auth_pb::GetKeySetResponse { keys }))
    }
}

impl World {
    /// Waits until auth was asked for `count` mails, and gives them.
    pub(crate) fn mails(&self, count: usize) -> Vec<SendInvitationRequest> {
        testkit::eventually("mails", || {
            let taken = self.mails.taken.lock().unwrap();
            (taken.len() >= count).then(|| taken.clone())
        })
    }

    /// Whether auth's mail server is down.
    pub(crate) fn mail_is_down(&self, down: bool) {
        self.mails.down.store(down, Ordering::SeqCst);
    }

    /// Waits until auth has refused `count` mails.
    pub(crate) fn refused_mails(&self, count: usize) {
        testkit::eventually("refused mails", || {
            (self.mails.refused.load(Ordering::SeqCst) == count).then_some(())
        });
    }

    /// Makes all pending mails due at once.
    pub(crate) fn hurry_mails(&self) {
        self.db
            .sql("UPDATE tenant.invitation SET mail_due = now() WHERE mail_due IS NOT NULL");
    }
}
