//! Closing a connection so that its last words arrive.
//!
//! A socket that is closed while it holds bytes that nobody read makes the kernel send a reset, and a reset makes the other side throw away
//! what it has received and not read yet: among it the GOAWAY that says which calls were not looked at. So after the last byte has been
//! written, what still comes is read and dropped until the other side closes too.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

/// Who has not closed by then is not waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Reads at a time, so that a peer that goes on sending does not keep the task to itself.
const AT_ONCE: usize = 16;

/// A connection that is closed in that way; for servers.
#[derive(Debug)]
pub struct Lingering<T> {
    inner: T,
    /// Set when everything is written.
    patience: Option<Pin<Box<Sleep>>>,
}

impl<T> Lingering<T> {
    /// Around the whole connection, TLS included.
    pub fn new(inner: T) -> Self {
        Self {
            inner,
            patience: None,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Lingering<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<T> {
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
        let this = &mut *self;
        let patience = match &mut this.patience {
            Some(patience) => patience,
            none => {
                ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
                none.insert(Box::pin(tokio::time::sleep(PATIENCE)))
            }
        };
        if patience.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut dropped = [0; 4_096];
        for _ in 0..AT_ONCE {
            let mut buffer = ReadBuf::new(&mut dropped);
            let read = ready!(Pin::new(&mut this.inner).poll_read(cx, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::Lingering;

    #[tokio::test]
    async fn the_last_words_arrive_though_more_was_sent_than_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        client.write_all(&[7; 100_000]).await.unwrap();
        let server = tokio::spawn(async move {
            let mut server = Lingering::new(stream);
            server.write_all(b"good-bye").await?;
            server.shutdown().await
        });
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "good-bye");
        drop(client);
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn who_does_not_close_is_not_waited_for() {
        let (client, server) = tokio::io::duplex(64);
        let started = std::time::Instant::now();
        Lingering::new(server).shutdown().await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(10));
        drop(client);
    }
}
