//! Clients that nobody here wrote stream through the gateway: Python's grpcio and Node's grpc-js (integration-tests/clients).
use std::{sync::atomic::Ordering, time::Duration};

use serde_json::{Value, json};
use testkit::Foreign;

use crate::house::House;

/// Takes `name` out of the results and compares it with `wanted`, which leaves out what it does not care for.
#[track_caller]
fn expect(results: &Value, name: &str, wanted: &Value) {
    for (key, value) in wanted.as_object().expect("an object") {
        assert_eq!(&results[name][key], value, "{name}.{key} of {results:#}");
    }
}

async fn streams(who: Foreign) {
    let house = House::start().await;
    let here = env!("CARGO_MANIFEST_DIR");
    let task = json!({
        "target": format!("localhost:{}", house.address.port()),
        "ca": house.bundle(),
        "protos": [format!("{here}/tests/protos"), format!("{here}/../../proto")],
    });
    let text = tokio::task::spawn_blocking(move || who.run("streams", &task.to_string()))
        .await
        .expect("a script that ends");
    let results: Value = serde_json::from_str(&text).expect("JSON");

    expect(
        &results,
        "thousand",
        &json!({"code": "OK", "messages": 1000, "in_order": true}),
    );
    expect(
        &results,
        "cancel",
        &json!({"code": "CANCELLED", "messages": 5, "in_order": true}),
    );
    let reason = json!({"reason": "ASKED_TO_FAIL", "domain": "trailmesh"});
    expect(
        &results,
        "late error",
        &json!({"code": "FAILED_PRECONDITION", "messages": 3, "in_order": true}),
    );
    expect(
        &results,
        "early error",
        &json!({"code": "NOT_FOUND", "messages": 0}),
    );
    for name in ["late error", "early error"] {
        expect(&results, name, &reason);
    }
    expect(
        &results,
        "deadline",
        &json!({"code": "DEADLINE_EXCEEDED", "in_order": true}),
    );
    assert!(results["deadline"]["messages"].as_u64() > Some(0), "{results:#}");
    expect(&results, "unary deadline", &json!({"code": "DEADLINE_EXCEEDED"}));
    for name in ["deadline", "unary deadline"] {
        assert!(results[name]["seconds"].as_f64() < Some(5.0), "{results:#}");
    }
    expect(
        &results,
        "pings",
        &json!({"code": "OK", "messages": 4, "in_order": true}),
    );
    expect(&results, "chat", &json!({"code": "OK", "same": true}));
    let name = format!("from {who:?}");
    expect(
        &results,
        "upload",
        &json!({"code": "OK", "name": name, "bytes": 3_000_000, "chunks": 100}),
    );
    assert_eq!(results["many"], json!(["('OK', 100)"]), "{results:#}");

    // What was cancelled or came too late has ended at the service too, which would else count on for a quarter of an hour.
    let (begun, ended) = (&house.echo.begun, &house.echo.ended);
    assert_eq!(begun.load(Ordering::SeqCst), 3, "the slow streams");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while ended.load(Ordering::SeqCst) < 3 {
        assert!(tokio::time::Instant::now() < deadline, "the service counts on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn python_streams_through_the_gateway() {
    streams(Foreign::Python).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_streams_through_the_gateway() {
    streams(Foreign::Node).await;
}
