//! Agents: how certificates name them, and the authorities whose word counts for them. These are never those of the mesh's bundle, so that
//! a chain says by itself whether it is a service's or an agent's; a name alone says nothing.

use std::{
    fmt,
    str::FromStr,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, UnixTime},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use types::{AgentId, Region, TenantId};

use super::{
    Error, Realm,
    spiffe::{self, LONGEST, Use, good_domain},
};

/// The name of an agent: `spiffe://<trust-domain>/<region>/tenant/<tnt_…>/agent/<agt_…>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AgentName {
    /// Whose word counts for it.
    pub trust_domain: String,
    /// Where its tenant is.
    pub region: Region,
    /// Whose it is.
    pub tenant: TenantId,
    /// Which.
    pub agent: AgentId,
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (domain, region) = (&self.trust_domain, self.region.word());
        write!(
            f,
            "spiffe://{domain}/{region}/tenant/{}/agent/{}",
            self.tenant, self.agent
        )
    }
}

impl FromStr for AgentName {
    type Err = String;

    /// Only the one form above.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err("the id is too long".to_owned());
        }
        let wrong = || format!("{text:?} is not the id of an agent");
        let rest = text.strip_prefix("spiffe://").ok_or_else(wrong)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [domain, region, "tenant", tenant, "agent", agent] = parts[..] else {
            return Err(wrong());
        };
        if !good_domain(domain) {
            return Err(wrong());
        }
        let read = Self {
            trust_domain: domain.to_owned(),
            region: region.parse().map_err(|()| wrong())?,
            tenant: tenant.parse().map_err(|_| wrong())?,
            agent: agent.parse().map_err(|_| wrong())?,
        };
        // One agent, one spelling.
        if read.to_string() == text {
            Ok(read)
        } else {
            Err(wrong())
        }
    }
}

/// An agent at the other end of a connection.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) name: AgentName,
    /// Of its certificate: hexadecimal, without leading zeros.
    pub(crate) serial: String,
    leaf: CertificateDer<'static>,
}

impl Agent {
    /// When its certificate ends, in seconds since 1970.
    pub(crate) fn ends(&self) -> u64 {
        let ends = spiffe::ends(&self.leaf).unwrap_or_default();
        u64::try_from(ends).unwrap_or_default()
    }
}

/// An authority that is not trusted.
#[derive(Debug)]
pub struct LeftOut {
    /// Which of those that were given, from 0.
    pub place: usize,
    /// Why.
    pub error: crate::Error,
}

/// The authorities of agents; none until the service says which. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Agents {
    trusted: Arc<RwLock<Option<Authorities>>>,
    left_out: Arc<AtomicU64>,
}

#[derive(Clone, Debug)]
struct Authorities {
    chain: Arc<dyn ClientCertVerifier>,
    roots: Arc<RootCertStore>,
}

