//! The `usagectl` process: runs the command line with the standard streams.

use std::{
    io::{IsTerminal as _, stderr, stdout},
    process::ExitCode,
};
use usage_client::cli::{Streams, run};

#[tokio::main]
async fn main() -> ExitCode {
    let (mut out, mut err) = (stdout(), stderr());
    let streams = Streams {
        are_terminals: out.is_terminal() && err.is_terminal(),
        out: &mut out,
        err: &mut err,
    };
    run(std::env::args_os(), streams).await.into()
}
