//! Single values from text: of JSON, of a query, of a map's key. Whatever is wrong is said without the value.

use std::borrow::Cow;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use super::{
    schema::{Kind, Schema},
    text::number_length,
    wire,
};

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// A value that is not a message.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scalar<'t> {
    /// Integers, booleans, enums.
    Varint(u64),
    /// `float` and 32-bit fixed ones.
    Fixed32([u8; 4]),
    /// `double` and 64-bit fixed ones.
    Fixed64([u8; 8]),
    /// A string.
    Text(Cow<'t, str>),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl Scalar<'_> {
    /// Whether it is the value of an absent field.
    pub(crate) fn is_default(&self) -> bool {
        match self {
            Self::Varint(value) => *value == 0,
            Self::Fixed32(value) => *value == [0; 4],
            Self::Fixed64(value) => *value == [0; 8],
            Self::Text(value) => value.is_empty(),
            Self::Bytes(value) => value.is_empty(),
        }
    }

    /// Writes it, its length before it where it has one.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Varint(value) => wire::put_varint(out, *value),
            Self::Fixed32(value) => out.extend_from_slice(value),
            Self::Fixed64(value) => out.extend_from_slice(value),
            Self::Text(value) => wire::put_bytes(out, value.as_bytes()),
            Self::Bytes(value) => wire::put_bytes(out, value),
        }
    }
}

/// What a value of `kind` must be, in words.
pub(crate) fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::Double | Kind::Float => "expected a number",
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => "expected a whole number of 32 bits",
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            "expected a whole number of 64 bits, or a string of one"
        }
        Kind::Uint32 | Kind::Fixed32 => "expected a whole number of 32 bits, not below zero",
        Kind::Uint64 | Kind::Fixed64 => {
            "expected a whole number of 64 bits, not below zero, or a string of one"
        }
        Kind::Bool => "expected true or false",
        Kind::String => "expected a string",
        Kind::Bytes => "expected a string of base64",
        Kind::Enum(_) => "expected the name of an enum value",
        Kind::Message(_) => "expected an object",
    }
}

/// The value that a JSON number is, where `kind` takes one.
pub(crate) fn from_number(kind: Kind, text: &str) -> Result<Scalar<'static>, &'static str> {
    let whole = |low: i128, high: i128| {
        let value = integer(text).filter(|value| (low..=high).contains(value));
        value.ok_or_else(|| expected(kind))
    };
    Ok(match kind {
        Kind::Double => {
            let value: f64 = text.parse().map_err(|_| expected(kind))?;
            finite(value.is_finite())?;
            Scalar::Fixed64(value.to_le_bytes())
        }
        Kind::Float => {
            let value: f32 = text.parse().map_err(|_| expected(kind))?;
            finite(value.is_finite())?;
            Scalar::Fixed32(value.to_le_bytes())
        }
        Kind::Int32 | Kind::Enum(_) => Scalar::Varint(whole(i32::MIN.into(), i32::MAX.into())? as i64 as u64),
        Kind::Int64 => Scalar::Varint(whole(i64::MIN.into(), i64::MAX.into())? as i64 as u64),
        Kind::Uint32 => Scalar::Varint(whole(0, u32::MAX.into())? as u64),
        Kind::Uint64 => Scalar::Varint(whole(0, u64::MAX.into())? as u64),
        Kind::Sint32 => Scalar::Varint(wire::zigzag(whole(i32::MIN.into(), i32::MAX.into())? as i64)),
        Kind::Sint64 => Scalar::Varint(wire::zigzag(whole(i64::MIN.into(), i64::MAX.into())? as i64)),
        Kind::Fixed32 => Scalar::Fixed32((whole(0, u32::MAX.into())? as u32).to_le_bytes()),
        Kind::Sfixed32 => Scalar::Fixed32((whole(i32::MIN.into(), i32::MAX.into())? as i32).to_le_bytes()),
        Kind::Fixed64 => Scalar::Fixed64((whole(0, u64::MAX.into())? as u64).to_le_bytes()),
        Kind::Sfixed64 => Scalar::Fixed64((whole(i64::MIN.into(), i64::MAX.into())? as i64).to_le_bytes()),
        Kind::Bool | Kind::String | Kind::Bytes | Kind::Message(_) => return Err(expected(kind)),
    })
}

fn finite(is: bool) -> Result<(), &'static str> {
    if is {
        Ok(())
    } else {
        Err("the number is too large")
    }
}

