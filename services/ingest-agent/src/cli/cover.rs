//! What an answer rests on, said in one line on standard error, and in the exit status.

use std::fmt::Write as _;

use trail::{Coverage, Gap, Place, Reader};
use types::Micros;

use super::note;
use crate::{exit::Exit, render::screen::Style};

/// Tells what `coverage` says, and gives the exit status that follows from it.
pub(super) fn tell(reader: &Reader, coverage: &Coverage) -> Exit {
    judge(coverage, &|| {
        let status = reader.status();
        (status.position, status.last_commit)
    })
}

/// The same where `end` knows up to where the log was read, and the latest commit.
pub(super) fn judge(coverage: &Coverage, end: &dyn Fn() -> (Option<Place>, Option<Micros>)) -> Exit {
    if coverage.complete {
        note::line("complete", Style::Green, &complete(coverage, end));
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
fn complete(coverage: &Coverage, end: &dyn Fn() -> (Option<Place>, Option<Micros>)) -> String {
    let (Some(first), Some(last)) = (coverage.intervals.first(), coverage.intervals.last()) else {
        let (position, last_commit) = end();
        let end = position.map_or_else(|| "its beginning".to_owned(), |place| place.to_string());
        let last = last_commit.map_or_else(|| "none".to_owned(), |time| time.to_string());
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
    let time = |time: Option<Micros>| time.map(|time| format!(" ({time})")).unwrap_or_default();
    format!(
        "nothing was read between {}{} and {}{}: {}",
        gap.after,
        time(gap.after_time),
        gap.before,
        time(gap.before_time),
        gap.reason
    )
}
