//! Lines made of styled pieces, measured before they are painted.

use super::{
    screen::Style,
    text::{prefix, width},
};

/// A line, or a part of one. The texts must already be [`visible`](super::text::visible).
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    spans: Vec<(Style, String)>,
    columns: usize,
}

impl Line {
    /// A piece in one style.
    pub(crate) fn of(style: Style, text: impl Into<String>) -> Self {
        let mut line = Self::default();
        line.push(style, text);
        line
    }

    /// Appends a piece.
    pub(crate) fn push(&mut self, style: Style, text: impl Into<String>) {
        let text = text.into();
        self.columns += width(&text);
        self.spans.push((style, text));
    }

    /// Appends another line's pieces.
    pub(crate) fn append(&mut self, other: Line) {
        self.columns += other.columns;
        self.spans.extend(other.spans);
    }

    /// Appends `text` and spaces up to `columns`, and two more.
    pub(crate) fn cell(&mut self, style: Style, text: &str, columns: usize) {
        self.push(style, text);
        self.push(Style::Plain, " ".repeat(columns.saturating_sub(width(text)) + 2));
    }

    /// Columns it takes.
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// The text with its escape sequences, without spaces at its end.
    pub(crate) fn paint(&self, colour: bool) -> String {
        let painted: String = self
            .spans
            .iter()
            .map(|(style, text)| style.paint(text, colour))
            .collect();
        painted.trim_end_matches(' ').to_owned()
    }

    /// Cuts the line to `limit` columns.
    pub(crate) fn cut(self, limit: Option<usize>) -> Self {
        let Some(limit) = limit.filter(|limit| self.columns > *limit) else {
            return self;
        };
        let mut line = Self::default();
        for (style, text) in self.spans {
            let room = limit.saturating_sub(line.columns + 1);
            let part = prefix(&text, room);
            line.push(style, part);
            if part.len() < text.len() || line.columns + 1 == limit {
                line.push(style, "…");
                break;
            }
        }
        line
    }
}

/// Joins `pieces` with `separator` into as few lines as `limit` allows; all but the first begin with `indent` spaces. A piece
/// wider than a line is cut.
pub(crate) fn wrap(
    first: Line,
    pieces: Vec<Line>,
    separator: &str,
    indent: usize,
    limit: Option<usize>,
) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut line = first;
    let mut joined = false;
    for piece in pieces {
        let glue = if joined { width(separator) } else { 0 };
        if joined
            && limit
                .is_some_and(|limit| line.columns + glue + piece.columns + separator.trim_end().len() > limit)
        {
            line.push(Style::Plain, separator.trim_end());
            lines.push(std::mem::replace(
                &mut line,
                Line::of(Style::Plain, " ".repeat(indent)),
            ));
        } else if joined {
            line.push(Style::Plain, separator);
        }
        line.append(piece);
        joined = true;
    }
    lines.push(line);
    lines.into_iter().map(|line| line.cut(limit)).collect()
}

#[cfg(test)]
mod tests {
    use super::{Line, Style, wrap};

    #[test]
    fn pieces_are_wrapped_to_the_width_and_never_beyond() {
        let pieces = ["alpha", "beta", "gamma", "a very long piece indeed"]
            .map(|text| Line::of(Style::Plain, text))
            .to_vec();
        let lines = wrap(Line::of(Style::Plain, "> "), pieces, ", ", 2, Some(16));
        let texts: Vec<String> = lines.iter().map(|line| line.paint(false)).collect();
        assert_eq!(texts, ["> alpha, beta,", "  gamma,", "  a very long p…"]);
    }

    #[test]
    fn colours_do_not_count_as_columns() {
        let mut line = Line::of(Style::Red, "日本");
        line.push(Style::Plain, "x");
        assert_eq!(line.columns(), 5);
        assert_eq!(line.paint(true), "\u{1b}[31m日本\u{1b}[0mx");
        assert_eq!(line.cut(Some(4)).paint(false), "日…");
    }
}
