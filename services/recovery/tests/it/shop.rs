//! A shop whose rows a real server has changed, and the logs that it wrote of that.

use std::path::{Path, PathBuf};

use ingest_agent::{error::Error, index::index, options::Index};
use testkit::{Engine, Schema, Server, eventually};
use types::Code;

/// Values of rows that must never be found where no row belongs.
pub(crate) const CANARY_CARD: &str = "4000-CANARY-CARD-0001";
pub(crate) const CANARY_NOTE: &str = "canary note of the order";

/// What happened in the shop: rows came, then the accident, then later work.
pub(crate) struct Shop {
    pub(crate) server: &'static Server,
    pub(crate) schema: Schema<'static>,
    /// The rows as they were before the accident.
    pub(crate) before: String,
    /// Up to the accident.
    accident: PathBuf,
    /// Later work, one log for each.
    later: Vec<PathBuf>,
}

/// The log after this one.
fn next(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap().to_str().unwrap();
    let (stem, number) = name.rsplit_once('.').unwrap();
    let width = number.len();
    let number: u64 = number.parse::<u64>().unwrap() + 1;
    path.with_file_name(format!("{stem}.{number:0width$}"))
}

impl Shop {
    /// Rows come, an accident spoils them, then each of `later` happens. `{s}` in a statement is the schema.
    pub(crate) fn new(engine: Engine, later: &[&str]) -> Self {
        let server = Server::shared(engine);
        let schema = server.schema("undo");
        let name = schema.name.clone();
        let mut script = format!(
            "USE `{name}`;
             CREATE TABLE orders (id INT PRIMARY KEY, status VARCHAR(20) NOT NULL, note VARCHAR(60), card VARCHAR(40));
             CREATE TABLE mails (address VARCHAR(60) PRIMARY KEY, hits INT NOT NULL);
             INSERT INTO orders VALUES (1, 'paid', '{CANARY_NOTE}', '{CANARY_CARD}'), (2, 'new', NULL, 'none'), (3, 'sent', 'x', 'none'),
                 (4, 'new', 'it''s \\\\ \\n', NULL);
             INSERT INTO mails VALUES ('a@example.com', 1), ('b@example.com', 2);
             {};
             BEGIN;
             UPDATE orders SET status = 'lost' WHERE id <= 2;
             DELETE FROM orders WHERE id = 3;
             UPDATE mails SET hits = 0;
             COMMIT;",
            rows(&name)
        );
        for statement in later {
            script.push_str("FLUSH BINARY LOGS;");
            script.push_str(&statement.replace("{s}", &name));
            script.push(';');
        }
        let (accident, before) = server.record(&script);
        let mut files = vec![accident.clone()];
        for _ in later {
            files.push(next(files.last().unwrap()));
        }
        Self {
            server,
            schema,
            before,
            later: files.split_off(1),
            accident,
        }
    }

    /// All rows, to the byte.
    pub(crate) fn rows(&self) -> String {
        self.server.sql(&format!("{};", rows(&self.schema.name)))
    }

    /// Has a store learn of the accident.
    pub(crate) fn learn(&self, store: &Path) {
        read(&self.accident, store);
    }

    /// Has it learn of the later work number `at`.
    pub(crate) fn learn_later(&self, store: &Path, at: usize) {
        self.learns_later(store, at)();
    }

    /// The same, when it is called.
    pub(crate) fn learns_later(&self, store: &Path, at: usize) -> impl FnOnce() + Send + use<> {
        let (file, store) = (self.later[at].clone(), store.to_owned());
        move || read(&file, &store)
    }

    /// Runs a script with the server's own client, as a person would, and tells what it said if that failed.
    pub(crate) fn apply(&self, script: &[u8]) -> Result<(), String> {
        let output = self.server.run(script, &[]);
        if output.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn rows(schema: &str) -> String {
    format!(
        "SELECT id, HEX(status), HEX(note), HEX(card) FROM `{schema}`.orders ORDER BY id;
         SELECT HEX(address), hits FROM `{schema}`.mails ORDER BY address"
    )
}

fn read(file: &Path, store: &Path) {
    let options = Index {
        files: vec![file.to_owned()],
        store: store.to_owned(),
        schema_from: None,
    };
    // A program that another test starts has the lock of the store too, from its fork up to its exec.
    eventually("the store to be free", || match index(&options, &mut |_| {}) {
        Err(Error::Failed(failure)) if failure.code == Code::Conflict => None,
        outcome => Some(outcome.unwrap()),
    });
}
