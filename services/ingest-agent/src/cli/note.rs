//! Lines on standard error: what the person has to know beside the answer.

use std::io::{self, Write};

use crate::render::{
    screen::{Screen, Style},
    text::visible,
};

/// `label: text`, the label in `style` on a terminal.
pub(super) fn line(label: &str, style: Style, text: &str) {
    let painted = style.paint(label, Screen::stderr().colour);
    raw(&format!("{painted}: {}", visible(text)));
}

/// Something worth knowing.
pub(super) fn note(text: &str) {
    line("note", Style::Dim, text);
}

/// A line that is already fit for a terminal.
pub(super) fn raw(text: &str) {
    // Nobody can be told that standard error does not work.
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}
