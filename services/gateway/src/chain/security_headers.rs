//! What every answer says to a browser, errors too.
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Two years, the time that browsers' preload lists ask for.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=63072000; includeSubDomains");

/// Names and values, except where an answer has set its own.
const HEADERS: [(HeaderName, HeaderValue); 9] = [
    (header::STRICT_TRANSPORT_SECURITY, HSTS),
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
    ),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (
        HeaderName::from_static("x-permitted-cross-domain-policies"),
        HeaderValue::from_static("none"),
    ),
];

/// Adds them, and takes away what names our software.
pub(crate) fn apply(headers: &mut HeaderMap) {
    // Room for these and a few more: the map grows once.
    headers.reserve(2 * HEADERS.len());
    for (name, value) in HEADERS {
        headers.entry(name).or_insert(value);
    }
    headers.remove(header::SERVER);
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, header};

    #[test]
    fn an_answers_own_policy_stays_and_the_rest_is_added() {
        let mut headers = HeaderMap::new();
        headers.insert(header::SERVER, HeaderValue::from_static("x/1"));
        headers.insert(
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("default-src 'self'"),
        );
        super::apply(&mut headers);
        assert_eq!(headers.len(), 9);
        assert_eq!(
            headers["strict-transport-security"],
            "max-age=63072000; includeSubDomains"
        );
        assert_eq!(headers["content-security-policy"], "default-src 'self'");
        assert_eq!(headers["x-frame-options"], "DENY");
    }
}
