//! How often a password may be tried: the rule, and its evaluation in memory for when Redis is away.
//!
//! Three windows. Of one *account*: so many wrong tries in 15 minutes; beyond that each further try waits twice as long as the one before,
//! up to 15 minutes. Of one *network* (/32 or /64): so many distinct accounts tried in an hour. A *known device*, one that signed in to this
//! account before, has an account window of its own and none of the network's, so that strangers cannot lock its owner out.
//!
//! A try counts when it begins and is taken back when it succeeds, so that parallel tries count too.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use types::Micros;

use super::{email::Email, token::sha256};

/// How many keys are remembered in memory at most. When all are in use, strangers wait.
const MOST_KEYS: usize = 20_000;

/// The numbers of the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Tries of one account in [`ACCOUNT_WINDOW`] before delays begin.
    pub(crate) tries: u32,
    /// Distinct accounts tried from one network in [`NETWORK_WINDOW`].
    pub(crate) accounts: u32,
}

impl Limits {
    /// What holds while Redis counts for all replicas.
    pub(crate) const SHARED: Self = Self {
        tries: 10,
        accounts: 100,
    };

    /// What holds while each replica counts for itself.
    pub(crate) const ALONE: Self = Self {
        tries: 3,
        accounts: 20,
    };
}

/// Of an account's tries.
pub(crate) const ACCOUNT_WINDOW: Duration = Duration::from_secs(15 * 60);

/// Of a network's accounts.
pub(crate) const NETWORK_WINDOW: Duration = Duration::from_secs(60 * 60);

/// The longest delay.
pub(crate) const LONGEST_DELAY: Duration = Duration::from_secs(15 * 60);

/// How long the number of delayed tries is remembered after the last.
pub(crate) const DELAYS_KEPT: Duration = Duration::from_secs(60 * 60);

/// A try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Try {
    /// Whose window counts: an account, or an account on a known device.
    pub(crate) account: String,
    /// Whose accounts are counted; none on a known device.
    pub(crate) network: Option<String>,
    /// Different for every try.
    pub(crate) id: u64,
}

/// Where a try comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// From anywhere, with nothing that tells it from other strangers but its address.
    Stranger(Option<IpAddr>),
    /// From a device or a session that signed in before; the digest of what it showed.
    Known([u8; 32]),
}

impl Try {
    /// A try to show the password of the account with this address. Neither that nor what a device showed stands in what counts it.
    pub(crate) fn new(email: &Email, source: Source) -> Self {
        let name = |digest: [u8; 32]| BASE64_URL_SAFE_NO_PAD.encode(&digest[..16]);
        let account = name(sha256(email.key().as_bytes()));
        let id = rand::random();
        match source {
            Source::Stranger(address) => Self {
                account,
                network: Some(network(address)),
                id,
            },
            Source::Known(shown) => Self {
                account: format!("{account}:{}", name(shown)),
                network: None,
                id,
            },
        }
    }
}

/// The network that an address counts for: itself, or the /64 that a subscriber of IPv6 usually has.
fn network(address: Option<IpAddr>) -> String {
    match address.map(|address| address.to_canonical()) {
        None => "unknown".to_owned(),
        Some(IpAddr::V4(v4)) => v4.to_string(),
        Some(IpAddr::V6(v6)) => {
            let [a, b, c, d, ..] = v6.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}")
        }
    }
}

/// How long the try after `delayed` delayed ones has to wait after the latest try.
pub(crate) fn delay(delayed: u32) -> Duration {
    Duration::from_secs(1_u64.checked_shl(delayed.min(32)).unwrap_or(u64::MAX)).min(LONGEST_DELAY)
}

#[derive(Debug, Default)]
struct Account {
    /// Times and ids, oldest first.
    tries: VecDeque<(i64, u64)>,
    delayed: u32,
    delayed_at: i64,
}

/// The rule in memory.
#[derive(Debug)]
pub(crate) struct Windows {
    limits: Limits,
    accounts: HashMap<String, Account>,
    /// Of each network, the accounts and when each was last tried.
    networks: HashMap<String, HashMap<String, i64>>,
    most_keys: usize,
}

impl Windows {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            accounts: HashMap::new(),
            networks: HashMap::new(),
            most_keys: MOST_KEYS,
        }
    }

    /// Counts a try, or says how long to wait; then nothing was counted.
    pub(crate) fn admit(&mut self, a_try: &Try, now: Micros) -> Result<(), Duration> {
        self.make_room(a_try, now.0)?;
        let account = self.accounts.entry(a_try.account.clone()).or_default();
        account.forget(now.0);
        let over = account.tries.len() >= self.limits.tries as usize;
        if over && let Some((latest, _)) = account.tries.back() {
            wait(latest + micros(delay(account.delayed)) - now.0)?;
        }
        if let Some(network) = &a_try.network {
            let tried = self.networks.entry(network.clone()).or_default();
            tried.retain(|_, at| *at + micros(NETWORK_WINDOW) > now.0);
            if !tried.contains_key(&a_try.account) && tried.len() >= self.limits.accounts as usize {
                let oldest = tried.values().min().copied().unwrap_or(now.0);
                return wait(oldest + micros(NETWORK_WINDOW) - now.0);
            }
            tried.insert(a_try.account.clone(), now.0);
        }
        if over {
            account.delayed = account.delayed.saturating_add(1);
            account.delayed_at = now.0;
        }
        account.tries.push_back((now.0, a_try.id));
        Ok(())
    }

    /// Takes a try back that turned out right.
    pub(crate) fn forgive(&mut self, a_try: &Try) {
        if let Some(account) = self.accounts.get_mut(&a_try.account) {
            account.tries.retain(|(_, id)| *id != a_try.id);
        }
        if let Some(tried) = a_try
            .network
            .as_ref()
            .and_then(|network| self.networks.get_mut(network))
        {
            tried.remove(&a_try.account);
        }
    }

    /// Drops what is over when the tables are full; refuses new keys when that does not help.
    fn make_room(&mut self, a_try: &Try, now: i64) -> Result<(), Duration> {
        let full = |accounts: &HashMap<_, _>, networks: &HashMap<_, _>, most| {
            accounts.len() >= most || networks.len() >= most
        };
        if !full(&self.accounts, &self.networks, self.most_keys) {
            return Ok(());
        }
        self.accounts.retain(|_, account| {
            account.forget(now);
            !account.tries.is_empty() || account.delayed > 0
        });
        self.networks.retain(|_, tried| {
            tried.retain(|_, at| *at + micros(NETWORK_WINDOW) > now);
            !tried.is_empty()
        });
        let known = self.accounts.contains_key(&a_try.account)
            && a_try
                .network
                .as_ref()
                .is_none_or(|network| self.networks.contains_key(network));
        if !known && full(&self.accounts, &self.networks, self.most_keys) {
            return Err(Duration::from_secs(60));
        }
        Ok(())
    }
}

