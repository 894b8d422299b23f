//! Syslog over TLS. RFC 5425 has no answer to a message, but an order in which a connection ends (section 4.4): the sender says that it has
//! no more, and a receiver that has read that says the same. So a connection carries one batch, and what it carried counts as taken when it
//! has ended in that order; a receiver that was killed with something unread does not end it so.
//!
//! Some receivers (rsyslog with GnuTLS) end the connection without the word. They count too, if they were there for a while after all was
//! sent: who is killed while it reads is gone by then.

use std::{io, time::Duration};

use audit::format::{Source, syslog};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::{
    Failure, Means,
    send::{Letter, connect},
};
use crate::domain::sink::Place;

/// The most that a receiver may say before it ends: nothing is expected.
const MOST_SAID: usize = 4_096;

/// How long a receiver must be there after all was sent.
const HOLD: Duration = Duration::from_millis(250);

/// Sends the letters.
pub(super) async fn send(
    means: &Means,
    place: &Place,
    source: &Source,
    letters: &[Letter],
) -> Result<(), Failure> {
    let broken = |error: io::Error| Failure::Broken(error.kind());
    let mut stream = connect(means, place, None).await?;
    let mut frames = Vec::new();
    for letter in letters {
        let message = syslog::message(source, letter.sequence, &letter.event, &letter.line);
        frames.extend(syslog::frame(&message));
    }
    stream.write_all(&frames).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    match timeout(HOLD, end(&mut stream)).await {
        Err(_) => {}
        Ok(Ok(())) => return Err(Failure::Broken(io::ErrorKind::UnexpectedEof)),
        Ok(Err(error)) => return Err(broken(error)),
    }
    stream.shutdown().await.map_err(broken)?;
    match end(&mut stream).await {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(broken(error)),
        _ => Ok(()),
    }
}

/// Waits for the receiver's end, whatever it says before.
async fn end(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut said = [0; 512];
    let mut total = 0;
    loop {
        match stream.read(&mut said).await? {
            0 => return Ok(()),
            count => total += count,
        }
        if total > MOST_SAID {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}
