//! What travels: the methods, the message, and the one API key.
use std::path::Path;

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};

/// The message as JSON, every field set so that no two dialects differ about fields that are not.
pub(crate) const JSON: &str = r#"{"server":{"id":"srv_01ktx3y8d9e0f1g2h3j4k5m6n7","name":"orders-primary","host":"db1.example.com","port":3306,"mode":"MODE_TLS","rows":"9007199254740993","createTime":"2026-11-21T10:00:00.123456Z","labels":{"team":"payments"},"databases":["orders","billing","inventory"]}}"#;

/// An API key with an owner's role.
pub(crate) const KEY: &str = "bt_live_benchbenchbenchbenchbenchbench0000";

/// The methods of the bench, and what the gateway asks of auth.
pub(crate) fn descriptors() -> Vec<u8> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [here.join("examples/bench_gateway"), here.join("../../proto")];
    let mut compiler = protox::Compiler::new(folders).unwrap();
    compiler.include_imports(true);
    compiler
        .open_files(["bench.proto", "trailmesh/auth/v1/guard_service.proto"])
        .unwrap();
    compiler.encode_file_descriptor_set()
}

/// The message as protobuf, with gRPC's prefix.
pub(crate) fn frame() -> Vec<u8> {
    let pool = DescriptorPool::decode(descriptors().as_slice()).unwrap();
    let descriptor = pool
        .get_message_by_name("trailmesh.bench.v1.PassRequest")
        .unwrap();
    let mut json = serde_json::Deserializer::from_str(JSON);
    let message = DynamicMessage::deserialize(descriptor, &mut json)
        .unwrap()
        .encode_to_vec();
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(&message);
    frame
}
