//! Why an agent cannot do what it is there for.

use std::{io, path::PathBuf, time::Duration};

use tonic::Status;
use tonic_types::StatusExt as _;
use types::{Code, Fault};

use crate::exit::Exit;

/// What goes wrong between an agent, its folder and the mesh.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A person must say something else.
    #[error("{what}: {why}")]
    Usage {
        /// A flag, a variable or a file.
        what: String,
        /// What is wrong with it.
        why: String,
        /// What to do.
        hint: &'static str,
    },
    /// The state folder, or a file in it, cannot be used.
    #[error("{path}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not hold what it must.
    #[error("{path} is damaged: {why}", path = path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Another agent uses the folder.
    #[error("{path} is in use by another trail agent", path = path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The folder has no identity.
    #[error("{path} holds no enrolled agent", path = path.display())]
    NotEnrolled {
        /// The folder.
        path: PathBuf,
    },
    /// The certificate's time is over; nothing renews it.
    #[error("the agent's certificate ended at {at}")]
    Ended {
        /// When.
        at: String,
    },
    /// No connection comes about.
    #[error("{what}: {why}")]
    Unreachable {
        /// Where to.
        what: String,
        /// Why not.
        why: String,
    },
    /// The door shows a key that is not pinned.
    #[error("{host} shows a key that is not pinned: {shown}")]
    NotPinned {
        /// The mesh.
        host: String,
        /// The pin of what it shows.
        shown: String,
    },
    /// The other side says something that it may not.
    #[error("{what} {why}")]
    Protocol {
        /// Who.
        what: &'static str,
        /// What it does.
        why: String,
    },
    /// The door lets nobody in for now, or not this agent.
    #[error("the mesh's door says {reason}")]
    Door {
        /// Its word.
        reason: String,
        /// When to come again.
        retry_after: Duration,
    },
    /// A service of the mesh refuses a call.
    #[error("the mesh says: {message} ({reason})")]
    Mesh {
        /// The kind.
        code: Code,
        /// Its stable word.
        reason: String,
        /// Its sentence.
        message: String,
        /// When to come again.
        retry_after: Option<Duration>,
    },
    /// Something of ours is broken.
    #[error("{what}: {why}")]
    Internal {
        /// What.
        what: &'static str,
        /// How.
        why: String,
    },
}

/// Words of the mesh after which coming again makes no sense until a person acts.
const FINAL: [&str; 4] = [
    "AGENT_REVOKED",
    "AGENT_FROZEN",
    "ENROLMENT_TOKEN_INVALID",
    "CERTIFICATE_REVOKED",
];

/// Two processes are the same agent, which only a copied folder makes.
pub(super) const DUPLICATE: &str = "AGENT_DUPLICATE";

impl Error {
    /// A file that cannot be read or written.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }

    /// What a service answered.
    pub(crate) fn from_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let code = match status.code() {
            tonic::Code::InvalidArgument => Code::Invalid,
            tonic::Code::Unauthenticated => Code::Unauthenticated,
            tonic::Code::PermissionDenied => Code::Forbidden,
            tonic::Code::NotFound => Code::Missing,
            tonic::Code::AlreadyExists | tonic::Code::Aborted => Code::Conflict,
            tonic::Code::FailedPrecondition => Code::Refused,
            tonic::Code::ResourceExhausted => Code::Exhausted,
            tonic::Code::DeadlineExceeded => Code::Timeout,
            tonic::Code::Internal | tonic::Code::DataLoss => Code::Internal,
            _ => Code::Unavailable,
        };
        Self::Mesh {
            code,
            reason: details
                .error_info()
                .map_or_else(|| format!("{:?}", status.code()), |info| info.reason.clone()),
            message: status.message().to_owned(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
        }
    }

    /// Whether another process is this agent too.
    pub(super) fn is_duplicate(&self) -> bool {
        matches!(self, Self::Mesh { reason, .. } if reason == DUPLICATE)
    }

