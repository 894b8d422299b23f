//! The native export: what is written is read back, and a file that was cut is not taken for a whole one.

use audit::{
    Finding, HeadError, Keys, SignedHead,
    native::{Error, Header, Proof, Reader},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use crate::made::{TENANT, chain};

fn sign(tenant: &str, size: i64, hash: &str) -> (SignedHead, Keys) {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[3; 32]).unwrap();
    let statement = format!(
        r#"{{"type":"audit-head","tenant":"{tenant}","region":"eu","size":{size},"hash":"{hash}","time":"2026-11-22T00:00:00Z","previous":null}}"#
    );
    let signature = URL_SAFE_NO_PAD.encode(pair.sign(statement.as_bytes()).as_ref());
    let head = SignedHead {
        statement,
        signature,
        key_id: "sig_1".to_owned(),
    };
    let public = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
    let keys = format!(
        r#"{{"keys":[{{"keyId":"sig_1","ed25519":"{public}","createTime":"2026-01-01T00:00:00Z"}}]}}"#
    );
    (head, Keys::read(&keys).unwrap())
}

fn lines(size: i64, head: Option<SignedHead>) -> Vec<String> {
    let mut lines = vec![Header::new(TENANT.to_owned(), head).line().unwrap()];
    lines.extend(chain(size).iter().map(|link| link.line().unwrap()));
    lines
}

fn read(lines: &[String], keys: Option<&Keys>) -> (Option<Finding>, Proof) {
    let mut reader = Reader::new(&lines[0], keys, &[]).unwrap();
    for line in &lines[1..] {
        reader.push_line(line, true);
    }
    let (report, proof) = reader.finish();
    (report.finding, proof)
}

#[test]
fn an_export_is_read_back_and_its_end_is_proven() {
    let (head, keys) = sign(TENANT, 5, &chain(5)[4].hash.to_string());
    let lines = lines(5, Some(head));
    assert_eq!(read(&lines, Some(&keys)), (None, Proof::Signed));
    assert_eq!(read(&lines, None), (None, Proof::Unchecked));
    assert!(lines.iter().all(|line| !line.contains('\n')));
}

#[test]
fn an_export_without_a_head_proves_no_end() {
    assert_eq!(read(&lines(5, None), None), (None, Proof::Missing));
}

#[test]
fn a_file_that_ends_early_is_cut_off() {
    let (head, keys) = sign(TENANT, 5, &chain(5)[4].hash.to_string());
    let whole = lines(5, Some(head));
    for count in 1..whole.len() {
        let first = count as i64;
        assert_eq!(
            read(&whole[..count], Some(&keys)).0,
            Some(Finding::CutOff { first })
        );
    }
    let mut reader = Reader::new(&lines(5, None)[0], None, &[]).unwrap();
    reader.push_line(&whole[1], true);
    reader.push_line(&whole[2][..20], false);
    assert_eq!(reader.finish().0.finding, Some(Finding::CutOff { first: 2 }));
}

#[test]
fn a_line_that_is_no_record_is_named() {
    let mut bad = lines(5, None);
    bad[3] = "{}".to_owned();
    assert_eq!(read(&bad, None).0, Some(Finding::Changed { sequence: 3 }));
}

#[test]
fn a_false_head_is_refused() {
    let (head, keys) = sign(TENANT, 5, &chain(5)[4].hash.to_string());
    let refused = |head: SignedHead, keys: &Keys| {
        let line = Header::new(TENANT.to_owned(), Some(head)).line().unwrap();
        Reader::new(&line, Some(keys), &[]).err()
    };
    let mut longer = head.clone();
    longer.statement = longer.statement.replace("\"size\":5", "\"size\":4");
    assert_eq!(refused(longer, &keys), Some(Error::Head(HeadError::Signature)));
    let mut named = head.clone();
    named.key_id = "sig_2".to_owned();
    assert_eq!(
        refused(named, &keys),
        Some(Error::Head(HeadError::UnknownKey("sig_2".to_owned())))
    );
    let (other, keys) = sign("tnt_other", 5, &chain(5)[4].hash.to_string());
    assert_eq!(
        refused(other, &keys),
        Some(Error::HeadOfAnother("tnt_other".to_owned()))
    );
    // What the same key signed for another purpose is no head.
    let mut certificate = head;
    certificate.statement = certificate.statement.replace("audit-head", "keys-destroyed");
    assert_eq!(certificate.read(), Err(HeadError::Statement));
}

#[test]
fn what_is_no_export_is_not_judged() {
    for first in [
        "",
        "{}",
        "[]",
        "\u{0}",
        r#"{"format":"trailmesh-audit-v9","tenant":"t"}"#,
    ] {
        assert_eq!(
            Reader::new(first, None, &[]).err(),
            Some(Error::NoExport),
            "{first:?}"
        );
    }
    assert_eq!(Keys::read("{}"), None);
    assert_eq!(Keys::read(r#"{"keys":[{"key_id":"a","ed25519":"AAAA"}]}"#), None);
}
