//! Who calls: as fast as answers come (closed), or at a fixed pace whatever happens (open). Every answer is compared to the last byte.
use std::{
    io::Read as _,
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::ValueEnum;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    net::TcpStream,
    sync::mpsc::{Receiver, channel},
    task::JoinSet,
};
use tokio_rustls::TlsConnector;

use crate::{
    behind::{identity, provider, roots},
    shape::{JSON, KEY, frame},
};

/// What is called.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// gRPC, for anyone.
    Grpc,
    /// gRPC, with a key.
    GrpcKey,
    /// JSON, for anyone.
    Json,
    /// JSON, with a key.
    JsonKey,
}

/// Where, and who.
#[derive(clap::Args)]
struct Target {
    /// Where.
    #[arg(long)]
    address: SocketAddr,
    /// The folder with certificates.
    #[arg(long)]
    certificates: PathBuf,
    /// Shows the certificate of this name; else none.
    #[arg(long)]
    identity: Option<String>,
    /// What is called.
    #[arg(long, value_enum)]
    kind: Kind,
}

/// How much.
#[derive(clap::Args)]
pub(crate) struct Load {
    #[command(flatten)]
    target: Target,
    /// How long.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Connections.
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Calls at a time on each, without a pace.
    #[arg(long, default_value_t = 16)]
    streams: usize,
    /// Calls per second in all; without it, as many as go.
    #[arg(long)]
    rate: Option<f64>,
}

/// How many.
#[derive(clap::Args)]
pub(crate) struct Hold {
    #[command(flatten)]
    target: Target,
    /// Connections.
    #[arg(long)]
    connections: usize,
}

/// One call, ready to be sent again and again.
struct Call {
    kind: Kind,
    body: Bytes,
    expected: serde_json::Value,
}

impl Call {
    fn new(kind: Kind) -> Self {
        let body = match kind {
            Kind::Grpc | Kind::GrpcKey => Bytes::from(frame()),
            Kind::Json | Kind::JsonKey => Bytes::from_static(JSON.as_bytes()),
        };
        let expected = serde_json::from_str(JSON).unwrap();
        Self { kind, body, expected }
    }

    fn is_grpc(&self) -> bool {
        matches!(self.kind, Kind::Grpc | Kind::GrpcKey)
    }

    fn request(&self) -> Request<Full<Bytes>> {
        let uri = match self.kind {
            Kind::Grpc => "https://localhost/trailmesh.bench.v1.BenchService/Pass",
            Kind::GrpcKey => "https://localhost/trailmesh.bench.v1.BenchService/Call",
            Kind::Json => "https://localhost/v1/pass",
            Kind::JsonKey => "https://localhost/v1/calls",
        };
        let mut request = Request::post(uri);
        request = if self.is_grpc() {
            request
                .header(header::CONTENT_TYPE, "application/grpc")
                .header(header::TE, "trailers")
        } else {
            request.header(header::CONTENT_TYPE, "application/json")
        };
        if matches!(self.kind, Kind::GrpcKey | Kind::JsonKey) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {KEY}"));
        }
        request.body(Full::new(self.body.clone())).unwrap()
    }

    /// Calls once; what is wrong with the answer is the error.
    async fn call(&self, sender: &mut SendRequest<Full<Bytes>>) -> Result<(), String> {
        sender.ready().await.map_err(|error| error.to_string())?;
        let answer = sender.send_request(self.request()).await;
        let (head, body) = answer.map_err(|error| error.to_string())?.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?;
        let status = body.trailers().and_then(|trailers| trailers.get("grpc-status"));
        let status = status.or_else(|| head.headers.get("grpc-status")).cloned();
        let bytes = body.to_bytes();
        let right = if self.is_grpc() {
            status.is_some_and(|status| status == "0") && bytes == self.body
        } else {
            bytes == self.body
                || serde_json::from_slice::<serde_json::Value>(&bytes).is_ok_and(|json| json == self.expected)
        };
        if head.status == StatusCode::OK && right {
            return Ok(());
        }
        Err(format!(
            "{} {:?} {}",
            head.status,
            head.headers,
            String::from_utf8_lossy(&bytes)
        ))
    }
}

