//! Where data may go: nothing that a cell is told to talk to may be in another region.

use std::{fmt, str::FromStr};

use types::Region;
use url::{Host, Url};

use super::{ConfigError, Settings};

/// Where another region's installation is reached. Its text is `eu=https://host`.
#[derive(Clone, PartialEq, Eq)]
pub struct RegionHost {
    /// The region.
    pub region: Region,
    /// Scheme, host and, where it is not the usual one, port.
    pub url: Url,
}

impl RegionHost {
    /// As answers name it: no path, no slash at the end.
    fn text(&self) -> &str {
        self.url.as_str().trim_end_matches('/')
    }
}

impl FromStr for RegionHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (region, url) = text.split_once('=')?;
            let (region, url) = (region.parse().ok()?, Url::parse(url).ok()?);
            let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
            let usable = bare && url.username().is_empty() && url.password().is_none();
            (url.scheme() == "https" && usable).then_some(Self { region, url })
        };
        parse().ok_or_else(|| "write region=https://host, for example eu=https://eu.example.com".to_owned())
    }
}

impl fmt::Debug for RegionHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.region.word(), self.text())
    }
}

impl Settings {
    /// Where `region` is reached, if that was said: `https://host`.
    pub fn host_of(&self, region: Region) -> Option<&str> {
        let host = self.region_hosts.iter().find(|host| host.region == region);
        host.map(RegionHost::text)
    }

    /// Refuses a URL, a host or an ARN that names another region than this service's, or a forbidden domain. A service calls it in its
    /// [`Configuration::check`](super::Configuration::check) for everything that it connects to. Never repeats the value.
    ///
    /// Another region is named by a label of the host, or a part of the ARN, such as `eu-west-1` (also inside a label: `db-eu-west-1a`), by a
    /// label that is a region's word (`eu`, but for the last label, which is a country), or by being the host of another region.
    ///
    /// # Errors
    /// A [`ConfigError`] about `name`.
    pub fn require_region(&self, name: &str, value: &str) -> Result<(), ConfigError> {
        let wrong = |problem: String, remedy: &str| Err(ConfigError::new(name, problem, remedy));
        let host = host(value);
        let here = self.region;
        if let Some(other) = named(&host, here) {
            return wrong(
                format!("it names {other}, and this service is in region {}", here.word()),
                "name an endpoint of this region, or run the service in the other one",
            );
        }
        let of_others = self.region_hosts.iter().filter(|other| other.region != here);
        let mut of_others = of_others.filter_map(|other| Some((other.region, other.url.host_str()?)));
        if let Some((other, _)) = of_others.find(|(_, theirs)| theirs.eq_ignore_ascii_case(&host)) {
            return wrong(
                format!("it is the host of region {}", other.word()),
                "name an endpoint of this region",
            );
        }
        let forbidden = |domain: &&String| {
            let domain = domain.trim_start_matches('.').to_ascii_lowercase();
            host == domain || host.ends_with(&format!(".{domain}"))
        };
        if let Some(domain) = self.forbidden_domains.iter().find(forbidden) {
            return wrong(
                format!("it is in {domain}, which TRAILMESH_FORBIDDEN_DOMAINS forbids"),
                "name an endpoint that this cell may talk to",
            );
        }
        Ok(())
    }

    pub(super) fn check_residency(&self, found: &mut Vec<ConfigError>) {
        for peer in &self.peers {
            let name = format!("TRAILMESH_PEERS ({})", peer.name);
            found.extend(self.require_region(&name, peer.url.as_str()).err());
        }
        if let Some(url) = &self.otlp_endpoint {
            found.extend(self.require_region("TRAILMESH_OTLP_ENDPOINT", url.as_str()).err());
        }
        for (place, host) in self.region_hosts.iter().enumerate() {
            let before = &self.region_hosts[..place];
            if before.iter().any(|other| other.region == host.region) {
                found.push(ConfigError::new(
                    "TRAILMESH_REGION_HOSTS",
                    format!("the region {} is given twice", host.region.word()),
                    "give each region once",
                ));
            }
        }
    }
}

/// What of a value can name a region, in lower case: the host of a URL, or all of an ARN or a bare name.
fn host(value: &str) -> String {
    let value = value.trim();
    if !value.starts_with("arn:")
        && let Ok(url) = Url::parse(value)
        && let Some(host) = url.host_str()
    {
        // Addresses name no region.
        return match Host::parse(host) {
            Ok(Host::Domain(domain)) => domain.trim_end_matches('.').to_ascii_lowercase(),
            Ok(_) => String::new(),
            Err(_) => host.to_ascii_lowercase(),
        };
    }
    value.to_ascii_lowercase()
}

/// The name of another region in `host`.
fn named(host: &str, here: Region) -> Option<String> {
    let labels: Vec<&str> = host.split(['.', ':', '/']).collect();
    let last = labels.len().saturating_sub(1);
    for (place, label) in labels.iter().enumerate() {
        let word: Option<Region> = label.parse().ok();
        if let Some(other) = word.filter(|word| *word != here && place < last) {
            return Some(other.word().to_owned());
        }
        let parts: Vec<&str> = label.split(['-', '_']).collect();
        for (start, geography) in parts.iter().enumerate() {
            let Some(length) = cloud_region(&parts[start..]) else {
                continue;
            };
            if *geography != here.word() {
                return Some(parts[start..start + length].join("-"));
            }
        }
    }
    None
}

