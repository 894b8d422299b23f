//! A subscription: what it may become, and what it gives.

use serde::Deserialize;
use std::collections::BTreeMap;
use types::{Micros, Plan, TenantId};

use super::event::{Reference, is_id};

/// How long a plan goes on after a payment has failed: two weeks, in which Stripe tries again and the owner reads mails.
const GRACE: i64 = 14 * 86_400;

/// What says in Stripe's objects whose they are.
pub(crate) const TENANT: &str = "trailmesh_tenant";

/// Where a subscription is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State {
    /// The first payment has not come.
    Incomplete,
    /// Paid, or in its trial.
    Active,
    /// A later payment has failed, and is tried again.
    PastDue,
    /// Nothing more is tried, or it rests; a payment brings it back.
    Suspended,
    /// For good.
    Ended,
}

impl State {
    /// Every state.
    pub(crate) const ALL: [Self; 5] = [
        Self::Incomplete,
        Self::Active,
        Self::PastDue,
        Self::Suspended,
        Self::Ended,
    ];

    /// As the table writes it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete",
            Self::Active => "active",
            Self::PastDue => "past_due",
            Self::Suspended => "suspended",
            Self::Ended => "ended",
        }
    }

    /// Reads what the table wrote.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }

    /// Reads Stripe's `status`.
    fn from_status(status: &str) -> Option<Self> {
        Some(match status {
            "incomplete" => Self::Incomplete,
            "trialing" | "active" => Self::Active,
            "past_due" => Self::PastDue,
            "unpaid" | "paused" => Self::Suspended,
            "canceled" | "incomplete_expired" => Self::Ended,
            _ => return None,
        })
    }

    /// Whether it may give its plan: of what gives none neither the price nor the period matters.
    fn may_give(self) -> bool {
        matches!(self, Self::Active | Self::PastDue)
    }

    /// Whether one that was seen as `self` may be seen as `next` later; what was in between may have gone unseen. Nothing returns from its
    /// end, and what was paid once is never again what was never paid.
    pub(crate) fn may_become(self, next: Self) -> bool {
        match (self, next) {
            (Self::Ended, next) => next == Self::Ended,
            (from, Self::Incomplete) => from == Self::Incomplete,
            _ => true,
        }
    }
}

/// A subscription at the moment it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subscription {
    /// `sub_…`
    pub(crate) id: String,
    /// `cus_…`
    pub(crate) customer: String,
    /// Whose it is; none is not one of this product's.
    pub(crate) tenant: Option<TenantId>,
    pub(crate) state: State,
    /// What it is the price of. Always there where its state may give a plan.
    pub(crate) plan: Option<Plan>,
    /// Until when it is paid. Likewise.
    pub(crate) paid_until: Option<Micros>,
}

impl Subscription {
    /// Until when it gives its plan though a payment has failed.
    pub(crate) fn grace_until(&self) -> Option<Micros> {
        let paid = self.paid_until.filter(|_| self.state == State::PastDue)?;
        Some(Micros(paid.0.saturating_add(GRACE * 1_000_000)))
    }
}

/// What a subscription gives at `now`.
pub(crate) fn gives(state: State, plan: Plan, grace_until: Option<Micros>, now: Micros) -> Plan {
    match state {
        State::Active => plan,
        State::PastDue if grace_until.is_some_and(|until| now < until) => plan,
        State::PastDue | State::Incomplete | State::Suspended | State::Ended => Plan::Free,
    }
}

#[derive(Deserialize)]
struct Body {
    id: String,
    object: String,
    status: String,
    customer: Reference,
    livemode: bool,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    items: Items,
    // Of the subscription until the API of March 2025, of its items since.
    current_period_start: Option<i64>,
    current_period_end: Option<i64>,
}

#[derive(Deserialize)]
struct Items {
    data: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    price: Price,
    current_period_start: Option<i64>,
    current_period_end: Option<i64>,
}

#[derive(Deserialize)]
struct Price {
    id: String,
}

/// Reads Stripe's object.
///
/// # Errors
/// What about it is not understood; it stays as it was seen before, and somebody has to look.
pub(crate) fn read(body: &[u8], live: bool, prices: &[(Plan, String)]) -> Result<Subscription, String> {
    let body: Body = serde_json::from_slice(body).map_err(|error| format!("it cannot be read: {error}"))?;
    let customer = body.customer.id();
    if body.object != "subscription" || !is_id(&body.id, "sub_") || !is_id(&customer, "cus_") {
        return Err("it is no subscription".to_owned());
    }
    if body.livemode != live {
        return Err("it is of the other one of live and test mode".to_owned());
    }
    let state = State::from_status(&body.status)
        .ok_or_else(|| format!("its status {:?} is not known", shortened(&body.status)))?;
    let of_price = |item: &Item| prices.iter().find(|(_, price)| *price == item.price.id);
    let plan = body
        .items
        .data
        .iter()
        .filter_map(of_price)
        .map(|(plan, _)| *plan)
        .max();
    if plan.is_none() && state.may_give() {
        return Err("none of its prices is that of a plan".to_owned());
    }
    let latest = |of_all: Option<i64>, of_item: fn(&Item) -> Option<i64>| {
        body.items.data.iter().filter_map(of_item).max().max(of_all)
    };
    let start = latest(body.current_period_start, |item| item.current_period_start);
    let end = latest(body.current_period_end, |item| item.current_period_end);
    // A payment that failed is that of the period which has begun.
    let paid = if state == State::Active { end } else { start };
    if paid.is_none() && state.may_give() {
        return Err("it has no period".to_owned());
    }
    Ok(Subscription {
        id: body.id,
        customer,
        tenant: body.metadata.get(TENANT).and_then(|tenant| tenant.parse().ok()),
        state,
        plan,
        paid_until: paid.map(|paid| Micros(paid.saturating_mul(1_000_000))),
    })
}

