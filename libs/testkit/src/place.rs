//! Where tests have what they share or leave behind: lock files, and names that say which process a thing belongs to.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::PathBuf,
};

/// Lock files of one kind: that of two things is the same now and then, and then one waits for the other.
const LOCKS: u64 = 16;

/// What names of this process' things have in them: where pids are those that it sees, its own, and when it began, because pids come again.
pub(crate) fn mark() -> String {
    mark_of(std::process::id()).expect("/proc tells when a process began")
}

/// The mark of a process that is.
pub(crate) fn mark_of(pid: u32) -> Option<String> {
    Some(format!("{}_{pid}_{}", here(), began(pid)?))
}

/// Whether a mark is that of a process that is no more. Where that is not certain, it is not.
pub(crate) fn is_dead(mark: &str) -> bool {
    let words: Vec<&str> = mark.split('_').collect();
    let [place, pid, start] = words.as_slice() else {
        return false;
    };
    match (pid.parse(), start.parse::<u64>()) {
        (Ok(pid), Ok(start)) => *place == here() && began(pid) != Some(start),
        _ => false,
    }
}

/// When a process began, in ticks since the machine did; none if there is none (proc(5), `/proc/pid/stat`, field 22).
fn began(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, and may have anything in it.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

/// The machine, and the container on it: where a pid means what it means here.
fn here() -> String {
    let mut hasher = DefaultHasher::new();
    fs::read("/etc/machine-id").unwrap_or_default().hash(&mut hasher);
    let pids = fs::read_link("/proc/self/ns/pid");
    pids.unwrap_or_default().hash(&mut hasher);
    format!("{:08x}", hasher.finish() >> 32)
}

/// A folder of this process for `what`, which goes when it is dropped, or some time after the process.
///
/// # Panics
/// When it cannot be made.
pub fn folder(what: &str) -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix(&format!("trailmesh-{what}-{}-", mark()))
        .tempdir()
        .expect("a folder")
}

/// Removes the folders of processes that are no more.
pub(crate) fn remove_folders() {
    let entries = fs::read_dir(std::env::temp_dir()).expect("the folder of temporary files");
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let words: Vec<&str> = name.to_str().unwrap_or_default().split('-').collect();
        if let ["trailmesh", _what, mark, _random] = words.as_slice()
            && is_dead(mark)
        {
            // Another program may be at it too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The file by which the programs of this machine take turns at `what`. Nobody holds two of one kind.
pub(crate) fn lock_file(kind: &str, what: &str) -> File {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    let path: PathBuf = std::env::temp_dir().join("trailmesh-locks");
    fs::create_dir_all(&path).expect("a folder of locks");
    File::create(path.join(format!("{kind}-{}", hasher.finish() % LOCKS))).expect("a lock file")
}

#[cfg(test)]
pub(crate) mod tests {
    use std::process::{Child, Command, Stdio};

    use super::{folder, here, is_dead, mark, mark_of, remove_folders};

    /// A process, and its mark.
    pub(crate) fn process() -> (Child, String) {
        let mut command = Command::new("sleep");
        let child = command
            .arg("100")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = child.unwrap();
        let mark = mark_of(child.id()).unwrap();
        (child, mark)
    }

    #[test]
    fn a_process_is_dead_only_if_that_is_certain() {
        let (mut child, theirs) = process();
        assert!(!is_dead(&theirs), "{theirs}");
        assert!(is_dead(&format!("{theirs}1")), "a pid that came again");
        assert!(!is_dead(&mark()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_dead(&theirs), "{theirs}");
        let elsewhere = theirs.replace(&here(), "00000000");
        let without = theirs.rsplit_once('_').unwrap().0;
        for mark in [&elsewhere, without, "", "test", "a_b_c"] {
            assert!(!is_dead(mark), "{mark}");
        }
    }

    #[test]
    fn folders_of_programs_that_died_go_and_those_of_the_living_stay() {
        let (mut child, theirs) = process();
        let path = std::env::temp_dir().join(format!("trailmesh-test-{theirs}-x1"));
        std::fs::create_dir_all(path.join("deep")).unwrap();
        let own = folder("test");
        remove_folders();
        assert!(path.exists() && own.path().exists());
        child.kill().unwrap();
        child.wait().unwrap();
        remove_folders();
        assert!(!path.exists() && own.path().exists());
    }
}
