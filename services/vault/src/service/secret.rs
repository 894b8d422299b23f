//! SecretService.

use std::time::Instant;

use proto::vault::v1 as pb;
use tonic::{Request, Response, Status};
use types::Secret;

use crate::{
    Core,
    domain::{
        Invalid,
        place::{Form, Kind, Place},
    },
    error::Error,
};

/// The largest value.
const VALUE_AT_MOST: usize = 65_536;

/// SecretService.
#[derive(Clone)]
pub(crate) struct Secrets(pub(crate) Core);

impl Secrets {
    /// Opens what is of this kind, and no other.
    async fn open(
        &self,
        kind: Kind,
        place: Option<pb::SecretPlace>,
        envelope: &str,
        deadline: Instant,
    ) -> Result<Secret<Vec<u8>>, Error> {
        let place = Place::try_from(place)?;
        if place.kind != kind {
            return Err(Error::KindNotOpenedHere);
        }
        self.0.keys.open(&place, envelope, deadline).await
    }
}

fn form(form: pb::SecretForm) -> Form {
    match form {
        pb::SecretForm::Unspecified | pb::SecretForm::Fernet => Form::Fernet,
        pb::SecretForm::Aes256Gcm => Form::Aes256Gcm,
    }
}

#[tonic::async_trait]
impl pb::secret_service_server::SecretService for Secrets {
    async fn seal_secret(
        &self,
        request: Request<pb::SealSecretRequest>,
    ) -> Result<Response<pb::SealSecretResponse>, Status> {
        let deadline = chassis::origin(&request).deadline;
        let of_query = chassis::service(&request)? == "query";
        let wanted = request.into_inner();
        let form = pb::SecretForm::try_from(wanted.form)
            .map(form)
            .map_err(|_| Error::from(Invalid::new("form", "is no form")))?;
        let value = Secret::new(Vec::from(wanted.value));
        let place = Place::try_from(wanted.place).map_err(Error::from)?;
        // Each service seals what it keeps itself.
        if of_query != (place.kind == Kind::UploadKey) {
            return Err(Error::KindNotSealedHere.into());
        }
        if !(1..=VALUE_AT_MOST).contains(&value.expose().len()) {
            return Err(Error::from(Invalid::new("value", "has no bytes, or more than 65,536")).into());
        }
        let sealed = self.0.keys.seal(&place, value.expose(), form, deadline).await?;
        Ok(Response::new(pb::SealSecretResponse {
            envelope: sealed.envelope,
            key_version: sealed.key_version,
        }))
    }

    async fn open_sink_secret(
        &self,
        request: Request<pb::OpenSinkSecretRequest>,
    ) -> Result<Response<pb::OpenSinkSecretResponse>, Status> {
        let deadline = chassis::origin(&request).deadline;
        let wanted = request.into_inner();
        let value = self
            .open(Kind::SinkSecret, wanted.place, &wanted.envelope, deadline)
            .await?;
        let value = value.expose().clone().into();
        Ok(Response::new(pb::OpenSinkSecretResponse { value }))
    }

    async fn open_upload_key(
        &self,
        request: Request<pb::OpenUploadKeyRequest>,
    ) -> Result<Response<pb::OpenUploadKeyResponse>, Status> {
        let deadline = chassis::origin(&request).deadline;
        let wanted = request.into_inner();
        let value = self
            .open(Kind::UploadKey, wanted.place, &wanted.envelope, deadline)
            .await?;
        let value = value.expose().clone().into();
        Ok(Response::new(pb::OpenUploadKeyResponse { value }))
    }
}
