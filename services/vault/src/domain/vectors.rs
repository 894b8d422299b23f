//! The cryptography against what others wrote down and against what others wrote: Fernet's own vectors, Wycheproof's, and Python's
//! `cryptography`, both ways.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use ring::hmac;
use serde_json::{Value, json};
use types::TenantId;
use wycheproof::TestResult;

use super::{
    cipher::{Body, Key, expand, open, seal},
    envelope::Envelope,
    place::{Form, Kind, Place},
};

fn vectors(name: &str) -> Option<Vec<Value>> {
    let path = testkit::data(&format!("fernet/{name}.json"))?;
    Some(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
}

#[test]
fn fernet_opens_and_refuses_what_its_specification_says() {
    let (Some(generate), Some(verify), Some(invalid)) =
        (vectors("generate"), vectors("verify"), vectors("invalid"))
    else {
        return;
    };
    let text = |case: &Value, name: &str| case[name].as_str().unwrap().to_owned();
    let decrypt = |case: &Value| {
        let key = fernet::Fernet::new(&text(case, "secret")).unwrap();
        key.decrypt(&text(case, "token"))
    };
    assert_eq!(generate.len() + verify.len() + invalid.len(), 10);
    for case in generate.iter().chain(&verify) {
        assert_eq!(decrypt(case).unwrap(), text(case, "src").as_bytes());
    }
    // Ours have no lifetime, and these two are of 1985: their time is the only thing that is wrong with them.
    let of_time = ["far-future TS (unacceptable clock skew)", "expired TTL"];
    for case in &invalid {
        let desc = text(case, "desc");
        assert_eq!(decrypt(case).is_ok(), of_time.contains(&desc.as_str()), "{desc}");
    }
}

/// A Fernet token with this IV and ciphertext.
fn token(key: &[u8], iv: &[u8], ciphertext: &[u8], time: u64) -> (String, String) {
    let signing = [9; 16];
    let secret = URL_SAFE.encode([&signing[..], key].concat());
    let mut bytes = vec![0x80];
    bytes.extend_from_slice(&time.to_be_bytes());
    bytes.extend_from_slice(iv);
    bytes.extend_from_slice(ciphertext);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &signing), &bytes);
    bytes.extend_from_slice(tag.as_ref());
    (secret, URL_SAFE.encode(bytes))
}

#[test]
fn a_token_from_the_future_is_refused() {
    let key = [7; 16];
    let plain = fernet::Fernet::new(&URL_SAFE.encode([[9; 16], key].concat())).unwrap();
    let made = URL_SAFE.decode(plain.encrypt(b"x")).unwrap();
    let (iv, ciphertext) = (&made[9..25], &made[25..41]);
    for (time, opens) in [(1_000, true), (u64::MAX / 2, false)] {
        let (secret, token) = token(&key, iv, ciphertext, time);
        let opened = fernet::Fernet::new(&secret).unwrap().decrypt(&token);
        assert_eq!(opened.is_ok(), opens, "{time}");
    }
}

#[test]
fn wycheproof_aes_cbc_through_fernet() {
    let set = wycheproof::cipher::TestSet::load(wycheproof::cipher::TestName::AesCbcPkcs5).unwrap();
    let mut count = 0;
    for group in set.test_groups.iter().filter(|group| group.key_size == 128) {
        for test in &group.tests {
            let (secret, token) = token(&test.key, &test.nonce, &test.ct, 1_000);
            let opened = fernet::Fernet::new(&secret).unwrap().decrypt(&token);
            match test.result {
                TestResult::Valid => assert_eq!(opened.unwrap(), test.pt.to_vec(), "{}", test.tc_id),
                _ => assert!(opened.is_err(), "{}", test.tc_id),
            }
            count += 1;
        }
    }
    assert!(count > 50, "{count}");
}

#[test]
fn wycheproof_aes_256_gcm() {
    let set = wycheproof::aead::TestSet::load(wycheproof::aead::TestName::AesGcm).unwrap();
    let mut count = 0;
    let ours = |group: &&wycheproof::aead::TestGroup| {
        (group.key_size, group.nonce_size, group.tag_size) == (256, 96, 128)
    };
    for group in set.test_groups.iter().filter(ours) {
        for test in &group.tests {
            let key = Key::from_bytes(&test.key).unwrap();
            let sealed = [&test.nonce[..], &test.ct[..], &test.tag[..]].concat();
            let opened = key.open(&test.aad, &sealed);
            match test.result {
                TestResult::Valid => assert_eq!(opened.unwrap().expose()[..], test.pt[..], "{}", test.tc_id),
                _ => assert!(opened.is_err(), "{}", test.tc_id),
            }
            count += 1;
        }
    }
    assert!(count > 50, "{count}");
}

#[test]
fn wycheproof_hkdf_sha_256() {
    let set = wycheproof::hkdf::TestSet::load(wycheproof::hkdf::TestName::HkdfSha256).unwrap();
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let mut out = vec![0; test.size];
        let made = expand(&test.ikm, &test.salt, &test.info, &mut out);
        match test.result {
            TestResult::Invalid => assert!(made.is_err(), "{}", test.tc_id),
            _ => assert_eq!((made, &out[..]), (Ok(()), &test.okm[..]), "{}", test.tc_id),
        }
    }
}

