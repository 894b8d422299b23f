//! Stripe's signature of an event: `t=<seconds>,v1=<hex of HMAC-SHA256(secret, t "." body)>`, with further `v1` while a secret is being
//! changed. Only `v1` counts: `v0` is Stripe's own test scheme, and a scheme of the future may not be weaker by being unknown here.
//!
//! Source: Stripe's documentation, "Verify webhook signatures manually".

use ring::hmac;

/// How far the signature's time may be from ours, either way: seconds.
const SKEW: u64 = 300;

/// A header that is longer is none of Stripe's.
const LONGEST: usize = 4_096;

/// So many signatures are looked at; Stripe makes one for each secret of the last day.
const SIGNATURES: usize = 16;

/// Whether one of `secrets` signed `body`, within five minutes of `now` (seconds since 1970).
///
/// All signatures are compared with all secrets, each comparison in constant time, so that the time it takes says nothing of which fits.
pub(crate) fn holds(header: &str, body: &[u8], secrets: &[hmac::Key], now: i64) -> bool {
    let Some((time, signatures)) = read(header) else {
        return false;
    };
    let Ok(signed) = time.parse::<i64>() else {
        return false;
    };
    let mut message = Vec::with_capacity(time.len() + 1 + body.len());
    message.extend_from_slice(time.as_bytes());
    message.push(b'.');
    message.extend_from_slice(body);
    let mut found = false;
    for secret in secrets {
        for signature in &signatures {
            found |= hmac::verify(secret, &message, signature).is_ok();
        }
    }
    found && signed.abs_diff(now) <= SKEW
}

/// The only time, as it was written, and all signatures of scheme `v1`.
fn read(header: &str) -> Option<(&str, Vec<[u8; 32]>)> {
    if header.len() > LONGEST {
        return None;
    }
    let (mut time, mut signatures) = (None, Vec::new());
    for part in header.split(',') {
        let (name, value) = part.split_once('=')?;
        match name {
            "t" if time.is_some() => return None,
            "t" => time = Some(digits(value)?),
            "v1" if signatures.len() == SIGNATURES => return None,
            "v1" => signatures.push(hex(value)?),
            _ => {}
        }
    }
    Some((time?, signatures))
}

/// What `parse` alone would let pass too: signs.
fn digits(text: &str) -> Option<&str> {
    let whole = (1..=18).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    whole.then_some(text)
}

/// 32 bytes in lower case, as Stripe writes them.
fn hex(text: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use ring::hmac;

    use super::holds;

    const NOW: i64 = 1_780_000_000;
    const BODY: &[u8] = br#"{"id":"evt_1", "object":"event"}"#;
    const FIRST: &str = "whsec_first";
    const SECOND: &str = "whsec_second";

    fn key(secret: &str) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())
    }

    fn sign(secret: &str, time: &str, body: &[u8]) -> String {
        let tag = hmac::sign(&key(secret), &[time.as_bytes(), b".", body].concat());
        tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn header(time: &str) -> String {
        format!("t={time},v1={}", sign(FIRST, time, BODY))
    }

    fn holds_now(header: &str, body: &[u8]) -> bool {
        holds(header, body, &[key(FIRST), key(SECOND)], NOW)
    }

    #[test]
    fn every_secret_and_every_v1_counts() {
        let t = NOW.to_string();
        let (good, other, wrong) = (
            sign(FIRST, &t, BODY),
            sign(SECOND, &t, BODY),
            sign("whsec_wrong", &t, BODY),
        );
        for (header, expected) in [
            (format!("t={t},v1={good}"), true),
            (format!("v1={good},t={t}"), true),
            (format!("t={t},v1={other}"), true),
            (format!("t={t},v1={wrong},v1={good}"), true),
            (format!("t={t},v1={good},v1={wrong}"), true),
            (format!("t={t},v1={good},v0={wrong}"), true),
            (format!("t={t},v0={wrong},v2={wrong},v1={other}"), true),
            (format!("t={t},v1={wrong}"), false),
            (format!("t={t},v0={good}"), false),
            (format!("t={t},v2={good}"), false),
            (format!("t={t}"), false),
            (format!("v1={good}"), false),
            (format!("t={t},t={t},v1={good}"), false),
            (format!("T={t},V1={good}"), false),
        ] {
            assert_eq!(holds_now(&header, BODY), expected, "{header}");
        }
        // After a secret was taken out of use.
        let old = format!("t={t},v1={good}");
        assert!(!holds(&old, BODY, &[key(SECOND)], NOW) && !holds(&old, BODY, &[], NOW));
    }

    #[test]
    fn the_time_is_within_five_minutes_either_way() {
        for (skew, expected) in [
            (0, true),
            (300, true),
            (-300, true),
            (301, false),
            (-301, false),
            (86_400, false),
            (-86_400, false),
        ] {
            let time = (NOW + skew).to_string();
            assert_eq!(holds_now(&header(&time), BODY), expected, "{skew}");
        }
    }

    #[test]
    fn a_time_is_written_in_plain_digits() {
        for time in [
            "",
            "+1780000000",
            "-1780000000",
            " 1780000000",
            "1780000000 ",
            "1780000000.0",
            "1.78e9",
            "0x6a18be00",
            // Arabic-Indic and full-width digits.
            "١٧٨٠٠٠٠٠٠٠",
            "１７８０００００００",
            "9223372036854775808",
            "99999999999999999999999999",
            "999999999999999999",
        ] {
            assert!(!holds_now(&header(time), BODY), "{time:?}");
        }
        // Leading zeros are signed as they stand.
        assert!(holds_now(&header("0001780000000"), BODY));
    }

    #[test]
    fn the_body_is_signed_to_the_byte() {
        let time = NOW.to_string();
        let header = header(&time);
        assert!(holds_now(&header, BODY));
        for body in [
            // Written anew by a parser, other ends of lines, a space, a byte order mark, nothing.
            br#"{"id":"evt_1","object":"event"}"#.to_vec(),
            [BODY, b"\r\n"].concat(),
            [BODY, b"\n"].concat(),
            [BODY, b" "].concat(),
            [b"\xef\xbb\xbf", BODY].concat(),
            Vec::new(),
        ] {
            assert!(!holds_now(&header, &body), "{body:?}");
        }
    }

    #[test]
    fn what_is_nearly_a_header_is_none() {
        let time = NOW.to_string();
        let good = sign(FIRST, &time, BODY);
        for header in [
            String::new(),
            "=".to_owned(),
            ",".to_owned(),
            format!("t={time},v1={good} "),
            format!(" t={time},v1={good}"),
            format!("t={time}, v1={good}"),
            format!("t={time},v1={good},"),
            format!("t={time},v1={good}\r\n"),
            format!("t={time};v1={good}"),
            format!("t={time},v1={}", good.to_uppercase()),
            format!("t={time},v1={}", &good[..63]),
            format!("t={time},v1={good}00"),
            format!("t={time},v1={}", "v1=".repeat(2_000)),
            format!("t={time}{}", format!(",v1={good}").repeat(17)),
        ] {
            assert!(!holds_now(&header, BODY), "{header:?}");
        }
    }
}
