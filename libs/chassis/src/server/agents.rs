//! Connections on which an agent serves and we call: accepted like all others, and told apart by what they speak.

use std::{
    collections::HashMap,
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::mpsc,
};
use tokio_rustls::server::TlsStream;
use types::TenantId;

use crate::identity::{AgentName, Identity, Party};

/// What such a connection speaks, as TLS names it (ALPN): HTTP/2 with the agent as the server.
pub const AGENT_ALPN: &[u8] = b"trailmesh-agent/1";

/// Connections of agents at once, and of one tenant's; each has a certificate, and a bound on what it may buffer.
const CONNECTIONS: usize = 20_000;
const OF_ONE_TENANT: usize = CONNECTIONS / 2;

/// Room for agents' connections to a listener. Services' connections have room of their own: no agent takes it from them, and no tenant's
/// agents all of what there is for agents.
#[derive(Debug)]
pub(super) struct AgentPlaces {
    all: usize,
    of_one: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    of: HashMap<TenantId, usize>,
}

impl Default for AgentPlaces {
    fn default() -> Self {
        Self::new(CONNECTIONS, OF_ONE_TENANT)
    }
}

impl AgentPlaces {
    fn new(all: usize, of_one: usize) -> Self {
        Self {
            all,
            of_one,
            taken: Mutex::default(),
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, if the tenant may have another one.
    pub(super) fn take(self: &Arc<Self>, tenant: TenantId) -> io::Result<AgentPlace> {
        let mut taken = self.taken();
        if taken.all >= self.all {
            return Err(io::Error::other("too many agents are connected"));
        }
        let of = taken.of.get(&tenant).copied().unwrap_or_default();
        if of >= self.of_one {
            return Err(io::Error::other("too many agents of this tenant are connected"));
        }
        taken.of.insert(tenant, of + 1);
        taken.all += 1;
        drop(taken);
        Ok(AgentPlace {
            places: Arc::clone(self),
            tenant,
        })
    }
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub(super) struct AgentPlace {
    places: Arc<AgentPlaces>,
    tenant: TenantId,
}

impl Drop for AgentPlace {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all = taken.all.saturating_sub(1);
        let left = taken.of.get(&self.tenant).map_or(0, |of| of.saturating_sub(1));
        if left == 0 {
            taken.of.remove(&self.tenant);
        } else {
            taken.of.insert(self.tenant, left);
        }
    }
}

/// Where connections of agents go.
#[derive(Clone)]
pub(crate) struct AgentDoor(mpsc::Sender<AgentConnection>);

impl AgentDoor {
    pub(crate) fn new(taker: mpsc::Sender<AgentConnection>) -> Self {
        Self(taker)
    }

    /// Hands a connection on. Who does not take it in time has too many of them.
    pub(super) fn pass(
        &self,
        tls: TlsStream<TcpStream>,
        peer: Arc<Party>,
        identity: Identity,
        place: AgentPlace,
    ) -> io::Result<()> {
        let connection = AgentConnection {
            standing: AgentStanding { peer, identity },
            inner: tls,
            _place: place,
        };
        self.0
            .try_send(connection)
            .map_err(|_| io::Error::other("agents connect faster than they are taken"))
    }
}

/// Whether the agent of a connection is one still.
#[derive(Clone)]
pub struct AgentStanding {
    peer: Arc<Party>,
    identity: Identity,
}

impl AgentStanding {
    /// Whose certificate it is.
    pub fn name(&self) -> Option<&AgentName> {
        match &*self.peer {
            Party::Agent(agent) => Some(&agent.name),
            Party::Service(_) => None,
        }
    }

    /// The certificate's serial number: hexadecimal, without leading zeros.
    pub fn serial(&self) -> &str {
        match &*self.peer {
            Party::Agent(agent) => &agent.serial,
            Party::Service(_) => "",
        }
    }

    /// Whether the certificate has not ended, and its authority is still trusted. Revocation is the vault's to tell.
    pub fn holds(&self) -> bool {
        match &*self.peer {
            Party::Agent(agent) => self.identity.vouches_for(agent).is_ok(),
            Party::Service(_) => false,
        }
    }

    /// When the certificate ends.
    pub fn ends(&self) -> SystemTime {
        let ends = match &*self.peer {
            Party::Agent(agent) => agent.ends(),
            Party::Service(_) => 0,
        };
        SystemTime::UNIX_EPOCH + Duration::from_secs(ends)
    }
}

impl fmt::Debug for AgentStanding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AgentStanding({})", self.peer)
    }
}

/// A connection that an agent made to serve on it: encrypted, its certificate verified. Nothing was said on it yet.
pub struct AgentConnection {
    standing: AgentStanding,
    inner: TlsStream<TcpStream>,
    _place: AgentPlace,
}

impl AgentConnection {
    /// Who is at the other end, and whether that is so still.
    pub fn standing(&self) -> &AgentStanding {
        &self.standing
    }
}

impl fmt::Debug for AgentConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AgentConnection({})", self.standing.peer)
    }
}

impl AsyncRead for AgentConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for AgentConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use types::TenantId;

    use super::AgentPlaces;

    #[test]
    fn no_tenant_has_all_places_of_agents_and_what_is_given_back_is_free() {
        let places = Arc::new(AgentPlaces::new(4, 2));
        let (one, other) = (TenantId::fresh(), TenantId::fresh());
        let mut held: Vec<_> = (0..2).map(|_| places.take(one).unwrap()).collect();
        assert!(places.take(one).is_err());
        held.extend((0..2).map(|_| places.take(other).unwrap()));
        assert!(places.take(TenantId::fresh()).is_err());
        held.remove(0);
        held.push(places.take(one).unwrap());
        assert!(places.take(one).is_err());
        drop(held);
        let taken = places.taken();
        assert_eq!((taken.all, taken.of.len()), (0, 0));
    }
}
