//! What the mesh answers when it does not answer, in the words of the person at the terminal.

use std::time::Duration;

use tonic::{Code as Grpc, Status};
use tonic_types::StatusExt as _;
use types::Code;

use super::dial::{self, Place, Trouble};
use crate::error::Error;

/// An error of the mesh, taken apart.
#[derive(Debug)]
pub(crate) struct Said {
    /// Its kind.
    pub(crate) code: Code,
    /// The reason that stays the same across releases; empty if it does not come from the mesh's services.
    pub(crate) reason: String,
    /// Its words.
    pub(crate) words: String,
    /// The wrong field of the request.
    pub(crate) field: Option<String>,
    /// When to try again.
    pub(crate) retry_after: Option<Duration>,
    /// Where to ask instead.
    pub(crate) host: Option<String>,
}

impl From<&Status> for Said {
    fn from(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let violation = details
            .bad_request()
            .and_then(|request| request.field_violations.first());
        Self {
            code: code(status.code()),
            reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
            words: status.message().trim_end_matches('.').to_owned(),
            field: violation.map(|violation| violation.field.clone()),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            host: info.and_then(|info| info.metadata.get("host").cloned()),
        }
    }
}

fn code(code: Grpc) -> Code {
    match code {
        Grpc::InvalidArgument | Grpc::OutOfRange => Code::Invalid,
        Grpc::Unauthenticated => Code::Unauthenticated,
        Grpc::PermissionDenied => Code::Forbidden,
        Grpc::NotFound => Code::Missing,
        Grpc::AlreadyExists | Grpc::Aborted => Code::Conflict,
        Grpc::FailedPrecondition | Grpc::Unimplemented => Code::Refused,
        Grpc::ResourceExhausted => Code::Exhausted,
        Grpc::Unavailable | Grpc::Cancelled => Code::Unavailable,
        Grpc::DeadlineExceeded => Code::Timeout,
        Grpc::DataLoss => Code::Corrupt,
        Grpc::Ok | Grpc::Unknown | Grpc::Internal => Code::Internal,
    }
}

impl Said {
    fn is_about_tables(&self) -> bool {
        let field = self.field.as_deref().unwrap_or_default();
        field.trim_start_matches("filter.").starts_with("table")
    }

    /// The connection broke rather than that somebody answered.
    pub(crate) fn is_of_the_line(&self) -> bool {
        self.reason.is_empty() && matches!(self.code, Code::Unavailable | Code::Internal)
    }

    /// Asking again in a moment is likely to help.
    pub(crate) fn passes(&self) -> bool {
        let passing = [
            "OVERLOADED",
            "STOPPING",
            "PEER_UNREACHABLE",
            "PEER_CONNECTION_BROKEN",
            "AGENT_CONNECTION_BROKEN",
            "AUTH_UNAVAILABLE",
            "AUDIT_UNAVAILABLE",
        ];
        self.is_of_the_line() || passing.contains(&self.reason.as_str())
    }
}

