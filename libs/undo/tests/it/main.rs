//! Plans and scripts by the public interface alone: from hand-made histories, and from the logs of real servers.

mod apply;
mod classes;
mod fixture;
mod round_trip;
mod scene;
