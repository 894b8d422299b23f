//! `AccountService`.

use std::sync::Arc;

use chassis::Origin;
use proto::auth::v1::{self as pb, account_service_server::AccountService};
use tonic::{Request, Response, Status};
use types::{Secret, UserId};

use super::{password::Today, person, timestamp};
use crate::{
    Auth, Error,
    domain::{
        email::Email,
        password::{NewPassword, Weakness},
        token::Kind,
    },
    history::{self, Call},
    mail::{Ask, Notice},
    store::{
        self,
        factor::{self, Proof},
    },
};

/// The longest name of a person, in characters.
const LONGEST_NAME: usize = 100;

/// Accounts.
pub(crate) struct Accounts(pub(crate) Arc<Auth>);

fn email(text: &str) -> Result<Email, Error> {
    text.parse().map_err(|_| Error::EmailInvalid)
}

fn new_password(text: String, email: &Email, field: &'static str) -> Result<Secret<String>, Error> {
    let weak = |problem: Weakness| Error::PasswordWeak { field, problem };
    Ok(NewPassword::new(text, email).map_err(weak)?.into_secret())
}

fn display_name(text: String) -> Result<String, Error> {
    if text.chars().count() > LONGEST_NAME || text.chars().any(char::is_control) {
        return Err(Error::NameInvalid(LONGEST_NAME));
    }
    Ok(text)
}

impl Accounts {
    async fn begin_sign_up(&self, origin: &Origin, request: pb::SignUpRequest) -> Result<(), Error> {
        let auth = &self.0;
        if auth.turnstile.is_none() && !auth.dev {
            return Err(Error::SignUpClosed);
        }
        let email = email(&request.email)?;
        let display_name = display_name(request.display_name)?;
        let password = new_password(request.password, &email, "password")?;
        if let Some(turnstile) = &auth.turnstile {
            let address = origin
                .client_address
                .map(|address| address.to_string())
                .unwrap_or_default();
            turnstile
                .check(&request.turnstile_token, &address, origin.deadline)
                .await?;
        }
        let phc = auth.hashers.hash(password, origin.deadline).await?;
        let ask = Ask::SignUp {
            email: email.as_str().to_owned(),
            display_name,
            phc,
            from: history::From::new(origin),
        };
        self.ask(origin, &ask).await
    }

    /// Writes down what was asked for: all that happens before the answer, whoever has the address.
    async fn ask(&self, origin: &Origin, ask: &Ask) -> Result<(), Error> {
        let mut tx = self.0.pool.shared(origin.deadline).await?;
        self.0.outbox.ask(&mut tx, ask).await?;
        tx.commit().await?;
        self.0.outbox.wake();
        Ok(())
    }

    async fn verify(&self, call: &Call, origin: &Origin, token: &str) -> Result<pb::Account, Error> {
        let sha256 = Kind::Verification.hash(token).ok_or(Error::TokenInvalid)?;
        let mut tx = self.0.pool.shared(origin.deadline).await?;
        let user = store::token::verify(&mut tx, sha256).await?;
        let account = describe(&mut tx, user).await?;
        call.by(user).write(&mut tx).await?;
        tx.commit().await?;
        Ok(account)
    }

    async fn change(
        &self,
        call: &Call,
        who: &chassis::Account,
        request: pb::ChangePasswordRequest,
    ) -> Result<u64, Error> {
        let auth = &self.0;
        let (user, session) = person(&who.subject)?;
        let grant = who.grant.as_ref();
        let grant = grant.ok_or_else(|| Error::Internal("a password change without its grant".to_owned()))?;
        let current = Secret::new(request.current_password);
        let today = Today::read(auth, user, who.deadline).await?;
        let password = new_password(request.new_password, &today.email, "new_password")?;
        let checked = today.check(auth, session, current, who.deadline).await;
        checked.inspect_err(|error| auth.refusals.note(call.of(&who.subject), error))?;
        let phc = auth.hashers.hash(password, who.deadline).await?;
        let sealed = store::account::seal_password(&auth.sealer, user, &phc)?;
        let mut tx = auth.pool.shared(who.deadline).await?;
        store::grant::spend(&mut tx, grant).await?;
        if !store::account::set_password(&mut tx, user, &sealed, Some(today.read_at)).await? {
            return Err(Error::PasswordWrong);
        }
        let ended = store::session::end_others(&mut tx, user, Some(session)).await?;
        auth.outbox.notice(&mut tx, user, Notice::PasswordChanged).await?;
        let entry = call.of(&who.subject).confirmed(Some(grant));
        entry.write(&mut tx).await?;
        tx.commit().await?;
        auth.outbox.wake();
        Ok(ended)
    }

