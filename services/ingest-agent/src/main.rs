//! The binary `trail`; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    ingest_agent::main()
}
