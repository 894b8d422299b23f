//! What an agent says first.
use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What agents offer in the handshake, alone.
pub(crate) const ALPN: &[u8] = b"trailmesh-agent/1";
/// No preface is longer.
const LONGEST: usize = 64;

/// Where an agent wants to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// To service query, which calls agents.
    Hub,
    /// To service vault, which agents call.
    Vault,
}

impl To {
    /// For metrics.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Hub => "hub",
            Self::Vault => "vault",
        }
    }
}

/// Reads the first line. Gives where to go, and what came after the line; none where it says something else.
pub(super) async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<(To, Bytes)>> {
    let mut read = BytesMut::with_capacity(LONGEST);
    loop {
        if let Some(end) = read.iter().take(LONGEST).position(|byte| *byte == b'\n') {
            let to = match read.get(..end) {
                Some(b"trailmesh-agent/1 hub") => To::Hub,
                Some(b"trailmesh-agent/1 vault") => To::Vault,
                _ => return Ok(None),
            };
            read.advance(end + 1);
            return Ok(Some((to, read.freeze())));
        }
        if read.len() >= LONGEST {
            return Ok(None);
        }
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{To, read};

    async fn of(text: &[u8]) -> std::io::Result<Option<(To, Vec<u8>)>> {
        let asked = read(&mut &*text).await?;
        Ok(asked.map(|(to, rest)| (to, rest.to_vec())))
    }

    #[tokio::test]
    async fn the_first_line_says_where_to_go_and_nothing_after_it_is_lost() {
        let hub = of(b"trailmesh-agent/1 hub\n").await.expect("a line");
        assert_eq!(hub, Some((To::Hub, vec![])));
        let vault = of(b"trailmesh-agent/1 vault\n\x16\x03\x01\n")
            .await
            .expect("a line");
        assert_eq!(vault, Some((To::Vault, b"\x16\x03\x01\n".to_vec())));
        for nonsense in [
            &b"\n"[..],
            b"trailmesh-agent/1 hub\r\n",
            b"trailmesh-agent/1 Hub\n",
            b"trailmesh-agent/1 auth\n",
            b"trailmesh-agent/2 hub\n",
            b" trailmesh-agent/1 hub\n",
            b"trailmesh-agent/1 hub \n",
            &[b'x'; 200],
        ] {
            assert_eq!(of(nonsense).await.expect("an answer"), None, "{nonsense:?}");
        }
        for short in [&b""[..], b"trailmesh-agent/1 hub"] {
            assert!(of(short).await.is_err());
        }
    }
}
