//! Agents: who they are, and what only they may open.
//!
//! * An enrolment token leads to its agent by an index of digests that service tenant keeps, and is spent by one conditional update of the
//!   agent's own row; the certificate's number and the audit event are written in the same transaction.
//! * A certificate counts if an authority of ours signed it (the chassis has seen to that), if its number is in our table for exactly this
//!   agent, and if the agent, in its tenant's schema, is enrolled at this moment. So neither a stolen authority nor an old backup makes agents,
//!   and a revoked agent is refused by its next call.
//! * Nothing is opened before the audit log knows of it.
//! * No agent, revoked or not, fills the audit log or the vault: what it may ask is bounded, and so is what is written of its refusals.

pub(crate) mod authority;
pub(crate) mod csr;
pub(crate) mod follow;
pub(crate) mod mesh;
pub(crate) mod operator;
pub(crate) mod rate;
pub(crate) mod record;
pub(crate) mod task;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use audit::Event;
use chassis::{
    AgentCall,
    identity::{AgentName, AgentTrust},
};
use ring::digest::{SHA256, digest};
use time::OffsetDateTime;
use types::{AgentId, Errand, Region, RequestId, Secret, ServerId, TenantId};

use crate::{
    Core,
    domain::place::{Kind, Place},
    error::Error,
    keys::Own,
    store,
};
use authority::Issued;
use csr::PublicKey;
use mesh::{Mesh, MeshTrust};
use rate::Rates;
use record::{Counted, Key, Taken};

/// What the private keys of authorities are kept as.
pub(crate) const PURPOSE: &str = "agent-authority";

/// Refused tokens are answered after this time, whatever was wrong with them.
const REFUSAL_AFTER: Duration = Duration::from_millis(150);

/// A token has 47 characters.
const TOKEN_AT_MOST: usize = 128;

/// Agents of all tenants.
#[derive(Clone)]
pub(crate) struct Agents {
    core: Core,
    realm: Realm,
    trust: AgentTrust,
    mesh: Mesh,
    counted: Counted,
    rates: Rates,
    /// The authorities that are trusted now.
    known: Arc<tokio::sync::Mutex<Vec<Vec<u8>>>>,
    settings: Settings,
}

/// Where certificates hold.
#[derive(Clone, Debug)]
pub(crate) struct Realm {
    pub(crate) trust_domain: String,
    pub(crate) region: Region,
    pub(crate) cell: String,
}

/// How authorities follow each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// How long one issues.
    pub(crate) rotate_after: Duration,
    /// How long a new one is trusted before it issues.
    pub(crate) settle: Duration,
}

/// The active authority, with its private key.
struct Signing {
    id: String,
    certificate: Vec<u8>,
    key: Secret<Vec<u8>>,
}

/// What became of the credentials of a server.
#[derive(Default)]
struct Unsealed {
    open: Vec<(Kind, Secret<Vec<u8>>)>,
    broken: Vec<(Kind, Error)>,
}

/// Where a request to enrol comes from.
pub(crate) struct Arrival {
    pub(crate) client_address: Option<std::net::IpAddr>,
    pub(crate) user_agent: String,
    pub(crate) request: RequestId,
    pub(crate) deadline: Instant,
}

/// An agent that has just enrolled.
pub(crate) struct Enrolled {
    pub(crate) tenant: TenantId,
    pub(crate) agent: AgentId,
    pub(crate) issued: Issued,
}

impl Agents {
    pub(crate) fn new(core: Core, realm: Realm, trust: AgentTrust, mesh: Mesh, settings: Settings) -> Self {
        Self {
            core,
            realm,
            trust,
            mesh,
            counted: Counted::default(),
            rates: Rates::default(),
            known: Arc::default(),
            settings,
        }
    }

    /// What agents trust.
    pub(crate) fn mesh_trust(&self) -> MeshTrust {
        self.mesh.trust(&self.realm)
    }

