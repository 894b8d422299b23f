//! Names that people give: to tenants, and to the things in them.

use types::is_shown;

use super::Problem;

/// A tenant's name: 1 to 100 characters of any script.
pub(crate) fn tenant(text: &str) -> Result<String, Problem> {
    if text.is_empty() {
        return Err("a name is needed: 1 to 100 characters".into());
    }
    if text.chars().count() > 100 {
        return Err("longer than 100 characters".into());
    }
    if text.trim() != text {
        return Err("begins or ends with a space".into());
    }
    if !text.chars().all(is_shown) {
        return Err("has a control character".into());
    }
    Ok(text.to_owned())
}

/// The name of a server, a pool or an agent: 1 to 63 of a-z, 0-9 and -, beginning with a letter.
pub(crate) fn thing(text: &str) -> Result<String, Problem> {
    let fits = (1..=63).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !fits {
        return Err("not 1 to 63 of a-z, 0-9 and -, beginning with a letter".into());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{tenant, thing};

    #[test]
    fn tenants_are_named_in_any_script() {
        for good in [
            "A",
            "Müller & Söhne",
            "株式会社",
            "👩‍🚒 ops",
            "'; DROP TABLE tenant; --",
            &"é".repeat(100),
        ] {
            assert_eq!(tenant(good).as_deref(), Ok(good));
        }
    }

    #[test]
    fn names_that_hide_something_are_refused() {
        for bad in [
            "",
            " a",
            "a ",
            "a\nb",
            "a\0b",
            "a\u{202e}b",
            "\u{feff}a",
            "a\u{2028}b",
            &"é".repeat(101),
        ] {
            assert!(tenant(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn things_are_named_for_machines() {
        for good in ["a", "db-1", "x--", &"a".repeat(63)] {
            assert_eq!(thing(good).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "1a",
            "-a",
            "A",
            "a_b",
            "a b",
            "ä",
            "a\0",
            "a';--",
            &"a".repeat(64),
        ] {
            assert!(thing(bad).is_err(), "{bad:?}");
        }
    }
}
