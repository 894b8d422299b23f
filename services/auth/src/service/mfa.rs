//! `MfaService`: the second factor's life.

use std::sync::Arc;

use chassis::SecretString;
use proto::auth::v1 as pb;
use tonic::{Request, Response, Status};
use types::Secret;

use crate::{
    Auth, Error,
    history::{self, Call},
    mail::Notice,
    service::{password::Today, person, timestamp},
    store::{
        self,
        factor::{self, Proof, Verdict},
    },
};

/// Who a QR code says the code is for.
const ISSUER: &str = "Trailmesh";

/// The service.
pub(crate) struct Mfa(pub(crate) Arc<Auth>);

/// The proof that a rule with STEP_UP_TOTP gives its handler, used up in `tx`.
async fn confirmed(tx: &mut pg::Transaction, account: &chassis::Account) -> Result<(), Error> {
    let grant = account
        .grant
        .as_ref()
        .ok_or_else(|| Error::Internal("a call without its grant came through".into()))?;
    store::grant::spend(tx, grant).await
}

impl Mfa {
    async fn enrol(
        &self,
        call: &Call,
        account: &chassis::Account,
        code: Option<SecretString>,
        request: pb::EnrolTotpRequest,
    ) -> Result<pb::EnrolTotpResponse, Error> {
        let (user, session) = person(&account.subject)?;
        let recovery = Secret::new(request.recovery_code);
        let current = Secret::new(request.current_password);
        let mut tx = self.0.pool.shared(account.deadline).await?;
        let is_first = !factor::mfa_enabled(&mut tx, user).await?;
        tx.commit().await?;
        let mut today = None;
        if is_first {
            let read = Today::read(&self.0, user, account.deadline).await?;
            let checked = read.check(&self.0, session, current, account.deadline).await;
            checked.inspect_err(|error| self.0.refusals.note(call.of(&account.subject), error))?;
            today = Some(read.read_at);
        }
        let mut tx = self.0.pool.shared(account.deadline).await?;
        let proof = match (&code, recovery.expose().as_str()) {
            (Some(code), _) => Some(Proof::Code(code.expose())),
            (None, "") => None,
            (None, recovery) => Some(Proof::Recovery(recovery)),
        };
        let verdict = factor::consume(&self.0, &mut tx, user, proof).await?;
        let shown = verdict.shown(&recovery);
        match verdict {
            Verdict::Refused(error) => {
                tx.commit().await?;
                self.0.outbox.wake();
                self.0.refusals.note(call.of(&account.subject), &error);
                return Err(error);
            }
            Verdict::Passed => {}
            // A factor that went away since, or a password that was set since: neither proof was shown.
            Verdict::NoFactor => {
                let read_at = today.ok_or(Error::PasswordWrong)?;
                if !store::account::password_unchanged(&mut tx, user, read_at).await? {
                    return Err(Error::PasswordWrong);
                }
            }
        }
        let (secret, expires) = factor::enrol(&self.0, &mut tx, user).await?;
        let email = store::account::email(&mut tx, user).await?;
        let mut entry = call.of(&account.subject);
        if let Some(shown) = shown {
            entry = entry.target("second_factor", shown);
        }
        entry.write(&mut tx).await?;
        tx.commit().await?;
        self.0.outbox.wake();
        let uri = secret
            .uri(ISSUER, &email)
            .ok_or_else(|| Error::Internal("the address fits no otpauth URI".into()))?;
        Ok(pb::EnrolTotpResponse {
            secret: secret.base32(),
            otpauth_uri: uri,
            expire_time: Some(timestamp(expires)),
        })
    }

    async fn activate(
        &self,
        call: &Call,
        account: &chassis::Account,
        code: Option<SecretString>,
    ) -> Result<pb::ActivateTotpResponse, Error> {
        let (user, session) = person(&account.subject)?;
        let code = code.ok_or(Error::MfaCodeRequired)?;
        let mut tx = self.0.pool.shared(account.deadline).await?;
        let activated = factor::activate(&self.0, &mut tx, user, code.expose()).await?;
        let ended = match &activated {
            Ok(_) => {
                call.of(&account.subject).write(&mut tx).await?;
                store::session::end_others(&mut tx, user, Some(session)).await?
            }
            Err(error) => {
                self.0.refusals.note(call.of(&account.subject), error);
                0
            }
        };
        tx.commit().await?;
        self.0.outbox.wake();
        Ok(pb::ActivateTotpResponse {
            recovery_codes: activated?,
            ended_sessions: counted(ended),
        })
    }

