//! Messages whose JSON is not the one that protobuf gives them: a change of a row is written as `trail --format json` prints it, so that the
//! same program reads both.

use prost::Message as _;
use prost_reflect::MessageDescriptor;
use proto::change::v1 as pb;

use super::Broken;
use crate::routes::comments::Comments;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Own {
    /// A change of a row.
    Change,
    /// Columns with their values.
    Row,
    /// One value.
    Value,
}

/// A member of a change's JSON.
#[derive(Clone, Copy)]
pub(crate) struct Member {
    /// Its name.
    pub(crate) name: &'static str,
    /// The field of the message that it shows, whose comment it has.
    pub(crate) field: &'static str,
    /// What it is.
    pub(crate) what: What,
    /// What is said of it instead, where the message says it in another way.
    pub(crate) said: &'static str,
}

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Where the change stands.
    Position,
    /// A text, or `null` where there is none.
    TextOrNull,
    /// RFC 3339 in UTC, with microseconds unless they are zero.
    Instant,
    /// A number from 0 to 4294967295, or `null`.
    NumberOrNull,
    /// The same, but always there.
    Number,
    /// A text.
    Text,
    /// `insert`, `update` or `delete`.
    Op,
    /// Columns, or `null`.
    RowOrNull,
    /// Names.
    Texts,
}

/// What the JSON of a change has, in this order; `redacted` only where something was taken out.
pub(crate) const CHANGE: &[Member] = &[
    member("position", "position", What::Position),
    member("gtid", "gtid", What::TextOrNull),
    Member {
        said: "When its transaction was committed.",
        ..member("commit_time", "commit_micros", What::Instant)
    },
    member("thread_id", "thread_id", What::NumberOrNull),
    member("schema", "schema", What::Text),
    member("table", "table", What::Text),
    member("op", "op", What::Op),
    member("key", "key", What::RowOrNull),
    member("before", "before", What::RowOrNull),
    member("after", "after", What::RowOrNull),
    member("changed", "changed", What::Texts),
    member("query", "query", What::TextOrNull),
    member("schema_version", "schema_version", What::Number),
    Member {
        said: "What the caller's access rules took out: names of columns, and `query`. Only where something was.",
        ..member(SOMETIMES, "redacted", What::Texts)
    },
];

/// The one member of [`CHANGE`] that may be absent.
pub(crate) const SOMETIMES: &str = "redacted";

const fn member(name: &'static str, field: &'static str, what: What) -> Member {
    Member {
        name,
        field,
        what,
        said: "",
    }
}

impl Member {
    /// What is said of it.
    pub(crate) fn about<'c>(&self, change: &MessageDescriptor, comments: &'c Comments) -> &'c str {
        let field = change.get_field_by_name(self.field);
        match self.said {
            "" => field.map_or("", |field| comments.field(&field)),
            said => said,
        }
    }
}

/// A message that a field of `of` holds, however deep inside.
pub(crate) fn inner(of: &MessageDescriptor, own: Own) -> Option<MessageDescriptor> {
    of.fields().find_map(|field| {
        let held = field.kind().as_message()?.clone();
        if Own::of(held.full_name()) == Some(own) {
            return Some(held);
        }
        inner(&held, own)
    })
}

