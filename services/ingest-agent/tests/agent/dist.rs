//! What the agent is installed with.

use std::{fs, path::Path, process::Command};

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist").join(name);
    fs::read_to_string(path).expect("a file")
}

#[test]
fn the_unit_takes_everything_away_that_is_not_needed() {
    let unit = file("trail-agent.service");
    for line in [
        "ExecStart=/usr/bin/trail agent run",
        "RestartPreventExitStatus=64 65",
        "DynamicUser=yes",
        "StateDirectory=trail-agent",
        "StateDirectoryMode=0700",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "AmbientCapabilities=",
        "ProtectSystem=strict",
        "MemoryMax=256M",
        "LimitCORE=0",
        "SocketBindDeny=any",
    ] {
        assert!(unit.lines().any(|found| found == line), "{line}");
    }
    assert!(
        !unit.contains("ReadWritePaths"),
        "there is one folder to write to"
    );
    // Where systemd is installed it is asked too.
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join("trail-agent.service");
    fs::write(&copy, unit.replace("/usr/bin/trail ", "/bin/true ")).expect("written");
    let Ok(verified) = Command::new("systemd-analyze").arg("verify").arg(&copy).output() else {
        return;
    };
    let told = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(!told.contains("trail-agent.service"), "{told}");
    let judged = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=20"])
        .arg(&copy)
        .output()
        .expect("systemd-analyze");
    assert!(
        judged.status.success(),
        "{}",
        String::from_utf8_lossy(&judged.stdout)
    );
}

#[test]
fn the_container_has_a_user_and_no_ports() {
    let text = file("Containerfile");
    let says = |line: &str| text.lines().any(|found| found == line);
    assert!(says("USER 1000:1000") && says("FROM scratch") && says("VOLUME /var/lib/trail-agent"));
    assert!(!text.contains("EXPOSE"));
    assert!(text.contains("--read-only --cap-drop=all"));
}