/// Where AWS has regions: the first part of their names.
const GEOGRAPHIES: [&str; 10] = ["us", "eu", "ap", "ca", "sa", "af", "me", "il", "cn", "mx"];
const DIRECTIONS: [&str; 9] = [
    "north",
    "south",
    "east",
    "west",
    "central",
    "northeast",
    "northwest",
    "southeast",
    "southwest",
];

/// How many parts of the front are a region's name: `eu-west-1`, `us-gov-east-1`, with a zone's letter too.
fn cloud_region(parts: &[&str]) -> Option<usize> {
    let (first, rest) = parts
        .split_first()
        .filter(|(first, _)| GEOGRAPHIES.contains(first))?;
    let special = rest
        .first()
        .is_some_and(|part| matches!(*part, "gov" | "iso" | "isob" | "isoe"));
    let rest = if special { &rest[1..] } else { rest };
    let [direction, number, ..] = rest else {
        return None;
    };
    let digits = number.trim_end_matches(|zone: char| zone.is_ascii_lowercase());
    let numbered = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let named = !first.is_empty() && DIRECTIONS.contains(direction) && numbered;
    named.then_some(3 + usize::from(special))
}

#[cfg(test)]
mod tests {
    use types::Region;

    use crate::Settings;

    fn settings(region: Region) -> Settings {
        Settings {
            region,
            forbidden_domains: vec!["example.org".to_owned(), ".vendor.test".to_owned()],
            region_hosts: vec![
                "us=https://trail.example.com".parse().unwrap(),
                "eu=https://trail-europe.example.com".parse().unwrap(),
            ],
            ..Settings::default()
        }
    }

    fn refused(region: Region, value: &str) -> bool {
        let found = settings(region).require_region("TRAILMESH_X", value);
        found.as_ref().err().inspect(|error| {
            assert_eq!(error.name, "TRAILMESH_X");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        });
        found.is_err()
    }

    #[test]
    fn an_endpoint_of_another_region_is_refused_wherever_it_names_it() {
        for us in [
            "postgres://u:hunter2@db.abc.us-east-1.rds.amazonaws.com:5432/trailmesh",
            "rediss://:hunter2@cache-us-west-2b.example.com",
            "https://kms.us-gov-east-1.amazonaws.com",
            "arn:aws:kms:us-east-1:111122223333:key/1234",
            "https://s3-us-west-2.amazonaws.com",
            "https://auth.us.mesh.internal:8443",
            "https://trail.example.com",
            "smtps://u:hunter2@EMAIL-SMTP.US-EAST-1.amazonaws.com",
        ] {
            assert!(refused(Region::Eu, us), "{us}");
            assert!(!refused(Region::Us, us), "{us}");
        }
        for eu in [
            "postgres://u:hunter2@db.abc.eu-central-1.rds.amazonaws.com/trailmesh",
            "arn:aws:kms:eu-west-1:111122223333:key/1234",
            "https://tenant.eu.mesh.internal",
            "https://trail-europe.example.com/",
        ] {
            assert!(refused(Region::Us, eu), "{eu}");
            assert!(!refused(Region::Eu, eu), "{eu}");
        }
        for neither in [
            "https://kms.ap-southeast-2.amazonaws.com",
            "arn:aws:kms:ca-central-1:1:key/1",
        ] {
            assert!(
                refused(Region::Us, neither) && refused(Region::Eu, neither),
                "{neither}"
            );
        }
    }

    #[test]
    fn what_names_no_region_is_taken() {
        for value in [
            "https://trail.example.eu",
            "https://trail.example.us:8443/path/us-east-1",
            "postgres://u:us-east-1@127.0.0.1:5432/us-east-1",
            "https://[2001:db8::1]:8443",
            "https://status.eurobank.example.com",
            "https://campus-west.example.com",
            "https://bus-east-1.example.com",
            "https://auth:8443",
            "localhost",
        ] {
            assert!(
                !refused(Region::Us, value) && !refused(Region::Eu, value),
                "{value}"
            );
        }
    }

    #[test]
    fn a_forbidden_domain_is_refused_with_all_under_it() {
        for value in [
            "https://example.org",
            "https://A.Example.ORG:8443",
            "https://x.vendor.test",
        ] {
            assert!(refused(Region::Us, value), "{value}");
        }
        assert!(!refused(Region::Us, "https://notexample.org"));
    }

    #[test]
    fn the_hosts_of_regions_are_bare_addresses() {
        let settings = settings(Region::Us);
        assert_eq!(
            settings.host_of(Region::Eu),
            Some("https://trail-europe.example.com")
        );
        assert_eq!(Settings::default().host_of(Region::Eu), None);
        for bad in [
            "eu",
            "eu=",
            "eu=http://a.example",
            "ap=https://a.example",
            "eu=https://a.example/path",
            "eu=https://u:p@a.example",
            "eu=https://a.example?x",
        ] {
            assert!(bad.parse::<super::RegionHost>().is_err(), "{bad}");
        }
    }
}
