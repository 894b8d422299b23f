//! The well-known types that JSON writes as one string: instants, durations, field masks.

/// The seconds of 0001-01-01T00:00:00Z and of 9999-12-31T23:59:59Z.
const INSTANTS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
/// Ten thousand years of 365.25 days, as duration.proto has it.
const DURATION_SECONDS: i64 = 315_576_000_000;

/// Seconds and nanoseconds of an RFC 3339 text such as `2026-01-31T12:00:00.5Z`.
pub(crate) fn parse_timestamp(text: &str) -> Option<(i64, i32)> {
    let (date, time) = text.split_once('T')?;
    let [year, month, day] = fields(date, '-', [4, 2, 2])?;
    let zone_at = time.find(['Z', '+', '-'])?;
    let (clock, zone) = time.split_at(zone_at);
    let (clock, fraction) = clock
        .split_once('.')
        .map_or((clock, None), |(whole, rest)| (whole, Some(rest)));
    let [hour, minute, second] = fields(clock, ':', [2, 2, 2])?;
    if !(1..=9999).contains(&year) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = days_since_1970(year, month, day)?;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - offset(zone)?;
    let nanos = fraction.map_or(Some(0), nanoseconds)?;
    INSTANTS.contains(&seconds).then_some((seconds, nanos))
}

fn fields(text: &str, separator: char, widths: [usize; 3]) -> Option<[i64; 3]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; 3];
    for (number, width) in numbers.iter_mut().zip(widths) {
        *number = digits(parts.next()?, width)?;
    }
    parts.next().is_none().then_some(numbers)
}

fn digits(text: &str, width: usize) -> Option<i64> {
    let right = text.len() == width && text.bytes().all(|byte| byte.is_ascii_digit());
    right.then(|| text.parse().ok()).flatten()
}

fn offset(zone: &str) -> Option<i64> {
    if zone == "Z" {
        return Some(0);
    }
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let (hours, minutes) = (digits(hours, 2)?, digits(minutes, 2)?);
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 3600 + minutes * 60))
}

fn nanoseconds(fraction: &str) -> Option<i32> {
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: i32 = fraction.parse().ok()?;
    Some(value * 10_i32.pow(9 - fraction.len() as u32))
}

/// Days of the proleptic Gregorian calendar; none for a day that the month does not have.
fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let longest = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=longest).contains(&day) {
        return None;
    }
    // Years begin in March, so that the leap day is the last one.
    let (year, month) = if month <= 2 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let day_of_era = of_era * 365 + of_era / 4 - of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// Writes an instant; none for one outside the years 1 to 9999.
pub(crate) fn write_timestamp(out: &mut Vec<u8>, seconds: i64, nanos: i32) -> Option<()> {
    if !INSTANTS.contains(&seconds) || !(0..1_000_000_000).contains(&nanos) {
        return None;
    }
    let (days, clock) = (seconds.div_euclid(86_400) + 719_468, seconds.rem_euclid(86_400));
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * of_era + of_era / 4 - of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
    put(out, year, 4);
    for (number, before) in [
        (month, b'-'),
        (day, b'-'),
        (hour, b'T'),
        (minute, b':'),
        (second, b':'),
    ] {
        out.push(before);
        put(out, number, 2);
    }
    write_nanos(out, nanos);
    out.push(b'Z');
    Some(())
}

fn put(out: &mut Vec<u8>, number: i64, width: u32) {
    for place in (0..width).rev() {
        out.push(b'0' + (number / 10_i64.pow(place) % 10) as u8);
    }
}

/// With 0, 3, 6 or 9 digits.
fn write_nanos(out: &mut Vec<u8>, nanos: i32) {
    let (value, width) = match nanos {
        0 => return,
        _ if nanos % 1_000_000 == 0 => (nanos / 1_000_000, 3),
        _ if nanos % 1000 == 0 => (nanos / 1000, 6),
        _ => (nanos, 9),
    };
    out.push(b'.');
    put(out, value.into(), width);
}

/// Seconds and nanoseconds, of one sign, of a text such as `-1.5s`.
pub(crate) fn parse_duration(text: &str) -> Option<(i64, i32)> {
    let number = text.strip_suffix('s')?;
    let (negative, number) = number
        .strip_prefix('-')
        .map_or((false, number), |rest| (true, rest));
    let (whole, fraction) = number
        .split_once('.')
        .map_or((number, None), |(whole, rest)| (whole, Some(rest)));
    if whole.is_empty() || whole.len() > 12 || !whole.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let nanos = fraction.map_or(Some(0), nanoseconds)?;
    if seconds > DURATION_SECONDS || (seconds == DURATION_SECONDS && nanos > 0) {
        return None;
    }
    Some(if negative {
        (-seconds, -nanos)
    } else {
        (seconds, nanos)
    })
}

/// Writes a duration; none for one that is too long or of two signs.
pub(crate) fn write_duration(out: &mut Vec<u8>, seconds: i64, nanos: i32) -> Option<()> {
    let two_signs = (seconds > 0 && nanos < 0) || (seconds < 0 && nanos > 0);
    if two_signs || seconds.abs() > DURATION_SECONDS || nanos.abs() > 999_999_999 {
        return None;
    }
    if seconds < 0 || nanos < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(seconds.abs().to_string().as_bytes());
    write_nanos(out, nanos.abs());
    out.push(b's');
    Some(())
}

/// The paths of a mask as proto names them. `both`: a path may also be written so already, as in a query.
pub(crate) fn parse_mask(text: &str, both: bool) -> Option<Vec<String>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    text.split(',').map(|path| snake_case(path, both)).collect()
}

