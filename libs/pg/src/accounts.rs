//! Passwords of the services' own roles.

use std::num::NonZeroU32;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    digest, hmac, pbkdf2,
    rand::{SecureRandom as _, SystemRandom},
};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};
use types::Secret;
use url::Url;

use crate::{Error, SettingsError, migrate::Options, settings::connect_options};

/// As many as PostgreSQL itself takes (scram_iterations).
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4_096).expect("more than none");

/// How often a password is set while others set theirs.
const ATTEMPTS: u32 = 20;

/// Gives the roles of services these passwords, after [`crate::migrate::run`] has made the roles. What is sent to the server is a verifier
/// (SCRAM-SHA-256, RFC 5803), so that no log of the server can hold a password.
///
/// # Errors
/// When the database does not answer, a name is no service's, or a password is not made of visible ASCII characters.
pub async fn set_passwords(
    admin_url: &str,
    passwords: &[(&str, &Secret<String>)],
    options: &Options,
) -> Result<(), Error> {
    let connect = connect_options(
        admin_url,
        options.ca_file.as_ref(),
        "trailmesh-migrate",
        options.dev,
    )?;
    let mut admin = connect.connect().await?;
    for (service, password) in passwords {
        let role = role(service)?;
        let verifier = verifier(password.expose())
            .ok_or_else(|| refused("is empty, or not of visible ASCII characters"))?;
        let statement = format!("ALTER ROLE {role} PASSWORD '{verifier}'");
        let mut attempts = 0;
        while let Err(error) = admin.execute(AssertSqlSafe(statement.clone())).await {
            attempts += 1;
            // Roles belong to the whole server: another installation on it may set this password at the same moment, and PostgreSQL fails the
            // second of two ("tuple concurrently updated", which has no code of its own).
            let internal = error.as_database_error().and_then(|error| error.code());
            if internal.as_deref() != Some("XX000") || attempts == ATTEMPTS {
                return Err(error.into());
            }
        }
    }
    admin.close().await?;
    Ok(())
}

/// The URL of a service's own role, on the server, database and with the parameters of `admin_url`.
///
/// # Errors
/// When `admin_url` is no URL or `service` no service's name.
pub fn service_url(
    admin_url: &str,
    service: &str,
    password: &Secret<String>,
) -> Result<Secret<String>, Error> {
    let mut url = Url::parse(admin_url).map_err(|_| refused("is no URL"))?;
    let named = url
        .set_username(&role(service)?)
        .and_then(|()| url.set_password(Some(password.expose())));
    named.map_err(|()| refused("names no server"))?;
    Ok(Secret::new(url.into()))
}

fn role(service: &str) -> Result<String, Error> {
    let known = !service.is_empty() && service.bytes().all(|byte| byte.is_ascii_lowercase());
    known
        .then(|| format!("trailmesh_{service}"))
        .ok_or_else(|| refused("names no service"))
}

fn refused(problem: &str) -> Error {
    Error::from(SettingsError {
        name: "the password of a service",
        problem: problem.to_owned(),
        remedy: "use letters, digits and punctuation".to_owned(),
    })
}

/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
fn verifier(password: &str) -> Option<String> {
    // Of other characters SASLprep (RFC 4013) would have to make something first.
    if password.is_empty() || !password.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let mut salt = [0_u8; 16];
    SystemRandom::new().fill(&mut salt).ok()?;
    let mut salted = [0_u8; digest::SHA256_OUTPUT_LEN];
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        ITERATIONS,
        &salt,
        password.as_bytes(),
        &mut salted,
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let client = hmac::sign(&key, b"Client Key");
    let stored = digest::digest(&digest::SHA256, client.as_ref());
    let server = hmac::sign(&key, b"Server Key");
    Some(format!(
        "SCRAM-SHA-256${ITERATIONS}:{}${}:{}",
        STANDARD.encode(salt),
        STANDARD.encode(stored.as_ref()),
        STANDARD.encode(server.as_ref())
    ))
}

#[cfg(test)]
mod tests {
    use types::Secret;

    use super::{service_url, verifier};

    #[test]
    fn a_verifier_has_the_form_that_the_server_stores() {
        let verifier = verifier("geheim").expect("a verifier");
        assert!(verifier.starts_with("SCRAM-SHA-256$4096:") && !verifier.contains("geheim"));
        assert_eq!(verifier.len(), "SCRAM-SHA-256$4096:".len() + 24 + 1 + 44 + 1 + 44);
        assert!(super::verifier("").is_none() && super::verifier("pässword").is_none());
    }

    #[test]
    fn a_services_url_keeps_all_but_the_account() {
        let admin = "postgres://postgres:admin@db:5433/mesh?sslmode=verify-full&sslrootcert=/ca.pem";
        let url = service_url(admin, "auth", &Secret::new("p/w".to_owned())).expect("a URL");
        assert_eq!(
            url.expose(),
            "postgres://trailmesh_auth:p%2Fw@db:5433/mesh?sslmode=verify-full&sslrootcert=/ca.pem"
        );
        assert!(service_url(admin, "auth; DROP", &Secret::new("x".to_owned())).is_err());
    }
}
