//! Delegations: that one agent may serve one method about one server to one subject, for a minute at most. Auth signs them, the agent verifies them itself, with
//! keys that it has from the vault; so nobody in between reads rows.

use serde::{Deserialize, Serialize};
use types::{AgentId, Context, Region, ServerId, Subject, TenantId};

use super::{Claims, Error, ISSUER, KeySet, Signer, Times, end, names, now, random_name, subject};

const DELEGATION: &str = "dlg+jwt";

/// On whose behalf a method of an agent is called, and about what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Who.
    pub subject: Subject,
    /// The server that may be asked about.
    pub server: ServerId,
    /// The delegation's unique name, for logs.
    pub id: String,
    /// When the delegation ends: seconds since 1970.
    pub expires: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DelegationClaims {
    iss: String,
    aud: String,
    iat: i64,
    nbf: i64,
    exp: i64,
    jti: String,
    sub: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    region: String,
    tenant: String,
    server: String,
    method: String,
}

impl Claims for DelegationClaims {
    const TYP: &'static str = DELEGATION;

    fn times(&self) -> Times<'_> {
        Times {
            iss: &self.iss,
            aud: &self.aud,
            iat: self.iat,
            nbf: self.nbf,
            exp: self.exp,
        }
    }
}

impl Signer {
    /// A delegation for one agent in `region` and one server, one of its methods as `/package.Service/Method`, and the subject of `context` in
    /// its tenant. It lives [`super::LIFETIME`] from `now`, and never longer than the context, which ends at `context_ends` (seconds since 1970 both).
    ///
    /// # Errors
    /// When the context is for no tenant.
    pub fn delegation(
        &self,
        context: &Context,
        context_ends: i64,
        (agent, server): (AgentId, ServerId),
        method: &str,
        region: Region,
        now: i64,
    ) -> Result<String, Error> {
        let seat = context.seat.as_ref().ok_or(Error::Delegation("tenant"))?;
        let (sub, sid, key) = names(&context.subject);
        self.sign(
            DELEGATION,
            &DelegationClaims {
                iss: ISSUER.into(),
                aud: agent.to_string(),
                iat: now,
                nbf: now,
                exp: delegation_ends(context_ends, now),
                jti: random_name()?,
                sub,
                sid,
                key,
                region: region.word().to_owned(),
                tenant: seat.tenant.to_string(),
                server: server.to_string(),
                method: method.to_owned(),
            },
        )
    }
}

/// When a delegation that is made `now` ends, under a context that ends at `context_ends`.
pub fn delegation_ends(context_ends: i64, now: i64) -> i64 {
    end(now).min(context_ends)
}

impl KeySet {
    /// On whose behalf `method` of `agent`, which is of `tenant`, may be called with this delegation, and about which server.
    ///
    /// # Errors
    /// When it is none for exactly these here and now.
    pub fn delegation(
        &self,
        token: &str,
        tenant: TenantId,
        agent: AgentId,
        method: &str,
    ) -> Result<Actor, Error> {
        self.delegation_at(token, tenant, agent, method, now())
    }

    /// As [`Self::delegation`], at another time.
    ///
    /// # Errors
    /// As [`Self::delegation`].
    pub fn delegation_at(
        &self,
        token: &str,
        tenant: TenantId,
        agent: AgentId,
        method: &str,
        now: i64,
    ) -> Result<Actor, Error> {
        let verified: Result<DelegationClaims, _> = self.verify_for(token, &agent.to_string(), now);
        let claims = verified.map_err(Error::Delegation)?;
        if claims.region != self.region.word() {
            return Err(Error::Delegation("region"));
        }
        if claims.tenant != tenant.to_string() {
            return Err(Error::Delegation("tenant"));
        }
        if claims.method != method {
            return Err(Error::Delegation("method"));
        }
        if claims.jti.is_empty() {
            return Err(Error::Delegation("claims"));
        }
        let server = claims.server.parse().map_err(|_| Error::Delegation("server"))?;
        Ok(Actor {
            subject: subject(&claims.sub, claims.sid.as_deref(), claims.key.as_deref())
                .ok_or(Error::Delegation("subject"))?,
            server,
            id: claims.jti,
            expires: claims.exp,
        })
    }
}
