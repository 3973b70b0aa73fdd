//! The usage in Stripe's totals, compared with the lines of final invoices: equal usage is invoiced, and anything else is
//! told with both figures.

use chrono::{DateTime, TimeDelta, Utc};
use fake_stripe::{Fault, InvoiceSnapshot};
use usage_client::{
    ChangePlan, InvoiceComparison, InvoiceFinding, PutAccount, Reconcile, ReconciledUsage,
    ReportState,
};
use usage_server::commands::doctor::Severity;

use crate::support::world::{
    World, at,
    billing::{BASIC, PRO, SEATS},
    on_both_engines,
};

mod acknowledgements;
mod differences;
mod late_answers;
mod overlapping;
mod price_splits;
mod uncompared;
mod waiting;

const START: &str = "2027-03-10T13:12:34Z";
const END: &str = "2027-04-10T13:12:34Z";
/// Dear enough that the invoice is to be paid, so that it can become void.
const USED: i64 = 120;

on_both_engines!(
    usage_on_a_final_invoice_is_invoiced,
    usage_around_a_replaced_price_is_invoiced,
    a_plan_change_is_invoiced_at_once,
    usage_of_a_customer_that_changed_accounts_is_invoiced,
    a_void_invoice_takes_its_usage_back,
    an_uncollectible_invoice_is_shown_until_it_is_paid,
    invoices_that_cannot_be_read_are_read_later,
);

/// A day before the end of a billing period.
async fn begin(world: &mut World, prices: &[&str]) {
    let now = at(END) - TimeDelta::days(1);
    world.start_subscribed(now, prices, at(START)).await;
}

/// The rows of the account's default meter around a time.
async fn rows(world: &World, around: DateTime<Utc>) -> Vec<ReconciledUsage> {
    let period = Reconcile::new()
        .account("acct")
        .period(around - TimeDelta::hours(1), around + TimeDelta::hours(1));
    let page = world.client().reconcile(period).await.unwrap();
    let mut rows = page.rows;
    rows.retain(|row| row.meter == "api_calls");
    rows
}

/// The only comparison of the period that ends at a time.
async fn comparison(world: &World, end: &str) -> (InvoiceComparison, bool) {
    let mut rows = rows(world, at(end) - TimeDelta::hours(2)).await;
    assert_eq!(rows.len(), 1, "{rows:#?}");
    let row = rows.remove(0);
    let is_equal = row.is_equal();
    assert_eq!(row.invoices.len(), 1, "{row:#?}");
    (row.invoices.into_iter().next().unwrap(), is_equal)
}

