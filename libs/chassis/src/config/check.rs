//! What is wrong with the settings of the mesh, all of it at once.

use std::{collections::BTreeSet, time::Duration};

use tracing_subscriber::filter::Targets;
use url::Url;

use super::{ConfigError, Settings};

impl Settings {
    /// What is wrong, all of it.
    pub fn problems(&self) -> Vec<ConfigError> {
        let mut found = Vec::new();
        self.check_listeners(&mut found);
        self.check_identity(&mut found);
        self.check_peers(&mut found);
        self.check_telemetry(&mut found);
        self.check_residency(&mut found);
        self.check_limits(&mut found);
        found
    }

    fn check_listeners(&self, found: &mut Vec<ConfigError>) {
        if self.listen == self.admin_listen && self.listen.port() != 0 {
            found.push(ConfigError::new(
                "TRAILMESH_ADMIN_LISTEN",
                "it is the address of TRAILMESH_LISTEN",
                "give the admin listener a port of its own",
            ));
        }
    }

    fn check_identity(&self, found: &mut Vec<ConfigError>) {
        let files = [
            ("TRAILMESH_IDENTITY_CERT_FILE", &self.identity_cert_file),
            ("TRAILMESH_IDENTITY_KEY_FILE", &self.identity_key_file),
            ("TRAILMESH_TRUST_BUNDLE_FILE", &self.trust_bundle_file),
        ];
        let any = files.iter().any(|(_, file)| file.is_some());
        for (name, file) in files {
            match file {
                None if any => found.push(ConfigError::new(
                    name,
                    "it is missing, while another file of the identity is given",
                    "give certificate, key and trust bundle together",
                )),
                None if !self.dev => found.push(ConfigError::new(
                    name,
                    "it is missing, and the mesh speaks mutual TLS only",
                    "name the file; plain connections are for --dev only",
                )),
                Some(file) if !file.is_file() => found.push(ConfigError::new(
                    name,
                    format!("there is no file {}", file.display()),
                    "name a file that exists",
                )),
                _ => {}
            }
        }
        if !is_name(&self.trust_domain) {
            found.push(ConfigError::new(
                "TRAILMESH_TRUST_DOMAIN",
                "it is no trust domain",
                "use lower-case letters, digits, dots, hyphens and underscores, at most 255",
            ));
        }
        if !is_name(&self.cell) {
            found.push(ConfigError::new(
                "TRAILMESH_CELL",
                "it is no name of a cell",
                "use lower-case letters, digits, dots, hyphens and underscores, at most 255",
            ));
        }
    }

    fn check_peers(&self, found: &mut Vec<ConfigError>) {
        let mut names = BTreeSet::new();
        for peer in &self.peers {
            let name = format!("TRAILMESH_PEERS ({})", peer.name);
            if !names.insert(&peer.name) {
                found.push(ConfigError::new(
                    &name,
                    "it is given twice",
                    "give each neighbour once",
                ));
            }
            found.extend(require_endpoint(&name, &peer.url, self.dev).err());
        }
    }

    fn check_telemetry(&self, found: &mut Vec<ConfigError>) {
        if let Some(url) = &self.otlp_endpoint {
            found.extend(require_endpoint("TRAILMESH_OTLP_ENDPOINT", url, self.dev).err());
        }
        if let Some(file) = &self.otlp_ca_file
            && !file.is_file()
        {
            found.push(ConfigError::new(
                "TRAILMESH_OTLP_CA_FILE",
                format!("there is no file {}", file.display()),
                "name a file that exists",
            ));
        }
        if !(0.0..=1.0).contains(&self.trace_share) {
            found.push(ConfigError::new(
                "TRAILMESH_TRACE_SHARE",
                "it is not between 0 and 1",
                "write 1 for every trace, 0 for none",
            ));
        }
        if self.log.parse::<Targets>().is_err() {
            found.push(ConfigError::new(
                "TRAILMESH_LOG",
                "it is no filter",
                "write a level (error, warn, info, debug, trace) or module=level, separated by commas",
            ));
        }
    }

    fn check_limits(&self, found: &mut Vec<ConfigError>) {
        if self.drain_timeout.is_zero() || self.drain_timeout > LONGEST_DRAIN {
            found.push(ConfigError::new(
                "TRAILMESH_DRAIN_TIMEOUT",
                "it is zero or longer than an hour",
                "give running calls some seconds",
            ));
        }
        if self.propagation_delay > LONGEST_PROPAGATION {
            found.push(ConfigError::new(
                "TRAILMESH_PROPAGATION_DELAY",
                "it is longer than a minute",
                "give the time that load balancers need to notice",
            ));
        }
        if self.max_in_flight == 0 {
            found.push(ConfigError::new(
                "TRAILMESH_MAX_IN_FLIGHT",
                "no call could ever be served",
                "give a positive number",
            ));
        }
    }
}

/// Longer than any orchestrator waits before it kills.
const LONGEST_DRAIN: Duration = Duration::from_secs(3_600);
const LONGEST_PROPAGATION: Duration = Duration::from_secs(60);

/// A host and a port over TLS: nothing else in the URL, least of all a password.
fn require_endpoint(name: &str, url: &Url, dev: bool) -> Result<(), ConfigError> {
    let secure = match url.scheme() {
        "https" => true,
        "http" => false,
        _ => {
            return Err(ConfigError::new(
                name,
                "it is no HTTP address",
                "write https://host:port",
            ));
        }
    };
    if !url.username().is_empty()
        || url.password().is_some()
        || !matches!(url.path(), "" | "/")
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err(ConfigError::new(
            name,
            "it has more than a host and a port",
            "write https://host:port",
        ));
    }
    if !secure && !dev {
        return Err(ConfigError::new(
            name,
            "http:// is not encrypted",
            "write https://; plain connections are for --dev only",
        ));
    }
    Ok(())
}

pub(super) fn is_name(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && text
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'))
}
