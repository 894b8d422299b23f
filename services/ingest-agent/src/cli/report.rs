//! `tables`, `coverage`, `status`: what the store holds.

use std::{
    io::{self, Write},
    path::Path,
};

use serde::Serialize;
use trail::{Coverage, Filter, Reader};
use types::Micros;

use super::{args::Report, cover, list::store_fault, parse};
use crate::{
    error::Error,
    exit::Exit,
    render::{
        ReportFormat,
        grid::Grid,
        screen::{Screen, Style},
        text::visible,
    },
};

/// Writes whole texts to standard output.
pub(super) fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Error::from_output(&error))
}

/// Writes `value` as JSON: laid out, or on one line.
pub(super) fn print_json(value: &impl Serialize, format: ReportFormat) -> Result<(), Error> {
    let text = match format {
        ReportFormat::Ndjson => serde_json::to_string(value),
        ReportFormat::Json | ReportFormat::Table => serde_json::to_string_pretty(value),
    };
    print(&(text.map_err(|error| Error::from_output(&error.into()))? + "\n"))
}

/// A line of `trail tables`.
#[derive(Serialize)]
pub(super) struct TableLine {
    pub(super) schema: String,
    pub(super) table: String,
    pub(super) inserts: u64,
    pub(super) updates: u64,
    pub(super) deletes: u64,
    pub(super) first: String,
    pub(super) last: String,
    pub(super) schema_version: u32,
}

/// `trail tables`.
pub(super) fn tables(store: &Path, args: &Report) -> Result<Exit, Error> {
    let reader = super::open(store)?;
    let lines: Vec<TableLine> = reader
        .tables()
        .map_err(|error| store_fault(&error))?
        .into_iter()
        .map(|summary| TableLine {
            schema: summary.schema,
            table: summary.table,
            inserts: summary.inserts,
            updates: summary.updates,
            deletes: summary.deletes,
            first: summary.first.to_string(),
            last: summary.last.to_string(),
            schema_version: summary.schema_version,
        })
        .collect();
    print_tables(&lines, args.format)?;
    Ok(cover::tell(&reader, &reader.coverage_of(&Filter::default())))
}

/// The lines in one of the forms.
pub(super) fn print_tables(lines: &[TableLine], format: ReportFormat) -> Result<(), Error> {
    match format {
        ReportFormat::Json => print_json(&lines, format),
        ReportFormat::Ndjson => lines.iter().try_for_each(|line| print_json(line, format)),
        ReportFormat::Table => {
            let mut grid = Grid::new(&[
                "TABLE",
                "INSERTS",
                "UPDATES",
                "DELETES",
                "FIRST CHANGE",
                "LAST CHANGE",
            ]);
            for line in lines {
                let numbers = [line.inserts, line.updates, line.deletes].map(|number| number.to_string());
                let name = format!("{}.{}", line.schema, line.table);
                grid.row(
                    [name]
                        .into_iter()
                        .chain(numbers)
                        .chain([line.first.clone(), line.last.clone()]),
                );
            }
            print(&grid.text(Screen::stdout()))
        }
    }
}

#[derive(Serialize)]
struct CoverageReport {
    complete: bool,
    because: Option<String>,
    earliest: Option<String>,
    intervals: Vec<IntervalLine>,
    gaps: Vec<GapLine>,
}

/// A place in the log.
#[derive(Serialize)]
pub(super) struct PlaceLine {
    epoch: u32,
    file: String,
    offset: u64,
}

#[derive(Serialize)]
struct IntervalLine {
    from: PlaceLine,
    to: PlaceLine,
    from_time: Option<String>,
    to_time: Option<String>,
    gtids_before: String,
    gtids: String,
    transactions: u64,
    changes: u64,
}

#[derive(Serialize)]
struct GapLine {
    after: PlaceLine,
    before: PlaceLine,
    after_time: Option<String>,
    before_time: Option<String>,
    reason: String,
}

impl From<trail::Place> for PlaceLine {
    fn from(place: trail::Place) -> Self {
        Self {
            epoch: place.epoch,
            file: place.at.file.as_str().to_owned(),
            offset: place.at.offset,
        }
    }
}

pub(super) fn text(time: Option<Micros>) -> Option<String> {
    time.map(|time| time.to_string())
}

impl From<Coverage> for CoverageReport {
    fn from(coverage: Coverage) -> Self {
        let interval = |interval: &trail::Interval| IntervalLine {
            from: interval.start().into(),
            to: interval.end().into(),
            from_time: text(interval.from_time),
            to_time: text(interval.to_time),
            gtids_before: interval.gtids_before.to_string(),
            gtids: interval.gtids.to_string(),
            transactions: interval.transactions,
            changes: interval.changes,
        };
        let gap = |gap: trail::Gap| GapLine {
            after: gap.after.into(),
            before: gap.before.into(),
            after_time: text(gap.after_time),
            before_time: text(gap.before_time),
            reason: gap.reason,
        };
        Self {
            complete: coverage.complete,
            because: coverage.because,
            earliest: text(coverage.earliest),
            intervals: coverage.intervals.iter().map(interval).collect(),
            gaps: coverage.gaps.into_iter().map(gap).collect(),
        }
    }
}

