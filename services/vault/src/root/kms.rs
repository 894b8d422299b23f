//! A root key that never leaves AWS KMS. What it wraps is bound to region, cell and version by KMS' encryption context, which KMS also writes
//! to its own log.

use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_kms::{
    Client,
    config::{Region, retry::RetryConfig, timeout::TimeoutConfig},
    error::{DisplayErrorContext, ProvideErrorMetadata, SdkError},
    primitives::Blob,
};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};
use tracing::{instrument::WithSubscriber as _, subscriber::NoSubscriber};
use zeroize::Zeroize as _;

use super::RootError;
use crate::{Cell, Config, domain::cipher::Key};

/// A symmetric key in AWS KMS.
pub(crate) struct KmsRoot {
    client: Client,
    key: String,
    most: Duration,
}

impl KmsRoot {
    /// The key with this id. Nothing is sent yet.
    pub(crate) fn new(config: &Config, key: &str) -> Self {
        let transport = Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https();
        // The configuration does without only where there is no key.
        let region = config.kms_region.clone().map(Region::new);
        let mut settings = aws_sdk_kms::Config::builder()
            .behavior_version_latest()
            .region(region)
            .http_client(transport)
            .timeout_config(
                TimeoutConfig::builder()
                    .operation_timeout(config.kms_timeout)
                    .build(),
            )
            .retry_config(RetryConfig::standard().with_max_attempts(2));
        if let Some(url) = &config.kms_endpoint {
            settings = settings.endpoint_url(url.as_str());
        }
        if let (Some(id), Some(secret)) = (&config.aws_access_key_id, &config.aws_secret_access_key) {
            settings = settings.credentials_provider(Credentials::new(
                id,
                secret.expose(),
                config
                    .aws_session_token
                    .as_ref()
                    .map(|token| token.expose().to_owned()),
                None,
                "environment",
            ));
        }
        Self {
            client: Client::from_conf(settings.build()),
            key: key.to_owned(),
            most: config.kms_timeout,
        }
    }

    pub(crate) fn name(&self) -> String {
        format!("aws-kms:{}", self.key)
    }

    pub(crate) async fn wrap(&self, cell: &Cell, version: i64, kek: &Key) -> Result<Vec<u8>, RootError> {
        let [region, name, version] = context(cell, version);
        let asked = self
            .client
            .encrypt()
            .key_id(&self.key)
            .plaintext(Blob::new(kek.expose().to_vec()))
            .encryption_context(region.0, region.1)
            .encryption_context(name.0, name.1)
            .encryption_context(version.0, version.1)
            .send();
        let answer = self.within(asked).await?;
        let blob = answer
            .ciphertext_blob
            .ok_or_else(|| RootError::Refused("an empty answer".to_owned()))?;
        Ok(blob.into_inner())
    }

    pub(crate) async fn unwrap(&self, cell: &Cell, version: i64, wrapped: &[u8]) -> Result<Key, RootError> {
        let [region, name, version] = context(cell, version);
        let asked = self
            .client
            .decrypt()
            .key_id(&self.key)
            .ciphertext_blob(Blob::new(wrapped.to_vec()))
            .encryption_context(region.0, region.1)
            .encryption_context(name.0, name.1)
            .encryption_context(version.0, version.1)
            .send();
        let answer = self.within(asked).await?;
        let blob = answer
            .plaintext
            .ok_or_else(|| RootError::Refused("an empty answer".to_owned()))?;
        let mut bytes = blob.into_inner();
        let key = Key::from_bytes(&bytes).map_err(|_| RootError::Wrong);
        bytes.zeroize();
        key
    }

    /// The SDK's own limit, and one that also holds while a connection is made. Nothing of it is logged but its outcome.
    async fn within<T, E, F>(&self, asked: F) -> Result<T, RootError>
    where
        F: Future<Output = Result<T, SdkError<E>>>,
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        // At its finest level the SDK logs whole messages, and these hold keys.
        let asked = asked.with_subscriber(NoSubscriber::new());
        match tokio::time::timeout(self.most, asked).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(told(&error)),
            Err(_) => Err(RootError::Unreachable("no answer in time".to_owned())),
        }
    }
}

/// By names of errors: AWS KMS API reference, Decrypt.
fn told<E: ProvideErrorMetadata + std::error::Error + 'static>(error: &SdkError<E>) -> RootError {
    let SdkError::ServiceError(answer) = error else {
        return RootError::Unreachable(DisplayErrorContext(error).to_string());
    };
    match answer.err().code().unwrap_or("without a name") {
        "InvalidCiphertextException" | "IncorrectKeyException" => RootError::Wrong,
        name @ ("KMSInternalException" | "DependencyTimeoutException" | "ThrottlingException") => {
            RootError::Unreachable(name.to_owned())
        }
        name => RootError::Refused(name.to_owned()),
    }
}

fn context(cell: &Cell, version: i64) -> [(&'static str, String); 3] {
    [
        ("trailmesh:region", cell.region.word().to_owned()),
        ("trailmesh:cell", cell.name.clone()),
        ("trailmesh:kek-version", version.to_string()),
    ]
}
