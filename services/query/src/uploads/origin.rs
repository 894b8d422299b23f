//! Whose log an upload is, and what is known of its tables from elsewhere.
//!
//! A file is one piece out of the middle of a log. That a table in it is an older one under another name stands in a piece before it, which the
//! agent of the server follows, or which is another upload. For whom something is hidden, all of that counts; where the server that is named has no
//! agent that tells, nothing is known, and then nothing is shown. Where no server is named, none is asked: rules must name tables as the file does.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use prost::Message as _;
use proto::agent::v1 as agent;
use trail::{Descents, Reader, Stop};
use types::{AgentId, Errand, Scope, ServerId, UploadId};

use super::{
    Uploads,
    decode::of_store,
    error::Error,
    source::{Sources, unreadable},
    store::Files,
};
use crate::{
    resolve,
    source::{Answer, Ask, Method, Source, Target, Unanswered},
};

/// Other uploads that are looked at: as many as the largest plan has room for.
const KIN: u32 = 200;

/// Descents that are told of an upload, as many as an agent tells of a server.
const MOST: usize = 50_000;

/// Agents of a server that are asked at a time.
const AGENTS: usize = 2;

/// Descents of other uploads that stay in memory.
const KEPT: usize = 4 * MOST;

/// How long an agent has.
const AT_MOST: Duration = Duration::from_secs(5);

/// What finished uploads tell, which never changes. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Known(Arc<Mutex<HashMap<Files, Arc<Descents>>>>);

impl Known {
    fn get(&self, files: &Files) -> Option<Arc<Descents>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(files).cloned()
    }

    fn put(&self, files: Files, descents: Arc<Descents>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count: usize = all.values().map(|descents| 1 + descents.known.len()).sum();
        if count + descents.known.len() > KEPT {
            all.clear();
        }
        all.insert(files, descents);
    }

    /// Forgets an upload that is gone.
    pub(super) fn forget(&self, upload: UploadId) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|files, _| files.upload != upload);
    }
}

/// What is known of the tables of an upload.
struct Told {
    tables: agent::TablesResponse,
    known: BTreeSet<Vec<u8>>,
}

impl Told {
    /// What it tells of itself.
    fn new(tables: agent::TablesResponse) -> Self {
        let known = tables.descents.iter().map(prost::Message::encode_to_vec);
        Self {
            known: known.collect(),
            tables,
        }
    }

    /// Takes in what is known from elsewhere, and whether that is not all.
    fn add(&mut self, descents: impl IntoIterator<Item = agent::Descent>, left_out: bool) {
        self.tables.descents_left_out |= left_out;
        for one in descents {
            if self.tables.descents_left_out {
                return;
            }
            if self.known.insert(one.encode_to_vec()) {
                self.tables.descents_left_out = self.tables.descents.len() >= MOST;
                self.tables.descents.push(one);
            }
        }
    }
}

/// Whether it asks for what is known from elsewhere too.
pub(super) fn asks_for_all(ask: &Ask) -> bool {
    let request = || agent::TablesRequest::decode(ask.request.clone());
    ask.method == Method::Tables && request().is_ok_and(|request| request.all_descents)
}

impl Uploads {
    /// Refuses a server that somebody does not see as the one whose log an upload is.
    pub(super) async fn has_seen(&self, scope: &Scope, server: ServerId) -> Result<(), Error> {
        let named = server.to_string();
        let found = self.resolver.server(scope.tenant(), &named, scope.deadline);
        let seen = found
            .await
            .and_then(|found| found.permit(&scope.seat, scope.needed));
        match seen {
            Ok(_) | Err(resolve::Error::Frozen) => Ok(()),
            Err(resolve::Error::Missing) => Err(Error::field(
                "server_id",
                "there is no such server; give the id of one that you see, or leave it out",
            )),
            Err(other) => Err(Error::Caller(other.into())),
        }
    }

    /// What another upload tells.
    async fn told_by(&self, errand: &Errand, files: Files) -> Result<Arc<Descents>, Error> {
        if let Some(known) = self.known.get(&files) {
            return Ok(known);
        }
        let permit = self.readers.opening().await?;
        let (folder, stop) = (
            Arc::new(self.shelf(errand.tenant, files)),
            Stop::new(Some(errand.deadline)),
        );
        let reading = tokio::task::spawn_blocking(move || {
            let descents = Reader::open_in(folder, stop).and_then(|reader| reader.descents());
            drop(permit);
            descents
        });
        let descents = reading.await.map_err(|_| Error::Broken)?.map_err(of_store)?;
        self.known.put(files, descents.clone());
        Ok(descents)
    }

