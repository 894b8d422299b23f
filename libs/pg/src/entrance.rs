//! The words by which a transaction begins and changes sides: each is one message to the server.

use std::{
    fmt::{self, Write as _},
    time::{Duration, Instant},
};

use rand::RngCore as _;
use ring::digest::{SHA256, digest};
use types::TenantId;

/// A transaction that wants more time than this gets this.
const LONGEST: Duration = Duration::from_secs(3600);

/// How often the server looks, while it works for us, whether we are still there: an abandoned statement ends this soon.
const LOOK_AFTER_CLIENT: Duration = Duration::from_millis(250);

/// Whose schema a transaction works in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The service's own.
    Shared,
    /// A tenant's.
    Tenant(TenantId),
}

/// As `trailmesh.enter` knows it; for a tenant, also the name of its schema and role.
impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shared => f.write_str("shared"),
            Self::Tenant(tenant) => write!(f, "t_{}", tenant.digits()),
        }
    }
}

/// What only this process knows about a running transaction: whoever shows it may change sides.
pub(crate) struct Key([u8; 16]);

impl Key {
    fn fresh() -> Self {
        let mut bytes = [0; 16];
        rand::rng().fill_bytes(&mut bytes);
        Self(bytes)
    }

    fn text(&self) -> String {
        hex(&self.0)
    }

    /// What the server learns at first: enough to recognise the key, not enough to know it.
    fn lock(&self) -> String {
        hex(digest(&SHA256, self.text().as_bytes()).as_ref())
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Begins a transaction of `service` on `side`. Whatever an earlier user of the session has left set is overruled.
pub(crate) fn begin(service: &str, side: Side, deadline: Instant) -> (String, Key) {
    let key = Key::fresh();
    let mut words = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL ROLE trailmesh_{service}; \
         SELECT pg_catalog.pg_backend_pid(), trailmesh.enter('{side}', '{}'); ",
        key.lock()
    );
    settle(&mut words, service, side, deadline);
    let check = LOOK_AFTER_CLIENT.as_millis();
    let _ = write!(
        words,
        "; SET LOCAL row_security = on; SET LOCAL lock_timeout = 0; SET LOCAL client_connection_check_interval = {check}"
    );
    (words, key)
}

/// Goes to `side` within a transaction that was entered with `key`. Cursors stay behind: one that was opened on the other side would
/// ask for rows on this one, at the latest when a commit fills those WITH HOLD.
pub(crate) fn change(service: &str, side: Side, key: &Key, deadline: Instant) -> (String, Key) {
    let next = Key::fresh();
    let mut words = format!(
        "CLOSE ALL; SET LOCAL ROLE trailmesh_{service}; SELECT trailmesh.change_side('{side}', '{}', '{}'); ",
        key.text(),
        next.lock()
    );
    settle(&mut words, service, side, deadline);
    (words, next)
}

fn settle(words: &mut String, service: &str, side: Side, deadline: Instant) {
    let _ = match side {
        Side::Shared => write!(words, "SET LOCAL search_path = {service}, pg_temp; "),
        Side::Tenant(_) => write!(
            words,
            "SET LOCAL ROLE {side}; SET LOCAL search_path = {side}, pg_temp; "
        ),
    };
    let left = deadline
        .saturating_duration_since(Instant::now())
        .min(LONGEST)
        .as_millis()
        .max(1);
    let _ = write!(
        words,
        "SET LOCAL statement_timeout = {left}; SET LOCAL idle_in_transaction_session_timeout = {left}"
    );
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use types::TenantId;

    use super::{Side, begin, change};

    #[test]
    fn a_tenants_transaction_begins_in_one_message_with_everything_said() {
        let tenant = TenantId::fresh();
        let schema = format!("t_{}", tenant.digits());
        let (words, key) = begin(
            "tenant",
            Side::Tenant(tenant),
            Instant::now() + Duration::from_secs(5),
        );
        assert!(
            words.contains(&format!("enter('{schema}', '{}')", key.lock())),
            "{words}"
        );
        assert!(words.contains(&format!(
            "SET LOCAL ROLE {schema}; SET LOCAL search_path = {schema}, pg_temp;"
        )));
        assert!(!words.contains(&key.text()), "the key itself stays here");
        let (words, next) = change("tenant", Side::Shared, &key, Instant::now());
        assert!(words.contains(&key.text()) && words.contains(&next.lock()) && !words.contains(&next.text()));
        assert!(words.contains("statement_timeout = 1;"), "{words}");
    }
}
