//! Frames.
/// Largest event.
pub const EVENT_BYTES_MAX: u64 = 1 << 30;
