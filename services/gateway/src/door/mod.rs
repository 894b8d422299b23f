//! The door for agents: whoever offers [`ALPN`] and shows an agent's certificate says where it wants to go, and is connected there, byte for byte.
//!
//! What goes through is TLS between the agent and a replica of the service. So the gateway can neither read rows or credentials nor invent
//! an agent: it holds the key that agents have pinned, lets in no more of them than there is room for, and sees ciphertext.
//!
//! An agent says `trailmesh-agent/1 hub\n` or `trailmesh-agent/1 vault\n`. The answer is `ok\n`, and from then on there is no gateway any more;
//! or `no REASON SECONDS\n`, and the end.
mod limits;
mod metrics;
mod preface;
mod session;
mod splice;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use chassis::{Lingering, Peer, Runtime, identity::AgentTrust};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
    time::{timeout, timeout_at},
};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use limits::{Admission, Agents, Crowd, Entered, Most};
use metrics::Metrics;
use preface::To;
use session::{Session, Times};
use splice::Splice;

pub(crate) use preface::ALPN;

/// One attempt to reach a replica, and how many there are.
const CONNECT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 3;
/// To say a few words to an agent.
const WORDS: Duration = Duration::from_secs(2);
/// When an agent may ask again.
const AFTER_NONSENSE: Duration = Duration::from_secs(60);
const AFTER_MANY: Duration = Duration::from_secs(10);
const AFTER_FULL: Duration = Duration::from_secs(30);
const AFTER_UNREACHABLE: Duration = Duration::from_secs(2);
const AFTER_STOPPING: Duration = Duration::from_secs(1);

/// Why an agent is not connected, and when it may ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct No {
    reason: &'static str,
    after: Duration,
}

impl No {
    fn new(reason: &'static str, after: Duration) -> Self {
        Self { reason, after }
    }

    fn line(self) -> String {
        let seconds = self.after.as_millis().div_ceil(1_000).max(1);
        format!("no {} {seconds}\n", self.reason)
    }
}

/// What agents' connections share.
pub(crate) struct Door {
    trust: AgentTrust,
    hub: Option<Peer>,
    vault: Option<Peer>,
    places: Arc<Semaphore>,
    agents: Arc<Agents>,
    admission: Admission,
    turns: AtomicUsize,
    metrics: Metrics,
    times: Times,
    stopping: CancellationToken,
}

impl Door {
    /// For agents that `trust` knows. Where they may go is reached as a neighbour; one without an address is not reached.
    pub(crate) fn new(config: &Config, runtime: &Runtime, trust: AgentTrust) -> Arc<Self> {
        Arc::new(Self {
            trust,
            hub: runtime.peer("query").ok(),
            vault: runtime.peer("vault").ok(),
            places: Arc::new(Semaphore::new(
                config.agent_connections.min(Semaphore::MAX_PERMITS),
            )),
            agents: Agents::new(Most {
                of_agent: config.connections_per_agent,
                of_all: config.agent_connections,
                per_second: config.agent_rate,
            }),
            admission: Admission::new(config.agent_rate),
            turns: AtomicUsize::new(0),
            metrics: Metrics::new(&runtime.meter()),
            times: Times::new(runtime.settings().drain_timeout),
            stopping: runtime.stopping(),
        })
    }

