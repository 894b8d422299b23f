//! `watch URL` and `index --schema-from URL`: the words of the command line made into [`options`](crate::options), every rule checked
//! before a socket opens.

use std::{
    env, fs,
    io::Read,
    net::IpAddr,
    path::{Path, PathBuf},
};

use types::{Code, Secret};

use super::args;
use crate::{
    error::Error,
    options::{Address, Server, Start, Tls, TlsMode, Watch, parse_url},
};

const PASSWORD: &str = "TRAIL_SOURCE_PASSWORD";
const PASSWORD_FILE: &str = "TRAIL_SOURCE_PASSWORD_FILE";
/// Longer than any password a server takes (MySQL: 256 characters in clear-text plugins), so that naming the wrong file is noticed.
const PASSWORD_BYTES_MAX: u64 = 4_096;

/// Checks everything that can be checked without the server or the store.
pub(super) fn watch(args: args::Watch, store: PathBuf) -> Result<Watch, Error> {
    let server = server(&args.url, &args.tls)?;
    let start = args.start.as_deref().map(parse_start).transpose()?;
    Ok(Watch {
        server,
        start,
        store,
        until_caught_up: args.until_caught_up,
        server_id: args.server_id,
        sizes: trail::Options::default(),
    })
}

/// A server and how to log in to it.
pub(super) fn server(url: &str, tls_flags: &args::TlsFlags) -> Result<Server, Error> {
    let (address, user) = parse_url(url)?;
    let password = password(
        env::var_os(PASSWORD).map(|text| text.into_string()),
        env::var_os(PASSWORD_FILE).map(PathBuf::from),
    )?;
    let tls = tls(tls_flags, &address)?;
    Ok(Server {
        address,
        user,
        password,
        tls,
    })
}

fn parse_start(text: &str) -> Result<Start, Error> {
    match text {
        "now" => return Ok(Start::Now),
        "oldest" => return Ok(Start::Oldest),
        _ => {}
    }
    if let Ok(set) = text.parse::<binlog::GtidSet>()
        && !set.is_empty()
    {
        return Ok(Start::After(set));
    }
    match text.parse::<binlog::LogPos>() {
        Ok(at) if !at.file.as_str().is_empty() => Ok(Start::At(at)),
        _ => Err(Error::new(Code::Invalid, "--start", format!("{text:?} is not a place in a log"))
            .hint("write now, oldest, a GTID set (0-1-23, or 3e11fa47-71ca-11e1-9e33-c80aa9429562:1-23), or binlog.000003:4")),
    }
}

/// The password from one of its two variables.
fn password(
    text: Option<Result<String, std::ffi::OsString>>,
    file: Option<PathBuf>,
) -> Result<Option<Secret<String>>, Error> {
    let refused = |what: &str, why: String| Error::new(Code::Refused, what, why);
    match (text, file) {
        (Some(_), Some(_)) => Err(
            refused(&format!("{PASSWORD} and {PASSWORD_FILE}"), "both are set".into())
                .hint("unset one of them, so that it is clear which password counts"),
        ),
        (Some(Ok(text)), None) => Ok(Some(Secret::new(text))),
        (Some(Err(_)), None) => Err(refused(PASSWORD, "it is not valid UTF-8".into())),
        (None, Some(path)) => password_from(&path).map(Some),
        (None, None) => Ok(None),
    }
}

fn password_from(path: &Path) -> Result<Secret<String>, Error> {
    let what = format!("{PASSWORD_FILE} ({})", path.display());
    let mut text = String::new();
    let read =
        fs::File::open(path).and_then(|file| file.take(PASSWORD_BYTES_MAX + 1).read_to_string(&mut text));
    let secret = Secret::new(text);
    read.map_err(|error| Error::new(Code::Refused, &what, error))?;
    let password = secret.expose().strip_suffix('\n').unwrap_or(secret.expose());
    let password = password.strip_suffix('\r').unwrap_or(password);
    let wrong = match password.len() as u64 {
        0 => "the file is empty",
        length if length > PASSWORD_BYTES_MAX => "the file is too long to be a password",
        _ if password.contains('\n') => "the file has more than one line",
        _ => return Ok(Secret::new(password.to_owned())),
    };
    Err(Error::new(Code::Refused, what, wrong))
}

