//! Values and decisions: no I/O, no clock, no wire types. What comes out of here has been checked, and nothing after it checks again.

pub(crate) mod agent;
pub(crate) mod collision;
pub(crate) mod credential;
pub(crate) mod deletion;
pub(crate) mod directory;
pub(crate) mod email;
pub(crate) mod limit;
pub(crate) mod mask;
pub(crate) mod member;
pub(crate) mod name;
pub(crate) mod page;
pub(crate) mod plan;
pub(crate) mod server;
pub(crate) mod sink;
pub(crate) mod token;

use std::borrow::Cow;

/// A value of a request that cannot be, and why; [`Problem::at`] says where it stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem(pub(crate) Cow<'static, str>);

impl Problem {
    /// The problem of the field with this proto path.
    pub(crate) fn at(self, field: impl Into<Cow<'static, str>>) -> Invalid {
        Invalid {
            field: field.into(),
            problem: self.0,
        }
    }
}

impl From<&'static str> for Problem {
    fn from(text: &'static str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl From<types::access::Wrong> for Problem {
    fn from(wrong: types::access::Wrong) -> Self {
        Self::from(wrong.0)
    }
}

impl From<String> for Problem {
    fn from(text: String) -> Self {
        Self(Cow::Owned(text))
    }
}

/// A field of a request that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub(crate) struct Invalid {
    /// Its proto path.
    pub(crate) field: Cow<'static, str>,
    /// What is wrong, and what would be right.
    pub(crate) problem: Cow<'static, str>,
}

/// Adds the place to a [`Problem`].
pub(crate) trait At<T> {
    /// The value, or what is wrong with the field of this proto path.
    fn at(self, field: &'static str) -> Result<T, Invalid>;
}

impl<T, P: Into<Problem>> At<T> for Result<T, P> {
    fn at(self, field: &'static str) -> Result<T, Invalid> {
        self.map_err(|problem| problem.into().at(field))
    }
}
