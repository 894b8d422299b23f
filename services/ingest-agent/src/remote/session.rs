//! A person's session: begun with a password, kept alive with refresh tokens, ended.

use std::time::Duration;

use proto::auth::v1::{
    LogInRequest, LogInResponse, RefreshSessionRequest, Tokens, session_service_client::SessionServiceClient,
};
use tokio::time::timeout;
use tonic::{Request, transport::Channel};
use types::{Code, Micros};

use super::{fault::Said, profile::Profile};
use crate::render::micros;

/// Passwords are hashed at length, on purpose.
const LIMIT: Duration = Duration::from_secs(30);

/// Begins a session. `code` is of the second factor.
pub(crate) async fn log_in(
    channel: Channel,
    login: LogInRequest,
    code: Option<&str>,
) -> Result<LogInResponse, Said> {
    let mut request = Request::new(login);
    request.set_timeout(LIMIT);
    if let Some(code) = code {
        let Ok(mut value) = code.parse::<tonic::metadata::MetadataValue<tonic::metadata::Ascii>>() else {
            return Err(Said::own(
                Code::Invalid,
                "MFA_CODE_INVALID",
                "a code is six digits",
            ));
        };
        value.set_sensitive(true);
        request.metadata_mut().insert("x-mfa-code", value);
    }
    let mut client = SessionServiceClient::new(channel);
    match timeout(LIMIT, client.log_in(request)).await {
        Ok(answer) => answer
            .map(tonic::Response::into_inner)
            .map_err(|status| Said::from(&status)),
        Err(_) => Err(Said::late(LIMIT)),
    }
}

/// The next pair of tokens.
pub(crate) async fn refresh(channel: Channel, refresh_token: &str) -> Result<Tokens, Said> {
    let mut request = Request::new(RefreshSessionRequest {
        refresh_token: refresh_token.to_owned(),
    });
    request.set_timeout(LIMIT);
    let mut client = SessionServiceClient::new(channel);
    let answer = match timeout(LIMIT, client.refresh_session(request)).await {
        Ok(answer) => answer.map_err(|status| Said::from(&status))?,
        Err(_) => return Err(Said::late(LIMIT)),
    };
    let tokens = answer.into_inner().tokens;
    tokens.ok_or_else(|| Said::own(Code::Internal, "NO_TOKENS", "the mesh answered without tokens"))
}

/// The profile with these tokens.
pub(crate) fn with_tokens(mut profile: Profile, tokens: Tokens) -> Profile {
    let time = |time: Option<prost_types::Timestamp>| time.map_or(Micros(0), |time| micros(&time)).0;
    profile.access_expires = time(tokens.access_expire_time);
    profile.session_expires = time(tokens.session_expire_time);
    profile.access_token = tokens.access_token;
    profile.refresh_token = tokens.refresh_token;
    profile
}
