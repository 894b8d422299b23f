//! API keys: how one looks, what is kept of it, and what it may do beside its owner.
//!
//! `bt_live_`, the first letter of its region, 31 characters of base62 (184 bits), and six of base62 that are the CRC-32 of all before: a
//! typing error, or junk, is refused without asking the database, and scanners for leaked secrets recognise the form. Keys of before have
//! any character in place of the letter, and are as good.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom as _, SystemRandom},
};
use types::{PoolId, Region, Role, Seat, Secret};

const HEAD: &str = "bt_live_";
const BODY_LEN: usize = 32;
const CHECK_LEN: usize = 6;
const LENGTH: usize = HEAD.len() + BODY_LEN + CHECK_LEN;
/// So much of a key is shown after its making.
pub(crate) const PREFIX_LEN: usize = HEAD.len() + 3;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// How many networks, pools or scopes a key can be limited to.
pub(crate) const LIMITS_MOST: usize = 64;

/// A key, as a client presents it; its checksum holds.
#[derive(Debug)]
pub(crate) struct ApiKey(Secret<String>);

impl ApiKey {
    /// A new one, unless the system has no randomness.
    pub(crate) fn fresh(region: Region) -> Option<Self> {
        let random = SystemRandom::new();
        let mut text = String::with_capacity(LENGTH);
        text.push_str(HEAD);
        text.extend(region.word().chars().next());
        while text.len() < HEAD.len() + BODY_LEN {
            let mut byte = [0];
            random.fill(&mut byte).ok()?;
            // 248 is the largest multiple of 62 in a byte: above it some digits would be likelier.
            if byte[0] < 248 {
                text.push(char::from(DIGITS[usize::from(byte[0] % 62)]));
            }
        }
        let check = checksum(&text);
        text.push_str(&check);
        Some(Self(Secret::new(text)))
    }

    /// None for what cannot be a key of ours.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let formed = text.len() == LENGTH
            && text.starts_with(HEAD)
            && text
                .bytes()
                .skip(HEAD.len())
                .all(|byte| byte.is_ascii_alphanumeric());
        let (body, check) = formed.then(|| text.split_at(LENGTH - CHECK_LEN))?;
        (checksum(body) == check).then(|| Self(Secret::new(text.to_owned())))
    }

    /// The key itself, to be shown once.
    pub(crate) fn expose(&self) -> &str {
        self.0.expose()
    }

    /// What is kept: a fast hash is enough for 184 random bits.
    pub(crate) fn sha256(&self) -> Vec<u8> {
        digest(&SHA256, self.0.expose().as_bytes()).as_ref().to_vec()
    }

    /// What is shown later.
    pub(crate) fn prefix(&self) -> &str {
        &self.0.expose()[..PREFIX_LEN]
    }
}

fn checksum(text: &str) -> String {
    let mut rest = crc32fast::hash(text.as_bytes()) as usize;
    let mut digits = ['0'; CHECK_LEN];
    for digit in digits.iter_mut().rev() {
        *digit = char::from(DIGITS[rest % 62]);
        rest /= 62;
    }
    digits.iter().collect()
}

/// What a key is limited to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The highest role it acts with.
    pub(crate) role: Role,
    /// Names of permissions; empty is no limit.
    pub(crate) scopes: Vec<String>,
    /// Pools; empty is no limit.
    pub(crate) pools: Vec<PoolId>,
    /// Networks it may be used from; empty is no limit.
    pub(crate) networks: Vec<IpNet>,
}

impl Limits {
    /// Whether the key may be used from `address`. An unknown address is in no network.
    pub(crate) fn admits(&self, address: Option<IpAddr>) -> bool {
        let within = |address: IpAddr| self.networks.iter().any(|network| network.contains(&address));
        self.networks.is_empty() || address.map(canonical).is_some_and(within)
    }

    /// What the key is where its owner is `seat` now: in each place the lower of the two roles.
    pub(crate) fn seat(&self, mut seat: Seat) -> Seat {
        let lower = |role: Role| role.min(self.role);
        if self.pools.is_empty() {
            seat.role = seat.role.map(lower);
            seat.pools.values_mut().for_each(|role| *role = lower(*role));
        } else {
            let inside = |pool: &PoolId| seat.role_in(*pool).map(|role| (*pool, lower(role)));
            let pools: BTreeMap<PoolId, Role> = self.pools.iter().filter_map(inside).collect();
            seat.role = None;
            seat.pools = pools;
        }
        seat.scopes = (!self.scopes.is_empty()).then(|| self.scopes.clone());
        seat
    }
}

