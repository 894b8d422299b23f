//! What sinks are signed with: sealed and opened by the vault, and kept open here for a minute.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chassis::Peer;
use proto::vault::v1::{self as pb, secret_service_client::SecretServiceClient};
use types::{Secret, SinkId, TenantId};

use super::sealer::{Refusal, Sealed};
use crate::domain::token::Token;

/// The vault takes a moment; whoever waits longer comes again later.
const AT_MOST: Duration = Duration::from_secs(5);

/// How long an open secret is kept, so that not every batch asks the vault.
const KEPT: Duration = Duration::from_secs(60);

/// How many are kept.
const MOST_KEPT: usize = 1_000;

/// The field of a sink that is sealed.
const FIELD: &str = "secret";

/// A secret of a sink as its row has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) tenant: TenantId,
    pub(crate) sink: SinkId,
    pub(crate) version: i64,
    pub(crate) text: String,
}

type Open = (Envelope, Instant, Arc<Secret<Vec<u8>>>);

/// The vault, as sinks need it.
#[derive(Clone, Debug)]
pub(crate) struct SinkSecrets {
    client: SecretServiceClient<Peer>,
    open: Arc<Mutex<HashMap<SinkId, Open>>>,
}

impl SinkSecrets {
    /// By this peer.
    pub(crate) fn new(vault: Peer) -> Self {
        Self {
            client: SecretServiceClient::new(vault),
            open: Arc::default(),
        }
    }

    /// Seals the first secret of a new sink.
    pub(crate) async fn seal(
        &self,
        (tenant, sink): (TenantId, SinkId),
        secret: &Token,
        deadline: Instant,
    ) -> Result<Sealed, Refusal> {
        let request = pb::SealSecretRequest {
            place: Some(place(tenant, sink, 1)),
            value: secret.expose().as_bytes().to_vec().into(),
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
            Ok(Err(status)) => Err(Refusal::of(&status)),
            Err(_) => Err(Refusal::Unavailable),
        }
    }

    /// Opens what a sink is signed with.
    pub(crate) async fn open(&self, envelope: &Envelope) -> Result<Arc<Secret<Vec<u8>>>, Refusal> {
        if let Some(open) = self.kept(envelope) {
            return Ok(open);
        }
        let request = pb::OpenSinkSecretRequest {
            place: Some(place(envelope.tenant, envelope.sink, envelope.version)),
            envelope: envelope.text.clone(),
        };
        let mut client = self.client.clone();
        let deadline = Instant::now() + AT_MOST;
        let call = chassis::deadline::within(deadline, client.open_sink_secret(request));
        let answer = match tokio::time::timeout_at(deadline.into(), call).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => return Err(Refusal::of(&status)),
            Err(_) => return Err(Refusal::Unavailable),
        };
        let open = Arc::new(Secret::new(answer.value.to_vec()));
        self.keep(envelope, &open);
        Ok(open)
    }

    fn kept(&self, envelope: &Envelope) -> Option<Arc<Secret<Vec<u8>>>> {
        let kept = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, until, open) = kept.get(&envelope.sink)?;
        (of == envelope && *until > Instant::now()).then(|| open.clone())
    }

    fn keep(&self, envelope: &Envelope, open: &Arc<Secret<Vec<u8>>>) {
        let now = Instant::now();
        let mut kept = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, (_, until, _)| *until > now);
        if kept.len() < MOST_KEPT {
            kept.insert(envelope.sink, (envelope.clone(), now + KEPT, open.clone()));
        }
    }
}

fn place(tenant: TenantId, sink: SinkId, version: i64) -> pb::SecretPlace {
    pb::SecretPlace {
        tenant_id: tenant.to_string(),
        kind: pb::SecretKind::SinkSecret.into(),
        record_id: sink.to_string(),
        field: FIELD.to_owned(),
        version,
    }
}
