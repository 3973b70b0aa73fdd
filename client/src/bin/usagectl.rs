//! The `usagectl` process: runs the command line with the standard streams.

use std::{
    io::{IsTerminal as _, stderr, stdin, stdout},
    process::ExitCode,
};
use usage_client::cli::{Streams, run};

#[tokio::main]
async fn main() -> ExitCode {
    let (mut out, mut err) = (stdout(), stderr());
    let streams = Streams {
        input: Box::new(stdin()),
        are_terminals: out.is_terminal() && err.is_terminal(),
        width: out
            .is_terminal()
            .then(|| terminal_size::terminal_size_of(&out))
            .flatten()
            .map(|(width, _)| width.0),
        out: &mut out,
        err: &mut err,
        stop: Box::pin(stop()),
    };
    run(std::env::args_os(), streams).await.into()
}

/// Returns the exit code of a signal that asks to stop. Until it is first polled, a signal ends the process.
async fn stop() -> u8 {
    const INTERRUPTED: u8 = 130;
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        const TERMINATED: u8 = 143;
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            return tokio::select! {
                Ok(()) = tokio::signal::ctrl_c() => INTERRUPTED,
                _ = terminate.recv() => TERMINATED,
            };
        }
    }
    match tokio::signal::ctrl_c().await {
        Ok(()) => INTERRUPTED,
        // Signals cannot be caught, so they end the process.
        Err(_) => std::future::pending().await,
    }
}
