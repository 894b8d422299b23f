//! The last net: what looks like a credential is blanked before it leaves the process in a log or a trace.

use std::borrow::Cow;

/// What stands in a secret's place.
pub(super) const BLANK: &str = "***";

/// Whether a field of this name holds a secret, whatever its value looks like.
pub(super) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace(['-', '.'], "_");
    [
        "password",
        "passwd",
        "secret",
        "token",
        "authorization",
        "cookie",
        "api_key",
        "private_key",
        "dsn",
        "mfa_code",
        "totp",
        "recovery_code",
    ]
    .iter()
    .any(|word| name.contains(word))
}

/// What begins a credential; it ends at the first byte that cannot be part of it.
const PREFIXES: [&str; 3] = ["bearer ", "basic ", "bt_live_"];

/// What names a credential, as in `password=x`, `"password":"x"` and `password: "x"`.
const NAMES: [&str; 6] = ["password", "passwd", "pwd", "secret", "token", "api_key"];

/// `text` without API keys, bearer tokens, JSON web tokens, `password=…` and the user part of URLs.
pub(super) fn text(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut clean = String::new();
    let mut kept = 0;
    let mut at = 0;
    while at < bytes.len() {
        let Some((from, to)) = credential(text, at) else {
            at += 1;
            continue;
        };
        clean.push_str(&text[kept..from]);
        clean.push_str(BLANK);
        (kept, at) = (to, to);
    }
    if kept == 0 {
        return Cow::Borrowed(text);
    }
    clean.push_str(&text[kept..]);
    Cow::Owned(clean)
}

/// The secret part of a credential that begins at `at`: never empty, and cut where ASCII is.
fn credential(text: &str, at: usize) -> Option<(usize, usize)> {
    let rest = &text.as_bytes()[at..];
    let (offset, ends): (usize, fn(u8) -> bool) = match rest[0].to_ascii_lowercase() {
        b'b' | b'p' | b's' | b't' | b'a' => {
            let offset = PREFIXES
                .iter()
                .find_map(|prefix| begins(rest, prefix))
                .or_else(|| NAMES.iter().find_map(|name| named(rest, name)))?;
            (offset, |byte| {
                byte.is_ascii_whitespace() || b"&;,\"'".contains(&byte)
            })
        }
        b'e' if rest.starts_with(b"eyJ") && has_dot(rest) => (0, |byte| !is_token(byte)),
        b':' if rest.starts_with(b"://") => {
            let authority = rest[3..]
                .iter()
                .take_while(|byte| !byte.is_ascii_whitespace() && !b"/?#\"'".contains(byte))
                .count();
            let user = rest[3..3 + authority].iter().rposition(|byte| *byte == b'@')?;
            return (user > 0).then_some((at + 3, at + 3 + user));
        }
        _ => return None,
    };
    let length = rest[offset..].iter().take_while(|byte| !ends(**byte)).count();
    (length > 0).then_some((at + offset, at + offset + length))
}

/// The length of `prefix` if `rest` begins with it, whatever the case.
fn begins(rest: &[u8], prefix: &str) -> Option<usize> {
    let start = rest.get(..prefix.len())?;
    start
        .eq_ignore_ascii_case(prefix.as_bytes())
        .then_some(prefix.len())
}

/// Where the value begins if `rest` begins with `name` and what stands between a name and its value.
fn named(rest: &[u8], name: &str) -> Option<usize> {
    let end = begins(rest, name)?;
    ["=\"", "=", "\":\"", "\": \"", ": \""]
        .iter()
        .find_map(|between| begins(&rest[end..], between))
        .map(|between| end + between)
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.=".contains(&byte)
}

fn has_dot(rest: &[u8]) -> bool {
    rest.iter()
        .take_while(|byte| is_token(**byte))
        .any(|byte| *byte == b'.')
}

#[cfg(test)]
mod tests {
    use super::{is_secret, text};

    #[test]
    fn credentials_are_blanked_and_the_rest_stays() {
        for (before, after) in [
            ("nothing to hide", "nothing to hide"),
            (
                "Authorization: Bearer abc.def-1, then",
                "Authorization: Bearer ***, then",
            ),
            ("key bt_live_0123abc refused", "key bt_live_*** refused"),
            ("got eyJhbGciOi.eyJzdWIi.c2ln!", "got ***!"),
            ("eyJ is no token", "eyJ is no token"),
            ("postgres://trailmesh:p@ss@db:5432/x", "postgres://***@db:5432/x"),
            ("https://example.org/a@b", "https://example.org/a@b"),
            ("host=db PASSWORD=hunter2 port=1", "host=db PASSWORD=*** port=1"),
            ("/verify?token=abc&x=1", "/verify?token=***&x=1"),
            ("password=", "password="),
            (
                r#"{"access_token":"abc","x":1}"#,
                r#"{"access_token":"***","x":1}"#,
            ),
            (r#"Login { password: "abc" }"#, r#"Login { password: "***" }"#),
            ("a token: it has expired", "a token: it has expired"),
            ("schlüssel=ü token=ü!", "schlüssel=ü token=***"),
            ("bearer x bearer y", "bearer *** bearer ***"),
        ] {
            assert_eq!(text(before), after);
        }
    }

    #[test]
    fn fields_that_hold_secrets_are_known_by_name() {
        for name in [
            "authorization",
            "X-MFA-Code",
            "refresh_token",
            "db.password",
            "set-cookie",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["code", "method", "path", "tenant", "request_id", "duration_ms"] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
