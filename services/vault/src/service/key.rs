//! KeyService.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use pg::Transaction;
use proto::vault::v1 as pb;
use tonic::{Request, Response, Status};
use types::{Scope, TenantId};

use super::{tenant, timestamp};
use crate::{
    Core, destroy,
    domain::{Invalid, state::State},
    error::Error,
    sign::{self, Signed},
    store,
};

/// What an answer needs after the work.
const TO_ANSWER: Duration = Duration::from_millis(500);

/// KeyService.
#[derive(Clone)]
pub(crate) struct KeyVersions(pub(crate) Core);

fn head(signed: Signed) -> pb::SignedHead {
    pb::SignedHead {
        statement: signed.statement,
        signature: signed.signature,
        key_id: signed.key_id,
    }
}

fn version(row: &store::data_key::Row, secrets: &HashMap<i64, i64>) -> Result<pb::KeyVersion, Error> {
    Ok(pb::KeyVersion {
        version: row.version,
        state: pb::KeyState::from(row.state()?).into(),
        create_time: Some(timestamp(row.create_time)),
        end_time: row.end_time.map(timestamp),
        secrets: secrets.get(&row.version).copied().unwrap_or(0),
    })
}

impl KeyVersions {
    async fn counts(&self, scope: &Scope) -> Result<(Transaction, HashMap<i64, i64>), Error> {
        let mut tx = self.0.pool.tenant(scope).await?;
        let counts = store::sealed::counts(&mut tx).await?;
        tx.enter_shared().await?;
        Ok((tx, counts.into_iter().collect()))
    }

    /// A transaction that changes the tenant's keys: the proof of the second factor is spent in it, the caller's role is that of now, the ring
    /// is locked, and it is on the shared side.
    async fn change(&self, scope: &Scope) -> Result<Transaction, Error> {
        let mut tx = self.0.pool.tenant(scope).await?;
        if let Some(grant) = &scope.grant {
            store::grant::spend(&mut tx, grant).await?;
        }
        tx.enter_shared().await?;
        store::ring::lock_alive(&mut tx, scope.tenant()).await?;
        store::grant::still(&mut tx, scope).await?;
        Ok(tx)
    }

    async fn get(&self, scope: &Scope) -> Result<pb::GetEncryptionResponse, Error> {
        let (mut tx, counts) = self.counts(scope).await?;
        let rows = store::data_key::all(&mut tx, scope.tenant(), self.0.rotation.rules.settle).await?;
        tx.commit().await?;
        let mut next_rotation_time = None;
        for row in &rows {
            if row.state()? == State::Active {
                let due = row.create_time + self.0.rotation.rules.data_key_age;
                next_rotation_time = Some(timestamp(due));
            }
        }
        let versions = rows.iter().map(|row| version(row, &counts));
        Ok(pb::GetEncryptionResponse {
            versions: versions.collect::<Result<_, _>>()?,
            next_rotation_time,
        })
    }

    async fn one(&self, scope: &Scope, number: i64) -> Result<pb::KeyVersion, Error> {
        let all = self.get(scope).await?.versions;
        let found = all.into_iter().find(|version| version.version == number);
        found.ok_or(Error::NoSuchVersion)
    }

    async fn rotate(&self, scope: &Scope) -> Result<pb::KeyVersion, Error> {
        self.0.keys.signer()?;
        let mut tx = self.change(scope).await?;
        let number = self.0.rotation.advance(&mut tx, scope.tenant()).await?;
        tx.commit().await?;
        self.0.rotation.hurry();
        self.one(scope, number).await
    }

    async fn revoke(&self, scope: &Scope, number: i64) -> Result<pb::RevokeKeyVersionResponse, Error> {
        self.0.keys.signer()?;
        let tenant = scope.tenant();
        let mut tx = self.change(scope).await?;
        self.0.rotation.compromise(&mut tx, tenant, number).await?;
        tx.commit().await?;
        let deadline = scope.deadline - TO_ANSWER;
        self.0
            .rotation
            .tend_until_revoked(tenant, number, deadline)
            .await?;
        let version = self.one(scope, number).await?;
        let mut tx = self.0.pool.shared(scope.deadline).await?;
        let exposed = store::sealed::was_under(&mut tx, tenant, number).await?;
        tx.commit().await?;
        let exposed = exposed
            .into_iter()
            .map(|(record_id, kind)| pb::ExposedSecret { record_id, kind });
        Ok(pb::RevokeKeyVersionResponse {
            version: Some(version),
            exposed: exposed.collect(),
        })
    }