/// The value that a JSON string is, where `kind` takes one.
pub(crate) fn from_string<'t>(
    schema: &Schema,
    kind: Kind,
    text: Cow<'t, str>,
) -> Result<Scalar<'t>, &'static str> {
    match kind {
        Kind::String => Ok(Scalar::Text(text)),
        Kind::Bytes => bytes(&text).map(Scalar::Bytes).ok_or_else(|| expected(kind)),
        Kind::Enum(id) => {
            let number = schema.enumeration(id).number(&text);
            let number = number.ok_or("no such name in the enum")?;
            Ok(Scalar::Varint(i64::from(number) as u64))
        }
        Kind::Bool | Kind::Message(_) => Err(expected(kind)),
        Kind::Double | Kind::Float => match special(&text) {
            Some(value) if kind == Kind::Double => Ok(Scalar::Fixed64(value.to_le_bytes())),
            Some(value) => Ok(Scalar::Fixed32((value as f32).to_le_bytes())),
            None => from_quoted_number(kind, &text),
        },
        _ => from_quoted_number(kind, &text),
    }
}

fn special(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

fn from_quoted_number(kind: Kind, text: &str) -> Result<Scalar<'static>, &'static str> {
    if number_length(text.as_bytes()) != Some(text.len()) {
        return Err(expected(kind));
    }
    from_number(kind, text)
}

/// The value that text outside JSON is: a query parameter, a path variable, a map's key. An enum is its name, as the document says.
pub(crate) fn from_text<'t>(
    schema: &Schema,
    kind: Kind,
    text: Cow<'t, str>,
) -> Result<Scalar<'t>, &'static str> {
    match kind {
        Kind::Bool => match &*text {
            "true" => Ok(Scalar::Varint(1)),
            "false" => Ok(Scalar::Varint(0)),
            _ => Err(expected(kind)),
        },
        _ => from_string(schema, kind, text),
    }
}

/// The whole number that a JSON number is exactly: `1e3` and `5.0` are ones, `0.5` is none.
fn integer(text: &str) -> Option<i128> {
    if text.len() < 19 && !text.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
        return text.parse::<i64>().ok().map(i128::from);
    }
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let negative = whole.starts_with('-');
    let digits = format!("{}{fraction}", whole.trim_start_matches('-'));
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        return Some(0);
    }
    let exponent: i64 = exponent.parse().ok()?;
    let dropped = (digits.len() - significant.len()) as i64;
    let scale = exponent
        .checked_sub(fraction.len() as i64)?
        .checked_add(dropped)?;
    let scale = u32::try_from(scale).ok().filter(|scale| *scale <= 20)?;
    let significant = significant.trim_start_matches('0');
    if significant.len() > 20 {
        return None;
    }
    let value = significant
        .parse::<i128>()
        .ok()?
        .checked_mul(10_i128.pow(scale))?;
    Some(if negative { -value } else { value })
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    if text.ends_with('=') && !text.len().is_multiple_of(4) {
        return None;
    }
    let engine = if text.contains(['-', '_']) {
        URL_SAFE
    } else {
        STANDARD
    };
    engine.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::{bytes, integer};

    #[test]
    fn whole_numbers_are_exact() {
        for (text, value) in [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("-0.000e99999", Some(0)),
            ("1.0", Some(1)),
            ("1e3", Some(1000)),
            ("1.5e1", Some(15)),
            ("150e-1", Some(15)),
            ("15e-1", None),
            ("9223372036854775807", Some(i128::from(i64::MAX))),
            ("9223372036854775807.0", Some(i128::from(i64::MAX))),
            ("-9223372036854775808", Some(i128::from(i64::MIN))),
            ("9007199254740993.0", Some(9_007_199_254_740_993)),
            ("18446744073709551615", Some(i128::from(u64::MAX))),
            ("1e20", Some(100_000_000_000_000_000_000)),
            ("1e400", None),
            ("1e99999999999999999999", None),
            ("0.1", None),
        ] {
            assert_eq!(integer(text), value, "{text}");
        }
    }

    #[test]
    fn base64_of_both_alphabets_with_and_without_padding() {
        for text in ["+/8=", "+/8", "-_8=", "-_8"] {
            assert_eq!(bytes(text), Some(vec![0xfb, 0xff]), "{text}");
        }
        assert_eq!(bytes("-_"), Some(vec![0xfb]));
        assert_eq!(bytes(""), Some(vec![]));
        for text in ["*", "A", "AA A", "+_8=", "AA=", "AAA==", "="] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
