//! What is known about the place the output goes to.

use std::{
    env,
    io::{self, IsTerminal},
};

/// Fewer columns than this are not worth cutting text for.
const WIDTH_MIN: usize = 40;
/// More would make lines that eyes lose.
const WIDTH_MAX: usize = 1_000;

/// Where output goes: its width and whether it takes colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Screen {
    /// Columns; none when nothing limits a line, as in a file or a pipe, where nothing is cut.
    pub(crate) width: Option<usize>,
    /// Whether to use colours.
    pub(crate) colour: bool,
}

impl Screen {
    /// Standard output. `COLUMNS` counts even when it is not a terminal: whoever sets it wants lines of that width.
    pub(crate) fn stdout() -> Self {
        Self::of(io::stdout().is_terminal(), || {
            terminal_size::terminal_size_of(io::stdout())
        })
    }

    /// Standard error.
    pub(crate) fn stderr() -> Self {
        Self::of(io::stderr().is_terminal(), || {
            terminal_size::terminal_size_of(io::stderr())
        })
    }

    fn of(terminal: bool, size: impl Fn() -> Option<(terminal_size::Width, terminal_size::Height)>) -> Self {
        let asked = env::var("COLUMNS")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .filter(|columns| *columns > 0);
        let measured = || terminal.then(|| size().map_or(80, |(width, _)| usize::from(width.0)));
        let width = asked
            .or_else(measured)
            .map(|columns: usize| columns.clamp(WIDTH_MIN, WIDTH_MAX));
        let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            width,
            colour: terminal && !set("NO_COLOR") && !dumb,
        }
    }
}

/// How a piece of text stands out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Style {
    /// Not at all.
    #[default]
    Plain,
    /// Names and headings.
    Bold,
    /// What is there for completeness.
    Dim,
    /// What is gone, or wrong.
    Red,
    /// What is new, or well.
    Green,
    /// What was changed, or needs care.
    Yellow,
}

impl Style {
    /// `text` between this style's escape sequences, if `colour`.
    pub(crate) fn paint(self, text: &str, colour: bool) -> String {
        let code = match self {
            _ if !colour => return text.to_owned(),
            Self::Plain => return text.to_owned(),
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Red => "31",
            Self::Green => "32",
            Self::Yellow => "33",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}