/// The error as it is told: `what` is what was asked about, such as `server orders`.
pub(crate) fn failure(what: &str, said: &Said, place: &Place, trouble: &Trouble) -> Error {
    if said.is_of_the_line() {
        let why = trouble.last().unwrap_or_else(|| said.words.clone());
        return dial::unreachable(place, &why);
    }
    let words = if said.words.is_empty() {
        "the mesh refused without a word"
    } else {
        &said.words
    };
    let (code, what, words) = match (words.split_once(": "), said.reason.as_str()) {
        // Names no table that the store knows: at the command line that is something that is not there, not a call that is wrong.
        (Some((what, why)), "FILTER_INVALID") if said.is_about_tables() => (Code::Missing, what, why),
        (Some((what, why)), "FILTER_INVALID") => (said.code, flag(what).unwrap_or(what), why),
        _ => (said.code, what, words),
    };
    let error = Error::new(code, what, words);
    match hint(said) {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// What a person can do about it.
fn hint(said: &Said) -> Option<String> {
    let fixed = match said.reason.as_str() {
        "CREDENTIAL_MISSING"
        | "CREDENTIAL_INVALID"
        | "INVALID_GRANT"
        | "REFRESH_TOKEN_REUSED"
        | "SESSION_REQUIRED" => "log in with trail login, or set TRAIL_API_KEY to a key that counts",
        "TENANT_REQUIRED" => "name the tenant with --tenant; trail whoami lists yours",
        "SERVER_NOT_FOUND" => {
            "trail servers lists those you may see: not those of agent pools that you have no role in; check --tenant too"
        }
        "AGENT_NOT_CONNECTED" => {
            "start trail agent run beside the database; trail status --server NAME tells when it was last seen"
        }
        "AGENT_BUSY" => "the agent answers as much as it may at a time; try again in a moment",
        "SERVER_FROZEN" => "the tenant's plan has no room for this server; its owner can change the plan",
        "UPLOAD_FROZEN" => "delete newer uploads, or have the tenant's owner change the plan",
        "PLAN_TOO_LARGE" => "choose fewer changes: a transaction, a table, rows or a shorter time",
        "TABLE_DENIED" | "COLUMN_DENIED" => {
            "an admin of the tenant decides who sees which tables and columns"
        }
        "ROLE_TOO_LOW" | "SCOPE_MISSING" => {
            "trail whoami tells your role; an admin of the tenant can change it"
        }
        "UPLOAD_NOT_FOUND" => "trail uploads lists those that there are",
        "UPLOAD_NOT_A_BINLOG" => {
            "give a file that the server wrote with log_bin=ON, as it is: not a dump, not compressed, not mysqlbinlog's text"
        }
        "UPLOAD_DAMAGED" | "UPLOAD_INCOMPLETE" => "keep what came before with --keep-what-came",
        "NAME_TAKEN" => "choose another --name, or delete that one: trail uploads delete NAME",
        "UPLOAD_STREAM_REPLACED" => "another trail upload sends the same file; let one of them do it",
        "PLAN_STALE" | "PLAN_EXPIRED" => "plan again: run the same command once more",
        "CREDENTIALS_WRONG" => {
            "check the address and the password; an account counts once its address is verified"
        }
        "MFA_CODE_REQUIRED" | "MFA_CODE_INVALID" => {
            "give the code that your authenticator shows now with --code; each works once"
        }
        "MFA_LOCKED" | "MFA_SUSPENDED" => "wait, then give a code that has not been used yet",
        "PLAN_FEATURE" | "PLAN_LIMIT" => "the tenant's plan does not have it; its owner can change the plan",
        "METHOD_NOT_FOUND" => "the mesh is older than this trail, or that is not its gateway",
        _ => "",
    };
    if !fixed.is_empty() {
        return Some(fixed.to_owned());
    }
    if let Some(host) = &said.host {
        return Some(format!("this tenant lives elsewhere: --mesh {host}"));
    }
    if let Some(after) = said.retry_after {
        return Some(format!("try again in {} s", after.as_secs().max(1)));
    }
    if said.is_about_tables() {
        return Some("trail tables lists what it has seen, trail coverage from when on".to_owned());
    }
    let flag = flag(said.field.as_deref()?.trim_start_matches("filter."))?;
    Some(format!("it is about {flag}"))
}

/// How a field of a filter is given at the command line.
fn flag(field: &str) -> Option<&'static str> {
    Some(match field {
        field if field.starts_with("keys") || field == "key" => "--key",
        "column" => "--column",
        "gtid" => "--gtid",
        "transaction" => "the transaction",
        "since" => "--since",
        "until" => "--until",
        "name" => "--name",
        "retention_days" => "--retention-days",
        "server_id" => "--server",
        _ => return None,
    })
}

impl Said {
    /// What we say ourselves.
    pub(crate) fn own(code: Code, reason: &str, words: &str) -> Self {
        Self {
            code,
            reason: reason.to_owned(),
            words: words.to_owned(),
            field: None,
            retry_after: None,
            host: None,
        }
    }

    /// No answer came in time.
    pub(crate) fn late(limit: Duration) -> Self {
        Self::own(
            Code::Timeout,
            "NO_ANSWER",
            &format!("no answer within {} s", limit.as_secs()),
        )
    }
}
