//! A table map without column names, held against the table's present definition.

use crate::{
    Charset, Column, ColumnDefinition, ColumnType, Definition, KeyPart, Table,
    error::Problem,
    image::bit,
    table_map::{Charsets, Logged, Raw, big_bit, next, ty},
};

/// The table the map is about, if everything the map says agrees with the definition.
pub(crate) fn table(logged: Logged, mariadb: bool, present: &Definition) -> Result<Table, Problem> {
    let full_name = format!("{}.{}", logged.schema, logged.name);
    let (have, now) = (logged.raw.len(), present.columns.len());
    let disagree = |what: String| Problem::Altered {
        table: full_name.clone(),
        what,
    };
    if have != now {
        return Err(disagree(format!("the log has {have} columns, the server {now}")));
    }
    let mut check = Check {
        logged: &logged,
        mariadb,
        numeric: 0,
        character: 0,
    };
    let mut columns = Vec::with_capacity(have);
    for (index, defined) in present.columns.iter().enumerate() {
        columns.push(check.column(index, defined).map_err(|why| {
            disagree(format!(
                "column {} ({}) is {} on the server, but in the log it {why}",
                index + 1,
                defined.name,
                defined.column_type
            ))
        })?);
    }
    let key =
        key(&columns, present).ok_or_else(|| disagree("its key has a column it does not have".into()))?;
    Ok(Table {
        schema: logged.schema,
        name: logged.name,
        columns,
        key,
    })
}

fn key(columns: &[Column], present: &Definition) -> Option<Vec<KeyPart>> {
    let part = |(name, prefix): &(String, u32)| {
        let nth = columns.iter().position(|column| column.name == *name)?;
        Some(KeyPart {
            column: u32::try_from(nth).ok()?,
            prefix: *prefix,
        })
    };
    present.key.iter().map(part).collect()
}

struct Check<'a> {
    logged: &'a Logged,
    mariadb: bool,
    /// Columns met of the kinds the map's optional fields count.
    numeric: usize,
    character: usize,
}

impl Check<'_> {
    /// The column, or what the log says of it instead.
    fn column(&mut self, index: usize, defined: &ColumnDefinition) -> Result<Column, String> {
        let raw = &self.logged.raw[index];
        let optional = &self.logged.optional;
        let column = defined
            .column()
            .ok_or("has an encoding that this version cannot tell")?;
        if encoding(&column.ty) != Some((raw.ty, raw.meta)) {
            return Err(format!("is {}", name(raw)));
        }
        let nullable = bit(&self.logged.nullable, index);
        if nullable != column.nullable {
            return Err(if nullable {
                "may be NULL"
            } else {
                "may not be NULL"
            }
            .into());
        }
        if raw.is_numeric() {
            let nth = next(&mut self.numeric);
            // A YEAR is unsigned without saying so.
            if let Some(bitmap) = optional.signedness.as_ref().filter(|_| raw.ty != ty::YEAR)
                && big_bit(bitmap, nth) != defined.is_unsigned()
            {
                let sign = if defined.is_unsigned() {
                    "signed"
                } else {
                    "unsigned"
                };
                return Err(format!("is {sign}"));
            }
        }
        // MariaDB counts spatial columns among those with a character set.
        if self.mariadb && raw.ty == ty::GEOMETRY {
            self.character += 1;
        }
        if raw.is_character() {
            let nth = next(&mut self.character);
            let logged = optional.charsets.of(nth);
            if !matches!(optional.charsets, Charsets::Unknown) && logged != charset(&column.ty) {
                let number = logged.map_or(0, |charset| charset.collation);
                return Err(format!("has the collation number {number}"));
            }
        }
        Ok(column)
    }
}

fn charset(ty: &ColumnType) -> Option<Charset> {
    match ty {
        ColumnType::Char { charset, .. }
        | ColumnType::Varchar { charset, .. }
        | ColumnType::Blob { charset, .. } => Some(*charset),
        _ => None,
    }
}

