//! Values and decisions: synchronous, pure, no I/O.

pub(crate) mod access_token;
pub(crate) mod api_key;
pub(crate) mod delegation;
pub(crate) mod email;
pub(crate) mod password;
pub(crate) mod recovery;
pub(crate) mod refresh;
pub(crate) mod ring;
pub(crate) mod throttle;
pub(crate) mod token;
pub(crate) mod totp;
