//! The first account of a mesh on a developer's machine, made by the same calls as any other: sign-up, the mail, log-in, a tenant.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use chassis::{Peer, Runtime, SecretString};
use proto::{
    auth::v1::{
        AuthenticateRequest, LogInRequest, SignUpRequest, VerifyEmailRequest,
        account_service_client::AccountServiceClient, authenticate_request::Credential,
        guard_service_client::GuardServiceClient, session_service_client::SessionServiceClient,
    },
    common::v1::Region,
    tenant::v1::{CreateTenantRequest, ListTenantsRequest, tenant_service_client::TenantServiceClient},
};
use tokio::time::{Instant, sleep};
use tonic::{Request, Status};

use crate::authority;

const EMAIL: &str = "owner@example.com";
/// How long services may take to answer, and the mail to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no first account.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A call was refused.
    #[error("{call}: {status}")]
    Call {
        /// Which.
        call: &'static str,
        /// How.
        status: Box<Status>,
    },
    /// A file cannot be read or written.
    #[error("cannot use {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The mail with the token did not come.
    #[error("no mail to {EMAIL} in {0}")]
    NoMail(PathBuf),
    /// What was written cannot be kept.
    #[error(transparent)]
    Private(#[from] authority::Error),
}

/// The first account.
pub(crate) struct Seeded {
    /// Its address.
    pub(crate) email: &'static str,
    /// Its password.
    pub(crate) password: SecretString,
    /// Its tenant.
    pub(crate) tenant: String,
}

/// Auth and tenant as the gateway reaches them.
pub(crate) struct Door {
    auth: Peer,
    tenant: Peer,
    region: types::Region,
}

impl Door {
    /// The neighbours of the gateway.
    pub(crate) fn of(gateway: &Runtime) -> Result<Self, chassis::Error> {
        Ok(Self {
            auth: gateway.peer("auth")?,
            tenant: gateway.peer("tenant")?,
            region: gateway.region(),
        })
    }
}

/// Makes the account and its tenant, or finds those of last time.
pub(crate) async fn first_account(door: &Door, state: &Path) -> Result<Seeded, Error> {
    let password = authority::kept(&state.join("owner-password"), || authority::random_text(20))?;
    let password = SecretString::new(password);
    let begun = Instant::now();
    let access = loop {
        match log_in(door, &password).await {
            Ok(access) => break access,
            Err(status) if begun.elapsed() > PATIENCE => {
                return Err(Error::Call {
                    call: "LogIn",
                    status: Box::new(status),
                });
            }
            Err(status) if status.code() == tonic::Code::Unavailable => {
                sleep(Duration::from_millis(50)).await
            }
            Err(_) => sign_up(door, &password, &state.join("mail")).await?,
        }
    };
    let tenant = tenant(door, access).await.map_err(|status| Error::Call {
        call: "CreateTenant",
        status: Box::new(status),
    })?;
    Ok(Seeded {
        email: EMAIL,
        password,
        tenant,
    })
}

async fn log_in(door: &Door, password: &SecretString) -> Result<String, Status> {
    let request = LogInRequest {
        email: EMAIL.to_owned(),
        password: password.expose().to_owned(),
        ..LogInRequest::default()
    };
    let answer = SessionServiceClient::new(door.auth.clone())
        .log_in(request)
        .await?
        .into_inner();
    Ok(answer.tokens.unwrap_or_default().access_token)
}

async fn sign_up(door: &Door, password: &SecretString, mails: &Path) -> Result<(), Error> {
    let call = |call| {
        move |status| Error::Call {
            call,
            status: Box::new(status),
        }
    };
    let mut accounts = AccountServiceClient::new(door.auth.clone());
    let request = SignUpRequest {
        email: EMAIL.to_owned(),
        password: password.expose().to_owned(),
        display_name: "The owner".to_owned(),
        turnstile_token: String::new(),
    };
    accounts.sign_up(request).await.map_err(call("SignUp"))?;
    let begun = Instant::now();
    let token = loop {
        if let Some(token) = newest_token(mails)? {
            break token;
        }
        if begun.elapsed() > PATIENCE {
            return Err(Error::NoMail(mails.to_owned()));
        }
        sleep(Duration::from_millis(50)).await;
    };
    accounts
        .verify_email(VerifyEmailRequest { token })
        .await
        .map_err(call("VerifyEmail"))?;
    Ok(())
}

/// The token in the newest mail to the owner: what follows `token=` in its link.
fn newest_token(mails: &Path) -> Result<Option<String>, Error> {
    let file = |source| Error::File {
        path: mails.to_owned(),
        source,
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(mails).map_err(file)? {
        let path = entry.map_err(file)?.path();
        if path.extension().is_some_and(|extension| extension == "eml") {
            let text = fs::read_to_string(&path).map_err(file)?;
            let written = path
                .metadata()
                .and_then(|metadata| metadata.modified())
                .map_err(file)?;
            found.push((written, text));
        }
    }
    found.sort();
    Ok(found
        .iter()
        .rev()
        .filter(|(_, text)| text.contains(EMAIL))
        .find_map(|(_, text)| token(text)))
}

/// Mails break long lines with `=` at their end (quoted-printable, RFC 2045 §6.7), and write `=` as `=3D`.
fn token(mail: &str) -> Option<String> {
    let text = mail.replace("=\r\n", "").replace("=\n", "").replace("=3D", "=");
    let (_, rest) = text.split_once("token=")?;
    let token: String = rest
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || "-_.~".contains(*c))
        .collect();
    (!token.is_empty()).then_some(token)
}

async fn tenant(door: &Door, access_token: String) -> Result<String, Status> {
    let request = AuthenticateRequest {
        credential: Some(Credential::AccessToken(access_token)),
        ..AuthenticateRequest::default()
    };
    let context = GuardServiceClient::new(door.auth.clone())
        .authenticate(request)
        .await?
        .into_inner()
        .context_token;
    let mut tenants = TenantServiceClient::new(door.tenant.clone());
    let mine = tenants
        .list_tenants(as_owner(ListTenantsRequest::default(), &context)?)
        .await?
        .into_inner();
    if let Some(tenant) = mine
        .memberships
        .into_iter()
        .find_map(|membership| membership.tenant)
    {
        return Ok(tenant.id);
    }
    let region = match door.region {
        types::Region::Us => Region::Us,
        types::Region::Eu => Region::Eu,
    };
    let request = CreateTenantRequest {
        name: "Example".to_owned(),
        region: region.into(),
    };
    let made = tenants
        .create_tenant(as_owner(request, &context)?)
        .await?
        .into_inner();
    Ok(made.tenant.unwrap_or_default().id)
}

fn as_owner<T>(message: T, context: &str) -> Result<Request<T>, Status> {
    let mut request = Request::new(message);
    let value = format!("Bearer {context}");
    let value = value
        .parse()
        .map_err(|_| Status::from_error("a context token that is no header".into()))?;
    request.metadata_mut().insert("authorization", value);
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::token;

    #[test]
    fn the_token_is_found_in_a_mail_with_broken_lines() {
        let mail = "Subject: x\r\n\r\nOpen https://localhost/verify?token=3Dabc=\r\n-DEF_1\r\n\r\nBye";
        assert_eq!(token(mail).as_deref(), Some("abc-DEF_1"));
        assert_eq!(token("no link"), None);
    }
}
