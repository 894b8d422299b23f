//! Whatever the fields hold.

use audit::{
    Actor, Event, Kind, Outcome,
    format::{Format, LONGEST, Source, line, syslog},
};
use proptest::{collection::btree_map, option, prelude::*, sample::select};
use serde_json::Value;

/// Any text, most of it made of what means something somewhere.
fn text() -> impl Strategy<Value = String> {
    let sharp = select(vec![
        "\n",
        "\r",
        "\0",
        "|",
        "=",
        "]",
        "\"",
        "\\",
        " ",
        "\\n",
        "\\=",
        "\u{202e}",
        "\u{2028}",
        "\u{85}",
        "\u{feff}",
        "\u{1ffff}",
        "🦀",
        "é",
        "CEF:0|",
        "<1>1 ",
        "[x@1 ",
        "a",
        "cs1=",
        "\u{e0001}",
    ]);
    prop_oneof![
        any::<String>(),
        prop::collection::vec(sharp, 0..40).prop_map(|parts| parts.concat()),
        (any::<char>(), 1..3_000usize).prop_map(|(char, times)| char.to_string().repeat(times)),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let actor = (text(), text(), text(), text(), text(), text(), text()).prop_map(
        |(user_id, session_id, key_id, agent_id, service, role, grant_id)| Actor {
            user_id,
            session_id,
            key_id,
            agent_id,
            service,
            role,
            grant_id,
        },
    );
    let kind = select(vec![Kind::Change, Kind::Security, Kind::Read, Kind::Refusal]);
    let outcome = select(vec![Outcome::Succeeded, Outcome::Failed, Outcome::Unknown]);
    (
        (text(), any::<i64>(), any::<i64>(), actor, kind, text(), text()),
        (
            btree_map(text(), text(), 0..40),
            option::of(any::<std::net::IpAddr>()),
            text(),
            text(),
            outcome,
        ),
        (text(), text(), any::<u64>()),
    )
        .prop_map(
            |(
                (id, time, end_time, actor, kind, method, path),
                (targets, client_address, user_agent, request_id, outcome),
                (code, reason, count),
            )| Event {
                id,
                time,
                end_time,
                actor,
                kind,
                method,
                path,
                targets,
                client_address,
                user_agent,
                request_id,
                outcome,
                code,
                reason,
                count,
            },
        )
}

fn source() -> impl Strategy<Value = Source> {
    (text(), text()).prop_map(|(tenant, region)| Source { tenant, region })
}

/// Nothing that a terminal, a log viewer or a splitter of lines takes for more than text.
fn is_inert(text: &str) -> bool {
    text.chars().all(|char| {
        !char.is_control() && !matches!(char, '\u{2028}' | '\u{2029}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{61c}')
    })
}

fn all_strings<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(list) => list.iter().for_each(|inner| all_strings(inner, found)),
        Value::Object(map) => map.iter().for_each(|(name, inner)| {
            found.push(name);
            all_strings(inner, found);
        }),
        _ => {}
    }
}

/// The header's seven fields and the extension, by the words of the specification: a `|` after an odd number of `\` is text.
fn parse_cef(line: &str) -> (Vec<String>, Vec<(String, String)>) {
    let mut header = vec![String::new()];
    let mut rest = line.chars();
    while header.len() < 8 {
        match rest.next().expect("a whole header") {
            '\\' => header
                .last_mut()
                .unwrap()
                .push(rest.next().expect("something escaped")),
            '|' => header.push(String::new()),
            char => header.last_mut().unwrap().push(char),
        }
    }
    header.pop();
    // Every `=` that is not escaped ends a key, which began at the last space before it.
    let (mut pairs, mut piece): (Vec<(String, String)>, String) = (Vec::new(), String::new());
    while let Some(char) = rest.next() {
        match char {
            '\\' => piece.push(rest.next().expect("something escaped")),
            '=' => {
                let (before, key) = piece.rsplit_once(' ').unwrap_or(("", &piece));
                if let Some(last) = pairs.last_mut() {
                    last.1 = before.to_owned();
                }
                pairs.push((key.to_owned(), String::new()));
                piece.clear();
            }
            char => piece.push(char),
        }
    }
    pairs.last_mut().expect("a pair").1 = piece;
    (header, pairs)
}

