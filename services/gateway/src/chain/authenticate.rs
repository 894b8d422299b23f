//! Who asks: the credential goes to auth, which answers with a context token that every service verifies itself.
use std::{
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use chassis::policy::{CallerKind, Rule};
use http::{HeaderMap, HeaderValue, header};
use proto::auth::v1::authenticate_request::Credential;
use ring::digest::{Context as Digest, SHA256};
use tonic::Code;
use types::RequestId;

use super::{
    Gateway, permit,
    region::{self, KEY_PREFIX},
};
use crate::{
    context_cache::{FRESH, Identity, Key, Known, NoIdentity, Vouched},
    error::{Cause, Layer, Refusal, Said},
    exchange::Exchange,
    routes::Route,
    upstream::By,
};

/// RFC 6750, §3.1.
const INVALID: &str = "Bearer error=\"invalid_token\"";
const TENANT: &str = "x-trailmesh-tenant";
/// Tokens of ours are much shorter.
const LONGEST: usize = 4096;

/// What a request shows of its caller.
#[derive(Clone)]
struct Presented {
    credential: Credential,
    tenant: String,
    client: IpAddr,
    key: Key,
    request: RequestId,
    /// What the client says it is, which auth writes down.
    agent: Option<HeaderValue>,
}

/// Who asks, as auth said it a moment ago.
#[derive(Clone)]
pub(crate) struct Caller {
    /// Who.
    pub(crate) identity: Arc<Identity>,
    asked: Instant,
    presented: Arc<Presented>,
}

/// Ends when a caller may no longer do what it does, and says why.
pub(crate) type Watch = Pin<Box<dyn Future<Output = Refusal> + Send>>;

/// Between two looks at the caller of a stream.
const LOOK: Duration = Duration::from_secs(1);

impl Caller {
    async fn known(gateway: &Gateway, presented: Arc<Presented>) -> Result<Self, Refusal> {
        let (identity, asked) = identify(gateway, &presented).await?;
        Ok(Self {
            identity,
            asked,
            presented,
        })
    }

    /// By what the gateway remembers it.
    pub(crate) fn key(&self) -> Key {
        self.presented.key
    }

    /// Asks again who it is and whether it may, if that is not of this moment.
    pub(crate) async fn refresh(&mut self, gateway: &Gateway, rule: &Rule) -> Result<(), Refusal> {
        if self.asked.elapsed() < FRESH {
            return Ok(());
        }
        *self = Self::known(gateway, Arc::clone(&self.presented)).await?;
        permit::check(rule, Some(&self.identity.context))
    }

    /// Looks again and again, for as long as a stream lasts.
    pub(crate) fn watch(mut self, gateway: Arc<Gateway>, route: Arc<Route>) -> Watch {
        Box::pin(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                if let Err(refusal) = self.refresh(&gateway, &route.rule).await {
                    return refusal;
                }
            }
        })
    }
}

/// The caller; none on a method that anyone may call, whatever credential came with it.
pub(crate) async fn authenticate(
    gateway: &Gateway,
    exchange: &Exchange,
    rule: &Rule,
) -> Result<Option<Caller>, Refusal> {
    if rule.caller == CallerKind::Public {
        return Ok(None);
    }
    let credential = credential(&exchange.headers)?;
    region::check(gateway, &credential)?;
    let presented = Presented {
        tenant: tenant(&exchange.headers)?.to_owned(),
        client: exchange.client,
        key: key(&credential, exchange.client),
        request: exchange.request,
        agent: exchange.headers.get(header::USER_AGENT).cloned(),
        credential,
    };
    Caller::known(gateway, Arc::new(presented)).await.map(Some)
}

async fn identify(gateway: &Gateway, presented: &Presented) -> Result<Known, Refusal> {
    let ask = |known: bool| async move {
        let client = presented.client;
        // Who was good a moment ago is no stranger.
        let question = (!known).then(|| gateway.strangers.ask(client)).transpose();
        let _question = match question {
            Ok(question) => question,
            Err(time) => return Vouched::Limited(time),
        };
        let (credential, tenant) = (presented.credential.clone(), presented.tenant.clone());
        let by = By {
            request: presented.request,
            client,
            agent: presented.agent.as_ref(),
        };
        let vouched = gateway.upstream.vouch(credential, tenant, by).await;
        if matches!(vouched, Vouched::Refused(_)) {
            gateway.strangers.refused(client).await;
        }
        vouched
    };
    match gateway
        .contexts
        .identity(presented.key, &presented.tenant, ask)
        .await
    {
        Ok(known) => Ok(known),
        Err(NoIdentity::Unreachable) => Err(Refusal::new(Layer::Authenticate, Cause::AuthUnavailable)),
        Err(NoIdentity::Limited(time)) => Err(Refusal::new(Layer::Authenticate, Cause::RateExceeded(time))),
        Err(NoIdentity::Refused(status)) => {
            if let Some(refusal) = region::of_unknown(gateway, &presented.credential, &status) {
                return Err(refusal);
            }
            let unknown = status.code() == Code::Unauthenticated;
            let said = if unknown { challenge(INVALID) } else { Said::new() };
            let cause = Cause::Service(Box::new(status));
            Err(Refusal::new(Layer::Authenticate, cause).saying(said))
        }
    }
}

