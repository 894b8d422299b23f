//! What `./dev bench gateway` runs: certificates, the service behind, the gateway, and who calls it. One program, so that one build makes
//! all; each part is a process of its own.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a bench tells its numbers, and ends at the first thing that is wrong"
)]

mod behind;
mod load;
mod shape;

use std::{path::PathBuf, process::ExitCode};

use chassis::{Runtime, Settings};
use clap::Parser;
use testkit::Authority;

/// As in the binary of the mesh.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The parts of the bench.
#[derive(Parser)]
enum Part {
    /// Writes certificates into a folder: for the edge, the gateway, and the services behind.
    Certificates {
        /// The folder.
        folder: PathBuf,
    },
    /// The services behind: one that echoes, and auth that knows one API key.
    Behind(behind::Behind),
    /// The gateway, as `trailmesh gateway` starts it but for the methods it offers.
    Gateway(Box<Gateway>),
    /// Calls, and measures.
    Load(load::Load),
    /// Opens connections, calls once on each, and keeps them until standard input ends.
    Hold(load::Hold),
}

#[derive(clap::Args)]
struct Gateway {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    config: gateway::Config,
}

fn main() -> ExitCode {
    match Part::parse() {
        Part::Certificates { folder } => {
            let authority = Authority::new(&folder);
            for name in ["edge", "gateway", "bench", "auth"] {
                authority.issue(name);
            }
            ExitCode::SUCCESS
        }
        Part::Gateway(gateway) => {
            let Gateway { settings, config } = *gateway;
            chassis::host("gateway", settings, config, async |config, settings, stop| {
                let runtime = Runtime::bind("gateway", &settings, &shape::descriptors()).await?;
                runtime.stop_after(stop, settings.propagation_delay);
                gateway::start(config, runtime).await
            })
        }
        Part::Behind(behind) => single(behind::run(behind)),
        Part::Load(load) => single(load::run(load)),
        Part::Hold(hold) => single(load::hold(hold)),
    }
}

/// On one thread: what is measured shall have the other one.
fn single(work: impl Future<Output = ExitCode>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(work)
}