/// Waits until a comparison has this result, and asserts what people see of it.
async fn expect_found(
    world: &World,
    finding: InvoiceFinding,
    reported: i64,
    invoiced: Option<i64>,
) -> InvoiceComparison {
    let name = format!("{finding:?}").to_lowercase();
    let figure = invoiced.map_or("IS NULL".to_owned(), |units| format!("= {units}"));
    let row = format!(
        "invoice_comparisons WHERE meter = 'api_calls' AND finding = '{name}' AND reported = {reported} \
         AND invoiced {figure}"
    );
    let differences = format!(r#"usage_invoice_differences_total{{finding="{name}"}}"#);
    let is_difference = finding != InvoiceFinding::Equal;
    // Read before the row is looked for: a comparison may end in between.
    let mut before = 0;
    if is_difference {
        before = world.metric(&differences).await;
    }
    // It may be found already.
    if world.count_rows(&row).await > 0 {
        before = 0;
    }
    world.advance_until_found(&row).await;
    let (found, is_equal) = comparison(world, END).await;
    assert_eq!(
        (found.finding, found.reported, found.invoiced),
        (finding, reported, invoiced)
    );
    assert_eq!(is_equal, finding == InvoiceFinding::Equal);
    let (severity, line) = world.doctor_says(None, "invoices").await;
    if finding == InvoiceFinding::Equal {
        assert_eq!(severity, Severity::Ok, "{line}");
    } else {
        let is_decided = matches!(
            finding,
            InvoiceFinding::Void | InvoiceFinding::Uncollectible
        );
        let expected = if is_decided {
            Severity::Warn
        } else {
            Severity::Bad
        };
        assert_eq!(severity, expected, "{line}");
        let invoiced = invoiced.map_or("unknown".to_owned(), |units| units.to_string());
        let parts = [
            format!("{name}: {reported} reported, {invoiced} invoiced"),
            "acct".to_owned(),
        ];
        let ids = found.invoices.iter().map(|invoice| invoice.id.clone());
        for part in parts.into_iter().chain(ids) {
            assert!(line.contains(&part), "{part} is not in {line}");
        }
        world.wait_until_metric_is_above(&differences, before).await;
    }
    found
}

async fn states(world: &World) -> Vec<ReportState> {
    let reports = world.reports("acct").await;
    reports.iter().map(|report| report.state).collect()
}

async fn last_invoice(world: &World) -> InvoiceSnapshot {
    let invoices = world.stripe().invoices().await.unwrap();
    invoices.into_iter().next_back().expect("an invoice")
}

/// Does something with the last invoice as in Stripe's dashboard.
async fn change_invoice(world: &World, what: &str, form: &[(&str, &str)]) {
    let path = format!("/v1/invoices/{}/{what}", last_invoice(world).await.id);
    world.call_stripe("POST", &path, form).await;
}

async fn invoiced(world: &mut World, prices: &[&str]) {
    begin(world, prices).await;
    world.count("acct", USED, world.now()).await;
    world.advance_past_draft(at(END)).await;
    expect_found(world, InvoiceFinding::Equal, USED, Some(USED)).await;
    assert_eq!(states(world).await, [ReportState::Invoiced]);
}

async fn usage_on_a_final_invoice_is_invoiced(mut world: World) {
    // Seats are licensed: their lines are not compared.
    invoiced(&mut world, &[BASIC, SEATS]).await;
    let report = world.reports("acct").await.remove(0);
    assert!(report.reported && report.confirmed_at.is_some());
    assert_eq!(world.usage("acct").await, (USED, USED, 0, 0));
    let (found, _) = comparison(&world, END).await;
    let invoice = last_invoice(&world).await;
    assert_eq!(found.price, BASIC);
    assert_eq!(found.period.end, at(END));
    assert_eq!(found.invoices.len(), 1);
    assert_eq!(
        (&found.invoices[0].id, &*found.invoices[0].status),
        (&invoice.id, "open")
    );
    // Each line is stored as finance needs it.
    let line = format!(
        "invoice_lines WHERE account_id = 'acct' AND invoice = '{}' AND quantity = {USED} AND amount = {} \
         AND currency = 'usd' AND price = '{BASIC}'",
        invoice.id,
        invoice
            .lines
            .iter()
            .find(|line| line.price == BASIC)
            .unwrap()
            .amount
    );
    assert_eq!(world.count_rows(&line).await, 1);
    assert_eq!(world.count_rows("invoice_lines").await, 1);
    // A paid invoice stays as it is, and is read for the last time some days later.
    change_invoice(&world, "pay", &[("paid_out_of_band", "true")]).await;
    world
        .advance_to(at(END) + TimeDelta::days(5), TimeDelta::hours(20))
        .await;
    world
        .advance_until_found(
            "billing_periods WHERE compared_at IS NOT NULL AND compare_again_at IS NULL",
        )
        .await;
    assert_eq!(states(&world).await, [ReportState::Invoiced]);
    world.finish().await;
}

/// Replaces the price of the only item as in Stripe's dashboard.
async fn replace_price(world: &World) {
    let item = world.stripe().subscriptions().await.unwrap()[0].items[0]
        .id
        .clone();
    let swap = [("items[0][id]", item.as_str()), ("items[0][price]", PRO)];
    world
        .call_stripe("POST", "/v1/subscriptions/sub_acct", &swap)
        .await;
    world.move_clocks(world.now() + TimeDelta::minutes(2)).await;
    world
        .wait_until_subscription("acct", |known| known.periods[0].price == PRO)
        .await;
}

/// The findings and figures of the two prices, the old one first.
async fn of_both_prices(world: &World) -> Vec<(InvoiceFinding, i64, Option<i64>)> {
    world
        .advance_until_found(
            "(SELECT COUNT(*) AS number FROM invoice_comparisons) c WHERE number = 2",
        )
        .await;
    let mut found = Vec::new();
    for row in rows(world, at(END) - TimeDelta::hours(23)).await {
        for one in row.invoices {
            found.push((one.finding, one.reported, one.invoiced));
        }
    }
    found
}

async fn usage_around_a_replaced_price_is_invoiced(mut world: World) {
    begin(&mut world, &[BASIC]).await;
    world.count("acct", USED, world.now()).await;
    world.report_all().await;
    // What was used before goes on the next invoice.
    replace_price(&world).await;
    world.count("acct", 7, world.now()).await;
    world.advance_past_draft(at(END)).await;
    let equal = |units| (InvoiceFinding::Equal, units, Some(units));
    assert_eq!(of_both_prices(&world).await, [equal(USED), equal(7)]);
    let invoiced = [ReportState::Invoiced];
    world.wait_until_reports_are("acct", &invoiced).await;
    world.finish().await;
}

async fn a_plan_change_is_invoiced_at_once(mut world: World) {
    begin(&mut world, &[BASIC]).await;
    world.count("acct", USED, world.now()).await;
    let change = ChangePlan::new("acct", PRO);
    let client = world.client();
    world
        .while_clock_moves(client.change_plan(change))
        .await
        .unwrap();
    // Long before the end of the billing period.
    world
        .advance_until_found("invoice_comparisons WHERE finding = 'equal' AND reported = 120")
        .await;
    assert!(world.now() < at(END));
    assert_eq!(states(&world).await, [ReportState::Invoiced]);
    world.finish().await;
}

async fn usage_of_a_customer_that_changed_accounts_is_invoiced(mut world: World) {
    begin(&mut world, &[BASIC]).await;
    world.count("acct", USED, world.now()).await;
    world.report_all().await;
    let client = world.client();
    client.put_account(PutAccount::free("acct")).await.unwrap();
    world.move_clocks(world.now() + TimeDelta::hours(1)).await;
    let now = world.now();
    let link = PutAccount::stripe("heir", "cus_acct").bill_from(now);
    client.put_account(link).await.unwrap();
    world.count("heir", 7, world.now()).await;
    world.advance_past_draft(at(END)).await;
    world.assert_invoiced(&[USED + 7]).await;
    // Stripe sums by customer, so both accounts are compared with the whole line.
    let both = "(SELECT COUNT(*) AS number FROM invoice_comparisons WHERE finding = 'equal' AND reported = 127) c \
                WHERE number = 2";
    world.advance_until_found(both).await;
    assert_eq!(world.count_rows("invoice_comparisons").await, 2);
    for account in ["acct", "heir"] {
        let invoiced = [ReportState::Invoiced];
        world.wait_until_reports_are(account, &invoiced).await;
    }
    world.finish().await;
}

async fn a_void_invoice_takes_its_usage_back(mut world: World) {
    invoiced(&mut world, &[BASIC]).await;
    world.receive_webhooks().await;
    change_invoice(&world, "void", &[]).await;
    // At once, because of the webhook.
    world
        .wait_until_reports_are("acct", &[ReportState::Confirmed])
        .await;
    let found = expect_found(&world, InvoiceFinding::Void, USED, Some(0)).await;
    assert_eq!(found.invoices[0].status, "void");
    world.finish().await;
}

async fn an_uncollectible_invoice_is_shown_until_it_is_paid(mut world: World) {
    invoiced(&mut world, &[BASIC]).await;
    // Without a webhook it is found within a day.
    change_invoice(&world, "mark_uncollectible", &[]).await;
    world
        .advance_to(world.now() + TimeDelta::hours(25), TimeDelta::hours(5))
        .await;
    let found = expect_found(&world, InvoiceFinding::Uncollectible, USED, Some(0)).await;
    assert_eq!(found.invoices[0].status, "uncollectible");
    assert_eq!(states(&world).await, [ReportState::Confirmed]);
    change_invoice(&world, "pay", &[("paid_out_of_band", "true")]).await;
    world
        .advance_to(world.now() + TimeDelta::hours(25), TimeDelta::hours(5))
        .await;
    expect_found(&world, InvoiceFinding::Equal, USED, Some(USED)).await;
    assert_eq!(states(&world).await, [ReportState::Invoiced]);
    world.finish().await;
}

async fn invoices_that_cannot_be_read_are_read_later(mut world: World) {
    begin(&mut world, &[BASIC]).await;
    world.count("acct", USED, world.now()).await;
    world.advance_past(at(END), TimeDelta::minutes(63)).await;
    let broken = Fault::status(500).on_path("/v1/invoices");
    world.stripe().script(broken.times(1_000)).await.unwrap();
    world
        .advance_to(world.now() + TimeDelta::hours(3), TimeDelta::hours(1))
        .await;
    world.wait_until_compared().await;
    assert_eq!(world.count_rows("invoice_comparisons").await, 0);
    world.stripe().clear_faults().await.unwrap();
    expect_found(&world, InvoiceFinding::Equal, USED, Some(USED)).await;
    world.finish().await;
}
