//! `completions SHELL`.

use std::io::{self, Write};

use clap::CommandFactory;
use clap_complete::Shell;

use super::args::Trail;
use crate::{error::Error, exit::Exit};

/// Prints the script.
pub(super) fn print(shell: Shell) -> Result<Exit, Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Trail::command(), "trail", &mut script);
    io::stdout()
        .write_all(&script)
        .map_err(|error| Error::from_output(&error))?;
    Ok(Exit::Done)
}