/// The parameters of the one element, by the grammar of RFC 5424, and what follows it.
fn parse_data(data: &str) -> (Vec<(String, String)>, &str) {
    let mut rest = data.strip_prefix("[audit@32473").expect("the element");
    let mut parameters = Vec::new();
    loop {
        if let Some(after) = rest.strip_prefix("] ") {
            return (parameters, after);
        }
        let (name, value) = rest
            .strip_prefix(' ')
            .expect("a space")
            .split_once("=\"")
            .expect("a name");
        let mut text = String::new();
        let mut chars = value.char_indices();
        loop {
            match chars.next().expect("an end") {
                (_, '\\') => text.push(chars.next().expect("something escaped").1),
                (at, '"') => {
                    rest = &value[at + 1..];
                    break;
                }
                (_, ']') => panic!("a bracket that is not escaped"),
                (_, char) => text.push(char),
            }
        }
        parameters.push((name.to_owned(), text));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_line_is_one_short_inert_line(event in event(), source in source(), sequence in any::<i64>()) {
        for format in Format::ALL {
            let line = line(format, &source, sequence, &event);
            prop_assert!(line.len() <= LONGEST, "{format:?}: {}", line.len());
            prop_assert!(is_inert(&line), "{format:?}: {line}");
        }
    }

    #[test]
    fn json_is_ascii_and_every_string_of_it_is_inert(event in event(), source in source()) {
        for format in [Format::Ocsf, Format::Ecs] {
            let line = line(format, &source, 1, &event);
            prop_assert!(line.is_ascii());
            let value: Value = serde_json::from_str(&line).unwrap();
            let mut strings = Vec::new();
            all_strings(&value, &mut strings);
            prop_assert!(strings.into_iter().all(is_inert));
        }
    }

    #[test]
    fn cef_has_the_pairs_that_it_was_given_and_no_others(event in event(), source in source()) {
        let line = line(Format::Cef, &source, 1, &event);
        let (header, pairs) = parse_cef(&line);
        prop_assert_eq!(&header[..3], ["CEF:0", "Trailmesh", "Trailmesh"]);
        prop_assert!(header[4..6].iter().all(|word| !word.is_empty() && word.chars().all(|char| char.is_ascii_alphanumeric() || "_.- ".contains(char))));
        let known = "rt start end externalId act cat outcome reason suid spriv src c6a2 c6a2Label requestMethod request requestClientApplication \
            sproc msg cnt dvchost cs1 cs1Label cs2 cs2Label cs3 cs3Label cs4 cs4Label cs5 cs5Label cs6 cs6Label flexString1 flexString1Label cn1 cn1Label";
        let mut seen = std::collections::HashSet::new();
        for (key, _) in &pairs {
            prop_assert!(known.split_whitespace().any(|one| one == key), "{key}");
            prop_assert!(seen.insert(key), "{key} twice");
        }
        let wanted = match event.outcome { Outcome::Succeeded => "success", Outcome::Failed => "failure", Outcome::Unknown => "unknown" };
        prop_assert_eq!(&pairs.iter().find(|(key, _)| key == "outcome").unwrap().1, wanted);
    }

    #[test]
    fn a_message_of_syslog_ends_where_its_frame_says_and_holds_the_line(event in event(), source in source(), sequence in any::<i64>()) {
        let line = line(Format::Cef, &source, sequence, &event);
        let message = syslog::message(&source, sequence, &event, &line);
        prop_assert!(is_inert(&message));
        let frame = syslog::frame(&message);
        prop_assert!(frame.len() <= 8_192);
        let space = frame.iter().position(|byte| *byte == b' ').unwrap();
        let length: usize = std::str::from_utf8(&frame[..space]).unwrap().parse().unwrap();
        prop_assert_eq!(&frame[space + 1..], message.as_bytes());
        prop_assert_eq!(length, message.len());
        let parts: Vec<&str> = message.splitn(7, ' ').collect();
        prop_assert!(parts[..6].iter().all(|part| !part.is_empty() && part.bytes().all(|byte| (33..=126).contains(&byte))));
        let (parameters, rest) = parse_data(parts[6]);
        prop_assert_eq!(parameters.len(), 4);
        prop_assert_eq!(rest, line);
    }
}
