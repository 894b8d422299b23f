//! Where a request comes from.
//!
//! `X-Forwarded-For` is a claim of whoever sends it. Each proxy appends the address it sees, so with *n* proxies of ours the *n*th entry
//! from the right was written by our outermost one, and everything left of it by strangers.
use std::{
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering},
};

use http::HeaderMap;
use ipnet::IpNet;

/// Which claims count.
#[derive(Debug, Default)]
pub(crate) struct Trust {
    hops: usize,
    proxies: Vec<IpNet>,
    told: AtomicBool,
}

impl Trust {
    /// `hops` proxies, which connect from `proxies`; from anywhere if that is empty.
    pub(crate) fn new(hops: u8, proxies: Vec<IpNet>) -> Self {
        Self {
            hops: usize::from(hops),
            proxies,
            told: AtomicBool::new(false),
        }
    }

    /// Whether `headers` are the first that tell of a proxy though none is expected.
    pub(crate) fn is_news(&self, headers: &HeaderMap) -> bool {
        self.hops == 0
            && !self.told.load(Ordering::Relaxed)
            && headers.contains_key("x-forwarded-for")
            && !self.told.swap(true, Ordering::Relaxed)
    }

    /// The client's address. `socket` is who connected.
    pub(crate) fn client(&self, socket: IpAddr, headers: &HeaderMap) -> IpAddr {
        let socket = socket.to_canonical();
        let known = self.proxies.is_empty() || self.proxies.iter().any(|proxy| proxy.contains(&socket));
        if self.hops == 0 || !known {
            return socket;
        }
        let entries = headers.get_all("x-forwarded-for").iter();
        let entries: Vec<&[u8]> = entries
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .collect();
        let entry = entries
            .len()
            .checked_sub(self.hops)
            .and_then(|place| entries.get(place));
        let address = entry.and_then(|entry| str::from_utf8(entry).ok()?.trim().parse::<IpAddr>().ok());
        address.map_or(socket, |address| address.to_canonical())
    }
}

/// The part of an address that one customer of a network has: an IPv4 address, or the /64 of an IPv6 address.
pub(crate) fn class(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::{Trust, class};

    fn client(hops: u8, proxies: &[&str], socket: &str, forwarded: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().expect("a value"));
        }
        let proxies = proxies
            .iter()
            .map(|proxy| proxy.parse().expect("a network"))
            .collect();
        let trust = Trust::new(hops, proxies);
        trust
            .client(socket.parse().expect("an address"), &headers)
            .to_string()
    }

    #[test]
    fn without_trusted_hops_the_header_is_nothing() {
        for forwarded in [
            &[][..],
            &["1.1.1.1"],
            &["1.1.1.1, 2.2.2.2", "3.3.3.3"],
            &["127.0.0.1"],
            &["::1"],
        ] {
            assert_eq!(client(0, &[], "9.9.9.9", forwarded), "9.9.9.9");
        }
    }

    #[test]
    fn with_hops_only_what_our_proxies_wrote_counts() {
        for (hops, forwarded, address) in [
            (1, &["6.6.6.6"][..], "6.6.6.6"),
            (1, &["1.1.1.1, 6.6.6.6"], "6.6.6.6"),
            (1, &["1.1.1.1", "6.6.6.6"], "6.6.6.6"),
            (2, &["1.1.1.1, 6.6.6.6, 8.8.8.8"], "6.6.6.6"),
            (2, &["1.1.1.1", "6.6.6.6,8.8.8.8"], "6.6.6.6"),
            (1, &["2001:db8::1"], "2001:db8::1"),
            (1, &["::ffff:6.6.6.6"], "6.6.6.6"),
            // Fewer entries than proxies, or none that can be read: who connected.
            (2, &["6.6.6.6"], "9.9.9.9"),
            (1, &[], "9.9.9.9"),
            (1, &["6.6.6.6, "], "9.9.9.9"),
            (1, &["unknown"], "9.9.9.9"),
            (1, &["6.6.6.6:80"], "9.9.9.9"),
            (1, &["_hidden"], "9.9.9.9"),
            (1, &["6.6.6.6;7.7.7.7"], "9.9.9.9"),
        ] {
            assert_eq!(
                client(hops, &[], "9.9.9.9", forwarded),
                address,
                "{hops} {forwarded:?}"
            );
        }
    }

    #[test]
    fn a_stranger_who_connects_directly_is_not_believed() {
        assert_eq!(client(1, &["10.0.0.0/8"], "9.9.9.9", &["6.6.6.6"]), "9.9.9.9");
        assert_eq!(client(1, &["10.0.0.0/8"], "10.1.2.3", &["6.6.6.6"]), "6.6.6.6");
        assert_eq!(
            client(1, &["10.0.0.0/8"], "::ffff:10.1.2.3", &["6.6.6.6"]),
            "6.6.6.6"
        );
    }

    #[test]
    fn a_proxy_that_nobody_told_of_is_news_once() {
        let mut headers = HeaderMap::new();
        let trust = Trust::new(0, Vec::new());
        assert!(!trust.is_news(&headers));
        headers.insert("x-forwarded-for", "6.6.6.6".parse().expect("a value"));
        assert!(trust.is_news(&headers) && !trust.is_news(&headers));
        assert!(!Trust::new(1, Vec::new()).is_news(&headers));
    }

    #[test]
    fn one_customer_of_a_network_is_one_class() {
        let of = |text: &str| class(text.parse().expect("an address"));
        assert_eq!(of("6.6.6.6"), "6.6.6.6");
        assert_eq!(of("::ffff:6.6.6.6"), "6.6.6.6");
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2:ffff::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
    }
}