fn shortened(text: &str) -> &str {
    text.get(..40).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use types::{Micros, Plan, TenantId};

    use super::{GRACE, State, gives, read};

    fn prices() -> Vec<(Plan, String)> {
        vec![
            (Plan::Pro, "price_pro".to_owned()),
            (Plan::Premium, "price_premium".to_owned()),
        ]
    }

    /// Shaped as the API of 2025-03-31 answers.
    fn subscription(status: &str, prices: &[&str]) -> Value {
        let item = |price: &&str| {
            json!({"id": "si_1", "object": "subscription_item", "quantity": 1, "price": {"id": price, "object": "price"},
                   "current_period_start": 1_000, "current_period_end": 2_000})
        };
        json!({
            "id": "sub_1", "object": "subscription", "status": status, "customer": "cus_1", "livemode": false,
            "metadata": {"trailmesh_tenant": TenantId::fresh().to_string()}, "cancel_at_period_end": false,
            "items": {"object": "list", "has_more": false, "data": prices.iter().map(item).collect::<Vec<_>>()}
        })
    }

    fn reads(body: &Value) -> Result<super::Subscription, String> {
        read(body.to_string().as_bytes(), false, &prices())
    }

    #[test]
    fn every_status_is_a_state_that_gives_a_plan_or_none() {
        let day = |days: i64| Micros::from_secs(1_000 + days * 86_400);
        for (status, state, given, after_grace) in [
            ("incomplete", State::Incomplete, Plan::Free, Plan::Free),
            ("incomplete_expired", State::Ended, Plan::Free, Plan::Free),
            ("trialing", State::Active, Plan::Pro, Plan::Pro),
            ("active", State::Active, Plan::Pro, Plan::Pro),
            ("past_due", State::PastDue, Plan::Pro, Plan::Free),
            ("unpaid", State::Suspended, Plan::Free, Plan::Free),
            ("paused", State::Suspended, Plan::Free, Plan::Free),
            ("canceled", State::Ended, Plan::Free, Plan::Free),
        ] {
            let read = reads(&subscription(status, &["price_pro"])).unwrap();
            assert_eq!(read.state, state, "{status}");
            let at = |now| gives(read.state, read.plan.unwrap(), read.grace_until(), now);
            assert_eq!((at(day(13)), at(day(14))), (given, after_grace), "{status}");
            assert_eq!(State::from_word(state.word()), Some(state));
        }
        assert_eq!(GRACE, 14 * 86_400);
    }

    #[test]
    fn the_period_is_read_where_either_api_has_it() {
        let new = reads(&subscription("active", &["price_pro"])).unwrap();
        assert_eq!(new.paid_until, Some(Micros::from_secs(2_000)));
        let mut old = subscription("past_due", &["price_pro"]);
        old["items"]["data"][0] = json!({"price": {"id": "price_pro"}});
        assert!(reads(&old).is_err());
        (old["current_period_start"], old["current_period_end"]) = (json!(1_000), json!(2_000));
        assert_eq!(reads(&old).unwrap().paid_until, Some(Micros::from_secs(1_000)));
    }

    #[test]
    fn what_is_not_understood_is_told() {
        let with = |name: &str, value: Value| {
            let mut body = subscription("active", &["price_pro"]);
            body[name] = value;
            body
        };
        for wrong in [
            with("status", json!("resting")),
            with("livemode", json!(true)),
            with("object", json!("invoice")),
            with("id", json!("sub_/")),
            with("customer", json!(null)),
            subscription("active", &[]),
            subscription("active", &["price_of_something_else"]),
        ] {
            assert!(reads(&wrong).is_err(), "{wrong}");
        }
        let two = reads(&subscription(
            "active",
            &["price_other", "price_pro", "price_premium"],
        ))
        .unwrap();
        assert_eq!(two.plan, Some(Plan::Premium));
        assert_eq!(reads(&with("metadata", json!({}))).unwrap().tenant, None);
        assert!(reads(&with("customer", json!({"id": "cus_1", "object": "customer"}))).is_ok());
    }

    #[test]
    fn that_it_gives_nothing_any_more_is_read_whatever_its_price() {
        for status in ["canceled", "unpaid", "incomplete_expired"] {
            let ended = reads(&subscription(status, &["price_of_something_else"])).unwrap();
            assert_eq!((ended.plan, ended.grace_until()), (None, None), "{status}");
            assert_eq!(reads(&subscription(status, &[])).unwrap().paid_until, None);
        }
        assert!(reads(&subscription("past_due", &["price_of_something_else"])).is_err());
    }

    #[test]
    fn only_legal_edges_are_followed() {
        use State::{Active, Ended, Incomplete, PastDue, Suspended};
        for from in State::ALL {
            for to in State::ALL {
                let legal = match from {
                    Incomplete => true,
                    Active | PastDue | Suspended => to != Incomplete,
                    Ended => to == Ended,
                };
                assert_eq!(from.may_become(to), legal, "{from:?} {to:?}");
                // What is skipped changes nothing: two legal edges are one.
                for between in State::ALL {
                    assert!(!(from.may_become(between) && between.may_become(to)) || from.may_become(to));
                }
            }
        }
        assert_eq!([Incomplete, Active, PastDue, Suspended, Ended], State::ALL);
    }
}