    /// The mesh refuses this agent until a person acts.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Mesh { reason, .. } | Self::Door { reason, .. } => FINAL.contains(&reason.as_str()),
            Self::Ended { .. } => true,
            _ => false,
        }
    }

    /// The mesh may take it back without anything done here: a plan has room again.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Mesh { reason, .. } | Self::Door { reason, .. } if reason == "AGENT_FROZEN")
    }

    /// What the process ends with.
    pub fn exit(&self) -> Exit {
        match self {
            _ if self.is_final() => Exit::Barred,
            Self::Usage { .. } | Self::NotEnrolled { .. } => Exit::Refused,
            Self::Mesh {
                code: Code::Exhausted | Code::Forbidden | Code::Unauthenticated,
                ..
            } => Exit::Barred,
            _ => Exit::Failed,
        }
    }

    /// What a person can do.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Usage { hint, .. } => (*hint).to_owned(),
            Self::Damaged { path, .. } => {
                format!("move {} away and enrol again with a new token", path.display())
            }
            Self::Locked { .. } => "give each agent its own --dir, or stop the other one".to_owned(),
            Self::NotEnrolled { .. } => {
                "run trail agent enrol with a token first, or name another folder with --dir".to_owned()
            }
            Self::Ended { .. } => {
                "make a new enrolment token for the agent, stop it, run trail agent enrol --again with the token, and start it"
                    .to_owned()
            }
            Self::NotPinned { shown, .. } => format!(
                "somebody is in between, or the mesh has a new key: if your operator confirms {shown}, give it and one more with --pin"
            ),
            Self::Door { .. } | Self::Mesh { .. } => return self.hint_by_reason(),
            Self::File { .. } | Self::Unreachable { .. } | Self::Protocol { .. } | Self::Internal { .. } => {
                return None;
            }
        })
    }

    fn hint_by_reason(&self) -> Option<String> {
        let (Self::Mesh { reason, .. } | Self::Door { reason, .. }) = self else {
            return None;
        };
        Some(
            match reason.as_str() {
                "AGENT_REVOKED" | "CERTIFICATE_REVOKED" => {
                    "it was revoked for good, or has a new enrolment token: with that one stop it, run trail agent enrol --again, and start it"
                }
                DUPLICATE => {
                    "its folder was copied, and only the one that was started last is asked: stop one of the two, and enrol a new agent in an empty folder if both are needed"
                }
                "AGENT_FROZEN" => {
                    "the tenant's plan has no room for this agent: change the plan, or remove agents"
                }
                "ENROLMENT_TOKEN_INVALID" => {
                    "a token enrols once and not for long: create a new one for the agent and use it at once"
                }
                _ => return None,
            }
            .to_owned(),
        )
    }
}

impl Fault for Error {
    fn code(&self) -> Code {
        match self {
            Self::Usage { .. } => Code::Invalid,
            Self::File { .. } | Self::NotEnrolled { .. } | Self::Ended { .. } => Code::Refused,
            Self::Damaged { .. } => Code::Corrupt,
            Self::Locked { .. } => Code::Conflict,
            Self::Unreachable { .. } | Self::Protocol { .. } | Self::Door { .. } => Code::Unavailable,
            Self::NotPinned { .. } => Code::Unauthenticated,
            Self::Mesh { code, .. } => *code,
            Self::Internal { .. } => Code::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Usage { .. } => "USAGE",
            Self::File { .. } => "FILE",
            Self::Damaged { .. } => "FOLDER_DAMAGED",
            Self::Locked { .. } => "FOLDER_LOCKED",
            Self::NotEnrolled { .. } => "NOT_ENROLLED",
            Self::Ended { .. } => "CERTIFICATE_ENDED",
            Self::Unreachable { .. } => "MESH_UNREACHABLE",
            Self::NotPinned { .. } => "KEY_NOT_PINNED",
            Self::Protocol { .. } => "MESH_PROTOCOL",
            Self::Door { .. } => "DOOR_CLOSED",
            Self::Mesh { .. } => "MESH_REFUSED",
            Self::Internal { .. } => "AGENT_INTERNAL",
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Door { retry_after, .. } => Some(*retry_after),
            Self::Mesh { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use types::Code;

    use super::Error;
    use crate::exit::Exit;

    #[test]
    fn how_a_process_ends_says_who_must_act() {
        let door = |reason: &str| Error::Door {
            reason: reason.to_owned(),
            retry_after: Duration::ZERO,
        };
        assert_eq!(door("AGENT_REVOKED").exit(), Exit::Barred);
        assert_eq!(door("DOOR_BUSY").exit(), Exit::Failed);
        let mesh = |code, reason: &str| Error::Mesh {
            code,
            reason: reason.to_owned(),
            message: String::new(),
            retry_after: None,
        };
        assert_eq!(mesh(Code::Forbidden, "AGENT_FROZEN").exit().status(), 65);
        assert_eq!(mesh(Code::Exhausted, "RATE_LIMITED").exit().status(), 65);
        assert_eq!(mesh(Code::Unavailable, "VAULT_SEALED").exit().status(), 1);
        let usage = Error::Usage {
            what: "--pin".to_owned(),
            why: "one is too few".to_owned(),
            hint: "",
        };
        assert_eq!(usage.exit().status(), 64);
    }
}
