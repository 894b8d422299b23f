//! Text that may come from anybody, made fit for a terminal.
//!
//! Row data, table names and statements are written by whoever uses the database. Sent raw, an escape sequence in them could
//! repaint the screen, a newline could forge a line of our output, and a bidirectional override could show a value backwards. So
//! every character that is not simply drawn is written as an escape that is.

use std::{borrow::Cow, fmt::Write};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Whether a terminal would act on the character, or hide it, instead of drawing it.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061C}' | '\u{200B}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}'
            | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}')
}

fn push_escape(out: &mut String, c: char) {
    match c {
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\0' => out.push_str("\\0"),
        // Writing to a String cannot fail.
        c if c.is_ascii() => drop(write!(out, "\\x{:02x}", u32::from(c))),
        c => drop(write!(out, "\\u{{{:x}}}", u32::from(c))),
    }
}

/// `text` with every character that a terminal would act on written as an escape. Backslashes stay single: this is for names and
/// messages, where ambiguity harms nobody; see [`quote`] for values.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(acts) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if acts(c) {
            push_escape(&mut out, c)
        } else {
            out.push(c)
        }
    }
    Cow::Owned(out)
}

/// `text` as a literal in single quotes, so that empty text, spaces at the ends and the text `NULL` are seen for what they are.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('\'');
    for c in text.chars() {
        match c {
            '\'' => out.push_str("''"),
            '\\' => out.push_str("\\\\"),
            c if acts(c) => push_escape(&mut out, c),
            c => out.push(c),
        }
    }
    out.push('\'');
    out
}

/// A statement with single spaces for whatever white space it has.
pub(crate) fn one_line(statement: &str) -> String {
    statement.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Columns of a terminal the text takes.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// `text` cut to `limit` columns, the last of them `…` if anything was cut.
pub(crate) fn fit(text: &str, limit: usize) -> Cow<'_, str> {
    if text.len() <= limit || width(text) <= limit {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{}…", prefix(text, limit.saturating_sub(1))))
}

/// The longest beginning of `text` that takes at most `limit` columns.
pub(crate) fn prefix(text: &str, limit: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += c.width().unwrap_or(0);
        if used > limit {
            return &text[..at];
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{fit, quote, visible, width};

    #[test]
    fn nothing_a_terminal_would_act_on_gets_through() {
        let hostile = "\u{1b}[2J\u{1b}]0;owned\u{7}\r\n\u{9b}31m\u{202e}txt.exe\u{200b}\u{e0041}";
        for shown in [visible(hostile).into_owned(), quote(hostile)] {
            assert!(!shown.chars().any(super::acts), "{shown:?}");
            assert!(shown.contains("\\x1b[2J"), "{shown}");
            assert!(shown.contains("\\u{202e}txt.exe"), "{shown}");
        }
    }

    #[test]
    fn quoted_text_tells_null_from_its_name() {
        assert_eq!(quote("NULL"), "'NULL'");
        assert_eq!(quote("it's C:\\dir\n"), "'it''s C:\\\\dir\\n'");
    }

    #[test]
    fn wide_text_is_cut_by_columns_not_bytes() {
        assert_eq!(width("日本語"), 6);
        assert_eq!(fit("日本語", 6), "日本語");
        assert_eq!(fit("日本語", 5), "日本…");
        assert_eq!(fit("日本語", 4), "日…");
        assert_eq!(fit("naïve", 5), "naïve");
        assert_eq!(fit("abcdef", 4), "abc…");
        assert_eq!(fit("e\u{301}tude", 4), "e\u{301}tu…");
    }
}
