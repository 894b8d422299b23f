//! What may stand in text.

/// Whether the character may stand in text that is shown to others: no control characters, and nothing that turns the direction of
/// what follows or breaks its line.
pub fn is_shown(character: char) -> bool {
    !character.is_control()
        && !matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}
