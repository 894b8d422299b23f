//! How the agent logs in to the servers that it is told to follow.
//!
//! With `hosted` the vault opens the password for this agent alone, and it stays in memory. With `byos` it is in the agent's own environment and
//! nowhere else; the mesh never sees it:
//!
//! * `TRAIL_SERVER_<NAME>_PASSWORD`, or `TRAIL_SERVER_<NAME>_PASSWORD_FILE` with the path of a file that holds it,
//! * `TRAIL_SERVER_<NAME>_URL`, if the agent sees the server under another address or with another account than the mesh says,
//! * `TRAIL_SERVER_<NAME>_TLS`, if its TLS is another one than the mesh says,
//! * `TRAIL_SERVER_<NAME>_CA`, in both modes: the authorities that vouch for the server, PEM, instead of the well-known ones.
//!
//! A log-in is worth as much as the password to whoever it is made with. So with `byos` a password goes only where it went first, and over no weaker
//! TLS; another address or account from the mesh is a state that a person ends by naming it with these variables.
//!
//! `<NAME>` is the server's name in capitals, with `_` for everything that is neither a letter nor a digit.

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use serde::{Deserialize, Serialize};
use types::{Secret, chain};

use super::{folder::Folder, supervise::Assigned};
use crate::options::{Address, Server, Tls, TlsMode, parse_url};

/// Where passwords come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// From the mesh's vault.
    Hosted,
    /// From the agent's own environment.
    Byos,
}

/// Longer than any password a server takes.
const LONGEST: usize = 4_096;
const KNOWN: &str = "logins.json";

/// Where a password goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    address: String,
    user: String,
    tls: String,
}

/// The login of a server whose password the vault gave.
pub(super) fn hosted(server: &Assigned, password: Option<Secret<String>>) -> Result<Server, String> {
    Ok(Server {
        address: address(server)?,
        user: server.username.clone(),
        password,
        tls: tls(server, &server.tls_mode).ok_or(UNKNOWN)??,
    })
}

/// The login of a server whose password is in the environment. Where it goes is kept under the name that chooses the password: another server of the
/// mesh with the same name does not get it either.
pub(super) fn byos(server: &Assigned, folder: &Folder) -> Result<Server, String> {
    let password = password(server)?;
    let mut all: BTreeMap<String, Known> = folder
        .read_json(KNOWN)
        .map_err(|error| chain(&error))?
        .unwrap_or_default();
    let (url, mode) = (variable(server, "URL")?, variable(server, "TLS")?);
    let known = all.get(&capitals(server));
    let (login, goes) = settle(server, known, url.as_deref(), mode.as_deref())?;
    if known != Some(&goes) {
        all.insert(capitals(server), goes);
        folder.write_json(KNOWN, &all).map_err(|error| chain(&error))?;
    }
    Ok(Server {
        password: Some(password),
        ..login
    })
}

/// The login without its password, and what is to be known of it from now on.
fn settle(
    server: &Assigned,
    known: Option<&Known>,
    url: Option<&str>,
    mode: Option<&str>,
) -> Result<(Server, Known), String> {
    let (address, user) = match url {
        Some(url) => parse_url(url).map_err(|error| told(&name(server, "URL"), &error))?,
        None => (address(server)?, server.username.clone()),
    };
    let tls = match mode {
        Some(mode) => tls(server, mode)
            .ok_or_else(|| format!("{} is none of {}", name(server, "TLS"), MODES.join(", ")))??,
        None => tls(server, &server.tls_mode).ok_or(UNKNOWN)??,
    };
    let mut goes = Known {
        address: written(&address),
        user: user.clone(),
        tls: mode.unwrap_or(&server.tls_mode).to_owned(),
    };
    if let Some(known) = known {
        if url.is_none() && (&known.address, &known.user) != (&goes.address, &goes.user) {
            return Err(format!(
                "the mesh says that it is {} at {} now, but its password went to {} at {} until now and goes nowhere else by itself: if that is right, set {}=mysql://USER@HOST:PORT/",
                goes.user,
                goes.address,
                known.user,
                known.address,
                name(server, "URL")
            ));
        }
        if mode.is_none() {
            if strength(&goes.tls) < strength(&known.tls) {
                return Err(format!(
                    "the mesh asks for TLS {} now, which is weaker than {} until now: if that is right, set {} and {}={}",
                    goes.tls,
                    known.tls,
                    name(server, "URL"),
                    name(server, "TLS"),
                    goes.tls
                ));
            }
            goes.tls.clone_from(&known.tls);
        }
    }
    let login = Server {
        address,
        user,
        password: None,
        tls,
    };
    Ok((login, goes))
}

fn written(address: &Address) -> String {
    match address {
        Address::Tcp { host, port } => format!("{}:{port}", host.to_ascii_lowercase()),
        Address::Socket(path) => path.display().to_string(),
    }
}

/// From the weakest to the strongest.
const MODES: [&str; 4] = ["disabled", "required", "verify-ca", "verify-identity"];
const UNKNOWN: &str = "the mesh asks for a kind of TLS that this agent does not know: update it";

fn strength(mode: &str) -> Option<usize> {
    MODES.iter().position(|known| *known == mode)
}

fn told(what: &str, error: &crate::error::Error) -> String {
    match error {
        crate::error::Error::Failed(failure) => format!("{what}: {}", failure.why),
        crate::error::Error::Closed => what.to_owned(),
    }
}

fn address(server: &Assigned) -> Result<Address, String> {
    if server.host.is_empty() || server.port == 0 {
        return Err("the mesh names no address for it".to_owned());
    }
    Ok(Address::Tcp {
        host: server.host.clone(),
        port: server.port,
    })
}

