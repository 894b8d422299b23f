//! A log of a server that has no agent: sent by `trail upload`, by curl and by a client that nobody here wrote, and asked like a server.

use std::{
    fs,
    net::ToSocketAddrs as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};
use testkit::{ChaosProxy, Engine, Foreign, Server};
use tokio::task::block_in_place;

use crate::{
    beside::{register, trail},
    mesh::Mesh,
    person::Person,
};

/// Somebody with a key, and a server that nobody follows.
struct Shop {
    mesh: &'static Mesh,
    owner: Person,
    key: String,
    server: Server,
    /// What the shop held before the accident.
    before: String,
    /// The log in which it stands.
    log: PathBuf,
    _folder: tempfile::TempDir,
}

fn rows(server: &Server) -> String {
    server.sql("SELECT id, status, HEX(note) FROM shop.orders ORDER BY id")
}

impl Shop {
    async fn open(name: &str, scan: usize) -> Self {
        let mesh = Mesh::shared();
        let mut owner = Person::new(mesh, name).await;
        owner.found_tenant("The shop without an agent").await;
        let body = json!({"name": "uploader", "role": "ROLE_OPERATOR"});
        let key = owner.confirmed(Method::POST, "/v1/keys", Some(body)).await.ok();
        let folder = tempfile::tempdir().expect("a folder");
        let server = block_in_place(|| Server::private(Engine::Mariadb, &folder.path().join("server"), &[]));
        let (before, log) = block_in_place(|| {
            server.sql("CREATE DATABASE shop");
            let fill = format!(
                "CREATE TABLE shop.orders (id INT PRIMARY KEY, status VARCHAR(20), note BLOB);
                 CREATE TABLE shop.scans (id INT PRIMARY KEY, scan LONGBLOB);
                 INSERT INTO shop.orders VALUES (1, 'paid', x'00FF'), (2, 'paid', 'note'), (3, 'new', NULL);
                 INSERT INTO shop.scans VALUES (1, REPEAT('x', {scan}));
                 INSERT INTO shop.scans VALUES (2, REPEAT('y', {scan}));"
            );
            server.rotate();
            let (file, _) = server.position();
            server.sql(&fill);
            let before = rows(&server);
            server.sql("START TRANSACTION; UPDATE shop.orders SET status = 'lost' WHERE id < 3; DELETE FROM shop.orders WHERE id = 3; COMMIT");
            server.rotate();
            (before, server.binlog(&file))
        });
        Self {
            mesh,
            owner,
            key: key["secret"].as_str().expect("a key").to_owned(),
            server,
            before,
            log,
            _folder: folder,
        }
    }

    fn log(&self) -> &str {
        self.log.to_str().expect("a path")
    }

    fn file(&self) -> &str {
        self.log
            .file_name()
            .and_then(|file| file.to_str())
            .expect("a name")
    }

    fn trail_at(&self, url: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(trail());
        command
            .args(arguments)
            .env("TRAIL_MESH", url)
            .env("TRAIL_CA", self.mesh.authority())
            .env("TRAIL_API_KEY", &self.key);
        command
    }

    fn trail(&self, arguments: &[&str]) -> Output {
        let mut command = self.trail_at(&self.mesh.url, arguments);
        block_in_place(|| command.output().expect("trail runs"))
    }

    /// What a `trail` that must succeed printed, and said.
    fn done(&self, arguments: &[&str]) -> (String, String) {
        done(&self.trail(arguments))
    }

    /// What one that must fail said, and its exit status.
    fn refused(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.trail(arguments);
        assert!(output.stdout.is_empty(), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().expect("a status"), said)
    }

    /// Undoes the accident as a person would, from what this upload says.
    fn comes_back(&self, upload: &str) {
        let (changes, _) = self.done(&["changes", "shop.orders", "--server", upload, "--format", "json"]);
        let changes: Value = serde_json::from_str(&changes).expect("JSON");
        let changes = changes.as_array().expect("changes");
        assert_eq!(changes.len(), 6, "{upload}");
        assert_eq!(changes[0]["op"], "delete");
        let gtid = changes[0]["gtid"].as_str().expect("a GTID");
        let (script, _) = self.done(&["undo", "--txn", gtid, "--server", upload]);
        assert_ne!(self.before, block_in_place(|| rows(&self.server)));
        let ran = block_in_place(|| self.server.run(script.as_bytes(), &[]));
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        assert_eq!(self.before, block_in_place(|| rows(&self.server)));
    }
}

fn done(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    (text(&output.stdout), said)
}

/// The one upload of a report.
fn only(report: &str) -> Value {
    let report: Value = serde_json::from_str(report).unwrap_or_else(|_| panic!("no JSON: {report}"));
    let uploads = report["uploads"].as_array().expect("uploads");
    assert_eq!(uploads.len(), 1, "{report}");
    uploads[0].clone()
}