    /// A handshake with the door failed.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.metrics.refused(reason);
    }

    /// Serves a connection whose handshake is done. `place` is the one that it had among all connections: it is given back as soon as it has
    /// one among agents.
    pub(crate) async fn serve<P>(&self, mut agent: TlsStream<TcpStream>, place: P, until: Instant) {
        let leaf = agent.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let Some(leaf) = leaf.map(|leaf| leaf.clone().into_owned()) else {
            return self.refused("no_certificate");
        };
        // The handshake has looked at it; authorities may have gone since.
        let name = match self.trust.name(&leaf) {
            Ok(name) => name,
            Err(problem) => {
                tracing::debug!(problem, "an agent is none any more");
                return self.refused("certificate");
            }
        };
        let asked = match timeout_at(until.into(), preface::read(&mut agent)).await {
            Ok(Ok(asked)) => asked,
            Ok(Err(_)) => return self.refused("gone"),
            Err(_) => return self.refused("slow"),
        };
        let admitted = async {
            let (to, first) = asked.ok_or_else(|| No::new("PREFACE_INVALID", AFTER_NONSENSE))?;
            let (own, mut entered) = self.admit((name.tenant, name.agent))?;
            let service = self.reach(to, &mut entered).await?;
            Ok::<_, No>((to, first, own, entered, service))
        };
        let (to, first, own, entered, service) = match admitted.await {
            Ok(admitted) => admitted,
            Err(no) => {
                self.refused(no.reason);
                tracing::info!(agent = %name.agent, reason = no.reason, "an agent is sent away");
                return farewell(Lingering::new(agent), no).await;
            }
        };
        if !matches!(timeout(WORDS, say(&mut agent, b"ok\n")).await, Ok(Ok(()))) {
            return self.refused("gone");
        }
        drop(place);
        self.metrics.open(to, 1);
        let session = Session {
            splice: Splice::new(agent, service, first),
            times: self.times,
            stopping: &self.stopping,
            good: || self.trust.name(&leaf).is_ok(),
            moved: |moved| self.metrics.moved(moved),
        };
        let ended = session.run().await;
        self.metrics.open(to, -1);
        self.metrics.ended(ended);
        tracing::debug!(agent = %name.agent, to = to.word(), ended, "a connection of an agent ended");
        drop((own, entered));
    }

    /// A place among agents' connections.
    fn admit(&self, who: limits::Who) -> Result<(tokio::sync::OwnedSemaphorePermit, Entered), No> {
        if self.stopping.is_cancelled() {
            return Err(No::new("STOPPING", AFTER_STOPPING));
        }
        let now = Instant::now();
        let entered = self.agents.enter(who, now).map_err(|crowd| match crowd {
            Crowd::Many => No::new("AGENT_CONNECTIONS", AFTER_MANY),
            Crowd::ManyOfTenant => No::new("TENANT_CONNECTIONS", AFTER_MANY),
            Crowd::Hasty(wait) => No::new("DOOR_BUSY", wait),
        })?;
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| No::new("DOOR_FULL", AFTER_FULL))?;
        self.admission
            .admit(now)
            .map_err(|wait| No::new("DOOR_BUSY", wait))?;
        Ok((place, entered))
    }

    /// A connection to a replica: in turn, and the next one where one does not answer.
    async fn reach(&self, to: To, entered: &mut Entered) -> Result<TcpStream, No> {
        let unreachable = No::new("SERVICE_UNREACHABLE", AFTER_UNREACHABLE);
        let peer = match to {
            To::Hub => &self.hub,
            To::Vault => &self.vault,
        };
        let peer = peer.as_ref().ok_or(unreachable)?;
        let mut replicas = timeout(CONNECT, peer.addresses()).await.unwrap_or_default();
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        if !replicas.is_empty() {
            let first = turn % replicas.len();
            replicas.rotate_left(first);
        }
        if to == To::Hub {
            entered.prefer(&mut replicas);
        }
        for replica in replicas.into_iter().take(ATTEMPTS) {
            match connect(replica).await {
                Ok(stream) => {
                    if to == To::Hub {
                        entered.leads_to(replica);
                    }
                    return Ok(stream);
                }
                Err(error) => {
                    tracing::debug!(%replica, %error, "a replica cannot be reached");
                    peer.look_again();
                }
            }
        }
        Err(unreachable)
    }
}

async fn connect(replica: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = timeout(CONNECT, TcpStream::connect(replica)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn say<S: AsyncWrite + Unpin>(stream: &mut S, words: &[u8]) -> std::io::Result<()> {
    stream.write_all(words).await?;
    stream.flush().await
}

/// Says no, and ends so that it is heard.
async fn farewell<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, no: No) {
    let saying = async {
        say(&mut stream, no.line().as_bytes()).await?;
        stream.shutdown().await
    };
    // Who does not listen is not told.
    let _ = timeout(WORDS, saying).await;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::No;

    #[test]
    fn a_refusal_names_whole_seconds_and_never_none() {
        let line = |millis| No::new("DOOR_BUSY", Duration::from_millis(millis)).line();
        assert_eq!(line(0), "no DOOR_BUSY 1\n");
        assert_eq!(line(1_000), "no DOOR_BUSY 1\n");
        assert_eq!(line(1_001), "no DOOR_BUSY 2\n");
    }
}
