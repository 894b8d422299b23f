//! Field masks (AIP-134, AIP-161): which fields an update takes.

use std::collections::BTreeSet;

use super::Invalid;
use super::Problem;

/// Which fields to take.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Mask {
    /// No mask was given: those that are not empty.
    Given,
    /// These, empty or not.
    Named(BTreeSet<&'static str>),
}

impl Mask {
    /// Reads the paths of `update_mask`. `mutable` are the fields that may change; `*` is all of them.
    pub(crate) fn parse(paths: &[String], mutable: &[&'static str]) -> Result<Self, Invalid> {
        if paths.is_empty() {
            return Ok(Self::Given);
        }
        let mut named = BTreeSet::new();
        for path in paths {
            if path == "*" {
                named.extend(mutable);
                continue;
            }
            let Some(field) = mutable.iter().find(|field| *field == path) else {
                let problem = format!(
                    "names a field that cannot be changed; these can: {}",
                    mutable.join(", ")
                );
                return Err(Problem::from(problem).at("update_mask"));
            };
            named.insert(*field);
        }
        Ok(Self::Named(named))
    }

    /// Whether to take `field`, of which `given` tells whether the request has a value for it.
    pub(crate) fn takes(&self, field: &str, given: bool) -> bool {
        match self {
            Self::Given => given,
            Self::Named(named) => named.contains(field),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Mask;

    const MUTABLE: &[&str] = &["name", "host"];

    fn parse(paths: &[&str]) -> Option<Mask> {
        Mask::parse(
            &paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>(),
            MUTABLE,
        )
        .ok()
    }

    #[test]
    fn without_a_mask_the_given_fields_count() {
        let mask = parse(&[]);
        assert_eq!(mask, Some(Mask::Given));
        assert!(Mask::Given.takes("name", true) && !Mask::Given.takes("name", false));
    }

    #[test]
    fn named_fields_count_even_when_empty_and_a_star_is_all() {
        let name = parse(&["name", "name"]).unwrap();
        assert!(name.takes("name", false) && !name.takes("host", true));
        let all = parse(&["*"]).unwrap();
        assert!(all.takes("name", false) && all.takes("host", false));
    }

    #[test]
    fn an_unknown_path_is_refused_with_its_field() {
        for bad in ["", "id", "Name", "name.x", "host ", "'; --"] {
            let refused = Mask::parse(&[bad.to_owned()], MUTABLE).unwrap_err();
            assert_eq!(refused.field, "update_mask", "{bad}");
        }
        assert!(parse(&["name", "etag"]).is_none());
    }
}
