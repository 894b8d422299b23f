//! How fast the agent answers, and with how much memory: all changes of a store over HTTP/2 within one process.
//!
//! `bench_serve STORE [ROWS [STREAMS]]` makes the store with so many rows if there is none, then reads it with one stream and with several at
//! once. Numbers of a debug build say nothing about speed.

use std::{
    error::Error,
    fs,
    io::Write as _,
    path::Path,
    sync::Arc,
    time::{Instant, SystemTime},
};

use binlog::{
    Begin, Charset, Column, ColumnType, Commit, GtidSet, Image, KeyPart, LogPos, Op, RowChange, Sink, Table,
};
use chassis::token::{KeySet, Signer, now};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use ingest_agent::{
    agent::seam::{About, Followed, Line, Stores},
    serve::Service,
};
use proto::agent::v1::{ChangesRequest, ChangesResponse};
use tokio::{net::TcpListener, net::TcpStream, task::JoinSet};
use tonic::{body::Body, client::Grpc, codegen::http::uri::PathAndQuery};
use trail::{Options, Reader, Source, Start, Writer};
use types::{
    AgentId, Context, Micros, Plan, Region, Role, Seat, ServerId, SessionId, Subject, TenantId, UserId,
};

const METHOD: &str = "/trailmesh.agent.v1.AgentService/Changes";
/// Rows of a transaction.
const TRANSACTION: u64 = 100;

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let store = arguments.next().ok_or("name a store")?;
    let rows: u64 = arguments.next().map_or(Ok(500_000), |text| text.parse())?;
    let streams: usize = arguments.next().map_or(Ok(4), |text| text.parse())?;
    let store = Path::new(&store);
    if !store.join("manifest.json").exists() {
        write(store, rows)?;
    }
    let begun = Instant::now();
    let (mut count, mut bytes, mut encoder) = (0_u64, 0, change::Encoder::default());
    for change in Reader::open(store)?.find(&trail::Filter::default())? {
        bytes += encoder.encode(&change?)?.len();
        count += 1;
    }
    report("read and encoded", count, bytes, begun);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(async {
            answer(store, 1).await?;
            answer(store, streams).await
        })
}

