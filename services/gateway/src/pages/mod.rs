//! The pages that links in mails lead to: each is one document that needs nothing else, and its script calls the same API as everybody.
//!
//! The token of a link stands behind the `#`, so no server and no `Referer` has it; the script takes it out of the address bar before
//! anything else, keeps it in memory, and sends it once a person presses the button: what only opens links uses no token up.

#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body_util::Full;
use tonic::body::Body;

use crate::unread::Shared;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");
const TOKEN: &str = include_str!("token.html");
const FACTOR: &str = include_str!("factor.html");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// Path, title, content.
const SOURCES: [(&str, &str, &str); 3] = [
    (
        "/verify-email",
        "Verify your address",
        include_str!("verify_email.html"),
    ),
    (
        "/reset-password",
        "Set a new password",
        include_str!("reset_password.html"),
    ),
    (
        "/accept-invitation",
        "Accept the invitation",
        include_str!("accept_invitation.html"),
    ),
];

/// The pages, put together once.
static PAGES: LazyLock<[Bytes; 3]> =
    LazyLock::new(|| SOURCES.map(|(_, title, content)| Bytes::from(page(title, content))));

/// Their own style and script by digest, calls to where they came from, and nothing else.
static POLICY: LazyLock<Option<HeaderValue>> = LazyLock::new(|| HeaderValue::from_str(&policy()).ok());

fn digest(text: &str) -> String {
    STANDARD.encode(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()))
}

fn policy() -> String {
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        digest(SCRIPT),
        digest(STYLE),
    )
}

fn page(title: &str, content: &str) -> String {
    let content = content.replace("{TOKEN}", TOKEN).replace("{FACTOR}", FACTOR);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta name=\"robots\" content=\"noindex\">\n<title>{title} · Trailmesh</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <p class=\"name\">Trailmesh</p>\n<div class=\"card\">\n<h1 tabindex=\"-1\">{title}</h1>\n{content}<p id=\"done\" hidden></p>\n</div>\n\
         </main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )
}

/// The page at a path.
pub(crate) fn find(path: &str) -> Option<Response<Body>> {
    let place = SOURCES.iter().position(|(known, ..)| *known == path)?;
    let mut response = Response::new(Body::new(Full::from(PAGES.get(place)?.clone())));
    response.extensions_mut().insert(Shared);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HTML);
    // Where there is no such value, the policy of every other answer stays, under which no script runs.
    if let Some(policy) = POLICY.clone() {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    Some(response)
}
