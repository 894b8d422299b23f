//! What stands in a record of the chain, and the entries that records make up.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::{Actor, Event, Kind, Outcome};

/// What the gateway knows of a call before it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Who.
    pub actor: Actor,
    /// What kind of thing.
    pub kind: Kind,
    /// `/package.Service/Method`.
    pub method: String,
    /// For example `POST /v1/servers`; empty where it did not come as HTTP.
    #[serde(default)]
    pub path: String,
    /// Ids that it names, by field.
    #[serde(default)]
    pub targets: BTreeMap<String, String>,
    /// The client's address.
    #[serde(default)]
    pub client_address: Option<IpAddr>,
    /// What the client says it is.
    #[serde(default)]
    pub user_agent: String,
    /// `req_…`
    #[serde(default)]
    pub request_id: String,
}

/// One record: its JSON is `body` in the chain. Times are microseconds since 1970; `time` is when the record was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "part", rename_all = "snake_case")]
pub enum Record {
    /// Something is about to be done.
    Intent {
        /// `aud_…`
        id: String,
        /// When it was written.
        time: i64,
        /// Until when it may be under way.
        deadline: i64,
        /// What it is.
        call: Call,
    },
    /// How an intent ended.
    Result {
        /// `aud_…` of the intent.
        id: String,
        /// When it was written.
        time: i64,
        /// How it ended.
        outcome: Outcome,
        /// The gRPC status.
        code: String,
        /// The reason of a refusal.
        #[serde(default)]
        reason: String,
        /// Ids that the answer named.
        #[serde(default)]
        targets: BTreeMap<String, String>,
    },
    /// Something that had ended when it was told.
    Event {
        /// `aud_…`
        id: String,
        /// When it was written.
        time: i64,
        /// What it was.
        event: Event,
    },
    /// What was too old to be kept was removed from the front.
    Trim {
        /// `trim_` and the number of the last record removed.
        id: String,
        /// When it was written.
        time: i64,
        /// The number of the last record removed.
        through: i64,
        /// Its hash, in hexadecimal.
        hash: String,
        /// How many days the tenant's plan keeps.
        days: i64,
        /// What was written before this time could go.
        before: i64,
    },
}

/// The longest texts that a record takes, in bytes.
mod longest {
    pub(super) const ID: usize = 64;
    pub(super) const METHOD: usize = 256;
    pub(super) const TARGET: usize = 128;
    pub(super) const USER_AGENT: usize = 256;
    pub(super) const CODE: usize = 64;
    pub(super) const TARGETS: usize = 32;
}

/// Cuts `text` to `most` bytes at a character, and puts U+FFFD for what steers terminals, lines and databases.
fn bounded(text: &mut String, most: usize) {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if text.contains(steers) {
        *text = text.replace(steers, "\u{fffd}");
    }
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
    }
}

fn bounded_targets(targets: &mut BTreeMap<String, String>) {
    let taken = std::mem::take(targets);
    for (mut field, mut id) in taken.into_iter().take(longest::TARGETS) {
        bounded(&mut field, longest::TARGET);
        bounded(&mut id, longest::TARGET);
        targets.insert(field, id);
    }
}

impl Actor {
    fn bound(&mut self) {
        for text in [
            &mut self.user_id,
            &mut self.session_id,
            &mut self.key_id,
            &mut self.agent_id,
            &mut self.service,
            &mut self.role,
            &mut self.grant_id,
        ] {
            bounded(text, longest::ID);
        }
    }

    /// Whether one of its ids is this.
    pub fn is(&self, id: &str) -> bool {
        [&self.user_id, &self.session_id, &self.key_id, &self.agent_id]
            .into_iter()
            .any(|own| own == id)
    }
}

impl Call {
    fn bound(&mut self) {
        self.actor.bound();
        bounded(&mut self.method, longest::METHOD);
        bounded(&mut self.path, longest::METHOD);
        bounded_targets(&mut self.targets);
        bounded(&mut self.user_agent, longest::USER_AGENT);
        bounded(&mut self.request_id, longest::ID);
    }
}

impl Event {
    /// With every text as long as the log takes it, and without what steers terminals.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        bounded(&mut self.id, longest::ID);
        let (mut call, end) = self.parted();
        call.bound();
        let mut event = end.whole(call);
        bounded(&mut event.code, longest::CODE);
        bounded(&mut event.reason, longest::TARGET);
        event
    }

    fn parted(self) -> (Call, End) {
        let call = Call {
            actor: self.actor,
            kind: self.kind,
            method: self.method,
            path: self.path,
            targets: self.targets,
            client_address: self.client_address,
            user_agent: self.user_agent,
            request_id: self.request_id,
        };
        let end = End {
            id: self.id,
            time: self.time,
            end_time: self.end_time,
            outcome: self.outcome,
            code: self.code,
            reason: self.reason,
            count: self.count,
        };
        (call, end)
    }
}

