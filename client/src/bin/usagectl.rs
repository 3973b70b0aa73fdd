//! The process around the command line: its streams and its exit code.

use std::{
    io::{stderr, stdout},
    process::ExitCode,
};

#[tokio::main]
async fn main() -> ExitCode {
    let (mut out, mut err) = (stdout(), stderr());
    usage_client::cli::run(std::env::args_os(), &mut out, &mut err)
        .await
        .into()
}
