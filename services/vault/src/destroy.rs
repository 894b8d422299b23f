//! The end of a tenant's keys: what is sealed with them opens nowhere again, and a signed statement says so.

use std::time::Instant;

use types::TenantId;

use crate::{
    domain::statement::{Destroyed, Destruction},
    error::Error,
    keys::Keys,
    sign::Signed,
    store,
};

/// Destroys all versions of the tenant's key and gives the proof; asked again, the same proof.
pub(crate) async fn destroy(
    pool: &pg::Pool,
    keys: &Keys,
    tenant: TenantId,
    deadline: Instant,
) -> Result<Signed, Error> {
    let mut tx = pool.shared(deadline).await?;
    if let Some(proof) = store::ring::lock(&mut tx, tenant).await? {
        tx.commit().await?;
        return Ok(proof);
    }
    let signer = keys.signer()?;
    let versions = store::data_key::full(&mut tx, tenant).await?;
    let gone = versions
        .iter()
        .map(|key| Ok(Destroyed::new(key.version, key.state()?, key.wrapped.as_deref())))
        .collect::<Result<Vec<_>, Error>>()?;
    let time = store::text(store::head::now(&mut tx).await?);
    let proof = signer.sign(&Destruction::new(keys.cell(), tenant, &time, gone))?;
    store::data_key::destroy_all(&mut tx, tenant).await?;
    store::ring::close(&mut tx, tenant, &proof).await?;
    store::epoch::bump(&mut tx, &tenant.to_string()).await?;
    tx.commit().await?;
    keys.forget(tenant);
    tracing::warn!(%tenant, versions = versions.len(), "the keys of a tenant were destroyed");
    Ok(proof)
}
