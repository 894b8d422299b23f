//! Sequences that are shown as bytes although a decoder knows a character for them, because the server knows another one, or none.
//!
//! Found by asking MySQL 8.0 to convert every sequence, which the test `charsets` does again; between the ranges of one character set
//! lie sequences on which both agree, or that have no character anywhere.

/// Ranges of sequences, both ends included, a sequence read as a big-endian number; by character set, in order.
type Ranges = &'static [(u32, u32)];

const UNDEFINED: &[(&str, Ranges)] = &[
    (
        "latin5",
        &[(0x80, 0x80), (0x82, 0x8C), (0x91, 0x9C), (0x9F, 0x9F)],
    ),
    (
        "cp1250",
        &[
            (0x81, 0x81),
            (0x83, 0x83),
            (0x88, 0x88),
            (0x90, 0x90),
            (0x98, 0x98),
        ],
    ),
    ("cp1251", &[(0x98, 0x98)]),
    (
        "cp1256",
        &[
            (0x8A, 0x8A),
            (0x8F, 0x8F),
            (0x98, 0x98),
            (0x9A, 0x9A),
            (0x9F, 0x9F),
            (0xAA, 0xAA),
            (0xC0, 0xC0),
            (0xFF, 0xFF),
        ],
    ),
    (
        "cp1257",
        &[
            (0x81, 0x81),
            (0x83, 0x83),
            (0x88, 0x88),
            (0x8A, 0x8A),
            (0x8C, 0x8C),
            (0x90, 0x90),
            (0x98, 0x98),
            (0x9A, 0x9A),
            (0x9C, 0x9C),
            (0x9F, 0x9F),
        ],
    ),
    ("cp866", &[(0xFC, 0xFD)]),
    ("koi8u", &[(0x95, 0x95), (0xAE, 0xAE), (0xBE, 0xBE)]),
    ("greek", &[(0xA1, 0xA2), (0xA4, 0xA5), (0xAA, 0xAA)]),
    ("hebrew", &[(0xAF, 0xAF)]),
    (
        "tis620",
        &[(0x80, 0x80), (0x85, 0x85), (0x91, 0x97), (0xA0, 0xA0)],
    ),
    (
        "big5",
        &[
            (0x8740, 0xA0FE),
            (0xA145, 0xA145),
            (0xA14E, 0xA14E),
            (0xA15A, 0xA15A),
            (0xA1C2, 0xA1C3),
            (0xA1C5, 0xA1C5),
            (0xA1E3, 0xA1E3),
            (0xA1F2, 0xA1F3),
            (0xA1FE, 0xA242),
            (0xA244, 0xA244),
            (0xA246, 0xA247),
            (0xA2CC, 0xA2CC),
            (0xA2CE, 0xA2CE),
            (0xA3C0, 0xA3E1),
            (0xC6A1, 0xC8FE),
            (0xF9DD, 0xFEFE),
        ],
    ),
    (
        "gbk",
        &[
            (0x80, 0x80),
            (0xA140, 0xA1A0),
            (0xA240, 0xA2A0),
            (0xA2AB, 0xA2B0),
            (0xA2E3, 0xA2E4),
            (0xA2EF, 0xA2F0),
            (0xA2FD, 0xA3A0),
            (0xA440, 0xA4A0),
            (0xA4F4, 0xA5A0),
            (0xA5F7, 0xA6A0),
            (0xA6B9, 0xA6C0),
            (0xA6D9, 0xA6DF),
            (0xA6EC, 0xA6ED),
            (0xA6F3, 0xA6F3),
            (0xA6F6, 0xA7A0),
            (0xA7C2, 0xA7D0),
            (0xA7F2, 0xA7FE),
            (0xA896, 0xA8A0),
            (0xA8BC, 0xA8BC),
            (0xA8BF, 0xA8BF),
            (0xA8C1, 0xA8C4),
            (0xA8EA, 0xA8FE),
            (0xA958, 0xA958),
            (0xA95B, 0xA95B),
            (0xA95D, 0xA95F),
            (0xA989, 0xA995),
            (0xA997, 0xA9A3),
            (0xA9F0, 0xA9FE),
            (0xAAA1, 0xAAFE),
            (0xABA1, 0xABFE),
            (0xACA1, 0xACFE),
            (0xADA1, 0xADFE),
            (0xAEA1, 0xAEFE),
            (0xAFA1, 0xAFFE),
            (0xD7FA, 0xD7FE),
            (0xF8A1, 0xF8FE),
            (0xF9A1, 0xF9FE),
            (0xFAA1, 0xFAFE),
            (0xFBA1, 0xFBFE),
            (0xFCA1, 0xFCFE),
            (0xFDA1, 0xFDFE),
            (0xFE50, 0xFEFE),
        ],
    ),
    (
        "gb2312",
        &[
            (0x80, 0xA0FE),
            (0xA1A4, 0xA1A4),
            (0xA1AA, 0xA1AA),
            (0xA2A1, 0xA2B0),
            (0xA2E3, 0xA2E4),
            (0xA2EF, 0xA2F0),
            (0xA2FD, 0xA2FE),
            (0xA4F4, 0xA4FE),
            (0xA5F7, 0xA5FE),
            (0xA6B9, 0xA6C0),
            (0xA6D9, 0xA6FE),
            (0xA7C2, 0xA7D0),
            (0xA7F2, 0xA7FE),
            (0xA8BB, 0xA8C4),
            (0xA8EA, 0xA9A3),
            (0xA9F0, 0xAFFE),
            (0xD7FA, 0xD7FE),
            (0xF8A1, 0xFEFE),
        ],
    ),
    (
        "sjis",
        &[
            (0x80, 0x80),
            (0x815F, 0x8161),
            (0x817C, 0x817C),
            (0x8191, 0x8192),
            (0x81CA, 0x81CA),
            (0x8740, 0x879C),
            (0xED40, 0xFC4B),
        ],
    ),
    ("cp932", &[(0x80, 0x80)]),
    (
        "ujis",
        &[
            (0xA1C0, 0xA1C2),
            (0xA1DD, 0xA1DD),
            (0xA1F1, 0xA1F2),
            (0xA2CC, 0xA2CC),
            (0xADA1, 0xADFC),
            (0xF9A1, 0xFCFE),
            (0x8FA2B7, 0x8FA2B7),
        ],
    ),
    ("eucjpms", &[(0xF9A1, 0xFCFE), (0x8FA2C3, 0x8FA2C3)]),
];

