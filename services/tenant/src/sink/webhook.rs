//! A POST of lines, signed so that the receiver can tell it from what anybody else posts. Receivers compute, over the bytes they got,
//! `HMAC-SHA256(secret, t + "." + body)` in hexadecimal, compare it in constant time with `v1` of the header
//! `Trailmesh-Signature: t=1700000000,v1=…`, and refuse a `t` (seconds since 1970) that is more than five minutes off.

use std::{
    fmt::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use ring::hmac;
use types::{Secret, SinkId};

use super::{
    Failure, Means,
    send::{Letter, connect},
};
use crate::domain::sink::Place;

/// Posts the letters. Only a 2xx is a yes; where another answer points to is not looked at.
pub(super) async fn send(
    means: &Means,
    place: &Place,
    sink: SinkId,
    secret: &Secret<Vec<u8>>,
    letters: &[Letter],
) -> Result<(), Failure> {
    let body = body(letters);
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let request = Request::post(place.path.as_str())
        .header(header::HOST, place.authority())
        .header(header::CONTENT_TYPE, "application/x-ndjson")
        .header(
            header::USER_AGENT,
            concat!("Trailmesh/", env!("CARGO_PKG_VERSION")),
        )
        .header(header::CONNECTION, "close")
        .header("trailmesh-sink", sink.to_string())
        .header("trailmesh-signature", signature(secret, seconds, &body))
        .body(Full::new(body))
        .map_err(|_| Failure::NotHttp)?;
    let stream = connect(means, place, Some(b"http/1.1")).await?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(64 * 1024)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failure(&error))?;
    let exchange = async {
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| failure(&error))?;
        let status = answer.status();
        if status.is_success() {
            Ok(())
        } else {
            Err(Failure::Answer(status.as_u16()))
        }
    };
    // The answer's body is not read: the connection goes with this future.
    tokio::pin!(connection);
    tokio::pin!(exchange);
    tokio::select! {
        outcome = &mut exchange => outcome,
        ended = &mut connection => match ended {
            // It may have ended with the answer, which then is there.
            Ok(()) => exchange.await,
            Err(error) => Err(failure(&error)),
        },
    }
}

fn failure(error: &hyper::Error) -> Failure {
    if error.is_parse() {
        return Failure::NotHttp;
    }
    let kind = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    Failure::Broken(kind.map_or(std::io::ErrorKind::UnexpectedEof, std::io::Error::kind))
}

fn body(letters: &[Letter]) -> Bytes {
    let mut body = String::with_capacity(letters.iter().map(|letter| letter.line.len() + 1).sum());
    for letter in letters {
        body.push_str(&letter.line);
        body.push('\n');
    }
    body.into()
}

fn signature(secret: &Secret<Vec<u8>>, seconds: u64, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose());
    let mut context = hmac::Context::with_key(&key);
    context.update(format!("{seconds}.").as_bytes());
    context.update(body);
    let mut header = format!("t={seconds},v1=");
    for byte in context.sign().as_ref() {
        let _ = write!(header, "{byte:02x}");
    }
    header
}

#[cfg(test)]
mod tests {
    use types::Secret;

    use super::signature;

    /// Computed by `openssl dgst -sha256 -hmac bt_whsec_test`.
    #[test]
    fn the_signature_is_what_openssl_computes() {
        let secret = Secret::new(b"bt_whsec_test".to_vec());
        assert_eq!(
            signature(&secret, 1_700_000_000, b"{\"a\":1}\n"),
            "t=1700000000,v1=a88524116583c629a8c9b586f41637d62c3d1351491da8d094a1dd9f4c55f0be"
        );
    }
}
