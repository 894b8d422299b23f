//! SPIFFE ids, and where certificates carry them.

use std::{fmt, str::FromStr};

use rustls::pki_types::CertificateDer;
use types::Region;
use x509_parser::{extensions::GeneralName, prelude::FromDer as _, prelude::X509Certificate};

/// The longest id (SPIFFE-ID §2.3).
pub(super) const LONGEST: usize = 2_048;

/// The name of a service of a mesh: `spiffe://<trust-domain>/<region>/service/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SpiffeId {
    trust_domain: String,
    region: Region,
    service: String,
}

impl SpiffeId {
    /// The id of a service.
    pub fn service(trust_domain: &str, region: Region, name: &str) -> Self {
        Self {
            trust_domain: trust_domain.to_owned(),
            region,
            service: name.to_owned(),
        }
    }

    /// Whose word counts for it.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Where the service is.
    pub fn region(&self) -> Region {
        self.region
    }

    /// The service's name.
    pub fn name(&self) -> &str {
        &self.service
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (domain, region) = (&self.trust_domain, self.region.word());
        write!(f, "spiffe://{domain}/{region}/service/{}", self.service)
    }
}

impl FromStr for SpiffeId {
    type Err = String;

    /// Only the one form above: no port, query, fragment, escapes or empty parts (SPIFFE-ID §2).
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not the id of a service");
        if text.len() > LONGEST {
            return Err("the id is too long".to_owned());
        }
        let rest = text.strip_prefix("spiffe://").ok_or_else(wrong)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [domain, region, "service", service] = parts[..] else {
            return Err(wrong());
        };
        let good_service = service.bytes().all(allowed) && ![".", ".."].contains(&service);
        if service.is_empty() || !good_service || !good_domain(domain) {
            return Err(wrong());
        }
        Ok(Self {
            trust_domain: domain.to_owned(),
            region: region.parse().map_err(|()| wrong())?,
            service: service.to_owned(),
        })
    }
}

fn allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)
}

/// Whether `text` can be a trust domain.
pub(super) fn good_domain(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| allowed(byte) && !byte.is_ascii_uppercase())
}

/// What a certificate is shown for. It must say so itself: one that names no use is for none here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// To accept connections.
    Serving,
    /// To make them.
    Calling,
}

/// The service that `certificate` is for, if it may be used for all of `uses`.
pub(super) fn of_certificate(certificate: &CertificateDer<'_>, uses: &[Use]) -> Result<SpiffeId, String> {
    uri_and_serial(certificate, uses)?.0.parse()
}

/// The one URI of `certificate` (X509-SVID §2), if it may be used for all of `uses`; and its serial number, hexadecimal without leading zeros.
pub(super) fn uri_and_serial(
    certificate: &CertificateDer<'_>,
    uses: &[Use],
) -> Result<(String, String), String> {
    let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| "it cannot be parsed")?;
    if !rest.is_empty() {
        return Err("bytes follow it".into());
    }
    let usage = parsed
        .extended_key_usage()
        .map_err(|_| "its uses cannot be parsed")?
        .ok_or("it has no extended key usage")?;
    for wanted in uses {
        let (named, word) = match wanted {
            Use::Serving => (usage.value.server_auth, "serverAuth"),
            Use::Calling => (usage.value.client_auth, "clientAuth"),
        };
        if !named {
            return Err(format!("its extended key usage has no {word}"));
        }
    }
    let names = parsed
        .subject_alternative_name()
        .map_err(|_| "its names cannot be parsed")?;
    let names = names
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => Ok((uri.to_owned(), serial(parsed.raw_serial()))),
        (None, _) => Err("it has no URI".into()),
        (Some(_), Some(_)) => Err("it has more than one URI".into()),
    }
}

fn serial(bytes: &[u8]) -> String {
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    text.trim_start_matches('0').to_owned()
}

/// Whether `certificate` says that it vouches for others.
pub(super) fn is_authority(certificate: &CertificateDer<'_>) -> bool {
    let parsed = X509Certificate::from_der(certificate);
    parsed.is_ok_and(|(rest, parsed)| rest.is_empty() && parsed.is_ca())
}

/// When `certificate` ends, in seconds since 1970.
pub(super) fn ends(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.validity().not_after.timestamp())
}

#[cfg(test)]
mod tests {
    use types::Region;

    use super::SpiffeId;

    #[test]
    fn ids_of_services_are_read_and_written() {
        let id: SpiffeId = "spiffe://trailmesh/eu/service/auth".parse().unwrap();
        assert_eq!(id, SpiffeId::service("trailmesh", Region::Eu, "auth"));
        assert_eq!(id.to_string(), "spiffe://trailmesh/eu/service/auth");
    }

    #[test]
    fn everything_else_is_refused() {
        for bad in [
            "",
            "spiffe://",
            "https://trailmesh/eu/service/auth",
            "SPIFFE://trailmesh/eu/service/auth",
            "spiffe:///eu/service/auth",
            "spiffe://Trailmesh/eu/service/auth",
            "spiffe://trailmesh:443/eu/service/auth",
            "spiffe://u@trailmesh/eu/service/auth",
            "spiffe://trailmesh/eu/service/",
            "spiffe://trailmesh/eu/service/auth/",
            "spiffe://trailmesh/eu//service/auth",
            "spiffe://trailmesh/eu/service/au%74h",
            "spiffe://trailmesh/eu/service/..",
            "spiffe://trailmesh/eu/service/auth?x=1",
            "spiffe://trailmesh/eu/service/auth#x",
            "spiffe://trailmesh/mars/service/auth",
            "spiffe://trailmesh/eu/tenant/t/agent/a",
            " spiffe://trailmesh/eu/service/auth",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
        let long = format!("spiffe://trailmesh/eu/service/{}", "a".repeat(2_048));
        assert!(long.parse::<SpiffeId>().is_err());
    }
}
