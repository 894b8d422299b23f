//! What the vault of these tests does with secrets: an envelope opens for the place it was sealed for, and for no other.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message as _;
use proto::vault::v1::{secret_service_server::SecretService, *};
use tonic::{Code, Request, Response, Status};

use crate::vault::{Vault, no};

#[tonic::async_trait]
impl SecretService for Vault {
    async fn seal_secret(
        &self,
        request: Request<SealSecretRequest>,
    ) -> Result<Response<SealSecretResponse>, Status> {
        self.open()?;
        let request = request.into_inner();
        let place = request.place.unwrap_or_default().encode_to_vec();
        // Not as it is, so that a search for the value does not find it.
        let value: Vec<u8> = request.value.iter().map(|byte| byte ^ 0x55).collect();
        let (place, value) = (URL_SAFE_NO_PAD.encode(place), URL_SAFE_NO_PAD.encode(value));
        Ok(Response::new(SealSecretResponse {
            envelope: format!("btv1:1:{place}.{value}"),
            key_version: 1,
        }))
    }

    async fn open_sink_secret(
        &self,
        request: Request<OpenSinkSecretRequest>,
    ) -> Result<Response<OpenSinkSecretResponse>, Status> {
        self.open()?;
        let request = request.into_inner();
        let place = URL_SAFE_NO_PAD.encode(request.place.unwrap_or_default().encode_to_vec());
        let sealed = request
            .envelope
            .strip_prefix("btv1:1:")
            .and_then(|rest| rest.split_once('.'));
        let value = sealed.filter(|(of, _)| *of == place).map(|(_, value)| value);
        let value = value.ok_or_else(|| no(Code::FailedPrecondition, "not sealed for this place"))?;
        let value: Vec<u8> = URL_SAFE_NO_PAD
            .decode(value)
            .unwrap()
            .iter()
            .map(|byte| byte ^ 0x55)
            .collect();
        Ok(Response::new(OpenSinkSecretResponse { value: value.into() }))
    }

    async fn open_upload_key(
        &self,
        _: Request<OpenUploadKeyRequest>,
    ) -> Result<Response<OpenUploadKeyResponse>, Status> {
        Err(no(Code::Unimplemented, "not here"))
    }
}
