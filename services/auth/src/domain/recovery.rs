//! Recovery codes: each stands in for a lost second factor once.

use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use types::{Secret, UserId};
use zeroize::Zeroize as _;

/// How many a person has after activating a factor.
pub(crate) const COUNT: usize = 10;
/// 24 characters of five bits are 120: too many to guess, so that a fast hash keeps them.
const LENGTH: usize = 24;
/// Crockford's base32.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// As shown, in groups.
const GROUP: usize = 6;

/// A recovery code, without its dashes.
#[derive(Debug)]
pub(crate) struct RecoveryCode(Secret<String>);

impl RecoveryCode {
    /// A new one, unless the system has no randomness.
    pub(crate) fn fresh() -> Option<Self> {
        let mut bytes = [0_u8; LENGTH];
        SystemRandom::new().fill(&mut bytes).ok()?;
        let text = bytes
            .iter()
            .map(|byte| char::from(DIGITS[usize::from(byte & 31)]))
            .collect();
        bytes.zeroize();
        Some(Self(Secret::new(text)))
    }

    /// As a person types it: any case, with or without dashes and spaces, O for 0, I and L for 1.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut code = String::with_capacity(LENGTH);
        for typed in text.chars().filter(|typed| !matches!(typed, '-' | ' ')) {
            let meant = match typed.to_ascii_uppercase() {
                'O' => '0',
                'I' | 'L' => '1',
                other => other,
            };
            if code.len() == LENGTH || !meant.is_ascii() || !DIGITS.contains(&(meant as u8)) {
                code.zeroize();
                return None;
            }
            code.push(meant);
        }
        (code.len() == LENGTH).then(|| Self(Secret::new(code)))
    }

    /// As it is shown, once.
    pub(crate) fn shown(&self) -> String {
        let mut text = String::with_capacity(LENGTH + LENGTH / GROUP - 1);
        for (place, digit) in self.0.expose().chars().enumerate() {
            if place > 0 && place % GROUP == 0 {
                text.push('-');
            }
            text.push(digit);
        }
        text
    }

    /// What is kept of `user`'s code.
    pub(crate) fn mac(&self, key: &hmac::Key, user: UserId) -> Vec<u8> {
        let mut context = hmac::Context::with_key(key);
        context.update(user.to_string().as_bytes());
        context.update(self.0.expose().as_bytes());
        context.sign().as_ref().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use ring::hmac;
    use types::UserId;

    use super::{DIGITS, RecoveryCode};

    #[test]
    fn a_code_is_read_as_it_is_shown_and_as_people_type() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"k");
        let user = UserId::fresh();
        let code = RecoveryCode::fresh().unwrap();
        let shown = code.shown();
        assert_eq!(shown.len(), 27);
        assert!(shown.bytes().all(|byte| byte == b'-' || DIGITS.contains(&byte)));
        let typed = shown
            .to_lowercase()
            .replace('-', " ")
            .replace('0', "o")
            .replace('1', "l");
        assert_eq!(
            RecoveryCode::parse(&typed).unwrap().mac(&key, user),
            code.mac(&key, user)
        );
        assert_ne!(code.mac(&key, user), code.mac(&key, UserId::fresh()));
    }

    #[test]
    fn what_is_no_code_is_refused() {
        let shown = RecoveryCode::fresh().unwrap().shown();
        for bad in [
            "",
            "123456",
            &shown[1..],
            &format!("{shown}0"),
            &shown.replace('-', "_"),
            "ÀÀÀÀÀÀÀÀÀÀÀÀÀÀÀÀÀÀÀÀÀÀÀÀ",
        ] {
            assert!(RecoveryCode::parse(bad).is_none(), "{bad}");
        }
    }
}
