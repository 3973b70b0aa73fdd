//! What is shown and compared before and after reports are folded.

use chrono::{DateTime, TimeDelta, Utc};
use fake_stripe::InvoiceSnapshot;
use tempfile::TempDir;
use usage_client::{
    Correct, ExplainInvoice, Get, Granularity, MeterUsage, PutAccount, Reason, Reconcile,
    ReportState,
};

use super::{
    AGE, COUNTED, begin, files, fold_in_a_folder, ledger, let_pass, name_of, use_and_close,
    verified, with_stripe,
};
use crate::support::world::{World, at, billing::BASIC, on_both_engines};

on_both_engines!(
    folded_usage_is_shown_as_before,
    folded_usage_is_reconciled_as_before,
    a_correction_finds_folded_usage,
);

/// The account's usage around the time at which it was counted, in several zones and at every granularity.
async fn shown(world: &World) -> Vec<Vec<MeterUsage>> {
    let mut shown = Vec::new();
    for (zone, granularity) in [
        ("UTC", Granularity::Hour),
        ("UTC", Granularity::Day),
        ("Asia/Kathmandu", Granularity::Hour),
        ("Asia/Kathmandu", Granularity::Day),
        ("Asia/Kathmandu", Granularity::Month),
        ("America/St_Johns", Granularity::Day),
        ("America/Los_Angeles", Granularity::Month),
    ] {
        let query = Get::account("free")
            .period(at("2027-03-09T00:00:00Z"), at("2027-03-14T00:00:00Z"))
            .granularity(granularity)
            .time_zone(zone)
            .round_outward();
        shown.push(world.client().get(query).await.unwrap().meters);
    }
    shown
}

async fn folded_usage_is_shown_as_before(mut world: World) {
    let folder = begin(&mut world).await;
    let begun = world.now();
    world.move_clocks(begun + TimeDelta::days(3)).await;
    for round in 1..=2 {
        for number in 0..30 {
            let time = begun + TimeDelta::minutes(i64::from(number) * 97);
            let meter = ["api_calls", "tokens"][usize::from(number % 3 == 0)];
            let quantity = i64::from(number) + 1;
            world.count_of("free", meter, quantity * round, time).await;
        }
        world.report_all().await;
    }
    let reports = world.reports("free").await;
    assert_eq!(reports.len(), 60);
    let (before, totals) = (shown(&world).await, ledger(&world).await);

    let (reports, archives) = ("usage_folded_reports_total", "usage_report_archives_total");
    let counted = (world.metric(reports).await, world.metric(archives).await);
    let_pass(&mut world, AGE).await;
    assert_eq!(world.count_rows("usage_reports").await, 0);
    assert_eq!(world.count_rows("folded_reports").await, 30, "one a window");
    assert_eq!(shown(&world).await, before);
    let after = ledger(&world).await;
    assert_eq!(after, totals);
    assert!(after.is_balanced());
    assert_eq!(after.reports["not_billable"], 3 * 30 * 31 / 2);
    assert_eq!(files(folder.path()).len(), 1);
    let (is_well, printed) = verified(&world, folder.path()).await;
    assert!(is_well, "{printed}");
    assert!(
        printed.contains("1 archives with 60 reports, 0 with a difference"),
        "{printed}"
    );
    world
        .wait_until_metric_is_above(reports, counted.0 + 59)
        .await;
    world.wait_until_metric_is_above(archives, counted.1).await;
    world.finish().await;
}

/// The rows of a billing period.
async fn reconciled(world: &World) -> Vec<usage_client::ReconciledUsage> {
    let period = Reconcile::new()
        .account("acct")
        .period(at("2027-04-09T12:00:00Z"), at("2027-04-10T12:00:00Z"));
    let mut rows = world.client().reconcile(period).await.unwrap().rows;
    rows.retain(|row| row.meter == "api_calls");
    rows
}

/// Asserts that the line of the period that ends at a time consists of folded reports, which name their archive. A row is
/// found by its id, and the other reports with these ids are not.
async fn assert_explained(world: &World, folder: &TempDir, end: DateTime<Utc>, ids: &[String]) {
    let period = ExplainInvoice::of_account("acct").period(end - TimeDelta::hours(1), end);
    let explained = world.client().explain_invoice(period.clone()).await;
    let explained = explained.unwrap();
    assert_eq!(explained.next_page_token, None);
    let [line] = explained.lines.as_slice() else {
        panic!("{explained:#?}");
    };
    assert_eq!((line.reported, line.invoiced), (120, Some(120)));
    let shown: Vec<(i64, i64, Option<i64>)> = line
        .reports
        .iter()
        .map(|row| (row.folded, row.report.quantity, row.without_key))
        .collect();
    assert_eq!(shown, [(3, 115, Some(115)), (1, 5, Some(5))]);
    let name = name_of(&files(folder.path())[0]);
    for row in &line.reports {
        let archive = row.archive.as_ref().unwrap();
        assert_eq!(
            (&archive.file, archive.quantity),
            (&name, row.report.quantity)
        );
        assert_eq!(archive.sha256.len(), 64);
        assert!(row.increments.is_empty() && row.report.identifier.is_empty());
        assert_eq!(row.report.state, ReportState::Invoiced);
    }
    let mut found = Vec::new();
    for id in ids {
        let one = period.clone().report(id);
        match world.client().explain_invoice(one).await {
            Ok(page) => found.extend(page.lines.into_iter().flat_map(|line| line.reports)),
            Err(error) => {
                assert_eq!(error.reason(), Some(&Reason::ReportNotFound), "{error}");
                assert!(error.to_string().contains(&name), "{error}");
            }
        }
    }
    found.sort_by_key(|row| row.report.window.start);
    assert_eq!(found, line.reports);
}