/// An IPv4 address that comes in IPv6's clothes is IPv4.
pub(crate) fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// A network as a limit; a bare address is a network of one.
pub(crate) fn network(text: &str) -> Option<IpNet> {
    let network = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .ok()?;
    Some(network.trunc())
}

/// As much of `address` as is kept of a use: /24 or /64.
pub(crate) fn seen_from(address: IpAddr) -> String {
    let address = canonical(address);
    let length = if address.is_ipv4() { 24 } else { 64 };
    IpNet::new(address, length).map_or_else(|_| String::new(), |network| network.trunc().to_string())
}

/// Names of permissions with the lowest role that has each; none for those that take no tenant.
#[derive(Clone, Debug)]
pub(crate) struct Scopes(BTreeMap<String, Option<Role>>);

/// Why a scope is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScopeFault {
    /// There is no such permission.
    Unknown,
    /// The key's role does not have it.
    AboveRole,
}

impl Scopes {
    /// From the permissions that the protos know.
    pub(crate) fn new(known: BTreeMap<String, Option<Role>>) -> Self {
        Self(known)
    }

    /// `wanted` sorted and without repetition, if a key of `role` can have them.
    pub(crate) fn check(&self, wanted: &[String], role: Role) -> Result<Vec<String>, (ScopeFault, usize)> {
        for (place, scope) in wanted.iter().enumerate() {
            match self.0.get(scope) {
                None => return Err((ScopeFault::Unknown, place)),
                Some(lowest) if *lowest > Some(role) => return Err((ScopeFault::AboveRole, place)),
                Some(_) => {}
            }
        }
        Ok(wanted
            .iter()
            .cloned()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use types::{Plan, PoolId, Region, Role, Seat, TenantId};

    use super::{ApiKey, DIGITS, HEAD, LENGTH, Limits, PREFIX_LEN, ScopeFault, Scopes, network, seen_from};

    fn limits(role: Role, pools: &[PoolId], networks: &[&str]) -> Limits {
        Limits {
            role,
            scopes: vec![],
            pools: pools.to_vec(),
            networks: networks.iter().map(|text| network(text).unwrap()).collect(),
        }
    }

    fn seat(role: Option<Role>, pools: &[(PoolId, Role)]) -> Seat {
        Seat {
            tenant: TenantId::fresh(),
            region: Region::Eu,
            plan: Plan::Pro,
            role,
            pools: pools.iter().copied().collect(),
            scopes: None,
        }
    }

    #[test]
    fn a_key_is_read_back_and_its_parts_have_their_lengths() {
        let key = ApiKey::fresh(Region::Us).unwrap();
        assert_eq!((key.expose().len(), LENGTH), (46, 46));
        assert_eq!((key.prefix().len(), PREFIX_LEN), (11, 11));
        assert_eq!(ApiKey::parse(key.expose()).unwrap().sha256(), key.sha256());
        assert_ne!(ApiKey::fresh(Region::Us).unwrap().expose(), key.expose());
        assert_eq!(format!("{key:?}"), "ApiKey(***)");
        assert!(key.expose().starts_with("bt_live_u"));
        let europe = ApiKey::fresh(Region::Eu).unwrap();
        assert!(europe.expose().starts_with("bt_live_e") && ApiKey::parse(europe.expose()).is_some());
    }

    #[test]
    fn a_key_of_before_without_the_letter_is_good() {
        let mut text = ApiKey::fresh(Region::Us).unwrap().expose()[..LENGTH - 6].to_owned();
        text.replace_range(HEAD.len()..=HEAD.len(), "7");
        let key = format!("{text}{}", super::checksum(&text));
        assert!(ApiKey::parse(&key).is_some());
    }

    #[test]
    fn every_changed_character_is_noticed_by_the_checksum() {
        let key = ApiKey::fresh(Region::Us).unwrap();
        let text = key.expose();
        for place in 0..LENGTH {
            for digit in DIGITS.iter().chain(b"_-. \n\0") {
                let mut bytes = text.as_bytes().to_vec();
                if bytes[place] != *digit {
                    bytes[place] = *digit;
                    assert!(ApiKey::parse(str::from_utf8(&bytes).unwrap()).is_none());
                }
            }
        }
        let long = format!("{text}0");
        for bad in [
            "",
            HEAD,
            &text[1..],
            &text[..45],
            &long,
            &text.replace("live", "test"),
            "' OR 1=1 --",
        ] {
            assert!(ApiKey::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn all_digits_are_equally_likely() {
        let mut seen = BTreeMap::new();
        for _ in 0..2_000 {
            for digit in ApiKey::fresh(Region::Us).unwrap().expose()[HEAD.len() + 1..HEAD.len() + 32].bytes()
            {
                *seen.entry(digit).or_insert(0_u32) += 1;
            }
        }
        assert_eq!(seen.len(), 62);
        // 62,000 draws: 1,000 expected of each, with a standard deviation of 31.
        assert!(
            seen.values().all(|count| (770..1_240).contains(count)),
            "{seen:?}"
        );
    }

    #[test]
    fn the_lower_of_the_keys_and_the_owners_role_counts_in_each_pool() {
        let (mine, other) = (PoolId::fresh(), PoolId::fresh());
        for key in Role::ALL {
            for owner in Role::ALL {
                let got = limits(*key, &[], &[]).seat(seat(Some(*owner), &[(mine, *owner)]));
                assert_eq!(
                    (got.role, got.role_in(mine)),
                    (Some(*key.min(owner)), Some(*key.min(owner)))
                );
                let got = limits(*key, &[mine], &[]).seat(seat(Some(*owner), &[]));
                assert_eq!(
                    (got.role, got.role_in(mine), got.role_in(other)),
                    (None, Some(*key.min(owner)), None)
                );
                let got = limits(*key, &[mine, other], &[]).seat(seat(None, &[(mine, *owner)]));
                assert_eq!(
                    (got.role, got.role_in(mine), got.role_in(other)),
                    (None, Some(*key.min(owner)), None)
                );
            }
        }
    }

    #[test]
    fn networks_admit_what_is_in_them() {
        let some = limits(Role::Viewer, &[], &["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"]);
        for (address, admitted) in [
            ("10.255.0.1", true),
            ("::ffff:10.0.0.1", true),
            ("11.0.0.1", false),
            ("2001:db8:1::1", true),
            ("2001:db9::1", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
        ] {
            assert_eq!(some.admits(address.parse().ok()), admitted, "{address}");
        }
        assert!(!some.admits(None));
        assert!(limits(Role::Viewer, &[], &[]).admits(None));
        for bad in [
            "",
            "10.0.0.0/33",
            "10.0.0",
            "example.org",
            "10.0.0.0/8 ",
            "::/129",
        ] {
            assert!(network(bad).is_none(), "{bad}");
        }
        assert_eq!(network("10.1.2.3/8").unwrap().to_string(), "10.0.0.0/8");
    }

    #[test]
    fn a_use_is_remembered_by_its_network_only() {
        assert_eq!(seen_from("198.51.100.77".parse().unwrap()), "198.51.100.0/24");
        assert_eq!(
            seen_from("::ffff:198.51.100.77".parse().unwrap()),
            "198.51.100.0/24"
        );
        assert_eq!(
            seen_from("2001:db8:1:2:3:4:5:6".parse().unwrap()),
            "2001:db8:1:2::/64"
        );
    }

    #[test]
    fn scopes_are_known_and_within_the_role() {
        let known = [
            ("account", None),
            ("tenant:view", Some(Role::Viewer)),
            ("billing", Some(Role::Owner)),
        ];
        let scopes = Scopes::new(known.map(|(name, role)| (name.to_owned(), role)).into());
        let check = |wanted: &[&str], role| {
            scopes.check(
                &wanted.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>(),
                role,
            )
        };
        assert_eq!(
            check(&["tenant:view", "account", "account"], Role::Viewer).unwrap(),
            ["account", "tenant:view"]
        );
        assert_eq!(
            check(&["account", "tenant:*"], Role::Owner),
            Err((ScopeFault::Unknown, 1))
        );
        assert_eq!(check(&["billing"], Role::Admin), Err((ScopeFault::AboveRole, 0)));
        assert!(check(&["billing"], Role::Owner).is_ok());
        assert_eq!(check(&[], Role::Viewer).unwrap(), Vec::<String>::new());
    }
}
