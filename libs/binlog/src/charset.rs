//! Character sets by collation number, and what of them can be shown as text.

use std::borrow::Cow;

use encoding_rs::Encoding;
use serde::{Deserialize, Serialize};

use crate::undefined::holds_undefined;

/// A collation by the number the server gives it; its character set follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Charset {
    /// The server's collation id (`information_schema.COLLATIONS.ID`).
    pub collation: u16,
}

/// Ranges of collation numbers, both ends included.
type Ranges = &'static [(u16, u16)];

/// Character sets, the bytes of their longest character, and the collation numbers that belong to them, from `information_schema.COLLATIONS` of MySQL 8.0, 9.7 and
/// MariaDB 10.11. Numbers from 1024 on are MariaDB's and follow a rule, see [`Charset::base`].
const CHARSETS: &[(&str, u32, Ranges)] = &[
    (
        "utf8mb4",
        4,
        &[
            (45, 46),
            (224, 247),
            (255, 271),
            (273, 275),
            (277, 294),
            (296, 298),
            (300, 300),
            (303, 323),
            (608, 611),
        ],
    ),
    (
        "utf8mb3",
        3,
        &[(33, 33), (76, 76), (83, 83), (192, 215), (223, 223), (576, 579)],
    ),
    (
        "latin1",
        1,
        &[(5, 5), (8, 8), (15, 15), (31, 31), (47, 49), (94, 94)],
    ),
    ("ascii", 1, &[(11, 11), (65, 65)]),
    ("binary", 1, &[(63, 63)]),
    ("latin2", 1, &[(2, 2), (9, 9), (21, 21), (27, 27), (77, 77)]),
    ("latin5", 1, &[(30, 30), (78, 78)]),
    ("latin7", 1, &[(20, 20), (41, 42), (79, 79)]),
    ("cp1250", 1, &[(26, 26), (34, 34), (44, 44), (66, 66), (99, 99)]),
    ("cp1251", 1, &[(14, 14), (23, 23), (50, 52)]),
    ("cp1256", 1, &[(57, 57), (67, 67)]),
    ("cp1257", 1, &[(29, 29), (58, 59)]),
    ("cp850", 1, &[(4, 4), (80, 80)]),
    ("cp852", 1, &[(40, 40), (81, 81)]),
    ("cp866", 1, &[(36, 36), (68, 68)]),
    ("koi8r", 1, &[(7, 7), (74, 74)]),
    ("koi8u", 1, &[(22, 22), (75, 75)]),
    ("greek", 1, &[(25, 25), (70, 70)]),
    ("hebrew", 1, &[(16, 16), (71, 71)]),
    ("tis620", 1, &[(18, 18), (89, 89)]),
    ("macroman", 1, &[(39, 39), (53, 53)]),
    ("macce", 1, &[(38, 38), (43, 43)]),
    ("keybcs2", 1, &[(37, 37), (73, 73)]),
    ("armscii8", 1, &[(32, 32), (64, 64)]),
    ("geostd8", 1, &[(92, 93)]),
    ("dec8", 1, &[(3, 3), (69, 69)]),
    ("hp8", 1, &[(6, 6), (72, 72)]),
    ("swe7", 1, &[(10, 10), (82, 82)]),
    ("big5", 2, &[(1, 1), (84, 84)]),
    ("gbk", 2, &[(28, 28), (87, 87)]),
    ("gb2312", 2, &[(24, 24), (86, 86)]),
    ("gb18030", 4, &[(248, 250)]),
    ("euckr", 2, &[(19, 19), (85, 85)]),
    ("ujis", 3, &[(12, 12), (91, 91)]),
    ("eucjpms", 3, &[(97, 98)]),
    ("sjis", 2, &[(13, 13), (88, 88)]),
    ("cp932", 2, &[(95, 96)]),
    (
        "ucs2",
        2,
        &[(35, 35), (90, 90), (128, 151), (159, 159), (640, 643)],
    ),
    ("utf16", 4, &[(54, 55), (101, 124), (672, 675)]),
    ("utf16le", 4, &[(56, 56), (62, 62)]),
    ("utf32", 4, &[(60, 61), (160, 183), (736, 739)]),
];

/// MariaDB's UCA 14 collations: 256 numbers for each of these from 2048 on.
const UCA1400: [&str; 5] = ["utf8mb3", "utf8mb4", "ucs2", "utf16", "utf32"];

impl Charset {
    /// The binary "character set": bytes without meaning as text.
    pub const BINARY: Self = Self { collation: 63 };

    /// From the number in a table map.
    pub const fn new(collation: u16) -> Self {
        Self { collation }
    }

    /// Whether values are bytes rather than text.
    pub fn is_binary(self) -> bool {
        self.collation == 63
    }