#[test]
fn wycheproof_hmac_sha_256() {
    let set = wycheproof::mac::TestSet::load(wycheproof::mac::TestName::HmacSha256).unwrap();
    let mut count = 0;
    for group in set.test_groups.iter().filter(|group| group.tag_size == 256) {
        for test in &group.tests {
            let key = hmac::Key::new(hmac::HMAC_SHA256, &test.key);
            let holds = hmac::verify(&key, &test.msg, &test.tag).is_ok();
            assert_eq!(holds, test.result == TestResult::Valid, "{}", test.tc_id);
            count += 1;
        }
    }
    assert!(count > 50, "{count}");
}

/// Opens and seals as the vault does, from the words of its documentation and with Python's `cryptography` alone.
const PYTHON: &str = r#"
import base64, json, os, struct, sys
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

def about(form, place):
    parts = [form, place["tenant"], place["kind"], place["record"], place["field"]]
    out = b"".join(struct.pack(">Q", len(p.encode())) + p.encode() for p in parts)
    return out + struct.pack(">q", place["version"])

def key(dek, info):
    return HKDF(hashes.SHA256(), 32, b"trailmesh/vault/record/1", info).derive(dek)

answers = []
for case in json.load(sys.stdin):
    dek, place = base64.b64decode(case["dek"]), case["place"]
    name, version, body = case["envelope"].split(":", 2)
    value = base64.b64decode(case["value"])
    if name == "btv1":
        fernet = Fernet(base64.urlsafe_b64encode(key(dek, about("fernet", place))))
        assert fernet.decrypt(body) == value
        answers.append("btv1:%s:%s" % (version, fernet.encrypt(value).decode()))
    else:
        info = about("aes-256-gcm", place)
        gcm, raw = AESGCM(key(dek, info)), base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
        assert gcm.decrypt(raw[:12], raw[12:], info) == value
        nonce = os.urandom(12)
        made = base64.urlsafe_b64encode(nonce + gcm.encrypt(nonce, value, info)).decode().rstrip("=")
        answers.append("btv2:%s:%s" % (version, made))
json.dump(answers, sys.stdout)
"#;

#[test]
fn python_opens_what_we_seal_and_we_open_what_python_seals() {
    let mut cases = Vec::new();
    let mut expected = Vec::new();
    for number in 0..2_000_usize {
        let key = Key::fresh().unwrap();
        let place = Place {
            tenant: TenantId::fresh(),
            kind: Kind::ALL[number % Kind::ALL.len()],
            record: format!("srv_{number}"),
            field: "value".to_owned(),
            version: i64::try_from(number).unwrap() + 1,
        };
        let form = if number % 2 == 0 {
            Form::Fernet
        } else {
            Form::Aes256Gcm
        };
        let value = Key::fresh().unwrap().expose().repeat(1 + number % 7)[..1 + number % 200 % 32].to_vec();
        let body = seal(&key, &place, form, &value).unwrap();
        let envelope = Envelope { key_version: 3, body };
        cases.push(json!({
            "dek": STANDARD.encode(key.expose()),
            "value": STANDARD.encode(&value),
            "envelope": envelope.to_string(),
            "place": {
                "tenant": place.tenant.to_string(),
                "kind": place.kind.word(),
                "record": place.record,
                "field": place.field,
                "version": place.version,
            },
        }));
        expected.push((key, place, value));
    }
    let mut child = Command::new(testkit::python())
        .args(["-B", "-c", PYTHON])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&serde_json::to_vec(&cases).unwrap()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let answers: Vec<String> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answers.len(), expected.len());
    for (answer, (key, place, value)) in answers.iter().zip(&expected) {
        let envelope: Envelope = answer.parse().unwrap();
        assert_eq!(open(key, place, &envelope.body).unwrap().expose(), value);
        let other = Place {
            version: place.version + 1,
            ..place.clone()
        };
        assert!(open(key, &other, &envelope.body).is_err());
    }
}

/// Each of a thousand ciphertexts in each of their thousand places.
#[test]
fn of_a_million_pairs_of_ciphertext_and_place_only_the_right_ones_open() {
    let keys = [Key::fresh().unwrap(), Key::fresh().unwrap()];
    let tenants = [TenantId::fresh(), TenantId::fresh()];
    let mut sealed = Vec::new();
    for number in 0..1_000_usize {
        let place = Place {
            tenant: tenants[number % 2],
            kind: Kind::ALL[number / 2 % 5],
            record: format!("srv_{}", number / 10 % 10),
            field: format!("f{}", number / 100 % 5),
            version: i64::try_from(number / 500).unwrap() + 1,
        };
        // The cheaper form in full; Fernet's key comes from the same derivation, and its pairs are tried in tests/it/seals.rs.
        let body = seal(&keys[number % 2], &place, Form::Aes256Gcm, b"x").unwrap();
        sealed.push((place, body));
    }
    for (at, (place, _)) in sealed.iter().enumerate() {
        for (of, (_, body)) in sealed.iter().enumerate() {
            // Every pair of one tenant's key; with the other tenant's key every tenth.
            if at % 2 == of % 2 || (of + 1) % 10 == at % 10 {
                let opened = open(&keys[at % 2], place, body).is_ok();
                assert_eq!(opened, at == of, "{of} in the place of {at}");
            }
        }
    }
    assert!(matches!(sealed[0].1, Body::Aes256Gcm(_)));
}
