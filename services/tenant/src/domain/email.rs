//! Addresses of mail, read and compared as service auth does: otherwise an invitation could be for an address that no account can have.

use super::Problem;

/// RFC 5321, 4.5.3.1: a path has at most 256 bytes with its angle brackets.
const LONGEST: usize = 254;

/// RFC 5321, 4.5.3.1.1.
const LONGEST_LOCAL_PART: usize = 64;

/// An address. Two are the same when their keys are: case makes no difference. RFC 5321 would let it make one before the `@`; but auth
/// keeps one account per address without case, and whoever accepts an invitation also has the token that went to the address as it was
/// written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// As it was written.
    pub(crate) text: String,
    /// What is compared.
    pub(crate) key: String,
}

impl Address {
    /// Reads an address of the plain form `local@domain` in ASCII; quoted local parts and address literals are refused.
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        let Some((local, domain)) = text.split_once('@') else {
            return Err("not an address: there is no @".into());
        };
        if text.len() > LONGEST || local.len() > LONGEST_LOCAL_PART {
            return Err("longer than an address can be: 64 characters before the @, 254 in all".into());
        }
        if !is_local_part(local) {
            return Err(
                "not an address: what stands before the @ is not of plain ASCII letters, digits and marks"
                    .into(),
            );
        }
        if !is_domain(domain) {
            return Err("not an address: what stands after the @ is no domain in ASCII (xn-- form)".into());
        }
        Ok(Self {
            text: text.to_owned(),
            key: text.to_ascii_lowercase(),
        })
    }

    /// Whether `text` is this address.
    pub(crate) fn is(&self, text: &str) -> bool {
        text.to_ascii_lowercase() == self.key
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
    text.split('.').all(atom)
}

/// RFC 1123, 2.1: labels of letters, digits and inner hyphens.
fn is_domain(text: &str) -> bool {
    let label = |part: &str| {
        (1..=63).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    text.contains('.') && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::Address;

    fn key(text: &str) -> Option<String> {
        Address::parse(text).ok().map(|address| address.key)
    }

    #[test]
    fn case_makes_no_difference() {
        let address = Address::parse("Anna@Example.COM").unwrap();
        assert_eq!(
            (address.text.as_str(), address.key.as_str()),
            ("Anna@Example.COM", "anna@example.com")
        );
        assert!(address.is("aNNa@example.com"));
        assert!(!address.is("anna@example.org") && !address.is("anna+x@example.com") && !address.is(""));
    }

    #[test]
    fn addresses_of_everyday_use_are_read() {
        for good in [
            "a@b.co",
            "first.last+tag@sub.example.org",
            "o'neil@example.ie",
            "x_1@1.example",
            "a@xn--bcher-kva.example",
        ] {
            assert!(key(good).is_some(), "{good}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("{}@example.com", "a".repeat(65));
        for bad in [
            "",
            "@",
            "a@",
            "@b.c",
            "a",
            "a@localhost",
            "a b@c.d",
            "a@b c.d",
            "a@b.",
            "a@.b",
            "a..b@c.d",
            ".a@c.d",
            "a@-b.c",
            "a@[127.0.0.1]",
            "\"a b\"@c.d",
            "a\n@b.c",
            "a@b.c\r\nBcc: x@y.z",
            "a\0@b.c",
            "ä@b.c",
            "a@bücher.example",
            "a@b\u{202e}.c",
            "a@b%41.c",
            "<a@b.c>",
            "a@b@c.d",
            "a@b.c;--",
            " a@b.c",
            "a@b.c ",
            &long,
        ] {
            assert!(key(bad).is_none(), "{bad:?}");
        }
    }
}
