//! The call itself: which headers a service sees, and whose they are.
//!
//! A service sees what the gateway found out and nothing that a client wrote, but for its user agent and, where they are asked for, the code
//! and the refresh cookie. The map is begun empty, so there is nothing to forget to remove.
use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use chassis::{deadline, policy::StepUp};
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use tonic::body::Body;

use super::{Gateway, decode::Outgoing, route::Target, step_up};
use crate::{
    context_cache::Identity,
    error::{Cause, Layer, Refusal},
    exchange::Exchange,
    routes::Route,
    upstream::{Proof, Upstream},
};

/// The only method that takes the cookie.
pub(crate) const REFRESH: &str = "/trailmesh.auth.v1.SessionService/RefreshSession";
/// A cookie that no other site and no script can read or set.
pub(crate) const COOKIE: &str = "__Host-bt_rt";
/// User agents are for people who read lists of sessions.
const USER_AGENT_BYTES: usize = 256;

/// Room for what is set here and by whoever sends it, so that the map does not grow on the way.
const METADATA: usize = 24;

/// The only method that takes Stripe's signature, which proves its body.
pub(crate) const STRIPE: &str = "/trailmesh.tenant.v1.BillingService/ReceiveStripeEvent";

/// A call that is ready to be made.
pub(crate) struct Calling {
    route: Arc<Route>,
    deadline: Instant,
    headers: HeaderMap,
    outgoing: Outgoing,
}

/// Puts together what the service sees.
pub(crate) fn prepare(
    gateway: &Gateway,
    exchange: &Exchange,
    target: &Target,
    caller: Option<&Identity>,
    proof: Option<&Proof>,
    outgoing: Outgoing,
) -> Result<Calling, Refusal> {
    Ok(Calling {
        route: Arc::clone(&target.route),
        deadline: exchange.deadline,
        headers: metadata(gateway, exchange, target, caller, proof)?,
        outgoing,
    })
}

impl Calling {
    /// When nobody waits any more.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The request, if it is one message.
    pub(crate) fn message(&self) -> Option<Bytes> {
        self.outgoing.message.clone()
    }

    /// Calls the service, with what is left of the deadline.
    pub(crate) async fn send(self, upstream: &Upstream) -> Result<Response<Body>, Refusal> {
        let Self {
            route,
            deadline,
            headers,
            outgoing,
        } = self;
        let calling = upstream.call(&route.service, &route.path, headers, outgoing.body);
        let answer = deadline::within(deadline, calling).await;
        answer.map_err(|status| {
            let broken = outgoing
                .broken
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .take();
            match broken {
                Some(cause) => Refusal::new(Layer::Limits, cause),
                None => Refusal::new(Layer::Call, Cause::Service(Box::new(status))),
            }
        })
    }
}

fn metadata(
    gateway: &Gateway,
    exchange: &Exchange,
    target: &Target,
    caller: Option<&Identity>,
    proof: Option<&Proof>,
) -> Result<HeaderMap, Refusal> {
    let mut headers = HeaderMap::with_capacity(METADATA);
    let mut set = |name: &'static str, value: &str, secret: bool| {
        if let Ok(mut value) = HeaderValue::from_str(value) {
            value.set_sensitive(secret);
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    set("trailmesh-request-id", &exchange.request.to_string(), false);
    set("trailmesh-client-address", &exchange.client.to_string(), false);
    set("trailmesh-user-agent", user_agent(&exchange.headers), false);
    if let Some(proof) = proof {
        set("trailmesh-grant", &proof.token, true);
    }
    if target.route.path == STRIPE
        && let Some(signature) = exchange.header("stripe-signature")
    {
        set("stripe-signature", signature, true);
    }
    if target.route.rule.step_up == StepUp::Own
        && let Some(code) = step_up::code(exchange)?
    {
        set("mfa-code", code, true);
    }
    if target.route.path == REFRESH
        && let Some(token) = cookie(&exchange.headers)
    {
        if !gateway.origins.may_send_cookies(exchange) {
            return Err(Refusal::new(Layer::Cors, Cause::OriginRefused));
        }
        set("trailmesh-refresh-cookie", token, true);
    }
    headers.insert("traceparent", exchange.traceparent.clone());
    if let Some(caller) = caller {
        headers.insert(header::AUTHORIZATION, caller.bearer.clone());
    }
    Ok(headers)
}

/// What the client says it is, as far as it is kept.
pub(crate) fn user_agent(headers: &HeaderMap) -> &str {
    let text = headers
        .get(header::USER_AGENT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    shortened(text)
}

/// As much of a user agent as is kept.
pub(crate) fn shortened(text: &str) -> &str {
    // Text from `to_str` is ASCII: every place is a boundary.
    text.get(..text.len().min(USER_AGENT_BYTES)).unwrap_or_default()
}

/// The refresh cookie's value; none if a second one contradicts it.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let lines = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok());
    let pairs = lines
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    let mut values = pairs.filter(|(name, _)| *name == COOKIE).map(|(_, value)| value);
    let value = values.next()?;
    values.all(|other| other == value).then_some(value)
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::{cookie, user_agent};

    fn headers(name: &'static str, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, value.parse().expect("a value"));
        }
        headers
    }

    #[test]
    fn the_refresh_cookie_is_found_among_others_and_must_be_one() {
        let of = |lines: &[&str]| cookie(&headers("cookie", lines)).map(str::to_owned);
        assert_eq!(of(&["a=b; __Host-bt_rt=tok=en; c=d"]).as_deref(), Some("tok=en"));
        assert_eq!(of(&["a=b", "__Host-bt_rt=token"]).as_deref(), Some("token"));
        assert_eq!(of(&["__Host-bt_rt=one; __Host-bt_rt=two"]), None);
        assert_eq!(of(&["x__Host-bt_rt=token; __host-bt_rt=token"]), None);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn a_user_agent_is_kept_short() {
        let long = "x".repeat(1_000);
        assert_eq!(user_agent(&headers("user-agent", &[&long])).len(), 256);
        assert_eq!(user_agent(&headers("user-agent", &["é"])), "");
    }
}
