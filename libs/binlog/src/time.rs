//! Dates and times as the row image packs them (`sql-common/my_time.cc`), written as MySQL prints them.

use types::Micros;

use crate::{
    error::Problem,
    read::{Bytes, be_uint},
};

/// Bytes of a fraction of `fsp` digits.
pub(crate) fn fraction_len(fsp: u8) -> usize {
    usize::from(fsp.div_ceil(2))
}

/// `.123` with exactly `fsp` digits; nothing for 0.
fn fraction(micros: u64, fsp: u8) -> String {
    if fsp == 0 {
        return String::new();
    }
    let digits = format!("{micros:06}");
    format!(".{}", &digits[..usize::from(fsp).min(6)])
}

/// Microseconds from the big-endian fraction that follows `whole` bytes of `raw`.
fn micros(raw: &[u8], whole: usize, fsp: u8) -> u64 {
    let value = be_uint(raw.get(whole..).unwrap_or_default());
    value * 100_u64.pow(3 - u32::from(fsp.div_ceil(2).min(3)))
}

/// `DATE`: day in 5 bits, month in 4, year above.
pub(crate) fn date(value: u64) -> String {
    format!("{:04}-{:02}-{:02}", value >> 9, value >> 5 & 15, value & 31)
}

/// `DATETIME(fsp)`: 40 bits with the sign bit set, 17 bits of year × 13 + month, 5 day, 5 hour, 6 minute, 6 second.
pub(crate) fn datetime2(raw: &[u8], fsp: u8) -> Result<String, Problem> {
    let whole = be_uint(Bytes(raw).take(5)?).wrapping_sub(0x80_0000_0000);
    if whole >> 39 != 0 {
        return Err(Problem::Row("a DATETIME is negative".into()));
    }
    Ok(packed_datetime(whole, micros(raw, 5, fsp), fsp))
}

/// The 39 bits shared by `DATETIME` and the times inside JSON.
pub(crate) fn packed_datetime(whole: u64, micros: u64, fsp: u8) -> String {
    let (days, seconds) = (whole >> 17, whole & 0x1_FFFF);
    let months = days >> 5;
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}{}",
        months / 13,
        months % 13,
        days & 31,
        seconds >> 12,
        seconds >> 6 & 63,
        seconds & 63,
        fraction(micros, fsp)
    )
}

/// `TIMESTAMP(fsp)` in UTC: seconds since the epoch, 0 being the zero date.
pub(crate) fn timestamp2(raw: &[u8], fsp: u8) -> Result<String, Problem> {
    let seconds = be_uint(Bytes(raw).take(4)?);
    Ok(timestamp(
        u32::try_from(seconds).unwrap_or_default(),
        micros(raw, 4, fsp),
        fsp,
    ))
}

pub(crate) fn timestamp(seconds: u32, micros: u64, fsp: u8) -> String {
    if seconds == 0 && micros == 0 {
        return format!("0000-00-00 00:00:00{}", fraction(0, fsp));
    }
    let (year, month, day, hour, minute, second, _) = Micros::from_secs(i64::from(seconds)).civil();
    format!(
        "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}{}",
        fraction(micros, fsp)
    )
}

/// `TIME(fsp)`: whole and fraction form one two's-complement number, so a negative time's fraction counts down.
pub(crate) fn time2(raw: &[u8], fsp: u8) -> Result<String, Problem> {
    let tail = fraction_len(fsp);
    let mut bytes = Bytes(raw);
    let value = be_uint(bytes.take(3 + tail)?).cast_signed() - (0x80_0000_i64 << (8 * tail));
    let (sign, value) = if value < 0 {
        ("-", value.unsigned_abs())
    } else {
        ("", value.unsigned_abs())
    };
    let fraction_bits = 8 * tail;
    let micros =
        (value & ((1 << fraction_bits) - 1)) * 100_u64.pow(3 - u32::try_from(tail).unwrap_or(3).min(3));
    Ok(format!(
        "{sign}{}",
        packed_time(value >> fraction_bits, micros, fsp)
    ))
}

/// 10 bits of hours, 6 of minutes, 6 of seconds.
pub(crate) fn packed_time(whole: u64, micros: u64, fsp: u8) -> String {
    format!(
        "{:02}:{:02}:{:02}{}",
        whole >> 12 & 1023,
        whole >> 6 & 63,
        whole & 63,
        fraction(micros, fsp)
    )
}

/// `TIME` before MySQL 5.6: the decimal number HHMMSS in three bytes, two's complement.
pub(crate) fn old_time(value: u64) -> String {
    let signed = (value << 40).cast_signed() >> 40;
    let (sign, value) = if signed < 0 {
        ("-", signed.unsigned_abs())
    } else {
        ("", signed.unsigned_abs())
    };
    format!(
        "{sign}{:02}:{:02}:{:02}",
        value / 10_000,
        value / 100 % 100,
        value % 100
    )
}

/// `DATETIME` before MySQL 5.6: the decimal number YYYYMMDDHHMMSS.
pub(crate) fn old_datetime(value: u64) -> String {
    let (date, time) = (value / 1_000_000, value % 1_000_000);
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
        date / 10_000,
        date / 100 % 100,
        date % 100,
        time / 10_000,
        time / 100 % 100,
        time % 100
    )
}

#[cfg(test)]
mod tests {
    use super::{date, datetime2, old_time, time2, timestamp2};

    #[test]
    fn negative_times_keep_their_fraction() {
        // -00:00:01.50 as TIME(2): whole -2 and fraction 0x100 - 50 form one number.
        assert_eq!(time2(&[0x7F, 0xFF, 0xFE, 0xCE], 2).as_deref(), Ok("-00:00:01.50"));
        assert_eq!(time2(&[0x7F, 0xFF, 0xFF], 0).as_deref(), Ok("-00:00:01"));
        assert_eq!(time2(&[0xB4, 0x6E, 0xFB], 0).as_deref(), Ok("838:59:59"));
        assert_eq!(time2(&[0x80, 0, 0, 0, 0, 1], 6).as_deref(), Ok("00:00:00.000001"));
    }

    #[test]
    fn dates_are_printed_as_the_server_does() {
        assert_eq!(date(2026 << 9 | 11 << 5 | 21), "2026-11-21");
        assert_eq!(date(0), "0000-00-00");
        assert_eq!(
            datetime2(&[0x80, 0, 0, 0, 0], 0).as_deref(),
            Ok("0000-00-00 00:00:00")
        );
        assert_eq!(timestamp2(&[0, 0, 0, 0], 0).as_deref(), Ok("0000-00-00 00:00:00"));
        assert_eq!(
            timestamp2(&[0x7F, 0xFF, 0xFF, 0xFF, 0x0F, 0x42, 0x3F], 6).as_deref(),
            Ok("2038-01-19 03:14:07.999999")
        );
        assert_eq!(old_time(0xFF_FFFF), "-00:00:01");
    }
}
