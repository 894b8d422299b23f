//! `trail agent`: the program beside the database as a part of the mesh.

pub mod backoff;
mod circle;
pub mod dial;
mod enrol;
mod error;
mod folder;
mod follower;
mod identity;
mod link;
mod login;
pub mod pins;
pub mod proxy;
mod rpc;
mod run;
pub mod seam;
mod status;
mod steward;
mod supervise;
mod trust;
mod vault;

pub(crate) use dial::way_out;
pub use enrol::{Enrol, Enrolled, enrol};
pub use error::Error;
pub use folder::{Folder, Record};
pub use identity::{Identity, NewKey};
pub use link::{Answering, Answers, Tempo};
pub use login::Mode;
pub use run::{Run, run};
pub use status::{Last, Server as ServerStatus, Status, status};
pub use trust::Trust;
