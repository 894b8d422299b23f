//! rsyslog as a receiver over TLS.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::{Identity, tools::tool};

/// An rsyslogd that writes what it takes into a file, each message on a line as it came. Killed when it is dropped.
#[derive(Debug)]
pub struct Rsyslog {
    child: Child,
    file: PathBuf,
}

impl Rsyslog {
    /// Starts one in `folder`, with `driver` (`ossl` or `gtls`) for its TLS. What another one took in this folder stays.
    pub fn start(folder: &Path, driver: &str, identity: &Identity, port: u16) -> Self {
        let (folder_text, file) = (folder.display(), folder.join("taken.log"));
        let settings = format!(
            r#"global(workDirectory="{folder_text}" maxMessageSize="64k" DefaultNetstreamDriver="{driver}"
  DefaultNetstreamDriverCAFile="{}" DefaultNetstreamDriverCertFile="{}" DefaultNetstreamDriverKeyFile="{}")
module(load="imtcp" StreamDriver.Name="{driver}" StreamDriver.Mode="1" StreamDriver.Authmode="anon")
template(name="raw" type="string" string="%rawmsg%\n")
action(type="omfile" file="{}" template="raw")
input(type="imtcp" address="127.0.0.1" port="{port}")
"#,
            identity.bundle_file.display(),
            identity.cert_file.display(),
            identity.key_file.display(),
            file.display()
        );
        let settings_file = folder.join("rsyslog.conf");
        fs::write(&settings_file, settings).expect("a file");
        let child = Command::new(tool("TRAILMESH_TEST_RSYSLOGD"))
            .arg("-n")
            .arg("-f")
            .arg(&settings_file)
            .arg("-i")
            .arg(folder.join("pid"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("stderr")).expect("a file"))
            .spawn()
            .expect("rsyslogd starts");
        Self { child, file }
    }

    /// What it has taken.
    pub fn taken(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Ends it at once, as a machine does whose power fails.
    pub fn kill(&mut self) {
        self.child.kill().expect("a signal");
        self.child.wait().expect("an end");
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
