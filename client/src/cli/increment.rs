//! `usagectl increment`

use super::{
    Streams,
    exit::Failure,
    output::{grouped, print_json},
    time_arg,
};
use crate::{Error, Increment, UsageClient};
use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::json;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Who used it
    account: String,
    /// What was used; the server's default meter unless given
    #[arg(long, short)]
    meter: Option<String>,
    /// How much
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(i64).range(1..=1_000_000_000_000))]
    quantity: i64,
    /// A name under which it counts once, however often it is sent; a new one unless given
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// When it was used, such as 2026-03-01T12:00:00Z; now unless given
    #[arg(long, value_name = "TIME", value_parser = time_arg::parse_utc)]
    timestamp: Option<DateTime<Utc>>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(
    client: &UsageClient,
    arguments: Arguments,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let mut increment = Increment::new(&arguments.account).quantity(arguments.quantity);
    if let Some(meter) = &arguments.meter {
        increment = increment.meter(meter);
    }
    if let Some(key) = arguments.key {
        increment = increment.key(key);
    }
    if let Some(at) = arguments.timestamp {
        increment = increment.timestamp(at);
    }
    let counted = client.increment(increment).await.map_err(with_key)?;
    let key = counted.key.unwrap_or_default();
    if arguments.json {
        let answer = json!({
            "account_id": arguments.account,
            "meter": arguments.meter,
            "quantity": arguments.quantity,
            "key": key,
            "duplicate": counted.duplicate,
        });
        return print_json(&answer, streams);
    }
    let how = if counted.duplicate {
        "had been counted before; nothing was added"
    } else {
        "counted"
    };
    let quantity = grouped(arguments.quantity);
    let meter = arguments
        .meter
        .map_or_else(String::new, |meter| format!(" {meter}"));
    let account = arguments.account;
    Ok(writeln!(
        streams.out,
        "{quantity}{meter} of {account} {how} (key {key})"
    )?)
}

/// The next attempt is safe only under the key of this one.
fn with_key(error: Error) -> Failure {
    let key = error.idempotency_key();
    let advice = key
        .filter(|_| error.may_have_taken_effect())
        .map(|key| format!("It may have been counted. Try again with --key {key}"));
    Failure::Call(error, advice)
}
