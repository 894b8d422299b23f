//! A wire between an agent and query, which counts what the agent sends, and can be shut.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{self, AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp},
    sync::watch,
};

pub(crate) struct Wire {
    /// Where the agent dials.
    pub(crate) address: SocketAddr,
    passed: Arc<AtomicU64>,
    most: watch::Sender<u64>,
}

impl Wire {
    /// One that is open.
    pub(crate) async fn to(query: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = Self {
            address: listener.local_addr().unwrap(),
            passed: Arc::default(),
            most: watch::Sender::new(u64::MAX),
        };
        let (passed, most) = (wire.passed.clone(), wire.most.subscribe());
        tokio::spawn(async move {
            while let Ok((agent, _)) = listener.accept().await {
                let query = TcpStream::connect(query).await.unwrap();
                let (mut from, mut back) = agent.into_split();
                let (mut answers, to) = query.into_split();
                tokio::spawn(async move { io::copy(&mut answers, &mut back).await });
                let (passed, most) = (passed.clone(), most.clone());
                tokio::spawn(async move { pass(&mut from, to, &passed, most).await });
            }
        });
        wire
    }

    /// How many bytes the agent has sent.
    pub(crate) fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }

    /// After so many bytes more nothing passes.
    pub(crate) fn shut_after(&self, bytes: u64) {
        self.most.send_replace(self.passed() + bytes);
    }

    /// All passes.
    pub(crate) fn open(&self) {
        self.most.send_replace(u64::MAX);
    }
}

async fn pass(
    from: &mut tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    passed: &AtomicU64,
    mut most: watch::Receiver<u64>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        let now = passed.load(Ordering::SeqCst) + count as u64;
        if most.wait_for(|most| now <= *most).await.is_err() {
            return Ok(());
        }
        passed.fetch_add(count as u64, Ordering::SeqCst);
        to.write_all(&buffer[..count]).await?;
    }
}
