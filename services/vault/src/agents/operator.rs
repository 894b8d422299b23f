//! Agents' identities in the operator's hands: another authority, a certificate given up, and agents that move with their tenant.

use std::time::{Duration, Instant};

use chassis::Error as Failure;
use serde::{Deserialize, Serialize};
use types::TenantId;

use super::{Realm, Settings, task::found};
use crate::{error::Error, operator::Operator, store};

/// For one transaction.
const AT_MOST: Duration = Duration::from_secs(10);

/// How long an authority that is wanted now is trusted everywhere before it issues.
const SETTLE: Duration = Duration::from_secs(30);

/// Who the agents of a tenant are: no secrets, but whoever can change it decides whom the new place takes for these agents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentIdentities {
    pub(crate) authorities: Vec<CarriedAuthority>,
    pub(crate) certificates: Vec<CarriedCertificate>,
}

/// An authority that vouches for some of them; without its private key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow)]
pub(crate) struct CarriedAuthority {
    pub(crate) id: String,
    pub(crate) certificate: Vec<u8>,
    /// Microseconds since 1970, as all times here.
    pub(crate) create_time: i64,
    pub(crate) expire_time: i64,
}

/// A certificate that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow)]
pub(crate) struct CarriedCertificate {
    pub(crate) serial: String,
    pub(crate) agent_id: String,
    pub(crate) authority_id: String,
    pub(crate) issue_time: i64,
    pub(crate) expire_time: i64,
    pub(crate) revoke_time: Option<i64>,
}

fn soon() -> Instant {
    Instant::now() + AT_MOST
}

impl Operator {
    /// Another authority of agents takes over in half a minute; certificates of the one of before hold until they end. False if one is on
    /// its way already.
    ///
    /// # Errors
    /// When the vault is sealed, or the database does not answer.
    pub async fn rotate_agent_authority(&self, trust_domain: &str) -> Result<bool, Failure> {
        let cell = self.core().keys.cell();
        let realm = Realm {
            trust_domain: trust_domain.to_owned(),
            region: cell.region,
            cell: cell.name.clone(),
        };
        let settings = Settings {
            rotate_after: Duration::from_secs(365 * 86_400),
            settle: SETTLE,
        };
        found(self.core(), &realm, settings, true, soon())
            .await
            .map_err(Failure::service)
    }

    /// The certificate with this serial number is nobody's from now on. False if there is none.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn revoke_agent_certificate(&self, serial: &str) -> Result<bool, Failure> {
        let work = async {
            let mut tx = self.core().pool.shared(soon()).await?;
            let found = store::agent::revoke_certificate(&mut tx, serial).await?;
            tx.commit().await?;
            Ok::<_, Error>(found)
        };
        work.await.map_err(Failure::service)
    }

    /// Who the agents of a tenant are.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn export_agents(&self, tenant: TenantId) -> Result<AgentIdentities, Failure> {
        let work = async {
            let mut tx = self.core().pool.shared(soon()).await?;
            let carried = store::carried::read(&mut tx, tenant).await?;
            tx.rollback().await;
            Ok::<_, Error>(carried)
        };
        work.await.map_err(Failure::service)
    }

    /// From now on these certificates hold here too, until they end: their agents go on, and renew here. May be asked again.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn import_agents(&self, tenant: TenantId, agents: &AgentIdentities) -> Result<(), Failure> {
        let work = async {
            let mut tx = self.core().pool.shared(soon()).await?;
            store::agent::lock_authorities(&mut tx).await?;
            store::carried::write(&mut tx, tenant, agents).await?;
            tx.commit().await?;
            Ok::<_, Error>(())
        };
        work.await.map_err(Failure::service)
    }
}
