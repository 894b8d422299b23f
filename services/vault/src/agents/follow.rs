//! What agents follow, and which of them count: asked by agents every minute, and by those who hold their connections every two seconds.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use chassis::AgentCall;
use futures_util::{StreamExt as _, stream};
use rand::Rng as _;
use ring::digest::{SHA256, digest};
use types::{AgentId, Errand, ServerId, TenantId, chain};

use super::{Agents, errand};
use crate::{
    Core,
    domain::{Put as _, statement::hex},
    error::Error,
    store::{self, agent::Assigned},
};

/// How many tenants are looked at at once.
const AT_ONCE: usize = 4;

/// What is kept of the deadline for the answer.
const TO_ANSWER: Duration = Duration::from_millis(500);

/// A server that an agent follows.
pub(crate) struct Followed {
    pub(crate) id: ServerId,
    pub(crate) name: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) username: String,
    /// `verify-identity`, `verify-ca`, `required` or `disabled`.
    pub(crate) tls_mode: String,
    /// Another one whenever something above or a credential is another.
    pub(crate) version: String,
}

impl TryFrom<Assigned> for Followed {
    type Error = Error;

    fn try_from(row: Assigned) -> Result<Self, Error> {
        let mut said = Vec::with_capacity(256);
        said.put(&row.name);
        said.put(&row.host);
        said.put_number(row.port.into());
        said.put(&row.username);
        said.put(&row.tls_mode);
        said.put(&row.credentials);
        Ok(Self {
            id: row.id.parse().map_err(|_| Error::Stored("server id"))?,
            name: row.name,
            host: row.host,
            port: u16::try_from(row.port).map_err(|_| Error::Stored("port"))?,
            username: row.username,
            tls_mode: row.tls_mode.replace('_', "-"),
            version: hex(&digest(&SHA256, &said).as_ref()[..16]),
        })
    }
}

/// An agent's certificate, as whoever holds its connection knows it.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) tenant: TenantId,
    pub(crate) agent: AgentId,
    pub(crate) serial: String,
}

impl Agents {
    /// The servers of the pool of the agent that calls, but for those beyond the plan.
    pub(crate) async fn assignment(&self, call: &AgentCall) -> Result<Vec<Followed>, Error> {
        self.admit(call)?;
        self.shown(call).await?;
        let mut tx = self.core.pool.errand(&errand(call)).await?;
        let standing = store::agent::standing(&mut tx, call.agent, None).await?;
        let standing = standing.filter(|standing| standing.enrolled);
        if standing.ok_or(Error::AgentRevoked)?.frozen {
            return Err(Error::AgentFrozen);
        }
        let found = store::agent::assigned(&mut tx, call.agent).await?;
        tx.rollback().await;
        found.into_iter().map(Followed::try_from).collect()
    }

    /// The authorities whose word counts for agents, DER.
    pub(crate) async fn authorities(&self, deadline: Instant) -> Result<Vec<Vec<u8>>, Error> {
        let mut tx = self.core.pool.shared(deadline).await?;
        let all = store::agent::authorities(&mut tx, self.settings.rotate_after).await?;
        tx.rollback().await;
        Ok(all.into_iter().map(|one| one.certificate).collect())
    }

