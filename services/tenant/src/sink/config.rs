//! What sinks are configured with.

use std::{path::PathBuf, time::Duration};

use chassis::ConfigError;
use ipnet::IpNet;

use super::{Means, Reach};

/// Where the audit log is sent.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Sinks {
    /// Folder for file sinks: each tenant's files are in a subfolder named like its id. Without it there are none.
    #[arg(long, env = "TRAILMESH_TENANT_AUDIT_DIR", value_name = "FOLDER")]
    pub tenant_audit_dir: Option<PathBuf>,
    /// Networks, beside the internet, in which sinks may be: `10.1.0.0/16,fd00:1::/32`.
    #[arg(
        long,
        env = "TRAILMESH_TENANT_AUDIT_SINK_ALLOW",
        value_name = "NETWORKS",
        value_delimiter = ','
    )]
    pub tenant_audit_sink_allow: Vec<IpNet>,
    /// Certificates of authorities, PEM, that sinks are trusted by beside the public ones.
    #[arg(long, env = "TRAILMESH_TENANT_AUDIT_SINK_CA_FILE", value_name = "FILE")]
    pub tenant_audit_sink_ca_file: Option<PathBuf>,
    /// How often to look for entries that wait for sinks, and how soon a failed delivery is tried again at first.
    #[arg(long, env = "TRAILMESH_TENANT_AUDIT_SINK_PAUSE", value_name = "DURATION", default_value = "1s", value_parser = chassis::duration)]
    pub tenant_audit_sink_pause: Duration,
}

impl Sinks {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.tenant_audit_sink_pause < Duration::from_millis(10) {
            return Err(ConfigError::new(
                "TRAILMESH_TENANT_AUDIT_SINK_PAUSE",
                "is shorter than 10ms",
                "write some seconds",
            ));
        }
        self.means().map(drop)
    }

    /// What there is for sinks.
    pub(crate) fn means(&self) -> Result<Means, ConfigError> {
        let folder = self.folder()?;
        let wrong = |problem: String| {
            ConfigError::new(
                "TRAILMESH_TENANT_AUDIT_SINK_CA_FILE",
                problem,
                "name a PEM file with certificates of authorities",
            )
        };
        let pem = self
            .tenant_audit_sink_ca_file
            .as_ref()
            .map(std::fs::read)
            .transpose();
        let pem = pem.map_err(|error| wrong(format!("cannot be read: {}", error.kind())))?;
        let reach = Reach::new(self.tenant_audit_sink_allow.clone());
        Means::new(reach, pem.as_deref(), folder).map_err(wrong)
    }

    fn folder(&self) -> Result<Option<PathBuf>, ConfigError> {
        let Some(folder) = &self.tenant_audit_dir else {
            return Ok(None);
        };
        if !folder.is_dir() {
            return Err(ConfigError::new(
                "TRAILMESH_TENANT_AUDIT_DIR",
                "is no folder",
                "make it, writable for this service only",
            ));
        }
        Ok(Some(folder.clone()))
    }
}
