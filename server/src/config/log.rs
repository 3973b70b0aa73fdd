//! What the service tells of its requests, and to whom.

use clap::Args;

use crate::domain::share::Share;

/// What the service tells of its requests. The log goes to standard error.
#[derive(Args, Clone, Debug)]
pub struct LogConfig {
    /// The share of requests that have a line in the log when they end, from 0 to 1, such as 0.01. Default: none.
    #[arg(long, env = "LOG_REQUESTS", default_value = "0")]
    pub log_requests: Share,

    /// Where spans of requests, runs, changes and requests to Stripe are sent by OTLP over gRPC, such as
    /// `http://127.0.0.1:4317`. Default: nowhere.
    #[arg(long, env = "OTLP_ENDPOINT", value_parser = endpoint)]
    pub otlp_endpoint: Option<String>,

    /// The share of traces that are recorded, from 0 to 1, by their ids. A caller's `traceparent` can leave its own out.
    #[arg(long, env = "OTLP_SAMPLE", default_value = "1")]
    pub otlp_sample: Share,
}

fn endpoint(text: &str) -> Result<String, String> {
    let url = text.parse::<http::Uri>().ok();
    let is_valid = url.is_some_and(|url| {
        matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some()
    });
    if is_valid {
        Ok(text.to_owned())
    } else {
        Err("must be http://HOST:PORT or https://HOST:PORT".to_owned())
    }
}
