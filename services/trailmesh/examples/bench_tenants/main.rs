//! What `./dev bench tenants` runs: many tenants in several cells, each cell a PostgreSQL server of its own, all by the same functions that
//! the service and `trailmesh migrate` call.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench tells its numbers, and ends at the first thing that is wrong"
)]

mod cell;
mod measure;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Parser;
use pg::migrate::{Migration, Set};

use cell::Cell;

/// All that is in a cell's database.
#[rustfmt::skip]
const SETS: [Set; 5] = [auth::MIGRATIONS, tenant::MIGRATIONS, vault::MIGRATIONS, query::MIGRATIONS, recovery::MIGRATIONS];

/// Makes tenants, measures what their number costs, and ends some.
#[derive(Parser)]
struct Options {
    /// A superuser's URL of a server, for each cell.
    #[arg(long = "cell", required = true)]
    cells: Vec<String>,
    /// How many tenants there are in all cells together.
    #[arg(long, default_value_t = 10_000)]
    tenants: usize,
    /// The program `pg_dump`.
    #[arg(long, default_value = "pg_dump")]
    pg_dump: PathBuf,
}

/// One line of the table.
fn line(what: &str, number: &str, goal: &str) {
    println!("{what:<58} {number:>28}   {goal}");
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// The middle, and what one in a hundred exceeds.
fn middle_and_tail(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    (at(50), at(99))
}

fn both(times: Vec<Duration>) -> String {
    let (middle, tail) = middle_and_tail(times);
    format!("p50 {}, p99 {}", milliseconds(middle), milliseconds(tail))
}

/// The sets with one more column in each tenant's schema.
fn one_column_more() -> [Set; 5] {
    SETS.map(|set| {
        if set.service != "tenant" {
            return set;
        }
        let next = u32::try_from(set.tenant.len()).unwrap() + 1;
        let column = Migration {
            version: next,
            name: "one more column",
            sql: "ALTER TABLE server ADD COLUMN bench_note text",
        };
        let steps: Vec<Migration> = set.tenant.iter().copied().chain([column]).collect();
        Set {
            tenant: Box::leak(steps.into_boxed_slice()),
            ..set
        }
    })
}

fn load() -> String {
    let words = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    words.split(' ').take(1).collect()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let options = Options::parse();
    let each = options.tenants / options.cells.len();
    let mut cells = Vec::new();
    for (number, url) in options.cells.iter().enumerate() {
        cells.push(Cell::prepare(url, number + 1).await);
    }
    println!(
        "{} tenants in {} cells of {each}; load of the machine at the beginning {}\n",
        each * cells.len(),
        cells.len(),
        load()
    );
    beginnings(&mut cells, each).await;
    migrations(&cells).await;
    measure::memory(&cells[0]).await;
    measure::entering(&cells[0]).await;
    measure::dump(&cells[0], &options.pg_dump);
    measure::ends(&mut cells, (each / 20).clamp(1, 40)).await;
    line("load of the machine at the end", &load(), "");
}

async fn beginnings(cells: &mut [Cell], each: usize) {
    let ahead = (each / 10).clamp(1, 50);
    let (mut made, mut taken) = (Vec::new(), Vec::new());
    let began = Instant::now();
    for cell in &mut *cells {
        made.extend(cell.fill(each - ahead).await);
    }
    let took = began.elapsed();
    let rate = made.len() as f64 / took.as_secs_f64();
    line(
        "making tenants, schema and all: by two at a time",
        &format!("{rate:.0} a second"),
        "",
    );
    line("  one of them", &both(made), "");
    for cell in &mut *cells {
        taken.extend(cell.take(ahead).await);
    }
    line("making one in a schema made ahead", &both(taken), "goal 50 ms");
    let size: i64 = cells.iter().map(Cell::size).sum();
    let tables = cells[0].tables();
    line(
        "on disk",
        &format!("{:.2} GB", size as f64 / 1e9),
        &format!("{tables} tables each"),
    );
}

async fn migrations(cells: &[Cell]) {
    let began = Instant::now();
    for cell in cells {
        let report = cell.migrate(&SETS).await;
        assert_eq!(
            (report.applied.len(), report.tenants_upgraded),
            (0, 0),
            "{report}"
        );
    }
    line(
        "a run of migrations with nothing to do, all cells",
        &seconds(began.elapsed()),
        "goal 5 s",
    );
    let more = one_column_more();
    let began = Instant::now();
    let mut upgraded = 0;
    for cell in cells {
        upgraded += cell.migrate(&more).await.tenants_upgraded;
    }
    let all: usize = cells.iter().map(|cell| cell.tenants.len()).sum();
    assert_eq!(upgraded, all);
    line(
        "one more column for all, cell after cell",
        &seconds(began.elapsed()),
        "goal 300 s",
    );
}
