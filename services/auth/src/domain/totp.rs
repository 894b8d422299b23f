//! One-time codes: RFC 6238 with SHA-1, six digits and 30 seconds, each code good once.
//!
//! A factor has one memory for everything its codes are asked for, and [`Memory::judge`] is the only place that decides on one.
//! Accepted are the codes of the present step and the one before, shifted by the clock error learnt for this factor: 60 seconds in all.

use totp_rs::{Algorithm, Builder, Totp};
use types::Secret;

/// Seconds that a code is shown for.
pub(crate) const STEP: i64 = 30;
/// RFC 4226 §4 recommends 160 bits.
pub(crate) const SECRET_LEN: usize = 20;
const DIGITS: u8 = 6;

/// So many wrong codes within [`SHORT`] lock the factor for [`LOCK`].
const SHORT_MOST: usize = 5;
/// Seconds.
const SHORT: i64 = 5 * 60;
/// Seconds.
const LOCK: i64 = 15 * 60;
/// So many wrong codes within [`LONG`] suspend the factor. A right code between them does not make room: whoever guesses beside an
/// owner who is at work gets no more guesses than beside one who sleeps.
const LONG_MOST: usize = 20;
/// Seconds.
const LONG: i64 = 24 * 60 * 60;
/// So many wrong codes in a row, over any time, suspend the factor (NIST SP 800-63B §5.2.2).
const STREAK_MOST: u32 = 100;
/// Codes that show a clock error of one more step count as its proof within these seconds.
const NEAR: i64 = 10 * 60;

/// What a phone and this service share.
pub(crate) struct TotpSecret(Secret<Vec<u8>>);

impl TotpSecret {
    /// Takes the bytes.
    pub(crate) fn new(bytes: Secret<Vec<u8>>) -> Self {
        Self(bytes)
    }

    /// In base32 without padding, for typing.
    pub(crate) fn base32(&self) -> String {
        totp_rs::Secret::from(self.0.expose().as_slice()).to_base32()
    }

    /// As a QR code carries it. None for an account name that fits no URI.
    pub(crate) fn uri(&self, issuer: &str, account: &str) -> Option<String> {
        let builder = self
            .builder()
            .with_issuer(Some(issuer))
            .with_account_name(account.replace(':', "_"));
        builder.build().ok()?.to_url().ok()
    }

    /// Whether `code` is that of `step`.
    fn shows(&self, totp: &Totp, step: i64, code: &Code) -> bool {
        let Ok(time) = u64::try_from(step.saturating_mul(STEP)) else {
            return false;
        };
        totp.check(code.0.expose(), time).is_some()
    }

    fn builder(&self) -> Builder {
        Builder::new()
            .with_algorithm(Algorithm::SHA1)
            .with_digits(DIGITS)
            .with_step_duration(STEP.unsigned_abs())
            .with_skew(0)
            .with_secret(self.0.expose().as_slice())
    }
}

/// Six ASCII digits; nothing else is a code.
pub(crate) struct Code(Secret<String>);

impl Code {
    /// None for what is no code.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let six = text.len() == usize::from(DIGITS) && text.bytes().all(|byte| byte.is_ascii_digit());
        six.then(|| Self(Secret::new(text.to_owned())))
    }
}

/// What a factor remembers. Times are seconds since 1970 by the database's clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// The step of the last accepted code: only later ones are accepted.
    pub(crate) last_step: Option<i64>,
    /// By how many steps the phone's clock is ahead: -1, 0 or 1.
    pub(crate) drift: i16,
    /// The step of a code that was refused for showing a drift of one more step, and that drift.
    pub(crate) near: Option<(i64, i16)>,
    /// When wrong codes came, within 24 hours, oldest first.
    pub(crate) wrong: Vec<i64>,
    /// Wrong codes since the last right one.
    pub(crate) streak: i32,
    /// No code is looked at before.
    pub(crate) locked_until: Option<i64>,
    /// Since when no code is looked at at all.
    pub(crate) suspended_at: Option<i64>,
}

/// What became of a code. To the outside, wrong and used are one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Right, and now used.
    Right {
        /// The step it was of.
        step: i64,
    },
    /// Of none of the accepted steps.
    Wrong {
        /// Whether it was the one too many, so that its owner must hear of it.
        suspends: bool,
    },
    /// Of an accepted step, but not later than the last used.
    Used,
    /// Not looked at until then.
    Locked {
        /// Seconds since 1970.
        until: i64,
    },
    /// Not looked at until the factor is replaced.
    Suspended,
}

