//! A vault that destroys keys and signs the ends of audit logs, unless it is sealed; and remembers for whom it did.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use proto::vault::v1::{key_service_server::KeyService, *};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use tonic::{Request, Response, Status};

/// Where a vault should be.
#[derive(Clone, Default)]
pub(crate) struct Vault {
    destroyed: Arc<Mutex<Vec<String>>>,
    database: Arc<Mutex<String>>,
    sealed: Arc<AtomicBool>,
    heads: Arc<Mutex<BTreeMap<String, Signed>>>,
}

/// The last head of a tenant's audit log.
#[derive(Clone)]
struct Signed {
    size: i64,
    hash: Vec<u8>,
    head: SignedHead,
}

fn pair() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[9; 32]).unwrap()
}

impl Vault {
    /// How far this tenant's audit log is signed.
    pub(crate) fn signed(&self, tenant: &str) -> i64 {
        self.heads
            .lock()
            .unwrap()
            .get(tenant)
            .map_or(0, |signed| signed.size)
    }

    /// The last head of this tenant's audit log.
    pub(crate) fn head(&self, tenant: &str) -> audit::SignedHead {
        let head = self.heads.lock().unwrap()[tenant].head.clone();
        audit::SignedHead {
            statement: head.statement,
            signature: head.signature,
            key_id: head.key_id,
        }
    }

    /// What its heads are verified with.
    pub(crate) fn keys(&self) -> audit::Keys {
        audit::Keys::one("sig_1", pair().public_key().as_ref())
    }

    /// Whether it has no root key.
    pub(crate) fn seal(&self, sealed: bool) {
        self.sealed.store(sealed, Ordering::SeqCst);
    }

    /// Keeps its proofs in this database, as the vault's own table has them.
    pub(crate) fn in_database(&self, name: &str) {
        name.clone_into(&mut self.database.lock().unwrap());
    }

    /// Whose keys it was asked to destroy, in order, while it was not sealed.
    pub(crate) fn destroyed(&self) -> Vec<String> {
        self.destroyed.lock().unwrap().clone()
    }

    pub(crate) fn open(&self) -> Result<(), Status> {
        if self.sealed.load(Ordering::SeqCst) {
            return Err(no(tonic::Code::Unavailable, "the vault is sealed"));
        }
        Ok(())
    }
}

#[allow(clippy::disallowed_methods, reason = "a neighbour that fails as told")]
pub(crate) fn no(code: tonic::Code, words: &str) -> Status {
    Status::new(code, words)
}

fn absent<T>() -> Result<T, Status> {
    Err(no(tonic::Code::Unimplemented, "not here"))
}

#[tonic::async_trait]
impl KeyService for Vault {
    async fn destroy_tenant_keys(
        &self,
        request: Request<DestroyTenantKeysRequest>,
    ) -> Result<Response<DestroyTenantKeysResponse>, Status> {
        self.open()?;
        let tenant = request.into_inner().tenant_id;
        let certificate = Some(DestructionCertificate {
            statement: format!(r#"{{"type":"keys-destroyed","tenant":"{tenant}"}}"#),
            signature: "c2lnbmVk".to_owned(),
            key_id: "sig_1".to_owned(),
        });
        let database = self.database.lock().unwrap().clone();
        testkit::Postgres::shared().sql_in(
            &database,
            &format!(
                "INSERT INTO vault.key_ring (tenant_id, destroy_time, statement, signature, signed_by)
                 VALUES ('{tenant}', now(), '{{}}', 's', 'sig_1') ON CONFLICT DO NOTHING"
            ),
        );
        self.destroyed.lock().unwrap().push(tenant);
        Ok(Response::new(DestroyTenantKeysResponse { certificate }))
    }

    async fn get_encryption(
        &self,
        _: Request<GetEncryptionRequest>,
    ) -> Result<Response<GetEncryptionResponse>, Status> {
        absent()
    }

    async fn rotate_key(&self, _: Request<RotateKeyRequest>) -> Result<Response<RotateKeyResponse>, Status> {
        absent()
    }

    async fn revoke_key_version(
        &self,
        _: Request<RevokeKeyVersionRequest>,
    ) -> Result<Response<RevokeKeyVersionResponse>, Status> {
        absent()
    }

    async fn sign_audit_head(
        &self,
        request: Request<SignAuditHeadRequest>,
    ) -> Result<Response<SignAuditHeadResponse>, Status> {
        self.open()?;
        let SignAuditHeadRequest {
            tenant_id: tenant,
            size,
            hash,
        } = request.into_inner();
        let mut heads = self.heads.lock().unwrap();
        let last = heads.get(&tenant);
        if let Some(last) = last.filter(|last| last.size == size && last.hash == hash) {
            let head = Some(last.head.clone());
            return Ok(Response::new(SignAuditHeadResponse { head }));
        }
        if last.is_some_and(|last| last.size >= size) {
            return Err(no(tonic::Code::FailedPrecondition, "not ahead"));
        }
        let hex = audit::Hash::from_bytes(&hash).unwrap();
        let statement = format!(
            r#"{{"type":"audit-head","tenant":"{tenant}","size":{size},"hash":"{hex}","time":"2026-11-22T00:00:00Z"}}"#
        );
        let head = SignedHead {
            signature: URL_SAFE_NO_PAD.encode(pair().sign(statement.as_bytes()).as_ref()),
            key_id: "sig_1".to_owned(),
            statement,
        };
        let signed = Signed {
            size,
            hash: hash.to_vec(),
            head: head.clone(),
        };
        heads.insert(tenant, signed);
        Ok(Response::new(SignAuditHeadResponse { head: Some(head) }))
    }

    async fn get_audit_head(
        &self,
        request: Request<GetAuditHeadRequest>,
    ) -> Result<Response<GetAuditHeadResponse>, Status> {
        self.open()?;
        let heads = self.heads.lock().unwrap();
        let head = heads
            .get(&request.get_ref().tenant_id)
            .map(|signed| signed.head.clone());
        Ok(Response::new(GetAuditHeadResponse { head }))
    }

    async fn get_signing_keys(
        &self,
        _: Request<GetSigningKeysRequest>,
    ) -> Result<Response<GetSigningKeysResponse>, Status> {
        absent()
    }
}