/// The mode that was asked for, or the one that fits the address; and no file that the mode would ignore.
fn tls(args: &args::TlsFlags, address: &Address) -> Result<Tls, Error> {
    let here = match address {
        Address::Socket(_) => true,
        Address::Tcp { host, .. } => {
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        }
    };
    // As with MySQL's own clients, naming an authority means that it is to be checked.
    let mode = args.tls_mode.unwrap_or(match (&args.tls_ca, here) {
        (Some(_), _) => TlsMode::VerifyCa,
        (None, true) => TlsMode::Preferred,
        (None, false) => TlsMode::Required,
    });
    let ignored = |flag: &str, remedy: &str| {
        let mode = clap::ValueEnum::to_possible_value(&mode)
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default();
        Error::new(
            Code::Invalid,
            flag,
            format!("it would not be used with --tls-mode {mode}"),
        )
        .hint(remedy)
    };
    if args.tls_ca.is_some() && !matches!(mode, TlsMode::VerifyCa | TlsMode::VerifyIdentity) {
        return Err(ignored(
            "--tls-ca",
            "use verify-ca or verify-identity, or leave the file out",
        ));
    }
    if args.tls_cert.is_some() && mode == TlsMode::Disabled {
        return Err(ignored(
            "--tls-cert",
            "use required or a stricter mode, or leave the file out",
        ));
    }
    if args.tls_cert.is_some() != args.tls_key.is_some() {
        let (have, need) = if args.tls_cert.is_some() {
            ("--tls-cert", "--tls-key")
        } else {
            ("--tls-key", "--tls-cert")
        };
        return Err(Error::new(Code::Invalid, have, format!("it needs {need} too")));
    }
    for (flag, path) in [
        ("--tls-ca", &args.tls_ca),
        ("--tls-cert", &args.tls_cert),
        ("--tls-key", &args.tls_key),
    ] {
        if let Some(path) = path {
            fs::File::open(path)
                .map_err(|error| Error::new(Code::Refused, format!("{flag} {}", path.display()), error))?;
        }
    }
    Ok(Tls {
        mode,
        ca: args.tls_ca.clone(),
        cert: args.tls_cert.clone(),
        key: args.tls_key.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::{Start, parse_start, password};

    #[test]
    fn places_to_start_are_told_apart() {
        assert!(matches!(parse_start("now"), Ok(Start::Now)));
        assert!(matches!(parse_start("oldest"), Ok(Start::Oldest)));
        assert!(matches!(parse_start("0-1-23,1-1-4"), Ok(Start::After(_))));
        assert!(matches!(
            parse_start("3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5:7"),
            Ok(Start::After(_))
        ));
        assert!(matches!(parse_start("binlog.000003:4"), Ok(Start::At(_))));
        assert!(parse_start("yesterday").is_err());
        assert!(parse_start("").is_err());
    }

    #[test]
    fn the_password_comes_from_exactly_one_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("password");
        let read = |text: &str| {
            std::fs::write(&file, text).expect("written");
            password(None, Some(file.clone()))
                .ok()
                .flatten()
                .map(|secret| secret.expose().clone())
        };
        assert_eq!(read("s3cret\n").as_deref(), Some("s3cret"));
        assert_eq!(read(" s3cret \r\n").as_deref(), Some(" s3cret "));
        assert_eq!(read("one\ntwo\n"), None);
        assert_eq!(read("\n"), None);
        assert_eq!(read(&"x".repeat(5_000)), None);
        assert!(password(Some(Ok("a".into())), Some(file.clone())).is_err());
        assert!(matches!(password(None, None), Ok(None)));
    }
}