/// Type byte and metadata a map gives a column of this type.
fn encoding(column: &ColumnType) -> Option<(u8, u16)> {
    let two = |low: u8, high: u8| u16::from_le_bytes([low, high]);
    Some(match column {
        ColumnType::Int { bytes: 1, .. } => (ty::TINY, 0),
        ColumnType::Int { bytes: 2, .. } => (ty::SHORT, 0),
        ColumnType::Int { bytes: 3, .. } => (ty::INT24, 0),
        ColumnType::Int { bytes: 4, .. } => (ty::LONG, 0),
        ColumnType::Int { .. } => (ty::LONGLONG, 0),
        ColumnType::Float => (ty::FLOAT, 4),
        ColumnType::Double => (ty::DOUBLE, 8),
        ColumnType::Decimal { precision, scale } => (ty::NEWDECIMAL, two(*precision, *scale)),
        ColumnType::Year => (ty::YEAR, 0),
        ColumnType::Date => (ty::DATE, 0),
        ColumnType::Time { fsp } => (ty::TIME2, two(*fsp, 0)),
        ColumnType::DateTime { fsp } => (ty::DATETIME2, two(*fsp, 0)),
        ColumnType::Timestamp { fsp } => (ty::TIMESTAMP2, two(*fsp, 0)),
        ColumnType::OldTime | ColumnType::OldDateTime | ColumnType::OldTimestamp => return None,
        ColumnType::Bit { bits } => (ty::BIT, two(bits % 8, bits / 8)),
        ColumnType::Enum { bytes, .. } => (ty::ENUM, two(*bytes, 0)),
        ColumnType::Set { bytes, .. } => (ty::SET, two(*bytes, 0)),
        ColumnType::Char { bytes, .. } => (ty::STRING, *bytes),
        ColumnType::Varchar { bytes, .. } => (ty::VARCHAR, *bytes),
        ColumnType::Blob { length, .. } => (ty::BLOB, two(*length, 0)),
        ColumnType::Json { length } => (ty::JSON, two(*length, 0)),
        ColumnType::Geometry { length } => (ty::GEOMETRY, two(*length, 0)),
        ColumnType::Vector { length } => (ty::VECTOR, two(*length, 0)),
    })
}

/// What a map says of a column, for people.
fn name(raw: &Raw) -> String {
    let [low, high] = raw.meta.to_le_bytes();
    match raw.ty {
        ty::TINY => "tinyint".into(),
        ty::SHORT => "smallint".into(),
        ty::INT24 => "mediumint".into(),
        ty::LONG => "int".into(),
        ty::LONGLONG => "bigint".into(),
        ty::FLOAT => "float".into(),
        ty::DOUBLE => "double".into(),
        ty::NEWDECIMAL => format!("decimal({low},{high})"),
        ty::YEAR => "year".into(),
        ty::DATE => "date".into(),
        ty::TIME2 => format!("time({low})"),
        ty::DATETIME2 => format!("datetime({low})"),
        ty::TIMESTAMP2 => format!("timestamp({low})"),
        // How many digits of fraction MariaDB keeps in them the log does not say.
        ty::TIME | ty::DATETIME | ty::TIMESTAMP => "a time in the format before MySQL 5.6".into(),
        ty::BIT => format!("bit({})", u16::from(high) * 8 + u16::from(low)),
        ty::ENUM => format!("an enum of {low} bytes"),
        ty::SET => format!("a set of {low} bytes"),
        ty::STRING => format!("a char or binary of {} bytes", raw.meta),
        ty::VARCHAR | ty::VAR_STRING => format!("a varchar or varbinary of {} bytes", raw.meta),
        ty::BLOB => format!("a text or blob with a length of {low} bytes"),
        ty::JSON => "json".into(),
        ty::GEOMETRY => "a geometry".into(),
        ty::VECTOR => "a vector".into(),
        other => format!("of type number {other}"),
    }
}
