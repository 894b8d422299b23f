//! Other services, in our own words.

pub(crate) mod auth;
pub(crate) mod sealer;
pub(crate) mod sink_secret;
pub(crate) mod vault;
