//! Logs of real servers, and what a store of each says beside the database: the answers that an upload must give too.

use std::{
    fs,
    path::{Path, PathBuf},
};

use ingest_agent::{index::index, options::Index};
use proto::change::v1 as pb;
use testkit::{Engine, Server};
use tokio::task::block_in_place;
use trail::{Filter, Reader};

/// A value that nothing but a log may show.
pub(crate) const CANARY: &str = "canary-7f3a9c51e0";

/// A log and its name.
pub(crate) struct Log {
    pub(crate) file: String,
    pub(crate) bytes: Vec<u8>,
    /// The schema that is written to.
    pub(crate) schema: String,
}

impl Log {
    /// What a shop does, with `more` at the end. `{s}` in it is the schema.
    pub(crate) fn record(engine: Engine, more: &str) -> Self {
        block_in_place(|| {
            let server = Server::shared(engine);
            let schema = server.schema("upload");
            let rows: Vec<String> = (0..200)
                .map(|id| format!("({id}, 'new', '{CANARY}-{id}')"))
                .collect();
            let script = format!(
                "CREATE TABLE {{s}}.orders (id INT PRIMARY KEY, status VARCHAR(20), note VARCHAR(100));
                 CREATE TABLE {{s}}.secrets (id INT PRIMARY KEY, pin VARCHAR(20));
                 INSERT INTO {{s}}.orders VALUES {};
                 INSERT INTO {{s}}.secrets VALUES (1, '1234');
                 UPDATE {{s}}.orders SET status = 'paid' WHERE id < 20;
                 ALTER TABLE {{s}}.orders ADD COLUMN amount DECIMAL(9,2) DEFAULT 1.5;
                 START TRANSACTION; UPDATE {{s}}.orders SET status = 'lost', amount = 2.25 WHERE id = 7;
                 DELETE FROM {{s}}.orders WHERE id = 8; COMMIT; {more}",
                rows.join(",")
            );
            let name = format!("`{}`", schema.name);
            let (path, _) = server.record(&script.replace("{s}", &name));
            let file = path.file_name().unwrap().to_str().unwrap().to_owned();
            Self {
                file,
                bytes: fs::read(path).unwrap(),
                schema: schema.name.clone(),
            }
        })
    }

    /// As something that can be uploaded.
    pub(crate) fn named(&self) -> (&str, &[u8]) {
        (&self.file, &self.bytes)
    }

    /// A store beside the database, made of the first `length` bytes of the file.
    pub(crate) fn store(&self, folder: &Path, length: usize) -> PathBuf {
        let (path, store) = (folder.join(&self.file), folder.join("store"));
        fs::write(&path, &self.bytes[..length]).unwrap();
        let wanted = Index {
            files: vec![path],
            store: store.clone(),
            schema_from: None,
        };
        // What stands before damage is in the store all the same.
        let _ = index(&wanted, &mut |_| {});
        store
    }

    /// All its changes, the oldest first, as `trail changes --format ndjson` writes them.
    pub(crate) fn rows(&self, length: usize) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let reader = Reader::open(&self.store(folder.path(), length)).unwrap();
        let changes = reader.find(&Filter::default()).unwrap();
        changes
            .map(|found| json(&change::message(&found.unwrap()).unwrap()))
            .collect()
    }
}

/// One change as a line of JSON.
pub(crate) fn json(change: &pb::Change) -> String {
    let mut line = String::new();
    change::write_change(change, &mut line);
    line
}
