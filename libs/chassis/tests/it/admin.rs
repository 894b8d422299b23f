//! The admin port: what probes and scrapers see.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use chassis::{Runtime, Settings};
use opentelemetry::KeyValue;
use tempfile::TempDir;
use types::Region;

use crate::exposition;

/// A service that is bound and not started, with the folder of its identity.
async fn bound(name: &str) -> (Runtime, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let identity = testkit::Authority::new(folder.path()).issue(name);
    let settings = Settings {
        listen: ([127, 0, 0, 1], 0).into(),
        admin_listen: ([127, 0, 0, 1], 0).into(),
        identity_cert_file: Some(identity.cert_file),
        identity_key_file: Some(identity.key_file),
        trust_bundle_file: Some(identity.bundle_file),
        region: Region::Eu,
        ..Settings::default()
    };
    let runtime = Runtime::bind(name, &settings, proto::DESCRIPTOR_SET)
        .await
        .unwrap();
    (runtime, folder)
}

/// Sends `request` as it is and gives everything that comes until the server closes.
async fn exchange(address: SocketAddr, request: impl Into<Vec<u8>>) -> String {
    let request = request.into();
    tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // The server may close before it has read everything.
        let _ = stream.write_all(&request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    })
    .await
    .unwrap()
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let answer = exchange(address, request).await;
    let status = answer[9..12].parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    (status, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_bound_is_alive_and_says_what_it_waits_for() {
    let (runtime, _folder) = bound("auth").await;
    let admin = runtime.admin_address();
    let latch = runtime.hold_ready("database");
    assert_eq!(get(admin, "/livez").await, (200, "alive\n".to_owned()));
    let (status, body) = get(admin, "/readyz").await;
    assert_eq!(status, 503);
    assert!(body.starts_with("not ready: "), "{body}");
    assert!(body.contains("database") && body.contains("start"), "{body}");
    latch.release();
    let (status, body) = get(admin, "/readyz").await;
    assert_eq!(status, 503);
    assert!(!body.contains("database"), "{body}");
    runtime.stop();
    let (_, body) = get(admin, "/readyz").await;
    assert!(body.contains("stopping"), "{body}");
    assert_eq!(get(admin, "/livez").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_begins_with_serving_and_ends_with_the_order_to_stop() {
    let (runtime, _folder) = bound("auth").await;
    let admin = runtime.admin_address();
    let stopping = runtime.stopping();
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    let served = tokio::spawn(runtime.run_until_drained(async move {
        stopping.cancelled().await;
        let _ = gone.await;
        Ok(())
    }));
    let mut answer = get(admin, "/readyz").await;
    while answer.0 != 200 {
        tokio::task::yield_now().await;
        answer = get(admin, "/readyz").await;
    }
    assert_eq!(answer.1, "ready\n");
    go.send(()).unwrap();
    drop(served);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_get_and_head_of_three_pages_are_answered() {
    let (runtime, _folder) = bound("auth").await;
    let admin = runtime.admin_address();
    for path in ["/", "/livez/", "/debug", "/livez%00", "/../metrics", "*"] {
        assert_ne!(get(admin, path).await.0, 200, "{path}");
    }
    assert_eq!(get(admin, "/livez?verbose").await.0, 200);
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
        let request = format!("{method} /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let answer = exchange(admin, request).await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
        assert!(answer.contains("allow: GET, HEAD"), "{answer}");
    }
    let head = exchange(
        admin,
        "HEAD /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert!(
        head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_and_endless_requests_are_cut_off() {
    let (runtime, _folder) = bound("auth").await;
    let admin = runtime.admin_address();
    let huge = format!("GET /livez HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(64 * 1024));
    let many = format!("GET /livez HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(100));
    for request in [
        huge,
        many,
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
    ] {
        let answer = exchange(admin, request).await;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    // More than the server admits at once, none of them ever finished: each is closed after the time a header may take.
    let slow: Vec<_> = (0..80)
        .map(|_| tokio::spawn(exchange(admin, "GET /livez HTTP/1.1\r\nhost:")))
        .collect();
    for slow in slow {
        let answer = slow.await.unwrap();
        assert!(!answer.contains("200 OK"), "{answer}");
    }
    assert_eq!(get(admin, "/livez").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_prometheus_text_with_the_service_as_label() {
    let (runtime, _folder) = bound("auth").await;
    let meter = runtime.meter();
    let nasty = "a\"b\\c\nd,}é";
    meter
        .u64_counter("logins")
        .with_description("Log-ins, \\ and\nmore")
        .build()
        .add(3, &[KeyValue::new("how.it-was", nasty)]);
    let seconds = meter.f64_histogram("hash.time").with_unit("s").build();
    seconds.record(0.003, &[]);
    seconds.record(70.0, &[]);
    meter.i64_up_down_counter("open").build().add(-2, &[]);
    meter.f64_gauge("days_left").build().record(0.5, &[]);

    let (status, page) = get(runtime.admin_address(), "/metrics").await;
    assert_eq!(status, 200);
    let families = exposition::read(&page).unwrap_or_else(|error| panic!("{error}:\n{page}"));
    for family in families.values() {
        for (name, labels, _) in &family.samples {
            assert_eq!(labels["service"], "auth", "{name}");
        }
    }
    let logins = &families["logins_total"];
    assert_eq!(logins.kind, "counter");
    assert_eq!(logins.samples[0].1["how_it_was"], nasty);
    assert_eq!(logins.samples[0].2, 3.0);
    let hash = &families["hash_time_seconds"];
    assert_eq!(hash.kind, "histogram");
    let bucket = |bound: &str| {
        let sample = hash
            .samples
            .iter()
            .find(|(_, labels, _)| labels.get("le").is_some_and(|le| le == bound));
        sample.unwrap_or_else(|| panic!("no bucket {bound}:\n{page}")).2
    };
    assert_eq!(
        (bucket("0.0025"), bucket("0.005"), bucket("30"), bucket("+Inf")),
        (0.0, 1.0, 1.0, 2.0)
    );
    assert_eq!(families["open"].samples[0].2, -2.0);
    assert_eq!(families["days_left"].samples[0].2, 0.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn services_of_one_process_have_metrics_of_their_own() {
    let (auth, _auth_folder) = bound("auth").await;
    let (tenant, _tenant_folder) = bound("tenant").await;
    auth.meter().u64_counter("only.auth").build().add(1, &[]);
    tenant.meter().u64_counter("only.tenant").build().add(1, &[]);
    let (_, auth_page) = get(auth.admin_address(), "/metrics").await;
    let (_, tenant_page) = get(tenant.admin_address(), "/metrics").await;
    assert!(
        auth_page.contains("only_auth_total{service=\"auth\"} 1"),
        "{auth_page}"
    );
    assert!(!auth_page.contains("only_tenant"), "{auth_page}");
    assert!(
        tenant_page.contains("only_tenant_total{service=\"tenant\"} 1"),
        "{tenant_page}"
    );
}