    /// Enrols the agent that `token` was made for. All tokens that do not enrol are answered alike, and after the same time.
    pub(crate) async fn enrol(&self, token: &str, csr: &str, from: &Arrival) -> Result<Enrolled, Error> {
        let key = csr::read(csr)?;
        let answer_at = (Instant::now() + REFUSAL_AFTER).min(from.deadline);
        let outcome = Box::pin(self.enrol_with(token, &key, from)).await;
        if matches!(outcome, Err(Error::EnrolmentToken)) {
            tokio::time::sleep_until(answer_at.into()).await;
        }
        outcome
    }

    async fn enrol_with(&self, token: &str, public: &PublicKey, from: &Arrival) -> Result<Enrolled, Error> {
        if token.len() > TOKEN_AT_MOST {
            return Err(Error::EnrolmentToken);
        }
        let sha256 = digest(&SHA256, token.as_bytes());
        let mut tx = self.core.pool.shared(from.deadline).await?;
        let found = store::agent::led_to(&mut tx, sha256.as_ref()).await?;
        tx.rollback().await;
        let (tenant, agent) = found.ok_or(Error::EnrolmentToken)?;
        let (authority, issued) = self.issue(tenant, agent, public, from.deadline).await?;
        let key = Key {
            tenant,
            agent,
            method: "EnrolAgent",
            target: String::new(),
            reason: "",
        };
        let deadline = from.deadline;
        let mut tx = self.core.pool.errand(&Errand { tenant, deadline }).await?;
        if !store::agent::enrol(&mut tx, agent, sha256.as_ref()).await? {
            tx.rollback().await;
            let reason = "ENROLMENT_TOKEN_INVALID";
            let event = told(
                Key {
                    reason,
                    ..key.clone()
                },
                from,
                "UNAUTHENTICATED",
            );
            self.tell_refusal(Key { reason, ..key }, event, deadline).await;
            return Err(Error::EnrolmentToken);
        }
        tx.enter_shared().await?;
        store::agent::void_certificates(&mut tx, (tenant, agent)).await?;
        store::agent::add_certificate(&mut tx, (tenant, agent), &authority, &issued).await?;
        store::agent::tell(&mut tx, tenant, &told(key, from, "OK")).await?;
        tx.commit().await?;
        Ok(Enrolled {
            tenant,
            agent,
            issued,
        })
    }

    /// A new certificate for the agent that calls.
    pub(crate) async fn renew(&self, call: &AgentCall, csr: &str) -> Result<Issued, Error> {
        let key = self.key(call, "RenewCertificate", String::new());
        if let Err(error) = self.admit(call) {
            return self.told_of(Err(error), key, call).await;
        }
        let public = csr::read(csr)?;
        let outcome = Box::pin(self.renew_for(call, &public, &key)).await;
        self.told_of(outcome, key, call).await
    }

    /// Not without end, whoever it is.
    fn admit(&self, call: &AgentCall) -> Result<(), Error> {
        let admitted = self.rates.admit(call.tenant, call.agent, Instant::now());
        admitted.map_err(|wait| Error::AgentTooFast { wait })
    }

    async fn renew_for(&self, call: &AgentCall, public: &PublicKey, key: &Key) -> Result<Issued, Error> {
        let early = self.shown(call).await?;
        let mut tx = self.core.pool.errand(&errand(call)).await?;
        still_enrolled(&mut tx, call).await?;
        tx.rollback().await;
        not_early(early)?;
        let (authority, issued) = self.issue(call.tenant, call.agent, public, call.deadline).await?;
        let mut tx = self.core.pool.errand(&errand(call)).await?;
        // Held until the certificate is written: a new enrolment voids it then, or it is not written.
        if !store::agent::hold(&mut tx, call.agent).await? {
            return Err(Error::AgentRevoked);
        }
        tx.enter_shared().await?;
        // Of calls at once only the first finds that it is time.
        store::agent::lock(&mut tx, call.agent).await?;
        not_early(shown_in(&mut tx, call).await?)?;
        store::agent::add_certificate(&mut tx, (call.tenant, call.agent), &authority, &issued).await?;
        let event = record::event(key, &call.request.to_string(), "OK");
        store::agent::tell(&mut tx, call.tenant, &event).await?;
        tx.commit().await?;
        Ok(issued)
    }

