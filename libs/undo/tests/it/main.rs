//! Plans and scripts from hand-made histories, by the public interface alone.

mod classes;
mod fixture;
