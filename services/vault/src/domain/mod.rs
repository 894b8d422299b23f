//! Values and decisions: pure, no I/O.

pub(crate) mod cipher;
pub(crate) mod envelope;
pub(crate) mod place;
pub(crate) mod state;
pub(crate) mod statement;
#[cfg(test)]
mod vectors;

/// A field of a request that cannot be so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub(crate) struct Invalid {
    /// Its proto path.
    pub(crate) field: &'static str,
    /// Why.
    pub(crate) problem: &'static str,
}

impl Invalid {
    pub(crate) const fn new(field: &'static str, problem: &'static str) -> Self {
        Self { field, problem }
    }
}

/// Parts of what is authenticated or derived from, each with its length before it, so that no two lists of parts are the same bytes.
pub(crate) trait Put {
    /// A text.
    fn put(&mut self, text: &str);
    /// A number.
    fn put_number(&mut self, number: i64);
}

impl Put for Vec<u8> {
    fn put(&mut self, text: &str) {
        self.extend_from_slice(&(text.len() as u64).to_be_bytes());
        self.extend_from_slice(text.as_bytes());
    }

    fn put_number(&mut self, number: i64) {
        self.extend_from_slice(&number.to_be_bytes());
    }
}
