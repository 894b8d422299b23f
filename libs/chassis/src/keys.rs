//! Keeps the keys that verify tokens true, by asking auth for them.

use std::time::Duration;

use proto::auth::v1::{self as pb, guard_service_client::GuardServiceClient};
use tokio::time::sleep;
use tonic::Status;

use crate::{
    Latch, Peer,
    token::{KeySet, VerifyingKey},
};

/// Auth publishes a key at least a minute before it signs with it.
const REFRESH: Duration = Duration::from_secs(10);
/// The least time between two questions, however many tokens name unknown keys.
const LEAST: Duration = Duration::from_secs(1);
/// After a failure, doubled up to [`REFRESH`].
const RETRY: Duration = Duration::from_millis(200);

/// Never ends by itself. `latch` is released with the first keys.
pub(crate) async fn follow(auth: Peer, keys: KeySet, latch: Latch) {
    let mut latch = Some(latch);
    let mut retry = RETRY;
    loop {
        match ask(&auth).await {
            Ok(found) if !found.is_empty() => {
                keys.replace(found);
                if let Some(latch) = latch.take() {
                    latch.release();
                }
                retry = RETRY;
                sleep(LEAST).await;
                tokio::select! {
                    () = sleep(REFRESH) => {}
                    () = keys.wanted() => {}
                }
            }
            Ok(_) => {
                tracing::warn!("auth has no keys; the known ones stay");
                sleep(LEAST).await;
            }
            Err(error) => {
                tracing::warn!(code = ?error.code(), error = error.message(), "auth's keys cannot be had; the known ones stay");
                sleep(retry).await;
                retry = (retry * 2).min(REFRESH);
            }
        }
    }
}

async fn ask(auth: &Peer) -> Result<Vec<VerifyingKey>, Status> {
    let answer = GuardServiceClient::new(auth.clone())
        .get_key_set(pb::GetKeySetRequest {})
        .await?;
    let keys = answer.into_inner().keys.into_iter();
    Ok(keys
        .filter_map(|key| {
            let ed25519 = key.ed25519.as_ref().try_into().ok()?;
            Some(VerifyingKey {
                kid: key.kid,
                ed25519,
            })
        })
        .collect())
}
