//! What the process that holds keys does not do.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// No core dumps, and no debugger of another process: prctl(2) PR_SET_DUMPABLE, setrlimit(2) RLIMIT_CORE. For the whole process, whatever
/// else runs in it.
pub(crate) fn close() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    Ok(())
}
