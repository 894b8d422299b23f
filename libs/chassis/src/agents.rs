//! Keeps the authorities of agents true in services that are not the vault, by asking the vault for them.

use std::time::Duration;

use proto::vault::v1::{self as pb, agent_identity_service_client::AgentIdentityServiceClient};
use tokio::time::sleep;
use tonic::Status;
use types::chain;

use crate::{Peer, identity::AgentTrust};

/// So long a service may not know an authority, which the vault settles for at least five times as long before it issues; and so long one that
/// was given up is trusted.
const REFRESH: Duration = Duration::from_secs(2);
/// After a failure, doubled up to [`REFRESH`].
const RETRY: Duration = Duration::from_millis(200);

/// Asks `vault` every two seconds whose word counts for agents, and makes it count in `trust`. Never ends by itself; until the first answer no
/// agent is known. While the vault does not answer, the authorities of before stay.
pub async fn follow(vault: Peer, trust: AgentTrust) {
    let mut known: Option<Vec<Vec<u8>>> = None;
    let mut retry = RETRY;
    loop {
        match ask(&vault).await {
            Ok(found) => {
                if known.as_ref() != Some(&found) && replace(&trust, &found) {
                    known = Some(found);
                }
                retry = RETRY;
                sleep(REFRESH).await;
            }
            Err(error) => {
                tracing::warn!(
                    code = ?error.code(),
                    error = error.message(),
                    "the authorities of agents cannot be had; the known ones stay"
                );
                sleep(retry).await;
                retry = (retry * 2).min(REFRESH);
            }
        }
    }
}

fn replace(trust: &AgentTrust, authorities: &[Vec<u8>]) -> bool {
    match trust.replace(authorities) {
        Ok(left_out) => {
            for one in &left_out {
                tracing::error!(
                    place = one.place,
                    error = chain(&one.error),
                    "an authority of agents cannot be trusted, and its agents are not let in"
                );
            }
            tracing::info!(
                count = authorities.len() - left_out.len(),
                left_out = left_out.len(),
                "the authorities of agents have changed"
            );
            true
        }
        Err(error) => {
            tracing::error!(
                error = chain(&error),
                "the authorities of agents cannot be trusted; those of before stay"
            );
            false
        }
    }
}

async fn ask(vault: &Peer) -> Result<Vec<Vec<u8>>, Status> {
    let answer = AgentIdentityServiceClient::new(vault.clone())
        .get_agent_authorities(pb::GetAgentAuthoritiesRequest {})
        .await?;
    Ok(answer
        .into_inner()
        .authorities
        .into_iter()
        .map(Vec::from)
        .collect())
}
