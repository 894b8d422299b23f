//! The one place where an error becomes a `Status`.

use std::collections::HashMap;

use tonic::{Code as Grpc, Status};
use tonic_types::{ErrorDetails, StatusExt};
use types::{Code, Fault, chain};

use crate::deadline;

/// The domain of every reason of ours.
const DOMAIN: &str = "trailmesh";
/// The host of another region or cell, in the metadata of an ErrorInfo.
const HOST: &str = "host";

/// `fault` as it goes over the wire: its code, its words, its reason and, where it has them, the wrong field, when to try again and where else
/// to ask (`host` in the ErrorInfo). The words of [`Code::Internal`] and [`Code::Corrupt`] go to the log and not over the wire.
pub fn status(fault: &dyn Fault) -> Status {
    let host = fault.host().map(|host| (HOST.to_owned(), host.to_owned()));
    let metadata: HashMap<String, String> = host.into_iter().collect();
    let mut details = ErrorDetails::with_error_info(fault.reason(), DOMAIN, metadata);
    if let Some(field) = fault.field() {
        details.add_bad_request_violation(field, fault.to_string());
    }
    if let Some(after) = fault.retry_after() {
        details.set_retry_info(Some(after));
    }
    let code = grpc(fault.code(), fault.reason());
    let text = if code == Grpc::Internal {
        let request = deadline::request().map(|id| id.to_string()).unwrap_or_default();
        tracing::error!(
            reason = fault.reason(),
            request,
            error = chain(fault),
            "internal error"
        );
        details.set_request_info(request.clone(), "");
        if request.is_empty() {
            "internal error".to_owned()
        } else {
            format!("internal error in request {request}")
        }
    } else {
        fault.to_string()
    };
    Status::with_error_details(code, text, details)
}

fn grpc(code: Code, reason: &str) -> Grpc {
    match code {
        Code::Invalid => Grpc::InvalidArgument,
        Code::Unauthenticated => Grpc::Unauthenticated,
        Code::Forbidden => Grpc::PermissionDenied,
        Code::Missing => Grpc::NotFound,
        Code::Conflict if reason.ends_with("_TAKEN") || reason.ends_with("_EXISTS") => Grpc::AlreadyExists,
        Code::Conflict => Grpc::Aborted,
        Code::Refused => Grpc::FailedPrecondition,
        Code::Exhausted => Grpc::ResourceExhausted,
        Code::Unavailable => Grpc::Unavailable,
        Code::Timeout => Grpc::DeadlineExceeded,
        Code::Corrupt | Code::Internal => Grpc::Internal,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::Code as Grpc;
    use tonic_types::StatusExt;
    use types::{Code, Fault};

    #[derive(Debug, thiserror::Error)]
    #[error("the words")]
    struct Wrong(Code, &'static str);

    impl Fault for Wrong {
        fn code(&self) -> Code {
            self.0
        }
        fn reason(&self) -> &'static str {
            self.1
        }
        fn field(&self) -> Option<&str> {
            (self.0 == Code::Invalid).then_some("server.port")
        }
        fn retry_after(&self) -> Option<Duration> {
            (self.0 == Code::Exhausted).then_some(Duration::from_secs(3))
        }
        fn host(&self) -> Option<&str> {
            (self.0 == Code::Refused).then_some("https://eu.example.com")
        }
    }

    #[test]
    fn who_asks_in_the_wrong_place_is_told_the_right_one() {
        let info = |code| super::status(&Wrong(code, "A")).get_details_error_info().unwrap();
        let metadata = info(Code::Refused).metadata;
        assert_eq!(
            metadata.get("host").map(String::as_str),
            Some("https://eu.example.com")
        );
        assert!(info(Code::Missing).metadata.is_empty());
    }

    #[test]
    fn every_code_has_its_status() {
        for (code, reason, wanted) in [
            (Code::Invalid, "A", Grpc::InvalidArgument),
            (Code::Unauthenticated, "A", Grpc::Unauthenticated),
            (Code::Forbidden, "A", Grpc::PermissionDenied),
            (Code::Missing, "A", Grpc::NotFound),
            (Code::Conflict, "NAME_TAKEN", Grpc::AlreadyExists),
            (Code::Conflict, "TENANT_EXISTS", Grpc::AlreadyExists),
            (Code::Conflict, "SERVER_CHANGED", Grpc::Aborted),
            (Code::Refused, "A", Grpc::FailedPrecondition),
            (Code::Exhausted, "A", Grpc::ResourceExhausted),
            (Code::Unavailable, "A", Grpc::Unavailable),
            (Code::Timeout, "A", Grpc::DeadlineExceeded),
            (Code::Corrupt, "A", Grpc::Internal),
            (Code::Internal, "A", Grpc::Internal),
        ] {
            let status = super::status(&Wrong(code, reason));
            assert_eq!(status.code(), wanted, "{code:?}");
            let info = status.get_details_error_info().unwrap();
            assert_eq!(
                (info.reason.as_str(), info.domain.as_str()),
                (reason, "trailmesh")
            );
        }
    }

    #[test]
    fn the_field_and_the_time_to_wait_are_told() {
        let status = super::status(&Wrong(Code::Invalid, "A"));
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "server.port");
        let status = super::status(&Wrong(Code::Exhausted, "A"));
        let retry = status.get_details_retry_info().unwrap();
        assert_eq!(retry.retry_delay, Some(Duration::from_secs(3)));
    }

    #[test]
    fn words_of_internal_errors_stay_inside() {
        for code in [Code::Internal, Code::Corrupt] {
            let status = super::status(&Wrong(code, "A"));
            assert_eq!(status.message(), "internal error");
            assert!(!String::from_utf8_lossy(status.details()).contains("words"));
        }
    }
}
