//! Credentials and tenants that auth refused, by client address. Each question costs auth a query, and whoever asks is nobody yet: so each
//! address has so many refusals in a minute and so many questions at a time. Who is known to be good is not concerned.
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    client_address,
    rate::{Key, Limit, Limiter, Policy},
};

/// Questions of one address at a time.
const AT_A_TIME: usize = 64;
/// When there are more.
const PAUSE: Duration = Duration::from_secs(1);

/// Counts.
pub(crate) struct Strangers {
    limit: Limit,
    limiter: Arc<Limiter>,
    asking: Mutex<HashMap<String, usize>>,
}

/// A question about a stranger, until it is dropped.
pub(crate) struct Question<'a> {
    strangers: &'a Strangers,
    class: String,
}

impl Strangers {
    /// `limit` refusals of one address.
    pub(crate) fn new(limit: Limit, limiter: Arc<Limiter>) -> Self {
        Self {
            limit,
            limiter,
            asking: Mutex::default(),
        }
    }

    fn asking(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, class: &str) -> Key {
        Key {
            policy: Policy::Address,
            name: format!("{{{class}}}:refused"),
            limit: self.limit,
            cost: 1,
        }
    }

    /// Before auth is asked for `client`; otherwise when to come back.
    pub(crate) fn ask(&self, client: IpAddr) -> Result<Question<'_>, Duration> {
        let class = client_address::class(client);
        if let Some(time) = self.limiter.spent(&self.key(&class)) {
            return Err(time);
        }
        let mut asking = self.asking();
        let count = asking.entry(class.clone()).or_insert(0);
        if *count >= AT_A_TIME {
            return Err(PAUSE);
        }
        *count += 1;
        drop(asking);
        Ok(Question {
            strangers: self,
            class,
        })
    }

    /// Auth refused.
    pub(crate) async fn refused(&self, client: IpAddr) {
        let key = self.key(&client_address::class(client));
        self.limiter.decide(&[key], false).await;
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        let mut asking = self.strangers.asking();
        if let Some(count) = asking.get_mut(&self.class) {
            *count -= 1;
            if *count == 0 {
                asking.remove(&self.class);
            }
        }
    }
}
