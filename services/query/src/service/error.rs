//! What can go wrong, by name. `reason` is what programs match on and stays the same.

use std::time::{Duration, SystemTime};

use chassis::places::Full;
use tonic::Status;
use tonic_types::StatusExt as _;
use types::{Code, Fault, Micros};

use super::frame::Torn;
use crate::{resolve, source::Seen};

/// An error of QueryService.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The question itself is wrong.
    #[error("{field}: {problem}")]
    Filter {
        /// Where.
        field: String,
        /// What.
        problem: &'static str,
    },
    /// A table that is hidden from the caller was named.
    #[error("the caller's role does not see this table")]
    TableDenied,
    /// A column that is hidden from the caller was to choose changes.
    #[error("the caller's role does not see a column that this asks by")]
    ColumnDenied,
    /// No agent that follows the server is connected.
    #[error("no agent that follows the server is connected; {}", words_of(*.0))]
    NotConnected(Option<Seen>),
    /// The agent's own refusal, in our words.
    #[error("{words}")]
    Said {
        /// The kind.
        code: Code,
        /// The reason.
        reason: &'static str,
        /// Our words.
        words: &'static str,
    },
    /// The agent cannot use a field of the question; what it says of it is for who sees everything.
    #[error("{words}")]
    Unusable {
        /// Which.
        field: &'static str,
        /// Why.
        words: String,
    },
    /// What the agent sent is no answer.
    #[error("the agent's answer cannot be read")]
    Answer,
    /// One change alone is larger than the answer may be.
    #[error("a change is too large to be answered among others: ask for its table alone")]
    Large,
    /// There was not enough time.
    #[error("the deadline has passed")]
    Late,
    /// An answer cannot be judged: what the server's tables are called changed each time, or its agent was replaced, while it was asked.
    #[error("the server's tables are being renamed, or its agent replaced, at this moment: ask again")]
    Unsettled,
    /// The page token's key cannot be used.
    #[error("a page token cannot be sealed")]
    Sealing,
    /// The tenant follows too much at once.
    #[error("a tenant has at most {0} streams here at a time")]
    OwnStreams(usize),
    /// Everybody together does.
    #[error("there are too many streams here at the moment")]
    Streams,
    /// The server.
    #[error(transparent)]
    Resolve(#[from] resolve::Error),
    /// The database.
    #[error(transparent)]
    Database(#[from] pg::Error),
}

fn words_of(seen: Option<Seen>) -> String {
    let since = seen.and_then(|seen| seen.time.duration_since(SystemTime::UNIX_EPOCH).ok());
    let micros = since.and_then(|since| i64::try_from(since.as_micros()).ok());
    match micros {
        Some(micros) => format!("it was last seen at {}", Micros(micros)),
        None => "it has not been seen yet".to_owned(),
    }
}

/// Fields of a question that an agent may point at, in the words of the request.
const FIELDS: [&str; 14] = [
    "filter.tables",
    "filter.keys",
    "filter.ops",
    "filter.since",
    "filter.until",
    "filter.gtid",
    "filter.transaction",
    "filter.epoch",
    "filter.column",
    "filter.positions",
    "transaction",
    "table",
    "key",
    "after",
];

/// The longest sentence of an agent, in characters.
const WORDS: usize = 300;

/// A reason that an agent may give, and what it becomes.
struct Known {
    code: Code,
    reason: &'static str,
    words: &'static str,
}

impl Known {
    const fn new(code: Code, reason: &'static str, words: &'static str) -> Self {
        Self { code, reason, words }
    }

    fn said(&self) -> Error {
        Error::Said {
            code: self.code,
            reason: self.reason,
            words: self.words,
        }
    }
}

/// The agent did not take the call for one of ours.
const REFUSED: Known = Known::new(
    Code::Unavailable,
    "AGENT_REFUSED",
    "the agent did not accept the call",
);

/// Whatever else.
const FAILED: Known = Known::new(Code::Unavailable, "AGENT_FAILED", "the agent could not answer");

/// The reasons of AgentService, those of the connection to it, and those of an upload, which answers in its place.
const KNOWN: [Known; 12] = [
    Known::new(
        Code::Missing,
        "TRANSACTION_NOT_FOUND",
        "there is no such transaction",
    ),
    // The server is one of the agent's: it begins, or is told of it within a minute.
    Known::new(
        Code::Unavailable,
        NOT_FOLLOWED,
        "the agent does not follow the server yet",
    ),
    Known::new(
        Code::Exhausted,
        "CHANGE_TOO_LARGE",
        "a change is too large to be answered",
    ),
    Known::new(Code::Exhausted, BUSY, "the agent has too much to do"),
    Known::new(
        Code::Unavailable,
        "STORE_UNAVAILABLE",
        "the agent cannot read what it stored",
    ),
    Known::new(
        Code::Unavailable,
        "AGENT_CONNECTION_BROKEN",
        "the connection to the agent broke",
    ),
    Known::new(
        Code::Unavailable,
        "AGENT_NOT_HELD",
        "the agent is not connected to this replica",
    ),
    Known::new(
        Code::Corrupt,
        "AGENT_ANSWER_INVALID",
        "the agent's answer cannot be read",
    ),
    Known::new(Code::Missing, "UPLOAD_NOT_FOUND", "there is no such upload"),
    Known::new(
        Code::Refused,
        "UPLOAD_NOT_READY",
        "the upload is not finished: finish it first, and wait until its state is READY",
    ),
    Known::new(
        Code::Refused,
        "UPLOAD_FROZEN",
        "the upload is frozen: the plan has room for newer ones only",
    ),
    Known::new(
        Code::Unavailable,
        "UPLOAD_UNREADABLE",
        "the upload cannot be read at the moment",
    ),
];

/// An agent that has just started, or was just told of a server, has not opened its store.
const NOT_FOLLOWED: &str = "SERVER_NOT_FOLLOWED";

/// The agent takes no more calls for a moment.
const BUSY: &str = "AGENT_BUSY";

impl Error {
    /// A wrong field.
    pub(super) fn filter(field: impl Into<String>, problem: &'static str) -> Self {
        let field = field.into();
        Self::Filter { field, problem }
    }

    /// What an agent refused with. An agent is no part of the mesh: of its status nothing goes on but which of the known reasons it is, and of
    /// a field that it cannot use the sentence about it, to those from whom nothing is hidden.
    pub(super) fn agent(status: &Status, restricted: bool) -> Self {
        match status.code() {
            tonic::Code::DeadlineExceeded => return Self::Late,
            // Not the caller was refused, but this service.
            tonic::Code::Unauthenticated | tonic::Code::PermissionDenied | tonic::Code::Ok => {
                return REFUSED.said();
            }
            _ => {}
        }
        let details = status.get_error_details();
        let reason = details.error_info().map(|info| info.reason.as_str());
        let reason = reason.unwrap_or_default();
        if reason != "FILTER_INVALID" {
            let known = KNOWN.iter().find(|known| known.reason == reason);
            return known.unwrap_or(&FAILED).said();
        }
        let violations = details.bad_request().map(|bad| &bad.field_violations);
        let named = violations.and_then(|all| all.first());
        let named = named.map(|one| one.field.as_str()).unwrap_or_default();
        let known = FIELDS.iter().find(|field| named.starts_with(**field));
        let field = *known.unwrap_or(&"filter");
        let words = words(status.message());
        if restricted || words.is_empty() {
            return Self::filter(field, "the agent cannot use this");
        }
        Self::Unusable { field, words }
    }
}

/// What an agent says, on one line of bounded length.
fn words(said: &str) -> String {
    let shown = said.chars().filter(|one| !one.is_control());
    shown.take(WORDS).collect()
}

impl Error {
    /// When an agent of the server was last there, if that is what this is about.
    pub(super) fn seen(&self) -> Option<Seen> {
        match self {
            Self::NotConnected(seen) => *seen,
            _ => None,
        }
    }

    /// Whether the agent cannot be asked at this moment, whatever the reason.
    pub(super) fn is_away(&self) -> bool {
        match self {
            Self::NotConnected(_) | Self::Late => true,
            Self::Said { code, .. } => *code == Code::Unavailable,
            _ => false,
        }
    }
}

impl From<Full> for Error {
    fn from(full: Full) -> Self {
        match full {
            Full::Own(most) => Self::OwnStreams(most),
            Full::All => Self::Streams,
        }
    }
}

impl From<Torn> for Error {
    fn from(_: Torn) -> Self {
        Self::Answer
    }
}

impl Fault for Error {
    fn code(&self) -> Code {
        match self {
            Self::Filter { .. } | Self::Unusable { .. } => Code::Invalid,
            Self::TableDenied | Self::ColumnDenied => Code::Forbidden,
            Self::NotConnected(_) | Self::Unsettled => Code::Unavailable,
            Self::Said { code, .. } => *code,
            Self::Answer => Code::Corrupt,
            Self::Large => Code::Exhausted,
            Self::Late => Code::Timeout,
            Self::Sealing => Code::Internal,
            Self::OwnStreams(_) | Self::Streams => Code::Exhausted,
            Self::Resolve(error) => error.code(),
            Self::Database(error) => error.code(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Filter { .. } | Self::Unusable { .. } => "FILTER_INVALID",
            Self::TableDenied => "TABLE_DENIED",
            Self::ColumnDenied => "COLUMN_DENIED",
            Self::NotConnected(_) => "AGENT_NOT_CONNECTED",
            Self::Said { reason, .. } => reason,
            Self::Answer => "AGENT_ANSWER_INVALID",
            Self::Large => "CHANGE_TOO_LARGE",
            Self::Late => "DEADLINE_EXCEEDED",
            Self::Unsettled => "TABLES_UNSETTLED",
            Self::Sealing => "PAGE_TOKEN_UNSEALABLE",
            Self::OwnStreams(_) | Self::Streams => "STREAM_LIMIT",
            Self::Resolve(error) => error.reason(),
            Self::Database(error) => error.reason(),
        }
    }

    fn field(&self) -> Option<&str> {
        match self {
            Self::Filter { field, .. } => Some(field),
            Self::Unusable { field, .. } => Some(field),
            Self::Resolve(error) => error.field(),
            Self::Database(error) => error.field(),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NotConnected(_) => Some(Duration::from_secs(5)),
            Self::Said { reason: BUSY, .. } => Some(Duration::from_millis(500)),
            Self::Said {
                reason: NOT_FOLLOWED, ..
            } => Some(Duration::from_secs(1)),
            Self::Streams | Self::OwnStreams(_) | Self::Unsettled => Some(Duration::from_secs(1)),
            Self::Resolve(error) => error.retry_after(),
            Self::Database(error) => error.retry_after(),
            _ => None,
        }
    }

    fn host(&self) -> Option<&str> {
        match self {
            Self::Resolve(error) => error.host(),
            _ => None,
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            Error::Resolve(error) => error.into(),
            other => chassis::status(&other),
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::{Code, Status};
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::Error;

    /// What an agent says no with: its words name a column that not everybody sees.
    fn said(code: Code, reason: &str, field: &str) -> Status {
        let mut details = ErrorDetails::with_error_info(reason, "trailmesh", []);
        if !field.is_empty() {
            details.add_bad_request_violation(field, "did you mean salary?");
        }
        let mut status = Status::with_error_details(code, "did you mean salary?", details);
        status
            .metadata_mut()
            .insert("trailmesh-set-refresh-cookie", "stolen".parse().unwrap());
        status
    }

    fn answered(status: Status, restricted: bool) -> (Code, String, String) {
        let status = Status::from(Error::agent(&status, restricted));
        assert!(
            status.metadata().is_empty(),
            "what stands beside an agent's words is not passed on"
        );
        let details = status.get_error_details();
        let info = details.error_info().map(|info| info.reason.clone());
        (status.code(), info.unwrap_or_default(), format!("{status:?}"))
    }

    #[test]
    fn an_agents_words_are_for_those_from_whom_nothing_is_hidden() {
        for (code, reason, field) in [
            (Code::InvalidArgument, "FILTER_INVALID", "filter.column"),
            (Code::InvalidArgument, "FILTER_INVALID", "filter.salary"),
            (Code::NotFound, "TRANSACTION_NOT_FOUND", ""),
            (Code::ResourceExhausted, "AGENT_BUSY", ""),
            (Code::ResourceExhausted, "CHANGE_TOO_LARGE", ""),
            (Code::Unavailable, "STORE_UNAVAILABLE", ""),
        ] {
            let (open, open_reason, words) = answered(said(code, reason, field), false);
            assert_eq!((open, open_reason.as_str()), (code, reason));
            // The sentence about a field is all that is passed on.
            assert_eq!(words.contains("salary?"), reason == "FILTER_INVALID", "{words}");
            let (closed, closed_reason, words) = answered(said(code, reason, field), true);
            assert_eq!((closed, closed_reason.as_str()), (code, reason));
            assert!(!words.contains("salary"), "{words}");
        }
        let (code, reason, words) = answered(said(Code::Unavailable, "SALARY", ""), true);
        assert_eq!((code, reason.as_str()), (Code::Unavailable, "AGENT_FAILED"));
        assert!(!words.to_lowercase().contains("salary"));
    }

    #[test]
    fn a_server_that_its_agent_does_not_follow_yet_is_there_and_worth_another_try() {
        for restricted in [false, true] {
            let refused = said(Code::NotFound, "SERVER_NOT_FOLLOWED", "");
            let status = Status::from(Error::agent(&refused, restricted));
            let wait = status.get_details_retry_info().and_then(|info| info.retry_delay);
            assert_eq!(wait, Some(std::time::Duration::from_secs(1)));
            let (code, reason, _) = answered(refused, restricted);
            assert_eq!(
                (code, reason.as_str()),
                (Code::Unavailable, "SERVER_NOT_FOLLOWED")
            );
        }
    }

    #[test]
    fn an_agent_sends_nobody_to_another_host() {
        let host = [("host".to_owned(), "evil.example".to_owned())];
        for (code, reason) in [
            (Code::FailedPrecondition, "WRONG_REGION"),
            (Code::FailedPrecondition, "TENANT_MOVED"),
            (Code::Internal, "CREDENTIAL_INVALID"),
            (Code::NotFound, "SERVER_NOT_FOLLOWED"),
        ] {
            let mut details = ErrorDetails::with_error_info(reason, "trailmesh", host.clone());
            details.set_retry_info(Some(std::time::Duration::from_secs(1_000_000)));
            let words = "log in at evil.example\n\u{1b}[2J";
            let status = Status::with_error_details(code, words, details);
            for restricted in [false, true] {
                let (_, told, words) = answered(status.clone(), restricted);
                let same = reason == "SERVER_NOT_FOLLOWED";
                assert_eq!(told, if same { reason } else { "AGENT_FAILED" });
                assert!(!words.contains("evil") && !words.contains("1000000"), "{words}");
            }
        }
        let long = format!("a\u{1b}[2J{}", "x".repeat(10_000));
        let details = ErrorDetails::with_error_info("FILTER_INVALID", "trailmesh", host);
        let status = Status::with_error_details(Code::InvalidArgument, long, details);
        let passed = Status::from(Error::agent(&status, false));
        assert!(passed.message().len() <= 300 && !passed.message().contains('\u{1b}'));
    }

    #[test]
    fn who_asks_is_not_the_one_whom_an_agent_refuses() {
        for code in [Code::Unauthenticated, Code::PermissionDenied] {
            for restricted in [false, true] {
                let (code, reason, _) = answered(said(code, "DELEGATION_INVALID", ""), restricted);
                assert_eq!((code, reason.as_str()), (Code::Unavailable, "AGENT_REFUSED"));
            }
        }
    }
}
