//! `usagectl accounts plan` and `cancel`

use super::rows;
use crate::{
    CancelSubscription, ChangePlan, Changed, UsageClient,
    cli::{
        Streams,
        exit::Failure,
        output::{Format, rfc3339},
    },
};
use clap::{ArgGroup, Args};

#[derive(Debug, Args)]
pub(super) struct Plan {
    /// The account
    account: String,
    /// The prices to switch to, price_...; each replaces the item of the same meter
    #[arg(required = true, value_name = "PRICE")]
    prices: Vec<String>,
    /// Who requests it, kept for the record; by default the name of the API key
    #[arg(long, value_name = "NAME")]
    requested_by: Option<String>,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("when").required(true))]
pub(super) struct Cancel {
    /// The account
    account: String,
    /// Cancel immediately; usage that was not invoiced yet goes on a final invoice
    #[arg(long, group = "when")]
    now: bool,
    /// Cancel at the end of the billing period
    #[arg(long, group = "when")]
    at_period_end: bool,
    #[command(flatten)]
    end: End,
    /// Who requests it, kept for the record; by default the name of the API key
    #[arg(long, value_name = "NAME")]
    requested_by: Option<String>,
    #[command(flatten)]
    format: Format,
}

/// How an immediate end is invoiced.
#[derive(Debug, Args)]
struct End {
    /// Make no final invoice; refused if there is usage that was not invoiced yet
    #[arg(long, requires = "now")]
    no_invoice: bool,
    /// Credit items that were paid in advance for the remaining time
    #[arg(long, requires = "now")]
    prorate: bool,
}

pub(super) async fn plan(
    client: &UsageClient,
    plan: Plan,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let mut prices = plan.prices.into_iter();
    let mut change = ChangePlan::new(plan.account, prices.next().unwrap_or_default());
    for price in prices {
        change = change.price(price);
    }
    if let Some(name) = plan.requested_by {
        change = change.requested_by(name);
    }
    let changed = client.change_plan(change).await?;
    print(changed, "nothing had to change", plan.format, streams)
}

pub(super) async fn cancel(
    client: &UsageClient,
    cancel: Cancel,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let (call, without_change) = if cancel.now {
        let now = CancelSubscription::now(cancel.account);
        let now = now
            .invoice_now(!cancel.end.no_invoice)
            .prorate(cancel.end.prorate);
        (now, "it was cancelled before")
    } else {
        let later = CancelSubscription::at_period_end(cancel.account);
        (later, "it ends with its billing period")
    };
    let call = match cancel.requested_by {
        Some(name) => call.requested_by(name),
        None => call,
    };
    let changed = client.cancel_subscription(call).await?;
    print(changed, without_change, cancel.format, streams)
}

fn print(
    changed: Changed,
    without_change: &str,
    format: Format,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    match changed.change {
        Some(change) => writeln!(
            streams.err,
            "changed {}; usage from before {} is charged as before",
            change.subscription,
            rfc3339(change.boundary).as_str().unwrap_or_default()
        )?,
        None => writeln!(streams.err, "{without_change}")?,
    }
    rows([changed.account]).print(format, streams)
}