    /// The credentials of a server, for the agent that calls, if the server is of its pool.
    pub(crate) async fn open(
        &self,
        call: &AgentCall,
        server: &str,
    ) -> Result<Vec<(Kind, Secret<Vec<u8>>)>, Error> {
        let id: Option<ServerId> = server.parse().ok();
        let target = id.map(|id| id.to_string()).unwrap_or_default();
        let key = self.key(call, "OpenCredentials", target);
        let outcome = Box::pin(self.open_for(call, id, &key)).await;
        self.told_of(outcome, key, call).await
    }

    async fn open_for(
        &self,
        call: &AgentCall,
        server: Option<ServerId>,
        key: &Key,
    ) -> Result<Vec<(Kind, Secret<Vec<u8>>)>, Error> {
        self.admit(call)?;
        self.shown(call).await?;
        let server = server.ok_or(Error::NoSuchServer)?;
        if !self.core.keys.unsealed() {
            return Err(Error::Sealed);
        }
        let sealed = self.sealed_for(call, server, Some(key)).await?;
        let mut unsealed = Box::pin(self.unseal(call, server, &sealed)).await?;
        if !unsealed.broken.is_empty() {
            // It was sealed anew since it was read, and the old key is gone.
            let again = self.sealed_for(call, server, None).await?;
            unsealed = Box::pin(self.unseal(call, server, &again)).await?;
        }
        let Unsealed { open, mut broken } = unsealed;
        if open.is_empty() && !broken.is_empty() {
            return Err(broken.swap_remove(0).1);
        }
        if !broken.is_empty() {
            self.tell_broken(call, key, &broken).await;
        }
        Ok(open)
    }

    /// What is left out, since it does not open, beside what does.
    async fn tell_broken(&self, call: &AgentCall, key: &Key, broken: &[(Kind, Error)]) {
        let kinds: Vec<&str> = broken.iter().map(|(kind, _)| kind.word()).collect();
        let kinds = kinds.join(",");
        tracing::warn!(
            tenant = %call.tenant,
            server = key.target,
            kinds,
            "credentials do not open, and are left out"
        );
        let key = Key {
            reason: "SECRET_UNREADABLE",
            ..key.clone()
        };
        let mut event = record::event(&key, &call.request.to_string(), "FAILED_PRECONDITION");
        event.targets.insert("kind".to_owned(), kinds);
        self.tell_refusal(key, event, call.deadline).await;
    }

    /// What is to be opened, read in the transaction in which the audit log learns of it.
    async fn sealed_for(
        &self,
        call: &AgentCall,
        server: ServerId,
        key: Option<&Key>,
    ) -> Result<Vec<store::agent::Credential>, Error> {
        let mut tx = self.core.pool.errand(&errand(call)).await?;
        let standing = store::agent::standing(&mut tx, call.agent, Some(server)).await?;
        let standing = standing.filter(|standing| standing.enrolled);
        let standing = standing.ok_or(Error::AgentRevoked)?;
        if !standing.server {
            return Err(Error::NoSuchServer);
        }
        if standing.frozen {
            return Err(Error::AgentFrozen);
        }
        if standing.server_frozen {
            return Err(Error::ServerFrozen);
        }
        let sealed = store::agent::credentials(&mut tx, server).await?;
        tx.enter_shared().await?;
        store::agent::not_behind_a_move(&mut tx, call.tenant).await?;
        if let Some(key) = key {
            let event = record::event(key, &call.request.to_string(), "OK");
            if !self.counted.add(key, &event) {
                store::agent::tell(&mut tx, call.tenant, &event).await?;
                tx.commit().await?;
                self.counted.written(key.clone(), event);
            }
        }
        Ok(sealed)
    }

