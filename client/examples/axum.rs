//! An HTTP API that is billed by the call.
//!
//! Start a server (`cargo run -- serve`), then
//! `cargo run -p usage-client --features tower --example axum`, and call it:
//! `curl -H 'x-account: acct_42' http://127.0.0.1:8080/hello`. Each call that succeeds counts one `api_calls`
//! of the account, as `usagectl get acct_42` shows. Ctrl-C and SIGTERM send pending usage and stop.

use axum::{Router, extract::Request, routing::get};
use std::{error::Error, time::Duration};
use tokio::signal::unix::{SignalKind, signal};
use usage_client::{Charge, UsageClient, UsageLayer};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = std::env::var("USAGE_SERVER").unwrap_or("http://127.0.0.1:50051".to_owned());
    let recorder = UsageClient::connect_lazy(server)?
        .recorder(["api_calls"])
        .start()?;

    // In production, take the account from the authenticated user, not from a header that any caller can set.
    let per_call = UsageLayer::new(recorder.clone(), |request: &Request| {
        let account = request.headers().get("x-account")?.to_str().ok()?;
        Some(Charge::new(account).meter("api_calls"))
    });
    let app = Router::new()
        .route("/hello", get(async || "hello"))
        .layer(per_call);

    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    eprintln!("listening on http://{}", listener.local_addr()?);
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let stopped = async move {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
    };
    axum::serve(listener, app)
        .with_graceful_shutdown(stopped)
        .await?;
    let stats = recorder.shutdown(Duration::from_secs(10)).await?;
    eprintln!("counted {} calls", stats.counted.calls);
    Ok(())
}
