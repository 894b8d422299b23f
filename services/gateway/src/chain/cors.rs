//! CORS: which web pages may call. An exact list of origins, never `*`, never `null`.
use std::collections::BTreeSet;

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use tonic::body::Body;

use crate::exchange::Exchange;

/// How long a browser may remember a preflight: ten minutes.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE");
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, grpc-timeout, traceparent, tracestate, x-grpc-web, x-mfa-code, x-trailmesh-tenant, x-user-agent",
);
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "grpc-message, grpc-status, grpc-status-details-bin, ratelimit, ratelimit-policy, retry-after, trailmesh-digest, www-authenticate, x-request-id",
);

/// Origins such as `https://app.example.com` whose pages may call, with credentials.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origins(BTreeSet<String>);

impl Origins {
    /// Exactly these.
    pub(crate) fn new(origins: impl IntoIterator<Item = String>) -> Self {
        Self(origins.into_iter().collect())
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        origin.to_str().is_ok_and(|origin| self.0.contains(origin))
    }

    /// Whether a cookie that came with `exchange` was sent by a page that may use it: a listed one, the gateway's own, or no page at all.
    pub(crate) fn may_send_cookies(&self, exchange: &Exchange) -> bool {
        let Some(origin) = exchange.headers.get(header::ORIGIN) else {
            return true;
        };
        // HTTP/2 has the name in `:authority`; where there are both, they are the same.
        let host = exchange.uri.authority().map(http::uri::Authority::as_str);
        let host = host.or_else(|| exchange.header("host"));
        let own = host.is_some_and(|host| origin.as_bytes() == format!("https://{host}").as_bytes());
        own || self.allows(origin)
    }

    /// Answers a preflight, and otherwise says in the answer's headers whether the page may read it. A request from a page that may not is
    /// served without: the browser keeps its answer from the page, and clients that are no browsers have no origin to be refused for.
    pub(crate) fn check(&self, exchange: &mut Exchange) -> Option<Response<Body>> {
        // Whatever is cached is cached for one origin.
        exchange
            .answer
            .append(header::VARY, HeaderValue::from_static("Origin"));
        let origin = exchange.headers.get(header::ORIGIN)?.clone();
        let preflight = exchange.method == Method::OPTIONS
            && exchange
                .headers
                .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        let allowed = self.allows(&origin);
        if allowed {
            allow(&mut exchange.answer, origin);
        }
        preflight.then(|| {
            let headers = &mut exchange.answer;
            if allowed {
                headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
                headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
                headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
            }
            let mut response = Response::new(Body::empty());
            *response.status_mut() = if allowed {
                StatusCode::NO_CONTENT
            } else {
                StatusCode::FORBIDDEN
            };
            response
        })
    }
}

fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
        HeaderValue::from_static("true"),
    );
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
}

/// Whether `text` is an origin that may be listed: `https://` and a host in lower case, perhaps a port, nothing else; `http://` for
/// developers' machines.
pub(crate) fn is_origin(text: &str, dev: bool) -> bool {
    let Ok(url) = url::Url::parse(text) else {
        return false;
    };
    let scheme = url.scheme() == "https" || dev && url.scheme() == "http";
    scheme && !text.contains('*') && url.origin().ascii_serialization() == text
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use http::{Request, StatusCode};

    use super::{Origins, is_origin};
    use crate::exchange::Exchange;

    fn exchange(method: &str, headers: &[(&str, &str)]) -> Exchange {
        let mut request = Request::builder().method(method).uri("/v1/account");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        Exchange::new(parts, Ipv4Addr::LOCALHOST.into())
    }

    fn origins() -> Origins {
        Origins::new(["https://app.example.com".to_owned()])
    }

    #[test]
    fn only_the_listed_origin_is_allowed_to_the_letter() {
        for (origin, allowed) in [
            ("https://app.example.com", true),
            ("https://APP.example.com", false),
            ("https://app.example.com:443", false),
            ("https://app.example.com.evil.test", false),
            ("https://evil.test/https://app.example.com", false),
            ("http://app.example.com", false),
            ("https://app.example.com ", true), // The space is no part of a header's value.
            ("https://sub.app.example.com", false),
            ("null", false),
            ("*", false),
            ("", false),
        ] {
            let mut asked = exchange("GET", &[("origin", origin.trim())]);
            assert!(origins().check(&mut asked).is_none());
            let answered = asked.answer.get("access-control-allow-origin");
            assert_eq!(answered.is_some(), allowed, "{origin}");
            assert!(answered.is_none_or(|value| value != "*"));
            assert_eq!(
                asked.answer.contains_key("access-control-allow-credentials"),
                allowed
            );
            assert_eq!(asked.answer["vary"], "Origin");
        }
    }

    #[test]
    fn a_preflight_is_answered_here_and_remembered_for_ten_minutes() {
        let ask = ("access-control-request-method", "POST");
        let mut good = exchange("OPTIONS", &[("origin", "https://app.example.com"), ask]);
        let response = origins().check(&mut good).expect("an answer");
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        assert_eq!(good.answer["access-control-max-age"], "600");
        let mut bad = exchange("OPTIONS", &[("origin", "https://evil.test"), ask]);
        let response = origins().check(&mut bad).expect("an answer");
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert!(!bad.answer.contains_key("access-control-allow-origin"));
        assert!(!bad.answer.contains_key("access-control-allow-methods"));
        let mut none = exchange("OPTIONS", &[ask]);
        assert!(origins().check(&mut none).is_none(), "no page asks");
    }

    #[test]
    fn what_can_be_listed_is_an_origin_and_nothing_else() {
        assert!(is_origin("https://app.example.com", false));
        assert!(is_origin("https://app.example.com:8443", false));
        assert!(is_origin("http://localhost:5173", true));
        for bad in [
            "*",
            "null",
            "https://*.example.com",
            "https://app.example.com/",
            "http://app.example.com",
            "app.example.com",
            "https://app.example.com:443",
        ] {
            let refused = !is_origin(bad, false);
            assert!(refused, "{bad}");
        }
    }
}
