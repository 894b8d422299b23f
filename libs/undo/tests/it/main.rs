//! Plans and scripts by the public interface alone: from hand-made histories, and from the logs of real servers.

mod apply;
mod chaos;
mod classes;
mod definitions;
mod fixture;
mod golden;
mod hostile;
mod model;
mod property;
mod round_trip;
mod scene;
