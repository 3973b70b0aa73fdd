//! Counting from a program without async code: a small runtime sends usage in the background.
//!
//! Start a server (`cargo run -- serve`), then `cargo run -p usage-client --example blocking`.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::{error::Error, thread, time::Duration};
use tokio::runtime::Builder;
use usage_client::UsageClient;

fn main() -> Result<(), Box<dyn Error>> {
    let server = std::env::var("USAGE_SERVER").unwrap_or("http://127.0.0.1:50051".to_owned());
    // One thread is enough to send for the whole program.
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;

    // Only creating the client and the recorder, and calls with a response, need the runtime.
    let (client, recorder) = runtime.block_on(async {
        let client = UsageClient::connect_lazy(server)?;
        let recorder = client.recorder(["api_calls"]).start()?;
        Ok::<_, usage_client::Error>((client, recorder))
    })?;

    // Recording is an ordinary call, from any thread.
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..1_000 {
                    recorder.record("acct_42", "api_calls", 1);
                }
            });
        }
    });

    let stats = runtime.block_on(recorder.shutdown(Duration::from_secs(10)))?;
    println!("counted {} units", stats.counted.units);
    let usage = runtime.block_on(async { client.get("acct_42").await })?;
    for meter in &usage.meters {
        println!("{}: {}", meter.meter, meter.quantities.total);
    }
    Ok(())
}
