//! When the caller stops waiting: read from `grpc-timeout`, known to everything that works for the call, sent on to the next service.
//!
//! The deadline is a property of the task, so that no signature can forget it. A task that a handler spawns does not inherit it.

use std::time::{Duration, Instant};

use types::RequestId;

use crate::policy::Rule;

/// No call may take longer, whatever its caller says.
pub const LONGEST: Duration = Duration::from_secs(60);

/// The same for a call that streams: what is longer begins anew, so that no stream outlives a rollout or a revocation by much.
pub const LONGEST_STREAM: Duration = Duration::from_secs(600);

/// How long a call of this rule may take at most.
pub(crate) fn longest(rule: Option<&Rule>) -> Duration {
    let streams = rule.is_some_and(|rule| rule.server_streaming || rule.client_streaming);
    if streams { LONGEST_STREAM } else { LONGEST }
}

/// What the next hop does not get: the time that its answer needs to come back.
pub(crate) const HOP: Duration = Duration::from_millis(5);

#[derive(Clone, Copy)]
struct Current {
    deadline: Instant,
    request: Option<RequestId>,
}

tokio::task_local! {
    static CURRENT: Current;
}

/// Runs `work` with `deadline` for everything it calls; an earlier deadline that is already set stays. Does not end `work` by itself.
pub async fn within<F: Future>(deadline: Instant, work: F) -> F::Output {
    let deadline = current().map_or(deadline, |outer| outer.min(deadline));
    CURRENT
        .scope(
            Current {
                deadline,
                request: request(),
            },
            work,
        )
        .await
}

/// The deadline of the call that this task works for.
pub fn current() -> Option<Instant> {
    CURRENT.try_with(|current| current.deadline).ok()
}

/// The request that this task works for.
pub(crate) fn request() -> Option<RequestId> {
    CURRENT.try_with(|current| current.request).ok().flatten()
}

/// As [`within`], and with the number of the request.
pub(crate) async fn within_request<F: Future>(deadline: Instant, request: RequestId, work: F) -> F::Output {
    let current = Current {
        deadline,
        request: Some(request),
    };
    CURRENT.scope(current, work).await
}

/// As [`within_request`], for one poll.
pub(crate) fn sync_within_request<R>(deadline: Instant, request: RequestId, work: impl FnOnce() -> R) -> R {
    let current = Current {
        deadline,
        request: Some(request),
    };
    CURRENT.sync_scope(current, work)
}

/// Reads `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP/2, "Timeout").
pub fn parse_timeout(text: &str) -> Option<Duration> {
    let unit = text.chars().next_back().filter(char::is_ascii)?;
    let digits = &text[..text.len() - 1];
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        'H' => Duration::from_secs(count * 3_600),
        'M' => Duration::from_secs(count * 60),
        'S' => Duration::from_secs(count),
        'm' => Duration::from_millis(count),
        'u' => Duration::from_micros(count),
        'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Writes `grpc-timeout`, never longer than `left`.
pub(crate) fn format_timeout(left: Duration) -> String {
    let micros = left.as_micros();
    if micros < 100_000_000 {
        return format!("{micros}u");
    }
    format!("{}m", left.as_millis().min(99_999_999))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{current, format_timeout, parse_timeout, within};

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(parse_timeout("1H"), Some(Duration::from_secs(3_600)));
        assert_eq!(parse_timeout("2M"), Some(Duration::from_secs(120)));
        assert_eq!(parse_timeout("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_timeout("0u"), Some(Duration::ZERO));
        assert_eq!(parse_timeout("7n"), Some(Duration::from_nanos(7)));
        for bad in [
            "",
            "m",
            "1",
            "123456789m",
            "-1S",
            "+1S",
            "1.5S",
            "1 S",
            "1s",
            "1µ",
            "٣S",
        ] {
            assert_eq!(parse_timeout(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_never_longer() {
        for left in [0, 1, 999, 99_999_999, 100_000_000, 59_999_999_999] {
            let left = Duration::from_micros(left);
            let read = parse_timeout(&format_timeout(left)).unwrap();
            assert!(
                read <= left && left - read < Duration::from_millis(1),
                "{left:?} {read:?}"
            );
        }
    }

    #[tokio::test]
    async fn an_inner_deadline_is_never_later_than_the_outer_one() {
        assert_eq!(current(), None);
        let near = Instant::now() + Duration::from_secs(1);
        let far = near + Duration::from_secs(1);
        within(near, async {
            assert_eq!(current(), Some(near));
            within(far, async { assert_eq!(current(), Some(near)) }).await;
        })
        .await;
        within(far, async {
            within(near, async { assert_eq!(current(), Some(near)) }).await;
            assert_eq!(current(), Some(far));
        })
        .await;
    }
}
