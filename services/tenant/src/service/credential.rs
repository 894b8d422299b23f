//! Credentials of servers: in, to the vault, and never out.
//!
//! A value is sealed before the transaction that keeps it, so that no row waits for the vault. Its version is part of what it is sealed for:
//! if somebody else was first, it is sealed anew for the next one.

use pg::Transaction;
use proto::tenant::v1 as pb;
use types::{Scope, ServerId};

use super::{
    server::{Servers, covered},
    wire,
};
use crate::{
    clients::sealer,
    domain::{
        At as _, Problem,
        credential::{Credential, Kind, Value},
    },
    error::{Error, Noun},
    store,
};

/// How often a value is sealed anew because somebody else was first. Each of them gave a code of their own.
const ATTEMPTS: u32 = 8;

/// The version of a new server's credentials.
const FIRST: i64 = 1;

/// A value for a server that is about to be registered: sealed for its id, which nobody else has.
pub(super) struct Prepared {
    kind: Kind,
    sealed: sealer::Sealed,
}

fn kind(number: i32) -> Result<Kind, Error> {
    let kind =
        sealer::kind(number).ok_or_else(|| Problem::from("not a kind of credential that a server has"));
    Ok(kind.at("kind")?)
}

fn encode(credential: &Credential) -> pb::ServerCredential {
    pb::ServerCredential {
        kind: sealer::wire(credential.kind).into(),
        version: credential.version,
        set_time: wire::timestamp(credential.set),
        key_version: credential.key_version,
    }
}

impl Servers {
    /// Seals the password that comes with a new server; none where none comes.
    pub(super) async fn prepare(
        &self,
        scope: &Scope,
        server: ServerId,
        password: String,
    ) -> Result<Option<Prepared>, Error> {
        if password.is_empty() {
            return Ok(None);
        }
        let kind = Kind::MysqlPassword;
        let value = Value::new(kind, password).at("password")?;
        let place = (scope.tenant(), server, kind, FIRST);
        let sealed = self.0.sealer.seal(place, &value, scope.deadline).await?;
        Ok(Some(Prepared { kind, sealed }))
    }

    /// Keeps it, in the transaction that registers the server.
    pub(super) async fn keep(
        tx: &mut Transaction,
        server: ServerId,
        prepared: &Prepared,
    ) -> Result<(), Error> {
        let kept = store::credential::put(tx, server, prepared.kind, FIRST, &prepared.sealed).await?;
        kept.map(|_| ())
            .ok_or(Error::Stored("credential of a new server"))
    }

    pub(super) async fn set_credential(
        &self,
        scope: &Scope,
        wanted: pb::SetServerCredentialRequest,
    ) -> Result<pb::ServerCredential, Error> {
        let kind = kind(wanted.kind)?;
        let value = Value::new(kind, wanted.value).at("value")?;
        let id = wire::id(&wanted.server_id, Noun::Server)?;
        for _ in 0..ATTEMPTS {
            let mut tx = self.0.store.registry(scope).await?;
            covered(&mut tx, scope, id).await?;
            let version = store::credential::last_version(&mut tx, id, kind).await? + 1;
            tx.rollback().await;

            let place = (scope.tenant(), id, kind, version);
            let sealed = self.0.sealer.seal(place, &value, scope.deadline).await?;

            let (mut tx, scope) = self.0.store.change(scope).await?;
            tx.enter_tenant().await?;
            covered(&mut tx, &scope, id).await?;
            let kept = store::credential::put(&mut tx, id, kind, version, &sealed).await?;
            if let Some(credential) = kept {
                tx.commit().await?;
                return Ok(encode(&credential));
            }
            // The proof of the second factor is not spent then.
            tx.rollback().await;
        }
        Err(Error::CredentialChanged)
    }

    pub(super) async fn list_credentials(
        &self,
        scope: &Scope,
        id: &str,
    ) -> Result<Vec<pb::ServerCredential>, Error> {
        let id = wire::id(id, Noun::Server)?;
        let mut tx = self.0.store.registry(scope).await?;
        covered(&mut tx, scope, id).await?;
        let found = store::credential::list(&mut tx, id).await?;
        Ok(found.iter().map(encode).collect())
    }

    pub(super) async fn delete_credential(
        &self,
        scope: &Scope,
        wanted: &pb::DeleteServerCredentialRequest,
    ) -> Result<(), Error> {
        let kind = kind(wanted.kind)?;
        let id = wire::id(&wanted.server_id, Noun::Server)?;
        let (mut tx, scope) = self.0.store.change(scope).await?;
        tx.enter_tenant().await?;
        covered(&mut tx, &scope, id).await?;
        store::credential::delete(&mut tx, id, kind).await?;
        Ok(tx.commit().await?)
    }
}
