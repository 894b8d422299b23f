//! Tables that a tool fills with another table's rows while it changes that one's definition: gh-ost, pt-online-schema-change and their like put
//! them under names made of the other's. No rule can name them beforehand, so what is hidden of a table is hidden of these.

/// What follows the name, after at least one underscore before it: gh-ost's ghost, its log and what it leaves; what pt-online-schema-change and
/// Spirit make and leave.
const SUFFIXES: [&str; 6] = ["_gho", "_ghc", "_del", "_new", "_old", "_chkpnt"];

/// What stands before the name: the Large Hadron Migrator and Facebook's OSC.
const PREFIXES: [&str; 5] = ["lhmn_", "__osc_new_", "__osc_chg_", "__osc_old_", "__osc_tbl_"];

/// The longest name of a table in MySQL. The tools cut what is longer, some by bytes and some by characters.
const LONGEST: usize = 64;

/// Digits of the time that gh-ost puts between the name and `_del`, if it is told to.
const TIME: usize = 14;

/// A table that was made twice in this way, of one that was.
const DEPTH: usize = 3;

/// Whether `name` is one that a tool makes for a table called `original`; both without case.
pub(super) fn is_made_of(name: &str, original: &str) -> bool {
    made_of(name, original, DEPTH)
}

fn made_of(name: &str, original: &str, depth: usize) -> bool {
    if depth == 0 || original.is_empty() {
        return false;
    }
    let cut = name.len() >= LONGEST || name.chars().count() >= LONGEST;
    let is = |stem: &str| {
        !stem.is_empty()
            && (stem == original || cut && original.starts_with(stem) || made_of(stem, original, depth - 1))
    };
    let prefixed = PREFIXES.iter().filter_map(|prefix| name.strip_prefix(prefix));
    if prefixed.into_iter().any(is) {
        return true;
    }
    // As many underscores as it takes for the name to be free.
    let mut rest = name;
    while let Some(shorter) = rest.strip_prefix('_') {
        rest = shorter;
        for suffix in SUFFIXES {
            // The end may be what was cut.
            if cut && !rest.is_empty() && format!("{original}{suffix}").starts_with(rest) {
                return true;
            }
            let Some(stem) = rest.strip_suffix(suffix) else {
                continue;
            };
            if is(stem) || without_time(stem).is_some_and(is) {
                return true;
            }
        }
    }
    false
}

fn without_time(stem: &str) -> Option<&str> {
    let (before, time) = stem.rsplit_once('_')?;
    (time.len() == TIME && time.bytes().all(|digit| digit.is_ascii_digit())).then_some(before)
}

#[cfg(test)]
mod tests {
    use super::is_made_of;

    #[test]
    fn names_that_tools_make_are_known() {
        for name in [
            "_pay_gho",
            "_pay_ghc",
            "_pay_del",
            "_pay_20261122103000_del",
            "_pay_new",
            "_pay_old",
            "__pay_new",
            "__________pay_old",
            "_pay_chkpnt",
            "lhmn_pay",
            "__osc_new_pay",
            "__pay_new_old",
        ] {
            assert!(is_made_of(name, "pay"), "{name}");
        }
        assert!(is_made_of("___pay_gho", "_pay") && is_made_of("__pay_gho", "_pay"));
        for name in [
            "pay",
            "pay_new",
            "_pay",
            "_payment_gho",
            "_repay_gho",
            "_gho",
            "_pay_2026_del",
            "_pay_newer",
        ] {
            assert!(!is_made_of(name, "pay"), "{name}");
        }
        assert!(!is_made_of("_pay_gho", "") && !is_made_of("", "pay"));
    }

    #[test]
    fn names_that_were_cut_are_known_by_what_is_left() {
        let long = "x".repeat(64);
        let gho = format!("_{}_gho", "x".repeat(59));
        let new = format!("_{}_n", "x".repeat(61));
        let none = format!("_{}", "x".repeat(63));
        for name in [&gho, &none] {
            assert_eq!(name.len(), 64);
            assert!(is_made_of(name, &format!("{long}y")[..64]), "{name}");
        }
        assert!(is_made_of(&new, &"x".repeat(61)));
        // By bytes: of characters it has fewer.
        let gho = format!("_a{}_gho", "ä".repeat(29));
        assert_eq!((gho.len(), gho.chars().count()), (64, 35));
        assert!(is_made_of(&gho, &format!("a{}", "ä".repeat(40))));
        // What is short was not cut.
        assert!(!is_made_of("_xxx_gho", &long));
    }
}
