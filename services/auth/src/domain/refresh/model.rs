//! The rule against a reference model that remembers everything, and the wire form.

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use types::{Micros, SessionId};

use super::{LENGTH, PREFIX, Presented, State, Turn, Verdict, token};

const SECOND: i64 = 1_000_000;
const LIFETIME: i64 = 30 * 24 * 3_600 * SECOND;
const IDLE: i64 = 7 * 24 * 3_600 * SECOND;
/// Together a million steps.
const TRACES: u64 = 2_000;
const STEPS: u32 = 500;

fn fresh() -> State {
    State {
        generation: 0,
        recent: Vec::new(),
        expires_at: Micros(LIFETIME),
        idle_until: Micros(IDLE),
        revoked: false,
    }
}

/// A presentation that is judged at once.
fn judge(state: &State, generation: u32, now: i64) -> Verdict {
    state.judge(generation, Micros(now), Micros(now))
}

/// What someone does.
#[derive(Clone, Debug)]
enum Step {
    /// The owner presents the newest token that reached them.
    Refresh,
    /// The same, but the answer is lost on its way.
    RefreshAndLose,
    /// A thief copies what the owner holds now.
    Steal,
    /// A thief presents the copy.
    Replay,
    /// Somebody presents the token of so many generations before the live one, or after it.
    Present(i64),
    /// Time passes.
    Sleep(i64),
    /// The owner signs out.
    LogOut,
}

fn step(random: &mut StdRng) -> Step {
    match random.random_range(0..23) {
        0..8 => Step::Refresh,
        8..10 => Step::RefreshAndLose,
        10 => Step::Steal,
        11 => Step::Replay,
        12..14 => Step::Present(random.random_range(-2..12)),
        14..19 => Step::Sleep(random.random_range(0..4 * SECOND)),
        19..21 => Step::Sleep(random.random_range(9_999_990..10_000_010)),
        21 => Step::Sleep(random.random_range(0..IDLE + SECOND)),
        _ => Step::LogOut,
    }
}

/// Everything that ever happened to a session.
struct World {
    state: State,
    now: i64,
    /// When each generation was replaced.
    replaced: Vec<i64>,
    held: u32,
    stolen: Option<u32>,
}

impl World {
    /// What must come out, from the whole history.
    fn expected(&self, generation: u32) -> &'static str {
        let live = u32::try_from(self.replaced.len()).unwrap();
        if self.state.revoked
            || self.now >= LIFETIME
            || self.now >= self.state.idle_until.0
            || generation > live
        {
            "over"
        } else if generation == live {
            "rotate"
        } else if self.now <= self.replaced[generation as usize] + 10 * SECOND && generation + 8 >= live {
            "again"
        } else {
            "reused"
        }
    }

    /// Presents a token; the generation that is answered.
    fn present(&mut self, generation: u32) -> Option<u32> {
        let expected = self.expected(generation);
        let before = self.state.clone();
        let verdict = self.state.judge(generation, Micros(self.now), Micros(self.now));
        match verdict {
            Verdict::Rotate(recent) => {
                assert_eq!(expected, "rotate");
                assert!(recent.len() <= 8 && recent.is_sorted_by_key(|turn| turn.at));
                self.replaced.push(self.now);
                self.state.generation += 1;
                self.state.recent = recent;
                self.state.idle_until = Micros(self.now + IDLE);
                Some(self.state.generation)
            }
            Verdict::Again => {
                assert_eq!(expected, "again");
                assert_eq!(self.state, before);
                Some(self.state.generation)
            }
            Verdict::Reused => {
                assert_eq!(expected, "reused");
                self.state.revoked = true;
                None
            }
            Verdict::Over => {
                assert_eq!(expected, "over");
                None
            }
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Refresh => {
                if let Some(next) = self.present(self.held) {
                    assert!(self.now < LIFETIME, "nothing lives past its 30 days");
                    self.held = next;
                }
            }
            Step::RefreshAndLose => {
                self.present(self.held);
            }
            Step::Steal => self.stolen = Some(self.held),
            Step::Replay => {
                if let Some(copy) = self.stolen
                    && let Some(next) = self.present(copy)
                {
                    self.stolen = Some(next);
                }
            }
            Step::Present(back) => {
                if let Ok(generation) = u32::try_from(i64::from(self.state.generation) - back) {
                    self.present(generation);
                }
            }
            Step::Sleep(micros) => self.now += micros,
            Step::LogOut => self.state.revoked = true,
        }
    }
}

