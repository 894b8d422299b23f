//! Bytes from one connection to another and back. A pair on which nothing moves holds no memory for it: what is read goes through a buffer of
//! the thread, and is kept only where the other side does not take it at once.
use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use chassis::Lingering;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// What is read at a time, and with that the most that is kept of one direction.
const PIECE: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; PIECE].into());
}

/// How many bytes went each way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    /// From the agent.
    pub(super) inwards: u64,
    /// To the agent.
    pub(super) outwards: u64,
}

/// Two connections that are one.
#[derive(Debug)]
pub(super) struct Splice<A, S> {
    agent: A,
    service: S,
    inwards: Way,
    outwards: Way,
}

impl<A, S> Splice<A, S>
where
    A: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// `first` was read from the agent already.
    pub(super) fn new(agent: A, service: S, first: Bytes) -> Self {
        Self {
            agent,
            service,
            inwards: Way::holding(first),
            outwards: Way::holding(Bytes::new()),
        }
    }

    /// What has been handed over.
    pub(super) fn moved(&self) -> Moved {
        Moved {
            inwards: self.inwards.moved,
            outwards: self.outwards.moved,
        }
    }

    /// Whether one side has nothing more to say.
    pub(super) fn is_half(&self) -> bool {
        self.inwards.ended || self.outwards.ended
    }

    /// Moves what can be moved; ready when both sides have ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inwards = self.inwards.poll(&mut self.agent, &mut self.service, cx)?;
        let outwards = self.outwards.poll(&mut self.service, &mut self.agent, cx)?;
        match (inwards, outwards) {
            (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    }

    /// Tells both sides that it is over.
    pub(super) async fn close(mut self) {
        let mut agent = Lingering::new(self.agent);
        // Whoever is gone already need not be told.
        let _ = tokio::join!(agent.shutdown(), self.service.shutdown());
    }
}

/// One direction.
#[derive(Debug)]
struct Way {
    held: Bytes,
    moved: u64,
    unflushed: bool,
    /// Its reader has come to the end.
    ended: bool,
    /// Its writer knows.
    told: bool,
}

impl Way {
    fn holding(held: Bytes) -> Self {
        Self {
            held,
            moved: 0,
            unflushed: false,
            ended: false,
            told: false,
        }
    }

    fn poll<R, W>(&mut self, from: &mut R, to: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            while !self.held.is_empty() {
                let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.held))?;
                self.wrote(written)?;
                self.held.advance(written);
            }
            if self.ended {
                if !self.told {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.told = true;
                }
                return Poll::Ready(Ok(()));
            }
            let read = SCRATCH.with_borrow_mut(|scratch| self.pass(from, to, scratch, cx));
            if read?.is_pending() {
                if self.unflushed {
                    ready!(Pin::new(&mut *to).poll_flush(cx))?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
        }
    }

    /// Reads once, and hands over what the other side takes at once.
    fn pass<R, W>(
        &mut self,
        from: &mut R,
        to: &mut W,
        scratch: &mut [u8],
        cx: &mut Context<'_>,
    ) -> io::Result<Poll<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut buffer = ReadBuf::new(scratch);
        if Pin::new(from).poll_read(cx, &mut buffer)?.is_pending() {
            return Ok(Poll::Pending);
        }
        let mut read = buffer.filled();
        self.ended = read.is_empty();
        while !read.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, read)? {
                Poll::Ready(written) => {
                    self.wrote(written)?;
                    read = read.get(written..).unwrap_or_default();
                }
                Poll::Pending => {
                    self.held = Bytes::copy_from_slice(read);
                    break;
                }
            }
        }
        Ok(Poll::Ready(()))
    }

    fn wrote(&mut self, bytes: usize) -> io::Result<()> {
        if bytes == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.moved += bytes as u64;
        self.unflushed = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Poll};

    use bytes::Bytes;
    use futures_util::FutureExt as _;
    use tokio::io::AsyncWriteExt as _;
    use tokio::io::{AsyncReadExt as _, duplex, split};

    use super::{Moved, PIECE, Splice};

    #[tokio::test]
    async fn every_byte_arrives_once_and_in_order_though_both_sides_are_slow() {
        let (mut agent, agent_side) = duplex(1_000);
        let (mut service, service_side) = duplex(300);
        let mut splice = Splice::new(agent_side, service_side, Bytes::from_static(b"first "));
        let text = |count: u32| (0..count).flat_map(u32::to_be_bytes).collect::<Vec<u8>>();
        let (up, down) = (text(50_000), text(30_000));
        let (sent_up, sent_down) = (up.clone(), down.clone());
        let moving = async {
            poll_fn(|cx| splice.poll(cx)).await.expect("no error");
            splice.moved()
        };
        let at_agent = async {
            let (mut read, mut write) = split(&mut agent);
            let mut got = Vec::new();
            let writing = async {
                write.write_all(&sent_up).await.expect("room");
                write.shutdown().await.expect("an end");
            };
            let (_, read) = tokio::join!(writing, read.read_to_end(&mut got));
            read.expect("no error");
            got
        };
        let at_service = async {
            let (mut read, mut write) = split(&mut service);
            let mut got = Vec::new();
            let writing = async {
                write.write_all(&sent_down).await.expect("room");
                write.shutdown().await.expect("an end");
            };
            let (_, read) = tokio::join!(writing, read.read_to_end(&mut got));
            read.expect("no error");
            got
        };
        let (moved, at_agent, at_service) = tokio::join!(moving, at_agent, at_service);
        assert_eq!(at_agent, down);
        assert_eq!(at_service, [&b"first "[..], &up].concat());
        let all = Moved {
            inwards: at_service.len() as u64,
            outwards: down.len() as u64,
        };
        assert_eq!(moved, all);
    }

    #[tokio::test]
    async fn no_more_is_taken_than_one_piece_that_the_other_side_does_not_read() {
        let (mut agent, agent_side) = duplex(3 * PIECE);
        let (service, service_side) = duplex(16);
        let mut splice = Splice::new(agent_side, service_side, Bytes::new());
        agent.write_all(&[7; 3 * PIECE]).await.expect("room");
        for _ in 0..100 {
            let waits = poll_fn(|cx| Poll::Ready(splice.poll(cx).is_pending())).await;
            assert!(waits);
        }
        assert_eq!(splice.moved().inwards, 16);
        assert_eq!(splice.inwards.held.len(), PIECE - 16);
        // The rest waits at the agent: one piece found room, no more.
        assert!(
            agent
                .write(&[7; 3 * PIECE])
                .now_or_never()
                .expect("room")
                .is_ok_and(|room| room == PIECE)
        );
        drop(service);
        let ended = poll_fn(|cx| splice.poll(cx)).await;
        assert!(ended.is_err(), "who reads no more ends both");
    }
}
