//! `trailmesh identity`: certificates for a mesh on one machine.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use types::Region;

use crate::authority::{Authority, Error};

/// What `trailmesh identity` takes.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where the authority and the certificates are kept; made when it is not there
    folder: PathBuf,
    /// The services to make certificates for
    #[arg(required = true)]
    services: Vec<String>,
    /// The trust domain in the SPIFFE ids
    #[arg(long, env = "TRAILMESH_TRUST_DOMAIN", default_value = "trailmesh")]
    trust_domain: String,
    /// The region of the services: us or eu
    #[arg(long, env = "TRAILMESH_REGION", default_value = "us", value_parser = region)]
    region: Region,
}

/// A region in a flag.
pub(crate) fn region(text: &str) -> Result<Region, &'static str> {
    text.parse().map_err(|()| "write us or eu")
}

/// Makes them, and one for `localhost`, and tells where they are and what agents pin.
pub(crate) fn run(options: &Options) -> Result<(), Error> {
    let authority = Authority::open(&options.folder)?;
    let mut told = format!("trust bundle  {}\n", authority.bundle().display());
    let mut tell = |name: &str, files: &crate::authority::Files| {
        told.push_str(&format!(
            "{name:<12}  {}  {}\n",
            files.cert.display(),
            files.key.display()
        ));
    };
    for name in &options.services {
        tell(
            name,
            &authority.service(name, &options.trust_domain, options.region)?,
        );
    }
    tell("localhost", &authority.localhost()?);
    for pin in authority.pins()? {
        told.push_str(&format!("pin           {pin}\n"));
    }
    // Nobody reads what cannot be written.
    let _ = io::stdout().write_all(told.as_bytes());
    Ok(())
}
