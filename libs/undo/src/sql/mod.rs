//! Changes of rows as SQL text.
//!
//! Rendering is an output context like HTML or a shell: a value that is not plain printable ASCII is written in hexadecimal with its
//! character set, so that nothing in it can be taken for SQL, whatever the client's character set or the server's `sql_mode`. Names
//! cannot be written in hexadecimal; they stand between backticks as UTF-8, which `SET NAMES utf8mb4` announces.

mod json;
mod literal;
mod name;
mod script;
mod statement;

pub(crate) use literal::{Obstacle, writable};
pub(crate) use name::Names;
pub(crate) use script::{Body, Facts, Header, Script, write_header};
