//! `trailmesh docs`: what is generated from the protos.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use chassis::policy::Table;
use gateway::{matrix, openapi, routes::Routes};

/// What `trailmesh docs` takes.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where to write: api/openapi.yaml and permissions.md
    #[arg(default_value = "docs")]
    folder: PathBuf,
}

/// Why they are not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The protos' rules are not complete.
    #[error("the rules of the protos cannot be used")]
    Rules(#[from] chassis::Error),
    /// The protos' HTTP forms contradict each other.
    #[error("the routes of the protos cannot be used")]
    Routes(#[from] gateway::routes::Error),
    /// A file cannot be written.
    #[error("cannot write {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Writes them.
pub(crate) fn run(options: &Options) -> Result<(), Error> {
    let routes = Routes::load(Arc::new(Table::load(proto::DESCRIPTOR_SET)?))?;
    write(&options.folder.join("api/openapi.yaml"), &openapi::yaml(&routes))?;
    write(&options.folder.join("permissions.md"), &matrix::markdown(&routes))
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(path);
    let file = |source| Error::File {
        path: path.to_owned(),
        source,
    };
    fs::create_dir_all(folder).map_err(file)?;
    fs::write(path, text).map_err(file)
}
