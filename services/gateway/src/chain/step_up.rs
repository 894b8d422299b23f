//! The second factor of one call: auth consumes the code for exactly this method and these bytes, and gives the proof that the service asks
//! for.
use chassis::policy::{Rule, StepUp};
use ring::digest::{SHA256, digest};
use tonic::{Code, Status};

use super::{Gateway, authenticate::challenge};
use crate::{
    context_cache::Identity,
    error::{Cause, Layer, Refusal, Said, reason_of},
    exchange::Exchange,
    upstream::{By, Confirmation, Proof, is_absence},
};

/// RFC 9470, with our name for "a fresh code for every call".
const CHALLENGE: &str = "Bearer error=\"insufficient_user_authentication\", acr_values=\"urn:bt:acr:totp-per-call\", max_age=\"0\"";

/// How long a code is.
const DIGITS: usize = 6;

/// The proof; none where the rule wants none.
pub(crate) async fn confirm(
    gateway: &Gateway,
    exchange: &Exchange,
    rule: &Rule,
    caller: Option<&Identity>,
    message: Option<&[u8]>,
) -> Result<Option<Proof>, Refusal> {
    if rule.step_up != StepUp::Totp {
        return Ok(None);
    }
    let (Some(identity), Some(message)) = (caller, message) else {
        let words = "a method that takes a code has a caller and one message".to_owned();
        return Err(Refusal::new(Layer::StepUp, Cause::Internal(words)));
    };
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest(&SHA256, message).as_ref());
    let call = Confirmation {
        identity,
        method: &rule.path,
        sha256,
        code: code(exchange)?,
    };
    let by = By {
        request: exchange.request,
        client: exchange.client,
        agent: exchange.headers.get(http::header::USER_AGENT),
    };
    match gateway.upstream.confirm(call, by).await {
        Ok(proof) => Ok(Some(proof)),
        Err(status) if is_absence(&status) => Err(Refusal::new(Layer::StepUp, Cause::AuthUnavailable)),
        Err(status) => {
            let said = challenge_of(&status);
            Err(Refusal::new(Layer::StepUp, Cause::Service(Box::new(status))).saying(said))
        }
    }
}

/// The code that came with the request, if it can be one.
pub(crate) fn code(exchange: &Exchange) -> Result<Option<&str>, Refusal> {
    let Some(value) = exchange.headers.get("x-mfa-code") else {
        return Ok(None);
    };
    let code = value.to_str().ok().map(str::trim);
    let code = code.filter(|code| code.len() == DIGITS && code.bytes().all(|byte| byte.is_ascii_digit()));
    let refusal = || Refusal::new(Layer::StepUp, Cause::HeaderInvalid("x-mfa-code"));
    code.map(Some).ok_or_else(refusal)
}

/// What a 401 asks for: a code where a code was missing or wrong, else credentials.
pub(crate) fn challenge_of(status: &Status) -> Said {
    if status.code() != Code::Unauthenticated {
        return Said::new();
    }
    let about_code = reason_of(status).is_some_and(|reason| reason.starts_with("MFA_"));
    challenge(if about_code { CHALLENGE } else { "Bearer" })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use http::Request;

    use crate::exchange::Exchange;

    #[test]
    fn what_cannot_be_a_code_is_refused_before_it_is_sent_anywhere() {
        let code = |value: &str| {
            let request = Request::builder()
                .header("x-mfa-code", value)
                .body(())
                .expect("a request");
            let exchange = Exchange::new(request.into_parts().0, Ipv4Addr::LOCALHOST.into());
            super::code(&exchange)
                .map(|code| code.map(str::to_owned))
                .map_err(|_| ())
        };
        assert_eq!(code("123456"), Ok(Some("123456".to_owned())));
        assert_eq!(code(" 123456 "), Ok(Some("123456".to_owned())));
        for bad in [
            "",
            "12345",
            "1234567",
            "12 34 56",
            "123456;",
            "abcdef",
            "\u{661}\u{662}\u{663}",
        ] {
            assert_eq!(code(bad), Err(()), "{bad}");
        }
    }
}
