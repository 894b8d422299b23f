//! Logs, traces and metrics as they leave the process.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::any_value::Value,
    resource::v1::Resource,
};
use rustix::process::Signal;
use tonic::{
    Request, Response, Status,
    transport::{Server, ServerTlsConfig},
};

use crate::run::{Mesh, invitation, wire};

/// A collector that keeps what it gets.
#[derive(Clone, Default)]
struct Collector {
    traces: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    metrics: Arc<Mutex<Vec<ExportMetricsServiceRequest>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.traces.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.metrics.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

impl Collector {
    /// Begins to listen over TLS, as `identity`, and says where.
    async fn start(&self, identity: &testkit::Identity) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let read = |path| std::fs::read(path).unwrap();
        let identity =
            tonic::transport::Identity::from_pem(read(&identity.cert_file), read(&identity.key_file));
        let server = Server::builder()
            .tls_config(ServerTlsConfig::new().identity(identity))
            .unwrap()
            .add_service(TraceServiceServer::new(self.clone()))
            .add_service(MetricsServiceServer::new(self.clone()))
            .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
        tokio::spawn(server);
        format!("https://localhost:{port}")
    }
}

/// A span: its service, its id and its parent's.
type Sent = (String, String, String);

impl Collector {
    /// The spans of one trace. Nothing in any of the others may show a secret.
    fn spans_of(&self, trace: &str) -> Vec<Sent> {
        let traces = self.traces.lock().unwrap();
        assert!(!format!("{traces:?}").contains("canary-of-the-token"));
        let mut spans = Vec::new();
        for batch in traces.iter().flat_map(|request| &request.resource_spans) {
            let service = attribute(batch.resource.as_ref(), "service.name");
            for span in batch.scope_spans.iter().flat_map(|scope| &scope.spans) {
                if hex(&span.trace_id) == trace {
                    spans.push((service.clone(), hex(&span.span_id), hex(&span.parent_span_id)));
                }
            }
        }
        spans
    }
}

fn attribute(resource: Option<&Resource>, name: &str) -> String {
    let attribute = resource
        .unwrap()
        .attributes
        .iter()
        .find(|attribute| attribute.key == name);
    match attribute.unwrap().value.as_ref().unwrap().value.as_ref() {
        Some(Value::StringValue(text)) => text.clone(),
        other => panic!("{name} is {other:?}"),
    }
}

/// A trace and a span that someone before us began.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

#[tokio::test(flavor = "multi_thread")]
async fn a_call_over_two_services_is_one_trace_at_the_collector_and_in_both_logs() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let collector = Collector::default();
    let mesh = Mesh::new();
    let endpoint = collector.start(&mesh.auth).await;
    let common = [
        ("TRAILMESH_OTLP_ENDPOINT", endpoint.as_str()),
        ("TRAILMESH_OTLP_CA_FILE", mesh.auth.bundle_file.to_str().unwrap()),
    ];
    let mut second = mesh.start(&mesh.auth, &common);
    let (second_address, _) = second.addresses();
    let next = format!("auth=https://localhost:{}", second_address.port());
    let more = [("TRAILMESH_TEST_NAME", "tenant"), ("TRAILMESH_PEERS", &next)];
    let mut first = mesh.start(&mesh.tenant, &[&common[..], &more].concat());
    let (first_address, _) = first.addresses();

    let mut request = invitation("x@example.org");
    let parent = format!("00-{TRACE}-{PARENT}-01").parse().unwrap();
    request.metadata_mut().insert("traceparent", parent);
    mesh.invite(first_address, request).await.unwrap();

    first.signal(Signal::TERM);
    second.signal(Signal::TERM);
    for (name, service) in [("tenant", first), ("auth", second)] {
        let ended = tokio::task::spawn_blocking(|| service.wait()).await.unwrap();
        assert_eq!(ended.code, 0, "{}", ended.log);
        let line = ended
            .lines()
            .into_iter()
            .find(|line| line["message"].as_str().unwrap().starts_with("an invitation"))
            .unwrap_or_else(|| panic!("not logged:\n{}", ended.log));
        assert_eq!(line["trace_id"], TRACE, "{line}");
        assert_eq!(line["method"], "trailmesh.auth.v1.MailService/SendInvitation");
        assert_eq!(line["caller"], "tenant");
        assert!(line["request_id"].as_str().unwrap().starts_with("req_"), "{line}");
        assert_eq!((&line["service"], &line["region"]), (&name.into(), &"eu".into()));
        assert_eq!(line["message"], "an invitation\nforged: line Bearer ***");
        assert_eq!(line["fields"]["link"], "https://x/accept?token=***");
        assert_eq!(line["fields"]["token"], "***");
        assert!(!ended.log.contains("canary-of-the-token"), "{}", ended.log);
    }

    let spans = collector.spans_of(TRACE);
    // One span of the first service continues the caller's, and one of the second's continues one of the first's.
    let continues = |(service, _, parent): &Sent| match service.as_str() {
        "tenant" => parent == PARENT,
        _ => spans
            .iter()
            .any(|(other, id, _)| other == "tenant" && id == parent),
    };
    for service in ["tenant", "auth"] {
        assert!(
            spans.iter().any(|span| span.0 == service && continues(span)),
            "{service}: {spans:?}"
        );
    }

    let metrics = collector.metrics.lock().unwrap().clone();
    let names: Vec<&str> = metrics
        .iter()
        .flat_map(|request| &request.resource_metrics)
        .flat_map(|resource| &resource.scope_metrics)
        .flat_map(|scope| &scope.metrics)
        .map(|metric| metric.name.as_str())
        .collect();
    for name in ["test.starts", "rpc.server.call.duration"] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_panic_is_one_line_of_the_log_without_what_must_not_be_seen() {
    let mesh = Mesh::new();
    let ended = mesh.start(&mesh.auth, &[("TRAILMESH_TEST_MODE", "panic")]).wait();
    let lines = ended.lines();
    let panic = lines.iter().find(|line| line["target"] == "panic").unwrap();
    assert_eq!(panic["level"], "ERROR");
    assert_eq!(panic["message"], "panicked: at the start, with password=***");
    assert!(panic["fields"]["place"].as_str().unwrap().contains("child.rs:"));
    assert!(!ended.log.contains("canary"), "{}", ended.log);
}

