//! The keys of uploads: made here, sealed and opened by the vault, and kept in memory for a moment.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chassis::Peer;
use proto::vault::v1::{self as pb, secret_service_client::SecretServiceClient};
use tonic::{Code, Status};
use types::{Errand, Secret, TenantId, UploadId};

use super::{
    error::Error,
    seal::Key,
    store::{Envelope, Store},
};

/// How long a key is kept open.
const FRESH: Duration = Duration::from_mins(5);

/// How long a key that is open is used without looking whether the upload still has it: another replica may have deleted it.
const SEEN: Duration = Duration::from_secs(2);

/// How many are kept at a time.
const KEPT: usize = 1_000;

/// The vault has so long.
const AT_MOST: Duration = Duration::from_secs(5);

/// The field that a key is sealed for, and its version: an upload has one key for all its life.
const FIELD: &str = "key";
const VERSION: i64 = 1;

/// A key that is open.
struct Kept {
    tenant: TenantId,
    key: Arc<Key>,
    since: Instant,
    /// When it was there last.
    seen: Instant,
}

impl Kept {
    fn is_fresh(&self) -> bool {
        self.since.elapsed() < FRESH
    }
}

type Open = HashMap<UploadId, Kept>;

/// Opens keys. Clones share what is open.
#[derive(Clone)]
pub(super) struct Keys {
    vault: SecretServiceClient<Peer>,
    store: Store,
    open: Arc<Mutex<Open>>,
}

fn place(tenant: TenantId, upload: UploadId) -> pb::SecretPlace {
    pb::SecretPlace {
        tenant_id: tenant.to_string(),
        kind: pb::SecretKind::UploadKey.into(),
        record_id: upload.to_string(),
        field: FIELD.to_owned(),
        version: VERSION,
    }
}

/// Why the vault did not.
fn refusal(status: &Status) -> Error {
    match status.code() {
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::ResourceExhausted
        | Code::Aborted => Error::VaultAway,
        code => {
            tracing::error!(?code, "the vault did not do its part for an upload");
            Error::Key
        }
    }
}

async fn answer<T>(
    deadline: Instant,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Error> {
    let deadline = deadline.min(Instant::now() + AT_MOST);
    let call = chassis::deadline::within(deadline, call);
    match tokio::time::timeout_at(deadline.into(), call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(refusal(&status)),
        Err(_) => Err(Error::VaultAway),
    }
}

impl Keys {
    /// By this vault; envelopes are in `store`.
    pub(super) fn new(vault: Peer, store: Store) -> Self {
        Self {
            vault: SecretServiceClient::new(vault),
            store,
            open: Arc::default(),
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A key for a new upload, sealed.
    pub(super) async fn make(
        &self,
        tenant: TenantId,
        upload: UploadId,
        deadline: Instant,
    ) -> Result<Envelope, Error> {
        let key = Key::fresh()?;
        let request = pb::SealSecretRequest {
            place: Some(place(tenant, upload)),
            value: key.expose().to_vec().into(),
            form: pb::SecretForm::Aes256Gcm.into(),
        };
        let sealed = answer(deadline, self.vault.clone().seal_secret(request)).await?;
        Ok(Envelope {
            envelope: sealed.envelope,
            key_version: sealed.key_version,
            version: VERSION,
        })
    }

    /// The key of an upload.
    pub(super) async fn get(&self, errand: &Errand, upload: UploadId) -> Result<Arc<Key>, Error> {
        if let Some(key) = self.kept(errand.tenant, upload, SEEN) {
            return Ok(key);
        }
        // What is found now was there at this moment.
        let now = Instant::now();
        if let Some(key) = self.kept(errand.tenant, upload, FRESH) {
            if let Err(error) = self.store.has_key(errand, upload).await {
                if matches!(error, Error::Missing) {
                    self.forget(upload);
                }
                return Err(error);
            }
            if let Some(kept) = self.open().get_mut(&upload) {
                kept.seen = kept.seen.max(now);
            }
            return Ok(key);
        }
        let sealed = self.store.envelope(errand, upload).await?;
        let request = pb::OpenUploadKeyRequest {
            place: Some(place(errand.tenant, upload)),
            envelope: sealed.envelope,
        };
        let opened = answer(errand.deadline, self.vault.clone().open_upload_key(request)).await?;
        let value = Secret::new(Vec::from(opened.value));
        let key = Arc::new(Key::read(value.expose())?);
        let mut open = self.open();
        if open.len() >= KEPT {
            open.retain(|_, kept| kept.is_fresh());
        }
        if open.len() < KEPT {
            let kept = Kept {
                tenant: errand.tenant,
                key: key.clone(),
                since: now,
                seen: now,
            };
            open.insert(upload, kept);
        }
        Ok(key)
    }

    /// A key that is open and was there within `seen`.
    fn kept(&self, tenant: TenantId, upload: UploadId, seen: Duration) -> Option<Arc<Key>> {
        let open = self.open();
        let kept = open.get(&upload).filter(|kept| kept.tenant == tenant)?;
        (kept.is_fresh() && kept.seen.elapsed() < seen).then(|| kept.key.clone())
    }

    /// Whether the key is open, and was there a moment ago: then what it opened may be used.
    pub(super) fn is_open(&self, tenant: TenantId, upload: UploadId) -> bool {
        self.kept(tenant, upload, SEEN).is_some()
    }

    /// Wipes the key of an upload that is gone.
    pub(super) fn forget(&self, upload: UploadId) {
        self.open().remove(&upload);
    }

    /// Wipes those that have been open long enough.
    pub(super) fn sweep(&self) {
        self.open().retain(|_, kept| kept.is_fresh());
    }
}
