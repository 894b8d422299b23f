//! To which replicas an agent holds connections, and which one it opens or closes next. Asks nobody and waits for nothing, so that all of it can
//! be tested.
//!
//! The rule: as many connections to distinct replicas as the hub wants and there are replicas; what goes is replaced before it is closed.

use std::collections::BTreeMap;

/// No hub gets more connections than that from one agent.
const MOST: u32 = 4;

/// A connection's number, counted from the start of the process.
pub(super) type Number = u64;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// Dialled, but not greeted yet; with a certificate that was renewed meanwhile, or not.
    Calling { stale: bool },
    /// It counts.
    Current(String),
    /// Its replica ends soon: the next one must be to another.
    Leaving(String),
    /// It rests on a certificate that was renewed: the next one may be to the same replica.
    Stale(String),
    /// It was told to end.
    Closing,
}

/// All connections of an agent.
#[derive(Debug)]
pub(super) struct Circle {
    links: BTreeMap<Number, Standing>,
    wanted: u32,
    replicas: u32,
}

impl Default for Circle {
    /// One, until a replica says how many there may be.
    fn default() -> Self {
        Self {
            links: BTreeMap::new(),
            wanted: 1,
            replicas: 1,
        }
    }
}

impl Circle {
    /// A connection is being made.
    pub(super) fn calls(&mut self, number: Number) {
        self.links.insert(number, Standing::Calling { stale: false });
    }

    /// It is over.
    pub(super) fn ended(&mut self, number: Number) {
        self.links.remove(&number);
    }

    /// The other end said who it is, and how many connections it wants. Gives those that are to be closed: this one, if it leads where another
    /// one leads already, or those that it replaces.
    pub(super) fn greeted(
        &mut self,
        number: Number,
        replica: &str,
        wanted: u32,
        replicas: u32,
    ) -> Vec<Number> {
        self.wanted = wanted.clamp(1, MOST);
        self.replicas = replicas.max(1);
        let mut over = Vec::new();
        if let Some(Standing::Calling { stale }) = self.links.get(&number) {
            let standing = if *stale {
                Standing::Stale(replica.to_owned())
            } else {
                Standing::Current(replica.to_owned())
            };
            if self.leads_to(replica) {
                over.push(number);
            } else {
                self.links.insert(number, standing);
            }
        }
        let duplicate = !over.is_empty();
        let full = self.current() >= self.target();
        let replaced = self.links.iter().filter(|(of, standing)| match standing {
            Standing::Stale(old) => full || (!duplicate && old == replica && **of != number),
            Standing::Leaving(_) => full,
            _ => false,
        });
        over.extend(replaced.map(|(number, _)| *number));
        self.close(&over)
    }

    /// Its replica ends soon.
    pub(super) fn leaving(&mut self, number: Number) {
        if let Some(standing) = self.links.get_mut(&number)
            && let Standing::Current(replica) | Standing::Stale(replica) = standing
        {
            *standing = Standing::Leaving(std::mem::take(replica));
        }
    }

    /// All that are there rest on an old certificate.
    pub(super) fn renewed(&mut self) {
        for standing in self.links.values_mut() {
            match standing {
                Standing::Current(replica) => *standing = Standing::Stale(std::mem::take(replica)),
                Standing::Calling { stale } => *stale = true,
                Standing::Leaving(_) | Standing::Stale(_) | Standing::Closing => {}
            }
        }
    }

    /// Whether there is a connection that is there to stay.
    pub(super) fn is_held(&self) -> bool {
        self.current() > 0
    }

    /// Whether another connection is to be made now.
    pub(super) fn wants_another(&self) -> bool {
        !self.is_calling() && self.current() < self.target()
    }

    /// Whether one is being made.
    pub(super) fn is_calling(&self) -> bool {
        self.links
            .values()
            .any(|standing| matches!(standing, Standing::Calling { .. }))
    }

    /// Whether the hub would like more connections than there were replicas when it last said so.
    pub(super) fn could_have_more(&self) -> bool {
        let current = self.current();
        !self.is_calling() && current >= self.target() && current < self.wanted as usize
    }

    /// The replicas to which connections count.
    pub(super) fn replicas(&self) -> Vec<String> {
        self.links
            .values()
            .filter_map(|standing| match standing {
                Standing::Current(replica) | Standing::Leaving(replica) | Standing::Stale(replica) => {
                    Some(replica.clone())
                }
                Standing::Calling { .. } | Standing::Closing => None,
            })
            .collect()
    }

    fn leads_to(&self, replica: &str) -> bool {
        self.links.values().any(
            |standing| matches!(standing, Standing::Current(held) | Standing::Leaving(held) if held == replica),
        )
    }

