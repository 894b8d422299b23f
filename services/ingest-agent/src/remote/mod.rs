//! The mesh as a person or a program at a command line meets it: a profile with a session or an API key from the environment, one HTTP/2 connection
//! to the gateway, and its errors in our own words.

pub(crate) mod coverage;
pub(crate) mod dial;
pub(crate) mod door;
pub(crate) mod fault;
pub(crate) mod profile;
pub(crate) mod session;

pub(crate) use self::{
    door::{Door, LONG, MESSAGE_BYTES_MAX, Mesh, PAGE, SHORT, every_page},
    fault::Said,
};
