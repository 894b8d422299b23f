//! The TABLE_MAP event: which table the rows that follow belong to, and how its columns are encoded.
//!
//! Body (MySQL source, `Table_map_log_event`): table id of 6 bytes, flags u16, schema and table name (length byte, text, NUL), column
//! count, type bytes, per-type metadata, NULL bitmap, then optional metadata as (type, length, value) fields. The optional metadata is
//! complete when the server runs with `binlog_row_metadata=FULL`; without column names a table cannot be decoded safely, unless its present
//! definition is at hand and good for these rows ([`Present`](crate::Present)).

use crate::{
    Charset, Column, ColumnType, Definition, KeyPart, Table, error::Problem, image::bit, present, read::Bytes,
};

/// Type bytes (`include/field_types.h`).
pub(crate) mod ty {
    pub(crate) const TINY: u8 = 1;
    pub(crate) const SHORT: u8 = 2;
    pub(crate) const LONG: u8 = 3;
    pub(crate) const FLOAT: u8 = 4;
    pub(crate) const DOUBLE: u8 = 5;
    pub(crate) const TIMESTAMP: u8 = 7;
    pub(crate) const LONGLONG: u8 = 8;
    pub(crate) const INT24: u8 = 9;
    pub(crate) const DATE: u8 = 10;
    pub(crate) const TIME: u8 = 11;
    pub(crate) const DATETIME: u8 = 12;
    pub(crate) const YEAR: u8 = 13;
    pub(crate) const VARCHAR: u8 = 15;
    pub(crate) const BIT: u8 = 16;
    pub(crate) const TIMESTAMP2: u8 = 17;
    pub(crate) const DATETIME2: u8 = 18;
    pub(crate) const TIME2: u8 = 19;
    pub(crate) const VECTOR: u8 = 242;
    pub(crate) const JSON: u8 = 245;
    pub(crate) const NEWDECIMAL: u8 = 246;
    pub(crate) const ENUM: u8 = 247;
    pub(crate) const SET: u8 = 248;
    pub(crate) const BLOB: u8 = 252;
    pub(crate) const VAR_STRING: u8 = 253;
    pub(crate) const STRING: u8 = 254;
    pub(crate) const GEOMETRY: u8 = 255;
}

/// Optional metadata fields (`Table_map_event::Optional_metadata_field_type`).
mod field {
    pub(super) const SIGNEDNESS: u64 = 1;
    pub(super) const DEFAULT_CHARSET: u64 = 2;
    pub(super) const COLUMN_CHARSET: u64 = 3;
    pub(super) const COLUMN_NAME: u64 = 4;
    pub(super) const SET_STR_VALUE: u64 = 5;
    pub(super) const ENUM_STR_VALUE: u64 = 6;
    pub(super) const SIMPLE_PRIMARY_KEY: u64 = 8;
    pub(super) const PRIMARY_KEY_WITH_PREFIX: u64 = 9;
    pub(super) const ENUM_AND_SET_DEFAULT_CHARSET: u64 = 10;
    pub(super) const ENUM_AND_SET_COLUMN_CHARSET: u64 = 11;
    pub(super) const COLUMN_VISIBILITY: u64 = 12;
}

/// The names at the head of a table map, which are there even if the columns cannot be decoded.
pub(crate) fn names(body: &[u8]) -> Result<(u64, String, String), Problem> {
    let mut bytes = Bytes(body);
    let id = bytes.uint(6)?;
    bytes.u16()?;
    Ok((id, name(&mut bytes)?, name(&mut bytes)?))
}

fn name(bytes: &mut Bytes<'_>) -> Result<String, Problem> {
    let length = usize::from(bytes.u8()?);
    let text = bytes.take(length)?;
    bytes.u8()?;
    String::from_utf8(text.to_vec()).map_err(|_| malformed("a name is not UTF-8"))
}

fn malformed(what: &str) -> Problem {
    Problem::Event {
        event: "TABLE_MAP",
        what: what.into(),
    }
}

/// One column before its optional metadata is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw {
    pub(crate) ty: u8,
    pub(crate) meta: u16,
}