/// What an event has beyond its call.
struct End {
    id: String,
    time: i64,
    end_time: i64,
    outcome: Outcome,
    code: String,
    reason: String,
    count: u64,
}

impl End {
    fn whole(self, call: Call) -> Event {
        Event {
            id: self.id,
            time: self.time,
            end_time: self.end_time,
            actor: call.actor,
            kind: call.kind,
            method: call.method,
            path: call.path,
            targets: call.targets,
            client_address: call.client_address,
            user_agent: call.user_agent,
            request_id: call.request_id,
            outcome: self.outcome,
            code: self.code,
            reason: self.reason,
            count: self.count,
        }
    }
}

impl Record {
    /// With every text as long as the log takes it.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        match &mut self {
            Self::Intent { id, call, .. } => {
                bounded(id, longest::ID);
                call.bound();
            }
            Self::Result {
                id,
                code,
                reason,
                targets,
                ..
            } => {
                bounded(id, longest::ID);
                bounded(code, longest::CODE);
                bounded(reason, longest::TARGET);
                bounded_targets(targets);
            }
            Self::Event { id, event, .. } => {
                bounded(id, longest::ID);
                *event = event.clone().bounded();
            }
            Self::Trim { .. } => {}
        }
        self
    }

    /// The body that goes into the chain. The order of its fields is that of the types here, so equal records have equal bytes.
    ///
    /// # Errors
    /// Never: no map of a record has keys that JSON lacks.
    pub fn body(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }

    /// Reads a body.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(body: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(body)
    }

    /// Its id, part and time, as the columns beside the body repeat them.
    pub fn heading(&self) -> (&str, &'static str, i64) {
        match self {
            Self::Intent { id, time, .. } => (id, "intent", *time),
            Self::Result { id, time, .. } => (id, "result", *time),
            Self::Event { id, time, .. } => (id, "event", *time),
            Self::Trim { id, time, .. } => (id, "trim", *time),
        }
    }
}

/// One entry of the log: an action, made up of its intent and its result, or of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The number of its last record.
    pub sequence: i64,
    /// Whether it has ended. If not, `event.outcome` means nothing yet.
    pub ended: bool,
    /// What happened. The targets are those of the call and of the answer.
    pub event: Event,
}

impl Entry {
    /// The reason of an entry of which a record cannot be read.
    pub const UNREADABLE: &'static str = "RECORD_UNREADABLE";

    /// In the place of one whose record cannot be read, or not by this release: that there is one, under which id, and when it was written.
    pub fn unreadable(sequence: i64, ended: bool, id: String, time: i64) -> Self {
        let event = Event {
            id,
            time,
            end_time: time,
            actor: Actor::default(),
            kind: Kind::Security,
            method: String::new(),
            path: String::new(),
            targets: BTreeMap::new(),
            client_address: None,
            user_agent: String::new(),
            request_id: String::new(),
            outcome: Outcome::Unknown,
            code: "DATA_LOSS".to_owned(),
            reason: Self::UNREADABLE.to_owned(),
            count: 1,
        };
        Self {
            sequence,
            ended,
            event: event.bounded(),
        }
    }

    /// From its first record and, where there is one, the result; each with its number. None where the first is no beginning.
    pub fn of(first: (i64, Record), result: Option<(i64, Record)>) -> Option<Self> {
        match (first, result) {
            ((sequence, Record::Event { event, .. }), None) => Some(Self {
                sequence,
                ended: true,
                event,
            }),
            ((sequence, Record::Intent { id, time, call, .. }), None) => {
                let end = End {
                    id,
                    time,
                    end_time: time,
                    outcome: Outcome::Unknown,
                    code: String::new(),
                    reason: String::new(),
                    count: 1,
                };
                Some(Self {
                    sequence,
                    ended: false,
                    event: end.whole(call),
                })
            }
            (
                (
                    _,
                    Record::Intent {
                        id, time, mut call, ..
                    },
                ),
                Some((sequence, result)),
            ) => {
                let Record::Result {
                    time: end_time,
                    outcome,
                    code,
                    reason,
                    targets,
                    ..
                } = result
                else {
                    return None;
                };
                call.targets.extend(targets);
                let end = End {
                    id,
                    time,
                    end_time,
                    outcome,
                    code,
                    reason,
                    count: 1,
                };
                Some(Self {
                    sequence,
                    ended: true,
                    event: end.whole(call),
                })
            }
            _ => None,
        }
    }
}
