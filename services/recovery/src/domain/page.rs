//! Pages of plans, the newest first. A page token is the last id of the page before with a check over it and the query, so that a token of another
//! tenant or another filter, and one that was cut or changed, is refused. It is no secret: whoever makes one up gains a place in a list that
//! they may read anyway.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::digest::{Context, SHA256};
use types::{PlanId, TenantId};

use crate::error::Error;

/// What `page_size` 0 stands for.
const DEFAULT_SIZE: u32 = 50;

/// The most that one page holds.
const MAX_SIZE: u32 = 200;

/// Bytes of the check.
const CHECK: usize = 12;

/// A token is a check and an id in base64: far below this.
const MAX_TOKEN: usize = 128;

/// Which page to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// How many at most.
    pub(crate) size: u32,
    /// The plan after which it begins; none is the first page.
    pub(crate) after: Option<PlanId>,
}

fn check(tenant: TenantId, server: &str, id: &str) -> Vec<u8> {
    let mut digest = Context::new(&SHA256);
    for part in ["ListPlans", &tenant.to_string(), server, id] {
        digest.update(&(part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    }
    digest.finish().as_ref()[..CHECK].to_vec()
}

/// The token of the page after `last`, in the list of `tenant`'s plans of `server`; an empty one is of all servers.
pub(crate) fn token(tenant: TenantId, server: &str, last: PlanId) -> String {
    let id = last.to_string();
    let mut token = check(tenant, server, &id);
    token.extend(id.into_bytes());
    URL_SAFE_NO_PAD.encode(token)
}

/// Reads `page_size` and `page_token`.
pub(crate) fn parse(tenant: TenantId, server: &str, size: i32, token: &str) -> Result<Page, Error> {
    let size = match u32::try_from(size) {
        Ok(0) => DEFAULT_SIZE,
        Ok(size) => size.min(MAX_SIZE),
        Err(_) => {
            return Err(Error::Field {
                field: "page_size",
                problem: "less than 0",
            });
        }
    };
    if token.is_empty() {
        return Ok(Page { size, after: None });
    }
    let after = read(tenant, server, token).ok_or(Error::Field {
        field: "page_token",
        problem: "not a next_page_token of this list",
    })?;
    Ok(Page {
        size,
        after: Some(after),
    })
}

fn read(tenant: TenantId, server: &str, token: &str) -> Option<PlanId> {
    if token.len() > MAX_TOKEN {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (found, id) = bytes.split_at_checked(CHECK)?;
    let id = str::from_utf8(id).ok()?;
    if check(tenant, server, id) != found {
        return None;
    }
    id.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use types::{Fault as _, PlanId, TenantId};

    use super::{Page, parse, token};

    #[test]
    fn sizes_have_a_default_and_a_bound() {
        let size = |size| {
            parse(TenantId::fresh(), "", size, "")
                .map(|page| page.size)
                .map_err(|error| error.field().unwrap_or_default().to_owned())
        };
        assert_eq!(size(0), Ok(50));
        assert_eq!(size(7), Ok(7));
        assert_eq!(size(i32::MAX), Ok(200));
        assert_eq!(size(-1), Err("page_size".into()));
    }

    #[test]
    fn a_token_brings_the_place_back_in_its_own_list_only() {
        let (tenant, last) = (TenantId::fresh(), PlanId::fresh());
        let good = token(tenant, "srv_1", last);
        assert_eq!(
            parse(tenant, "srv_1", 3, &good).unwrap(),
            Page {
                size: 3,
                after: Some(last)
            }
        );
        for (tenant, server) in [(TenantId::fresh(), "srv_1"), (tenant, "srv_2"), (tenant, "")] {
            let refused = parse(tenant, server, 3, &good).unwrap_err();
            assert_eq!(refused.field(), Some("page_token"));
        }
    }

    proptest! {
        #[test]
        fn a_damaged_token_is_refused(at in 0usize..64, with in "[ -~]") {
            let tenant = TenantId::fresh();
            let good = token(tenant, "", PlanId::fresh());
            let mut bad: Vec<char> = good.chars().collect();
            let at = at % bad.len();
            bad[at] = with.chars().next().unwrap_or('_');
            let bad: String = bad.into_iter().collect();
            prop_assume!(bad != good);
            prop_assert!(parse(tenant, "", 0, &bad).is_err());
            prop_assert!(parse(tenant, "", 0, &good[..at]).is_ok() == (at == 0));
        }

        #[test]
        fn no_text_breaks_the_reader(text in "\\PC*") {
            prop_assert!(text.is_empty() || parse(TenantId::fresh(), "", 0, &text).is_err());
        }
    }
}
