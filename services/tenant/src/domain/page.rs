//! Pages of a list. A page token is the last key of the page before with a check over it and the query, so that a token of another
//! tenant, another list or another filter, and one that was cut or changed, is refused. It is no secret: whoever makes one up gains a
//! place in a list that they may read anyway.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::digest::{Context, SHA256};

use super::{Invalid, Problem};

/// What `page_size` 0 stands for.
const DEFAULT_SIZE: u32 = 50;

/// The most that one page holds.
const MAX_SIZE: u32 = 200;

/// The longest token ever made is that of a list by name: far below this.
const MAX_TOKEN: usize = 1_024;

/// Bytes of the check.
const CHECK: usize = 12;

/// Which list a token is of.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    parts: Vec<String>,
}

impl Query {
    /// The list `name` of what `whose` tells: a tenant, or a person.
    pub(crate) fn new(name: &'static str, whose: impl ToString) -> Self {
        Self {
            parts: vec![name.to_owned(), whose.to_string()],
        }
    }

    /// Narrowed by a filter.
    pub(crate) fn filtered(mut self, filter: impl ToString) -> Self {
        self.parts.push(filter.to_string());
        self
    }

    /// The token of the page that begins after this key, for a list that ends a page before it is full.
    pub(crate) fn token(&self, key: &[String]) -> String {
        write(self, key)
    }

    fn check(&self, body: &[u8]) -> Vec<u8> {
        let mut digest = Context::new(&SHA256);
        for part in self.parts.iter().map(String::as_bytes).chain([body]) {
            digest.update(&(part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        digest.finish().as_ref()[..CHECK].to_vec()
    }
}

/// Which page to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// How many at most.
    pub(crate) size: u32,
    /// The key after which it begins; none is the first page.
    pub(crate) after: Option<Vec<String>>,
}

impl Page {
    /// Reads `page_size` and `page_token` of a list whose keys have `N` parts.
    pub(crate) fn parse<const N: usize>(query: &Query, size: i32, token: &str) -> Result<Self, Invalid> {
        let size = match u32::try_from(size) {
            Ok(0) => DEFAULT_SIZE,
            Ok(size) => size.min(MAX_SIZE),
            Err(_) => return Err(Problem::from("less than 0").at("page_size")),
        };
        if token.is_empty() {
            return Ok(Self { size, after: None });
        }
        let key = read(query, token).filter(|key| key.len() == N);
        let after =
            key.ok_or_else(|| Problem::from("not a next_page_token of this list").at("page_token"))?;
        Ok(Self {
            size,
            after: Some(after),
        })
    }

    /// How many rows to ask for: one more than the page holds tells whether there is another.
    pub(crate) fn limit(&self) -> i64 {
        i64::from(self.size) + 1
    }

    /// Cuts what was found to the page, and makes the token of the next one.
    pub(crate) fn cut<T>(
        &self,
        query: &Query,
        mut found: Vec<T>,
        key: impl Fn(&T) -> Vec<String>,
    ) -> (Vec<T>, String) {
        let size = self.size as usize;
        if found.len() <= size {
            return (found, String::new());
        }
        found.truncate(size);
        let token = found
            .last()
            .map(|last| write(query, &key(last)))
            .unwrap_or_default();
        (found, token)
    }
}

fn write(query: &Query, key: &[String]) -> String {
    let body = key.join("\n").into_bytes();
    let mut token = query.check(&body);
    token.extend(body);
    URL_SAFE_NO_PAD.encode(token)
}

fn read(query: &Query, token: &str) -> Option<Vec<String>> {
    if token.len() > MAX_TOKEN {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (check, body) = bytes.split_at_checked(CHECK)?;
    if query.check(body) != check {
        return None;
    }
    Some(
        str::from_utf8(body)
            .ok()?
            .split('\n')
            .map(str::to_owned)
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Page, Query};

    fn query() -> Query {
        Query::new("ListServers", "tnt_1").filtered("agp_1")
    }

    fn token() -> String {
        let page = Page { size: 2, after: None };
        page.cut(&query(), vec!["a", "b", "c"], |name| vec![(*name).to_owned()])
            .1
    }

    #[test]
    fn sizes_have_a_default_and_a_bound() {
        let size = |size| {
            Page::parse::<1>(&query(), size, "")
                .map(|page| page.size)
                .map_err(|e| e.field)
        };
        assert_eq!(size(0), Ok(50));
        assert_eq!(size(7), Ok(7));
        assert_eq!(size(i32::MAX), Ok(200));
        assert_eq!(size(-1), Err("page_size".into()));
    }

    #[test]
    fn a_token_brings_the_key_back() {
        let page = Page::parse::<1>(&query(), 2, &token()).unwrap();
        assert_eq!(page.after, Some(vec!["b".to_owned()]));
        assert_eq!(page.limit(), 3);
    }

    #[test]
    fn the_last_page_has_no_token() {
        let page = Page { size: 2, after: None };
        let key = |name: &&str| vec![(*name).to_owned()];
        assert_eq!(page.cut(&query(), vec!["a", "b"], key).1, "");
        assert_eq!(page.cut(&query(), vec![], key), (vec![], String::new()));
    }

    #[test]
    fn a_token_of_another_query_is_refused() {
        for other in [
            Query::new("ListServers", "tnt_2").filtered("agp_1"),
            Query::new("ListServers", "tnt_1").filtered("agp_2"),
            Query::new("ListServers", "tnt_1"),
            Query::new("ListAgents", "tnt_1").filtered("agp_1"),
            Query::new("ListServers", "tnt_1agp_1"),
        ] {
            let refused = Page::parse::<1>(&other, 0, &token()).unwrap_err();
            assert_eq!(refused.field, "page_token");
        }
        assert!(Page::parse::<2>(&query(), 0, &token()).is_err());
    }

    proptest! {
        #[test]
        fn a_damaged_token_is_refused(at in 0usize..64, with in "[ -~]") {
            let good = token();
            let mut bad: Vec<char> = good.chars().collect();
            let at = at % bad.len();
            bad[at] = with.chars().next().unwrap_or('_');
            let bad: String = bad.into_iter().collect();
            prop_assume!(bad != good);
            prop_assert!(Page::parse::<1>(&query(), 0, &bad).is_err());
            prop_assert!(Page::parse::<1>(&query(), 0, &good[..at]).is_ok() == (at == 0));
        }

        #[test]
        fn no_text_breaks_the_reader(text in "\\PC*") {
            prop_assert!(text.is_empty() || Page::parse::<1>(&query(), 0, &text).is_err());
        }
    }
}
