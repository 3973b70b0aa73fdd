//! From the first increment to the report: the calls that a typical caller uses.
//!
//! Start a server (`cargo run -- serve`), then `cargo run -p usage-client --example journey`.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use usage_client::{ErrorKind, ForceReport, Granularity, ListReports, PutAccount, UsageClient};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = std::env::var("USAGE_SERVER").unwrap_or("http://127.0.0.1:50051".to_owned());
    let client = UsageClient::connect(server).await?;

    // Counting needs only your id for the account. A repeated key counts nothing.
    for _ in 0..2 {
        let counted = client
            .increment("acct_42")
            .quantity(5)
            .key("request-1")
            .await?;
        println!("counted; it was counted before: {}", counted.duplicate);
    }

    // Acknowledged usage is visible at once.
    let usage = client.get("acct_42").granularity(Granularity::Day).await?;
    for meter in &usage.meters {
        println!("{}: {} {}", meter.meter, meter.quantities.total, meter.unit);
    }

    // A free account is counted and never billed; `PutAccount::stripe` links one to a Stripe customer.
    client.put_account(PutAccount::free("acct_42")).await?;

    // The server reports on a schedule; this reports now.
    match client
        .force_report(ForceReport::accounts(["acct_42"]))
        .await
    {
        Ok(run) => println!("{:?}", run.summary().await?),
        Err(error) if error.kind() == ErrorKind::ReportingDisabled => {
            println!("the server has no Stripe key, so it reports nothing");
        }
        Err(error) => return Err(error.into()),
    }
    for report in client
        .list_reports(ListReports::new().account("acct_42"))
        .await?
        .reports
    {
        println!(
            "{} {} {}",
            report.window.start, report.quantity, report.state
        );
    }
    Ok(())
}