#[test]
fn every_line_says_when_where_and_how_grave() {
    let mesh = Mesh::new();
    let ended = mesh.start(&mesh.auth, &[("TRAILMESH_TEST_MODE", "task")]).wait();
    for line in ended.lines() {
        for name in ["timestamp", "level", "target", "message", "service", "region"] {
            assert!(line[name].is_string(), "{name}: {line}");
        }
        assert_eq!(line["service"], "auth");
        assert!(
            line["timestamp"]
                .as_str()
                .unwrap()
                .parse::<types::Micros>()
                .is_ok()
        );
    }
}

#[test]
fn the_filter_is_heeded_and_text_stays_one_line_each() {
    let mesh = Mesh::new();
    let quiet = mesh
        .start(
            &mesh.auth,
            &[("TRAILMESH_TEST_MODE", "fail"), ("TRAILMESH_LOG", "error")],
        )
        .wait();
    assert!(
        quiet.lines().iter().all(|line| line["level"] == "ERROR"),
        "{}",
        quiet.log
    );
    let text = mesh
        .start(
            &mesh.auth,
            &[("TRAILMESH_TEST_MODE", "task"), ("TRAILMESH_LOG_FORMAT", "text")],
        )
        .wait();
    assert!(
        text.log.contains("ERROR auth panic: panicked: in a\\n\"task\" "),
        "{}",
        text.log
    );
}

#[test]
fn a_collector_that_is_gone_or_never_answers_holds_nothing_up() {
    let mesh = Mesh::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoints = [
        format!("http://{}", silent.local_addr().unwrap()),
        format!("http://127.0.0.1:{}", testkit::free_port()),
    ];
    for endpoint in endpoints {
        let more = [
            ("TRAILMESH_OTLP_ENDPOINT", endpoint.as_str()),
            ("TRAILMESH_DEV", "true"),
        ];
        let mut service = mesh.start(&mesh.auth, &more);
        let (address, _) = service.addresses();
        let wire = wire();
        wire.block_on(mesh.invite(address, invitation("x@example.org")))
            .unwrap();
        let told = Instant::now();
        service.signal(Signal::TERM);
        let ended = service.wait();
        assert_eq!(ended.code, 0, "{}", ended.log);
        assert!(told.elapsed() < Duration::from_secs(15), "{}", ended.log);
        assert!(!ended.log.contains("canary-of-the-token"), "{}", ended.log);
        ended.lines();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_with_a_certificate_of_somebody_else_gets_nothing() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let collector = Collector::default();
    let mesh = Mesh::new();
    let endpoint = collector.start(&Mesh::new().auth).await;
    let more = [
        ("TRAILMESH_OTLP_ENDPOINT", endpoint.as_str()),
        ("TRAILMESH_OTLP_CA_FILE", mesh.auth.bundle_file.to_str().unwrap()),
    ];
    let mut service = mesh.start(&mesh.auth, &more);
    let (address, _) = service.addresses();
    mesh.invite(address, invitation("x@example.org")).await.unwrap();
    service.signal(Signal::TERM);
    let ended = tokio::task::spawn_blocking(|| service.wait()).await.unwrap();
    assert_eq!(ended.code, 0, "{}", ended.log);
    assert!(collector.traces.lock().unwrap().is_empty() && collector.metrics.lock().unwrap().is_empty());
}
