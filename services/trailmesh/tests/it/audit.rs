//! `trailmesh audit verify` on files, as an auditor has them.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use audit::{Link, SignedHead, genesis, link, native::Header};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

use crate::{text, trailmesh};

const TENANT: &str = "tnt_01hzy3v6k8m2n4p6q8r0s2t4v6";

/// Files of one installation.
struct Files {
    folder: tempfile::TempDir,
    chain: Vec<Link>,
}

fn pair() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[5; 32]).expect("a key")
}

impl Files {
    fn new(records: i64) -> Self {
        let mut chain: Vec<Link> = Vec::new();
        for sequence in 1..=records {
            let prev = chain.last().map_or_else(|| genesis(TENANT), |last| last.hash);
            let body =
                json!({"part": "event", "id": format!("aud_{sequence}"), "time": sequence}).to_string();
            let hash = link(sequence, prev, &body);
            chain.push(Link {
                sequence,
                prev,
                hash,
                body,
            });
        }
        let files = Self {
            folder: tempfile::tempdir().expect("a folder"),
            chain,
        };
        let public = URL_SAFE_NO_PAD.encode(pair().public_key().as_ref());
        files.write(
            "keys.json",
            &json!({"keys": [{"keyId": "sig_1", "ed25519": public, "createTime": "2026-11-22T00:00:00Z"}]})
                .to_string(),
        );
        files
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).expect("a file");
        path
    }

    fn head(&self, size: usize) -> SignedHead {
        let hash = self.chain[size - 1].hash;
        let statement =
            json!({"type": "audit-head", "tenant": TENANT, "size": size, "hash": hash.to_string(), "time": "2026-11-22T00:00:00Z"}).to_string();
        SignedHead {
            signature: URL_SAFE_NO_PAD.encode(pair().sign(statement.as_bytes()).as_ref()),
            key_id: "sig_1".to_owned(),
            statement,
        }
    }

    /// The export with a head over so many records, and as curl leaves it: with an empty line at the end.
    fn export(&self, head: Option<usize>) -> Vec<String> {
        let header = Header::new(TENANT.to_owned(), head.map(|size| self.head(size)));
        let mut lines = vec![header.line().expect("a line")];
        lines.extend(self.chain.iter().map(|link| link.line().expect("a line")));
        lines.push(String::new());
        lines
    }

    fn verify(&self, lines: &[String], more: &[&str]) -> Output {
        let file = self.write("audit.ndjson", &(lines.join("\n") + "\n"));
        let keys = self.folder.path().join("keys.json");
        let mut arguments = vec!["audit", "verify", "--keys", path(&keys), path(&file)];
        arguments.extend(more);
        trailmesh(&arguments)
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path")
}

fn said(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn a_whole_log_is_whole() {
    let files = Files::new(20);
    let (code, words) = said(&files.verify(&files.export(Some(20)), &[]));
    assert_eq!(code, Some(0), "{words}");
    assert!(words.contains("whole: 20 records, 1 to 20") && words.contains("covers the records up to 20"));
    let json = files.verify(&files.export(Some(20)), &["--format", "json"]);
    let json: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(
        (
            &json["verdict"],
            &json["covered"],
            &json["unsigned"],
            &json["signature"],
            &json["finding"]
        ),
        (
            &json!("whole"),
            &json!(20),
            &Value::Null,
            &json!("checked"),
            &Value::Null
        )
    );
}

#[test]
fn records_behind_the_last_signature_are_not_called_whole() {
    let files = Files::new(20);
    for (signed, first) in [(18, 19), (19, 20), (1, 2)] {
        let lines = files.export(Some(signed));
        let (code, words) = said(&files.verify(&lines, &[]));
        assert_eq!(code, Some(3), "{words}");
        let expected = format!("unproven: whole up to {signed}; {first} to 20 have no signature yet");
        assert!(words.contains(&expected), "{words}");
        let json = files.verify(&lines, &["--format", "json"]);
        assert_eq!(json.status.code(), Some(3));
        let json: Value = serde_json::from_slice(&json.stdout).expect("JSON");
        assert_eq!(
            (&json["verdict"], &json["covered"], &json["unsigned"]),
            (
                &json!("unproven"),
                &json!(signed),
                &json!({"first": first, "last": 20})
            )
        );
    }
}

/// Who has one head that is genuine and old makes a log that no signature covers: it holds in itself, and a record of it says that what is
/// missing before it was removed by retention.
#[test]
fn an_old_head_before_records_that_somebody_made_proves_nothing() {
    let mut files = Files::new(14);
    let head = files.head(14);
    files.chain.clear();
    let (gone, now, day) = (genesis("invented"), 1_790_000_000_000_000_i64, 86_400_000_000_i64);
    let mut prev = gone;
    for sequence in 101..=110 {
        let body = if sequence == 105 {
            json!({"part": "trim", "id": "trim_100", "time": now, "through": 100, "hash": gone.to_string(), "days": 90, "before": now - 90 * day})
        } else {
            json!({"part": "event", "id": format!("aud_{sequence}"), "time": now})
        };
        let body = body.to_string();
        let hash = link(sequence, prev, &body);
        files.chain.push(Link {
            sequence,
            prev,
            hash,
            body,
        });
        prev = hash;
    }
    let mut forged = files.export(None);
    forged[0] = Header::new(TENANT.to_owned(), Some(head.clone()))
        .line()
        .expect("a line");
    let apart = files.write("head.json", &serde_json::to_string(&head).expect("JSON"));
    for (lines, more) in [
        (forged, vec![]),
        (files.export(None), vec!["--head", path(&apart)]),
    ] {
        let (code, words) = said(&files.verify(&lines, &more));
        assert_eq!(code, Some(3), "{words}");
        assert!(!words.contains("whole"), "{words}");
        assert!(
            words.contains("no signature covers any of them") && words.contains("proves nothing now"),
            "{words}"
        );
        let json = files.verify(&lines, &[&more[..], &["--format", "json"]].concat());
        let json: Value = serde_json::from_slice(&json.stdout).expect("JSON");
        assert_eq!(
            (&json["verdict"], &json["signature"], &json["unsigned"]),
            (
                &json!("unproven"),
                &json!("missing"),
                &json!({"first": 101, "last": 110})
            )
        );
    }
}

#[test]
fn what_was_touched_is_named_and_the_exit_code_is_1() {
    let files = Files::new(20);
    let good = files.export(Some(20));
    let mut flipped = good.clone();
    flipped[7] = flipped[7].replace("aud_7", "aud_8");
    let mut removed = good.clone();
    removed.remove(5);
    let mut inserted = good.clone();
    inserted.insert(9, good[8].clone());
    let mut reordered = good.clone();
    reordered.swap(3, 12);
    let cut = good[..16].to_vec();
    let front = [&good[..1], &good[4..]].concat();
    let mut garbage = good;
    garbage[11] = "\u{1b}[2Jnonsense".repeat(20_000);
    for (lines, sequence, what) in [
        (flipped, 7, "changed"),
        (removed, 5, "removed"),
        (inserted, 8, "inserted"),
        (reordered, 3, "moved"),
        (cut, 16, "cut_off"),
        (front, 1, "removed"),
        (garbage, 11, "changed"),
    ] {
        let (code, words) = said(&files.verify(&lines, &[]));
        assert_eq!(code, Some(1), "{words}");
        assert!(
            words.contains("TOUCHED") && words.contains(&format!("(sequence {sequence})")),
            "{words}"
        );
        let json = files.verify(&lines, &["--format", "json"]);
        let json: Value = serde_json::from_slice(&json.stdout).expect("JSON");
        assert_eq!(
            (&json["finding"]["what"], &json["finding"]["sequence"]),
            (&json!(what), &json!(sequence))
        );
    }
}

#[test]
fn a_head_that_was_kept_apart_sees_what_the_file_hides() {
    let files = Files::new(20);
    let later = serde_json::to_string(&files.head(20)).expect("JSON");
    let later = files.write("head.json", &later);
    // The file's own head was put back to an earlier one.
    let mut cut = files.export(Some(15));
    cut.drain(16..);
    assert_eq!(said(&files.verify(&cut, &[])).0, Some(0));
    let (code, words) = said(&files.verify(&cut, &["--head", path(&later)]));
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("(sequence 16)"), "{words}");
}

