//! Events as lines of the log.

use std::{
    fmt,
    io::Write as _,
    sync::OnceLock,
    time::{SystemTime, UNIX_EPOCH},
};

use opentelemetry::trace::TraceContextExt;
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::{
    Dispatch, Event, Subscriber,
    dispatcher::WeakDispatch,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{
    Layer,
    fmt::MakeWriter,
    layer::Context,
    registry::{LookupSpan, SpanRef},
};
use types::{Micros, Region};

use super::scrub;
use crate::LogFormat;

/// What a line takes over from the spans around it, the innermost first, and what it is called in the line.
const LIFTED: [(&str, &str); 7] = [
    ("service", "service"),
    ("region", "region"),
    ("request_id", "request_id"),
    ("tenant", "tenant"),
    ("caller", "caller"),
    ("method", "method"),
    ("rpc.method", "method"),
];

/// The longest text of one field, so that one event cannot fill the log.
const LONGEST: usize = 8 * 1024;

/// Writes each event as one line.
pub(super) struct Lines<W> {
    service: String,
    region: Region,
    format: LogFormat,
    out: W,
    dispatch: OnceLock<WeakDispatch>,
}

impl<W> Lines<W> {
    /// `service` and `region` stand in lines outside of any span that says them.
    pub(super) fn new(service: &str, region: Region, format: LogFormat, out: W) -> Self {
        Self {
            service: service.to_owned(),
            region,
            format,
            out,
            dispatch: OnceLock::new(),
        }
    }

    fn line<S>(&self, event: &Event<'_>, context: &Context<'_, S>) -> Line
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let message = fields.0.remove("message");
        let mut around = Map::new();
        around.insert("service".into(), self.service.as_str().into());
        around.insert("region".into(), self.region.word().into());
        if let Some(innermost) = context.event_span(event) {
            self.trace(&innermost, &mut around);
            for span in innermost.scope().from_root() {
                if let Some(words) = span.extensions().get::<Words>() {
                    around.extend(words.0.clone());
                }
            }
        }
        Line {
            timestamp: now().to_string(),
            level: metadata.level().as_str(),
            target: metadata.target().to_owned(),
            message: message.unwrap_or_else(|| "".into()),
            around,
            fields: fields.0,
        }
    }

    fn trace<S>(&self, span: &SpanRef<'_, S>, around: &mut Map<String, Value>)
    where
        S: for<'span> LookupSpan<'span>,
    {
        let Some(dispatch) = self.dispatch.get().and_then(WeakDispatch::upgrade) else {
            return;
        };
        if let Some(context) = tracing_opentelemetry::get_otel_context(&span.id(), &dispatch) {
            let span = context.span();
            let ids = span.span_context();
            if ids.is_valid() {
                around.insert("trace_id".into(), ids.trace_id().to_string().into());
                around.insert("span_id".into(), ids.span_id().to_string().into());
            }
        }
    }
}

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'w> MakeWriter<'w> + 'static,
{
    fn on_register_dispatch(&self, dispatch: &Dispatch) {
        // A layer belongs to one subscriber; a second registration would be of the same one.
        let _ = self.dispatch.set(dispatch.downgrade());
    }

    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        let mut words = Words::default();
        attributes.record(&mut words);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(words);
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(words) = span.extensions_mut().get_mut::<Words>()
        {
            values.record(words);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let line = self.line(event, &context);
        let mut text = match self.format {
            // Every key is a string and every value is JSON already, so this cannot fail.
            LogFormat::Json => serde_json::to_string(&line).unwrap_or_default(),
            LogFormat::Text => line.plain(),
        };
        text.push('\n');
        // There is nowhere left to tell of a log that cannot be written.
        let _ = self.out.make_writer().write_all(text.as_bytes());
    }
}

fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Micros(i64::try_from(since.as_micros()).unwrap_or_default())
}

/// One line, in the order in which JSON shows it.
#[derive(Serialize)]
struct Line {
    timestamp: String,
    level: &'static str,
    target: String,
    message: Value,
    #[serde(flatten)]
    around: Map<String, Value>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    fields: Map<String, Value>,
}

impl Line {
    /// `time LEVEL service target: message key=value …`, with control characters escaped so that a line stays one.
    fn plain(&self) -> String {
        let around = |name: &str| {
            self.around
                .get(name)
                .map(|value| (name.to_owned(), unquoted(value)))
        };
        let (_, service) = around("service").unwrap_or_default();
        let mut text = format!(
            "{} {:5} {service} {}: {}",
            self.timestamp,
            self.level,
            self.target,
            unquoted(&self.message)
        );
        let fields = self
            .fields
            .iter()
            .map(|(name, value)| (name.clone(), unquoted(value)));
        let around = ["caller", "method", "request_id", "tenant", "trace_id"]
            .into_iter()
            .filter_map(around);
        for (name, value) in fields.chain(around) {
            text.push_str(&format!(" {name}={value}"));
        }
        text
    }
}