impl Raw {
    pub(crate) fn is_numeric(&self) -> bool {
        matches!(
            self.ty,
            ty::TINY
                | ty::SHORT
                | ty::INT24
                | ty::LONG
                | ty::LONGLONG
                | ty::NEWDECIMAL
                | ty::FLOAT
                | ty::DOUBLE
                | ty::YEAR
        )
    }

    pub(crate) fn is_character(&self) -> bool {
        matches!(self.ty, ty::STRING | ty::VAR_STRING | ty::VARCHAR | ty::BLOB)
    }

    /// MariaDB's old times carry fractions of a length that the log does not say (`mysql56_temporal_format=OFF`).
    fn is_unmeasured(&self) -> bool {
        matches!(self.ty, ty::TIME | ty::DATETIME | ty::TIMESTAMP)
    }
}

/// Optional metadata as found; indices count the columns of the kind the field is about.
#[derive(Default)]
pub(crate) struct Optional {
    pub(crate) signedness: Option<Vec<u8>>,
    pub(crate) charsets: Charsets,
    enum_charsets: Charsets,
    names: Option<Vec<String>>,
    set_labels: Vec<Vec<Vec<u8>>>,
    enum_labels: Vec<Vec<Vec<u8>>>,
    key: Vec<KeyPart>,
    visibility: Option<Vec<u8>>,
}

/// Collations of the columns of a kind: one for each, or one for all with exceptions.
#[derive(Default)]
pub(crate) enum Charsets {
    #[default]
    Unknown,
    Default(u16, Vec<(usize, u16)>),
    Each(Vec<u16>),
}

impl Charsets {
    pub(crate) fn of(&self, nth: usize) -> Option<Charset> {
        match self {
            Self::Unknown => None,
            Self::Default(all, but) => Some(Charset::new(
                but.iter()
                    .find(|(index, _)| *index == nth)
                    .map_or(*all, |(_, id)| *id),
            )),
            Self::Each(ids) => ids.get(nth).map(|id| Charset::new(*id)),
        }
    }
}

/// A table map taken apart.
pub(crate) struct Logged {
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) raw: Vec<Raw>,
    pub(crate) nullable: Vec<u8>,
    pub(crate) optional: Optional,
}

/// Whether the map does not say what its columns are called.
pub(crate) fn is_nameless(body: &[u8]) -> Result<bool, Problem> {
    Ok(logged(body)?.optional.names.is_none())
}

