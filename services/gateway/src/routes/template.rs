//! A path with variables, as `google.api.http` writes it.

/// A path: its segments, and the word after the last one's colon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    /// From the left.
    pub(crate) segments: Vec<Segment>,
    /// `accept` in `/v1/invitations:accept`; empty is none.
    pub(crate) verb: String,
}

/// One segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    /// Exactly this.
    Literal(String),
    /// Anything but nothing: the value of the field of that path.
    Variable(String),
}

impl Template {
    /// What `text` says, or what is wrong with it. A variable is one whole segment.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let path = text.strip_prefix('/').ok_or("a path begins with /")?;
        let last = path.rfind('/').map_or(0, |slash| slash + 1);
        let close = path[last..].rfind('}').map_or(last, |close| last + close);
        let (path, verb) = match path[close..].find(':') {
            Some(colon) => (&path[..close + colon], &path[close + colon + 1..]),
            None => (path, ""),
        };
        if path.len() + verb.len() + 1 < text.len() - 1 || (text.ends_with(':')) || !is_literal(verb) {
            return Err("the verb after the colon is missing or not plain");
        }
        let segments = path.split('/').map(segment).collect::<Result<_, _>>()?;
        Ok(Self {
            segments,
            verb: verb.to_owned(),
        })
    }
}

fn segment(text: &str) -> Result<Segment, &'static str> {
    let Some(inner) = text.strip_prefix('{') else {
        return if !text.is_empty() && is_literal(text) {
            Ok(Segment::Literal(text.to_owned()))
        } else {
            Err("a segment is empty or has characters other than letters, digits, -, _ and .")
        };
    };
    let inner = inner.strip_suffix('}').ok_or("a variable is one whole segment")?;
    let name = inner.strip_suffix("=*").unwrap_or(inner);
    let plain = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if name.split('.').all(plain) {
        Ok(Segment::Variable(name.to_owned()))
    } else {
        Err("a variable is a field's name, or names with dots between")
    }
}

fn is_literal(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::{Segment::*, Template};

    #[test]
    fn templates_are_read() {
        let template = Template::parse("/v1/agents/{agent_id}:renew").unwrap();
        assert_eq!(
            template.segments,
            [
                Literal("v1".into()),
                Literal("agents".into()),
                Variable("agent_id".into())
            ]
        );
        assert_eq!(template.verb, "renew");
        let template = Template::parse("/v1/{server.id=*}/x").unwrap();
        assert_eq!(
            template.segments,
            [
                Literal("v1".into()),
                Variable("server.id".into()),
                Literal("x".into())
            ]
        );
        assert_eq!(template.verb, "");
        assert_eq!(Template::parse("/v1/invitations:accept").unwrap().verb, "accept");
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for text in [
            "",
            "v1",
            "/",
            "/v1/",
            "//v1",
            "/v1/{}",
            "/v1/{a",
            "/v1/a}",
            "/v1/{a}b",
            "/v1/{a=**}",
            "/v1/{a=x/*}",
            "/v1/{a..b}",
            "/v1/*",
            "/v1/a b",
            "/v1/x:",
            "/v1/x:a:b",
            "/v1/x:a/b",
            "/v1/{a}:",
            "/v1/%41",
        ] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }
}