    /// Which of these do not count, and of which that cannot be said in time. Where the look at tenants begins is another place each time:
    /// if there is never time for all, it is never the same ones that nobody looks at.
    pub(crate) async fn check(&self, shown: &[Shown], deadline: Instant) -> Result<Checked, Error> {
        let mut tx = self.core.pool.shared(deadline).await?;
        let counts = store::agent::counting(&mut tx, shown).await?;
        tx.rollback().await;
        let mut checked = Checked::default();
        let mut tenants: BTreeMap<TenantId, Places> = BTreeMap::new();
        for (place, one) in (0_u32..).zip(shown) {
            if counts.contains(&i64::from(place)) {
                tenants.entry(one.tenant).or_default().push((place, one.agent));
            } else {
                checked.void.push(place);
            }
        }
        let tenants = rotated(tenants, rand::rng().random());
        let deadline = deadline.checked_sub(TO_ANSWER).unwrap_or(deadline);
        let mut work = stream::iter(tenants)
            .map(|(tenant, agents)| look(&self.core, tenant, agents, deadline))
            .buffer_unordered(AT_ONCE);
        let (mut seen, mut failed) = (0_usize, None);
        while let Some(looked) = work.next().await {
            match looked {
                Ok(void) => {
                    seen += 1;
                    checked.void.extend(void);
                }
                Err((unknown, error)) => {
                    checked.unknown.extend(unknown);
                    failed = Some(error);
                }
            }
        }
        match failed {
            Some(error) if seen == 0 && checked.void.is_empty() => Err(error),
            failed => {
                if let Some(error) = failed {
                    let agents = checked.unknown.len();
                    tracing::warn!(agents, error = chain(&error), "not all agents could be looked at");
                }
                checked.void.sort_unstable();
                checked.unknown.sort_unstable();
                Ok(checked)
            }
        }
    }
}

/// Places in a question, and whose they are.
type Places = Vec<(u32, AgentId)>;

/// What became of the places of a question.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Checked {
    /// Those that do not count.
    pub(crate) void: Vec<u32>,
    /// Those of which it is not known.
    pub(crate) unknown: Vec<u32>,
}

/// All of them, beginning somewhere else for each `turn`.
fn rotated(tenants: BTreeMap<TenantId, Places>, turn: u64) -> Vec<(TenantId, Places)> {
    let mut tenants: Vec<_> = tenants.into_iter().collect();
    let count = u64::try_from(tenants.len().max(1)).unwrap_or(u64::MAX);
    tenants.rotate_left(usize::try_from(turn % count).unwrap_or_default());
    tenants
}

/// The places of a tenant that are void; or all of them, when it cannot be looked at.
async fn look(
    core: &Core,
    tenant: TenantId,
    agents: Places,
    deadline: Instant,
) -> Result<Vec<u32>, (Vec<u32>, Error)> {
    let looked = unenrolled(core, tenant, &agents, deadline).await;
    looked.map_err(|error| {
        tracing::debug!(%tenant, error = chain(&error), "a tenant's agents cannot be looked at");
        (agents.iter().map(|(place, _)| *place).collect(), error)
    })
}

/// The places of those that are not enrolled in their tenant, or beyond its plan.
async fn unenrolled(
    core: &Core,
    tenant: TenantId,
    agents: &Places,
    deadline: Instant,
) -> Result<Vec<u32>, Error> {
    let mut tx = core.pool.errand(&Errand { tenant, deadline }).await?;
    let ids: Vec<AgentId> = agents.iter().map(|(_, agent)| *agent).collect();
    let counting = store::agent::enrolled(&mut tx, &ids).await?;
    tx.rollback().await;
    let places = agents.iter().filter(|(_, agent)| !counting.contains(agent));
    Ok(places.map(|(place, _)| *place).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use types::{AgentId, TenantId};

    use super::rotated;

    #[test]
    fn whoever_comes_last_once_comes_first_another_time_and_nobody_is_left_out() {
        let tenants: BTreeMap<_, _> = (0..5)
            .map(|place| (TenantId::fresh(), vec![(place, AgentId::fresh())]))
            .collect();
        let mut first = Vec::new();
        for turn in 0..5 {
            let mut turned = rotated(tenants.clone(), turn);
            first.push(turned[0].0);
            turned.sort();
            assert_eq!(turned, tenants.clone().into_iter().collect::<Vec<_>>());
        }
        assert_eq!(first, tenants.keys().copied().collect::<Vec<_>>());
        assert_eq!(rotated(BTreeMap::new(), 7), []);
    }
}
