//! `usagectl acknowledge`

use super::{
    Streams,
    exit::Failure,
    output::{Format, Rows, rfc3339},
};
use crate::{AcknowledgeDifference, UsageClient};
use clap::Args;
use serde_json::json;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The account
    account: String,
    /// The difference, as `usage-server doctor` and `usage-server reconcile` name it
    difference: String,
    /// Why it needs no more attention, such as how it was charged or credited
    #[arg(long)]
    reason: String,
    /// Who acknowledges it, kept for the record
    #[arg(long, value_name = "NAME", default_value = "usagectl")]
    requested_by: String,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn run(
    client: &UsageClient,
    arguments: Arguments,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let account = arguments.account;
    let call = AcknowledgeDifference::new(&account, arguments.difference, arguments.reason)
        .requested_by(arguments.requested_by);
    let done = client.acknowledge_difference(call).await?;
    if done.duplicate {
        writeln!(
            streams.err,
            "it was acknowledged already; nothing was changed"
        )?;
    }
    let one = done.difference;
    let (reason, by) = one
        .acknowledged
        .map_or((None, None), |by| (Some(by.reason), Some(by.requested_by)));
    let mut rows = Rows::new(&[
        "account_id",
        "item",
        "start",
        "end",
        "reported",
        "invoiced",
        "reason",
        "requested_by",
    ]);
    rows.push(vec![
        json!(account),
        json!(one.item),
        rfc3339(one.period.start),
        rfc3339(one.period.end),
        json!(one.reported),
        json!(one.invoiced),
        json!(reason),
        json!(by),
    ]);
    rows.print(arguments.format, streams)
}