async fn folded_usage_is_reconciled_as_before(mut world: World) {
    const START: &str = "2027-03-10T13:12:34Z";
    const END: &str = "2027-04-10T13:12:34Z";
    let folder = fold_in_a_folder(&mut world).await;
    let now = at(END) - TimeDelta::days(1);
    world.start_subscribed(now, &[BASIC], at(START)).await;
    // Several reports of one window, and one in the window that the period's end divides.
    for quantity in [100, 11, 4] {
        world.count("acct", quantity, now).await;
        world.report_all().await;
        world.wait_until_sent("acct").await;
        world.move_clocks(world.now() + TimeDelta::minutes(1)).await;
    }
    let soon = at(END) - TimeDelta::minutes(2);
    world.advance_to(soon, TimeDelta::hours(6)).await;
    let last = at(END) - TimeDelta::milliseconds(1);
    world.count("acct", 5, last).await;
    world.advance_past_draft(at(END)).await;
    let invoiced = "usage_reports WHERE state = 'invoiced'";
    world.advance_until_found(invoiced).await;
    world.wait_until_idle().await;
    let before = reconciled(&world).await;
    assert_eq!(before.len(), 1, "{before:#?}");
    assert!(before[0].is_equal(), "{before:#?}");
    assert_eq!(before[0].reported, 120);
    let totals = ledger(&world).await;
    let reports = world.reports("acct").await.into_iter();
    let ids: Vec<String> = reports.map(|report| report.id).collect();

    let_pass(&mut world, AGE + TimeDelta::days(1)).await;
    assert_eq!(world.count_rows(invoiced).await, 0);
    assert_eq!(world.count_rows("folded_reports").await, 2);
    assert_eq!(ledger(&world).await, totals);
    let (is_well, printed) = verified(&world, folder.path()).await;
    assert!(is_well, "{printed}");
    assert_explained(&world, &folder, at(END), &ids).await;
    with_stripe(&mut world).await;
    // Compared with its invoices once more, it is equal as before.
    world.wait_until_compared().await;
    assert_eq!(reconciled(&world).await, before);

    // The invoice becomes void: its usage is taken back, and found in the comparison.
    let invoice = invoice_of(&world).await;
    let path = format!("/v1/invoices/{}/void", invoice.id);
    world.call_stripe("POST", &path, &[]).await;
    world.move_clocks(world.now() + TimeDelta::days(8)).await;
    let void = "invoice_comparisons WHERE finding = 'void' AND reported = 120";
    world
        .wait_until("a void invoice", async || world.count_rows(void).await == 1)
        .await;
    let taken_back = "folded_reports WHERE state = 'confirmed'";
    assert_eq!(world.count_rows(taken_back).await, 2);
    assert_eq!(reconciled(&world).await[0].reported, 120);
    let (is_well, printed) = verified(&world, folder.path()).await;
    assert!(is_well, "{printed}");
    world.finish().await;
}

/// The invoice with usage.
async fn invoice_of(world: &World) -> InvoiceSnapshot {
    let invoices = world.stripe().invoices().await.unwrap();
    let has_usage = |invoice: &InvoiceSnapshot| invoice.lines.iter().any(|line| line.quantity > 0);
    invoices.into_iter().find(has_usage).expect("an invoice")
}

async fn a_correction_finds_folded_usage(mut world: World) {
    let _folder = begin(&mut world).await;
    let client = world.client();
    world.create_customers(&["cus_acct"]).await;
    let link = PutAccount::stripe("acct", "cus_acct").bill_from(at(COUNTED) - TimeDelta::days(3));
    client.put_account(link).await.unwrap();
    // Without a billing period, all usage since the link is one total.
    world.count("acct", 100, at(COUNTED)).await;
    world.report_all().await;
    world.stop().await;
    let stamp = at(COUNTED).timestamp_millis();
    let invoiced = format!(
        "UPDATE usage_reports SET state = 'invoiced', event_timestamp = {stamp}, first_sent_at = {stamp}, reported_at = {stamp} \
         WHERE account_id = 'acct'"
    );
    world.execute_sql(&invoiced).await;
    world.start_server().await;
    use_and_close(&world, 1, at(COUNTED)).await;
    let_pass(&mut world, AGE).await;
    assert_eq!(world.count_rows("usage_reports").await, 0);

    let correct =
        |quantity| Correct::new("acct", quantity, "counted twice").key(quantity.to_string());
    let client = world.client();
    client.correct(correct(-80)).await.unwrap();
    let refused = client.correct(correct(-21)).await.unwrap_err();
    assert_eq!(refused.reason(), Some(&Reason::BelowZero), "{refused}");
    client.correct(correct(-20)).await.unwrap();
    // A correction stays, however old it is: its key names it.
    let_pass(&mut world, TimeDelta::days(100)).await;
    assert_eq!(world.count_rows("usage_reports").await, 2);
    world.finish().await;
}
