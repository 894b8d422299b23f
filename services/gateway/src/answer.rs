//! An error as an HTTP answer: the one place where a gRPC code becomes an HTTP status.
//!
//! The body is `{"error":{"code":404,"status":"NOT_FOUND","message":"…","details":[…]}}` with those details whose types are public here:
//! ErrorInfo, BadRequest, RetryInfo, QuotaFailure, and always RequestInfo with the id that the logs have.

use http::StatusCode;
use prost::Message as _;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::pb;
use types::RequestId;

use crate::{
    error::{TENANT_MOVED, WRONG_REGION},
    json::{Invalid, Violation},
};

/// What to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// JSON, in one line.
    pub body: Vec<u8>,
    /// The header `Retry-After`.
    pub retry_after_secs: Option<u64>,
    /// Where else to ask, for the header `Trailmesh-Region-Host`.
    pub host: Option<String>,
    /// How many details had a type that is not public here and were left out.
    pub left_out: usize,
}

/// The HTTP status and the name of a gRPC code.
pub fn status_of(code: Code) -> (StatusCode, &'static str) {
    // 499 is nginx's: the client went away before the answer.
    let gone = StatusCode::from_u16(499).unwrap_or(StatusCode::REQUEST_TIMEOUT);
    match code {
        Code::Ok => (StatusCode::OK, "OK"),
        Code::Cancelled => (gone, "CANCELLED"),
        Code::Unknown => (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"),
        Code::InvalidArgument => (StatusCode::BAD_REQUEST, "INVALID_ARGUMENT"),
        Code::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, "DEADLINE_EXCEEDED"),
        Code::NotFound => (StatusCode::NOT_FOUND, "NOT_FOUND"),
        Code::AlreadyExists => (StatusCode::CONFLICT, "ALREADY_EXISTS"),
        Code::PermissionDenied => (StatusCode::FORBIDDEN, "PERMISSION_DENIED"),
        Code::ResourceExhausted => (StatusCode::TOO_MANY_REQUESTS, "RESOURCE_EXHAUSTED"),
        Code::FailedPrecondition => (StatusCode::BAD_REQUEST, "FAILED_PRECONDITION"),
        Code::Aborted => (StatusCode::CONFLICT, "ABORTED"),
        Code::OutOfRange => (StatusCode::BAD_REQUEST, "OUT_OF_RANGE"),
        Code::Unimplemented => (StatusCode::NOT_IMPLEMENTED, "UNIMPLEMENTED"),
        Code::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL"),
        Code::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
        Code::DataLoss => (StatusCode::INTERNAL_SERVER_ERROR, "DATA_LOSS"),
        Code::Unauthenticated => (StatusCode::UNAUTHORIZED, "UNAUTHENTICATED"),
    }
}

/// What a service or the chain answered. The words of a failure of ours are replaced, whoever wrote them.
pub fn error(status: &Status, request: &RequestId) -> Answer {
    let (mut http, name) = status_of(status.code());
    let message = match status.code() {
        Code::Internal | Code::Unknown | Code::DataLoss => "internal error",
        _ => status.message(),
    };
    let mut details = Details::default();
    match pb::Status::decode(status.details()) {
        Ok(status) => status
            .details
            .iter()
            .for_each(|detail| details.take(&detail.type_url, &detail.value)),
        Err(_) => details.left_out += 1,
    }
    if details.elsewhere && status.code() == Code::FailedPrecondition {
        http = StatusCode::MISDIRECTED_REQUEST;
    }
    answer(http, name, message, details, request)
}

/// A request that its method cannot take.
pub fn invalid(invalid: &Invalid, request: &RequestId) -> Answer {
    let mut details = Details::default();
    details.info(types::Fault::reason(invalid));
    let violations = invalid
        .violations
        .iter()
        .map(|Violation { field, description }| json!({"field": field, "description": description}));
    details.public.push(json!({
        "@type": url("BadRequest"),
        "fieldViolations": violations.collect::<Vec<_>>(),
    }));
    answer(
        StatusCode::BAD_REQUEST,
        "INVALID_ARGUMENT",
        &invalid.to_string(),
        details,
        request,
    )
}

