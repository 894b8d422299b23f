//! Nobody here wrote the readers: JSON Schemas of OCSF's own export, the fields that Elastic publishes, pycef, syslog-rfc5424-parser.

use audit::{
    Event, Outcome,
    format::{Format, Source, line, syslog},
};
use serde_json::{Value, json};
use testkit::Foreign;

use crate::corpus::{event, hostile, real, source};

/// What they read, after they had nothing to complain of.
fn read(by: Foreign, script: &str, format: &str, lines: &[String]) -> Vec<Value> {
    let answer = by.run(script, &json!({"format": format, "lines": lines}).to_string());
    let answers: Vec<Value> = serde_json::from_str(&answer).unwrap();
    assert_eq!(answers.len(), lines.len());
    for (answer, line) in answers.iter().zip(lines) {
        assert_eq!(answer["problems"], json!([]), "{line}");
    }
    answers
        .into_iter()
        .map(|mut answer| answer["value"].take())
        .collect()
}

fn lines(format: Format, events: &[Event]) -> Vec<String> {
    (1..)
        .zip(events)
        .map(|(sequence, event)| line(format, &source(), sequence, event))
        .collect()
}

/// Real entries first, then hostile ones with what must come out of each of their fields.
fn corpus() -> (Vec<Event>, Vec<Option<&'static str>>) {
    let (mut events, mut tame) = (real(), Vec::new());
    tame.resize(events.len(), None);
    for (event, text) in hostile() {
        events.push(event);
        tame.push(Some(text));
    }
    (events, tame)
}

/// `value` at `path`, or an empty string.
fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

#[test]
fn ocsf_is_what_its_schema_says_and_means_what_went_in() {
    let (events, tame) = corpus();
    let values = read(
        Foreign::Python,
        "audit_formats",
        "ocsf",
        &lines(Format::Ocsf, &events),
    );
    let mut classes = std::collections::BTreeSet::new();
    for (value, (event, tame)) in values.iter().zip(events.iter().zip(&tame)) {
        let or = |own: &str| tame.map_or(own.to_owned(), str::to_owned);
        assert_eq!(text(value, "/metadata/uid"), or(&event.id));
        assert_eq!(text(value, "/metadata/tenant_uid"), source().tenant);
        assert_eq!(text(value, "/metadata/correlation_uid"), or(&event.request_id));
        assert_eq!(
            text(value, "/metadata/original_time"),
            "2023-11-14T22:13:20.123456Z"
        );
        assert_eq!(text(value, "/actor/user/uid"), or(&event.actor.user_id));
        assert_eq!(text(value, "/actor/session/uid"), or(&event.actor.session_id));
        assert_eq!(text(value, "/actor/app_uid"), or(&event.actor.agent_id));
        assert_eq!(text(value, "/http_request/user_agent"), or(&event.user_agent));
        assert_eq!(text(value, "/status_code"), or(&event.code));
        assert_eq!(text(value, "/status_detail"), or(&event.reason));
        assert_eq!(value["time"], event.time / 1_000);
        let status = match event.outcome {
            Outcome::Succeeded => "Success",
            Outcome::Failed => "Failure",
            Outcome::Unknown => "Unknown",
        };
        assert_eq!(value["status"], status);
        classes.insert(value["class_uid"].as_u64().unwrap());
    }
    assert_eq!(classes.into_iter().collect::<Vec<_>>(), [3001, 3002, 3004, 6003]);
}

#[test]
fn ecs_has_only_fields_and_values_that_elastic_publishes_and_means_what_went_in() {
    let (events, tame) = corpus();
    let values = read(Foreign::Node, "ecs", "ecs", &lines(Format::Ecs, &events));
    for (value, (event, tame)) in values.iter().zip(events.iter().zip(&tame)) {
        let or = |own: &str| tame.map_or(own.to_owned(), str::to_owned);
        assert_eq!(text(value, "/event/id"), or(&event.id));
        assert_eq!(text(value, "/event/code"), or(&event.code));
        assert_eq!(text(value, "/event/reason"), or(&event.reason));
        assert_eq!(text(value, "/organization/id"), source().tenant);
        assert_eq!(text(value, "/user/id"), or(&event.actor.user_id));
        assert_eq!(text(value, "/user_agent/original"), or(&event.user_agent));
        assert_eq!(text(value, "/http/request/id"), or(&event.request_id));
        assert_eq!(text(value, "/labels/key_id"), or(&event.actor.key_id));
        assert_eq!(
            text(value, "/labels/target_server_id"),
            or(&event.targets["server_id"])
        );
        let address = event
            .client_address
            .map(|address| address.to_canonical().to_string());
        assert_eq!(text(value, "/source/ip"), address.unwrap_or_default());
    }
}

