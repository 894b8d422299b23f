//! `RateLimit-Policy`, `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10) and `Retry-After`.
use std::{fmt::Write as _, time::Duration};

use http::{HeaderMap, HeaderValue, header::RETRY_AFTER};

use super::{Decision, Standing};

/// Adds what a decision has to tell. `jitter` from 0 to 1 spreads those who were refused over a tenth more than their wait, so that they
/// do not come back together; `Retry-After` and the `t` of `RateLimit` name the same moment.
pub(crate) fn write(headers: &mut HeaderMap, decision: &Decision, jitter: f64) {
    let mut policies = String::new();
    for standing in &decision.standings {
        let comma = if policies.is_empty() { "" } else { ", " };
        let (units, secs) = (
            standing.limit.units(),
            standing.limit.micros().div_ceil(1_000_000),
        );
        let _ = write!(
            policies,
            "{comma}\"{}\";q={units};w={secs}",
            standing.policy.word()
        );
    }
    let Some(tightest) = tightest(decision) else {
        return;
    };
    let time = if decision.admitted {
        tightest.time
    } else {
        spread(tightest.time, jitter)
    };
    let secs = secs(time);
    let state = format!("\"{}\";r={};t={secs}", tightest.policy.word(), tightest.remaining);
    for (name, value) in [("ratelimit-policy", policies), ("ratelimit", state)] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    if !decision.admitted {
        headers.insert(RETRY_AFTER, HeaderValue::from(secs));
    }
}

/// The refusing limit with the longest wait, or else the one of which the smallest part is left.
fn tightest(decision: &Decision) -> Option<&Standing> {
    let part = |standing: &Standing| f64::from(standing.remaining) / f64::from(standing.limit.units());
    let refusing = decision.standings.iter().filter(|standing| standing.refuses);
    refusing.max_by_key(|standing| standing.time).or_else(|| {
        decision
            .standings
            .iter()
            .min_by(|one, other| part(one).total_cmp(&part(other)))
    })
}

fn spread(time: Duration, jitter: f64) -> Duration {
    time + time.mul_f64(jitter.clamp(0.0, 1.0) / 10.0)
}

/// Whole seconds, rounded up, at least one.
fn secs(time: Duration) -> u64 {
    (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderMap;

    use super::write;
    use crate::rate::{Decision, Limit, Policy, Source, Standing};

    fn standing(policy: Policy, units: u32, remaining: u32, millis: u64, refuses: bool) -> Standing {
        Standing {
            policy,
            limit: Limit::per_minute(units),
            remaining,
            time: Duration::from_millis(millis),
            refuses,
        }
    }

    fn written(standings: Vec<Standing>, jitter: f64) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let decision = Decision {
            admitted: !standings.iter().any(|standing| standing.refuses),
            standings,
            source: Source::Redis,
        };
        write(&mut headers, &decision, jitter);
        headers
    }

    #[test]
    fn an_admitted_call_is_told_its_tightest_limit() {
        let tenant = standing(Policy::Tenant, 6_000, 3_000, 61_000, false);
        let user = standing(Policy::User, 600, 10, 60_500, false);
        let headers = written(vec![tenant, user], 1.0);
        assert_eq!(
            headers["ratelimit-policy"],
            "\"tenant\";q=6000;w=60, \"user\";q=600;w=60"
        );
        assert_eq!(headers["ratelimit"], "\"user\";r=10;t=61");
        assert!(!headers.contains_key("retry-after"));
    }

    #[test]
    fn a_refused_call_is_told_when_to_come_back() {
        let tenant = standing(Policy::Tenant, 6_000, 3_000, 61_000, false);
        let user = standing(Policy::User, 600, 0, 20_000, true);
        let headers = written(vec![tenant, user], 0.0);
        assert_eq!(headers["retry-after"], "20");
        assert_eq!(headers["ratelimit"], "\"user\";r=0;t=20");
        let later = written(vec![tenant, user], 1.0);
        assert_eq!(later["retry-after"], "22");
        assert_eq!(later["ratelimit"], "\"user\";r=0;t=22");
        let soon = written(vec![standing(Policy::Address, 30, 0, 1, true)], 0.0);
        assert_eq!(soon["retry-after"], "1");
    }
}
