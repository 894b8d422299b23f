//! A process from start to exit.

use std::{
    fmt,
    io::{self, Write as _},
    panic::AssertUnwindSafe,
    pin::pin,
    process::ExitCode,
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use types::{Fault, chain};

use crate::{
    ConfigError, Configuration, Error, Runtime, Settings, config::MISCONFIGURED, shutdown::Signals,
    telemetry::Telemetry,
};

/// What a service may take beyond its drain to end its tasks and send its last metrics, before it is cut off.
const GRACE: Duration = Duration::from_secs(5);
/// How long the last traces may take to be sent.
const FLUSH: Duration = Duration::from_secs(3);

/// Runs one service until it is told to stop, in this order:
///
/// 1. logs and traces, so that all that follows can speak;
/// 2. the crypto provider;
/// 3. the whole configuration is checked; every problem is named, and nothing has been touched yet. With `--check-config` it is printed
///    without its secrets, and that is all;
/// 4. signals are heeded, both ports taken, the admin port answers (not ready), the identity is loaded: [`Runtime::bind`];
/// 5. `start`, which ends in [`Runtime::serve`]: ready;
/// 6. SIGTERM or SIGINT: not ready; after the propagation delay no new calls; running ones have the drain timeout. A second signal ends the
///    process at once;
/// 7. metrics and traces are sent; the exit code is 0 if `start` succeeded and was told to stop, 2 for the configuration, 1 otherwise.
pub fn run<C, F, Fut>(name: &'static str, settings: Settings, config: C, start: F) -> ExitCode
where
    C: Configuration,
    F: FnOnce(C, Runtime) -> Fut,
    Fut: Future<Output = Result<(), Error>>,
{
    host(name, settings, config, async |config, settings, stop| {
        let runtime = Runtime::bind(name, &settings, proto::DESCRIPTOR_SET).await?;
        runtime.stop_after(stop, settings.propagation());
        start(config, runtime).await
    })
}

/// Runs a process that makes its services itself, as `trailmesh up` does: the order of [`run`], but `main` binds every [`Runtime`] it
/// wants. It is told to stop by the token, has [`Settings::drain_timeout`] from then, and should end only then.
pub fn host<C, F>(name: &'static str, settings: Settings, config: C, main: F) -> ExitCode
where
    C: Configuration,
    F: AsyncFnOnce(C, Settings, CancellationToken) -> Result<(), Error>,
{
    let mut problems = settings.problems();
    problems.extend(config.problems(&settings));
    if settings.check_config {
        return print(name, &settings, &config, &problems);
    }
    let tokio = match tokio::runtime::Builder::new_multi_thread()
        .thread_name(name)
        .enable_all()
        .build()
    {
        Ok(tokio) => tokio,
        Err(error) => return give_up(name, &error),
    };
    let entered = tokio.enter();
    let telemetry = match Telemetry::start(name, &settings, problems.is_empty()) {
        Ok(telemetry) => telemetry,
        Err(error) => return give_up(name, &error),
    };
    drop(entered);
    // An error says that the process has one already, as in a test; there is only the one of ring.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let code = if problems.is_empty() {
        tokio.block_on(supervise(name, settings, config, main))
    } else {
        for problem in &problems {
            tracing::error!(
                setting = problem.name,
                remedy = problem.remedy,
                "the configuration cannot be used: {}",
                problem.problem
            );
        }
        ExitCode::from(MISCONFIGURED)
    };
    telemetry.finish(FLUSH);
    // Work that blocks is not waited for: it has no part in the answer of any call.
    tokio.shutdown_background();
    code
}

async fn supervise<C, F>(name: &'static str, settings: Settings, config: C, main: F) -> ExitCode
where
    F: AsyncFnOnce(C, Settings, CancellationToken) -> Result<(), Error>,
{
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "signals cannot be heeded");
            return ExitCode::FAILURE;
        }
    };
    let stop = CancellationToken::new();
    let bound = settings.propagation() + settings.drain_timeout + GRACE;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "{name} starts");
    // Futures of services are large: on the heap, not in every future around them.
    let main = Box::pin(main(config, settings, stop.clone()));
    let mut main = pin!(AssertUnwindSafe(main).catch_unwind());
    let signal = tokio::select! {
        ended = &mut main => {
            return match ended {
                Ok(Ok(())) => {
                    tracing::error!("{name} ended without being told to");
                    ExitCode::FAILURE
                }
                ended => told(name, ended.ok()),
            };
        }
        signal = signals.next() => signal,
    };
    tracing::info!(signal, "{name} stops");
    stop.cancel();
    tokio::select! {
        ended = &mut main => told(name, ended.ok()),
        signal = signals.next() => {
            tracing::warn!(signal, "{name} ends at once: told to stop a second time");
            ExitCode::FAILURE
        }
        () = tokio::time::sleep(bound) => {
            tracing::error!("{name} is cut off: it did not end {} s after it was told to", bound.as_secs());
            ExitCode::FAILURE
        }
    }
}

/// Logs how it ended. Nothing stands for a panic, which has logged itself.
fn told(name: &str, ended: Option<Result<(), Error>>) -> ExitCode {
    match ended {
        Some(Ok(())) => {
            tracing::info!("{name} has stopped");
            ExitCode::SUCCESS
        }
        Some(Err(error)) => {
            tracing::error!(reason = error.reason(), "{name} failed: {}", chain(&error));
            ExitCode::FAILURE
        }
        None => {
            tracing::error!("{name} failed: it panicked");
            ExitCode::FAILURE
        }
    }
}

/// `--check-config`: the configuration on standard output if it can be used, else its problems on standard error.
fn print(name: &str, settings: &Settings, config: &dyn fmt::Debug, problems: &[ConfigError]) -> ExitCode {
    let printed = if problems.is_empty() {
        writeln!(
            io::stdout(),
            "the configuration of {name} can be used:\n{settings:#?}\n{config:#?}"
        )
    } else {
        problems
            .iter()
            .try_for_each(|problem| writeln!(io::stderr(), "{problem}"))
    };
    match printed {
        Ok(()) if problems.is_empty() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(MISCONFIGURED),
        Err(_) => ExitCode::FAILURE,
    }
}

/// What goes wrong before there is a log.
fn give_up(name: &str, error: &dyn std::error::Error) -> ExitCode {
    // There is nowhere left to tell of an error stream that is closed.
    let _ = writeln!(io::stderr(), "{name} cannot start: {}", chain(error));
    ExitCode::FAILURE
}
