//! Service query's way to agents, without the way: what is asked goes to an agent's own code in this process.

use std::{
    collections::HashMap,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::SystemTime,
};

use bytes::Bytes;
use chassis::token::KeySet;
use futures_util::{Stream, StreamExt as _, stream::BoxStream};
use http::uri::PathAndQuery;
use ingest_agent::{
    agent::seam::{About, Followed, Line, Stores},
    serve::{Connection, Service},
};
use prost::Message;
use proto::{
    agent::v1::{
        PlanUndoRequest, PlanUndoResponse, TablesRequest, TablesResponse, WatchUndoRequest,
        WatchUndoResponse, plan_undo_response::Part,
    },
    query::v1 as pb,
};
use tonic::{Request, Response, Status, client::Grpc};
use tonic_prost::ProstCodec;
use types::{AgentId, Code, Fault, Region, ServerId, TenantId};

use crate::world::signer;

/// How an agent lies, or its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Twist {
    /// It tells the truth.
    None,
    /// One byte of the script is another one.
    Byte,
    /// The script ends early, with its end in place.
    Short,
    /// The script goes on.
    Long,
    /// The connection breaks before the end.
    Cut,
    /// Another digest stands at the end.
    End,
    /// Another digest stands at the beginning.
    Head,
}

/// An agent with the stores of the servers that it follows.
struct Agent {
    tenant: TenantId,
    id: AgentId,
    stores: Arc<Stores>,
    service: Service,
}

#[derive(Default)]
struct Inner {
    agents: Mutex<HashMap<TenantId, Agent>>,
    away: AtomicBool,
    asked: Mutex<Vec<String>>,
    open: AtomicUsize,
    twist: Mutex<Option<Twist>>,
    uploads: Mutex<HashMap<String, String>>,
    meanwhile: Mutex<Option<Meanwhile>>,
}

/// What happens just before an agent plans.
type Meanwhile = Box<dyn FnOnce() + Send>;

/// What stands for service query.
#[derive(Clone, Default)]
pub(crate) struct Hub(Arc<Inner>);

/// What service query says when no agent is connected.
#[derive(Debug, thiserror::Error)]
#[error("no agent that follows this server is connected; one was last seen at 2026-11-22T06:00:00Z")]
struct Away;

impl Fault for Away {
    fn code(&self) -> Code {
        Code::Unavailable
    }

    fn reason(&self) -> &'static str {
        "AGENT_NOT_CONNECTED"
    }
}

fn keys() -> KeySet {
    let keys = KeySet::new(Region::Eu);
    keys.replace(vec![signer().verifying_key()]);
    keys
}

impl Hub {
    /// Has the tenant's agent follow a server, with its changes in `store`.
    pub(crate) fn follow(&self, tenant: TenantId, server: ServerId, store: PathBuf) {
        let mut agents = self.0.agents.lock().unwrap();
        let agent = agents.entry(tenant).or_insert_with(|| {
            let (id, stores) = (AgentId::fresh(), Arc::new(Stores::default()));
            let about = About {
                tenant,
                agent: id,
                boot_id: "1".to_owned(),
                generation: 1,
                started: SystemTime::now(),
            };
            let service = Service::new(Arc::clone(&stores), keys(), about);
            Agent {
                tenant,
                id,
                stores,
                service,
            }
        });
        let followed = Followed::new(server, "db".to_owned(), store);
        agent.stores.add(Arc::new(followed));
    }

    /// Has an upload have the history of a server.
    pub(crate) fn upload(&self, upload: String, server: String) {
        self.0.uploads.lock().unwrap().insert(upload, server);
    }

    /// Whether agents are away.
    pub(crate) fn away(&self, away: bool) {
        self.0.away.store(away, Ordering::SeqCst);
    }

    /// Has agents lie.
    pub(crate) fn twist(&self, twist: Twist) {
        *self.0.twist.lock().unwrap() = Some(twist);
    }

    /// Has this happen once, just before an agent plans the next time: after it was asked for its tables.
    pub(crate) fn meanwhile(&self, happens: impl FnOnce() + Send + 'static) {
        *self.0.meanwhile.lock().unwrap() = Some(Box::new(happens));
    }

    /// The methods that were asked for so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.0.asked.lock().unwrap().clone()
    }

    /// How many answers are under way.
    pub(crate) fn open(&self) -> usize {
        self.0.open.load(Ordering::SeqCst)
    }

    fn answers(&self, agent: &Agent, method: &str, delegation: &str, request: Bytes) -> Calling {
        let (line, _) = Line::new();
        Calling {
            agent: Grpc::new(agent.service.on(line)).max_decoding_message_size(32 << 20),
            delegation: format!("Bearer {delegation}"),
            method: method.to_owned(),
            request,
            twist: self.0.twist.lock().unwrap().unwrap_or(Twist::None),
            uploads: self.0.uploads.lock().unwrap().clone(),
        }
    }
}

struct Calling {
    agent: Grpc<Connection>,
    delegation: String,
    method: String,
    request: Bytes,
    twist: Twist,
    uploads: HashMap<String, String>,
}

/// A request of AgentService.
trait Asked: Message + Default + 'static {
    fn server(&mut self) -> &mut String;
}

macro_rules! asked {
    ($($request:ident)*) => {
        $(impl Asked for $request {
            fn server(&mut self) -> &mut String {
                &mut self.server_id
            }
        })*
    };
}

asked!(PlanUndoRequest WatchUndoRequest TablesRequest);