/// Whether `bytes` hold a sequence of the character set `name` on which the server and the decoder do not agree.
pub(crate) fn holds_undefined(name: &str, bytes: &[u8]) -> bool {
    let Some((_, ranges)) = UNDEFINED.iter().find(|(known, _)| *known == name) else {
        return false;
    };
    let mut rest = bytes;
    while let [lead, ..] = rest {
        let (sequence, after) = rest.split_at(length(name, *lead).min(rest.len()));
        rest = after;
        let short_trail = name == "gb2312" && sequence.get(1).is_some_and(|trail| *trail < 0xA1);
        let number = sequence
            .iter()
            .fold(0, |number, byte| number << 8 | u32::from(*byte));
        if short_trail || ranges.iter().any(|(from, to)| (*from..=*to).contains(&number)) {
            return true;
        }
    }
    false
}

/// Bytes of the sequence that begins with `lead`.
fn length(name: &str, lead: u8) -> usize {
    match (name, lead) {
        (_, ..=0x7F) => 1,
        ("ujis" | "eucjpms", 0x8F) => 3,
        ("ujis" | "eucjpms", 0x8E | 0xA1..=0xFE) => 2,
        ("sjis" | "cp932", 0x81..=0x9F | 0xE0..=0xFC) => 2,
        ("big5" | "gbk" | "gb2312", 0x81..=0xFE) => 2,
        _ => 1,
    }
}