    /// The character set's name as an introducer takes it (`_latin1 X'…'`); `unknown` for a number not in the tables.
    pub fn name(self) -> &'static str {
        self.entry().map_or("unknown", |(name, _)| name)
    }

    /// Characters that fit into `bytes`.
    pub fn chars(self, bytes: u32) -> u32 {
        bytes / self.entry().map_or(1, |(_, max)| max)
    }

    /// Bytes of the longest character; none for a number not in the tables.
    pub(crate) fn char_bytes_max(self) -> Option<u32> {
        self.entry().map(|(_, max)| max)
    }

    /// Whether the bytes 0x20 to 0x7E mean the same as in ASCII, wherever they stand.
    pub fn extends_ascii(self) -> bool {
        matches!(
            self.name(),
            "utf8mb4"
                | "utf8mb3"
                | "latin1"
                | "ascii"
                | "latin2"
                | "latin5"
                | "latin7"
                | "cp1250"
                | "cp1251"
                | "cp1256"
                | "cp1257"
                | "cp850"
                | "cp852"
                | "cp866"
                | "koi8r"
                | "koi8u"
                | "greek"
                | "hebrew"
                | "tis620"
                | "euckr"
                | "ujis"
                | "eucjpms"
                | "gb2312"
                | "binary"
        )
    }

    /// MariaDB's NOPAD variant of a collation is 1024 more than the collation.
    fn base(self) -> u16 {
        if (1024..2048).contains(&self.collation) {
            self.collation - 1024
        } else {
            self.collation
        }
    }

    fn entry(self) -> Option<(&'static str, u32)> {
        let base = self.base();
        let name = if base >= 2048 {
            UCA1400.get(usize::from((base - 2048) / 256)).copied()
        } else {
            None
        };
        CHARSETS
            .iter()
            .find(|(known, _, ranges)| {
                name == Some(known) || ranges.iter().any(|(from, to)| (*from..=*to).contains(&base))
            })
            .map(|(known, max, _)| (*known, *max))
    }

    /// The text of `bytes`; none if they are not valid in this character set, or if no decoder for it is at hand and they are not
    /// plain ASCII either. Nothing is ever replaced.
    pub fn decode(self, bytes: &[u8]) -> Option<Cow<'_, str>> {
        let name = self.name();
        match name {
            "utf8mb4" | "utf8mb3" => return std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
            "binary" | "unknown" | "swe7" => return None,
            "ucs2" | "utf16" => return units(bytes, u16::from_be_bytes),
            "utf16le" => return units(bytes, u16::from_le_bytes),
            "utf32" => return utf32(bytes),
            _ => {}
        }
        if self.extends_ascii() && bytes.is_ascii() {
            return std::str::from_utf8(bytes).ok().map(Cow::Borrowed);
        }
        if holds_undefined(name, bytes) {
            return None;
        }
        encoding(name)?.decode_without_bom_handling_and_without_replacement(bytes)
    }
}

fn units(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Option<Cow<'static, str>> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    char::decode_utf16(pairs.iter().map(|pair| unit(*pair)))
        .collect::<Result<String, _>>()
        .ok()
        .map(Cow::Owned)
}

fn utf32(bytes: &[u8]) -> Option<Cow<'static, str>> {
    let (units, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return None;
    }
    units
        .iter()
        .map(|unit| char::from_u32(u32::from_be_bytes(*unit)))
        .collect::<Option<String>>()
        .map(Cow::Owned)
}

/// Decoders that agree with the server but for what [`holds_undefined`] knows. MySQL's `latin1` is windows-1252.
fn encoding(name: &str) -> Option<&'static Encoding> {
    Some(match name {
        "latin1" => encoding_rs::WINDOWS_1252,
        "latin2" => encoding_rs::ISO_8859_2,
        "latin5" => encoding_rs::WINDOWS_1254,
        "latin7" => encoding_rs::ISO_8859_13,
        "cp1250" => encoding_rs::WINDOWS_1250,
        "cp1251" => encoding_rs::WINDOWS_1251,
        "cp1256" => encoding_rs::WINDOWS_1256,
        "cp1257" => encoding_rs::WINDOWS_1257,
        "cp866" => encoding_rs::IBM866,
        "koi8r" => encoding_rs::KOI8_R,
        "koi8u" => encoding_rs::KOI8_U,
        "greek" => encoding_rs::ISO_8859_7,
        "hebrew" => encoding_rs::ISO_8859_8,
        "tis620" => encoding_rs::WINDOWS_874,
        "macroman" => encoding_rs::MACINTOSH,
        "big5" => encoding_rs::BIG5,
        "gbk" | "gb2312" => encoding_rs::GBK,
        "gb18030" => encoding_rs::GB18030,
        "euckr" => encoding_rs::EUC_KR,
        "ujis" | "eucjpms" => encoding_rs::EUC_JP,
        "sjis" | "cp932" => encoding_rs::SHIFT_JIS,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::Charset;

    #[test]
    fn numbers_lead_to_character_sets() {
        for (collation, name) in [
            (8, "latin1"),
            (33, "utf8mb3"),
            (45, "utf8mb4"),
            (255, "utf8mb4"),
            (1069, "utf8mb4"),
            (2304, "utf8mb4"),
            (63, "binary"),
            (9999, "unknown"),
        ] {
            assert_eq!(Charset::new(collation).name(), name, "{collation}");
        }
    }

    #[test]
    fn text_decodes_or_stays_bytes() {
        assert_eq!(Charset::new(8).decode(b"caf\xe9 \x80").as_deref(), Some("café €"));
        assert_eq!(
            Charset::new(54).decode(b"\x00a\xd8\x3d\xde\x00").as_deref(),
            Some("a😀")
        );
        assert_eq!(
            Charset::new(60).decode(b"\x00\x01\xf6\x00").as_deref(),
            Some("😀")
        );
        assert_eq!(
            Charset::new(28).decode(b"\xc4\xe3\xba\xc3").as_deref(),
            Some("你好")
        );
        assert_eq!(Charset::new(45).decode(b"\xff"), None);
        assert_eq!(Charset::new(3).decode(b"plain"), None);
    }
}
