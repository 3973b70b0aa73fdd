//! Comparisons that wait because something at Stripe cannot be read, or because no server compares: they are told with the
//! reason, and made as soon as they can be.

use chrono::TimeDelta;
use fake_stripe::Fault;
use usage_client::{InvoiceFinding, ReportState};
use usage_server::commands::doctor::Severity;

use super::{END, START, USED, begin, expect_found, invoiced, last_invoice, rows, states};
use crate::support::world::{
    World, at,
    billing::{BASIC, SEATS},
    on_both_engines,
};

on_both_engines!(
    comparisons_of_unreadable_invoices_are_told_with_the_reason,
    a_refused_key_is_told,
    a_comparison_that_is_not_made_is_told,
    a_quantity_of_a_wrong_type_is_a_difference_of_its_line,
    usage_that_cannot_be_verified_is_no_loss,
    an_unreadable_invoice_delays_only_what_it_may_charge,
    more_invoices_than_are_read_are_told,
    an_account_that_the_database_refuses_delays_no_other,
);

const NEXT_END: &str = "2027-05-10T13:12:34Z";

/// A period that has ended, with usage on its final invoice, shortly before the comparison.
async fn ended(world: &mut World) {
    begin(world, &[BASIC]).await;
    world.count("acct", USED, world.now()).await;
    world.advance_past(at(END), TimeDelta::minutes(63)).await;
}

async fn alter(world: &World, object: &str, field: &str, json: Option<&str>) {
    let fault = Fault::alter(object, field, json).on_path("/v1/invoices");
    world.stripe().script(fault.always()).await.unwrap();
}

/// Asserts that the comparison waits for a reason, on every channel.
async fn assert_waits(world: &World, expected: Severity, reason: &str) {
    world.wait_until_compared().await;
    assert_eq!(world.count_rows("invoice_comparisons").await, 0);
    let (severity, line) = world.doctor_says(None, "comparisons").await;
    assert_eq!(severity, expected, "{line}");
    for part in ["1 billing periods", "acct, api_calls", reason] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    let rows = rows(world, at(END) - TimeDelta::hours(2)).await;
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert!(!rows[0].is_equal());
    let told = rows[0].waiting[0].reason.as_deref().unwrap_or_default();
    assert!(told.contains(reason), "{told}");
    assert_eq!(rows[0].waiting[0].period.end, at(END));
    world
        .wait_until("a waiting comparison", async || {
            world.metric("usage_invoice_comparisons_waiting").await >= 1
        })
        .await;
}

/// Asserts that the comparison is made once the faults are over.
async fn assert_recovers(world: &World) {
    world.stripe().clear_faults().await.unwrap();
    expect_found(world, InvoiceFinding::Equal, USED, Some(USED)).await;
    let (severity, line) = world.doctor_says(None, "comparisons").await;
    assert_eq!(severity, Severity::Ok, "{line}");
}

