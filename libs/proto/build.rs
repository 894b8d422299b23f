//! Compiles the protos without protoc: Rust for messages, clients and servers, and the descriptor set with all comments and options.

use std::{
    collections::BTreeSet,
    env,
    error::Error,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use prost_reflect::{DescriptorPool, FieldDescriptor};

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo::rerun-if-changed={}", root.display());
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let files = protos(&root.join("trailmesh"))?;
    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(&files)?;
    fs::write(
        out.join("descriptor_set.bin"),
        compiler.encode_file_descriptor_set(),
    )?;

    let secret = messages_with_secrets(&compiler.descriptor_pool());
    let mut rust = tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".")
        .server_attribute(".", "#[allow(missing_docs, clippy::too_many_lines)]")
        .client_attribute(".", "#[allow(missing_docs, clippy::too_many_lines)]");
    for message in &secret {
        rust = rust.skip_debug([format!(".{message}")]);
    }
    rust.compile_fds(compiler.file_descriptor_set())?;
    fs::write(out.join("redacted.rs"), redacted(&secret)?)?;
    Ok(())
}

fn protos(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.append(&mut protos(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Messages with a field marked `debug_redact`, and those that contain one, as `package.Message`.
fn messages_with_secrets(pool: &DescriptorPool) -> BTreeSet<String> {
    let mut secret = BTreeSet::new();
    loop {
        let before = secret.len();
        for message in pool.all_messages() {
            if message.fields().any(|field| is_secret(&field, &secret)) {
                secret.insert(message.full_name().to_owned());
            }
        }
        if secret.len() == before {
            return secret;
        }
    }
}

fn is_secret(field: &FieldDescriptor, known: &BTreeSet<String>) -> bool {
    let marked = field
        .options()
        .get_field_by_name("debug_redact")
        .is_some_and(|value| value.as_bool() == Some(true));
    marked
        || field
            .kind()
            .as_message()
            .is_some_and(|message| known.contains(message.full_name()))
}

/// `Debug` for those messages: the name and nothing else.
fn redacted(messages: &BTreeSet<String>) -> Result<String, Box<dyn Error>> {
    let mut text = String::new();
    for message in messages {
        let parts: Vec<&str> = message.split('.').collect();
        let [_, package, version, name] = parts[..] else {
            return Err(format!("{message} is not trailmesh.<package>.<version>.<Message>").into());
        };
        writeln!(
            text,
            "impl std::fmt::Debug for crate::{package}::{version}::{name} {{\n    \
             fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {{\n        \
             f.write_str(\"{name} {{ *** }}\")\n    }}\n}}"
        )?;
    }
    Ok(text)
}