impl Memory {
    /// Judges `code` at `now` and remembers what came of it.
    pub(crate) fn judge(&mut self, secret: &TotpSecret, code: Option<&Code>, now: i64) -> Verdict {
        if self.suspended_at.is_some() {
            return Verdict::Suspended;
        }
        if let Some(until) = self.locked_until.filter(|until| *until > now) {
            return Verdict::Locked { until };
        }
        let present = now.div_euclid(STEP);
        let Some(step) = code.and_then(|code| self.accepted(secret, code, present)) else {
            return self.refuse(now);
        };
        if self.last_step.is_some_and(|last| step <= last) {
            return Verdict::Used;
        }
        self.last_step = Some(step);
        self.near = None;
        self.streak = 0;
        self.locked_until = None;
        Verdict::Right { step }
    }

    /// The step that `code` is of, if that is one to accept. All candidates are computed, so that time tells nothing.
    fn accepted(&mut self, secret: &TotpSecret, code: &Code, present: i64) -> Option<i64> {
        let totp = secret.builder().build_noncompliant();
        let shown = |step: i64| secret.shows(&totp, step, code).then_some(step);
        let steps = [-2, -1, 0, 1].map(|offset| shown(present + offset));
        let first = usize::try_from(self.drift + 1).unwrap_or(1);
        // The later step first: of two steps with one code the unused one counts.
        let inside = steps[first + 1].or(steps[first]);
        if inside.is_some() {
            return inside;
        }
        let outside = steps.into_iter().flatten().next()?;
        self.learn(outside, present)
    }

    /// Two codes of different steps that both show the same clock error prove it: nobody guesses two.
    fn learn(&mut self, step: i64, present: i64) -> Option<i64> {
        let drift = if step > present + i64::from(self.drift) {
            self.drift + 1
        } else {
            self.drift - 1
        };
        let before = self.near.replace((step, drift));
        let proven =
            before.is_some_and(|(seen, same)| same == drift && seen < step && step - seen <= NEAR / STEP);
        if !proven || drift.abs() > 1 {
            return None;
        }
        self.drift = drift;
        Some(step)
    }