fn unquoted(value: &Value) -> String {
    let Value::String(text) = value else {
        return value.to_string();
    };
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') {
            plain.extend(character.escape_default());
        } else {
            plain.push(character);
        }
    }
    plain
}

/// The fields of one event.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        let value = if scrub::is_secret(field.name()) {
            scrub::BLANK.into()
        } else {
            value
        };
        // `log.…` is what the bridge from the `log` crate adds for its own use.
        if !field.name().starts_with("log.") {
            self.0.insert(field.name().to_owned(), value);
        }
    }
}

/// `text` as a value: without credentials, and cut if it is too long.
fn shown(text: &str) -> Value {
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut shown = scrub::text(&text[..end]).into_owned();
    if end < text.len() {
        shown.push('…');
    }
    shown.into()
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, shown(&format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, shown(value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, shown(&types::chain(value)));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

/// What the lines within a span take over from it.
#[derive(Default)]
struct Words(Map<String, Value>);

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if let Some((_, name)) = LIFTED.iter().find(|(from, _)| *from == field.name()) {
            self.0.insert((*name).to_owned(), shown(&format!("{value:?}")));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if let Some((_, name)) = LIFTED.iter().find(|(from, _)| *from == field.name()) {
            self.0.insert((*name).to_owned(), shown(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use serde_json::{Value, json};
    use tracing::field::Empty;
    use tracing_subscriber::layer::SubscriberExt;
    use types::Region;

    use super::{LONGEST, Lines};
    use crate::LogFormat;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines that `work` logs.
    fn logged(format: LogFormat, work: impl FnOnce()) -> Vec<String> {
        let page = Page::default();
        let out = page.clone();
        let lines = Lines::new("auth", Region::Eu, format, move || out.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), work);
        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        assert!(text.ends_with('\n'));
        text.lines().map(str::to_owned).collect()
    }

    fn json(work: impl FnOnce()) -> Vec<Value> {
        let lines = logged(LogFormat::Json, work);
        lines
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn a_line_takes_over_what_the_spans_around_it_say() {
        let lines = json(|| {
            let outer = tracing::info_span!(
                "call",
                service = "tenant",
                tenant = Empty,
                request_id = "req_1",
                other = 1
            );
            let outer = outer.entered();
            tracing::info!("before");
            outer.record("tenant", tracing::field::display("tnt_1"));
            let _inner = tracing::info_span!("call", request_id = %"req_2").entered();
            tracing::info!(count = 3, exact = true, ratio = 0.5, owed = -1, "after");
        });
        assert_eq!(
            (&lines[0]["service"], &lines[0]["region"]),
            (&json!("tenant"), &json!("eu"))
        );
        assert_eq!(
            (&lines[0]["request_id"], lines[0].get("tenant")),
            (&json!("req_1"), None)
        );
        assert_eq!(
            (&lines[1]["request_id"], &lines[1]["tenant"]),
            (&json!("req_2"), &json!("tnt_1"))
        );
        assert_eq!(
            lines[1]["fields"],
            json!({"count": 3, "exact": true, "ratio": 0.5, "owed": -1})
        );
        assert_eq!(lines[1].get("other"), None);
    }

    #[test]
    fn no_value_begins_a_line_or_pretends_to_be_another_field() {
        let forged = "x\n{\"level\":\"INFO\"}\r\u{1b}[2J\u{2028}";
        let lines = json(|| tracing::warn!(level = "FORGED", forged, "{forged}"));
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0]["level"], "WARN");
        assert_eq!(lines[0]["fields"], json!({"level": "FORGED", "forged": forged}));
        let lines = logged(LogFormat::Text, || tracing::warn!(forged, "{forged}"));
        assert_eq!(lines.len(), 1);
        assert!(
            lines[0].contains("\\n{") && !lines[0].contains(['\u{1b}', '\r', '\u{2028}']),
            "{}",
            lines[0]
        );
    }

    #[test]
    fn long_values_are_cut_and_secrets_blanked() {
        let long = "ü".repeat(LONGEST);
        let lines = json(|| {
            let error = io::Error::other("postgres://u:canary@db/x");
            let error: &(dyn std::error::Error + 'static) = &error;
            tracing::info!(long, authorization = "canary", mfa_code = 123_456, error, debug = ?"token=canary");
        });
        let cut = lines[0]["fields"]["long"].as_str().unwrap();
        assert!(cut.ends_with("ü…") && cut.len() <= LONGEST + "…".len());
        assert!(!lines[0].to_string().contains("canary"), "{}", lines[0]);
        assert_eq!(lines[0]["fields"]["mfa_code"], "***");
        assert_eq!(lines[0]["fields"]["error"], "postgres://***@db/x");
    }
}