fn report(what: &str, rows: u64, bytes: usize, begun: Instant) {
    let seconds = begun.elapsed().as_secs_f64();
    let line = format!(
        "{what}: {rows} rows, {} MB, {:.0} rows/s; resident {} MB, at most {} MB",
        bytes / 1_000_000,
        rows as f64 / seconds,
        resident("VmRSS:") / 1_000,
        resident("VmHWM:") / 1_000,
    );
    // Nobody can be told that standard output does not work.
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn resident(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or_default()
}

async fn answer(store: &Path, streams: usize) -> Result<(), Failure> {
    let (tenant, agent, server) = (TenantId::fresh(), AgentId::fresh(), ServerId::fresh());
    let signer = Signer::new("k".into(), &[1; 32])?;
    let keys = KeySet::new(Region::Eu);
    keys.replace(vec![signer.verifying_key()]);
    let stores = Arc::new(Stores::default());
    stores.add(Arc::new(Followed::new(server, "bench".into(), store.to_owned())));
    let about = About {
        tenant,
        agent,
        boot_id: "bench".into(),
        generation: 1,
        started: SystemTime::now(),
    };
    let service = Service::new(stores, keys, about);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let mut tasks = JoinSet::new();
    let connection = service.on(Line::new().0);
    tasks.spawn(async move {
        if let Ok((io, _)) = listener.accept().await {
            let _ = connection.serve(io).await;
        }
    });
    let (calls, driver) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(16 << 20)
        .handshake::<_, Body>(TokioIo::new(TcpStream::connect(address).await?))
        .await?;
    tasks.spawn(async move {
        let _ = driver.await;
    });
    let delegation = signer.delegation(
        &person(tenant),
        now() + 60,
        (agent, server),
        METHOD,
        Region::Eu,
        now(),
    )?;
    let begun = Instant::now();
    let mut readers: JoinSet<Result<u64, Failure>> = JoinSet::new();
    for _ in 0..streams {
        readers.spawn(read(calls.clone(), delegation.clone(), server));
    }
    let mut rows = 0;
    while let Some(read) = readers.join_next().await {
        rows += read??;
    }
    report(
        &format!("{streams} streams, decoded by the client"),
        rows,
        0,
        begun,
    );
    Ok(())
}

/// All changes of the server by one stream; how many they are.
async fn read(
    mut calls: http2::SendRequest<Body>,
    delegation: String,
    server: ServerId,
) -> Result<u64, Failure> {
    let service = tower::service_fn(move |request| calls.send_request(request));
    let mut client = Grpc::with_origin(service, "http://agent".parse()?);
    let mut request = tonic::Request::new(ChangesRequest {
        server_id: server.to_string(),
        ..ChangesRequest::default()
    });
    let bearer = format!("Bearer {delegation}").parse()?;
    request.metadata_mut().insert("authorization", bearer);
    let codec = tonic_prost::ProstCodec::<ChangesRequest, ChangesResponse>::default();
    let path = PathAndQuery::from_static(METHOD);
    client.ready().await?;
    let mut answer = client.server_streaming(request, path, codec).await?.into_inner();
    let mut rows = 0;
    while let Some(frame) = answer.message().await? {
        rows += frame.changes.len() as u64;
    }
    Ok(rows)
}

fn person(tenant: TenantId) -> Context {
    Context {
        subject: Subject::Person {
            user: UserId::fresh(),
            session: SessionId::fresh(),
        },
        seat: Some(Seat {
            tenant,
            region: Region::Eu,
            plan: Plan::Free,
            role: Some(Role::Analyst),
            pools: Default::default(),
            scopes: None,
        }),
        mfa_enabled: false,
    }
}

fn write(store: &Path, rows: u64) -> Result<(), Failure> {
    let mut writer = Writer::open(store, Options::default())?;
    let mut at = LogPos::new("binlog.000001", 4);
    writer.start(Start {
        source: Source {
            engine: "mariadb".into(),
            version: "10.11.6-MariaDB".into(),
            server: "1".into(),
            host: None,
        },
        epoch: 0,
        at: at.clone(),
        gtids_before: GtidSet::default(),
        reason: None,
    })?;
    let table = table();
    for first in (0..rows).step_by(TRANSACTION as usize) {
        let number = first / TRANSACTION + 1;
        writer.begin(&Begin {
            at: at.clone(),
            gtid: Some(format!("0-1-{number}").parse()?),
            thread_id: Some(8),
        })?;
        for id in first..(first + TRANSACTION).min(rows) {
            let raw = image(id);
            writer.row(&RowChange {
                op: Op::Insert,
                table: &table,
                before: None,
                after: Some(Image::from_bytes(&raw, &table)?),
                query: None,
                flags: 0,
            })?;
        }
        at.offset += 10_000;
        let time = Micros(1_795_255_200_000_000 + i64::try_from(number)? * 1_000);
        writer.commit(&Commit {
            end: at.clone(),
            time,
        })?;
    }
    writer.finish()?;
    Ok(())
}

fn table() -> Arc<Table> {
    let text = || ColumnType::Varchar {
        bytes: 200,
        charset: Charset::new(45),
    };
    let int = || ColumnType::Int {
        bytes: 4,
        unsigned: false,
    };
    let column = |(name, ty): (&str, ColumnType)| Column {
        name: name.into(),
        ty,
        nullable: false,
        invisible: false,
        generated: Some(false),
        on_update: Some(false),
    };
    let columns = [
        ("id", int()),
        ("customer", int()),
        ("status", text()),
        ("note", text()),
    ];
    Arc::new(Table {
        schema: "shop".into(),
        name: "orders".into(),
        columns: columns.into_iter().map(column).collect(),
        key: vec![KeyPart { column: 0, prefix: 0 }],
    })
}

fn image(id: u64) -> Vec<u8> {
    let id = u32::try_from(id).unwrap_or_default();
    let mut raw = vec![0, 0];
    raw.extend(id.to_le_bytes());
    raw.extend((id.wrapping_mul(2_654_435_761) >> 8).to_le_bytes());
    for text in ["shipped", &format!("order {id} for the customer at the corner")] {
        raw.push(u8::try_from(text.len()).unwrap_or_default());
        raw.extend(text.as_bytes());
    }
    raw
}
