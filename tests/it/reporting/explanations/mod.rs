//! A unit is followed from its call to the invoice, and from the invoice to its call.

mod increments;
mod invoices;
mod limits;
mod pages;
mod turns;

use chrono::{DateTime, TimeDelta, Utc};
use usage_client::{
    Error, ExplainInvoice, ExplainedReport, FindIncrement, FoundIncrement, Increment,
    InvoiceExplanation,
};

use crate::support::world::{World, at};

const START: &str = "2027-03-10T13:12:34Z";
const END: &str = "2027-04-10T13:12:34Z";
/// A key as the shipped clients make them.
const UUID_KEY: &str = "0192f0c1-2b3c-7d4e-8f50-61728394a5b6";
const TEXT_KEY: &str = "order-7";

/// A day before the end of a billing period.
async fn begin(world: &mut World, prices: &[&str]) {
    let now = at(END) - TimeDelta::days(1);
    world.start_subscribed(now, prices, at(START)).await;
}

async fn count_keyed(world: &World, key: &str, quantity: i64, at: DateTime<Utc>) {
    let increment = Increment::new("acct").key(key).quantity(quantity);
    let counted = world.client().increment(increment.timestamp(at)).await;
    assert!(!counted.unwrap().duplicate);
}

async fn count_keyless(world: &World, quantity: i64, at: DateTime<Utc>) {
    let increment = Increment::new("acct").without_key().quantity(quantity);
    let counted = world.client().increment(increment.timestamp(at)).await;
    counted.unwrap();
}

async fn find(world: &World, key: &str) -> Result<FoundIncrement, Error> {
    let key = FindIncrement::new("acct", key);
    world.client().find_increment(key).await
}

/// The lines of the account's billing period that ends at [`END`].
fn period() -> ExplainInvoice {
    ExplainInvoice::of_account("acct").period(at(END) - TimeDelta::hours(1), at(END))
}

async fn explain(world: &World, selection: ExplainInvoice) -> InvoiceExplanation {
    let client = world.client();
    let explained = client.explain_whole_invoice(selection, 100_000).await;
    let explained = explained.unwrap();
    assert_eq!(explained.next_page_token, None);
    for line in &explained.lines {
        let reports = line.reports.iter();
        let reported = reports.filter(|report| report.report.reported);
        let reported: i64 = reported.map(|report| report.report.quantity).sum();
        assert_eq!(reported, line.reported, "{line:#?}");
        line.reports.iter().for_each(assert_whole);
    }
    explained
}

/// Asserts that the parts of a report are its quantity.
#[track_caller]
fn assert_whole(report: &ExplainedReport) {
    let increments: i64 = report.increments.iter().map(|one| one.quantity).sum();
    let whole = report.without_key.map(|rest| rest + increments);
    assert_eq!(whole, Some(report.report.quantity), "{report:#?}");
    assert_eq!(report.with_key, increments, "{report:#?}");
}

/// The keys and quantities of a report's increments, in the order of their quantities.
fn keys(report: &ExplainedReport) -> Vec<(String, i64)> {
    let increments = report.increments.iter();
    let mut keys: Vec<_> = increments
        .map(|one| (one.key.clone(), one.quantity))
        .collect();
    keys.sort_unstable_by_key(|(_, quantity)| *quantity);
    keys
}