#[test]
fn cef_is_parsed_into_what_went_in() {
    let (events, tame) = corpus();
    let values = read(
        Foreign::Python,
        "audit_formats",
        "cef",
        &lines(Format::Cef, &events),
    );
    for (value, (event, tame)) in values.iter().zip(events.iter().zip(&tame)) {
        let or = |own: &str| tame.map_or(own.to_owned(), str::to_owned);
        assert_eq!(text(value, "/CEFVersion"), "0");
        assert_eq!(text(value, "/DeviceProduct"), "Trailmesh");
        assert_eq!(
            text(value, "/DeviceEventClassID"),
            event.method[1..].replace('/', ".")
        );
        assert_eq!(text(value, "/externalId"), or(&event.id));
        assert_eq!(text(value, "/suid"), or(&event.actor.user_id));
        assert_eq!(text(value, "/sessionId"), or(&event.actor.session_id));
        assert_eq!(text(value, "/tenantId"), source().tenant);
        assert_eq!(text(value, "/requestId"), or(&event.request_id));
        assert_eq!(text(value, "/requestClientApplication"), or(&event.user_agent));
        assert_eq!(text(value, "/msg"), or(&event.code));
        assert_eq!(text(value, "/reason"), or(&event.reason));
        let outcome = match event.outcome {
            Outcome::Succeeded => "success",
            Outcome::Failed => "failure",
            Outcome::Unknown => "unknown",
        };
        assert_eq!(text(value, "/outcome"), outcome);
    }
}

#[test]
fn syslog_is_parsed_into_what_went_in_whichever_form_it_carries() {
    let hostile = hostile();
    let mut wanted = Vec::new();
    let mut messages = Vec::new();
    for format in Format::ALL {
        for (event, _) in &hostile {
            let line = line(format, &source(), 7, event);
            messages.push(syslog::message(&source(), 7, event, &line));
            wanted.push((line, event.id.clone()));
        }
    }
    let values = read(Foreign::Python, "audit_formats", "syslog", &messages);
    for (value, (line, wild)) in values.iter().zip(&wanted) {
        assert_eq!(text(value, "/msg"), line);
        // Ids are words, and go through as they are; what is none becomes one here, and is whole in the line.
        let id: String = wild
            .chars()
            .map(|char| {
                if char.is_ascii_alphanumeric() || "_.-".contains(char) {
                    char
                } else {
                    '_'
                }
            })
            .take(64)
            .collect();
        assert_eq!(text(value, "/sd/audit@32473/id"), id);
        assert_eq!(text(value, "/sd/audit@32473/sequence"), "7");
        assert_eq!(text(value, "/sd/audit@32473/tenant"), source().tenant);
        assert_eq!(text(value, "/sd/audit@32473/outcome"), "failure");
        assert_eq!(text(value, "/timestamp"), "2023-11-14T22:13:20.123456Z");
        assert_eq!(text(value, "/hostname"), "trailmesh-eu");
        assert_eq!(text(value, "/appname"), "trailmesh");
        assert_eq!(text(value, "/msgid"), "RegisterServer");
        assert_eq!(value["version"], 1);
    }
}

/// Whose log it is comes from the same hands as the entries, and is no more trusted.
#[test]
fn a_hostile_source_reads_as_text_too() {
    let source = Source {
        tenant: "t|=]\"\\\n".to_owned(),
        region: "eu |=]\"\\\n".to_owned(),
    };
    let line = line(Format::Cef, &source, 1, &event());
    let values = read(
        Foreign::Python,
        "audit_formats",
        "cef",
        std::slice::from_ref(&line),
    );
    assert_eq!(text(&values[0], "/tenantId"), "t|=]\"\\\\u{a}");
    let message = syslog::message(&source, 1, &event(), &line);
    let values = read(Foreign::Python, "audit_formats", "syslog", &[message]);
    assert_eq!(text(&values[0], "/sd/audit@32473/tenant"), "t______");
    assert_eq!(text(&values[0], "/hostname"), "trailmesh-eu_______");
}

/// They would have complained.
#[test]
fn the_readers_see_what_is_wrong() {
    let spoilt = |format: Format, spoil: &dyn Fn(&mut Value)| {
        let mut value: Value = serde_json::from_str(&line(format, &source(), 1, &event())).unwrap();
        spoil(&mut value);
        value.to_string()
    };
    let ocsf = [
        spoilt(Format::Ocsf, &|value| value["novel"] = 1.into()),
        spoilt(Format::Ocsf, &|value| value["time"] = "now".into()),
        spoilt(Format::Ocsf, &|value| value["severity_id"] = 50.into()),
        spoilt(Format::Ocsf, &|value| value["actor"]["user"]["novel"] = 1.into()),
        spoilt(Format::Ocsf, &|value| {
            drop(value.as_object_mut().unwrap().remove("entity"))
        }),
    ];
    let ecs = [
        spoilt(Format::Ecs, &|value| value["novel"] = 1.into()),
        spoilt(Format::Ecs, &|value| value["@timestamp"] = "now".into()),
        spoilt(Format::Ecs, &|value| {
            value["event"]["type"] = json!(["connection"])
        }),
        spoilt(Format::Ecs, &|value| value["event"]["category"] = "iam".into()),
        spoilt(Format::Ecs, &|value| {
            drop(value.as_object_mut().unwrap().remove("ecs"))
        }),
    ];
    let syslog = [
        "<999999>1 - - - - - - x".to_owned(),
        "<13>1 now - - - - - x".to_owned(),
    ];
    for (by, script, format, lines) in [
        (Foreign::Python, "audit_formats", "ocsf", &ocsf[..]),
        (Foreign::Node, "ecs", "ecs", &ecs),
        (Foreign::Python, "audit_formats", "cef", &["CEF:0|a||".to_owned()]),
        (Foreign::Python, "audit_formats", "syslog", &syslog),
    ] {
        let answer = by.run(script, &json!({"format": format, "lines": lines}).to_string());
        let answers: Vec<Value> = serde_json::from_str(&answer).unwrap();
        for (answer, line) in answers.iter().zip(lines) {
            assert_ne!(answer["problems"], json!([]), "{line}");
        }
    }
}