/// The tenant that the request names; empty for none. A header without a name in it is refused: its sender means some tenant, perhaps
/// not the one that would be taken.
fn tenant(headers: &HeaderMap) -> Result<&str, Refusal> {
    let Some(value) = headers.get(TENANT) else {
        return Ok("");
    };
    let named = value.to_str().ok().filter(|name| !name.trim().is_empty());
    named.ok_or_else(|| Refusal::new(Layer::Authenticate, Cause::HeaderInvalid(TENANT)))
}

/// `WWW-Authenticate`.
pub(crate) fn challenge(words: &'static str) -> Said {
    vec![(header::WWW_AUTHENTICATE, HeaderValue::from_static(words))]
}

/// What the client presents: only ever `Authorization: Bearer`.
fn credential(headers: &HeaderMap) -> Result<Credential, Refusal> {
    let refuse = |cause, words| Err(Refusal::new(Layer::Authenticate, cause).saying(challenge(words)));
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return refuse(Cause::CredentialMissing, "Bearer");
    };
    let token = value.to_str().ok().and_then(|text| text.split_once(' '));
    let token = token.and_then(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()));
    // What cannot be a token or a key is not worth a question.
    let shaped = |token: &&str| {
        let signs = token
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        let kind = token.starts_with(KEY_PREFIX) || token.split('.').count() == 3;
        token.len() <= LONGEST && signs && kind
    };
    match token.filter(shaped) {
        Some(key) if key.starts_with(KEY_PREFIX) => Ok(Credential::ApiKey(key.to_owned())),
        Some(token) => Ok(Credential::AccessToken(token.to_owned())),
        None => refuse(Cause::CredentialInvalid, INVALID),
    }
}

/// What auth's answer depends on besides the tenant. The client's address is in it for keys that are limited to networks.
fn key(credential: &Credential, client: IpAddr) -> Key {
    let mut digest = Digest::new(&SHA256);
    let (Credential::AccessToken(credential) | Credential::ApiKey(credential)) = credential;
    match client {
        IpAddr::V4(address) => digest.update(&address.to_ipv6_mapped().octets()),
        IpAddr::V6(address) => digest.update(&address.octets()),
    }
    digest.update(credential.as_bytes());
    let mut key = [0; 32];
    key.copy_from_slice(digest.finish().as_ref());
    key
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proto::auth::v1::authenticate_request::Credential;
    use types::Fault as _;

    use super::{credential, key};

    fn of(value: &str) -> Result<Credential, &'static str> {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", value.parse().expect("a value"));
        credential(&headers).map_err(|refusal| {
            assert_eq!(refusal.headers[0].0, "www-authenticate");
            refusal.cause.reason()
        })
    }

    #[test]
    fn only_bearer_tokens_and_keys_are_credentials() {
        assert!(matches!(of("Bearer a.b.c"), Ok(Credential::AccessToken(token)) if token == "a.b.c"));
        assert!(matches!(of("bearer a.b.c"), Ok(Credential::AccessToken(_))));
        assert!(matches!(of("Bearer bt_live_x"), Ok(Credential::ApiKey(key)) if key == "bt_live_x"));
        let long = format!("Bearer a.b.{}", "c".repeat(5_000));
        for bad in [
            "Basic dTpw",
            "Bearer",
            "Bearer ",
            "a.b.c",
            "Bearer a.b",
            "Bearer a.b.c.d",
            "Bearer a.b.c d",
            "Bearer bt_test_x",
            "Bearer bt_live_é",
            &long,
        ] {
            assert_eq!(of(bad).err(), Some("CREDENTIAL_INVALID"), "{bad}");
        }
        assert_eq!(
            credential(&HeaderMap::new())
                .err()
                .map(|refusal| refusal.cause.reason()),
            Some("CREDENTIAL_MISSING")
        );
    }

    #[test]
    fn another_credential_or_address_is_another_question() {
        let of = |name: &str, client: &str| {
            key(
                &Credential::ApiKey(name.to_owned()),
                client.parse().expect("an address"),
            )
        };
        let base = of("bt_live_x", "6.6.6.6");
        assert_ne!(base, of("bt_live_y", "6.6.6.6"));
        assert_ne!(base, of("bt_live_x", "6.6.6.7"));
        assert_ne!(base, of("bt_live_x", "2001:db8::1"));
        assert_eq!(base, of("bt_live_x", "6.6.6.6"));
    }
}