impl Calling {
    async fn call<Q, A>(mut self, twisted: fn(A, Twist) -> Vec<Result<A, Status>>) -> Result<Messages, Status>
    where
        Q: Asked,
        A: Message + Default + 'static,
    {
        let mut asked = Q::decode(self.request).unwrap();
        if let Some(server) = self.uploads.get(asked.server()) {
            server.clone_into(asked.server());
        }
        let mut request = Request::new(asked);
        request
            .metadata_mut()
            .insert("authorization", self.delegation.parse().unwrap());
        self.agent.ready().await.unwrap();
        let path: PathAndQuery = self.method.parse().unwrap();
        let codec = ProstCodec::<Q, A>::default();
        let answer = self.agent.server_streaming(request, path, codec).await?;
        let twist = self.twist;
        let messages = answer.into_inner().flat_map(move |message| {
            futures_util::stream::iter(match message {
                Ok(message) => twisted(message, twist),
                Err(status) => vec![Err(status)],
            })
        });
        let bytes = messages.map(|message| Ok(message?.encode_to_vec().into()));
        Ok(bytes.boxed())
    }
}

type Messages = BoxStream<'static, Result<Bytes, Status>>;

fn plain<A>(message: A, _: Twist) -> Vec<Result<A, Status>> {
    vec![Ok(message)]
}

fn lie(mut message: PlanUndoResponse, twist: Twist) -> Vec<Result<PlanUndoResponse, Status>> {
    let script = |bytes: &'static [u8]| {
        Ok(PlanUndoResponse {
            part: Some(Part::Script(Bytes::from_static(bytes))),
        })
    };
    match (&mut message.part, twist) {
        (Some(Part::Script(bytes)), Twist::Byte) => {
            let mut other = bytes.to_vec();
            let middle = other.len() / 2;
            other[middle] ^= 1;
            *bytes = other.into();
        }
        (Some(Part::Script(bytes)), Twist::Short) => bytes.truncate(bytes.len() - 1),
        (Some(Part::End(_)), Twist::Long) => return vec![script(b"DROP TABLE orders;"), Ok(message)],
        (Some(Part::End(_)), Twist::Cut) => return vec![Err(chassis::status(&Away))],
        (Some(Part::End(end)), Twist::End) => end.digest = "0".repeat(64),
        (Some(Part::Head(head)), Twist::Head) => head.digest = "0".repeat(64),
        _ => {}
    }
    vec![Ok(message)]
}

/// Counts answers that are under way.
struct Counted {
    messages: Messages,
    hub: Hub,
}

impl Stream for Counted {
    type Item = Result<pb::AskResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.messages.poll_next_unpin(context);
        next.map(|next| next.map(|message| Ok(pb::AskResponse { message: message? })))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.hub.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tonic::async_trait]
impl pb::hub_service_server::HubService for Hub {
    type AskStream = BoxStream<'static, Result<pb::AskResponse, Status>>;
    type ForwardStream = BoxStream<'static, Result<pb::ForwardResponse, Status>>;

    async fn ask(&self, request: Request<pb::AskRequest>) -> Result<Response<Self::AskStream>, Status> {
        let asked = request.into_inner();
        self.0.asked.lock().unwrap().push(asked.method.clone());
        if asked.method.ends_with("/Tables") {
            // Recovery asks for them where something is hidden: by all the names that there were.
            let tables = TablesRequest::decode(asked.request.clone()).unwrap();
            assert!(tables.all_descents, "{tables:?}");
        }
        if asked.method.ends_with("/PlanUndo")
            && let Some(happens) = self.0.meanwhile.lock().unwrap().take()
        {
            tokio::task::block_in_place(happens);
        }
        if self.0.away.load(Ordering::SeqCst) {
            return Err(chassis::status(&Away));
        }
        let (context, ends) = keys().context(&asked.context_token).unwrap();
        let tenant = context.seat.as_ref().unwrap().tenant;
        let calling = {
            let agents = self.0.agents.lock().unwrap();
            let agent = agents.get(&tenant).ok_or_else(|| chassis::status(&Away))?;
            assert_eq!(agent.tenant, tenant);
            let now = chassis::token::now();
            // An upload has the history of a server here.
            let server = self.0.uploads.lock().unwrap().get(&asked.server_id).cloned();
            let about = (agent.id, server.unwrap_or(asked.server_id).parse().unwrap());
            let delegation = signer().delegation(&context, ends, about, &asked.method, Region::Eu, now);
            self.answers(agent, &asked.method, &delegation.unwrap(), asked.request)
        };
        let messages = match asked.method.rsplit('/').next().unwrap() {
            "PlanUndo" => calling.call::<PlanUndoRequest, PlanUndoResponse>(lie).await?,
            "WatchUndo" => calling.call::<WatchUndoRequest, WatchUndoResponse>(plain).await?,
            "Tables" => calling.call::<TablesRequest, TablesResponse>(plain).await?,
            method => panic!("nobody should ask for {method}"),
        };
        self.0.open.fetch_add(1, Ordering::SeqCst);
        let hub = self.clone();
        Ok(Response::new(Counted { messages, hub }.boxed()))
    }

    async fn forward(&self, _: Request<pb::ForwardRequest>) -> Result<Response<Self::ForwardStream>, Status> {
        panic!("replicas of query ask this each other");
    }

    async fn held(&self, _: Request<pb::HeldRequest>) -> Result<Response<pb::HeldResponse>, Status> {
        panic!("replicas of query ask this each other");
    }

    async fn displace(
        &self,
        _: Request<pb::DisplaceRequest>,
    ) -> Result<Response<pb::DisplaceResponse>, Status> {
        panic!("replicas of query ask this each other");
    }
}