/// An answer of the edge itself, such as 405 or 413, for which gRPC has no code of its own.
pub fn http(status: StatusCode, name: &str, reason: &str, message: &str, request: &RequestId) -> Answer {
    let mut details = Details::default();
    details.info(reason);
    answer(status, name, message, details, request)
}

fn answer(
    status: StatusCode,
    name: &str,
    message: &str,
    mut details: Details,
    request: &RequestId,
) -> Answer {
    details
        .public
        .push(json!({"@type": url("RequestInfo"), "requestId": request.to_string()}));
    let body = json!({"error": {
        "code": status.as_u16(),
        "status": name,
        "message": message,
        "details": details.public,
    }});
    Answer {
        status,
        body: body.to_string().into_bytes(),
        retry_after_secs: details.retry_after_secs,
        host: details.host,
        left_out: details.left_out,
    }
}

fn url(name: &str) -> String {
    format!("type.googleapis.com/google.rpc.{name}")
}

#[derive(Default)]
struct Details {
    public: Vec<Value>,
    retry_after_secs: Option<u64>,
    /// Whether what was asked for is in another region or cell, and where.
    elsewhere: bool,
    host: Option<String>,
    left_out: usize,
}

impl Details {
    fn info(&mut self, reason: &str) {
        self.public
            .push(json!({"@type": url("ErrorInfo"), "reason": reason, "domain": "trailmesh"}));
    }

    fn take(&mut self, type_url: &str, value: &[u8]) {
        let name = type_url.rsplit('/').next().unwrap_or_default();
        let shown = match name {
            "google.rpc.ErrorInfo" => self.error_info(value),
            "google.rpc.BadRequest" => bad_request(value),
            "google.rpc.RetryInfo" => self.retry_info(value),
            "google.rpc.QuotaFailure" => quota_failure(value),
            // The id of the request is told once, as this gateway knows it.
            "google.rpc.RequestInfo" => return,
            _ => None,
        };
        match shown {
            Some(mut shown) => {
                shown["@type"] = Value::String(format!("type.googleapis.com/{name}"));
                self.public.push(shown);
            }
            None => self.left_out += 1,
        }
    }

    fn error_info(&mut self, value: &[u8]) -> Option<Value> {
        let info = pb::ErrorInfo::decode(value).ok()?;
        if matches!(info.reason.as_str(), WRONG_REGION | TENANT_MOVED) {
            self.elsewhere = true;
            self.host = info.metadata.get("host").cloned();
        }
        let mut shown = json!({"reason": info.reason, "domain": info.domain});
        if !info.metadata.is_empty() {
            shown["metadata"] = json!(info.metadata);
        }
        Some(shown)
    }

    fn retry_info(&mut self, value: &[u8]) -> Option<Value> {
        let delay = pb::RetryInfo::decode(value).ok()?.retry_delay?;
        let seconds = u64::try_from(delay.seconds).ok()?;
        let rounded_up = seconds.saturating_add(u64::from(delay.nanos > 0)).max(1);
        self.retry_after_secs = Some(rounded_up);
        let text = match delay.nanos {
            ..=0 => format!("{seconds}s"),
            nanos => format!("{seconds}.{:03}s", nanos / 1_000_000),
        };
        Some(json!({"retryDelay": text}))
    }
}

fn bad_request(value: &[u8]) -> Option<Value> {
    let request = pb::BadRequest::decode(value).ok()?;
    let violations = request
        .field_violations
        .into_iter()
        .map(|violation| json!({"field": violation.field, "description": violation.description}));
    Some(json!({"fieldViolations": violations.collect::<Vec<_>>()}))
}

fn quota_failure(value: &[u8]) -> Option<Value> {
    let failure = pb::QuotaFailure::decode(value).ok()?;
    let violations = failure
        .violations
        .into_iter()
        .map(|violation| json!({"subject": violation.subject, "description": violation.description}));
    Some(json!({"violations": violations.collect::<Vec<_>>()}))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "statuses as a service would send them")]
mod tests {
    use std::{collections::HashMap, time::Duration};