    fn current(&self) -> usize {
        self.links
            .values()
            .filter(|standing| matches!(standing, Standing::Current(_)))
            .count()
    }

    fn target(&self) -> usize {
        self.wanted.min(self.replicas) as usize
    }

    fn close(&mut self, numbers: &[Number]) -> Vec<Number> {
        for number in numbers {
            self.links.insert(*number, Standing::Closing);
        }
        numbers.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::{Circle, Number};

    /// Dials, and is greeted by `replica` of `replicas`.
    fn join(circle: &mut Circle, number: Number, replica: &str, replicas: u32) -> Vec<Number> {
        assert!(circle.wants_another(), "another one is wanted");
        circle.calls(number);
        assert!(!circle.wants_another(), "one at a time");
        circle.greeted(number, replica, 2, replicas)
    }

    #[test]
    fn two_connections_lead_to_distinct_replicas() {
        let mut circle = Circle::default();
        assert!(join(&mut circle, 1, "a", 3).is_empty());
        assert_eq!(join(&mut circle, 2, "a", 3), [2], "a duplicate is closed");
        circle.ended(2);
        assert!(join(&mut circle, 3, "b", 3).is_empty());
        assert!(!circle.wants_another() && !circle.could_have_more());
        assert_eq!(circle.replicas(), ["a", "b"]);
    }

    #[test]
    fn with_one_replica_there_is_one_connection() {
        let mut circle = Circle::default();
        assert!(join(&mut circle, 1, "a", 1).is_empty());
        assert!(!circle.wants_another());
        assert!(
            circle.could_have_more(),
            "a look now and then finds a second replica"
        );
        circle.calls(2);
        assert!(circle.greeted(2, "b", 2, 2).is_empty());
        assert!(!circle.could_have_more());
    }

    #[test]
    fn a_leaving_replica_is_replaced_before_it_is_let_go() {
        let mut circle = Circle::default();
        join(&mut circle, 1, "a", 3);
        join(&mut circle, 2, "b", 3);
        circle.leaving(1);
        assert_eq!(circle.replicas(), ["a", "b"], "it still answers");
        assert_eq!(join(&mut circle, 3, "a", 3), [3], "not to the same again");
        circle.ended(3);
        assert_eq!(join(&mut circle, 4, "c", 3), [1]);
        assert_eq!(circle.replicas(), ["b", "c"]);
    }

    #[test]
    fn the_last_but_one_replica_may_leave() {
        let mut circle = Circle::default();
        join(&mut circle, 1, "a", 2);
        join(&mut circle, 2, "b", 2);
        circle.leaving(1);
        assert!(circle.wants_another());
        assert!(circle.is_held());
        circle.calls(3);
        // There is only one left: no third connection, and the first one has nothing to wait for.
        assert_eq!(circle.greeted(3, "b", 2, 1), [3, 1]);
        circle.ended(3);
        assert!(!circle.wants_another());
    }

    #[test]
    fn a_new_certificate_moves_every_connection_one_by_one() {
        let mut circle = Circle::default();
        join(&mut circle, 1, "a", 2);
        join(&mut circle, 2, "b", 2);
        circle.renewed();
        assert_eq!(join(&mut circle, 3, "b", 2), [2]);
        assert_eq!(circle.replicas(), ["a", "b"]);
        circle.ended(2);
        assert_eq!(join(&mut circle, 4, "b", 2), [4]);
        circle.ended(4);
        assert_eq!(join(&mut circle, 5, "a", 2), [1]);
        assert!(!circle.wants_another());
    }

    #[test]
    fn what_was_dialled_with_the_old_certificate_is_replaced_too() {
        let mut circle = Circle::default();
        circle.calls(1);
        circle.renewed();
        assert!(
            circle.greeted(1, "a", 2, 1).is_empty(),
            "until there is another one"
        );
        assert_eq!(circle.replicas(), ["a"]);
        assert_eq!(join(&mut circle, 2, "a", 1), [1]);
        assert!(!circle.wants_another());
    }

    #[test]
    fn a_lost_connection_is_made_again() {
        let mut circle = Circle::default();
        join(&mut circle, 1, "a", 2);
        join(&mut circle, 2, "b", 2);
        circle.ended(1);
        assert!(circle.wants_another());
        assert!(join(&mut circle, 3, "c", 2).is_empty());
    }

    #[test]
    fn no_hub_gets_connections_without_end() {
        let mut circle = Circle::default();
        circle.calls(1);
        circle.greeted(1, "a", u32::MAX, u32::MAX);
        assert_eq!(circle.target(), 4);
        circle.greeted(1, "a", 0, 0);
        assert_eq!(circle.target(), 1);
    }
}