fn logged(body: &[u8]) -> Result<Logged, Problem> {
    let (_, schema, name) = names(body)?;
    let mut bytes = Bytes(
        body.get(8 + schema.len() + name.len() + 4..)
            .ok_or(Problem::Short)?,
    );
    let count = bytes.lenenc_len()?;
    let types = bytes.take(count)?;
    let mut meta = Bytes(bytes.lenenc_bytes()?);
    let raw = types
        .iter()
        .enumerate()
        .map(|(nth, ty)| {
            column(*ty, &mut meta).map_err(|problem| {
                problem.unwrap_or_else(|| Problem::ColumnType {
                    table: format!("{schema}.{name}"),
                    column: nth + 1,
                    ty: *ty,
                })
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Logged {
        nullable: bytes.take(count.div_ceil(8))?.to_vec(),
        optional: optional(&mut bytes, count)?,
        schema,
        name,
        raw,
    })
}

/// The definition a table map carries; the two families count columns differently. Where it does not name columns, `present` is asked for the table's present definition.
pub(crate) fn parse<'p>(
    body: &[u8],
    mariadb: bool,
    present: impl FnOnce(&str, &str) -> Result<&'p Definition, Problem>,
) -> Result<Table, Problem> {
    let logged = logged(body)?;
    if mariadb && logged.raw.iter().any(Raw::is_unmeasured) {
        return Err(Problem::Unsupported {
            event: "a TIME, DATETIME or TIMESTAMP column in MariaDB's old format",
            remedy: "; set mysql56_temporal_format=ON and rebuild the table with ALTER TABLE … FORCE",
        });
    }
    let Some(names) = &logged.optional.names else {
        let definition = present(&logged.schema, &logged.name)?;
        return present::table(logged, mariadb, definition);
    };
    let optional = &logged.optional;
    let mut kinds = Kinds {
        mariadb,
        ..Kinds::default()
    };
    let mut columns = Vec::with_capacity(names.len());
    for (index, (raw, name)) in logged.raw.iter().zip(names).enumerate() {
        let visible = optional
            .visibility
            .as_ref()
            .is_none_or(|bitmap| big_bit(bitmap, index));
        let hidden = mariadb && is_hidden(name);
        columns.push(Column {
            name: name.clone(),
            ty: kinds.resolve(raw, optional)?,
            nullable: bit(&logged.nullable, index),
            invisible: !visible || hidden,
            generated: hidden.then_some(true),
            on_update: None,
        });
    }
    Ok(Table {
        columns,
        key: logged.optional.key,
        schema: logged.schema,
        name: logged.name,
    })
}

/// MariaDB keeps the hash behind a UNIQUE index over long columns in a column of its own that no statement can name.
fn is_hidden(name: &str) -> bool {
    let number = name.strip_prefix("DB_ROW_HASH_");
    number.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// Reads one column's metadata; `Err(None)` for a type that is not known.
fn column(logged: u8, meta: &mut Bytes<'_>) -> Result<Raw, Option<Problem>> {
    let short = |_| Some(Problem::Short);
    Ok(match logged {
        ty::TINY
        | ty::SHORT
        | ty::INT24
        | ty::LONG
        | ty::LONGLONG
        | ty::YEAR
        | ty::DATE
        | ty::TIME
        | ty::DATETIME
        | ty::TIMESTAMP => Raw { ty: logged, meta: 0 },
        ty::FLOAT
        | ty::DOUBLE
        | ty::TIME2
        | ty::DATETIME2
        | ty::TIMESTAMP2
        | ty::BLOB
        | ty::JSON
        | ty::GEOMETRY
        | ty::VECTOR => Raw {
            ty: logged,
            meta: u16::from(meta.u8().map_err(short)?),
        },
        ty::VARCHAR | ty::VAR_STRING | ty::BIT | ty::NEWDECIMAL => Raw {
            ty: logged,
            meta: meta.u16().map_err(short)?,
        },
        ty::STRING | ty::ENUM | ty::SET => {
            let [real, length] = meta.array().map_err(short)?;
            // A CHAR's length of up to 1023 bytes keeps its two upper bits, inverted, in the type byte.
            if real & 0x30 == 0x30 {
                Raw {
                    ty: real,
                    meta: u16::from(length),
                }
            } else {
                Raw {
                    ty: real | 0x30,
                    meta: u16::from(length) | u16::from((real & 0x30) ^ 0x30) << 4,
                }
            }
        }
        _ => return Err(None),
    })
}

fn optional(bytes: &mut Bytes<'_>, count: usize) -> Result<Optional, Problem> {
    let mut found = Optional::default();
    while !bytes.is_empty() {
        let kind = bytes.lenenc()?;
        let mut value = Bytes(bytes.lenenc_bytes()?);
        match kind {
            field::SIGNEDNESS => found.signedness = Some(value.0.to_vec()),
            field::DEFAULT_CHARSET => found.charsets = default_charsets(&mut value)?,
            field::COLUMN_CHARSET => {
                found.charsets = Charsets::Each(each(&mut value, |v| Ok(collation(v.lenenc()?)))?)
            }
            field::ENUM_AND_SET_DEFAULT_CHARSET => found.enum_charsets = default_charsets(&mut value)?,
            field::ENUM_AND_SET_COLUMN_CHARSET => {
                found.enum_charsets = Charsets::Each(each(&mut value, |v| Ok(collation(v.lenenc()?)))?)
            }
            field::COLUMN_NAME => {
                let names = each(&mut value, |v| {
                    String::from_utf8(v.lenenc_bytes()?.to_vec())
                        .map_err(|_| malformed("a column's name is not UTF-8"))
                })?;
                if names.len() != count {
                    return Err(malformed("it does not name every column"));
                }
                found.names = Some(names);
            }
            field::SET_STR_VALUE => found.set_labels = labels(&mut value)?,
            field::ENUM_STR_VALUE => found.enum_labels = labels(&mut value)?,
            field::SIMPLE_PRIMARY_KEY => found.key = each(&mut value, |v| key_part(v.lenenc()?, 0, count))?,
            field::PRIMARY_KEY_WITH_PREFIX => {
                found.key = each(&mut value, |v| {
                    let column = v.lenenc()?;
                    key_part(column, v.lenenc()?, count)
                })?;
            }
            field::COLUMN_VISIBILITY => found.visibility = Some(value.0.to_vec()),
            // Geometry subtypes, vector dimensions and whatever later servers add: nothing that decoding a row depends on.
            _ => {}
        }
    }
    Ok(found)
}

fn each<'a, T>(
    value: &mut Bytes<'a>,
    mut read: impl FnMut(&mut Bytes<'a>) -> Result<T, Problem>,
) -> Result<Vec<T>, Problem> {
    let mut all = Vec::new();
    while !value.is_empty() {
        all.push(read(value)?);
    }
    Ok(all)
}

fn collation(id: u64) -> u16 {
    u16::try_from(id).unwrap_or(u16::MAX)
}

fn default_charsets(value: &mut Bytes<'_>) -> Result<Charsets, Problem> {
    let all = collation(value.lenenc()?);
    let but = each(value, |v| {
        let index = v.lenenc_len()?;
        Ok((index, collation(v.lenenc()?)))
    })?;
    Ok(Charsets::Default(all, but))
}

fn labels(value: &mut Bytes<'_>) -> Result<Vec<Vec<Vec<u8>>>, Problem> {
    each(value, |v| {
        let count = v.lenenc()?;
        (0..count).map(|_| Ok(v.lenenc_bytes()?.to_vec())).collect()
    })
}

fn key_part(column: u64, prefix: u64, count: usize) -> Result<KeyPart, Problem> {
    match (u32::try_from(column), u32::try_from(prefix)) {
        (Ok(column), Ok(prefix)) if (column as usize) < count => Ok(KeyPart { column, prefix }),
        _ => Err(malformed("its key names a column it does not have")),
    }
}

/// Optional metadata counts bits from the most significant one.
pub(crate) fn big_bit(bitmap: &[u8], index: usize) -> bool {
    bitmap
        .get(index / 8)
        .is_some_and(|byte| byte << (index % 8) & 0x80 != 0)
}

/// How many columns of each kind have been met, for the optional metadata counts by kind.
#[derive(Default)]
struct Kinds {
    /// MariaDB counts spatial columns among those with a character set.
    mariadb: bool,
    numeric: usize,
    character: usize,
    enum_or_set: usize,
    enums: usize,
    sets: usize,
}

pub(crate) fn next(counter: &mut usize) -> usize {
    *counter += 1;
    *counter - 1
}

impl Kinds {
    fn resolve(&mut self, raw: &Raw, optional: &Optional) -> Result<ColumnType, Problem> {
        let low = u8::try_from(raw.meta & 0xFF).unwrap_or_default();
        let high = u8::try_from(raw.meta >> 8).unwrap_or_default();
        let unsigned = raw.is_numeric() && {
            let nth = next(&mut self.numeric);
            optional
                .signedness
                .as_ref()
                .is_some_and(|bitmap| big_bit(bitmap, nth))
        };
        let int = |bytes| ColumnType::Int { bytes, unsigned };
        Ok(match raw.ty {
            ty::TINY => int(1),
            ty::SHORT => int(2),
            ty::INT24 => int(3),
            ty::LONG => int(4),
            ty::LONGLONG => int(8),
            ty::FLOAT => ColumnType::Float,
            ty::DOUBLE => ColumnType::Double,
            ty::NEWDECIMAL => decimal(low, high)?,
            ty::YEAR => ColumnType::Year,
            ty::DATE => ColumnType::Date,
            ty::TIME => ColumnType::OldTime,
            ty::DATETIME => ColumnType::OldDateTime,
            ty::TIMESTAMP => ColumnType::OldTimestamp,
            ty::TIME2 => ColumnType::Time { fsp: fsp(low)? },
            ty::DATETIME2 => ColumnType::DateTime { fsp: fsp(low)? },
            ty::TIMESTAMP2 => ColumnType::Timestamp { fsp: fsp(low)? },
            ty::BIT => ColumnType::Bit {
                bits: bits(low, high)?,
            },
            ty::JSON => ColumnType::Json {
                length: width(low, 4)?,
            },
            ty::GEOMETRY => {
                if self.mariadb {
                    next(&mut self.character);
                }
                ColumnType::Geometry {
                    length: width(low, 4)?,
                }
            }
            ty::VECTOR => ColumnType::Vector {
                length: width(low, 4)?,
            },
            ty::ENUM => {
                let raw = next_of(&mut self.enums, &optional.enum_labels);
                let labels = self.labels(optional, raw)?;
                ColumnType::Enum {
                    bytes: width(low, 2)?,
                    labels,
                }
            }
            ty::SET => {
                let raw = next_of(&mut self.sets, &optional.set_labels);
                let labels = self.labels(optional, raw)?;
                ColumnType::Set {
                    bytes: width(low, 8)?,
                    labels,
                }
            }
            _ => self.text(raw, optional, low)?,
        })
    }

    fn text(&mut self, raw: &Raw, optional: &Optional, low: u8) -> Result<ColumnType, Problem> {
        if !raw.is_character() {
            return Err(malformed("a string column has an unknown real type"));
        }
        let nth = next(&mut self.character);
        let charset = optional
            .charsets
            .of(nth)
            .ok_or_else(|| malformed("it does not say the character set of every text column"))?;
        Ok(match raw.ty {
            ty::STRING => ColumnType::Char {
                bytes: raw.meta,
                charset,
            },
            ty::BLOB => ColumnType::Blob {
                length: width(low, 4)?,
                charset,
            },
            _ => ColumnType::Varchar {
                bytes: raw.meta,
                charset,
            },
        })
    }

    fn labels(&mut self, optional: &Optional, raw: Option<&Vec<Vec<u8>>>) -> Result<Vec<String>, Problem> {
        let nth = next(&mut self.enum_or_set);
        // MariaDB counts ENUM and SET among the character columns of one field; without a character set of their own labels are UTF-8.
        let charset = optional.enum_charsets.of(nth).unwrap_or(Charset::new(45));
        let raw = raw.ok_or_else(|| malformed("it does not give the labels of an ENUM or SET column"))?;
        raw.iter()
            .map(|label| {
                charset
                    .decode(label)
                    .map(|text| text.into_owned())
                    .ok_or_else(|| malformed("a label is not valid in its character set"))
            })
            .collect()
    }
}

fn next_of<'a>(counter: &mut usize, labels: &'a [Vec<Vec<u8>>]) -> Option<&'a Vec<Vec<u8>>> {
    labels.get(next(counter))
}

fn width(bytes: u8, most: u8) -> Result<u8, Problem> {
    if (1..=most).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(malformed("a column has an impossible width"))
    }
}

fn fsp(digits: u8) -> Result<u8, Problem> {
    if digits <= 6 {
        Ok(digits)
    } else {
        Err(malformed("a time has more than six digits of fraction"))
    }
}

fn bits(rest: u8, bytes: u8) -> Result<u8, Problem> {
    let bits = u16::from(bytes) * 8 + u16::from(rest);
    u8::try_from(bits)
        .ok()
        .filter(|bits| (1..=64).contains(bits))
        .ok_or_else(|| malformed("a BIT column has an impossible width"))
}

fn decimal(precision: u8, scale: u8) -> Result<ColumnType, Problem> {
    if (1..=65).contains(&precision) && scale <= precision && scale <= 38 {
        Ok(ColumnType::Decimal { precision, scale })
    } else {
        Err(malformed("a DECIMAL column has an impossible precision"))
    }
}
