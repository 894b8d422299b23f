//! Text that cannot do more than be read.

use std::fmt::Write as _;

/// The text, with what controls, reorders or hides written out, and cut where it would take more than `room` bytes in the widest
/// of the forms (JSON in ASCII).
pub(super) fn clean(value: &str, room: usize) -> String {
    let mut cleaned = String::with_capacity(value.len().min(room));
    let mut taken = 0;
    let mut piece = String::new();
    for char in value.chars() {
        piece.clear();
        if is_inert(char) {
            piece.push(char);
        } else {
            let _ = write!(piece, "\\u{{{:x}}}", u32::from(char));
        }
        taken += piece.chars().map(width).sum::<usize>();
        if taken > room.saturating_sub(3) {
            cleaned.push_str("...");
            break;
        }
        cleaned.push_str(&piece);
    }
    cleaned
}

/// Letters, digits and a few signs that need no escape in any form; others become `_`.
pub(super) fn word(value: &str, room: usize) -> String {
    let plain = |char: char| match char {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '.' | '-' => char,
        _ => '_',
    };
    value.chars().take(room).map(plain).collect()
}

/// Whether it is shown as itself, where it is.
fn is_inert(char: char) -> bool {
    !matches!(char,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        // Soft hyphen, Arabic letter mark, Mongolian vowel separator, joiners and marks of direction.
        | '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
        // Ends of lines and paragraphs, embeddings, overrides, isolates, and what is not seen.
        | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}'
        // Tags, and what is no character.
        | '\u{e0000}'..='\u{e0fff}')
        && u32::from(char) & 0xfffe != 0xfffe
        && !('\u{fdd0}'..='\u{fdef}').contains(&char)
}

fn width(char: char) -> usize {
    match char {
        '"' | '\\' | '=' | '|' => 2,
        _ if char.is_ascii() => 1,
        _ => 6 * char.len_utf16(),
    }
}

/// The same JSON, whose characters beyond ASCII (all in strings) are escaped.
pub(super) fn ascii(json: &serde_json::Value) -> String {
    let text = json.to_string();
    let mut plain = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_ascii() {
            plain.push(char);
        } else {
            for unit in char.encode_utf16(&mut [0; 2]) {
                let _ = write!(plain, "\\u{unit:04x}");
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::{ascii, clean, word};

    #[test]
    fn what_controls_reorders_or_hides_is_written_out() {
        for (wild, tame) in [
            ("a\r\nb\0", "a\\u{d}\\u{a}b\\u{0}"),
            ("\u{202e}evil\u{2066}", "\\u{202e}evil\\u{2066}"),
            ("x\u{2028}y\u{85}z", "x\\u{2028}y\\u{85}z"),
            ("\u{feff}\u{200b}\u{e0041}", "\\u{feff}\\u{200b}\\u{e0041}"),
            ("\u{fdd0}\u{1ffff}", "\\u{fdd0}\\u{1ffff}"),
            ("Zoë 東京 🦀 = | \\ \" ]", "Zoë 東京 🦀 = | \\ \" ]"),
        ] {
            assert_eq!(clean(wild, 512), tame);
        }
    }

    #[test]
    fn what_is_too_long_is_cut_at_a_character() {
        assert_eq!(clean(&"a".repeat(600), 48), format!("{}...", "a".repeat(45)));
        assert_eq!(clean(&"🦀".repeat(600), 48), "🦀🦀🦀...");
        assert_eq!(
            clean("\u{e0041}\u{e0041}\u{e0041}\u{e0041}\u{e0041}", 30),
            "\\u{e0041}\\u{e0041}..."
        );
        assert_eq!(word("server id=1|2", 8), "server_i");
    }

    #[test]
    fn json_becomes_ascii_and_means_the_same() {
        let value = serde_json::json!({"é": "東🦀\"\\"});
        let plain = ascii(&value);
        assert!(plain.is_ascii());
        assert_eq!(serde_json::from_str::<serde_json::Value>(&plain).unwrap(), value);
    }
}