    async fn unseal(
        &self,
        call: &AgentCall,
        server: ServerId,
        sealed: &[store::agent::Credential],
    ) -> Result<Unsealed, Error> {
        let mut unsealed = Unsealed::default();
        for credential in sealed {
            let place = Place {
                tenant: call.tenant,
                kind: credential.kind,
                record: server.to_string(),
                field: credential.field.clone(),
                version: credential.version,
            };
            let keys = &self.core.keys;
            match keys.open(&place, &credential.envelope, call.deadline).await {
                Ok(value) => unsealed.open.push((credential.kind, value)),
                // It hides none of the others.
                Err(error @ (Error::Unreadable | Error::KeyRevoked | Error::Stored(_))) => {
                    unsealed.broken.push((credential.kind, error));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(unsealed)
    }

    /// Whether the certificate that the call came with is one of this agent's that holds. Gives the seconds until it may be renewed.
    async fn shown(&self, call: &AgentCall) -> Result<f64, Error> {
        let mut tx = self.core.pool.shared(call.deadline).await?;
        let early = shown_in(&mut tx, call).await;
        tx.rollback().await;
        early
    }

    /// A certificate by the active authority, and which that is.
    async fn issue(
        &self,
        tenant: TenantId,
        agent: AgentId,
        public: &PublicKey,
        deadline: Instant,
    ) -> Result<(String, Issued), Error> {
        let signing = self.signing(deadline).await?;
        let name = AgentName {
            trust_domain: self.realm.trust_domain.clone(),
            region: self.realm.region,
            tenant,
            agent,
        };
        let now = OffsetDateTime::now_utc();
        let issued = authority::issue(&signing.certificate, &signing.key, &name, public, now)?;
        Ok((signing.id, issued))
    }

    async fn signing(&self, deadline: Instant) -> Result<Signing, Error> {
        let mut active = self.active(deadline).await?;
        if !self.core.keys.unsealed() {
            return Err(Error::Sealed);
        }
        if active.is_none() {
            // The vault was unsealed a moment ago.
            task::found(&self.core, &self.realm, self.settings, false, deadline).await?;
            active = self.active(deadline).await?;
        }
        let (active, own) = active.ok_or(Error::NoAuthority)?;
        let key = self
            .core
            .keys
            .open_own(PURPOSE, &active.id, &own, deadline)
            .await?;
        Ok(Signing {
            id: active.id,
            certificate: active.certificate,
            key,
        })
    }

    /// The authority that issues, and its private key as it is kept. All that there are are trusted from here on: whoever is given a certificate
    /// here may come here with it.
    async fn active(&self, deadline: Instant) -> Result<Option<(store::agent::Authority, Own)>, Error> {
        let mut tx = self.core.pool.shared(deadline).await?;
        let all = store::agent::authorities(&mut tx, self.settings.rotate_after).await?;
        let kept = store::own::read(&mut tx, PURPOSE).await?;
        tx.rollback().await;
        self.trust(all.iter().map(|one| one.certificate.clone()).collect())
            .await;
        let Some(active) = all.into_iter().find(|authority| authority.state == "active") else {
            return Ok(None);
        };
        let own = kept.into_iter().find(|(id, _)| *id == active.id);
        let (_, own) = own.ok_or(Error::Stored("private key of an authority"))?;
        Ok(Some((active, own)))
    }

    fn key(&self, call: &AgentCall, method: &'static str, target: String) -> Key {
        Key {
            tenant: call.tenant,
            agent: call.agent,
            method,
            target,
            reason: "",
        }
    }

    /// Tells the audit log of a refusal; not of a failure that says nothing of the agent.
    async fn told_of<T>(&self, outcome: Result<T, Error>, key: Key, call: &AgentCall) -> Result<T, Error> {
        let (reason, code) = match &outcome {
            Err(Error::AgentRevoked) => ("AGENT_REVOKED", "PERMISSION_DENIED"),
            Err(Error::NoSuchServer) => ("SERVER_NOT_FOUND", "NOT_FOUND"),
            Err(Error::AgentTooFast { .. }) => ("AGENT_TOO_FAST", "RESOURCE_EXHAUSTED"),
            Err(Error::AgentFrozen) => ("AGENT_FROZEN", "FAILED_PRECONDITION"),
            Err(Error::ServerFrozen) => ("SERVER_FROZEN", "FAILED_PRECONDITION"),
            Err(Error::Unreadable) => ("SECRET_UNREADABLE", "FAILED_PRECONDITION"),
            Err(Error::KeyRevoked) => ("KEY_VERSION_REVOKED", "FAILED_PRECONDITION"),
            _ => return outcome,
        };
        // Only a server of the agent's pool is named: any other is what the agent made up, and would make each refusal another one.
        let known = !matches!(
            &outcome,
            Err(Error::AgentRevoked | Error::NoSuchServer | Error::AgentTooFast { .. })
        );
        let target = if known { key.target } else { String::new() };
        let key = Key {
            reason,
            target,
            ..key
        };
        let event = record::event(&key, &call.request.to_string(), code);
        self.tell_refusal(key, event, call.deadline).await;
        outcome
    }

    /// The refusal stands, whether it can be written down or not.
    async fn tell_refusal(&self, key: Key, event: Event, deadline: Instant) {
        let Some(first) = self.counted.refuse(&key, event) else {
            return;
        };
        if let Err(error) = self.tell(std::slice::from_ref(&first), deadline).await {
            tracing::warn!(
                error = types::chain(&error),
                "the refusal of an agent is written to the audit log later"
            );
            self.counted.unwritten(first);
        }
    }

    async fn tell(&self, events: &[Taken], deadline: Instant) -> Result<(), Error> {
        let mut tx = self.core.pool.shared(deadline).await?;
        for taken in events {
            store::agent::tell(&mut tx, taken.tenant, &taken.event).await?;
        }
        Ok(tx.commit().await?)
    }
}

/// On the shared side, as [`Agents::shown`].
async fn shown_in(tx: &mut pg::Connection, call: &AgentCall) -> Result<f64, Error> {
    let shown = store::agent::shown(tx, (call.tenant, call.agent), &call.serial).await?;
    let shown = shown.filter(|shown| !shown.over).ok_or(Error::AgentRevoked)?;
    if !shown.active {
        return Err(Error::TenantNotActive);
    }
    Ok(shown.early)
}

fn not_early(seconds: f64) -> Result<(), Error> {
    if seconds > 0.0 {
        return Err(Error::RenewalTooEarly {
            wait: Duration::from_secs_f64(seconds.min(86_400.0)),
        });
    }
    Ok(())
}

/// In the tenant's schema: the agent has not been ended. A frozen one stays who it is.
async fn still_enrolled(tx: &mut pg::Connection, call: &AgentCall) -> Result<(), Error> {
    let standing = store::agent::standing(tx, call.agent, None).await?;
    if standing.is_some_and(|standing| standing.enrolled) {
        Ok(())
    } else {
        Err(Error::AgentRevoked)
    }
}

/// For the tenant's schema, on the agent's behalf.
fn errand(call: &AgentCall) -> Errand {
    Errand {
        tenant: call.tenant,
        deadline: call.deadline,
    }
}

/// An enrolment, which comes by the gateway.
fn told(key: Key, from: &Arrival, code: &str) -> Event {
    Event {
        path: "POST /v1/agents:enrol".to_owned(),
        client_address: from.client_address,
        user_agent: from.user_agent.clone(),
        ..record::event(&key, &from.request.to_string(), code)
    }
}
