//! The life of a tenant's data key.

use proto::vault::v1 as pb;

/// Where a version is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State {
    /// New values are sealed with it.
    Active,
    /// It opens what it sealed, which is being sealed anew.
    Draining,
    /// Nothing is sealed with it any more; it will be destroyed.
    Retired,
    /// It is gone.
    Destroyed,
    /// It was given up as known to others, and opens nothing.
    Revoked,
}

impl State {
    /// As tables have it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Retired => "retired",
            Self::Destroyed => "destroyed",
            Self::Revoked => "revoked",
        }
    }
}

impl std::str::FromStr for State {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(match text {
            "active" => Self::Active,
            "draining" => Self::Draining,
            "retired" => Self::Retired,
            "destroyed" => Self::Destroyed,
            "revoked" => Self::Revoked,
            _ => return Err(()),
        })
    }
}

impl From<State> for pb::KeyState {
    fn from(state: State) -> Self {
        match state {
            State::Active => Self::Active,
            State::Draining => Self::Draining,
            State::Retired => Self::Retired,
            State::Destroyed => Self::Destroyed,
            State::Revoked => Self::Revoked,
        }
    }
}

/// What is known of a superseded version when it is looked at again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Looked {
    /// Where it is.
    pub(crate) state: State,
    /// Whether it was given up as known to others.
    pub(crate) compromised: bool,
    /// Whether its wrapped bytes are still there.
    pub(crate) wrapped: bool,
    /// Values that are sealed with it.
    pub(crate) remaining: i64,
    /// Of these, values that it does not open.
    pub(crate) unreadable: i64,
    /// Whether it was superseded longer ago than a value can be on its way.
    pub(crate) settled: bool,
    /// The same, since it was retired or revoked.
    pub(crate) ended_long_ago: bool,
}

/// What becomes of a superseded version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing yet.
    Stay,
    /// On in its life.
    Become(State),
    /// It stays what it is, and its bytes go.
    Erase,
}

impl Looked {
    /// The one rule by which versions go.
    ///
    /// A version with which anything is still sealed is never destroyed; and since a value may have been sealed with it just before it was
    /// superseded and be stored only now, one is looked at twice, each time after everything on its way has arrived. A compromised version
    /// is refused as soon as nothing readable is left under it; its bytes stay for the same while, to reseal what was on its way.
    pub(crate) fn next(self) -> Next {
        let empty = self.remaining == 0;
        match self.state {
            State::Draining if self.compromised && self.remaining <= self.unreadable => {
                Next::Become(State::Revoked)
            }
            State::Draining if !self.compromised && empty && self.settled => Next::Become(State::Retired),
            State::Retired if self.compromised => Next::Become(State::Revoked),
            State::Retired if !empty => Next::Become(State::Draining),
            State::Retired if self.ended_long_ago => Next::Become(State::Destroyed),
            State::Revoked if self.wrapped && self.ended_long_ago && self.remaining <= self.unreadable => {
                Next::Erase
            }
            _ => Next::Stay,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Looked, Next, State};

    const DRAINED: Looked = Looked {
        state: State::Draining,
        compromised: false,
        wrapped: true,
        remaining: 0,
        unreadable: 0,
        settled: true,
        ended_long_ago: false,
    };

    #[test]
    fn a_version_goes_step_by_step_and_never_with_something_under_it() {
        assert_eq!(DRAINED.next(), Next::Become(State::Retired));
        assert_eq!(
            Looked {
                settled: false,
                ..DRAINED
            }
            .next(),
            Next::Stay
        );
        assert_eq!(
            Looked {
                remaining: 1,
                ..DRAINED
            }
            .next(),
            Next::Stay
        );
        assert_eq!(
            Looked {
                remaining: 1,
                unreadable: 1,
                ..DRAINED
            }
            .next(),
            Next::Stay
        );
        let retired = Looked {
            state: State::Retired,
            ..DRAINED
        };
        assert_eq!(retired.next(), Next::Stay);
        assert_eq!(
            Looked {
                ended_long_ago: true,
                ..retired
            }
            .next(),
            Next::Become(State::Destroyed)
        );
        let straggler = Looked {
            ended_long_ago: true,
            remaining: 1,
            ..retired
        };
        assert_eq!(straggler.next(), Next::Become(State::Draining));
    }

    #[test]
    fn a_compromised_version_is_refused_as_soon_as_nothing_readable_is_under_it() {
        let known = Looked {
            compromised: true,
            settled: false,
            ..DRAINED
        };
        assert_eq!(known.next(), Next::Become(State::Revoked));
        assert_eq!(
            Looked {
                remaining: 2,
                unreadable: 1,
                ..known
            }
            .next(),
            Next::Stay
        );
        assert_eq!(
            Looked {
                remaining: 1,
                unreadable: 1,
                ..known
            }
            .next(),
            Next::Become(State::Revoked)
        );
        let revoked = Looked {
            state: State::Revoked,
            ..known
        };
        assert_eq!(revoked.next(), Next::Stay);
        assert_eq!(
            Looked {
                ended_long_ago: true,
                ..revoked
            }
            .next(),
            Next::Erase
        );
        assert_eq!(
            Looked {
                ended_long_ago: true,
                wrapped: false,
                ..revoked
            }
            .next(),
            Next::Stay
        );
    }
}
