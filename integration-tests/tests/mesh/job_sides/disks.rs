//! What can be read beside the mesh: files, and what a process listens on.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::mesh::sockets;

/// All files below a folder, with what is in them.
pub(super) fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok) {
            let kind = entry.file_type().expect("a kind");
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file()
                // Servers delete files of theirs at any time.
                && let Ok(bytes) = fs::read(entry.path())
            {
                all.push((entry.path(), bytes));
            }
        }
    }
    all
}

/// The process whose environment names this folder as an agent's.
fn agent(folder: &Path) -> u32 {
    let named = format!("TRAIL_AGENT_DIR={}", folder.display()).into_bytes();
    let all = fs::read_dir("/proc").expect("processes").filter_map(Result::ok);
    let mut found = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let found = found.find(|pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|one| one == named)
    });
    found.expect("an agent that runs")
}

/// The sockets on which the agent of this folder waits for somebody, and how many sockets it has.
pub(super) fn listening(folder: &Path) -> (Vec<String>, usize) {
    let pid = agent(folder);
    let sockets = sockets(pid);
    let mut listening = Vec::new();
    for table in ["tcp", "tcp6", "udp", "udp6", "unix"] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (inode, waits) = match table {
                // 00010000 is a socket that accepts.
                "unix" => (words.get(6), words.get(3) == Some(&"00010000")),
                "udp" | "udp6" => (words.get(9), true),
                _ => (words.get(9), words.get(3) == Some(&"0A")),
            };
            if waits && inode.is_some_and(|inode| sockets.iter().any(|socket| socket == inode)) {
                listening.push(format!("{table} {line}"));
            }
        }
    }
    (listening, sockets.len())
}