    async fn sign(
        &self,
        tenant: TenantId,
        size: i64,
        hash: &[u8],
        deadline: Instant,
    ) -> Result<Signed, Error> {
        self.0.keys.signer()?;
        let mut tx = self.0.pool.shared(deadline).await?;
        let last = store::head::last(&mut tx, tenant, true).await?;
        if let Some(last) = &last {
            if last.size == size && last.hash == hash {
                return Ok(last.signed());
            }
            if last.size >= size {
                return Err(Error::HeadNotAhead);
            }
        }
        let before = last.as_ref().map(|last| last.statement.as_str());
        let signed = self.0.sign_head(&mut tx, tenant, size, hash, before).await?;
        store::head::put(&mut tx, tenant, size, hash, &signed).await?;
        tx.commit().await?;
        Ok(signed)
    }
}

#[tonic::async_trait]
impl pb::key_service_server::KeyService for KeyVersions {
    async fn get_encryption(
        &self,
        request: Request<pb::GetEncryptionRequest>,
    ) -> Result<Response<pb::GetEncryptionResponse>, Status> {
        let scope = chassis::scope(&request)?;
        Ok(Response::new(self.get(&scope).await?))
    }

    async fn rotate_key(
        &self,
        request: Request<pb::RotateKeyRequest>,
    ) -> Result<Response<pb::RotateKeyResponse>, Status> {
        let scope = chassis::scope(&request)?;
        let version = Some(self.rotate(&scope).await?);
        Ok(Response::new(pb::RotateKeyResponse { version }))
    }

    async fn revoke_key_version(
        &self,
        request: Request<pb::RevokeKeyVersionRequest>,
    ) -> Result<Response<pb::RevokeKeyVersionResponse>, Status> {
        let scope = chassis::scope(&request)?;
        let number = request.get_ref().version;
        Ok(Response::new(self.revoke(&scope, number).await?))
    }

    async fn destroy_tenant_keys(
        &self,
        request: Request<pb::DestroyTenantKeysRequest>,
    ) -> Result<Response<pb::DestroyTenantKeysResponse>, Status> {
        let deadline = chassis::origin(&request).deadline;
        let tenant = tenant(&request.get_ref().tenant_id)?;
        let proof = destroy::destroy(&self.0.pool, &self.0.keys, tenant, deadline).await?;
        let certificate = Some(pb::DestructionCertificate {
            statement: proof.statement,
            signature: proof.signature,
            key_id: proof.key_id,
        });
        Ok(Response::new(pb::DestroyTenantKeysResponse { certificate }))
    }

    async fn sign_audit_head(
        &self,
        request: Request<pb::SignAuditHeadRequest>,
    ) -> Result<Response<pb::SignAuditHeadResponse>, Status> {
        let deadline = chassis::origin(&request).deadline;
        let wanted = request.get_ref();
        let tenant = tenant(&wanted.tenant_id)?;
        if wanted.size < 1 {
            return Err(Error::from(Invalid::new("size", "counts from 1")).into());
        }
        if !sign::is_hash(&wanted.hash) {
            return Err(Error::from(Invalid::new("hash", "is not 32 bytes")).into());
        }
        let signed = self.sign(tenant, wanted.size, &wanted.hash, deadline).await?;
        let head = Some(head(signed));
        Ok(Response::new(pb::SignAuditHeadResponse { head }))
    }

    async fn get_audit_head(
        &self,
        request: Request<pb::GetAuditHeadRequest>,
    ) -> Result<Response<pb::GetAuditHeadResponse>, Status> {
        let deadline = chassis::origin(&request).deadline;
        let tenant = tenant(&request.get_ref().tenant_id)?;
        let mut tx = self.0.pool.shared(deadline).await.map_err(Error::from)?;
        let last = store::head::last(&mut tx, tenant, false).await?;
        let head = last.map(|last| head(last.signed()));
        Ok(Response::new(pb::GetAuditHeadResponse { head }))
    }

    async fn get_signing_keys(
        &self,
        request: Request<pb::GetSigningKeysRequest>,
    ) -> Result<Response<pb::GetSigningKeysResponse>, Status> {
        let deadline = chassis::origin(&request).deadline;
        let mut tx = self.0.pool.shared(deadline).await.map_err(Error::from)?;
        let keys = store::head::signing_keys(&mut tx).await?;
        let keys = keys
            .into_iter()
            .map(|(key_id, public, create_time)| pb::SigningKey {
                key_id,
                ed25519: sign::public_text(&public),
                create_time: Some(timestamp(create_time)),
            });
        let keys = keys.collect();
        Ok(Response::new(pb::GetSigningKeysResponse { keys }))
    }
}