async fn comparisons_of_unreadable_invoices_are_told_with_the_reason(mut world: World) {
    ended(&mut world).await;
    let invoice = last_invoice(&world).await;
    let line = invoice.lines[0].id.as_str();
    let reason = format!("invoice {} cannot be read", invoice.id);
    // Of the invoice, of its price, and of a line.
    for (number, (object, field, json)) in [
        (invoice.id.as_str(), "status", Some("7")),
        (line, "pricing", Some(r#"{"type": 7}"#)),
        (line, "period", None),
    ]
    .into_iter()
    .enumerate()
    {
        alter(&world, object, field, json).await;
        world
            .advance_to(world.now() + TimeDelta::hours(25), TimeDelta::hours(5))
            .await;
        let expected = if number == 0 {
            Severity::Warn
        } else {
            Severity::Bad
        };
        assert_waits(&world, expected, &reason).await;
        world.stripe().clear_faults().await.unwrap();
    }
    assert_recovers(&world).await;
    world.finish().await;
}

async fn a_refused_key_is_told(mut world: World) {
    ended(&mut world).await;
    let refused = Fault::status(403).on_path("/v1/invoices").always();
    world.stripe().script(refused).await.unwrap();
    world
        .advance_to(world.now() + TimeDelta::hours(3), TimeDelta::hours(1))
        .await;
    assert_waits(&world, Severity::Warn, "403").await;
    world
        .advance_to(world.now() + TimeDelta::hours(24), TimeDelta::hours(6))
        .await;
    assert_waits(&world, Severity::Bad, "403").await;
    assert_recovers(&world).await;
    world.finish().await;
}

async fn a_comparison_that_is_not_made_is_told(mut world: World) {
    ended(&mut world).await;
    world.stop().await;
    for (hours, expected) in [(2, Severity::Ok), (5, Severity::Warn), (26, Severity::Bad)] {
        world.move_clocks(at(END) + TimeDelta::hours(hours)).await;
        let (severity, line) = world.doctor_says(None, "comparisons").await;
        assert_eq!(severity, expected, "{line}");
        let is_told = line.contains("the job has not tried");
        assert_eq!(is_told, expected != Severity::Ok, "{line}");
    }
    world.start_server().await;
    world.wait_until_idle().await;
    assert_recovers(&world).await;
    world.finish().await;
}

async fn a_quantity_of_a_wrong_type_is_a_difference_of_its_line(mut world: World) {
    ended(&mut world).await;
    let invoice = last_invoice(&world).await;
    let line = invoice.lines[0].id.as_str();
    for (field, json) in [
        ("quantity", r#""many""#),
        ("quantity", "{}"),
        ("quantity_decimal", "120.5"),
    ] {
        alter(&world, line, field, Some(json)).await;
        expect_found(&world, InvoiceFinding::Unreadable, USED, None).await;
        assert_eq!(states(&world).await, [ReportState::Confirmed]);
        world.stripe().clear_faults().await.unwrap();
        world
            .advance_to(world.now() + TimeDelta::hours(25), TimeDelta::hours(5))
            .await;
        expect_found(&world, InvoiceFinding::Equal, USED, Some(USED)).await;
    }
    world.finish().await;
}

async fn usage_that_cannot_be_verified_is_no_loss(mut world: World) {
    begin(&mut world, &[BASIC]).await;
    world.count("acct", USED, world.now()).await;
    world.report_all().await;
    let unreadable = Fault::undecodable().on_path("/v1/billing/meters/");
    world.stripe().script(unreadable.always()).await.unwrap();
    world.advance_past_draft(at(END)).await;
    world
        .advance_to(at(END) + TimeDelta::hours(98), TimeDelta::hours(20))
        .await;
    world.wait_until_compared().await;
    let found =
        "invoice_comparisons WHERE finding = 'unverified' AND reported = 0 AND invoiced = 120";
    assert_eq!(world.count_rows(found).await, 1);
    let (severity, line) = world.doctor_says(None, "invoices").await;
    assert_eq!(severity, Severity::Bad);
    assert!(line.contains("unverified: 0 reported"), "{line}");
    assert_recovers(&world).await;
    assert_eq!(states(&world).await, [ReportState::Invoiced]);
    world.finish().await;
}

/// Usage in the next billing period, and a final invoice of it.
async fn advance_past_next(world: &World) {
    world.count("acct", 5, world.now()).await;
    world
        .advance_to(at(NEXT_END) - TimeDelta::hours(12), TimeDelta::days(5))
        .await;
    world
        .advance_past(at(NEXT_END), TimeDelta::minutes(63))
        .await;
}

fn waiting_until(end: &str) -> String {
    let end = at(end).timestamp_millis();
    format!("billing_periods WHERE compare_failing_since IS NOT NULL AND period_end = {end}")
}

async fn an_unreadable_invoice_delays_only_what_it_may_charge(mut world: World) {
    invoiced(&mut world, &[BASIC]).await;
    let first = last_invoice(&world).await;
    advance_past_next(&world).await;
    alter(&world, &last_invoice(&world).await.id, "status", Some("7")).await;
    world.advance_until_found(&waiting_until(NEXT_END)).await;
    // The earlier period is still compared.
    let path = format!("/v1/invoices/{}/void", first.id);
    world.call_stripe("POST", &path, &[]).await;
    let void = format!("invoice_comparisons WHERE finding = 'void' AND reported = {USED}");
    world.advance_until_found(&void).await;
    assert_eq!(world.count_rows(&waiting_until(NEXT_END)).await, 1);
    assert_eq!(world.count_rows(&waiting_until(END)).await, 0);
    world.stripe().clear_faults().await.unwrap();
    let equal = "invoice_comparisons WHERE finding = 'equal' AND reported = 5";
    world.advance_until_found(equal).await;
    assert_eq!(world.count_rows(&waiting_until(NEXT_END)).await, 0);
    world.finish().await;
}

async fn more_invoices_than_are_read_are_told(mut world: World) {
    const MAX_READ: usize = 1_000;
    begin(&mut world, &[BASIC, SEATS]).await;
    world.count("acct", USED, world.now()).await;
    world.report_all().await;
    let subscriptions = world.stripe().subscriptions().await.unwrap();
    let mut items = subscriptions[0].items.iter();
    let seats = items.find(|item| item.price == SEATS).unwrap().id.clone();
    // Each change of the seats makes an invoice.
    for number in 0..=MAX_READ {
        let quantity = if number % 2 == 0 { "2" } else { "1" };
        let change = [
            ("items[0][id]", seats.as_str()),
            ("items[0][quantity]", quantity),
            ("proration_behavior", "always_invoice"),
        ];
        world
            .call_stripe("POST", "/v1/subscriptions/sub_acct", &change)
            .await;
    }
    let invoices = world.stripe().invoices().await.unwrap();
    assert!(invoices.len() > MAX_READ, "{}", invoices.len());
    world.advance_past(at(END), TimeDelta::minutes(63)).await;
    world
        .advance_to(world.now() + TimeDelta::hours(3), TimeDelta::hours(1))
        .await;
    let reason = format!("there are more than {MAX_READ} invoices of sub_acct");
    assert_waits(&world, Severity::Warn, &reason).await;
    assert_eq!(states(&world).await, [ReportState::Confirmed]);
    // Those of the next period can all be read.
    advance_past_next(&world).await;
    let equal = "invoice_comparisons WHERE finding = 'equal' AND reported = 5";
    world.advance_until_found(equal).await;
    let (severity, line) = world.doctor_says(None, "comparisons").await;
    assert_eq!(severity, Severity::Bad);
    assert!(line.contains(&reason), "{line}");
    assert_eq!(world.count_rows(&waiting_until(END)).await, 1);
    world.finish().await;
}

async fn an_account_that_the_database_refuses_delays_no_other(mut world: World) {
    begin(&mut world, &[BASIC]).await;
    world.subscribe("other", &[BASIC], at(START)).await;
    world.link_to_subscription("other").await;
    world.count("acct", USED, world.now()).await;
    world.count("other", 5, world.now()).await;
    world.advance_past(at(END), TimeDelta::minutes(63)).await;
    let end = at(END).timestamp_millis();
    let unknown = format!(
        "INSERT INTO invoice_comparisons (account_id, item, period_start, period_end, subscription, customer, meter, finding, \
         reported, changed_at) SELECT account_id, item, period_start, period_end, 'sub_acct', 'cus_acct', meter, 'nonsense', 1, 1 \
         FROM billing_periods WHERE account_id = 'acct' AND period_end = {end}"
    );
    world.execute_sql(&unknown).await;
    // It comes first, by its name.
    let equal =
        "invoice_comparisons WHERE account_id = 'other' AND finding = 'equal' AND reported = 5";
    world.advance_until_found(equal).await;
    let (severity, line) = world.doctor_says(None, "comparisons").await;
    assert_eq!(severity, Severity::Warn, "{line}");
    for part in [
        "1 billing periods",
        "acct, api_calls",
        "the database refused",
    ] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    assert_eq!(world.count_rows(&waiting_until(END)).await, 1);
    world
        .execute_sql("DELETE FROM invoice_comparisons WHERE finding = 'nonsense'")
        .await;
    let repaired = format!(
        "invoice_comparisons WHERE account_id = 'acct' AND finding = 'equal' AND reported = {USED}"
    );
    world.advance_until_found(&repaired).await;
    assert_eq!(world.count_rows(&waiting_until(END)).await, 0);
    world.finish().await;
}
