//! E-mail addresses as this service takes them.

use std::{fmt, str::FromStr};

/// RFC 5321, 4.5.3.1: a path has at most 256 bytes with its angle brackets.
const LONGEST: usize = 254;

/// RFC 5321, 4.5.3.1.1.
const LONGEST_LOCAL_PART: usize = 64;

/// An address that a mail can go to: an unquoted local part in ASCII and a host name with a dot. Internationalised domains come as their
/// ASCII form (`xn--…`).
///
/// Two addresses are one when their keys are: case makes no difference, also in the local part, where RFC 5321 would let it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Email {
    written: String,
    key: String,
}

/// The text is no address that mail can go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAnEmail;

impl Email {
    /// What tells addresses apart.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// As it was written.
    pub(crate) fn as_str(&self) -> &str {
        &self.written
    }

    /// What stands before the `@`, in lower case.
    pub(crate) fn local_part(&self) -> &str {
        self.key.split_once('@').map_or("", |(local, _)| local)
    }

    /// What stands behind the `@`, in lower case.
    pub(crate) fn domain(&self) -> &str {
        self.key.split_once('@').map_or("", |(_, domain)| domain)
    }
}

impl FromStr for Email {
    type Err = NotAnEmail;

    fn from_str(text: &str) -> Result<Self, NotAnEmail> {
        let (local, domain) = text.split_once('@').ok_or(NotAnEmail)?;
        if text.len() > LONGEST || !is_local_part(local) || !is_domain(domain) {
            return Err(NotAnEmail);
        }
        Ok(Self {
            written: text.to_owned(),
            key: text.to_ascii_lowercase(),
        })
    }
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

/// RFC 5322, 3.2.3: a dot-atom.
fn is_local_part(text: &str) -> bool {
    let atom = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b))
    };
    text.len() <= LONGEST_LOCAL_PART && text.split('.').all(atom)
}

/// RFC 1123, 2.1: labels of letters, digits and inner hyphens.
fn is_domain(text: &str) -> bool {
    let label = |part: &str| {
        (1..=63).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    text.len() <= 253 && text.contains('.') && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::{Email, NotAnEmail};

    #[test]
    fn addresses_differ_by_more_than_case() {
        let email: Email = "Ada.Lovelace+trail@Example.COM".parse().unwrap();
        assert_eq!(email.as_str(), "Ada.Lovelace+trail@Example.COM");
        assert_eq!(email.key(), "ada.lovelace+trail@example.com");
        assert_eq!(
            (email.local_part(), email.domain()),
            ("ada.lovelace+trail", "example.com")
        );
    }

    #[test]
    fn what_could_break_a_mail_header_is_no_address() {
        for text in [
            "",
            "@",
            "ada",
            "ada@localhost",
            "ada@example.com\r\nBcc: eve@example.com",
            "ada@example.com\n",
            " ada@example.com",
            "ada@example.com ",
            "ada@ex ample.com",
            "ada@@example.com",
            "ada@example.com,eve@example.com",
            "\"ada lovelace\"@example.com",
            "<ada@example.com>",
            "Ada <ada@example.com>",
            "ada@[127.0.0.1]",
            "ada@-example.com",
            "ada@example..com",
            ".ada@example.com",
            "ada\0@example.com",
            "ädä@example.com",
            "ada@exämple.com",
            "ada@example.com;--",
        ] {
            assert_eq!(text.parse::<Email>(), Err(NotAnEmail), "{text:?}");
        }
        let long = format!("{}@example.com", "a".repeat(65));
        assert_eq!(long.parse::<Email>(), Err(NotAnEmail));
    }

    #[test]
    fn every_address_taken_is_one_that_can_be_mailed_to() {
        for text in [
            "a@b.co",
            "o'neill@example.com",
            "x{y}|z@sub.example.org",
            "a@xn--bcher-kva.example",
        ] {
            let email: Email = text.parse().unwrap();
            assert_eq!(
                email.as_str().parse::<lettre::Address>().unwrap().to_string(),
                text
            );
        }
    }
}
