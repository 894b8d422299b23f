//! UploadService: decode, act, encode.

use std::time::{Duration, Instant};

use proto::query::v1 as pb;
use tonic::{Request, Response, Status, Streaming};
use types::{Errand, Scope, UploadId};

use crate::redact::Sight;

use super::{
    Uploads,
    error::Error,
    store::Finish,
    upload::{New, State, Upload, plain},
};

/// How long FinishUpload waits for the end of the reading, and how often it looks.
const WAIT: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(100);

/// What is left of a deadline for the answer.
const SPARE: Duration = Duration::from_secs(1);

/// Uploads on a page, if nobody says, and at most.
const PAGE: (u32, u32) = (50, 200);

/// Who asks, in the whole tenant.
fn scope<T>(request: &Request<T>) -> Result<Scope, Error> {
    let scope = chassis::scope(request).map_err(Error::Caller)?;
    // What falls under no pool is not for who has roles in single pools only.
    scope.covers_all().then_some(scope).ok_or(Error::Missing)
}

fn errand(scope: &Scope) -> Errand {
    Errand {
        tenant: scope.tenant(),
        deadline: scope.deadline,
    }
}

fn id(text: &str) -> Result<UploadId, Error> {
    text.parse().map_err(|_| Error::Missing)
}

fn page_size(size: i32) -> Result<u32, Error> {
    match u32::try_from(size) {
        Ok(0) => Ok(PAGE.0),
        Ok(size) => Ok(size.min(PAGE.1)),
        Err(_) => Err(Error::field("page_size", "less than 0")),
    }
}

fn page_after(token: &str) -> Result<Option<UploadId>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    let wrong = || Error::field("page_token", "not a next_page_token of this list");
    token.parse().map(Some).map_err(|_| wrong())
}

impl Uploads {
    /// What somebody may be told of a problem.
    async fn told(&self, scope: &Scope, problem: String) -> Result<String, Error> {
        if problem.is_empty() {
            return Ok(problem);
        }
        let role = scope.seat.role.ok_or(Error::Missing)?;
        let rules = self.resolver.access(scope.tenant(), role, scope.deadline).await;
        let whole = rules.is_ok_and(|rules| Sight::new(role, None, &rules).is_ok_and(|sight| sight.whole()));
        Ok(if whole { problem } else { plain(&problem) })
    }

    async fn shown(&self, scope: &Scope, mut upload: Upload) -> Result<pb::Upload, Error> {
        let frozen = upload.open_to(scope.seat.plan).is_err();
        upload.problem = self.told(scope, upload.problem).await?;
        Ok(pb::Upload {
            frozen,
            ..upload.into()
        })
    }

    async fn create(&self, scope: &Scope, request: pb::CreateUploadRequest) -> Result<Upload, Error> {
        let new = New::try_from(request)?;
        if let Some(server) = new.server {
            self.has_seen(scope, server).await?;
        }
        let (id, errand) = (UploadId::fresh(), errand(scope));
        let key = self.keys.make(errand.tenant, id, errand.deadline).await?;
        self.store.create(&errand, scope.seat.plan, id, &new, &key).await
    }

    async fn finish(&self, scope: &Scope, request: &pb::FinishUploadRequest) -> Result<pb::Upload, Error> {
        match self.finished(scope, request).await {
            Ok(upload) => self.shown(scope, upload).await,
            Err(Error::Damaged(problem)) => Err(Error::Damaged(self.told(scope, problem).await?)),
            Err(other) => Err(other),
        }
    }

    async fn finished(&self, scope: &Scope, request: &pb::FinishUploadRequest) -> Result<Upload, Error> {
        let (id, own) = (id(&request.upload_id)?, errand(scope));
        let finish = self
            .store
            .finish(&own, id, request.keep_what_came, scope.seat.plan)
            .await?;
        if finish == Finish::Begun {
            self.finished.notify_one();
        }
        let until = (Instant::now() + WAIT).min(own.deadline.checked_sub(SPARE).unwrap_or(own.deadline));
        loop {
            let upload = self.store.find(&own, id).await?;
            match upload.state {
                State::Ready => return Ok(upload),
                State::Damaged => return Err(Error::Damaged(upload.problem)),
                State::Open => return Err(Error::Incomplete(upload.problem)),
                State::Reading if Instant::now() >= until => return Ok(upload),
                State::Reading => tokio::time::sleep(LOOK).await,
            }
        }
    }

    async fn list(
        &self,
        scope: &Scope,
        request: &pb::ListUploadsRequest,
    ) -> Result<pb::ListUploadsResponse, Error> {
        let (size, after) = (page_size(request.page_size)?, page_after(&request.page_token)?);
        let mut found = self.store.list(&errand(scope), after, size).await?;
        let more = found.len() > size as usize;
        found.truncate(size as usize);
        let last = found.last().filter(|_| more).map(|last| last.id.to_string());
        let mut uploads = Vec::with_capacity(found.len());
        for upload in found {
            uploads.push(self.shown(scope, upload).await?);
        }
        Ok(pb::ListUploadsResponse {
            uploads,
            next_page_token: last.unwrap_or_default(),
        })
    }
}

#[tonic::async_trait]
impl pb::upload_service_server::UploadService for Uploads {
    async fn create_upload(
        &self,
        request: Request<pb::CreateUploadRequest>,
    ) -> Result<Response<pb::CreateUploadResponse>, Status> {
        let scope = scope(&request)?;
        let upload = Some(self.create(&scope, request.into_inner()).await?.into());
        Ok(Response::new(pb::CreateUploadResponse { upload }))
    }

    async fn upload_file(
        &self,
        request: Request<Streaming<pb::UploadFileRequest>>,
    ) -> Result<Response<pb::UploadFileResponse>, Status> {
        let scope = scope(&request)?;
        let next_offset = self.receive(&scope, request.into_inner()).await?;
        Ok(Response::new(pb::UploadFileResponse { next_offset }))
    }

    async fn finish_upload(
        &self,
        request: Request<pb::FinishUploadRequest>,
    ) -> Result<Response<pb::FinishUploadResponse>, Status> {
        let scope = scope(&request)?;
        let upload = Some(self.finish(&scope, request.get_ref()).await?);
        Ok(Response::new(pb::FinishUploadResponse { upload }))
    }

    async fn get_upload(
        &self,
        request: Request<pb::GetUploadRequest>,
    ) -> Result<Response<pb::GetUploadResponse>, Status> {
        let scope = scope(&request)?;
        let id = id(&request.get_ref().upload_id)?;
        let upload = self.store.find(&errand(&scope), id).await?;
        let upload = Some(self.shown(&scope, upload).await?);
        Ok(Response::new(pb::GetUploadResponse { upload }))
    }

    async fn list_uploads(
        &self,
        request: Request<pb::ListUploadsRequest>,
    ) -> Result<Response<pb::ListUploadsResponse>, Status> {
        let scope = scope(&request)?;
        let page = self.list(&scope, request.get_ref()).await?;
        Ok(Response::new(page))
    }

    async fn delete_upload(
        &self,
        request: Request<pb::DeleteUploadRequest>,
    ) -> Result<Response<pb::DeleteUploadResponse>, Status> {
        let scope = scope(&request)?;
        let id = id(&request.get_ref().upload_id)?;
        self.store.delete(&errand(&scope), id).await?;
        self.forget(id);
        Ok(Response::new(pb::DeleteUploadResponse {}))
    }
}