    async fn disable(
        &self,
        call: &Call,
        account: &chassis::Account,
    ) -> Result<pb::DisableTotpResponse, Error> {
        let (user, session) = person(&account.subject)?;
        let mut tx = self.0.pool.shared(account.deadline).await?;
        confirmed(&mut tx, account).await?;
        if !factor::remove(&mut tx, user).await? {
            return Err(Error::MfaNotActive);
        }
        let ended = store::session::end_others(&mut tx, user, Some(session)).await?;
        self.0.outbox.notice(&mut tx, user, Notice::FactorRemoved).await?;
        let entry = call.of(&account.subject).confirmed(account.grant.as_ref());
        entry.write(&mut tx).await?;
        tx.commit().await?;
        self.0.outbox.wake();
        Ok(pb::DisableTotpResponse {
            ended_sessions: counted(ended),
        })
    }

    async fn regenerate(
        &self,
        call: &Call,
        account: &chassis::Account,
    ) -> Result<pb::RegenerateRecoveryCodesResponse, Error> {
        let (user, _) = person(&account.subject)?;
        let mut tx = self.0.pool.shared(account.deadline).await?;
        confirmed(&mut tx, account).await?;
        if !factor::mfa_enabled(&mut tx, user).await? {
            return Err(Error::MfaNotActive);
        }
        let recovery_codes = factor::replace_recovery_codes(&self.0, &mut tx, user).await?;
        self.0
            .outbox
            .notice(&mut tx, user, Notice::RecoveryCodesReplaced)
            .await?;
        let entry = call.of(&account.subject).confirmed(account.grant.as_ref());
        entry.write(&mut tx).await?;
        tx.commit().await?;
        self.0.outbox.wake();
        Ok(pb::RegenerateRecoveryCodesResponse { recovery_codes })
    }
}

fn counted(ended: u64) -> i32 {
    i32::try_from(ended).unwrap_or(i32::MAX)
}

#[tonic::async_trait]
impl pb::mfa_service_server::MfaService for Mfa {
    async fn get_mfa(
        &self,
        request: Request<pb::GetMfaRequest>,
    ) -> Result<Response<pb::GetMfaResponse>, Status> {
        let account = chassis::account(&request)?;
        let (user, _) = person(&account.subject)?;
        let mut tx = self.0.pool.shared(account.deadline).await.map_err(Error::from)?;
        let (since, left) = factor::summary(&mut tx, user).await?;
        tx.commit().await.map_err(Error::from)?;
        Ok(Response::new(pb::GetMfaResponse {
            totp_active: since.is_some(),
            totp_active_time: since.map(timestamp),
            recovery_codes_left: i32::try_from(left).unwrap_or(i32::MAX),
        }))
    }

    async fn enrol_totp(
        &self,
        request: Request<pb::EnrolTotpRequest>,
    ) -> Result<Response<pb::EnrolTotpResponse>, Status> {
        let account = chassis::account(&request)?;
        let code = chassis::origin(&request).mfa_code;
        let call = Call::new(history::ENROL_TOTP, &request);
        let enrolled = self.enrol(&call, &account, code, request.into_inner());
        Ok(Response::new(enrolled.await?))
    }

    async fn activate_totp(
        &self,
        request: Request<pb::ActivateTotpRequest>,
    ) -> Result<Response<pb::ActivateTotpResponse>, Status> {
        let account = chassis::account(&request)?;
        let code = chassis::origin(&request).mfa_code;
        let call = Call::new(history::ACTIVATE_TOTP, &request);
        Ok(Response::new(self.activate(&call, &account, code).await?))
    }

    async fn disable_totp(
        &self,
        request: Request<pb::DisableTotpRequest>,
    ) -> Result<Response<pb::DisableTotpResponse>, Status> {
        let account = chassis::account(&request)?;
        let call = Call::new(history::DISABLE_TOTP, &request);
        Ok(Response::new(self.disable(&call, &account).await?))
    }

    async fn regenerate_recovery_codes(
        &self,
        request: Request<pb::RegenerateRecoveryCodesRequest>,
    ) -> Result<Response<pb::RegenerateRecoveryCodesResponse>, Status> {
        let account = chassis::account(&request)?;
        let call = Call::new(history::REGENERATE_RECOVERY_CODES, &request);
        Ok(Response::new(self.regenerate(&call, &account).await?))
    }
}