fn snake_case(path: &str, both: bool) -> Option<String> {
    if path
        .split('.')
        .any(|name| !name.starts_with(|first: char| first.is_ascii_alphabetic()))
    {
        return None;
    }
    let mut snake = String::with_capacity(path.len() + 4);
    for character in path.chars() {
        match character {
            'A'..='Z' => {
                snake.push('_');
                snake.push(character.to_ascii_lowercase());
            }
            'a'..='z' | '0'..='9' | '.' => snake.push(character),
            '_' if both => snake.push(character),
            _ => return None,
        }
    }
    Some(snake)
}

/// A path of a mask as JSON writes it; none for one that could not be read back.
pub(crate) fn camel_case(path: &str) -> Option<String> {
    let mut camel = String::with_capacity(path.len());
    let mut characters = path.chars();
    while let Some(character) = characters.next() {
        match character {
            '_' => camel.push(
                characters
                    .next()
                    .filter(char::is_ascii_lowercase)?
                    .to_ascii_uppercase(),
            ),
            'A'..='Z' => return None,
            other => camel.push(other),
        }
    }
    Some(camel)
}

#[cfg(test)]
mod tests {
    use super::{camel_case, parse_duration, parse_mask, parse_timestamp, write_duration, write_timestamp};

    #[test]
    fn instants_are_read_and_written() {
        for (text, seconds, nanos, back) in [
            ("1970-01-01T00:00:00Z", 0, 0, "1970-01-01T00:00:00Z"),
            ("0001-01-01T00:00:00Z", -62_135_596_800, 0, "0001-01-01T00:00:00Z"),
            (
                "9999-12-31T23:59:59.999999999Z",
                253_402_300_799,
                999_999_999,
                "9999-12-31T23:59:59.999999999Z",
            ),
            (
                "2000-02-29T12:34:56.5Z",
                951_827_696,
                500_000_000,
                "2000-02-29T12:34:56.500Z",
            ),
            (
                "2026-11-21T23:30:00+01:30",
                1_795_298_400,
                0,
                "2026-11-21T22:00:00Z",
            ),
            (
                "1969-12-31T23:59:59.000001Z",
                -1,
                1000,
                "1969-12-31T23:59:59.000001Z",
            ),
            (
                "1972-01-01T00:00:00.000000001-08:00",
                63_100_800,
                1,
                "1972-01-01T08:00:00.000000001Z",
            ),
        ] {
            assert_eq!(parse_timestamp(text), Some((seconds, nanos)), "{text}");
            let mut out = Vec::new();
            write_timestamp(&mut out, seconds, nanos).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), back);
        }
    }

    #[test]
    fn what_is_no_instant_is_refused() {
        for text in [
            "",
            "T",
            "Z",
            "1970-01-01",
            "1970-01-01T00:00:00",
            "1970-01-01t00:00:00Z",
            "1970-01-01T00:00:00z",
            "1970-01-01T00:00:60Z",
            "1970-01-01T24:00:00Z",
            "1970-02-29T00:00:00Z",
            "1970-13-01T00:00:00Z",
            "1970-00-01T00:00:00Z",
            "0000-01-01T00:00:00Z",
            "10000-01-01T00:00:00Z",
            "1970-1-01T00:00:00Z",
            "1970-01-01T00:00:00.Z",
            "1970-01-01T00:00:00.1234567890Z",
            "1970-01-01T00:00:00+1:00",
            "1970-01-01T00:00:00+24:00",
            "1970-01-01T00:00:00Z ",
            " 1970-01-01T00:00:00Z",
            "0001-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            "1970-01-01T00:00:00+é",
            "+970-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_timestamp(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_read_and_written() {
        for (text, seconds, nanos, back) in [
            ("0s", 0, 0, "0s"),
            ("-0s", 0, 0, "0s"),
            ("1.5s", 1, 500_000_000, "1.500s"),
            ("-0.000000001s", 0, -1, "-0.000000001s"),
            ("-3.25s", -3, -250_000_000, "-3.250s"),
            ("315576000000s", 315_576_000_000, 0, "315576000000s"),
        ] {
            assert_eq!(parse_duration(text), Some((seconds, nanos)), "{text}");
            let mut out = Vec::new();
            write_duration(&mut out, seconds, nanos).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), back);
        }
        for text in [
            "",
            "s",
            "1",
            "1.s",
            ".5s",
            "1S",
            "--1s",
            "+1s",
            "1e3s",
            "315576000000.1s",
            "315576000001s",
            "1.0000000001s",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        assert_eq!(write_duration(&mut Vec::new(), 1, -1), None);
    }

    #[test]
    fn masks_are_camel_case_in_json() {
        assert_eq!(
            parse_mask("fooBar,baz.quxQuux", false),
            Some(vec!["foo_bar".into(), "baz.qux_quux".into()])
        );
        assert_eq!(parse_mask("", false), Some(vec![]));
        assert_eq!(parse_mask("foo_bar", false), None);
        assert_eq!(
            parse_mask("foo_bar,fooBar", true),
            Some(vec!["foo_bar".into(), "foo_bar".into()])
        );
        for text in [",", "a,", "a b", "a-b", "é", "1", "a.", ".a", "a..b", "a.1"] {
            assert_eq!(parse_mask(text, true), None, "{text}");
        }
        assert_eq!(camel_case("foo_bar.baz"), Some("fooBar.baz".into()));
        for path in ["fooBar", "foo__bar", "foo_", "foo_3"] {
            assert_eq!(camel_case(path), None, "{path}");
        }
    }
}