impl Own {
    /// The one of that full name.
    pub(crate) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "trailmesh.change.v1.Change" => Self::Change,
            "trailmesh.change.v1.Row" => Self::Row,
            "trailmesh.change.v1.Value" => Self::Value,
            _ => return None,
        })
    }

    /// Writes the encoded message.
    pub(super) fn write(self, wire: &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
        let malformed = |_| Broken::Malformed("a change cannot be read");
        let mut text = String::with_capacity(3 * wire.len());
        match self {
            Self::Change => {
                let change = pb::Change::decode(wire).map_err(malformed)?;
                for row in [&change.key, &change.before, &change.after].into_iter().flatten() {
                    check_row(row)?;
                }
                change::write_change(&change, &mut text);
            }
            Self::Row => {
                let row = pb::Row::decode(wire).map_err(malformed)?;
                check_row(&row)?;
                change::write_row(&row, &mut text);
            }
            Self::Value => {
                let value = pb::Value::decode(wire).map_err(malformed)?;
                check(&value)?;
                change::write_value(&value, &mut text);
            }
        }
        out.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

fn check_row(row: &pb::Row) -> Result<(), Broken> {
    row.cells
        .iter()
        .filter_map(|cell| cell.value.as_ref())
        .try_for_each(check)
}

/// A value that is JSON already is written as it is: whoever made it must not be able to end the object around it, or the line.
fn check(value: &pb::Value) -> Result<(), Broken> {
    let Some(pb::value::Kind::Json(text)) = &value.kind else {
        return Ok(());
    };
    let whole = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    if whole && !text.bytes().any(|byte| byte < b' ') {
        return Ok(());
    }
    Err(Broken::Malformed("a value of type JSON is none"))
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use prost::Message;
    use proto::{
        change::v1::{self as pb, value::Kind},
        query::v1::QueryChangesResponse,
    };
    use serde_json::{Value, json};

    use crate::json::{Broken, decode::Decoder, encode::Encoder, schema::Schema};

    static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
        Schema::new(&prost_reflect::DescriptorPool::decode(proto::DESCRIPTOR_SET).expect("descriptors"))
    });

    fn written(name: &str, message: &impl Message) -> Result<String, Broken> {
        let mut out = Vec::new();
        let id = SCHEMA.id(name).expect("a message");
        Encoder::new(&SCHEMA, &mut out).message(id, &message.encode_to_vec())?;
        Ok(String::from_utf8(out).expect("text"))
    }

    fn value(kind: Kind) -> Option<pb::Value> {
        Some(pb::Value { kind: Some(kind) })
    }

    fn change(cells: Vec<(&str, Kind)>) -> pb::Change {
        let cells = cells.into_iter().map(|(column, kind)| pb::Cell {
            column: column.to_owned(),
            value: value(kind),
        });
        pb::Change {
            position: Some(pb::Position {
                epoch: 1,
                file: "binlog.000007".to_owned(),
                offset: 9_007_199_254_740_993,
                ordinal: 2,
            }),
            commit_micros: 1_700_000_000_000_001,
            schema: "shop".to_owned(),
            table: "orders".to_owned(),
            op: pb::Op::Insert.into(),
            after: Some(pb::Row {
                cells: cells.collect(),
            }),
            ..pb::Change::default()
        }
    }

    #[test]
    fn a_change_is_written_as_trail_prints_it_and_all_around_it_as_protobuf_does() {
        let row = vec![
            ("id", Kind::Uint(u64::MAX)),
            ("total", Kind::Decimal("1.10".to_owned())),
            ("at", Kind::Timestamp("2026-01-31 12:00:00".to_owned())),
            ("doc", Kind::Json("{\"a\":[1,\"x\\n\"]}".to_owned())),
            ("raw", Kind::Bytes(b"\xff\0".to_vec().into())),
            ("none", Kind::Null(0)),
            ("say \"hi\"", Kind::Text("line\nline".to_owned())),
        ];
        let mut second = change(vec![]);
        second.redacted = vec!["card".to_owned(), "query".to_owned()];
        let answer = QueryChangesResponse {
            changes: vec![change(row), second],
            next_page_token: "more".to_owned(),
            coverage: None,
            redacted: true,
        };
        let text = written("trailmesh.query.v1.QueryChangesResponse", &answer).expect("JSON");
        assert_eq!(
            text,
            concat!(
                r#"{"changes":[{"position":{"epoch":1,"file":"binlog.000007","offset":9007199254740993,"ordinal":2},"gtid":null,"#,
                r#""commit_time":"2023-11-14T22:13:20.000001Z","thread_id":null,"schema":"shop","table":"orders","op":"insert","#,
                r#""key":null,"before":null,"after":{"id":18446744073709551615,"total":"1.10","at":"2026-01-31 12:00:00Z","#,
                r#""doc":{"a":[1,"x\n"]},"raw":{"base64":"/wA="},"none":null,"say \"hi\"":"line\nline"},"changed":[],"query":null,"#,
                r#""schema_version":0},{"position":{"epoch":1,"file":"binlog.000007","offset":9007199254740993,"ordinal":2},"gtid":null,"#,
                r#""commit_time":"2023-11-14T22:13:20.000001Z","thread_id":null,"schema":"shop","table":"orders","op":"insert","#,
                r#""key":null,"before":null,"after":{},"changed":[],"query":null,"schema_version":0,"redacted":["card","query"]}],"#,
                r#""nextPageToken":"more","redacted":true}"#
            )
        );
    }

    #[test]
    fn every_member_of_a_change_is_described() {
        let mut full = change(vec![("a", Kind::Int(-1))]);
        full.redacted.push("b".to_owned());
        let json: Value = serde_json::from_str(&written("trailmesh.change.v1.Change", &full).expect("JSON"))
            .expect("an object");
        let mut described: Vec<_> = super::CHANGE.iter().map(|member| member.name).collect();
        described.sort_unstable();
        let mut there: Vec<_> = json.as_object().expect("an object").keys().cloned().collect();
        there.sort();
        assert_eq!(there, described);
        let row = full.after.clone().expect("a row");
        assert_eq!(
            written("trailmesh.change.v1.Row", &row).expect("JSON"),
            r#"{"a":-1}"#
        );
        let value = value(Kind::Double(f64::NAN)).expect("a value");
        assert_eq!(
            written("trailmesh.change.v1.Value", &value).expect("JSON"),
            "null"
        );
    }

    #[test]
    fn a_value_cannot_end_the_object_around_it_nor_the_line() {
        for text in [
            "1},{\"position\":null",
            "",
            "{",
            "[1]\n",
            "1 2",
            "\"\t\"",
            "'a'",
            "{\"a\":1,}",
        ] {
            let change = change(vec![("doc", Kind::Json(text.to_owned()))]);
            let broken = written("trailmesh.change.v1.Change", &change);
            assert_eq!(
                broken,
                Err(Broken::Malformed("a value of type JSON is none")),
                "{text:?}"
            );
        }
        for text in ["null", "-1.5e3", "\"\\u00e9\"", "[ {} ]"] {
            let change = change(vec![("doc", Kind::Json(text.to_owned()))]);
            assert!(written("trailmesh.change.v1.Change", &change).is_ok(), "{text:?}");
        }
    }

    #[test]
    fn a_change_is_answered_and_never_asked() {
        let id = SCHEMA
            .id("trailmesh.query.v1.QueryChangesResponse")
            .expect("a message");
        let body = json!({"changes": [{"schema": "shop"}]}).to_string();
        let decoder = Decoder::new(&SCHEMA, body.as_bytes()).expect("JSON");
        let invalid = decoder.whole(body.as_bytes(), id).expect_err("refused");
        assert_eq!(invalid.violations[0].field, "changes[0]");
    }
}