/// A mistake in the last of several files is told before the first is sent.
fn refuses_what_is_no_log(shop: &Shop) {
    let note = shop.log.with_file_name("note.000001");
    fs::write(&note, "-- MySQL dump").expect("a file");
    let note = note.to_str().expect("a path");
    let (status, said) = shop.refused(&["upload", shop.log(), note, "--name", "accident"]);
    assert!(
        status == 2 && said.contains("not a binary log") && said.contains("hint: "),
        "{said}"
    );
    let (list, said) = shop.done(&["uploads"]);
    assert!(
        list.is_empty() && said.contains("no log file was uploaded"),
        "{list} {said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_uploaded_and_what_was_lost_comes_back() {
    let mut shop = Shop::open("upload", 100).await;
    let server = register(&mut shop.owner, "orders", &shop.server).await;
    refuses_what_is_no_log(&shop);
    let upload = ["upload", shop.log(), "--name", "accident"];
    let named = [&upload[..], &["--server", "orders"]].concat();
    let (told, said) = shop.done(&named);
    assert!(said.is_empty(), "{said}");
    assert!(told.contains("8 changes in 6 transactions"), "{told}");
    let (report, _) = shop.done(&["uploads", "--format", "json"]);
    let report = only(&report);
    let id = report["id"].as_str().expect("an id");
    assert!(told.contains(&format!("trail changes --server {id}")), "{told}");
    assert_eq!(
        (&report["state"], &report["file"], &report["server"]),
        (&json!("ready"), &json!(shop.file()), &json!(server))
    );
    // The same once more is done already; another file, or the log of another server, does not take its name.
    let (again, said) = shop.done(&[&named[..], &["--format", "json"]].concat());
    assert_eq!(only(&again)["id"], id);
    assert!(said.contains("found there and not compared"), "{said}");
    let (status, said) = shop.refused(&upload);
    assert!(
        status == 1 && said.contains("this one is without --server"),
        "{said}"
    );
    let other = shop.log.with_file_name("other.000001");
    fs::copy(&shop.log, &other).expect("a copy");
    let (status, said) = shop.refused(&["upload", other.to_str().expect("a path"), "--name", "accident"]);
    assert!(
        status == 1 && said.contains(&format!("trail uploads delete {id}")),
        "{said}"
    );
    let (status, said) = shop.refused(&[&upload[..], &["--server", "nobodys"]].concat());
    assert!(status == 1 && said.contains("trail servers"), "{said}");
    shop.comes_back(id);

    // Several at once, each under its own number; and all of them go.
    let next = block_in_place(|| {
        let (next, _) = shop.server.position();
        shop.server.rotate();
        next
    });
    let second = shop.server.binlog(&next);
    let numbers = [shop.file(), &next].map(|file| file.rsplit_once('.').expect("a number").1);
    let names = numbers.map(|number| format!("both-{number}"));
    let second = second.to_str().expect("a path");
    let (both, _) = shop.done(&[
        "upload",
        shop.log(),
        second,
        "--name",
        "both",
        "--format",
        "ndjson",
    ]);
    let both: Value = serde_json::from_str(&both).expect("JSON");
    let both = both["uploads"].as_array().expect("uploads");
    assert_eq!([&both[0]["name"], &both[1]["name"]], [&names[0], &names[1]]);
    let (status, said) = shop.refused(&["uploads", "delete", "accident", "nothing"]);
    assert!(status == 1 && said.contains("nothing was deleted"), "{said}");
    shop.done(&["uploads", "delete", id, &names[1], &names[0], "--format", "json"]);
    let (list, _) = shop.done(&["uploads", "--format", "json"]);
    assert_eq!(
        serde_json::from_str::<Value>(&list).expect("JSON"),
        json!({"uploads": []})
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_cut_off_goes_on_where_it_stopped() {
    let shop = Shop::open("cut", 12 << 20).await;
    let size = fs::metadata(&shop.log).expect("a file").len();
    let (_, address) = shop.mesh.url.split_once("://").expect("a URL");
    let gateway = address
        .to_socket_addrs()
        .expect("an address")
        .find(|at| at.is_ipv4());
    let line = ChaosProxy::start(gateway.expect("an address"));
    line.delay(Duration::from_millis(50));
    let host = address.rsplit_once(':').expect("a port").0;
    let url = format!("https://{host}:{}", line.address().port());
    let told = shop.log.with_file_name("told");
    let mut sending = shop.trail_at(&url, &["upload", shop.log(), "--name", "cut", "--format", "json"]);
    sending.stderr(fs::File::create(&told).expect("a file"));
    let sending = tokio::task::spawn_blocking(move || sending.output().expect("trail runs"));
    let told = || fs::read_to_string(&told).expect("what it said");
    // The line is cut when something is there, and not all of it.
    let deadline = Instant::now() + Duration::from_secs(60);
    let there = loop {
        let uploads = shop.owner.caller.get("/v1/uploads").await.ok();
        let bytes = uploads["uploads"][0]["bytes"]
            .as_str()
            .and_then(|bytes| bytes.parse::<u64>().ok());
        if let Some(bytes) = bytes.filter(|bytes| *bytes > 0) {
            break bytes;
        }
        assert!(Instant::now() < deadline && !sending.is_finished(), "{uploads}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    line.cut();
    assert!(there < size, "it was faster than the cut");
    // The mesh stays away for longer than one try.
    while told().matches("going on after").count() < 2 {
        assert!(Instant::now() < deadline && !sending.is_finished(), "{}", told());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    line.heal();
    let sent = sending.await.expect("no panic");
    assert!(sent.status.success(), "{}", told());
    let upload = only(&String::from_utf8_lossy(&sent.stdout));
    assert_eq!(
        (&upload["state"], &upload["bytes"]),
        (&json!("ready"), &json!(size))
    );
    shop.comes_back(upload["id"].as_str().expect("an id"));

    // What another run left behind is gone on with too.
    let begun = json!({"name": "begun", "file": shop.file(), "size": size});
    let begun = shop.owner.caller.post("/v1/uploads", begun).await.ok();
    let id = begun["upload"]["id"].as_str().expect("an id");
    let head = fs::read(&shop.log).expect("a log")[..5_000_000].to_vec();
    crate::uploaded::send(&shop.owner.caller, id, head).await.ok();
    let (told, said) = shop.done(&["upload", shop.log(), "--name", "begun", "--format", "json"]);
    assert_eq!(only(&told)["id"], id);
    assert!(said.contains("4.8 MiB of") && said.contains("going on"), "{said}");
}

/// A line of README, as a shell runs it.
fn curl(shop: &Shop, arguments: &[&str], path: &str) -> Value {
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--fail-with-body", "--cacert"])
        .arg(shop.mesh.authority())
        .args(["--oauth2-bearer", &shop.key])
        .args(arguments)
        .arg(format!("{}{path}", shop.mesh.url));
    let (text, _) = done(&block_in_place(|| command.output().expect("curl runs")));
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_and_python_send_a_log_as_one_stream() {
    let shop = Shop::open("curl", 2 << 20).await;
    let size = fs::metadata(&shop.log).expect("a file").len();
    let begin = json!({"name": "by-curl", "file": shop.file(), "size": size.to_string()}).to_string();
    let begun = curl(&shop, &["--json", &begin], "/v1/uploads");
    let id = begun["upload"]["id"].as_str().expect("an id");
    let data = format!("/v1/uploads/{id}/data");
    // The first MiB and a half, and then from there on.
    let part = shop.log.with_file_name("part");
    let whole = fs::read(&shop.log).expect("a log");
    fs::write(&part, &whole[..1_500_000]).expect("a file");
    let sent = curl(&shop, &["-T", part.to_str().expect("a path")], &data);
    assert_eq!(sent, json!({"nextOffset": "1500000"}));
    fs::write(&part, &whole[1_500_000..]).expect("a file");
    let binary = format!("@{}", part.display());
    let rest = ["--request", "PUT", "--http1.1", "--data-binary", &binary];
    let sent = curl(&shop, &rest, &format!("{data}?offset=1500000"));
    assert_eq!(sent, json!({"nextOffset": size.to_string()}));
    let done = curl(&shop, &["--json", "{}"], &format!("/v1/uploads/{id}:finish"));
    assert_eq!(
        (&done["upload"]["state"], &done["upload"]["changes"]),
        (&json!("UPLOAD_STATE_READY"), &json!("8")),
        "{done}"
    );

    let task = json!({
        "target": shop.mesh.url.trim_start_matches("https://"),
        "ca": shop.mesh.authority(),
        "protos": [Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto")],
        "key": shop.key,
        "name": "by-python",
        "log": shop.log,
    });
    let text = block_in_place(|| Foreign::Python.run("upload", &task.to_string()));
    let results: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        (
            &results["half"],
            &results["whole"],
            &results["again"]["reason"],
            &results["done"]
        ),
        (
            &json!(true),
            &json!(true),
            &json!("UPLOAD_OFFSET_WRONG"),
            &json!({"state": "UPLOAD_STATE_READY", "changes": 8})
        ),
        "{results:#}"
    );
    shop.comes_back(results["id"].as_str().expect("an id"));
}
