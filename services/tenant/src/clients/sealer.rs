//! Service vault, which seals what nobody here may keep open.

use std::time::{Duration, Instant};

use chassis::Peer;
use proto::vault::v1::{self as pb, secret_service_client::SecretServiceClient};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use types::{Code as Class, ServerId, TenantId};

use crate::{
    domain::credential::{Kind, Value},
    error::Error,
};

/// Sealing takes the vault a moment; whoever waits longer is told to come again.
const AT_MOST: Duration = Duration::from_secs(5);

/// Seals credentials.
#[derive(Clone, Debug)]
pub(crate) struct Sealer {
    client: SecretServiceClient<Peer>,
}

/// What is kept of a value.
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    pub(crate) envelope: String,
    pub(crate) key_version: i64,
}

/// Why nothing was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The vault has no root key at the moment.
    Sealed,
    /// It does not answer.
    Unavailable,
    /// The tenant is being deleted.
    KeysDestroyed,
    /// It answered what it never should.
    Unexpected,
}

impl Refusal {
    /// For a person.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Sealed => "the vault is sealed: nothing can be sealed at the moment",
            Self::Unavailable => "the vault does not answer",
            Self::KeysDestroyed => "the keys of this tenant were destroyed",
            Self::Unexpected => "the vault did not seal the credential",
        }
    }

    /// What kind of failure it is.
    pub(crate) fn code(self) -> Class {
        match self {
            Self::Sealed | Self::Unavailable => Class::Unavailable,
            Self::KeysDestroyed => Class::Refused,
            Self::Unexpected => Class::Internal,
        }
    }

    /// For programs.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Sealed => "VAULT_SEALED",
            Self::Unavailable => "VAULT_UNAVAILABLE",
            Self::KeysDestroyed => "TENANT_KEYS_DESTROYED",
            Self::Unexpected => "VAULT_FAILED",
        }
    }

    /// When to come again.
    pub(crate) fn retry_after(self) -> Option<Duration> {
        matches!(self, Self::Sealed | Self::Unavailable).then_some(Duration::from_secs(1))
    }

    pub(super) fn of(status: &Status) -> Self {
        let reason = status.get_details_error_info().map(|info| info.reason);
        match (status.code(), reason.as_deref()) {
            (_, Some("VAULT_SEALED")) => Self::Sealed,
            (_, Some("TENANT_KEYS_DESTROYED")) => Self::KeysDestroyed,
            (Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::ResourceExhausted, _)
            | (Code::Aborted, _) => Self::Unavailable,
            (code, reason) => {
                tracing::error!(?code, reason, "the vault did not seal a credential");
                Self::Unexpected
            }
        }
    }
}

/// As the vault writes kinds.
pub(crate) fn wire(kind: Kind) -> pb::SecretKind {
    match kind {
        Kind::MysqlPassword => pb::SecretKind::MysqlPassword,
        Kind::ServiceToken => pb::SecretKind::ServiceToken,
        Kind::SshKey => pb::SecretKind::SshKey,
        Kind::Dsn => pb::SecretKind::Dsn,
        Kind::TlsKey => pb::SecretKind::TlsKey,
    }
}

/// The kind of a request; none is for what no server has.
pub(crate) fn kind(number: i32) -> Option<Kind> {
    match pb::SecretKind::try_from(number).ok()? {
        pb::SecretKind::MysqlPassword => Some(Kind::MysqlPassword),
        pb::SecretKind::ServiceToken => Some(Kind::ServiceToken),
        pb::SecretKind::SshKey => Some(Kind::SshKey),
        pb::SecretKind::Dsn => Some(Kind::Dsn),
        pb::SecretKind::TlsKey => Some(Kind::TlsKey),
        pb::SecretKind::Unspecified | pb::SecretKind::SinkSecret | pb::SecretKind::UploadKey => None,
    }
}

impl Sealer {
    /// By this peer.
    pub(crate) fn new(vault: Peer) -> Self {
        Self {
            client: SecretServiceClient::new(vault),
        }
    }

    /// Seals the value of one version of a server's credential: it opens for this place only.
    pub(crate) async fn seal(
        &self,
        (tenant, server, kind, version): (TenantId, ServerId, Kind, i64),
        value: &Value,
        deadline: Instant,
    ) -> Result<Sealed, Error> {
        let request = pb::SealSecretRequest {
            place: Some(pb::SecretPlace {
                tenant_id: tenant.to_string(),
                kind: wire(kind).into(),
                record_id: server.to_string(),
                field: kind.field().to_owned(),
                version,
            }),
            value: value.expose().as_bytes().to_vec().into(),
            form: pb::SecretForm::Fernet.into(),
        };
        let mut client = self.client.clone();
        let deadline = deadline.min(Instant::now() + AT_MOST);
        let call = chassis::deadline::within(deadline, client.seal_secret(request));
        match tokio::time::timeout_at(deadline.into(), call).await {
            Ok(Ok(answer)) => {
                let answer = answer.into_inner();
                Ok(Sealed {
                    envelope: answer.envelope,
                    key_version: answer.key_version,
                })
            }
            Ok(Err(status)) => Err(Error::Vault(Refusal::of(&status))),
            Err(_) => Err(Error::Vault(Refusal::Unavailable)),
        }
    }
}
