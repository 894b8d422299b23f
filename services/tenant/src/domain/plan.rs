//! Which plan a tenant has, and how much of it is used.

use types::Plan;

/// How many there are of one thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// All of them.
    pub(crate) used: i64,
    /// Those that the plan has no room for.
    pub(crate) frozen: i64,
}

/// How much of a plan a tenant uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Use {
    pub(crate) servers: Count,
    /// Open invitations are among them.
    pub(crate) members: Count,
    pub(crate) api_keys: Count,
    pub(crate) agents: Count,
    pub(crate) audit_sinks: Count,
    pub(crate) uploads: Count,
}

/// The plan that counts: the best of what the operator agreed to and what subscriptions give.
pub(crate) fn effective(agreed: Plan, given: impl IntoIterator<Item = Plan>) -> Plan {
    given.into_iter().fold(agreed, Plan::max)
}

#[cfg(test)]
mod tests {
    use types::Plan;

    use super::effective;

    #[test]
    fn the_best_of_word_and_subscriptions_counts() {
        assert_eq!(effective(Plan::Free, []), Plan::Free);
        assert_eq!(effective(Plan::Free, [Plan::Premium, Plan::Pro]), Plan::Premium);
        assert_eq!(effective(Plan::Enterprise, [Plan::Pro]), Plan::Enterprise);
    }
}