    use serde_json::{Value, json};
    use tonic::{Code, Status};
    use tonic_types::{ErrorDetails, StatusExt as _};
    use types::RequestId;

    use super::{Answer, error, http, invalid};
    use crate::json::{Invalid, Violation};

    fn body(answer: &Answer) -> Value {
        serde_json::from_slice(&answer.body).unwrap()
    }

    #[test]
    fn every_code_has_its_http_status() {
        for (code, http) in [
            (0, 200),
            (1, 499),
            (2, 500),
            (3, 400),
            (4, 504),
            (5, 404),
            (6, 409),
            (7, 403),
            (8, 429),
            (9, 400),
            (10, 409),
            (11, 400),
            (12, 501),
            (13, 500),
            (14, 503),
            (15, 500),
            (16, 401),
        ] {
            let answer = error(&Status::new(Code::from_i32(code), "words"), &RequestId::fresh());
            assert_eq!(answer.status.as_u16(), http, "{code}");
            assert_eq!(body(&answer)["error"]["code"], http);
            let words = if matches!(code, 2 | 13 | 15) {
                "internal error"
            } else {
                "words"
            };
            assert_eq!(body(&answer)["error"]["message"], words, "{code}");
        }
    }

    #[test]
    fn public_details_are_shown_and_others_counted() {
        let mut details = ErrorDetails::with_error_info("SERVER_NAME_TAKEN", "trailmesh", HashMap::new());
        details.add_bad_request_violation("server.name", "is taken");
        details.set_retry_info(Some(Duration::from_millis(2500)));
        details.add_quota_failure_violation("tenant", "600 a minute");
        details.set_debug_info(vec!["secret.rs:1".into()], "secret");
        details.set_request_info("req_of_somebody_else", "secret");
        let status = Status::with_error_details(Code::ResourceExhausted, "slow down", details);
        let request = RequestId::fresh();
        let answer = error(&status, &request);
        assert_eq!((answer.retry_after_secs, answer.left_out), (Some(3), 1));
        let mut shown = body(&answer);
        assert!(!shown.to_string().contains("secret") && !shown.to_string().contains("somebody"));
        let details = shown["error"]["details"].as_array_mut().unwrap();
        details.sort_by_key(|detail| detail["@type"].to_string());
        assert_eq!(
            Value::Array(details.clone()),
            json!([
                {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{"field": "server.name", "description": "is taken"}]},
                {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVER_NAME_TAKEN", "domain": "trailmesh"},
                {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"subject": "tenant", "description": "600 a minute"}]},
                {"@type": "type.googleapis.com/google.rpc.RequestInfo", "requestId": request.to_string()},
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "2.500s"},
            ])
        );
    }

    #[test]
    fn details_that_are_no_status_are_counted() {
        let status = Status::with_details(Code::NotFound, "gone", b"\xff\xff".to_vec().into());
        let answer = error(&status, &RequestId::fresh());
        assert_eq!((answer.status.as_u16(), answer.left_out), (404, 1));
    }

    #[test]
    fn all_that_is_wrong_with_a_request_is_told() {
        let violation = |field: &str, description: &str| Violation {
            field: field.into(),
            description: description.into(),
        };
        let wrong = Invalid {
            violations: vec![
                violation("server.port", "expected a whole number"),
                violation("no", "there is no such field"),
            ],
        };
        let answer = invalid(&wrong, &RequestId::fresh());
        let shown = body(&answer);
        assert_eq!(shown["error"]["message"], "server.port: expected a whole number");
        assert_eq!(shown["error"]["details"][0]["reason"], "REQUEST_INVALID");
        assert_eq!(shown["error"]["details"][1]["fieldViolations"][1]["field"], "no");
    }

    #[test]
    fn the_edge_has_answers_of_its_own() {
        let status = ::http::StatusCode::METHOD_NOT_ALLOWED;
        let answer = http(
            status,
            "UNIMPLEMENTED",
            "METHOD_NOT_ALLOWED",
            "only GET",
            &RequestId::fresh(),
        );
        assert_eq!(answer.status, status);
        assert_eq!(body(&answer)["error"]["code"], 405);
    }
}
