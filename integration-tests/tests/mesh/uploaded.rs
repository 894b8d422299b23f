//! A log that somebody uploads.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::json;

use crate::mesh::{Answer, Caller};

/// Begins an upload, and gives its id: `upl_…`
pub(crate) async fn begin(caller: &Caller, name: &str, file: &str) -> String {
    let begun = caller
        .post("/v1/uploads", json!({"name": name, "file": file}))
        .await
        .ok();
    begun["upload"]["id"].as_str().expect("an id").to_owned()
}

/// Sends the bytes of a file from its beginning on.
pub(crate) async fn send(caller: &Caller, id: &str, bytes: Vec<u8>) -> Answer {
    let mut request = caller
        .client
        .put(format!("{}/v1/uploads/{id}/data", caller.url))
        .bearer_auth(&caller.credential)
        .header("content-type", "application/octet-stream")
        .body(bytes);
    if !caller.tenant.is_empty() {
        request = request.header("x-trailmesh-tenant", &caller.tenant);
    }
    Answer::of(request).await
}

/// Uploads a file, and waits until it can be asked.
pub(crate) async fn upload(caller: &Caller, name: &str, file: &str, bytes: Vec<u8>) -> String {
    let id = begin(caller, name, file).await;
    send(caller, &id, bytes).await.ok();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let path = format!("/v1/uploads/{id}:finish");
        let finished = caller.post(&path, json!({})).await;
        if finished.json["upload"]["state"] == "UPLOAD_STATE_READY" {
            return id;
        }
        // It may be asked again: it is being read, or a busy machine's database took too long.
        let waits = finished.status.is_success() || finished.status == StatusCode::SERVICE_UNAVAILABLE;
        assert!(waits && Instant::now() < deadline, "{}", finished.text);
    }
}
