//! The descriptor set of `echo.proto` with everything it imports, compiled when it is asked for.

use std::path::Path;

/// An encoded `google.protobuf.FileDescriptorSet`.
pub(crate) fn descriptor_set() -> Vec<u8> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut compiler = protox::Compiler::new([here.join("tests/protos"), here.join("../../proto")]).unwrap();
    compiler.include_imports(true).include_source_info(true);
    compiler.open_file("echo.proto").unwrap();
    compiler.encode_file_descriptor_set()
}
