//! The words of every mail. Plain text: nothing in it can be anything but text.

use lettre::{
    Message,
    message::{Mailbox, header::ContentType},
};
use serde::{Deserialize, Serialize};
use types::{Micros, Secret};
use url::Url;

use crate::{Error, domain::email::Email, store::token::Pending};

/// How many characters of a name are quoted in a mail.
const LONGEST_NAME: usize = 50;

/// A mail before it is addressed to anybody's server.
#[derive(Serialize, Deserialize)]
pub(crate) struct Letter {
    to: String,
    subject: String,
    text: String,
}

/// Something that happened to an account, of which its owner must hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// A second factor was activated.
    FactorAdded,
    /// The second factor was taken away.
    FactorRemoved,
    /// A recovery code was used.
    RecoveryCodeUsed,
    /// All recovery codes were replaced.
    RecoveryCodesReplaced,
    /// The second factor was suspended after too many wrong codes.
    FactorSuspended,
    /// The password was changed or reset.
    PasswordChanged,
    /// A refresh token was used again, and its session ended.
    RefreshReused {
        /// Where that came from.
        client_address: String,
    },
    /// An API key was made.
    ApiKeyCreated {
        /// What it is called.
        name: String,
    },
    /// So many wrong codes came with an API key that no more are taken with it for now, or at all.
    KeyGuesses {
        /// What it is called.
        name: String,
    },
    /// An operator took the second factor away.
    FactorRemovedByOperator,
}

/// An invitation to a tenant.
#[derive(Debug)]
pub(crate) struct Invitation {
    pub(crate) to: Email,
    pub(crate) invited_by: String,
    pub(crate) tenant_name: String,
    pub(crate) token: Secret<String>,
    pub(crate) expires_at: Micros,
}

impl Letter {
    /// As it goes to the server. Addresses and the subject are encoded by type, so that no line of theirs becomes a header.
    pub(crate) fn message(&self, from: &Mailbox) -> Result<Message, Error> {
        let bad = |what: &str| Error::Internal(format!("a mail has no {what}"));
        let to: lettre::Address = self.to.parse().map_err(|_| bad("address"))?;
        Message::builder()
            .from(from.clone())
            .to(Mailbox::new(None, to))
            .subject(self.subject.clone())
            .header(ContentType::TEXT_PLAIN)
            .body(self.text.clone())
            .map_err(|_| bad("body"))
    }
}

