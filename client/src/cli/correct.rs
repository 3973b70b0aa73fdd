//! `usagectl correct`

use super::{
    Streams,
    exit::Failure,
    output::{Format, Rows, grouped},
    reports, time_arg,
};
use crate::{Correct, UsageClient};
use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The account
    account: String,
    /// The units to add, or to take away if it is negative
    #[arg(allow_negative_numbers = true)]
    quantity: i64,
    /// The meter; by default the server's default meter
    #[arg(long, short)]
    meter: Option<String>,
    /// Why, kept with the correction
    #[arg(long)]
    reason: String,
    /// The time that it applies to, such as 2026-03-01T12:00:00Z; by default now
    #[arg(long, value_name = "TIME", value_parser = time_arg::parse_utc)]
    timestamp: Option<DateTime<Utc>>,
    /// The idempotency key: the same key is entered once
    #[arg(long)]
    key: Option<String>,
    /// Who enters it, kept for the record; by default the name of the API key
    #[arg(long, value_name = "NAME")]
    requested_by: Option<String>,
    /// Only show what would be entered, and the totals that it would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn run(
    client: &UsageClient,
    arguments: Arguments,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let mut correction = Correct::new(arguments.account, arguments.quantity, arguments.reason);
    if let Some(meter) = arguments.meter {
        correction = correction.meter(meter);
    }
    if let Some(at) = arguments.timestamp {
        correction = correction.timestamp(at);
    }
    if let Some(name) = arguments.requested_by {
        correction = correction.requested_by(name);
    }
    if let Some(key) = arguments.key {
        correction = correction.key(key);
    }
    if arguments.dry_run {
        correction = correction.dry_run();
    }
    let key = correction.ensure_key().map(str::to_owned);
    let done = client.correct(correction).await.map_err(|error| {
        let advice = key.filter(|_| error.may_have_taken_effect());
        let advice = advice.map(|key| {
            format!(
                "It may have been entered. Try again with --key {key}, so that it is entered once."
            )
        });
        Failure::Call(error, advice)
    })?;
    if done.duplicate {
        writeln!(
            streams.err,
            "a correction with this key was entered before; nothing was changed"
        )?;
    }
    for total in &done.totals {
        let end = |at: Option<DateTime<Utc>>| {
            at.map_or("an open end".to_owned(), |at| {
                at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
            })
        };
        writeln!(
            streams.err,
            "total from {} to {}: {} before, {} after",
            end(total.start),
            end(total.end),
            grouped(total.before),
            grouped(total.after)
        )?;
    }
    if arguments.dry_run {
        writeln!(streams.err, "this was a dry run; nothing was entered")?;
    }
    let mut rows = Rows::new(&reports::COLUMNS);
    rows.push(reports::row(&done.report));
    rows.print(arguments.format, streams)
}
