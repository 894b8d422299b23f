//! Service vault, which owns all keys.

use std::time::{Duration, Instant};

use chassis::Peer;
use proto::vault::v1::{DestroyTenantKeysRequest, key_service_client::KeyServiceClient};
use types::TenantId;

use crate::domain::deletion::Certificate;

/// The vault forgets a tenant's keys in one transaction.
const AT_MOST: Duration = Duration::from_secs(10);

/// The keys of tenants.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    client: KeyServiceClient<Peer>,
}

impl Keys {
    /// By this peer.
    pub(crate) fn new(vault: Peer) -> Self {
        Self {
            client: KeyServiceClient::new(vault),
        }
    }

    /// Destroys all keys of a tenant; asked again, the vault answers the same certificate.
    ///
    /// # Errors
    /// Why not now, for a log.
    pub(crate) async fn destroy(&self, tenant: TenantId, deadline: Instant) -> Result<Certificate, String> {
        let mut client = self.client.clone();
        let deadline = deadline.min(Instant::now() + AT_MOST);
        let request = DestroyTenantKeysRequest {
            tenant_id: tenant.to_string(),
        };
        let call = chassis::deadline::within(deadline, client.destroy_tenant_keys(request));
        let answer = match tokio::time::timeout_at(deadline.into(), call).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => return Err(status.to_string()),
            Err(_) => return Err("no answer in time".to_owned()),
        };
        let signed = answer.certificate.filter(|signed| !signed.signature.is_empty());
        let signed = signed.ok_or_else(|| "the answer has no certificate".to_owned())?;
        Ok(Certificate {
            statement: signed.statement,
            signature: signed.signature,
            key_id: signed.key_id,
        })
    }
}
