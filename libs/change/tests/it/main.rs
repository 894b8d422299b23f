//! What goes through the mesh is what the log said: values both ways, and the JSON of a message to the byte.

// The decoder's own tests have a workload with every type, and a way to read it.
#[allow(dead_code, reason = "the decoder's tests look at more")]
#[path = "../../../binlog/tests/it/collect.rs"]
mod collect;
mod random;
mod real;
mod values;
#[path = "../../../binlog/tests/it/workload.rs"]
mod workload;

use binlog::Change;

/// The JSON of a change, and of its message.
fn both(change: &Change) -> (Result<String, String>, Result<String, String>) {
    let mut stored = String::new();
    let at_home = change
        .write_json(&mut stored)
        .map_err(|problem| problem.to_string());
    let sent = change::message(change).map(|message| {
        let mut out = String::new();
        // Over the wire and back.
        let bytes = prost::Message::encode_to_vec(&message);
        let mut encoder = change::Encoder::default();
        assert_eq!(
            encoder.encode(change).ok(),
            Some(&bytes[..]),
            "one encoding, two ways"
        );
        let message = prost::Message::decode(&bytes[..]).expect("a message");
        change::write_change(&message, &mut out);
        out
    });
    (
        at_home.map(|()| stored),
        sent.map_err(|problem| problem.to_string()),
    )
}
