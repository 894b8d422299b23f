//! `DECIMAL` in MySQL's packed form (`strings/decimal.c`, `decimal2bin`): nine digits in four bytes, big-endian, the first bit
//! inverted, and every bit inverted for negative numbers.

use std::fmt::Write;

use crate::{
    error::Problem,
    read::{Bytes, be_uint},
};

/// Bytes that hold 0 to 9 digits.
const BYTES_OF_DIGITS: [usize; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];

/// Length in bytes of a packed `DECIMAL(precision, scale)`.
pub(crate) fn packed_len(precision: u8, scale: u8) -> usize {
    let side = |digits: u8| usize::from(digits / 9) * 4 + BYTES_OF_DIGITS[usize::from(digits % 9)];
    side(precision.saturating_sub(scale)) + side(scale)
}

/// The number as text with exactly `scale` digits after the point.
pub(crate) fn text(raw: &[u8], precision: u8, scale: u8) -> Result<String, Problem> {
    let mut bytes = raw.to_vec();
    if bytes.len() != packed_len(precision, scale) || bytes.is_empty() {
        return Err(Problem::Row(format!(
            "a DECIMAL({precision},{scale}) of {} bytes",
            raw.len()
        )));
    }
    let negative = bytes[0] & 0x80 == 0;
    bytes[0] ^= 0x80;
    if negative {
        bytes.iter_mut().for_each(|byte| *byte = !*byte);
    }
    let mut rest = Bytes(&bytes);
    let whole = precision.saturating_sub(scale);
    let mut digits = String::new();
    group(&mut rest, whole % 9, &mut digits)?;
    for _ in 0..whole / 9 {
        group(&mut rest, 9, &mut digits)?;
    }
    let significant = digits.trim_start_matches('0');
    let mut out = String::from(if negative { "-" } else { "" });
    out.push_str(if significant.is_empty() { "0" } else { significant });
    if scale > 0 {
        out.push('.');
        for _ in 0..scale / 9 {
            group(&mut rest, 9, &mut out)?;
        }
        group(&mut rest, scale % 9, &mut out)?;
    }
    Ok(out)
}

fn group(rest: &mut Bytes<'_>, digits: u8, out: &mut String) -> Result<(), Problem> {
    if digits == 0 {
        return Ok(());
    }
    let value = be_uint(rest.take(BYTES_OF_DIGITS[usize::from(digits)])?);
    if value >= 10_u64.pow(u32::from(digits)) {
        return Err(Problem::Row(
            "a DECIMAL holds a group with too many digits".into(),
        ));
    }
    // Writing to a String cannot fail.
    let _ = write!(out, "{value:0width$}", width = usize::from(digits));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{packed_len, text};

    #[test]
    fn packed_numbers_are_read_exactly() {
        // MySQL's own example in decimal.c: 1234567890.1234 as DECIMAL(14,4).
        let raw = [0x81, 0x0D, 0xFB, 0x38, 0xD2, 0x04, 0xD2];
        assert_eq!(packed_len(14, 4), 7);
        assert_eq!(text(&raw, 14, 4).as_deref(), Ok("1234567890.1234"));
        let negative: Vec<u8> = raw.iter().map(|b| !b).collect();
        assert_eq!(text(&negative, 14, 4).as_deref(), Ok("-1234567890.1234"));
        assert_eq!(text(&[0x80], 2, 2).as_deref(), Ok("0.00"));
        assert_eq!(text(&[0x80], 1, 0).as_deref(), Ok("0"));
        assert!(text(&[0x80, 1], 1, 0).is_err());
    }
}