/// `trail coverage`.
pub(super) fn coverage(store: &Path, args: &Report) -> Result<Exit, Error> {
    let reader = super::open(store)?;
    let coverage = reader.coverage();
    print_coverage(&coverage, args.format)?;
    Ok(cover::tell(&reader, &coverage))
}

/// The coverage in one of the forms.
pub(super) fn print_coverage(coverage: &Coverage, format: ReportFormat) -> Result<(), Error> {
    match format {
        ReportFormat::Table => print(&intervals(coverage)),
        format => print_json(&CoverageReport::from(coverage.clone()), format),
    }
}

/// Intervals with the gaps between them.
fn intervals(coverage: &Coverage) -> String {
    let screen = Screen::stdout();
    let time = |time: Option<Micros>| text(time).unwrap_or_else(|| "-".to_owned());
    let mut grid = Grid::new(&[
        "FROM",
        "TO",
        "FIRST COMMIT",
        "LAST COMMIT",
        "TRANSACTIONS",
        "CHANGES",
    ]);
    for interval in &coverage.intervals {
        let places = [interval.start().to_string(), interval.end().to_string()];
        let times = [time(interval.from_time), time(interval.to_time)];
        grid.row(
            places
                .into_iter()
                .chain(times)
                .chain([interval.transactions.to_string(), interval.changes.to_string()]),
        );
    }
    let mut out = grid.text(screen);
    for interval in &coverage.intervals {
        if !interval.gtids.is_empty() {
            out.push_str(&format!(
                "gtids from {}: {}\n",
                visible(&interval.start().to_string()),
                visible(&interval.gtids.to_string())
            ));
        }
    }
    for gap in &coverage.gaps {
        out.push_str(&format!(
            "{}: {}\n",
            Style::Yellow.paint("gap", screen.colour),
            visible(&cover::gap(gap))
        ));
    }
    out
}

#[derive(Serialize)]
struct StatusReport {
    store: String,
    path: String,
    format: u32,
    source: Option<SourceReport>,
    position: Option<PlaceLine>,
    last_commit: Option<String>,
    transactions: u64,
    changes: u64,
    segments: usize,
    bytes: u64,
    tail_bytes: u64,
}

#[derive(Serialize)]
struct SourceReport {
    engine: String,
    version: String,
    server: String,
    host: Option<String>,
}

/// `trail status`.
pub(super) fn status(store: &Path, args: &Report) -> Result<Exit, Error> {
    let reader = super::open(store)?;
    match args.format {
        ReportFormat::Table => print(&status_text(store, &reader))?,
        format => print_json(&status_report(store, &reader), format)?,
    }
    Ok(Exit::Done)
}

fn status_report(store: &Path, reader: &Reader) -> StatusReport {
    let status = reader.status();
    StatusReport {
        store: status.store,
        path: store.display().to_string(),
        format: status.format,
        source: status.source.map(|source| SourceReport {
            engine: source.engine,
            version: source.version,
            server: source.server,
            host: source.host,
        }),
        position: status.position.map(PlaceLine::from),
        last_commit: text(status.last_commit),
        transactions: status.transactions,
        changes: status.changes,
        segments: status.segments,
        bytes: status.bytes,
        tail_bytes: status.tail_bytes,
    }
}

fn status_text(store: &Path, reader: &Reader) -> String {
    let status = reader.status();
    let none = || "-".to_owned();
    let source = status.source.map_or_else(none, |source| {
        let parts = [
            source.engine,
            source.version,
            source.server,
            source.host.unwrap_or_default(),
        ];
        parts
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    });
    let last_commit = status.last_commit.map_or_else(none, |time| {
        format!("{time} ({} ago)", age(parse::now().0 - time.0))
    });
    let lines = [
        (
            "store",
            format!("{} ({}, format {})", store.display(), status.store, status.format),
        ),
        ("source", source),
        (
            "position",
            status.position.map_or_else(none, |place| place.to_string()),
        ),
        ("last commit", last_commit),
        ("transactions", status.transactions.to_string()),
        ("changes", status.changes.to_string()),
        ("segments", status.segments.to_string()),
        (
            "size",
            format!(
                "{} ({} not sealed yet)",
                size(status.bytes),
                size(status.tail_bytes)
            ),
        ),
    ];
    facts(lines)
}

/// Names and values below each other.
pub(super) fn facts<const N: usize>(lines: [(&str, String); N]) -> String {
    let colour = Screen::stdout().colour;
    let line = |(name, value): (&str, String)| {
        format!(
            "{} {}\n",
            Style::Bold.paint(&format!("{name:<12}"), colour),
            visible(&value)
        )
    };
    lines.into_iter().map(line).collect()
}

/// A duration in its two largest units.
pub(super) fn age(micros: i64) -> String {
    let seconds = micros.max(0) / 1_000_000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// Bytes in the largest binary unit that leaves a whole number.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1_024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use super::{age, size};

    #[test]
    fn sizes_and_ages_are_rounded_for_people() {
        assert_eq!(
            [size(0), size(1_536), size(5 << 20), size(3 << 30)],
            ["0 B", "1.5 KiB", "5.0 MiB", "3.0 GiB"]
        );
        assert_eq!(
            [age(-5), age(61_000_000), age(90_061_000_000)],
            ["0 s", "1 min 1 s", "1 d 1 h"]
        );
    }
}
