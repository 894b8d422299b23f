//! How answers look. [`table`] is for people, [`stream`] for programs; both take one change at a time and keep none.

#[cfg(test)]
mod fixture;
pub(crate) mod grid;
pub(crate) mod line;
mod row;
pub(crate) mod screen;
mod shown;
mod stream;
mod table;
pub(crate) mod text;
mod value;

use std::io::{self, Write};

use binlog::Problem;

use self::screen::Screen;
pub(crate) use self::shown::{Shown, ShownStatement, micros};

/// The form of a list of changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people: grouped by transaction, old → new column by column.
    #[default]
    Table,
    /// One JSON array.
    Json,
    /// One JSON object per line.
    Ndjson,
    /// A header and one record per change.
    Csv,
}

impl Format {
    /// Whether statements that changed definitions are shown between the changes. Programs get objects of one kind only.
    pub(crate) fn shows_schema_changes(self) -> bool {
        self == Self::Table
    }
}

/// The form of anything else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ReportFormat {
    /// For people.
    #[default]
    Table,
    /// One JSON value, laid out for reading.
    Json,
    /// The same on one line, or one line per member of a list.
    Ndjson,
}

/// Why a change could not be written.
#[derive(Debug)]
pub(crate) enum ChangeError {
    /// Its stored bytes do not fit its table.
    Problem(Problem),
    /// The output does not take it.
    Output(io::Error),
}

impl From<Problem> for ChangeError {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<io::Error> for ChangeError {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// Writes changes in one form.
pub(crate) trait Render {
    /// Writes the next change.
    fn change(&mut self, change: Shown<'_>) -> Result<(), ChangeError>;
    /// Writes the next statement that changed definitions, in forms that show those.
    fn schema_change(&mut self, _change: ShownStatement<'_>) -> io::Result<()> {
        Ok(())
    }
    /// Makes everything so far visible to the reader.
    fn flush(&mut self) -> io::Result<()>;
    /// The answer is whole.
    fn finish(&mut self) -> io::Result<()>;
}

/// A writer of changes in `format`.
pub(crate) fn changes<'a>(format: Format, out: impl Write + 'a, screen: Screen) -> Box<dyn Render + 'a> {
    match format {
        Format::Table => Box::new(table::Table::new(out, screen)),
        Format::Json => Box::new(stream::Json::new(out)),
        Format::Ndjson => Box::new(stream::Ndjson::new(out)),
        Format::Csv => Box::new(stream::Csv::new(out)),
    }
}
