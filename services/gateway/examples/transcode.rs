//! How long a request takes from JSON to protobuf, and an answer back, without network: `cargo run --release -p gateway --example transcode`.
#![allow(clippy::print_stdout, reason = "it is what it is for")]

use std::{
    error::Error,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use chassis::policy::Table;
use gateway::{
    json,
    routes::{Bindings, Found, Route, Routes},
};
use http::Method;
use prost::Message as _;
use proto::tenant::v1 as pb;

const REGISTER: &str = r#"{"server":{"name":"orders-primary","host":"db1.example.com","port":3306,"username":"trail","tlsMode":"TLS_MODE_VERIFY_IDENTITY","engine":"ENGINE_MYSQL","poolId":"agp_01ktx3y8d9e0f1g2h3j4k5m6n7","labels":{"team":"payments","tier":"gold"}}}"#;

fn main() -> Result<(), Box<dyn Error>> {
    let routes = Routes::load(Arc::new(Table::load(proto::DESCRIPTOR_SET)?))?;
    let (register, none) = route(&routes, Method::POST, "/v1/servers")?;
    let (get, id) = route(&routes, Method::GET, "/v1/servers/srv_01ktx3y8d9e0f1g2h3j4k5m6n7")?;
    let (list, _) = route(&routes, Method::GET, "/v1/servers")?;
    let one = pb::GetServerResponse {
        server: Some(server()),
    }
    .encode_to_vec();
    let many = pb::ListServersResponse {
        servers: vec![server(); 50],
        next_page_token: "b3JkZXJzLXByaW1hcnk".into(),
    }
    .encode_to_vec();
    println!("{:28} {:>9} {:>10} {:>9}", "", "bytes", "ns", "MB/s");
    measure("find a route", 0, || {
        routes.find(&Method::GET, "/v1/servers/srv_01ktx3y8d9e0f1g2h3j4k5m6n7")
    });
    measure("request from path", 0, || json::decode(&get, &id, None, b""));
    measure("request from query", 0, || {
        json::decode(&list, &none, Some("pageSize=50&pageToken=b3JkZXI"), b"")
    });
    measure("request from JSON", REGISTER.len(), || {
        json::decode(&register, &none, None, REGISTER.as_bytes())
    });
    let written = json::encode(&get, &one)?.len();
    measure("answer of one server", written, || json::encode(&get, &one));
    let written = json::encode(&list, &many)?.len();
    measure("answer of 50 servers", written, || json::encode(&list, &many));
    Ok(())
}

fn route(routes: &Routes, method: Method, path: &str) -> Result<(Arc<Route>, Bindings), String> {
    match routes.find(&method, path) {
        Found::Route(route, bindings) => Ok((route, bindings)),
        other => Err(format!("{path}: {other:?}")),
    }
}

fn server() -> pb::Server {
    let time = || {
        Some(prost_types::Timestamp {
            seconds: 1_795_298_400,
            nanos: 123_456_000,
        })
    };
    pb::Server {
        frozen: false,
        id: "srv_01ktx3y8d9e0f1g2h3j4k5m6n7".into(),
        name: "orders-primary".into(),
        host: "db1.example.com".into(),
        port: 3306,
        username: "trail".into(),
        tls_mode: pb::TlsMode::VerifyIdentity.into(),
        engine: pb::Engine::Mysql.into(),
        pool_id: "agp_01ktx3y8d9e0f1g2h3j4k5m6n7".into(),
        labels: [("team".to_owned(), "payments".to_owned())].into(),
        create_time: time(),
        update_time: time(),
        etag: "W/2".into(),
    }
}

/// The best of five rounds of 0.2 s, so that a busy machine shows less.
fn measure<T>(name: &str, bytes: usize, mut work: impl FnMut() -> T) {
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let (started, mut times) = (Instant::now(), 0_u32);
        while started.elapsed() < Duration::from_millis(200) {
            for _ in 0..100 {
                black_box(work());
            }
            times += 100;
        }
        best = best.min(started.elapsed().as_nanos() as f64 / f64::from(times));
    }
    println!(
        "{name:28} {bytes:>9} {best:>10.0} {:>9.0}",
        bytes as f64 * 1000.0 / best
    );
}
