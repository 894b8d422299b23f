//! Instants in microseconds since 1970-01-01 UTC, without a calendar library.

use std::{fmt, str::FromStr};

/// Microseconds since 1970-01-01T00:00:00Z. `Display` writes RFC 3339 in UTC, with six digits of fraction unless it is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Micros(pub i64);

/// The text is not an instant this type understands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MicrosError;

impl fmt::Display for MicrosError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a time: write 2026-11-21T10:00:00Z, 2026-11-21 10:00:00.5+02:00, 2026-11-21, or an age such as 90s, 15m, 2h, 3d")
    }
}

impl std::error::Error for MicrosError {}

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

impl Micros {
    /// From whole seconds since the epoch.
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs * SECOND)
    }

    /// Parses `text`, taking an age such as `15m` as that long before `now`.
    pub fn parse_relative(text: &str, now: Micros) -> Result<Self, MicrosError> {
        if text == "now" {
            return Ok(now);
        }
        let unit = match text.as_bytes().last() {
            Some(b's') => SECOND,
            Some(b'm') => 60 * SECOND,
            Some(b'h') => 3_600 * SECOND,
            Some(b'd') => DAY,
            _ => return text.parse(),
        };
        let count: i64 = text[..text.len() - 1].parse().map_err(|_| MicrosError)?;
        if count < 0 {
            return Err(MicrosError);
        }
        let age = count.checked_mul(unit).ok_or(MicrosError)?;
        Ok(Self(now.0.checked_sub(age).ok_or(MicrosError)?))
    }

    /// Year, month, day, hour, minute, second, microsecond in UTC (proleptic Gregorian calendar).
    pub fn civil(self) -> (i64, u32, u32, u32, u32, u32, u32) {
        let days = self.0.div_euclid(DAY);
        let rest = self.0.rem_euclid(DAY);
        let (year, month, day) = civil_from_days(days);
        let secs = rest / SECOND;
        let part = |unit: i64, modulus: i64| u32::try_from(secs / unit % modulus).unwrap_or_default();
        (
            year,
            month,
            day,
            part(3_600, 24),
            part(60, 60),
            part(1, 60),
            u32::try_from(rest % SECOND).unwrap_or_default(),
        )
    }
}

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day, hour, minute, second, micro) = self.civil();
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"
        )?;
        if micro != 0 {
            write!(f, ".{micro:06}")?;
        }
        f.write_str("Z")
    }
}

impl FromStr for Micros {
    type Err = MicrosError;

    /// RFC 3339, with a space allowed for the `T`, the seconds, the fraction and the zone optional (UTC when left out), or a bare date.
    fn from_str(text: &str) -> Result<Self, MicrosError> {
        parse(text.trim()).ok_or(MicrosError)
    }
}

fn parse(text: &str) -> Option<Micros> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        digits.parse().ok()
    };
    let mark = |at: usize, allowed: &[u8]| text.as_bytes().get(at).is_some_and(|b| allowed.contains(b));
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    if !mark(4, b"-")
        || !mark(7, b"-")
        || !(1..=12).contains(&month)
        || day < 1
        || day > days_in_month(year, month)
    {
        return None;
    }
    let midnight = days_from_civil(year, month, day) * DAY;
    if text.len() == 10 {
        return Some(Micros(midnight));
    }
    let (hour, minute) = (number(11..13)?, number(14..16)?);
    if !mark(10, b"Tt ") || !mark(13, b":") || hour > 23 || minute > 59 {
        return None;
    }
    let (second, micro, mut at) = if mark(16, b":") {
        seconds(text, number(17..19)?)?
    } else {
        (0, 0, 16)
    };
    let offset = zone(text.get(at..)?, &mut at)?;
    Some(Micros(
        midnight + ((hour * 60 + minute - offset) * 60 + second) * SECOND + micro,
    ))
}

/// Seconds and microseconds, and where the zone begins.
fn seconds(text: &str, second: i64) -> Option<(i64, i64, usize)> {
    if second > 59 {
        return None;
    }
    if text.as_bytes().get(19) != Some(&b'.') {
        return Some((second, 0, 19));
    }
    let digits = text[20..].bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 || digits > 9 {
        return None;
    }
    let mut micro = 0;
    for at in 0..6 {
        let digit = if at < digits {
            i64::from(text.as_bytes()[20 + at] - b'0')
        } else {
            0
        };
        micro = micro * 10 + digit;
    }
    Some((second, micro, 20 + digits))
}

/// Minutes east of UTC.
fn zone(text: &str, at: &mut usize) -> Option<i64> {
    *at += text.len();
    let sign = match text.as_bytes() {
        [] | [b'Z' | b'z'] => return Some(0),
        [b'+', ..] => 1,
        [b'-', ..] => -1,
        _ => return None,
    };
    let digits: String = text[1..].chars().filter(|c| *c != ':').collect();
    if digits.len() != 4 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (hours, minutes): (i64, i64) = (digits[..2].parse().ok()?, digits[2..].parse().ok()?);
    (hours <= 15 && minutes <= 59).then_some(sign * (hours * 60 + minutes))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since the epoch of a date, by eras of 400 years that begin in March so that the leap day comes last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (
        year,
        u32::try_from(month).unwrap_or_default(),
        u32::try_from(day).unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::Micros;

    #[test]
    fn instants_are_written_and_read_back() {
        for text in [
            "1970-01-01T00:00:00Z",
            "2026-11-21T10:00:00.123456Z",
            "2024-02-29T23:59:59.000001Z",
            "1969-12-31T23:59:59.999999Z",
        ] {
            assert_eq!(text.parse::<Micros>().map(|m| m.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(
            "2038-01-19T03:14:08Z".parse(),
            Ok(Micros::from_secs(2_147_483_648))
        );
    }

    #[test]
    fn zones_and_short_forms_are_understood() {
        let ten = "2026-11-21T10:00:00Z".parse::<Micros>();
        assert_eq!("2026-11-21 12:00:00+02:00".parse::<Micros>(), ten);
        assert_eq!("2026-11-21T04:30-0530".parse::<Micros>(), ten);
        assert_eq!("2026-11-21T10:00".parse::<Micros>(), ten);
        assert_eq!("2026-11-21".parse::<Micros>(), "2026-11-21T00:00:00Z".parse());
    }

    #[test]
    fn impossible_times_are_refused() {
        for text in [
            "",
            "yesterday",
            "2026-02-30",
            "2026-13-01",
            "2026-11-21T24:00:00Z",
            "2026-11-21T10:61",
            "2026-11-21T10:00:00.Z",
            "2026-11-21x10:00",
            "-5m",
            "5y",
            "２026-11-21",
        ] {
            assert!(Micros::parse_relative(text, Micros(0)).is_err(), "{text}");
        }
    }

    #[test]
    fn ages_count_back_from_now() {
        let now = Micros::from_secs(1_000_000);
        assert_eq!(Micros::parse_relative("90s", now), Ok(Micros::from_secs(999_910)));
        assert_eq!(Micros::parse_relative("2h", now), Ok(Micros::from_secs(992_800)));
    }
}