async fn connect(target: &Target) -> SendRequest<Full<Bytes>> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(&target.certificates.join("bundle.pem")));
    let mut config = match &target.identity {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let (chain, key) = identity(&target.certificates.join(name));
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(target.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

/// What came of it: times in microseconds, and the words of failures.
#[derive(Default)]
struct Outcome {
    times: Vec<u32>,
    failures: Vec<String>,
}

impl Outcome {
    fn note(&mut self, began: Instant, answer: Result<(), String>, ended: Instant) {
        let micros = ended.saturating_duration_since(began).as_micros();
        match answer {
            Ok(()) => self.times.push(u32::try_from(micros).unwrap_or(u32::MAX)),
            Err(failure) => self.failures.push(failure),
        }
    }

    fn join(mut self, other: Self) -> Self {
        self.times.extend(other.times);
        self.failures.extend(other.failures);
        self
    }
}

/// Calls and prints `requests seconds p50 p99 max` with times in microseconds; fails if any answer was wrong.
pub(crate) async fn run(load: Load) -> ExitCode {
    let call = Arc::new(Call::new(load.target.kind));
    let mut senders = Vec::new();
    for _ in 0..load.connections {
        let mut sender = connect(&load.target).await;
        if let Err(failure) = call.call(&mut sender).await {
            println!("the first answer is wrong: {failure}");
            return ExitCode::FAILURE;
        }
        senders.push(sender);
    }
    let began = Instant::now();
    let until = Duration::from_secs_f64(load.seconds);
    let mut outcome = match load.rate {
        None => closed(senders, load.streams, &call, began + until).await,
        Some(rate) => open(senders, rate, &call, until).await,
    };
    let seconds = began.elapsed().as_secs_f64();
    if let Some(failure) = outcome.failures.first() {
        println!(
            "{} answers are wrong, for example: {failure}",
            outcome.failures.len()
        );
        return ExitCode::FAILURE;
    }
    outcome.times.sort_unstable();
    let at = |part: f64| outcome.times[((outcome.times.len() - 1) as f64 * part) as usize];
    println!(
        "{} {seconds:.3} {} {} {}",
        outcome.times.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
    ExitCode::SUCCESS
}

async fn closed(
    senders: Vec<SendRequest<Full<Bytes>>>,
    streams: usize,
    call: &Arc<Call>,
    until: Instant,
) -> Outcome {
    let mut callers = JoinSet::new();
    for mut sender in senders.into_iter().flat_map(|sender| vec![sender; streams]) {
        let call = Arc::clone(call);
        callers.spawn(async move {
            let mut outcome = Outcome::default();
            while Instant::now() < until {
                let began = Instant::now();
                let answer = call.call(&mut sender).await;
                outcome.note(began, answer, Instant::now());
            }
            outcome
        });
    }
    callers
        .join_all()
        .await
        .into_iter()
        .fold(Outcome::default(), Outcome::join)
}

/// The clock is a thread, for timers of tokio tick in milliseconds. A time is counted from when the call was due, not from when it was sent.
async fn open(
    senders: Vec<SendRequest<Full<Bytes>>>,
    rate: f64,
    call: &Arc<Call>,
    within: Duration,
) -> Outcome {
    let mut lanes = Vec::new();
    let mut callers = JoinSet::new();
    for sender in senders {
        let (lane, due) = channel(10_000);
        lanes.push(lane);
        callers.spawn(paced(sender, due, Arc::clone(call)));
    }
    let clock = std::thread::spawn(move || {
        let (began, mut late) = (Instant::now(), 0);
        for (nth, lane) in (0_u32..).zip((0..lanes.len()).cycle()) {
            let due = Duration::from_secs_f64(f64::from(nth) / rate);
            if due >= within {
                break;
            }
            std::thread::sleep((began + due).saturating_duration_since(Instant::now()));
            late += usize::from(lanes[lane].try_send(began + due).is_err());
        }
        late
    });
    let mut outcome = callers
        .join_all()
        .await
        .into_iter()
        .fold(Outcome::default(), Outcome::join);
    if clock.join().unwrap() > 0 {
        outcome
            .failures
            .push("calls were not sent: the pace is too fast".to_owned());
    }
    outcome
}

async fn paced(sender: SendRequest<Full<Bytes>>, mut due: Receiver<Instant>, call: Arc<Call>) -> Outcome {
    let (mut calls, mut outcome) = (JoinSet::new(), Outcome::default());
    while let Some(due) = due.recv().await {
        let (mut sender, call) = (sender.clone(), Arc::clone(&call));
        calls.spawn(async move { (due, call.call(&mut sender).await, Instant::now()) });
        while let Some(Ok((due, answer, ended))) = calls.try_join_next() {
            outcome.note(due, answer, ended);
        }
    }
    while let Some(Ok((due, answer, ended))) = calls.join_next().await {
        outcome.note(due, answer, ended);
    }
    outcome
}

/// Says `held` when all stand.
pub(crate) async fn hold(hold: Hold) -> ExitCode {
    let call = Call::new(hold.target.kind);
    let mut senders = Vec::new();
    for _ in 0..hold.connections {
        let mut sender = connect(&hold.target).await;
        if let Err(failure) = call.call(&mut sender).await {
            println!("an answer is wrong: {failure}");
            return ExitCode::FAILURE;
        }
        senders.push(sender);
    }
    println!("held");
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let _ = ended.await;
    if senders.iter().any(SendRequest::is_closed) {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
