//! CEF version 0, as "ArcSight Common Event Format, version 25" has it. The header is made of words that need no escape; values of the
//! extension escape `\` and `=`, and hold no end of line (`text::clean`).

use std::fmt::Write as _;

use super::{PRODUCT, VERSION, fields::Fields};
use crate::{Kind, Outcome};

/// The entry as a line of CEF.
pub(super) fn line(fields: &Fields) -> String {
    // 0 to 10: low is up to 3, medium up to 6.
    let severity = match fields.severity() {
        1 => 1,
        2 => 3,
        _ => 5,
    };
    let class = if fields.method.service.is_empty() {
        fields.method.name.clone()
    } else {
        format!("{}.{}", fields.method.service, fields.method.name)
    };
    let mut line = format!(
        "CEF:0|{PRODUCT}|{PRODUCT}|{VERSION}|{class}|{}|{severity}|",
        fields.method.words()
    );
    let mut pairs = Pairs {
        line: &mut line,
        first: true,
    };
    pairs.number("rt", fields.begun / 1_000);
    pairs.number("start", fields.begun / 1_000);
    pairs.number("end", fields.ended / 1_000);
    pairs.text("externalId", &fields.id);
    pairs.text("act", &fields.method.name);
    pairs.text("cat", category(fields.kind));
    pairs.text("outcome", outcome(fields.outcome));
    pairs.text("reason", &fields.reason);
    pairs.text("suid", &fields.user);
    pairs.text("spriv", &fields.role);
    match fields.address {
        Some(address) if address.is_ipv4() => pairs.text("src", &address.to_string()),
        Some(address) => pairs.custom("c6a2", "Source IPv6 Address", &address.to_string()),
        None => {}
    }
    pairs.text("requestMethod", &fields.http_method);
    pairs.text("request", &fields.path);
    pairs.text("requestClientApplication", &fields.user_agent);
    pairs.text("sproc", &fields.service);
    pairs.text("msg", &fields.code);
    pairs.number("cnt", i64::try_from(fields.count).unwrap_or(i64::MAX));
    pairs.text("dvchost", &format!("trailmesh-{}", fields.region));
    pairs.custom("cs1", "tenantId", &fields.tenant);
    pairs.custom("cs2", "sessionId", &fields.session);
    pairs.custom("cs3", "keyId", &fields.key);
    pairs.custom("cs4", "requestId", &fields.request);
    pairs.custom("cs5", "targets", &targets(fields));
    pairs.custom("cs6", "agentId", &fields.agent);
    pairs.custom("flexString1", "stepUpId", &fields.grant);
    pairs.number("cn1", fields.sequence);
    pairs.text("cn1Label", "sequence");
    line
}

fn category(kind: Kind) -> &'static str {
    match kind {
        Kind::Change => "change",
        Kind::Security => "security",
        Kind::Read => "read",
        Kind::Refusal => "refusal",
    }
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Succeeded => "success",
        Outcome::Failed => "failure",
        Outcome::Unknown => "unknown",
    }
}

/// `field:id` by `; `. Ids hold neither; what is no id has them written out.
fn targets(fields: &Fields) -> String {
    let mut list = String::new();
    for (field, id) in &fields.targets {
        let gap = if list.is_empty() { "" } else { "; " };
        let _ = write!(list, "{gap}{field}:{}", id.replace(';', "\\u{3b}"));
    }
    list
}

struct Pairs<'a> {
    line: &'a mut String,
    first: bool,
}

impl Pairs<'_> {
    fn text(&mut self, key: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        if !self.first {
            self.line.push(' ');
        }
        self.first = false;
        self.line.push_str(key);
        self.line.push('=');
        for char in value.chars() {
            if matches!(char, '\\' | '=') {
                self.line.push('\\');
            }
            self.line.push(char);
        }
    }

    fn number(&mut self, key: &str, value: i64) {
        self.text(key, &value.to_string());
    }

    fn custom(&mut self, key: &str, label: &str, value: &str) {
        if !value.is_empty() {
            self.text(key, value);
            self.text(&format!("{key}Label"), label);
        }
    }
}
