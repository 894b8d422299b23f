//! The client of `./dev bench mesh`: the same questions of one store, asked of its files on the agent's machine and asked through gateway, query
//! and agent. Prints one line a measurement: name, number, unit.
//!
//! Told by environment: `BENCH_URL`, `BENCH_CA`, `BENCH_KEY`, `BENCH_SERVER`, `BENCH_STORE`, `BENCH_ROWS` (rows of the table `bench.narrow`, keys 1 to
//! that), `BENCH_ASKS`.

#![allow(clippy::print_stdout, reason = "its output")]

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use prost::Message;
use proto::{
    change::v1::{Filter, TableFilter},
    query::v1::{GetRowHistoryRequest, GetRowHistoryResponse, StreamChangesRequest, StreamChangesResponse},
};
use reqwest::Client;

struct Bench {
    client: Client,
    url: String,
    key: String,
    server: String,
    store: PathBuf,
    rows: u64,
    asks: u64,
}

fn told(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

#[tokio::main]
async fn main() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let ca = std::fs::read(told("BENCH_CA")).expect("an authority");
    let client = Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&ca).expect("a certificate")])
        .http2_prior_knowledge()
        .http2_initial_stream_window_size(4 << 20)
        .http2_initial_connection_window_size(8 << 20)
        .build()
        .expect("a client");
    let bench = Bench {
        client,
        url: told("BENCH_URL"),
        key: told("BENCH_KEY"),
        server: told("BENCH_SERVER"),
        store: told("BENCH_STORE").into(),
        rows: told("BENCH_ROWS").parse().expect("a number"),
        asks: told("BENCH_ASKS").parse().expect("a number"),
    };
    let (mut alone, mut mesh) = (Vec::new(), Vec::new());
    for nth in 0..bench.asks {
        let key = (nth * 7919 % bench.rows + 1).to_string();
        let began = Instant::now();
        let expected = bench.alone(&key);
        alone.push(began.elapsed());
        let began = Instant::now();
        let found = bench.through(&key).await;
        mesh.push(began.elapsed());
        assert_eq!(found, expected, "the answers about row {key}");
    }
    for (name, mut times) in [("alone", alone), ("mesh", mesh)] {
        times.sort();
        println!("history_{name}_p50 {:.3} ms", at(&times, 50));
        println!("history_{name}_p99 {:.3} ms", at(&times, 99));
    }
    let began = Instant::now();
    let rows = bench.scan();
    println!(
        "scan_alone {:.0} rows/s",
        rows as f64 / began.elapsed().as_secs_f64()
    );
    let began = Instant::now();
    let (streamed, bytes) = bench.stream().await;
    let seconds = began.elapsed().as_secs_f64();
    assert_eq!(streamed, rows, "the rows of the table");
    println!("stream_mesh {:.0} rows/s", streamed as f64 / seconds);
    println!("stream_mesh_bytes {:.1} MB/s", bytes as f64 / seconds / 1e6);
}

fn at(times: &[Duration], percent: usize) -> f64 {
    times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e3
}

fn narrow() -> TableFilter {
    TableFilter {
        schema: "bench".into(),
        table: "narrow".into(),
    }
}

impl Bench {
    /// How many changes the row has, from the files.
    fn alone(&self, key: &str) -> usize {
        let reader = trail::Reader::open(&self.store).expect("a store");
        let (_, table) = reader.versions("bench", "narrow").pop().expect("a definition");
        let filter = trail::Filter {
            keys: vec![binlog::RowKey::parse(&table, key).expect("a key")],
            ..trail::Filter::table("bench", "narrow")
        };
        let found = reader.find(&filter).expect("an answer");
        let mut text = String::new();
        found
            .map(|change| change.expect("a change").write_json(&mut text).expect("JSON"))
            .count()
    }

    /// How many changes the table has, decoded from the files.
    fn scan(&self) -> u64 {
        let reader = trail::Reader::open(&self.store).expect("a store");
        let found = reader
            .find(&trail::Filter::table("bench", "narrow"))
            .expect("an answer");
        let decoded = found.map(|change| change::message(&change.expect("a change")).expect("a message"));
        decoded.count() as u64
    }

    async fn through(&self, key: &str) -> usize {
        let request = GetRowHistoryRequest {
            server: self.server.clone(),
            table: Some(narrow()),
            key: key.to_owned(),
            ..Default::default()
        };
        let answer = self.call("GetRowHistory", &request).await;
        let body = answer.bytes().await.expect("a body");
        let answer = GetRowHistoryResponse::decode(&body[5..]).expect("an answer");
        answer.changes.len()
    }

    async fn stream(&self) -> (u64, u64) {
        let request = StreamChangesRequest {
            server: self.server.clone(),
            filter: Some(Filter {
                tables: vec![narrow()],
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut body = self.call("StreamChanges", &request).await.bytes_stream();
        let (mut rows, mut bytes, mut rest) = (0, 0, Vec::new());
        while let Some(piece) = body.next().await {
            let piece = piece.expect("a whole stream");
            bytes += piece.len() as u64;
            rest.extend_from_slice(&piece);
            let mut start = 0;
            while let Some(head) = rest.get(start..start + 5) {
                let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                let Some(message) = rest.get(start + 5..start + 5 + length) else {
                    break;
                };
                let frame = StreamChangesResponse::decode(message).expect("a frame");
                rows += frame.changes.len() as u64;
                start += 5 + length;
            }
            rest.drain(..start);
        }
        (rows, bytes)
    }

    /// A call by gRPC; the status of a failure is what it panics with.
    async fn call(&self, method: &str, request: &impl Message) -> reqwest::Response {
        let message = request.encode_to_vec();
        let mut body = vec![0];
        body.extend(u32::try_from(message.len()).expect("a length").to_be_bytes());
        body.extend(message);
        let answer = self
            .client
            .post(format!("{}/trailmesh.query.v1.QueryService/{method}", self.url))
            .bearer_auth(&self.key)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body)
            .send()
            .await
            .expect("an answer");
        let status = answer.headers().get("grpc-status");
        assert!(
            status.is_none_or(|status| status == "0"),
            "{method}: {:?}",
            answer.headers()
        );
        answer
    }
}