    async fn reset(
        &self,
        call: &Call,
        origin: &Origin,
        request: pb::ResetPasswordRequest,
    ) -> Result<u64, Error> {
        let auth = &self.0;
        let sha256 = Kind::Reset.hash(&request.token).ok_or(Error::TokenInvalid)?;
        let mut tx = auth.pool.shared(origin.deadline).await?;
        let (user, address) = store::token::find_reset(&mut tx, sha256, false).await?;
        tx.commit().await?;
        let address = store::account::stored_email(&address)?;
        let password = new_password(request.new_password, &address, "new_password")?;
        let phc = auth.hashers.hash(password, origin.deadline).await?;
        let sealed = store::account::seal_password(&auth.sealer, user, &phc)?;
        let recovery = Secret::new(request.recovery_code);

        let mut tx = auth.pool.shared(origin.deadline).await?;
        store::token::find_reset(&mut tx, sha256, true).await?;
        let verdict = factor::consume(auth, &mut tx, user, proof(origin, &recovery)).await?;
        let shown = verdict.shown(&recovery);
        if let Err(refusal) = verdict.pass() {
            // The wrong try stays counted; the token stays good.
            tx.commit().await?;
            auth.outbox.wake();
            auth.refusals.note(call.about(user), &refusal);
            return Err(refusal);
        }
        store::account::set_password(&mut tx, user, &sealed, None).await?;
        let ended = store::session::end_others(&mut tx, user, None).await?;
        auth.outbox.notice(&mut tx, user, Notice::PasswordChanged).await?;
        let mut entry = call.by(user);
        if let Some(shown) = shown {
            entry = entry.target("second_factor", shown);
        }
        entry.write(&mut tx).await?;
        tx.commit().await?;
        auth.outbox.wake();
        Ok(ended)
    }
}

/// What came along to show a second factor.
pub(crate) fn proof<'a>(origin: &'a Origin, recovery: &'a Secret<String>) -> Option<Proof<'a>> {
    if !recovery.expose().is_empty() {
        return Some(Proof::Recovery(recovery.expose()));
    }
    origin.mfa_code.as_ref().map(|code| Proof::Code(code.expose()))
}

async fn describe(tx: &mut pg::Transaction, user: UserId) -> Result<pb::Account, Error> {
    let account = store::account::get(tx, user).await?;
    Ok(pb::Account {
        id: account.id.to_string(),
        email: account.email,
        display_name: account.display_name,
        create_time: Some(timestamp(account.created_at)),
        mfa_enabled: factor::mfa_enabled(tx, user).await?,
    })
}

fn count(number: u64) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[tonic::async_trait]
impl AccountService for Accounts {
    async fn sign_up(
        &self,
        request: Request<pb::SignUpRequest>,
    ) -> Result<Response<pb::SignUpResponse>, Status> {
        let origin = chassis::origin(&request);
        self.begin_sign_up(&origin, request.into_inner()).await?;
        Ok(Response::new(pb::SignUpResponse {}))
    }

    async fn verify_email(
        &self,
        request: Request<pb::VerifyEmailRequest>,
    ) -> Result<Response<pb::VerifyEmailResponse>, Status> {
        let origin = chassis::origin(&request);
        let call = Call::new(history::VERIFY_EMAIL, &request);
        let account = self.verify(&call, &origin, &request.into_inner().token).await?;
        Ok(Response::new(pb::VerifyEmailResponse {
            account: Some(account),
        }))
    }

    async fn resend_verification(
        &self,
        request: Request<pb::ResendVerificationRequest>,
    ) -> Result<Response<pb::ResendVerificationResponse>, Status> {
        let origin = chassis::origin(&request);
        let email = email(&request.into_inner().email)?.to_string();
        let from = history::From::new(&origin);
        self.ask(&origin, &Ask::Verification { email, from }).await?;
        Ok(Response::new(pb::ResendVerificationResponse {}))
    }

    async fn get_account(
        &self,
        request: Request<pb::GetAccountRequest>,
    ) -> Result<Response<pb::GetAccountResponse>, Status> {
        let who = chassis::account(&request)?;
        let mut tx = self.0.pool.shared(who.deadline).await.map_err(Error::from)?;
        let account = describe(&mut tx, who.subject.user()).await?;
        Ok(Response::new(pb::GetAccountResponse {
            account: Some(account),
        }))
    }

    async fn change_password(
        &self,
        request: Request<pb::ChangePasswordRequest>,
    ) -> Result<Response<pb::ChangePasswordResponse>, Status> {
        let who = chassis::account(&request)?;
        let call = Call::new(history::CHANGE_PASSWORD, &request);
        let ended = self.change(&call, &who, request.into_inner()).await?;
        Ok(Response::new(pb::ChangePasswordResponse {
            ended_sessions: count(ended),
        }))
    }

    async fn request_password_reset(
        &self,
        request: Request<pb::RequestPasswordResetRequest>,
    ) -> Result<Response<pb::RequestPasswordResetResponse>, Status> {
        let origin = chassis::origin(&request);
        let email = email(&request.into_inner().email)?.to_string();
        let from = history::From::new(&origin);
        self.ask(&origin, &Ask::Reset { email, from }).await?;
        Ok(Response::new(pb::RequestPasswordResetResponse {}))
    }

    async fn reset_password(
        &self,
        request: Request<pb::ResetPasswordRequest>,
    ) -> Result<Response<pb::ResetPasswordResponse>, Status> {
        let origin = chassis::origin(&request);
        let call = Call::new(history::RESET_PASSWORD, &request);
        let ended = self.reset(&call, &origin, request.into_inner()).await?;
        Ok(Response::new(pb::ResetPasswordResponse {
            ended_sessions: count(ended),
        }))
    }
}
