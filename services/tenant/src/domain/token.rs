//! Secrets that are shown once: a word that says what it is for, 32 random characters, and six that prove it was not mistyped.

use rand::{Rng as _, distr::Alphanumeric};
use types::Secret;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// 32 of 62 characters are 190 bits.
const RANDOM: usize = 32;

/// 62⁶ is more than 2³², so six digits hold a CRC-32.
const CHECK: usize = 6;

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An agent enrols with it.
    Enrolment,
    /// A person accepts an invitation with it.
    Invitation,
    /// A sink of the audit log is signed with it; kept sealed by the vault.
    Sink,
}

impl Kind {
    fn prefix(self) -> &'static str {
        match self {
            Self::Enrolment => "bt_enrol_",
            Self::Invitation => "bt_invite_",
            Self::Sink => "bt_whsec_",
        }
    }
}

/// A token. Only its SHA-256 is stored.
#[derive(Debug)]
pub(crate) struct Token(Secret<String>);

impl Token {
    /// A new one, from the operating system's seed.
    pub(crate) fn fresh(kind: Kind) -> Self {
        let mut text = String::with_capacity(kind.prefix().len() + RANDOM + CHECK);
        text.push_str(kind.prefix());
        text.extend(rand::rng().sample_iter(Alphanumeric).take(RANDOM).map(char::from));
        let check = check(&text);
        text.push_str(&check);
        Self(Secret::new(text))
    }

    /// Reads one; none is for what cannot be a token of this kind, which needs no look into a table.
    pub(crate) fn read(kind: Kind, text: &str) -> Option<Self> {
        let rest = text.strip_prefix(kind.prefix())?;
        let whole = rest.len() == RANDOM + CHECK && rest.bytes().all(|b| b.is_ascii_alphanumeric());
        let (body, proof) = whole.then(|| text.split_at(text.len() - CHECK))?;
        (check(body) == proof).then(|| Self(Secret::new(text.to_owned())))
    }

    /// What is stored of it.
    pub(crate) fn sha256(&self) -> Vec<u8> {
        ring::digest::digest(&ring::digest::SHA256, self.0.expose().as_bytes())
            .as_ref()
            .to_vec()
    }

    /// Lends the text to the one answer or mail that carries it.
    pub(crate) fn expose(&self) -> &str {
        self.0.expose()
    }
}

/// The CRC-32 of `body` in six digits of base 62.
fn check(body: &str) -> String {
    let mut rest = crc32fast::hash(body.as_bytes());
    let mut digits = [b'0'; CHECK];
    for place in digits.iter_mut().rev() {
        *place = DIGITS[(rest % 62) as usize];
        rest /= 62;
    }
    digits.iter().copied().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{Kind, Token, check};

    #[test]
    fn a_token_has_its_form_and_is_read_back() {
        let token = Token::fresh(Kind::Enrolment);
        let text = token.expose();
        assert!(text.starts_with("bt_enrol_") && text.len() == 9 + 38);
        assert!(text[9..].bytes().all(|b| b.is_ascii_alphanumeric()));
        assert_eq!(
            Token::read(Kind::Enrolment, text).map(|t| t.sha256()),
            Some(token.sha256())
        );
        assert_eq!(token.sha256().len(), 32);
        assert!(!format!("{token:?}").contains(&text[9..]));
    }

    #[test]
    fn tokens_differ() {
        let all: HashSet<String> = (0..1_000)
            .map(|_| Token::fresh(Kind::Invitation).expose().to_owned())
            .collect();
        assert_eq!(all.len(), 1_000);
    }

    #[test]
    fn every_single_mistyped_character_is_seen() {
        let good = Token::fresh(Kind::Invitation).expose().to_owned();
        for at in 0..good.len() {
            let mut bad = good.clone().into_bytes();
            bad[at] = if bad[at] == b'a' { b'b' } else { b'a' };
            assert!(
                Token::read(Kind::Invitation, &String::from_utf8(bad).unwrap()).is_none(),
                "{at}"
            );
        }
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let good = Token::fresh(Kind::Invitation).expose().to_owned();
        for bad in [
            "",
            "bt_invite_",
            &good[..good.len() - 1],
            &format!("{good}0"),
            &format!(" {good}"),
            "bt_invite_ääääääääääääääääääääää",
        ] {
            assert!(Token::read(Kind::Invitation, bad).is_none(), "{bad}");
        }
        assert!(Token::read(Kind::Enrolment, &good).is_none());
    }

    #[test]
    fn the_check_is_a_crc_in_base_62() {
        // CRC-32 of "123456789" is cbf43926 (its published check value) = 3421780262.
        assert_eq!(check("123456789"), "3jZRME");
    }
}
