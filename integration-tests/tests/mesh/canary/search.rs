//! Finding secrets again, however they are written.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};

/// The shortest text that is searched for; a shorter one would be found by chance.
const SHORTEST: usize = 6;

/// A secret written in one way.
struct Needle {
    bytes: Vec<u8>,
    name: String,
    form: &'static str,
}

/// Secrets by what they are.
#[derive(Default)]
pub(crate) struct Secrets {
    needles: HashMap<[u8; SHORTEST], Vec<Needle>>,
    pub(crate) names: Vec<String>,
}

impl Secrets {
    /// Searches for `value`, and for the part of it that no way of writing changes.
    pub(crate) fn add(&mut self, name: &str, value: &str) {
        self.names.push(name.to_owned());
        self.add_forms(name, value.as_bytes());
        let plain = value.split(|c: char| !c.is_ascii_alphanumeric());
        let core = plain.max_by_key(|part| part.len()).unwrap_or_default();
        if core.len() >= 16 && core != value {
            self.add_forms(name, core.as_bytes());
        }
    }

    /// Searches for six digits where they stand for a code: alone they are found in any counter.
    pub(crate) fn add_code(&mut self, name: &str, code: &str) {
        self.names.push(name.to_owned());
        for (form, before, after) in [
            ("quoted", "\"", "\""),
            ("quoted twice", "\\\"", "\\\""),
            ("in apostrophes", "'", "'"),
            ("a field", "\u{6}", ""),
            ("a field, escaped", "\\x06", ""),
            ("a field, escaped", "\\u{6}", ""),
            ("named", "code=", ""),
            ("named", "code: ", ""),
        ] {
            self.needle(name, form, format!("{before}{code}{after}").into_bytes());
        }
        self.needle(name, "base64", STANDARD_NO_PAD.encode(code).into_bytes());
        self.needle(name, "hex", hex(code.as_bytes()).into_bytes());
        self.needle(name, "bytes", decimal(code.as_bytes()).into_bytes());
    }

    /// Searches for bytes.
    pub(crate) fn add_bytes(&mut self, name: &str, value: &[u8]) {
        self.names.push(name.to_owned());
        self.add_forms(name, value);
    }

    fn add_forms(&mut self, name: &str, value: &[u8]) {
        assert!(value.len() > SHORTEST, "{name} is too short to be searched for");
        self.needle(name, "raw", value.to_vec());
        self.needle(name, "hex", hex(value).into_bytes());
        self.needle(name, "hex", hex(value).to_uppercase().into_bytes());
        self.needle(name, "bytes", decimal(value).into_bytes());
        self.needle(name, "url-encoded", url_encoded(value).into_bytes());
        if let Ok(text) = str::from_utf8(value) {
            for (form, written) in [
                ("JSON", serde_json::to_string(text).expect("JSON")),
                ("debug", format!("{text:?}")),
            ] {
                self.needle(name, form, written.as_bytes()[1..written.len() - 1].to_vec());
            }
            self.needle(name, "lower case", text.to_lowercase().into_bytes());
        }
        // Inside a longer text, base64 of a text depends on where it begins; its ends depend on its neighbours.
        for before in 0..3 {
            let text = [&[0; 2][..before.min(2)], value].concat();
            for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
                let written = engine.encode(&text);
                let inner = written.len().saturating_sub(4);
                let from = if before == 0 { 0 } else { 4 };
                if inner > from {
                    self.needle(name, "base64", written.as_bytes()[from..inner].to_vec());
                }
            }
        }
    }

    fn needle(&mut self, name: &str, form: &'static str, bytes: Vec<u8>) {
        if let Some(key) = bytes.first_chunk() {
            let same = self.needles.entry(*key).or_default();
            if !same.iter().any(|known| known.bytes == bytes) {
                let name = name.to_owned();
                same.push(Needle { bytes, name, form });
            }
        }
    }

    /// What is found in `place`, with some of what stands around it.
    pub(crate) fn find(&self, place: &[u8]) -> Vec<String> {
        let mut found = BTreeMap::new();
        self.each(place, |at, needle| {
            found.entry((&needle.name, needle.form)).or_insert_with(|| {
                let around = &place[at.saturating_sub(300)..(at + needle.bytes.len() + 100).min(place.len())];
                String::from_utf8_lossy(around).into_owned()
            });
        });
        let found = found.into_iter();
        found
            .map(|((name, form), around)| format!("{name} ({form}): …{around}…"))
            .collect()
    }

    /// The names of those that are found in `place`.
    pub(crate) fn names_in(&self, place: &[u8]) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        self.each(place, |_, needle| {
            found.insert(needle.name.as_str());
        });
        found
    }

    /// Every place where one is.
    fn each<'n>(&'n self, place: &[u8], mut found: impl FnMut(usize, &'n Needle)) {
        let mut first = vec![false; 1 << 16];
        for key in self.needles.keys() {
            first[usize::from(key[0]) << 8 | usize::from(key[1])] = true;
        }
        let mut at = 0;
        while at + SHORTEST <= place.len() {
            if first[usize::from(place[at]) << 8 | usize::from(place[at + 1])]
                && let Some(same) = place[at..].first_chunk().and_then(|key| self.needles.get(key))
            {
                for needle in same
                    .iter()
                    .filter(|needle| place[at..].starts_with(&needle.bytes))
                {
                    found(at, needle);
                }
            }
            at += 1;
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// As `{:?}` writes bytes.
fn decimal(bytes: &[u8]) -> String {
    let text = format!("{bytes:?}");
    text[1..text.len() - 1].to_owned()
}

fn url_encoded(bytes: &[u8]) -> String {
    url::form_urlencoded::byte_serialize(bytes).collect()
}

#[test]
fn a_planted_secret_is_found_however_it_is_written() {
    let secret = "pass\"wörd\\ with 1b7e0f5a9c3d4e6f8a2b";
    let mut secrets = Secrets::default();
    secrets.add("planted", secret);
    secrets.add_code("code", "483920");
    let json = serde_json::json!({"a": {"password": secret}}).to_string();
    let twice = serde_json::to_string(&json).expect("JSON");
    for place in [
        format!("password={secret} and more"),
        json,
        twice,
        format!("{:?}", secret.as_bytes()),
        format!("\\x{}", hex(secret.as_bytes())),
        hex(secret.as_bytes()).to_uppercase(),
        format!("/login?password={}&x", url_encoded(secret.as_bytes())),
        format!("Basic {}", STANDARD_NO_PAD.encode(format!("me:{secret}"))),
        STANDARD_NO_PAD.encode(format!("me@{secret}!")),
        URL_SAFE_NO_PAD.encode(format!("x{secret}")),
        secret.to_lowercase(),
        "x-mfa-code: \"483920\"".to_owned(),
        "Request { code: \"483920\" }".to_owned(),
        "{\\\"code\\\":\\\"483920\\\"}".to_owned(),
        "\n\u{6}483920".to_owned(),
        format!("{:?}", b"\x0a\x06483920"),
    ] {
        assert!(!secrets.find(place.as_bytes()).is_empty(), "{place}");
    }
    for place in ["nothing", "bytes=483920", "duration_ms=0.483920", "password with"] {
        assert_eq!(secrets.find(place.as_bytes()), Vec::<String>::new(), "{place}");
    }
}