    /// Takes in what other uploads tell, and gives whose log it is.
    async fn add_kin(&self, ask: &Ask, id: UploadId, told: &mut Told) -> Result<Option<ServerId>, Error> {
        let errand = Errand {
            tenant: ask.tenant,
            deadline: ask.deadline,
        };
        let upload = self.store.find(&errand, id).await?;
        let kin = self.store.kin(&errand, &upload, KIN + 1).await?;
        told.add([], kin.len() > KIN as usize);
        for files in kin {
            match self.told_by(&errand, files).await {
                Ok(more) => told.add(more.known.iter().map(answer::descent), more.left_out),
                // It went meanwhile.
                Err(Error::Missing) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(upload.server)
    }

    /// What the agents of a server tell, each that answers: one whose store begins later knows less than another. Empty if none can be asked.
    async fn told_by_server(
        &self,
        hub: &dyn Source,
        ask: &Ask,
        server: ServerId,
    ) -> Vec<agent::TablesResponse> {
        let deadline = ask.deadline.min(Instant::now() + AT_MOST);
        let named = server.to_string();
        let found = self.resolver.server(ask.tenant, &named, deadline);
        let Ok(found) = found.await else {
            return Vec::new();
        };
        let request = agent::TablesRequest {
            server_id: named,
            all_descents: false,
        };
        let request = Bytes::from(request.encode_to_vec());
        let agents: Vec<AgentId> = found.agents.to_vec();
        let each = agents.into_iter().map(|one| {
            let ask = Ask {
                target: Target::Server {
                    id: found.id,
                    agents: [one].into(),
                },
                request: request.clone(),
                deadline,
                ..ask.clone()
            };
            async move {
                let mut answer = hub.ask(ask).await.ok()?;
                only(&mut answer).await?.ok()
            }
        });
        // Not all at once: what one tells may be 15 MiB.
        let mut each = stream::iter(each).buffered(AGENTS);
        let mut told = Vec::new();
        while let Ok(Some(answered)) = tokio::time::timeout_at(deadline.into(), each.next()).await {
            told.extend(answered.and_then(|message| agent::TablesResponse::decode(message).ok()));
        }
        told
    }
}

/// The message of an answer that is one.
async fn only(answer: &mut Answer) -> Option<Result<Bytes, tonic::Status>> {
    let message = answer.messages.next().await?;
    // The end of the answer may still be an error.
    match answer.messages.next().await {
        Some(Err(status)) => Some(Err(status)),
        _ => Some(message),
    }
}

impl Sources {
    /// The tables of an upload, with what is known of them from elsewhere.
    pub(super) async fn tables(&self, ask: Ask, id: UploadId) -> Result<Answer, Unanswered> {
        let mut own = self.uploads.ask(ask.clone()).await?;
        let unread = || Unanswered::Failed(unreadable(Error::Broken, id));
        let own = only(&mut own).await.ok_or_else(unread)??;
        let own = agent::TablesResponse::decode(own).map_err(|_| unread())?;
        let mut told = Told::new(own);
        let added = self.uploads.add_kin(&ask, id, &mut told);
        let added = tokio::time::timeout_at(ask.deadline.into(), added).await;
        let added = added.unwrap_or_else(|_| Err(pg::Error::Timeout(None).into()));
        let server = added.map_err(|error| unreadable(error, id))?;
        if let Some(server) = server.filter(|_| !told.tables.descents_left_out) {
            let all = self.uploads.told_by_server(&*self.hub, &ask, server).await;
            if all.is_empty() {
                tracing::info!(upload = %id, %server, "nobody can be asked about the server whose log was uploaded");
                told.add([], true);
            }
            for more in all {
                told.add(more.descents, more.descents_left_out);
            }
        }
        let message = Bytes::from(told.tables.encode_to_vec());
        Ok(Answer {
            agent: None,
            messages: stream::iter([Ok(message)]).boxed(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proto::{agent::v1 as agent, change::v1::TableFilter};

    use super::{MOST, Told};

    fn descent(number: usize) -> agent::Descent {
        let table = |table: String| {
            Some(TableFilter {
                schema: "shop".to_owned(),
                table,
            })
        };
        agent::Descent {
            from: table(format!("from_{number}")),
            to: table(format!("to_{number}")),
            kind: agent::descent::Kind::Rows.into(),
            ..agent::Descent::default()
        }
    }

    fn told(own: usize) -> Told {
        Told::new(agent::TablesResponse {
            descents: (0..own).map(descent).collect(),
            ..agent::TablesResponse::default()
        })
    }

    #[test]
    fn what_is_known_twice_is_told_once_and_too_much_is_said_to_be() {
        let mut all = told(3);
        all.add((1..5).map(descent), false);
        assert_eq!(
            (all.tables.descents.len(), all.tables.descents_left_out),
            (5, false)
        );
        all.add([], true);
        assert!(all.tables.descents_left_out);
        let mut all = told(MOST - 1);
        all.add([descent(0), descent(MOST)], false);
        assert_eq!(
            (all.tables.descents.len(), all.tables.descents_left_out),
            (MOST, false)
        );
        all.add([descent(MOST + 1)], false);
        assert!(all.tables.descents_left_out);
    }
}
