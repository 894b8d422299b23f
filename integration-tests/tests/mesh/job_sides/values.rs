//! Values that no other place can have by chance, and finding them again, however they are written.

use std::collections::BTreeSet;

use crate::canary::search::Secrets;

/// Values in rows, by what they are.
#[derive(Default)]
pub(super) struct Values {
    texts: Vec<(&'static str, String)>,
    search: Secrets,
}

/// Eighteen letters and digits, the same in many values.
pub(super) fn mark() -> String {
    uuid::Uuid::new_v4().simple().to_string()[..18].to_owned()
}

impl Values {
    /// Texts of letters and digits, with a mark in each.
    pub(super) fn texts(names: &[&'static str], mark: &str) -> Self {
        let mut values = Self::default();
        for name in names {
            values.add(name, format!("{name}{mark}{}", self::mark()));
        }
        values
    }

    /// One more text.
    pub(super) fn add(&mut self, name: &'static str, text: String) {
        self.search.add(name, &text);
        self.search.add_bytes(name, text.to_uppercase().as_bytes());
        self.texts.push((name, text));
    }

    /// One more number, of eighteen digits.
    pub(super) fn add_number(&mut self, name: &'static str, number: u64) {
        self.add(name, number.to_string());
        for written in [varint(number << 1), varint(number)] {
            self.search.add_bytes(name, &written);
        }
    }

    /// As SQL and JSON have it.
    pub(super) fn text(&self, name: &str) -> &str {
        let found = self.texts.iter().find(|(known, _)| *known == name);
        &found.expect("one of them").1
    }

    /// What there is.
    pub(super) fn names(&self) -> BTreeSet<&str> {
        self.texts.iter().map(|(name, _)| *name).collect()
    }

    /// Which of them are in `place`.
    pub(super) fn names_in(&self, place: &[u8]) -> BTreeSet<&str> {
        self.search.names_in(place)
    }

    /// Those that are in `place`, and where.
    pub(super) fn find(&self, place: &[u8]) -> Vec<String> {
        self.search.find(place)
    }
}

/// A number of eighteen digits.
pub(super) fn number() -> u64 {
    let random = uuid::Uuid::new_v4().as_u128() % 900_000_000_000_000_000;
    100_000_000_000_000_000 + u64::try_from(random).expect("a small number")
}

/// Whether `bytes` are somewhere in `place`.
pub(super) fn holds(place: &[u8], bytes: &str) -> bool {
    // The search in texts is the standard library's, and fast in a test program too.
    String::from_utf8_lossy(place).contains(bytes)
}

/// As protobuf writes numbers.
fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(u8::try_from(number & 0x7f).expect("seven bits") | 0x80);
        number >>= 7;
    }
    bytes.push(u8::try_from(number).expect("seven bits"));
    bytes
}

#[test]
fn a_number_is_found_however_it_is_written() {
    let salary = number();
    let mut values = Values::texts(&["reason"], &mark());
    values.add_number("salary", salary);
    let message = proto::change::v1::Value {
        kind: Some(proto::change::v1::value::Kind::Int(
            i64::try_from(salary).expect("a number"),
        )),
    };
    for place in [
        prost::Message::encode_to_vec(&message),
        format!("{{\"salary\":\"{salary}\"}}").into_bytes(),
    ] {
        assert_eq!(values.names_in(&place), BTreeSet::from(["salary"]), "{place:?}");
    }
    assert_eq!(values.names_in(b"100000000000000000"), BTreeSet::new());
}