impl Agents {
    /// From now on exactly these count, but for those that cannot: what is no authority's certificate, or one of `mesh`. Those are given back.
    pub(super) fn replace(
        &self,
        authorities: &[CertificateDer<'static>],
        mesh: &RootCertStore,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Vec<LeftOut>, Error> {
        let (mut roots, mut left_out) = (RootCertStore::empty(), Vec::new());
        for (place, authority) in authorities.iter().enumerate() {
            match root_of(authority, mesh) {
                Ok(root) => roots.roots.extend(root.roots),
                Err(error) => left_out.push(LeftOut {
                    place,
                    error: error.into(),
                }),
            }
        }
        let new = if roots.is_empty() {
            None
        } else {
            let roots = Arc::new(roots);
            let chain = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
                .build()
                .map_err(|error| Error::Certificate(rustls::Error::General(error.to_string())))?;
            Some(Authorities { chain, roots })
        };
        *self.trusted.write().unwrap_or_else(PoisonError::into_inner) = new;
        self.left_out.store(left_out.len() as u64, Ordering::Relaxed);
        Ok(left_out)
    }

    /// How many of those that were given do not count.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    fn now(&self) -> Option<Authorities> {
        self.trusted
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether agents are known here at all.
    pub(super) fn any(&self) -> bool {
        self.now().is_some()
    }

    /// Whether one of them is one of `mesh` too.
    pub(super) fn meet(&self, mesh: &RootCertStore) -> bool {
        self.now().is_some_and(|now| overlap(&now.roots, mesh))
    }

    /// The agent that `leaf` is for, if an authority of now vouches for it directly.
    pub(super) fn verify(
        &self,
        realm: &Realm,
        leaf: &CertificateDer<'_>,
        now: UnixTime,
    ) -> Result<Agent, String> {
        let authorities = self.now().ok_or("agents are not known here")?;
        authorities
            .chain
            .verify_client_cert(leaf, &[], now)
            .map_err(|error| error.to_string())?;
        let (uri, serial) = spiffe::uri_and_serial(leaf, &[Use::Calling])?;
        let name: AgentName = uri.parse()?;
        if name.trust_domain != realm.trust_domain || name.region != realm.region {
            return Err(format!("{name} is of another trust domain or region"));
        }
        Ok(Agent {
            name,
            serial,
            leaf: leaf.clone().into_owned(),
        })
    }

    /// Whether what was verified when the connection was made is so still.
    pub(super) fn still(&self, realm: &Realm, agent: &Agent) -> Result<(), String> {
        self.verify(realm, &agent.leaf, UnixTime::now()).map(|_| ())
    }
}

/// Whether `certificate` (DER) can be that of an authority of agents.
///
/// # Errors
/// When it is none of an authority.
pub fn check_authority(certificate: &[u8]) -> Result<(), crate::Error> {
    root_of(&CertificateDer::from(certificate), &RootCertStore::empty())?;
    Ok(())
}

/// A store with this one authority, which is none of `mesh`.
fn root_of(authority: &CertificateDer<'_>, mesh: &RootCertStore) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    roots
        .add(authority.clone().into_owned())
        .map_err(Error::Certificate)?;
    if !spiffe::is_authority(authority) {
        return Err(Error::NoAuthority);
    }
    if overlap(&roots, mesh) {
        return Err(Error::SharedAuthority);
    }
    Ok(roots)
}

fn overlap(one: &RootCertStore, other: &RootCertStore) -> bool {
    one.roots.iter().any(|root| {
        let key = &root.subject_public_key_info;
        other
            .roots
            .iter()
            .any(|other| &other.subject_public_key_info == key)
    })
}

#[cfg(test)]
mod tests {
    use types::{AgentId, Region, TenantId};

    use super::AgentName;

    #[test]
    fn names_of_agents_are_read_and_written() {
        let name = AgentName {
            trust_domain: "trailmesh".to_owned(),
            region: Region::Us,
            tenant: TenantId::fresh(),
            agent: AgentId::fresh(),
        };
        let text = name.to_string();
        assert_eq!(
            text,
            format!(
                "spiffe://trailmesh/us/tenant/{}/agent/{}",
                name.tenant, name.agent
            )
        );
        assert_eq!(text.parse(), Ok(name));
    }

    #[test]
    fn everything_else_is_no_agent() {
        let (tenant, agent) = (TenantId::fresh(), AgentId::fresh());
        let good = format!("spiffe://trailmesh/eu/tenant/{tenant}/agent/{agent}");
        assert!(good.parse::<AgentName>().is_ok());
        for bad in [
            "spiffe://trailmesh/eu/service/auth".to_owned(),
            good.to_uppercase(),
            good.replace("spiffe", "https"),
            good.replace("trailmesh", "Trailmesh"),
            good.replace("trailmesh", "u@trailmesh"),
            good.replace("trailmesh", ""),
            good.replace("/eu/", "/mars/"),
            good.replace("/eu/", "//"),
            good.replace("/agent/", "/service/"),
            good.replace("/tenant/", "/tenant//"),
            good.replace("tnt_", "agt_"),
            good.replace("agt_", "AGT_"),
            good.replace("/tenant/", "/tenant/%74"),
            format!("{good}/"),
            format!("{good}?x"),
            format!("{good}#x"),
            format!(" {good}"),
            format!("spiffe://trailmesh/eu/tenant/{tenant}/agent/"),
            format!("spiffe://trailmesh/eu/tenant/{tenant}"),
            format!("spiffe://trailmesh/eu/agent/{agent}"),
            format!("{good}{}", "a".repeat(2_048)),
        ] {
            assert!(bad.parse::<AgentName>().is_err(), "{bad}");
        }
    }
}