/// Without control and direction characters, and others that are not seen.
fn harmless(text: &str) -> String {
    let seen = |c: &char| {
        !c.is_control()
            && !matches!(*c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    text.chars().filter(seen).collect()
}

/// A stranger's words inside a sentence of ours: one line, no control or direction characters, not long, and nothing that a mail program would
/// make a link of: addresses of pages are left out, and no dot stands inside a word.
fn quoted(text: &str) -> String {
    let clean = harmless(text);
    let words = clean.split_whitespace().map(|word| {
        if word.contains("://") {
            return "[link]".to_owned();
        }
        // Host names take the full stops of Chinese and Japanese for dots, too.
        let dotted = word.replace(['\u{3002}', '\u{ff0e}', '\u{ff61}'], ".");
        dotted.replace('.', ". ").trim_end().to_owned()
    });
    let words: Vec<String> = words.collect();
    words.join(" ").chars().take(LONGEST_NAME).collect()
}

/// The token goes behind the `#`, so that it reaches neither a server's log nor a `Referer`.
fn link(public_url: &Url, path: &str, token: &str) -> Url {
    let mut url = public_url.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().push(path);
    }
    url.set_fragment(Some(&format!("token={token}")));
    url
}

/// To an address that asked for an account. It says whose sign-up it is about, because the link brings *that* password into force.
pub(crate) fn verification(public_url: &Url, to: &Email, token: &str, pending: &Pending) -> Letter {
    let name = match quoted(&pending.display_name) {
        name if name.is_empty() => "without a name".to_owned(),
        name => format!("as \"{name}\""),
    };
    Letter {
        to: to.as_str().to_owned(),
        subject: "Verify your address".to_owned(),
        text: format!(
            "Somebody asked for a Trailmesh account with this address, {name} at {}. If that was you, open this link within 24 hours to verify \
             it:\n\n{}\n\nOr enter this token:\n\n{token}\n\nIf this was not you, ignore it and sign up yourself: the link would give the account \
             the password of whoever signed up. Without it there is no account.\n",
            pending.signed_up_at,
            link(public_url, "verify-email", token)
        ),
    }
}

/// To an address that asked for the mail of its sign-up again, and has several.
pub(crate) fn several_sign_ups(public_url: &Url, to: &Email) -> Letter {
    Letter {
        to: to.as_str().to_owned(),
        subject: "Sign up again".to_owned(),
        text: format!(
            "You asked for the mail of your sign-up once more. There was more than one sign-up with this address lately, and nothing tells which \
             one is yours, so none is repeated. Sign up again at {public_url}, and open the link of the mail that carries your name and that \
             time.\n\nIf you did not ask, there is nothing to do.\n"
        ),
    }
}

/// To an address that asked for an account and has one.
pub(crate) fn account_exists(public_url: &Url, to: &Email) -> Letter {
    Letter {
        to: to.as_str().to_owned(),
        subject: "You already have an account".to_owned(),
        text: format!(
            "Somebody, hopefully you, asked for a Trailmesh account with this address, which has one already. Sign in at {public_url}; if you \
             do not remember the password, ask there to reset it.\n\nIf it was not you, there is nothing to do.\n"
        ),
    }
}

/// To an account whose password is to be set anew.
pub(crate) fn reset(public_url: &Url, to: &Email, token: &str) -> Letter {
    Letter {
        to: to.as_str().to_owned(),
        subject: "Set a new password".to_owned(),
        text: format!(
            "Somebody, hopefully you, asked to set a new password for your Trailmesh account. Open this link within one hour to do so:\n\n\
             {}\n\nOr enter this token:\n\n{token}\n\nIf it was not you, do nothing: the password stays as it is.\n",
            link(public_url, "reset-password", token)
        ),
    }
}

/// To whom a member invited.
pub(crate) fn invitation(public_url: &Url, invitation: &Invitation) -> Letter {
    let token = invitation.token.expose();
    Letter {
        to: invitation.to.as_str().to_owned(),
        subject: "You are invited to Trailmesh".to_owned(),
        text: format!(
            "\"{}\" invites you to join \"{}\" on Trailmesh. Open this link by {} to accept, with an account of this address:\n\n{}\n\n\
             Or enter this token:\n\n{token}\n\nIf you do not know who this is, do nothing.\n",
            quoted(&invitation.invited_by),
            quoted(&invitation.tenant_name),
            invitation.expires_at,
            link(public_url, "accept-invitation", token)
        ),
    }
}

/// To an account that something happened to.
pub(crate) fn notice(to: &Email, notice: &Notice, when: Micros) -> Letter {
    let (subject, what) = match notice {
        Notice::FactorAdded => (
            "A second factor was added",
            "A second factor (TOTP) was activated for".to_owned(),
        ),
        Notice::FactorRemoved => (
            "The second factor was removed",
            "The second factor (TOTP) was taken away from".to_owned(),
        ),
        Notice::RecoveryCodeUsed => (
            "A recovery code was used",
            "A recovery code was used for".to_owned(),
        ),
        Notice::RecoveryCodesReplaced => (
            "Your recovery codes were replaced",
            "All recovery codes were replaced for".to_owned(),
        ),
        Notice::FactorSuspended => (
            "Your second factor is suspended",
            "After too many wrong codes the second factor is suspended for".to_owned(),
        ),
        Notice::PasswordChanged => (
            "Your password was changed",
            "A new password was set, and other sessions were ended, for".to_owned(),
        ),
        Notice::RefreshReused { client_address } => (
            "A session was ended for safety",
            format!(
                "An old refresh token was used again from {}. A copy of it may be in other hands, so its session was ended, for",
                harmless(client_address)
            ),
        ),
        Notice::ApiKeyCreated { name } => (
            "An API key was made",
            format!("The API key \"{}\" was made for", quoted(name)),
        ),
        Notice::KeyGuesses { name } => (
            "Wrong codes came with an API key",
            format!(
                "Wrong codes came with the API key \"{}\", so no more are taken with it for now. Somebody else may have it: then revoke it, which \
                 takes no code. It belongs to",
                quoted(name)
            ),
        ),
        Notice::FactorRemovedByOperator => (
            "An operator removed your second factor",
            "The second factor (TOTP) was taken away, and all sessions were ended, by an operator of this installation for".to_owned(),
        ),
    };
    Letter {
        to: to.as_str().to_owned(),
        subject: subject.to_owned(),
        text: format!(
            "{what} your Trailmesh account {to} at {when}.\n\nIf it was not you, reset your password and look through your sessions.\n"
        ),
    }
}

#[cfg(test)]
mod tests {
    use types::{Micros, Secret};

    use super::{Invitation, Letter, Notice, invitation, link, notice, quoted};

    fn sent(letter: &Letter) -> String {
        let from = "Trailmesh <no-reply@trailmesh.example>".parse().unwrap();
        String::from_utf8(letter.message(&from).unwrap().formatted()).unwrap()
    }

    #[test]
    fn names_make_neither_headers_nor_lines() {
        let attack = "Eve\r\nBcc: victim@example.com\r\n\r\nClick here:\u{2028}\u{202e}http://evil.example";
        let letter = invitation(
            &"https://trail.example/".parse().unwrap(),
            &Invitation {
                to: "ada@example.com".parse().unwrap(),
                invited_by: attack.to_owned(),
                tenant_name: attack.to_owned(),
                token: Secret::new("token".to_owned()),
                expires_at: Micros(0),
            },
        );
        assert!(
            letter
                .text
                .lines()
                .next()
                .unwrap()
                .contains("EveBcc: victim@example. com")
        );
        let mail = sent(&letter);
        let (headers, _) = mail.split_once("\r\n\r\n").unwrap();
        assert!(!headers.to_lowercase().contains("bcc"), "{headers}");
        assert_eq!(headers.lines().filter(|line| line.starts_with("To:")).count(), 1);
        assert_eq!(quoted(&"x".repeat(1_000)).len(), 50);
    }

    #[test]
    fn nothing_in_a_name_is_a_link() {
        for (name, shown) in [
            ("Ada Lovelace", "Ada Lovelace"),
            ("J.R.R. Tolkien", "J. R. R. Tolkien"),
            ("Acme.io", "Acme. io"),
            ("Acme Inc.", "Acme Inc."),
            ("Your invoice: https://evil.example/a?b", "Your invoice: [link]"),
            ("HTTP://evil.example", "[link]"),
            ("see www.evil.example now", "see www. evil. example now"),
            (
                "evil\u{3002}example evil\u{ff0e}example",
                "evil. example evil. example",
            ),
            ("evil\u{200b}.example", "evil. example"),
            ("http:\u{200b}//localhost", "[link]"),
            ("x 192.0.2.7", "x 192. 0. 2. 7"),
        ] {
            assert_eq!(quoted(name), shown);
        }
    }

    #[test]
    fn even_a_letter_with_lines_in_its_headers_adds_none() {
        let letter = Letter {
            to: "ada@example.com".to_owned(),
            subject: "Hello\r\nBcc: victim@example.com".to_owned(),
            text: String::new(),
        };
        let mail = sent(&letter);
        assert!(!mail.lines().any(|line| line.starts_with("Bcc")), "{mail}");
        let letter = Letter {
            to: "ada@example.com\r\nBcc: victim@example.com".to_owned(),
            ..letter
        };
        assert!(letter.message(&"a@b.example".parse().unwrap()).is_err());
    }

    #[test]
    fn a_link_keeps_the_path_and_hides_the_token_behind_the_fragment() {
        let url = |text: &str| link(&text.parse().unwrap(), "verify-email", "bt_ev_x").to_string();
        assert_eq!(
            url("https://trail.example"),
            "https://trail.example/verify-email#token=bt_ev_x"
        );
        assert_eq!(
            url("https://trail.example/app/"),
            "https://trail.example/app/verify-email#token=bt_ev_x"
        );
    }

    #[test]
    fn a_notice_says_what_when_and_to_whom() {
        let to = "ada@example.com".parse().unwrap();
        let letter = notice(
            &to,
            &Notice::ApiKeyCreated {
                name: "ci".to_owned(),
            },
            Micros(0),
        );
        assert!(letter.text.contains(
            "The API key \"ci\" was made for your Trailmesh account ada@example.com at 1970-01-01T00:00:00Z."
        ));
    }
}