/// None if there is no such mode.
fn tls(server: &Assigned, mode: &str) -> Option<Result<Tls, String>> {
    let mode = match mode {
        "verify-identity" => TlsMode::VerifyIdentity,
        "verify-ca" => TlsMode::VerifyCa,
        "required" => TlsMode::Required,
        "disabled" => TlsMode::Disabled,
        _ => return None,
    };
    let checks = matches!(mode, TlsMode::VerifyCa | TlsMode::VerifyIdentity);
    let ca = variable(server, "CA");
    Some(ca.map(|ca| Tls {
        mode,
        ca: ca.map(PathBuf::from).filter(|_| checks),
        cert: None,
        key: None,
    }))
}

fn password(server: &Assigned) -> Result<Secret<String>, String> {
    if let Some(text) = variable(server, "PASSWORD")? {
        return Ok(Secret::new(text));
    }
    let file = name(server, "PASSWORD_FILE");
    let Some(path) = variable(server, "PASSWORD_FILE")? else {
        return Err(format!(
            "its password is not in the agent's environment: set {} or {file}",
            name(server, "PASSWORD")
        ));
    };
    let text = Secret::new(fs::read_to_string(path).map_err(|error| format!("{file}: {error}"))?);
    let line = text.expose().strip_suffix('\n').unwrap_or(text.expose());
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() || line.len() > LONGEST || line.contains('\n') {
        return Err(format!("{file}: the file does not hold one line with a password"));
    }
    Ok(Secret::new(line.to_owned()))
}

fn variable(server: &Assigned, what: &str) -> Result<Option<String>, String> {
    let name = name(server, what);
    match env::var(&name) {
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) => Ok(Some(text)),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(format!("{name} is not UTF-8")),
    }
}

/// `TRAIL_SERVER_<NAME>_<what>`.
fn name(server: &Assigned, what: &str) -> String {
    format!("TRAIL_SERVER_{}_{what}", capitals(server))
}

/// `<NAME>`.
fn capitals(server: &Assigned) -> String {
    server
        .name
        .chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() {
                letter.to_ascii_uppercase()
            } else {
                '_'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use types::{Secret, ServerId};

    use super::{Assigned, Folder, byos, hosted, name, settle};
    use crate::options::{Address, TlsMode};

    fn assigned(tls_mode: &str) -> Assigned {
        Assigned {
            id: ServerId::fresh(),
            name: "shop-db.1".to_owned(),
            host: "db1".to_owned(),
            port: 3306,
            username: "trail".to_owned(),
            tls_mode: tls_mode.to_owned(),
            version: "1".to_owned(),
        }
    }

    #[test]
    fn what_the_mesh_says_becomes_a_login() {
        let login = hosted(
            &assigned("verify-identity"),
            Some(Secret::new("secret".to_owned())),
        )
        .expect("a login");
        assert_eq!(login.tls.mode, TlsMode::VerifyIdentity);
        let wanted = Address::Tcp {
            host: "db1".to_owned(),
            port: 3306,
        };
        assert_eq!((login.address, login.user.as_str()), (wanted, "trail"));
        assert!(hosted(&assigned("none"), None).is_err());
    }

    #[test]
    fn what_is_missing_in_the_environment_is_named() {
        assert_eq!(name(&assigned("required"), "URL"), "TRAIL_SERVER_SHOP_DB_1_URL");
        let temporary = tempfile::tempdir().expect("a folder");
        let problem = byos(&assigned("required"), &Folder::at(temporary.path())).err();
        assert!(problem.is_some_and(|text| text.contains("TRAIL_SERVER_SHOP_DB_1_PASSWORD")));
    }
    #[test]
    fn a_password_goes_where_it_went_first_and_over_no_weaker_tls() {
        let first = assigned("required");
        let (_, known) = settle(&first, None, None, None).expect("a login");
        let mut other = first.clone();
        other.host = "DB1".to_owned();
        other.tls_mode = "verify-ca".to_owned();
        let (_, same) = settle(&other, Some(&known), None, None).expect("a login");
        assert_eq!(same, known, "stronger TLS may be taken back");
        for change in [
            |server: &mut Assigned| server.host = "db2".to_owned(),
            |server: &mut Assigned| server.port = 3307,
            |server: &mut Assigned| server.username = "root".to_owned(),
            |server: &mut Assigned| server.tls_mode = "disabled".to_owned(),
        ] {
            let mut other = first.clone();
            change(&mut other);
            let problem = settle(&other, Some(&known), None, None).expect_err("a problem");
            assert!(problem.contains("TRAIL_SERVER_SHOP_DB_1_URL"), "{problem}");
        }
        let mut moved = first;
        (moved.host, moved.tls_mode) = ("db2".to_owned(), "disabled".to_owned());
        let url = Some("mysql://root@db2:3306/");
        let weak = settle(&moved, Some(&known), url, None).expect_err("a problem");
        assert!(weak.contains("TRAIL_SERVER_SHOP_DB_1_TLS=disabled"), "{weak}");
        let (login, confirmed) = settle(&moved, Some(&known), url, Some("disabled")).expect("a login");
        assert_eq!((login.user.as_str(), login.tls.mode), ("root", TlsMode::Disabled));
        moved.username = "root".to_owned();
        assert!(settle(&moved, Some(&confirmed), None, None).is_ok(), "it is kept");
        assert!(settle(&moved, Some(&confirmed), None, Some("perhaps")).is_err());
    }
}
