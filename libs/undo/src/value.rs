//! Single values: when two are the same, and whether a column as it is now can take one from a column as it was.

use binlog::{Cell, Charset, Column, ColumnType};

/// A value and the column it was logged for, which says how to read it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Datum<'p> {
    pub(crate) column: &'p Column,
    pub(crate) cell: Cell<'p>,
}

impl Datum<'_> {
    /// As JSON; empty if the value is not known. A value that cannot be read is shown by its bytes.
    pub(crate) fn json(&self) -> String {
        let value = match (self.column.value(self.cell), self.cell) {
            (Ok(value), _) => value,
            (Err(_), Cell::Value(raw)) => Some(binlog::Value::Bytes(raw.into())),
            (Err(_), _) => None,
        };
        value.map(|value| value.to_json()).unwrap_or_default()
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        same(self.column, self.cell, other.column, other.cell)
    }
}

/// Whether two cells hold the same value: the same bytes, or, where bytes may differ without meaning (JSON keeps free space after
/// partial updates, and definitions may differ in width), the same decoded value.
pub(crate) fn same(a: &Column, left: Cell<'_>, b: &Column, right: Cell<'_>) -> bool {
    match (left, right) {
        (Cell::Value(l), Cell::Value(r)) => {
            let one_way_to_write = a.ty == b.ty && !matches!(a.ty, ColumnType::Json { .. });
            (l == r && a.ty == b.ty)
                || !one_way_to_write && matches!((a.decode(l), b.decode(r)), (Ok(l), Ok(r)) if l == r)
        }
        (left, right) => left == right,
    }
}

/// Whether a value logged for `old` can be compared with, and written to, the column as it is now.
pub(crate) fn fits(old: &Column, new: &Column) -> bool {
    old.ty == new.ty || widened(&old.ty, &new.ty)
}

/// Whether every value of `old` means the same in `new` and is written the same way.
fn widened(old: &ColumnType, new: &ColumnType) -> bool {
    use ColumnType as T;
    match (old, new) {
        (
            T::Int {
                bytes: a,
                unsigned: x,
            },
            T::Int {
                bytes: b,
                unsigned: y,
            },
        ) => (x == y && b >= a) || (*x && !y && b > a),
        (
            T::Decimal {
                precision: p,
                scale: s,
            },
            T::Decimal {
                precision: q,
                scale: t,
            },
        ) => t >= s && q.saturating_sub(*t) >= p.saturating_sub(*s),
        (T::Time { fsp: a }, T::Time { fsp: b })
        | (T::DateTime { fsp: a }, T::DateTime { fsp: b })
        | (T::Timestamp { fsp: a }, T::Timestamp { fsp: b }) => b >= a,
        (T::OldTime, T::Time { .. })
        | (T::OldDateTime, T::DateTime { .. })
        | (T::OldTimestamp, T::Timestamp { .. })
        | (T::Json { .. }, T::Json { .. })
        | (T::Geometry { .. }, T::Geometry { .. })
        | (T::Vector { .. }, T::Vector { .. }) => true,
        (T::Bit { bits: a }, T::Bit { bits: b }) => b >= a,
        (T::Enum { labels: a, .. }, T::Enum { labels: b, .. })
        | (T::Set { labels: a, .. }, T::Set { labels: b, .. }) => b.starts_with(a),
        _ => text_widened(old, new),
    }
}

/// Text and binary types: the same character set (collations do not matter, bytes are compared), the same padding, no less room.
fn text_widened(old: &ColumnType, new: &ColumnType) -> bool {
    let (Some((from, a, room)), Some((to, b, more))) = (text(old), text(new)) else {
        return false;
    };
    let same_charset = a == b || (a.name() == b.name() && a.name() != "unknown");
    // CHAR loses trailing spaces and BINARY gains trailing zeros, so both only widen into themselves, and BINARY not even that.
    let same_padding = match (from, to) {
        (Padding::Fixed, Padding::Fixed) => !a.is_binary() || room == more,
        (Padding::Fixed, Padding::Free) => !a.is_binary(),
        (Padding::Free, Padding::Free) => true,
        (Padding::Free, Padding::Fixed) => false,
    };
    same_charset && same_padding && more >= room
}

#[derive(Clone, Copy)]
enum Padding {
    Fixed,
    Free,
}

/// How a text type pads, its character set, and the bytes it has room for.
fn text(ty: &ColumnType) -> Option<(Padding, Charset, u64)> {
    Some(match ty {
        ColumnType::Char { bytes, charset } => (Padding::Fixed, *charset, u64::from(*bytes)),
        ColumnType::Varchar { bytes, charset } => (Padding::Free, *charset, u64::from(*bytes)),
        ColumnType::Blob { length, charset } => (
            Padding::Free,
            *charset,
            (1 << (8 * u64::from((*length).min(4)))) - 1,
        ),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::same;
    use binlog::{Cell, Charset, Column, ColumnType};

    fn column(ty: ColumnType) -> Column {
        Column {
            name: "c".into(),
            ty,
            nullable: true,
            invisible: false,
            generated: None,
            on_update: None,
        }
    }

    fn fits(old: ColumnType, new: ColumnType) -> bool {
        super::fits(&column(old), &column(new))
    }

    fn int(bytes: u8, unsigned: bool) -> ColumnType {
        ColumnType::Int { bytes, unsigned }
    }

    fn varchar(bytes: u16, collation: u16) -> ColumnType {
        ColumnType::Varchar {
            bytes,
            charset: Charset::new(collation),
        }
    }

    #[test]
    fn a_column_may_widen_and_not_narrow() {
        assert!(fits(int(4, false), int(8, false)));
        assert!(!fits(int(8, false), int(4, false)));
        assert!(fits(int(4, true), int(8, false)));
        assert!(!fits(int(8, true), int(8, false)));
        assert!(!fits(int(4, false), int(8, true)));
        assert!(fits(varchar(10, 45), varchar(20, 255)));
        assert!(!fits(varchar(10, 8), varchar(40, 45)));
        assert!(!fits(
            ColumnType::DateTime { fsp: 0 },
            ColumnType::Timestamp { fsp: 0 }
        ));
        assert!(!fits(ColumnType::Float, ColumnType::Double));
        let labels = |list: &[&str]| ColumnType::Enum {
            bytes: 1,
            labels: list.iter().map(|label| (*label).to_owned()).collect(),
        };
        assert!(fits(labels(&["a", "b"]), labels(&["a", "b", "c"])));
        assert!(!fits(labels(&["a", "b"]), labels(&["b", "a"])));
        let decimal = |precision, scale| ColumnType::Decimal { precision, scale };
        assert!(fits(decimal(10, 2), decimal(12, 4)));
        assert!(!fits(decimal(10, 2), decimal(10, 4)));
    }

    #[test]
    fn values_are_compared_by_meaning_across_widths() {
        let (narrow, wide) = (column(int(4, false)), column(int(8, false)));
        let minus_two = (-2_i64).to_le_bytes();
        assert!(same(
            &narrow,
            Cell::Value(&minus_two[..4]),
            &wide,
            Cell::Value(&minus_two)
        ));
        assert!(!same(
            &narrow,
            Cell::Value(&[1, 0, 0, 0]),
            &wide,
            Cell::Value(&minus_two)
        ));
        assert!(!same(&narrow, Cell::Null, &narrow, Cell::Absent));
    }
}
