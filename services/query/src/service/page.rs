//! Pages. A page token is the position of the last change that was looked at before it, sealed with the whole question: one of another server,
//! another filter or another order is refused, and nobody reads off it where something stands that they do not see.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message;
use proto::change::v1::Position;
use ring::digest::{Context, SHA256};
use types::TenantId;

use super::{error::Error, seal::Seal};

/// What `page_size` 0 stands for.
const DEFAULT_SIZE: u32 = 100;

/// The most that one page holds.
const MAX_SIZE: u32 = 1_000;

/// A page ends after the change with which it has so many bytes.
pub(super) const PAGE_BYTES: usize = 1 << 20;

/// The longest token ever made is far below this: the name of a log file has at most 512 bytes.
const MAX_TOKEN: usize = 2_048;

/// What a token belongs to.
#[derive(Clone, Debug)]
pub(super) struct Question {
    digest: Vec<u8>,
    seal: Seal,
}

/// Up to which change an answer has looked; none if there was nothing.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Looked(pub(super) Option<Position>);

impl Question {
    /// This question of a tenant's, whose seal it is, about what has this id. `request` is without page size and token.
    pub(super) fn new(
        seal: Seal,
        tenant: TenantId,
        id: &str,
        request: &impl Message,
        method: &'static str,
    ) -> Self {
        let mut digest = Context::new(&SHA256);
        let tenant = tenant.to_string();
        let request = request.encode_to_vec();
        for part in [method.as_bytes(), tenant.as_bytes(), id.as_bytes(), &request] {
            digest.update(&(part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        Self {
            digest: digest.finish().as_ref().to_vec(),
            seal,
        }
    }

    /// The token of the page after the change at `last`.
    pub(super) fn token(&self, last: &Position) -> Result<String, Error> {
        let sealed = self.seal.seal(&last.encode_to_vec(), &self.digest)?;
        Ok(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// After which change the page of `token` begins; none for the first.
    pub(super) fn after(&self, token: &str) -> Result<Option<Position>, Error> {
        if token.is_empty() {
            return Ok(None);
        }
        let wrong = || Error::filter("page_token", "not a next_page_token of this question");
        self.open(token).ok_or_else(wrong).map(Some)
    }

    /// The token of an answer that has looked at everything up to `last`, or at nothing yet. It tells nobody which of both.
    pub(super) fn resume_token(&self, last: Option<&Position>) -> Result<String, Error> {
        let nothing = Position::default();
        self.token(last.unwrap_or(&nothing))
    }

    /// How far the answer of `token` had looked; none if there is no token.
    pub(super) fn resumed(&self, token: &str) -> Result<Option<Looked>, Error> {
        if token.is_empty() {
            return Ok(None);
        }
        let wrong = || Error::filter("resume_token", "not a resume_token of this question");
        let last = self.open(token).ok_or_else(wrong)?;
        Ok(Some(Looked(
            Some(last).filter(|last| *last != Position::default()),
        )))
    }

    fn open(&self, token: &str) -> Option<Position> {
        let bytes = Some(token).filter(|token| token.len() <= MAX_TOKEN)?;
        let bytes = URL_SAFE_NO_PAD.decode(bytes).ok()?;
        let opened = self.seal.open(&bytes, &self.digest)?;
        Position::decode(opened.as_slice()).ok()
    }
}

/// Reads `page_size`, or another field of the same meaning.
pub(super) fn size(size: i32, field: &'static str) -> Result<u32, Error> {
    match u32::try_from(size) {
        Ok(0) => Ok(DEFAULT_SIZE),
        Ok(size) => Ok(size.min(MAX_SIZE)),
        Err(_) => Err(Error::filter(field, "less than 0")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::{change::v1::Position, query::v1::QueryChangesRequest};
    use types::{Fault as _, TenantId};

    use super::{Looked, Question, size};
    use crate::service::seal;

    fn position() -> Position {
        Position {
            epoch: 1,
            file: "binlog.000042".into(),
            offset: 4,
            ordinal: 7,
        }
    }

    fn request(order: i32) -> QueryChangesRequest {
        QueryChangesRequest {
            order,
            ..QueryChangesRequest::default()
        }
    }

    fn question(tenant: TenantId, id: &str, order: i32, method: &'static str) -> Question {
        Question::new(seal::tests::of(tenant), tenant, id, &request(order), method)
    }

    #[test]
    fn a_token_brings_the_place_back_and_only_to_its_own_question() {
        let tenant = TenantId::fresh();
        let asked = question(tenant, "srv_1", 1, "QueryChanges");
        let token = asked.token(&position()).unwrap();
        assert_eq!(asked.after(&token).unwrap(), Some(position()));
        assert_eq!(asked.after("").unwrap(), None);
        for other in [
            question(TenantId::fresh(), "srv_1", 1, "QueryChanges"),
            question(tenant, "srv_2", 1, "QueryChanges"),
            question(tenant, "srv_1", 2, "QueryChanges"),
            question(tenant, "srv_1", 1, "GetRowHistory"),
        ] {
            assert!(other.after(&token).is_err());
        }
    }

    #[test]
    fn a_token_to_resume_by_looks_the_same_whether_or_not_anything_was_looked_at() {
        let tenant = TenantId::fresh();
        let asked = question(tenant, "srv_1", 1, "StreamChanges");
        let (none, some) = (asked.resume_token(None), asked.resume_token(Some(&position())));
        let (none, some) = (none.unwrap(), some.unwrap());
        let longest = Position {
            epoch: u32::MAX,
            file: "x".repeat(255),
            offset: u64::MAX,
            ordinal: u64::MAX,
        };
        let long = asked.resume_token(Some(&longest)).unwrap();
        assert_eq!((none.len(), some.len()), (long.len(), long.len()));
        assert_eq!(asked.resumed(&none).unwrap(), Some(Looked(None)));
        assert_eq!(asked.resumed(&some).unwrap(), Some(Looked(Some(position()))));
        assert_eq!(asked.resumed("").unwrap(), None);
        let other = question(tenant, "srv_1", 2, "StreamChanges");
        assert_eq!(other.resumed(&some).unwrap_err().field(), Some("resume_token"));
    }

    #[test]
    fn sizes_have_a_default_and_a_bound() {
        assert_eq!(size(0, "page_size").unwrap(), 100);
        assert_eq!(size(7, "page_size").unwrap(), 7);
        assert_eq!(size(i32::MAX, "page_size").unwrap(), 1_000);
        assert!(size(-1, "page_size").is_err());
    }

    proptest! {
        #[test]
        fn a_made_up_token_is_refused(text in "\\PC{1,80}") {
            let asked = question(TenantId::fresh(), "srv_1", 1, "QueryChanges");
            prop_assert!(asked.after(&text).is_err());
        }
    }
}