    fn refuse(&mut self, now: i64) -> Verdict {
        self.wrong.retain(|time| *time > now - LONG);
        if self.wrong.len() >= LONG_MOST {
            self.wrong.remove(0);
        }
        self.wrong.push(now);
        self.streak = self.streak.saturating_add(1);
        if self.wrong.len() >= LONG_MOST || self.streak.unsigned_abs() >= STREAK_MOST {
            self.suspended_at = Some(now);
            return Verdict::Wrong { suspends: true };
        }
        // Those since the last right code are the streak's last.
        let since_right = usize::try_from(self.streak).unwrap_or(usize::MAX);
        let lately = self
            .wrong
            .iter()
            .rev()
            .take(since_right)
            .filter(|time| **time > now - SHORT);
        if lately.count() >= SHORT_MOST {
            self.locked_until = Some(now + LOCK);
        }
        Verdict::Wrong { suspends: false }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;
    use totp_rs::{Algorithm, Builder};
    use types::Secret;

    use super::{Code, LOCK, LONG_MOST, Memory, SECRET_LEN, SHORT_MOST, STEP, TotpSecret, Verdict};

    const KEY: &[u8] = b"12345678901234567890";
    /// A moment in the middle of a step.
    const NOW: i64 = 1_790_000_010 / STEP * STEP + 15;

    fn secret() -> TotpSecret {
        TotpSecret::new(Secret::new(KEY.to_vec()))
    }

    fn code(step: i64) -> Code {
        let totp = secret().builder().build_noncompliant();
        Code::parse(&totp.generate((step * STEP).unsigned_abs()).to_string()).unwrap()
    }

    fn wrong() -> Code {
        let near: Vec<String> = (-3..=3)
            .map(|offset| code(NOW / STEP + offset).0.expose().clone())
            .collect();
        let text = (0..)
            .map(|n| format!("{n:06}"))
            .find(|text| !near.contains(text))
            .unwrap();
        Code::parse(&text).unwrap()
    }

    #[derive(Deserialize)]
    struct Vectors {
        rfc6238: Vec<Timed>,
        rfc4226: Vec<Counted>,
    }

    #[derive(Deserialize)]
    struct Timed {
        time: u64,
        algorithm: String,
        totp: String,
    }

    #[derive(Deserialize)]
    struct Counted {
        count: u64,
        hotp: String,
    }

    #[test]
    fn the_vectors_of_rfc_6238_and_rfc_4226_hold() {
        let vectors: Vectors = serde_json::from_str(include_str!("../../tests/data/rfc6238.json")).unwrap();
        assert_eq!((vectors.rfc6238.len(), vectors.rfc4226.len()), (18, 10));
        for vector in vectors.rfc6238 {
            let (algorithm, length) = match vector.algorithm.as_str() {
                "SHA1" => (Algorithm::SHA1, 20),
                "SHA256" => (Algorithm::SHA256, 32),
                _ => (Algorithm::SHA512, 64),
            };
            let key: Vec<u8> = KEY.iter().copied().cycle().take(length).collect();
            let totp = Builder::new()
                .with_algorithm(algorithm)
                .with_digits(8)
                .with_step_duration(30)
                .with_secret(key);
            assert_eq!(
                totp.build_noncompliant().generate(vector.time).to_string(),
                vector.totp
            );
            if vector.algorithm == "SHA1" {
                let six = Code::parse(&vector.totp[2..]).unwrap();
                let time = i64::try_from(vector.time).unwrap();
                assert_eq!(
                    Memory::default().judge(&secret(), Some(&six), time),
                    Verdict::Right { step: time / STEP }
                );
            }
        }
        for vector in vectors.rfc4226 {
            let totp = secret().builder().build_noncompliant();
            assert_eq!(totp.generate(vector.count * 30).to_string(), vector.hotp);
        }
    }

    #[test]
    fn the_present_and_the_previous_step_are_accepted_and_no_other() {
        for (offset, accepted) in [
            (-3, false),
            (-2, false),
            (-1, true),
            (0, true),
            (1, false),
            (2, false),
        ] {
            let step = NOW / STEP + offset;
            let verdict = Memory::default().judge(&secret(), Some(&code(step)), NOW);
            let expected = if accepted {
                Verdict::Right { step }
            } else {
                Verdict::Wrong { suspends: false }
            };
            assert_eq!(verdict, expected, "{offset}");
        }
    }

    #[test]
    fn a_code_is_good_once_and_makes_earlier_ones_void() {
        let mut memory = Memory::default();
        let step = NOW / STEP;
        assert_eq!(
            memory.judge(&secret(), Some(&code(step)), NOW),
            Verdict::Right { step }
        );
        for _ in 0..100 {
            assert_eq!(memory.judge(&secret(), Some(&code(step)), NOW), Verdict::Used);
            assert_eq!(memory.judge(&secret(), Some(&code(step - 1)), NOW), Verdict::Used);
        }
        assert_eq!(
            memory.judge(&secret(), Some(&code(step + 1)), NOW + STEP),
            Verdict::Right { step: step + 1 }
        );
    }

    #[test]
    fn only_six_ascii_digits_are_a_code() {
        for bad in [
            "",
            "12345",
            "1234567",
            "+12345",
            " 12345",
            "12345 ",
            "１２３４５６",
            "١٢٣٤٥٦",
            "12 456",
            "abcdef",
            "0x1234",
            "-12345",
        ] {
            assert!(Code::parse(bad).is_none(), "{bad}");
        }
        assert!(Code::parse("000000").is_some());
    }

    #[test]
    fn five_wrong_codes_lock_even_against_the_right_one() {
        let mut memory = Memory::default();
        for _ in 0..SHORT_MOST {
            assert_eq!(
                memory.judge(&secret(), Some(&wrong()), NOW),
                Verdict::Wrong { suspends: false }
            );
        }
        let until = NOW + LOCK;
        assert_eq!(
            memory.judge(&secret(), Some(&code(NOW / STEP)), NOW),
            Verdict::Locked { until }
        );
        assert_eq!(
            memory.judge(&secret(), Some(&code(until / STEP)), until - 1),
            Verdict::Locked { until }
        );
        assert_eq!(
            memory.judge(&secret(), Some(&code(until / STEP)), until),
            Verdict::Right { step: until / STEP }
        );
        assert_eq!(memory.streak, 0);
    }

    #[test]
    fn wrong_codes_far_apart_do_not_lock_but_add_up_over_a_day() {
        let mut memory = Memory::default();
        for count in 1..=LONG_MOST {
            let now = NOW + i64::try_from(count).unwrap() * 1_000;
            let verdict = memory.judge(&secret(), None, now);
            assert_eq!(
                verdict,
                Verdict::Wrong {
                    suspends: count == LONG_MOST
                }
            );
        }
        assert_eq!(
            memory.judge(&secret(), Some(&code(NOW / STEP)), NOW),
            Verdict::Suspended
        );
    }

    #[test]
    fn who_lifts_a_suspension_by_hand_gives_one_more_guess_and_the_list_stays_bounded() {
        let mut memory = Memory::default();
        for count in 0..50 {
            memory.suspended_at = None;
            memory.locked_until = None;
            memory.judge(&secret(), None, NOW + count);
            assert_eq!(memory.suspended_at.is_some(), memory.wrong.len() == LONG_MOST);
            assert!(memory.wrong.len() <= LONG_MOST);
        }
    }

    #[test]
    fn a_hundred_in_a_row_suspend_however_slowly_they_come() {
        let mut memory = Memory::default();
        let mut tries = 0;
        let mut now = NOW;
        while memory.suspended_at.is_none() {
            assert!(matches!(
                memory.judge(&secret(), None, now),
                Verdict::Wrong { .. }
            ));
            tries += 1;
            now += 2 * 60 * 60;
        }
        assert_eq!(tries, 100);
    }

    #[test]
    fn a_right_code_clears_the_short_count_and_the_streak_but_not_the_day() {
        let mut memory = Memory::default();
        for _ in 0..4 {
            memory.judge(&secret(), Some(&wrong()), NOW);
        }
        let step = NOW / STEP;
        assert_eq!(
            memory.judge(&secret(), Some(&code(step)), NOW),
            Verdict::Right { step }
        );
        assert_eq!((memory.streak, memory.wrong.len()), (0, 4));
        for _ in 0..4 {
            assert_eq!(
                memory.judge(&secret(), Some(&wrong()), NOW),
                Verdict::Wrong { suspends: false }
            );
        }
        assert_eq!(memory.locked_until, None);
    }

    #[test]
    fn a_clock_error_is_learnt_from_two_codes_and_forgotten_the_same_way() {
        let mut memory = Memory::default();
        let step = NOW / STEP;
        // The phone is a step ahead.
        assert_eq!(
            memory.judge(&secret(), Some(&code(step + 1)), NOW),
            Verdict::Wrong { suspends: false }
        );
        assert_eq!(
            memory.judge(&secret(), Some(&code(step + 1)), NOW),
            Verdict::Wrong { suspends: false }
        );
        assert_eq!(
            memory.judge(&secret(), Some(&code(step + 2)), NOW + STEP),
            Verdict::Right { step: step + 2 }
        );
        assert_eq!(memory.drift, 1);
        assert_eq!(
            memory.judge(&secret(), Some(&code(step + 3)), NOW + 2 * STEP),
            Verdict::Right { step: step + 3 }
        );
        // Its clock is set right.
        assert_eq!(
            memory.judge(&secret(), Some(&code(step + 9)), NOW + 10 * STEP),
            Verdict::Wrong { suspends: false }
        );
        assert_eq!(
            memory.judge(&secret(), Some(&code(step + 10)), NOW + 11 * STEP),
            Verdict::Right { step: step + 10 }
        );
        assert_eq!(memory.drift, 0);
    }

    #[test]
    fn a_clock_error_of_two_steps_is_never_learnt() {
        let mut memory = Memory {
            drift: 1,
            ..Memory::default()
        };
        let step = NOW / STEP;
        for offset in 0..3 {
            let verdict = memory.judge(&secret(), Some(&code(step + 2 + offset)), NOW + offset * STEP);
            assert_eq!(verdict, Verdict::Wrong { suspends: false });
        }
    }

    #[test]
    fn ten_days_of_guessing_beside_a_busy_owner_succeed_with_less_than_one_in_a_thousand() {
        let mut memory = Memory::default();
        let mut looked_at = 0_u32;
        for second in 0..10 * 86_400 {
            let now = NOW + second;
            // The owner uses a code every ten minutes; suspension is lifted by replacing the factor, for the attacker's sake at once.
            if memory.suspended_at.is_some() {
                memory.suspended_at = None;
                memory.streak = 0;
            }
            if second % 600 == 0 {
                memory.judge(&secret(), Some(&code(now / STEP)), now);
            }
            if memory.locked_until.is_none_or(|until| until <= now)
                && memory.wrong.iter().filter(|at| **at > now - 86_400).count() < LONG_MOST
            {
                memory.judge(&secret(), None, now);
                looked_at += 1;
            }
        }
        // Two codes of a million are right at any time.
        let expected = f64::from(looked_at) * 2.0 / 1e6;
        assert!(expected < 1e-3, "{looked_at} guesses");
        assert!(looked_at >= 100, "the simulation guesses at all");
    }

    #[test]
    fn the_secret_is_shown_in_base32_and_as_a_uri() {
        assert_eq!(secret().base32(), "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
        assert_eq!(KEY.len(), SECRET_LEN);
        let uri = secret().uri("Trailmesh", "ada:1@example.org").unwrap();
        assert!(
            uri.starts_with("otpauth://totp/Trailmesh:ada_1%40example.org?"),
            "{uri}"
        );
        assert!(uri.contains("secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"), "{uri}");
    }

    proptest! {
        #[test]
        fn no_code_is_ever_right_twice(moves in proptest::collection::vec((0_i64..90, -3_i64..=3), 1..60)) {
            let mut memory = Memory::default();
            let mut now = NOW;
            let mut used = std::collections::BTreeSet::new();
            for (wait, offset) in moves {
                now += wait;
                if let Verdict::Right { step } = memory.judge(&secret(), Some(&code(now / STEP + offset)), now) {
                    prop_assert!(used.insert(step));
                    prop_assert!(used.last() == Some(&step));
                }
            }
        }
    }
}