#[test]
fn what_proves_nothing_is_not_called_whole() {
    let files = Files::new(5);
    let (code, words) = said(&files.verify(&files.export(None), &[]));
    assert_eq!(code, Some(3), "{words}");
    assert!(words.contains("unproven") && words.contains("no signed head"));
    // A signature that nobody checked is one that anybody can have made.
    let file = files.write("audit.ndjson", &(files.export(Some(5)).join("\n") + "\n"));
    let (code, words) = said(&trailmesh(&["audit", "verify", path(&file)]));
    assert_eq!(code, Some(3));
    assert!(
        words.contains("NOT checked") && !words.contains("whole"),
        "{words}"
    );
    // No records, of which no head says that there were any.
    let (code, words) = said(&files.verify(&files.export(None)[..1], &[]));
    assert_eq!(code, Some(3));
    assert!(words.contains("unproven: no records"), "{words}");
    // A false one, and one by a key that nobody knows.
    let mut forged = files.head(5);
    forged.statement = forged.statement.replace("2026", "2027");
    let mut lines = files.export(Some(5));
    lines[0] = Header::new(TENANT.to_owned(), Some(forged))
        .line()
        .expect("a line");
    assert_eq!(said(&files.verify(&lines, &[])).0, Some(1));
    let mut unknown = files.head(5);
    unknown.key_id = "sig_9".to_owned();
    lines[0] = Header::new(TENANT.to_owned(), Some(unknown))
        .line()
        .expect("a line");
    assert_eq!(said(&files.verify(&lines, &[])).0, Some(3));
}

#[test]
fn what_cannot_be_judged_has_its_own_exit_codes() {
    let files = Files::new(3);
    assert_eq!(said(&files.verify(&["nonsense".to_owned()], &[])).0, Some(65));
    assert_eq!(
        said(&trailmesh(&["audit", "verify", "/no/such/file"])).0,
        Some(66)
    );
    assert_eq!(said(&trailmesh(&["audit", "verify"])).0, Some(65));
    let bad = files.write("bad.json", "{}");
    assert_eq!(
        said(&files.verify(&files.export(Some(3)), &["--head", path(&bad)])).0,
        Some(65)
    );
    assert_eq!(
        said(&trailmesh(&["audit", "verify", "--tenant", TENANT])).0,
        Some(2)
    );
}

#[test]
fn an_export_is_read_from_standard_input() {
    let files = Files::new(3);
    let keys = files.folder.path().join("keys.json");
    let mut child = Command::new(env!("CARGO_BIN_EXE_trailmesh"))
        .args(["audit", "verify", "--keys", path(&keys), "-"])
        .env_clear()
        // As in the shell of whoever runs the service: it asks for nothing of a file.
        .env("TRAILMESH_DATABASE_URL", "postgres://nowhere/x")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("trailmesh runs");
    let mut input = child.stdin.take().expect("its input");
    input
        .write_all(files.export(Some(3)).join("\n").as_bytes())
        .expect("it reads");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(said(&output).0, Some(0), "{}", said(&output).1);
}