#[test]
fn the_rule_is_the_reference_model() {
    let begin = || World {
        state: fresh(),
        now: 0,
        replaced: Vec::new(),
        held: 0,
        stolen: None,
    };
    let first: u64 = rand::random();
    for trace in 0..TRACES {
        // What a failing run prints is what repeats it.
        let seed = first.wrapping_add(trace);
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let mut world = begin();
        for _ in 0..STEPS {
            world.take(&step(&mut random));
            // A trace whose session is over begins anew, so that every step counts.
            if world.state.revoked || world.now >= world.state.idle_until.0.min(LIFETIME) {
                world.present(world.held);
                world = begin();
            }
        }
    }
}

#[test]
fn a_damaged_token_is_refused_without_a_look_at_the_database() {
    let text = token(SessionId::fresh(), 7, b"key");
    assert_eq!(text.len(), PREFIX.len() + LENGTH * 4 / 3);
    for at in PREFIX.len()..text.len() {
        for to in "ABYZaz019-_ =\u{e4}".chars() {
            let mut damaged = text.clone();
            damaged.replace_range(at..=at, &to.to_string());
            assert_eq!(Presented::read(&damaged).is_some(), damaged == text, "{damaged}");
        }
    }
}

#[test]
fn the_boundary_of_the_window_is_ten_seconds() {
    let mut state = fresh();
    state.generation = 1;
    state.recent = vec![Turn {
        generation: 0,
        at: 5 * SECOND,
    }];
    assert_eq!(judge(&state, 0, 15 * SECOND), Verdict::Again);
    assert_eq!(judge(&state, 0, 15 * SECOND + 1), Verdict::Reused);
}

/// A thousand tabs at once keep a small machine busy for longer than the window.
#[test]
fn time_that_we_take_does_not_count_against_who_came_in_time() {
    let mut state = fresh();
    state.generation = 1;
    state.recent = vec![Turn {
        generation: 0,
        at: 5 * SECOND,
    }];
    assert_eq!(
        state.judge(0, Micros(15 * SECOND), Micros(25 * SECOND)),
        Verdict::Again
    );
    assert_eq!(
        state.judge(0, Micros(15 * SECOND + 1), Micros(25 * SECOND)),
        Verdict::Reused
    );
    assert_eq!(
        state.judge(0, Micros(15 * SECOND), Micros(LIFETIME)),
        Verdict::Over
    );
    let Verdict::Rotate(recent) = state.judge(1, Micros(6 * SECOND), Micros(9 * SECOND)) else {
        panic!("the live generation rotates");
    };
    assert_eq!(recent.last().unwrap().at, 9 * SECOND);
}

/// A window that hung on the session's last refresh would answer a token of long ago (GoTrue v2), and one that each accepted re-use
/// renewed would never close (supabase/auth#1901).
#[test]
fn neither_a_refresh_by_the_owner_nor_replays_move_the_window() {
    let mut world = World {
        state: fresh(),
        now: 0,
        replaced: Vec::new(),
        held: 0,
        stolen: None,
    };
    world.take(&Step::Steal);
    world.take(&Step::Refresh);
    world.now = 9 * SECOND;
    assert_eq!(world.present(0), Some(1));
    world.take(&Step::Refresh);
    world.now = 18 * SECOND;
    assert_eq!(world.present(0), None);
    assert!(world.state.revoked);
}

#[test]
fn a_clock_set_back_neither_reorders_nor_ends() {
    let mut state = fresh();
    state.generation = 1;
    state.recent = vec![Turn {
        generation: 0,
        at: 100 * SECOND,
    }];
    assert_eq!(judge(&state, 0, 40 * SECOND), Verdict::Again);
    let Verdict::Rotate(recent) = judge(&state, 1, 40 * SECOND) else {
        panic!("the live generation rotates");
    };
    assert!(recent.is_sorted_by_key(|turn| turn.at));
}

#[test]
fn a_token_says_its_session_and_generation_and_is_bound_to_the_key() {
    let session = SessionId::fresh();
    let text = token(session, 41, b"the key of the session");
    let read = Presented::read(&text).unwrap();
    assert_eq!((read.session, read.generation), (session, 41));
    assert!(read.is_made_with(b"the key of the session"));
    assert!(!read.is_made_with(b"the key of another one"));
    for bad in [
        "",
        "bt_rt_",
        &text[6..],
        &format!("{text}="),
        &format!(" {text}"),
        &text.to_uppercase(),
    ] {
        assert_eq!(Presented::read(bad), None, "{bad}");
    }
}
