//! SIGINT and SIGTERM as a wish to end, for commands that would go on for ever.

use std::{io, time::Duration};

use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::timeout,
};

use crate::error::Error;

/// Knows whether somebody wants this process to end.
pub(super) struct Stop {
    runtime: Runtime,
    wanted: watch::Receiver<bool>,
}

impl Stop {
    /// Begins to listen; from here on a signal no longer ends the process by itself.
    pub(super) fn listen() -> Result<Self, Error> {
        let start = || -> io::Result<Self> {
            let runtime = Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?;
            let (want, wanted) = watch::channel(false);
            let guard = runtime.enter();
            let (mut interrupt, mut terminate) =
                (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
            drop(guard);
            runtime.spawn(async move {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                // Nobody is left to tell if every receiver is gone.
                let _ = want.send(true);
                want.closed().await;
            });
            Ok(Self { runtime, wanted })
        };
        start().map_err(|error| Error::from_io("signals", &error))
    }

    /// Runs work that asks for itself whether the end is wanted.
    pub(super) fn run<T, F: Future<Output = T>>(&self, work: impl FnOnce(watch::Receiver<bool>) -> F) -> T {
        self.runtime.block_on(work(self.wanted.clone()))
    }

    /// Whether the end is wanted.
    pub(super) fn wanted(&self) -> bool {
        *self.wanted.borrow()
    }

    /// Waits, but no longer than until the end is wanted.
    pub(super) fn sleep(&mut self, time: Duration) {
        let Self { runtime, wanted } = self;
        // Both ends of the wait are the same to the caller, who asks `wanted` next.
        let _ = runtime.block_on(async { timeout(time, wanted.wait_for(|wanted| *wanted)).await.map(drop) });
    }
}
