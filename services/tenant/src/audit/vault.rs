//! The vault, which signs the ends of chains and keeps them apart from the logs.

use std::time::{Duration, Instant};

use audit::{Hash, SignedHead};
use chassis::Peer;
use proto::vault::v1::{self as vault_pb, key_service_client::KeyServiceClient};
use tonic::{Code, Status};
use types::TenantId;

/// For one call.
const AT_MOST: Duration = Duration::from_secs(5);

/// Why there is no signature.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// It cannot be asked: down, sealed, or not there at all.
    #[error("the vault cannot be asked: {0}")]
    Away(String),
    /// It has signed a longer chain, or another one of this length: the log was shortened or forked.
    #[error("the vault has signed something else for this chain: {0}")]
    NotAhead(String),
}

/// The vault.
#[derive(Clone, Debug)]
pub(super) struct Vault(Option<KeyServiceClient<Peer>>);

impl Vault {
    pub(super) fn new(peer: Option<Peer>) -> Self {
        Self(peer.map(KeyServiceClient::new))
    }

    /// A signature over this end.
    pub(super) async fn sign(&self, tenant: TenantId, size: i64, hash: &Hash) -> Result<SignedHead, Error> {
        let request = vault_pb::SignAuditHeadRequest {
            tenant_id: tenant.to_string(),
            size,
            hash: hash.0.to_vec().into(),
        };
        let mut client = self.client()?;
        let answer = within(client.sign_audit_head(request)).await?.head;
        answer
            .map(head)
            .ok_or_else(|| Error::Away("no head in its answer".to_owned()))
    }

    /// The last one it has signed, if any.
    pub(super) async fn last(&self, tenant: TenantId) -> Result<Option<SignedHead>, Error> {
        let request = vault_pb::GetAuditHeadRequest {
            tenant_id: tenant.to_string(),
        };
        let mut client = self.client()?;
        Ok(within(client.get_audit_head(request)).await?.head.map(head))
    }

    fn client(&self) -> Result<KeyServiceClient<Peer>, Error> {
        self.0
            .clone()
            .ok_or_else(|| Error::Away("it has no address".to_owned()))
    }
}

async fn within<T>(call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Error> {
    let call = chassis::deadline::within(Instant::now() + AT_MOST, call);
    match tokio::time::timeout(AT_MOST, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) if status.code() == Code::FailedPrecondition => {
            Err(Error::NotAhead(status.message().to_owned()))
        }
        Ok(Err(status)) => Err(Error::Away(status.to_string())),
        Err(_) => Err(Error::Away("no answer in time".to_owned())),
    }
}

fn head(head: vault_pb::SignedHead) -> SignedHead {
    SignedHead {
        statement: head.statement,
        signature: head.signature,
        key_id: head.key_id,
    }
}
