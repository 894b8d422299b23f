//! Questions about an upload, answered by what answers an agent's.

use std::sync::Arc;

use answer::{Request, Still};
use futures_util::{StreamExt as _, future::BoxFuture};
use proto::{agent::v1 as agent, change::v1 as change};
use tonic::Status;
use trail::{Reader, Stop};
use types::{Errand, Plan, UploadId, chain};

use super::{
    Uploads,
    decode::of_store,
    error::Error,
    origin::asks_for_all,
    store::Files,
    upload::{State, Upload},
};
use crate::source::{Answer, Ask, Messages, Source, Target, Unanswered};

fn refused(error: &answer::Error) -> Status {
    chassis::status(error)
}

/// Who asks is told whether there is such an upload and whether it is finished. Anything else is for who keeps the mesh running.
pub(super) fn unreadable(error: Error, id: UploadId) -> Status {
    match error {
        Error::Missing | Error::NotReady | Error::Frozen { .. } => error.into(),
        Error::Database(pg::Error::NoSuchTenant) => Error::Missing.into(),
        other => {
            tracing::warn!(upload = %id, error = chain(&other), "an upload could not be asked");
            Error::Unreadable.into()
        }
    }
}

/// What only the upload knows: nothing follows it.
fn status(upload: &Upload) -> agent::StatusResponse {
    agent::StatusResponse {
        state: Some(change::FollowState {
            problem: upload.problem.clone(),
            ..change::FollowState::default()
        }),
        ..agent::StatusResponse::default()
    }
}

impl Uploads {
    async fn opened(&self, errand: &Errand, files: Files) -> Result<Reader, Error> {
        let place = self.readers.place(files);
        let open = place.get_or_try_init(async || {
            let permit = self.readers.opening().await?;
            let (folder, stop) = (
                Arc::new(self.shelf(errand.tenant, files)),
                Stop::new(Some(errand.deadline)),
            );
            let opening = tokio::task::spawn_blocking(move || {
                let reader = Reader::open_in(folder, stop);
                drop(permit);
                reader
            });
            opening.await.map_err(|_| Error::Broken)?.map_err(of_store)
        });
        let reader = tokio::time::timeout_at(errand.deadline.into(), open).await;
        Ok(reader.map_err(|_| pg::Error::Timeout(None))??.clone())
    }

    async fn find_opened(
        &self,
        errand: &Errand,
        id: UploadId,
        plan: Plan,
    ) -> Result<(Reader, Upload), Error> {
        let upload = self.store.find(errand, id).await?;
        upload.open_to(plan)?;
        if upload.state != State::Ready {
            return Err(Error::NotReady);
        }
        let files = Files {
            upload: id,
            attempt: upload.attempt,
        };
        Ok((self.opened(errand, files).await?, upload))
    }

    async fn answer(&self, ask: Ask, (id, plan): (UploadId, Plan)) -> Result<Messages, Status> {
        let errand = Errand {
            tenant: ask.tenant,
            deadline: ask.deadline,
        };
        let place = self.places.take(ask.tenant);
        let place = place.map_err(|_| refused(&answer::Error::Busy))?;
        let found = self.find_opened(&errand, id, plan).await;
        let (reader, upload) = found.map_err(|error| unreadable(error, id))?;
        let request = Request::read(ask.method, &ask.request).map_err(|error| refused(&error))?;
        let still = Arc::new(Still::new(reader, status(&upload)));
        let messages = answer::answer(&self.budget, still, request, ask.deadline);
        let messages = messages.map_err(|error| refused(&error))?;
        let messages = messages.map(move |message| {
            // Until the answer is over.
            let _ = &place;
            message.map_err(|error| refused(&error))
        });
        Ok(self.watched(errand, (id, plan), messages.boxed()))
    }
}

/// Asks the one that knows: the hub about servers, and the uploads about themselves.
pub(crate) struct Sources {
    /// For servers.
    pub(crate) hub: Arc<dyn Source>,
    /// For uploads.
    pub(crate) uploads: Uploads,
}

impl Source for Sources {
    fn ask(&self, ask: Ask) -> BoxFuture<'_, Result<Answer, Unanswered>> {
        match ask.target {
            Target::Server { .. } => self.hub.ask(ask),
            Target::Upload { id, .. } if asks_for_all(&ask) => Box::pin(self.tables(ask, id)),
            Target::Upload { .. } => self.uploads.ask(ask),
        }
    }
}

impl Source for Uploads {
    fn ask(&self, ask: Ask) -> BoxFuture<'_, Result<Answer, Unanswered>> {
        Box::pin(async move {
            let Target::Upload { id, plan } = ask.target else {
                return Err(Unanswered::Failed(Error::Missing.into()));
            };
            let messages = self.answer(ask, (id, plan)).await?;
            Ok(Answer {
                agent: None,
                messages,
            })
        })
    }
}
