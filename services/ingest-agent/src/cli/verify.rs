//! `verify`: every byte of the store is read and held against its digest.

use std::{path::Path, time::Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::{
    args,
    list::store_fault,
    note,
    report::{print, print_json, size},
};
use crate::{error::Error, exit::Exit, render::ReportFormat};

/// Refreshes a second of a progress bar.
const REFRESH_HZ: u8 = 5;

#[derive(Serialize)]
struct Report {
    ok: bool,
    error: Option<String>,
    segments: u64,
    changes: u64,
    bytes: u64,
    torn_bytes: u64,
}

/// A bar for long work over bytes on standard error, which hides itself when that is no terminal.
pub(super) fn bar() -> ProgressBar {
    styled(
        "{wide_bar} {percent:>3} %  {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta} left",
    )
}

/// The same for work over at most `most` changes.
pub(super) fn bar_of_changes(most: u64) -> ProgressBar {
    let bar = styled("{wide_bar} {human_pos} changes  {per_sec}  at most {eta} left");
    bar.set_length(most);
    bar
}

fn styled(template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(REFRESH_HZ));
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// `trail verify`.
pub(super) fn verify(store: &Path, args: &args::Report) -> Result<Exit, Error> {
    let bar = bar();
    let begin = Instant::now();
    let result = trail::verify(store, &mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    });
    bar.finish_and_clear();
    let found = match &result {
        Ok(found) => *found,
        Err(_) => trail::Verified::default(),
    };
    if args.format != ReportFormat::Table {
        let report = Report {
            ok: result.is_ok(),
            error: result.as_ref().err().map(|error| types::chain(error)),
            segments: found.segments,
            changes: found.changes,
            bytes: found.bytes,
            torn_bytes: found.torn,
        };
        print_json(&report, args.format)?;
    }
    result.map_err(|error| store_fault(&error).hint("nothing was changed; the next `trail watch` or `trail index` reads again what a damaged tail-*.log lost; restore any other file from a copy of the store, or read the log anew into an empty store"))?;
    if args.format == ReportFormat::Table {
        let seconds = begin.elapsed().as_secs_f64();
        print(&format!(
            "ok: {} segments, {} changes, {} checked in {seconds:.1} s\n",
            found.segments,
            found.changes,
            size(found.bytes)
        ))?;
        if found.torn > 0 {
            note::note(&format!(
                "{} at the end of the tail belong to a write that is going on or was cut off; they do not count, and what they hold is read again",
                size(found.torn)
            ));
        }
    }
    Ok(Exit::Done)
}