impl Account {
    fn forget(&mut self, now: i64) {
        while self
            .tries
            .front()
            .is_some_and(|(at, _)| at + micros(ACCOUNT_WINDOW) <= now)
        {
            self.tries.pop_front();
        }
        if self.delayed_at + micros(DELAYS_KEPT) <= now {
            self.delayed = 0;
        }
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn wait(micros: i64) -> Result<(), Duration> {
    match u64::try_from(micros) {
        Ok(0) | Err(_) => Ok(()),
        Ok(micros) => Err(Duration::from_micros(micros)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use types::Micros;

    use super::{Limits, Try, Windows, delay, network};

    const SECOND: i64 = 1_000_000;

    fn a_try(account: &str, network: Option<&str>, id: u64) -> Try {
        Try {
            account: account.to_owned(),
            network: network.map(str::to_owned),
            id,
        }
    }

    #[test]
    fn after_ten_tries_delays_double_up_to_a_quarter_of_an_hour() {
        let mut windows = Windows::new(Limits::SHARED);
        let mut now = 0;
        for id in 0..10 {
            assert_eq!(windows.admit(&a_try("ada", Some("n"), id), Micros(now)), Ok(()));
        }
        for wanted in [1, 2, 4, 8, 16, 32, 64, 128, 256] {
            let refused = windows.admit(&a_try("ada", Some("n"), 99), Micros(now));
            assert_eq!(refused, Err(Duration::from_secs(wanted)));
            now += i64::try_from(wanted).unwrap() * SECOND;
            assert_eq!(windows.admit(&a_try("ada", Some("n"), 99), Micros(now)), Ok(()));
        }
        assert_eq!(delay(10), Duration::from_secs(900));
        assert_eq!(delay(u32::MAX), Duration::from_secs(900));
    }

    #[test]
    fn a_try_that_succeeds_does_not_count() {
        let mut windows = Windows::new(Limits::SHARED);
        for id in 0..1_000 {
            let account = format!("user {id}");
            let right = a_try(&account, Some("office"), id);
            assert_eq!(windows.admit(&right, Micros(0)), Ok(()));
            windows.forgive(&right);
        }
    }

    #[test]
    fn one_network_tries_a_hundred_accounts_in_an_hour() {
        let mut windows = Windows::new(Limits::SHARED);
        for id in 0..100 {
            assert_eq!(
                windows.admit(&a_try(&format!("user {id}"), Some("n"), id), Micros(0)),
                Ok(())
            );
        }
        let next = a_try("one more", Some("n"), 100);
        assert_eq!(
            windows.admit(&next, Micros(SECOND)),
            Err(Duration::from_secs(3_599))
        );
        assert_eq!(
            windows.admit(&a_try("user 7", Some("n"), 101), Micros(SECOND)),
            Ok(())
        );
        assert_eq!(
            windows.admit(&a_try("one more", Some("m"), 102), Micros(SECOND)),
            Ok(())
        );
        assert_eq!(windows.admit(&next, Micros(3_600 * SECOND)), Ok(()));
    }

    #[test]
    fn a_known_device_has_a_window_of_its_own() {
        let mut windows = Windows::new(Limits::SHARED);
        for id in 0..10 {
            assert_eq!(windows.admit(&a_try("ada", Some("n"), id), Micros(0)), Ok(()));
        }
        assert!(windows.admit(&a_try("ada", Some("n"), 10), Micros(0)).is_err());
        assert_eq!(
            windows.admit(&a_try("ada on her laptop", None, 11), Micros(0)),
            Ok(())
        );
    }

    #[test]
    fn full_tables_let_no_new_stranger_in() {
        let mut windows = Windows::new(Limits::ALONE);
        windows.most_keys = 10;
        for id in 0..10 {
            assert_eq!(
                windows.admit(&a_try(&format!("user {id}"), None, id), Micros(0)),
                Ok(())
            );
        }
        assert!(windows.admit(&a_try("new", None, 10), Micros(0)).is_err());
        assert_eq!(windows.admit(&a_try("user 3", None, 11), Micros(0)), Ok(()));
        assert_eq!(
            windows.admit(&a_try("new", None, 12), Micros(1_000 * SECOND)),
            Ok(())
        );
    }

    #[test]
    fn an_address_counts_for_itself_or_its_64() {
        let of = |text: &str| network(Some(text.parse().unwrap()));
        assert_eq!(of("192.0.2.7"), "192.0.2.7");
        assert_eq!(of("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(of("2001:db8:1:2:3::4"), of("2001:db8:1:2:ffff::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(network(None), "unknown");
    }
}
