//! Durable recording: kill this at any point and start it again, and each unit is counted once.
//!
//! Start a server (`cargo run -- serve`), then
//! `cargo run -p usage-client --example durable -- some/folder`.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::{error::Error, time::Duration};
use usage_client::UsageClient;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = std::env::var("USAGE_SERVER").unwrap_or("http://127.0.0.1:50051".to_owned());
    let folder = std::env::args().nth(1).ok_or("usage: durable FOLDER")?;
    let recorder = UsageClient::connect_lazy(server)?
        .recorder(["api_calls"])
        .spool(folder)
        .start()?;
    println!(
        "an earlier process left {} units",
        recorder.stats().recovered.units
    );

    for _ in 0..1_000 {
        recorder.record("acct_42", "api_calls", 1);
    }
    // From here on the usage survives even a power failure.
    recorder.persist().await?;

    let stats = recorder.shutdown(Duration::from_secs(10)).await?;
    println!("counted {} units", stats.counted.units);
    Ok(())
}
