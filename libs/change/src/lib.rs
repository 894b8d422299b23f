//! A change as the mesh's messages carry it, and as JSON.
//!
//! The store's words ([`binlog::Change`], [`binlog::Value`]) become those of `trailmesh.change.v1` and back, without loss: what a kind of value
//! is on the wire it is again at the other end, so that an answer that came through the mesh prints as one from the disk beside it. The JSON
//! form is [`binlog::Change::write_json`]'s; here it is written from the message.

mod encode;
mod json;
mod wire;

pub use encode::Encoder;
pub use json::{write_change, write_row, write_value};
pub use wire::{message, position, position_of, value, value_of};
