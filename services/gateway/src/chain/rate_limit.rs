//! How often: the limits of tenant and user, and of the client's address where passwords and codes could be guessed.
use chassis::policy::{CallerKind, Rule};
use rand::Rng as _;
use types::Context;

use super::{
    Gateway,
    call::{REFRESH, STRIPE},
};
use crate::{
    client_address,
    error::{Cause, Layer, Refusal},
    exchange::Exchange,
    rate::{Decision, Key, Limit, Policy, write_headers},
};

/// Counts the call, or refuses it and counts nothing. Every answer from here on says how the limits stand.
pub(crate) async fn count(
    gateway: &Gateway,
    exchange: &mut Exchange,
    rule: &Rule,
    caller: Option<&Context>,
) -> Result<(), Refusal> {
    let keys = keys(gateway, exchange, rule, caller);
    let strict = is_strict(rule);
    let mut decision = gateway.limiter.decide(&keys, strict).await;
    gateway.metrics.rate(&decision);
    // Of two limits of the same person the other one is told about when it is the one that counts.
    if decision.admitted {
        decision
            .standings
            .retain(|standing| standing.policy != Policy::Person);
    }
    let jitter = rand::rng().random_range(0.0..1.0);
    write_headers(&mut exchange.answer, &decision, jitter);
    if decision.admitted {
        return Ok(());
    }
    Err(Refusal::new(
        Layer::RateLimit,
        Cause::RateExceeded(retry(&decision)),
    ))
}

fn retry(decision: &Decision) -> std::time::Duration {
    let refusing = decision.standings.iter().filter(|standing| standing.refuses);
    refusing.map(|standing| standing.time).max().unwrap_or_default()
}

/// Refresh tokens and signatures cannot be guessed; a whole office refreshes from one address, and Stripe calls from few.
const UNGUESSABLE: u32 = 20;

/// What such calls of one address are counted as.
fn unguessable(rule: &Rule) -> Option<&'static str> {
    match rule.path.as_str() {
        REFRESH => Some("refresh"),
        STRIPE => Some("stripe"),
        _ => None,
    }
}

fn is_strict(rule: &Rule) -> bool {
    unguessable(rule).is_none() && (rule.strict_rate || rule.caller == CallerKind::Public)
}

/// The braces keep the keys of one call in one slot of a Redis cluster, as far as they have an owner in common.
fn keys(gateway: &Gateway, exchange: &Exchange, rule: &Rule, caller: Option<&Context>) -> Vec<Key> {
    let mut keys = Vec::with_capacity(4);
    let cost = rule.cost;
    if let Some(caller) = caller {
        let user = caller.subject.user();
        match &caller.seat {
            Some(seat) => {
                let tenant = seat.tenant;
                let (of_tenant, of_user) = gateway.rates.of(seat.plan);
                keys.push(Key {
                    policy: Policy::Tenant,
                    name: format!("{{{tenant}}}"),
                    limit: of_tenant,
                    cost,
                });
                keys.push(Key {
                    policy: Policy::User,
                    name: format!("{{{tenant}}}:{user}"),
                    limit: of_user,
                    cost,
                });
                // Tenants are free, and one person can have many.
                keys.push(Key {
                    policy: Policy::Person,
                    name: format!("{{{user}}}:all"),
                    limit: gateway.rates.of_person(),
                    cost,
                });
            }
            None => keys.push(Key {
                policy: Policy::User,
                name: format!("{{{user}}}"),
                limit: gateway.rates.of(types::Plan::Free).1,
                cost,
            }),
        }
    }
    if let Some(word) = unguessable(rule) {
        let class = client_address::class(exchange.client);
        let strict = gateway.strict_rate;
        keys.push(Key {
            policy: Policy::Address,
            name: format!("{{{class}}}:{word}"),
            limit: Limit::new(strict.units().saturating_mul(UNGUESSABLE), strict.micros()),
            cost,
        });
    } else if is_strict(rule) {
        let class = client_address::class(exchange.client);
        keys.push(Key {
            policy: Policy::Address,
            name: format!("{{{class}}}"),
            limit: gateway.strict_rate,
            cost,
        });
    }
    keys
}
