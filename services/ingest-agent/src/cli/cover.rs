//! What an answer rests on, said in one line on standard error, and in the exit status.

use std::fmt::Write as _;

use trail::{Coverage, Gap, Reader};

use super::note;
use crate::{exit::Exit, render::screen::Style};

/// Tells what `coverage` says, and gives the exit status that follows from it.
pub(super) fn tell(reader: &Reader, coverage: &Coverage) -> Exit {
    if coverage.complete {
        note::line("complete", Style::Green, &complete(reader, coverage));
        return Exit::Done;
    }
    let mut text = coverage
        .because
        .clone()
        .unwrap_or_else(|| "something that was asked for was not read".to_owned());
    if coverage.gaps.len() > 1 {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            " (and {} more gaps: trail coverage)",
            coverage.gaps.len() - 1
        );
    }
    note::line("INCOMPLETE", Style::Yellow, &text);
    Exit::Incomplete
}

/// From where to where, in the log and in time.
fn complete(reader: &Reader, coverage: &Coverage) -> String {
    let status = reader.status();
    let (Some(first), Some(last)) = (coverage.intervals.first(), coverage.intervals.last()) else {
        let end = status
            .position
            .map_or_else(|| "its beginning".to_owned(), |place| place.to_string());
        let last = status
            .last_commit
            .map_or_else(|| "none".to_owned(), |time| time.to_string());
        return format!("the log is read up to {end}, last commit {last}");
    };
    let mut text = format!("{} … {}", first.start(), last.end());
    let (from, to) = (
        coverage
            .intervals
            .iter()
            .filter_map(|interval| interval.from_time)
            .min(),
        coverage
            .intervals
            .iter()
            .filter_map(|interval| interval.to_time)
            .max(),
    );
    if let Some((from, to)) = from.zip(to) {
        // Writing to a String cannot fail.
        let _ = write!(text, " ({from} … {to})");
    }
    text
}

/// A gap in one line.
pub(super) fn gap(gap: &Gap) -> String {
    let time = |time: Option<types::Micros>| time.map(|time| format!(" ({time})")).unwrap_or_default();
    format!(
        "nothing was read between {}{} and {}{}: {}",
        gap.after,
        time(gap.after_time),
        gap.before,
        time(gap.before_time),
        gap.reason
    )
}
