//! Calls that were refused for lack of a right: those alike within ten seconds are one entry.
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use proto::tenant::v1 as pb;
use types::{AuditId, TenantId};

/// How long those alike are gathered.
pub(crate) const WINDOW: Duration = Duration::from_secs(10);
/// Different ones of one tenant in that time; what comes beyond is counted together.
const OF_TENANT: usize = 100;
/// Of all tenants, besides one for the rest of each.
const OF_ALL: usize = 10_000;
/// The reason of what is counted together.
const MORE: &str = "MORE_REFUSALS";

/// What makes refusals alike: tenant, whose session or key, method, reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Alike {
    pub(crate) tenant: TenantId,
    pub(crate) subject: String,
    pub(crate) method: String,
    pub(crate) reason: String,
}

/// What was gathered since it was last taken.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<Alike, pb::Refusal>,
    of_tenant: HashMap<TenantId, usize>,
    lost: u64,
}

impl Refusals {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one. `call` is asked for only when it is the first of its kind.
    pub(crate) fn add(&self, mut alike: Alike, code: &str, call: impl FnOnce() -> pb::AuditCall) {
        let mut table = self.lock();
        if let Some(known) = table.entries.get_mut(&alike) {
            known.count = known.count.saturating_add(1);
            return;
        }
        let tenant = alike.tenant;
        let of_tenant = table.of_tenant.get(&tenant).copied().unwrap_or_default();
        if of_tenant >= OF_TENANT {
            alike = Alike {
                tenant,
                subject: String::new(),
                method: String::new(),
                reason: MORE.to_owned(),
            };
            if let Some(rest) = table.entries.get_mut(&alike) {
                rest.count = rest.count.saturating_add(1);
                return;
            }
        } else if table.entries.len() >= OF_ALL {
            table.lost += 1;
            return;
        }
        let refusal = pb::Refusal {
            tenant_id: tenant.to_string(),
            entry_id: AuditId::fresh().to_string(),
            call: Some(call()),
            code: code.to_owned(),
            reason: alike.reason.clone(),
            time: Some(SystemTime::now().into()),
            count: 1,
        };
        table.entries.insert(alike, refusal);
        table.of_tenant.insert(tenant, of_tenant + 1);
    }

    /// What was gathered, and how many refusals found no room.
    pub(crate) fn take(&self) -> (Vec<pb::Refusal>, u64) {
        let table = std::mem::take(&mut *self.lock());
        (table.entries.into_values().collect(), table.lost)
    }
}

#[cfg(test)]
mod tests {
    use proto::tenant::v1 as pb;
    use types::TenantId;

    use super::{Alike, MORE, OF_ALL, OF_TENANT, Refusals};

    fn add(refusals: &Refusals, tenant: TenantId, subject: usize, reason: &str) {
        let alike = Alike {
            tenant,
            subject: subject.to_string(),
            method: "/p.S/M".to_owned(),
            reason: reason.to_owned(),
        };
        refusals.add(alike, "PERMISSION_DENIED", pb::AuditCall::default);
    }

    #[test]
    fn those_alike_are_one_entry_with_their_number() {
        let (refusals, tenant) = (Refusals::default(), TenantId::fresh());
        for _ in 0..1_000 {
            add(&refusals, tenant, 1, "ROLE_TOO_LOW");
        }
        add(&refusals, tenant, 1, "SCOPE_MISSING");
        add(&refusals, tenant, 2, "ROLE_TOO_LOW");
        add(&refusals, TenantId::fresh(), 1, "ROLE_TOO_LOW");
        let (taken, lost) = refusals.take();
        let mut counts: Vec<_> = taken.iter().map(|refusal| refusal.count).collect();
        counts.sort_unstable();
        assert_eq!((counts, lost), (vec![1, 1, 1, 1_000], 0));
        assert!(refusals.take().0.is_empty());
    }

    #[test]
    fn one_tenant_takes_no_more_than_its_part_and_nothing_of_it_is_lost() {
        let (refusals, tenant) = (Refusals::default(), TenantId::fresh());
        for subject in 0..1_000 {
            add(&refusals, tenant, subject, "ROLE_TOO_LOW");
        }
        let (taken, lost) = refusals.take();
        assert_eq!((taken.len(), lost), (OF_TENANT + 1, 0));
        assert_eq!(taken.iter().map(|refusal| refusal.count).sum::<i64>(), 1_000);
        let rest = taken
            .iter()
            .find(|refusal| refusal.reason == MORE)
            .expect("the rest");
        assert_eq!(rest.count, 900);
    }

    #[test]
    fn of_all_tenants_there_is_a_most_and_the_rest_is_counted() {
        let refusals = Refusals::default();
        for _ in 0..OF_ALL + 5 {
            add(&refusals, TenantId::fresh(), 1, "ROLE_TOO_LOW");
        }
        let (taken, lost) = refusals.take();
        assert_eq!((taken.len(), lost), (OF_ALL, 5));
    }
}
