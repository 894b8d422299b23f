//! A connection on which the server has spoken.
//!
//! With TLS 1.3 a client's handshake is over before the server has looked at its certificate. The first bytes of HTTP/2 come from a server
//! that has: who waits for them knows that it was let in, and has sent no call in vain.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// Enough for the server's first frame.
const FIRST: usize = 256;

pub(super) struct Greeted<T> {
    first: Bytes,
    inner: T,
}

impl<T: AsyncRead + Unpin> Greeted<T> {
    /// Waits for the first bytes.
    pub(super) async fn wait(mut inner: T) -> io::Result<Self> {
        let mut first = vec![0; FIRST];
        let read = inner.read(&mut first).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        first.truncate(read);
        Ok(Self {
            first: first.into(),
            inner,
        })
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Greeted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buffer);
        }
        let length = self.first.len().min(buffer.remaining());
        buffer.put_slice(&self.first[..length]);
        self.first.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Greeted<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::Greeted;

    #[tokio::test]
    async fn nothing_of_what_was_said_is_lost() {
        let (mut server, client) = tokio::io::duplex(1_024);
        server.write_all(b"hello").await.unwrap();
        let mut client = Greeted::wait(client).await.unwrap();
        server.write_all(b" there").await.unwrap();
        drop(server);
        let mut heard = [0; 3];
        client.read_exact(&mut heard).await.unwrap();
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.unwrap();
        assert_eq!((&heard, rest.as_str()), (b"hel", "lo there"));
    }

    #[tokio::test]
    async fn who_says_nothing_has_not_let_us_in() {
        let (server, client) = tokio::io::duplex(16);
        drop(server);
        assert!(Greeted::wait(client).await.is_err());
    }
}
