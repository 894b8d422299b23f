//! Which addresses a sink may have. A tenant names any host it likes; the addresses behind it are looked up here, those inside the
//! installation are refused, and the connection goes to the address that was looked at, so that a second answer of the DNS changes nothing.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

use super::Failure;
use crate::domain::sink::Place;

/// For an answer of the DNS.
const LOOK_UP: Duration = Duration::from_secs(5);

/// For a connection to one address.
const CONNECT: Duration = Duration::from_secs(5);

/// The most addresses of one name that are tried.
const MOST_ADDRESSES: usize = 4;

/// Blocks of IPv4 that are nobody's on the internet, or everybody's (RFC 6890 and its registry).
const NOT_GLOBAL_4: [(u32, u32); 15] = [
    (0x0000_0000, 8),
    (0x0a00_0000, 8),
    (0x6440_0000, 10),
    (0x7f00_0000, 8),
    (0xa9fe_0000, 16),
    (0xac10_0000, 12),
    (0xc000_0000, 24),
    (0xc000_0200, 24),
    (0xc058_6300, 24),
    (0xc0a8_0000, 16),
    (0xc612_0000, 15),
    (0xc633_6400, 24),
    (0xcb00_7100, 24),
    (0xe000_0000, 4),
    (0xf000_0000, 4),
];

/// Blocks within 2000::/3 that are documentation, or wrap an address of IPv4.
const NOT_GLOBAL_6: [(u128, u32); 4] = [
    (0x2001_0000 << 96, 23),
    (0x2001_0db8 << 96, 32),
    (0x2002 << 112, 16),
    (0x3fff << 112, 20),
];

/// What may be reached.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reach {
    allowed: Vec<IpNet>,
}

impl Reach {
    /// All of the internet, and these networks.
    pub(crate) fn new(allowed: Vec<IpNet>) -> Self {
        Self { allowed }
    }

    /// Whether a sink may be at this address.
    pub(crate) fn admits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        is_global(address) || self.allowed.iter().any(|network| network.contains(&address))
    }

    /// The addresses of this place that may be reached.
    pub(crate) async fn addresses(&self, place: &Place) -> Result<Vec<SocketAddr>, Failure> {
        let found: Vec<SocketAddr> = match place.address() {
            Some(address) => vec![SocketAddr::new(address, place.port)],
            None => {
                let looked_up = timeout(LOOK_UP, lookup_host((place.host.as_str(), place.port))).await;
                let found = looked_up.map_err(|_| Failure::LookUpTimeout)?;
                found.map_err(|_| Failure::NoAddress)?.collect()
            }
        };
        if found.is_empty() {
            return Err(Failure::NoAddress);
        }
        let mut admitted: Vec<_> = found
            .into_iter()
            .filter(|address| self.admits(address.ip()))
            .collect();
        if admitted.is_empty() {
            return Err(Failure::AddressForbidden);
        }
        admitted.truncate(MOST_ADDRESSES);
        Ok(admitted)
    }

    /// A connection to one of them.
    pub(crate) async fn connect(&self, place: &Place) -> Result<TcpStream, Failure> {
        let mut last = Failure::ConnectTimeout;
        for address in self.addresses(place).await? {
            match timeout(CONNECT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => last = Failure::Connect(error.kind()),
                Err(_) => last = Failure::ConnectTimeout,
            }
        }
        Err(last)
    }
}

fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let bits = u32::from(address);
            !NOT_GLOBAL_4
                .iter()
                .any(|(block, length)| (bits ^ block) >> (32 - length) == 0)
        }
        // What has been given out so far. All special kinds (loopback, link-local, unique local, multicast, NAT64) are elsewhere.
        IpAddr::V6(address) => {
            let bits = u128::from(address);
            let given_out = u128::from(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0));
            (bits ^ given_out) >> 125 == 0
                && !NOT_GLOBAL_6
                    .iter()
                    .any(|(block, length)| (bits ^ block) >> (128 - length) == 0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Reach;

    #[test]
    fn what_is_inside_is_not_reached() {
        let reach = Reach::default();
        for inside in [
            "127.0.0.1",
            "127.255.255.254",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.100.100.200",
            "192.0.0.192",
            "198.18.0.1",
            "224.0.0.1",
            "239.255.255.250",
            "255.255.255.255",
            "240.0.0.1",
            "192.0.2.7",
            "198.51.100.7",
            "203.0.113.7",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "fe80::1",
            "fd00:ec2::254",
            "fc00::1",
            "ff02::1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
            "fec0::1",
            "3fff::1",
            "4000::1",
        ] {
            assert!(!reach.admits(inside.parse().unwrap()), "{inside}");
        }
        for outside in [
            "1.1.1.1",
            "172.15.255.255",
            "172.32.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "223.255.255.255",
            "192.0.1.1",
            "2606:4700::1111",
            "2a00:1450:4001::1",
            "2001:4860:4860::8888",
            "::ffff:1.1.1.1",
        ] {
            assert!(reach.admits(outside.parse().unwrap()), "{outside}");
        }
    }

    #[test]
    fn the_operator_allows_networks_of_his_own() {
        let reach = Reach::new(vec![
            "10.1.0.0/16".parse().unwrap(),
            "fd00:1::/32".parse().unwrap(),
        ]);
        for (address, admitted) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("fd00:1::7", true),
            ("10.2.0.1", false),
            ("127.0.0.1", false),
            ("fd00:2::7", false),
        ] {
            assert_eq!(reach.admits(address.parse().unwrap()), admitted, "{address}");
        }
    }
}
