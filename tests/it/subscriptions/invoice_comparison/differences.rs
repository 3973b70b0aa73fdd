//! Usage that Stripe has and no invoice charges as it should: the difference is told, and nothing is invoiced.

use std::time::Duration;

use chrono::TimeDelta;
use fake_stripe::NewSubscription;
use usage_client::{InvoiceFinding, ReportState};
use usage_server::commands::doctor::Severity;

use super::{
    END, START, USED, begin, change_invoice, comparison, expect_found, last_invoice,
    of_both_prices, replace_price, rows, states,
};
use crate::support::world::{
    World, at,
    billing::{BASIC, TOKENS},
    on_both_engines,
};

on_both_engines!(
    usage_of_a_removed_item_is_told,
    usage_after_a_draft_was_finalized_by_hand_is_told,
    totals_that_lag_beyond_the_draft_are_told,
    usage_that_a_replaced_price_loses_is_told,
    a_line_without_a_quantity_is_told_until_it_has_one,
    a_draft_that_is_kept_is_told,
    an_invoice_that_never_appears_is_told_within_days,
    a_replaced_price_waits_for_the_invoice_of_the_period,
);

async fn usage_of_a_removed_item_is_told(mut world: World) {
    begin(&mut world, &[BASIC, TOKENS]).await;
    world.count("acct", USED, world.now()).await;
    world.report_all().await;
    let subscriptions = world.stripe().subscriptions().await.unwrap();
    let items = &subscriptions[0].items;
    let calls = items.iter().find(|item| item.price == BASIC).unwrap();
    let remove = [
        ("items[0][id]", &*calls.id),
        ("items[0][deleted]", "true"),
        ("proration_behavior", "none"),
    ];
    world
        .call_stripe("POST", "/v1/subscriptions/sub_acct", &remove)
        .await;
    world.advance_past_draft(at(END)).await;
    let row = format!(
        "invoice_comparisons WHERE meter = 'api_calls' AND finding = 'differs' AND reported = {USED} AND invoiced = 0"
    );
    world.advance_until_found(&row).await;
    let rows = rows(&world, at(END) - TimeDelta::days(1)).await;
    let told = rows.iter().find(|row| !row.invoices.is_empty()).unwrap();
    assert!(!told.is_equal());
    assert_eq!(told.stripe_total, Ok(USED), "Stripe has it, on no invoice");
    assert!(told.invoices[0].invoices.is_empty());
    let (severity, line) = world.doctor_says(None, "invoices").await;
    assert_eq!(severity, Severity::Bad);
    assert!(line.contains("0 invoiced (no invoice)"), "{line}");
    assert_eq!(states(&world).await, [ReportState::Confirmed]);
    world.finish().await;
}

async fn usage_after_a_draft_was_finalized_by_hand_is_told(mut world: World) {
    begin(&mut world, &[BASIC]).await;
    world.count("acct", USED, world.now()).await;
    world.advance_past(at(END), TimeDelta::minutes(20)).await;
    change_invoice(&world, "finalize", &[]).await;
    // As far as is known here, the invoice is still a draft.
    world.count("acct", 6, at(END) - TimeDelta::hours(2)).await;
    world.report_all().await;
    world.assert_invoiced(&[USED]).await;
    let found = expect_found(&world, InvoiceFinding::Differs, USED + 6, Some(USED)).await;
    assert_eq!(found.invoices[0].id, last_invoice(&world).await.id);
    assert_eq!(
        states(&world).await,
        [ReportState::Confirmed, ReportState::Confirmed]
    );
    // It is told once.
    let told = found.changed_at;
    world
        .advance_to(world.now() + TimeDelta::days(2), TimeDelta::hours(12))
        .await;
    world.wait_until_compared().await;
    assert_eq!(comparison(&world, END).await.0.changed_at, told);
    world.finish().await;
}

async fn totals_that_lag_beyond_the_draft_are_told(mut world: World) {
    let stripe = world.stripe();
    let delay = Duration::from_hours(5);
    stripe.set_summary_delay(delay).await.unwrap();
    stripe.set_invoices_lag(true).await.unwrap();
    begin(&mut world, &[BASIC]).await;
    world.count("acct", USED, world.now()).await;
    world.report_all().await;
    world
        .advance_to(at(END) - TimeDelta::minutes(50), TimeDelta::hours(6))
        .await;
    world.count("acct", 6, world.now()).await;
    world.advance_past_draft(at(END)).await;
    world.assert_invoiced(&[USED]).await;
    // Nothing is said before the totals are complete.
    world.wait_until_compared().await;
    assert_eq!(world.count_rows("invoice_comparisons").await, 0);
    expect_found(&world, InvoiceFinding::Differs, USED + 6, Some(USED)).await;
    world.finish().await;
}

async fn usage_that_a_replaced_price_loses_is_told(mut world: World) {
    world.with_prices_at(at(END) - TimeDelta::days(1)).await;
    let classic = NewSubscription {
        id: "sub_acct".to_owned(),
        customer: "cus_acct".to_owned(),
        prices: vec![BASIC.to_owned()],
        anchor: Some(at(START).timestamp()),
        classic: true,
        ..NewSubscription::default()
    };
    world.subscribe_as(classic).await;
    world.link_to_subscription("acct").await;
    world.count("acct", USED, world.now()).await;
    world.report_all().await;
    replace_price(&world).await;
    world.count("acct", 7, world.now()).await;
    world.advance_past_draft(at(END)).await;
    assert_eq!(
        of_both_prices(&world).await,
        [
            (InvoiceFinding::Differs, USED, Some(0)),
            (InvoiceFinding::Equal, 7, Some(7))
        ]
    );
    let (severity, line) = world.doctor_says(None, "invoices").await;
    assert_eq!(severity, Severity::Bad);
    assert!(line.contains("120 reported, 0 invoiced"), "{line}");
    world.finish().await;
}

async fn a_line_without_a_quantity_is_told_until_it_has_one(mut world: World) {
    let stripe = world.stripe();
    begin(&mut world, &[BASIC]).await;
    stripe.set_hide_quantities(true).await.unwrap();
    world.count("acct", USED, world.now()).await;
    world.advance_past_draft(at(END)).await;
    expect_found(&world, InvoiceFinding::Unreadable, USED, None).await;
    assert_eq!(states(&world).await, [ReportState::Confirmed]);
    stripe.set_hide_quantities(false).await.unwrap();
    world
        .advance_to(world.now() + TimeDelta::hours(25), TimeDelta::hours(5))
        .await;
    expect_found(&world, InvoiceFinding::Equal, USED, Some(USED)).await;
    world.finish().await;
}

async fn a_draft_that_is_kept_is_told(mut world: World) {
    begin(&mut world, &[BASIC]).await;
    let keep = [("pause_collection[behavior]", "keep_as_draft")];
    world
        .call_stripe("POST", "/v1/subscriptions/sub_acct", &keep)
        .await;
    world.count("acct", USED, world.now()).await;
    world.advance_past_draft(at(END)).await;
    world.wait_until_compared().await;
    assert_eq!(world.count_rows("invoice_comparisons").await, 0);
    world
        .advance_to(at(END) + TimeDelta::days(4), TimeDelta::hours(20))
        .await;
    let kept = format!(
        "invoice_comparisons WHERE finding = 'kept_draft' AND reported = {USED} AND invoiced = 0"
    );
    world.advance_until_found(&kept).await;
    let (found, is_equal) = comparison(&world, END).await;
    assert_eq!(
        (found.finding, is_equal),
        (InvoiceFinding::KeptDraft, false)
    );
    // Somebody wants it so: it is told, and is no defect.
    let (severity, line) = world.doctor_says(None, "kept drafts").await;
    assert_eq!(severity, Severity::Warn);
    for part in [
        "pause_collection",
        "120 reported, 0 invoiced",
        &found.invoices[0].id,
    ] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    let (severity, line) = world.doctor_says(None, "invoices").await;
    assert_eq!(severity, Severity::Ok, "{line}");
    assert_eq!(states(&world).await, [ReportState::Confirmed]);
    change_invoice(&world, "finalize", &[]).await;
    expect_found(&world, InvoiceFinding::Equal, USED, Some(USED)).await;
    world.finish().await;
}

/// Usage two days after the start of a billing period.
async fn begin_early(world: &mut World) {
    let now = at(START) + TimeDelta::days(2);
    world.start_subscribed(now, &[BASIC], at(START)).await;
    world.count("acct", USED, world.now()).await;
    world.report_all().await;
}

async fn an_invoice_that_never_appears_is_told_within_days(mut world: World) {
    begin_early(&mut world).await;
    world.move_clocks(world.now() + TimeDelta::hours(2)).await;
    world.wait_until_idle().await;
    // As if Stripe had begun another period, and made no invoice.
    let end = (world.now() - TimeDelta::hours(1)).timestamp_millis();
    for sql in [
        format!(
            "INSERT INTO billing_periods (account_id, item, period_start, period_end, recorded_at, subscription, meter, price, \
             is_trial, invoice_state) SELECT account_id, item, {end}, period_end, recorded_at, subscription, meter, price, \
             is_trial, invoice_state FROM billing_periods"
        ),
        format!(
            "UPDATE billing_periods SET period_end = {end}, invoice_state = 'final' WHERE period_start < {end}"
        ),
    ] {
        world.execute_sql(&sql).await;
    }
    world
        .advance_to(world.now() + TimeDelta::hours(94), TimeDelta::hours(20))
        .await;
    world.wait_until_compared().await;
    assert_eq!(world.count_rows("invoice_comparisons").await, 0);
    let told = format!(
        "invoice_comparisons WHERE finding = 'differs' AND reported = {USED} AND invoiced = 0"
    );
    world.advance_until_found(&told).await;
    assert!(world.now() < at(START) + TimeDelta::days(7));
    let (severity, line) = world.doctor_says(None, "invoices").await;
    assert_eq!(severity, Severity::Bad);
    assert!(line.contains("0 invoiced (no invoice)"), "{line}");
    world.finish().await;
}

async fn a_replaced_price_waits_for_the_invoice_of_the_period(mut world: World) {
    begin_early(&mut world).await;
    replace_price(&world).await;
    world.count("acct", 7, world.now()).await;
    // What was used before is on no invoice for weeks.
    world
        .advance_to(world.now() + TimeDelta::days(10), TimeDelta::days(1))
        .await;
    world.wait_until_compared().await;
    assert_eq!(world.count_rows("invoice_comparisons").await, 0);
    let tried = "billing_periods WHERE compared_at IS NOT NULL";
    assert_eq!(world.count_rows(tried).await, 1);
    world
        .advance_to(at(END) - TimeDelta::hours(12), TimeDelta::days(5))
        .await;
    world.advance_past_draft(at(END)).await;
    let equal = "(SELECT COUNT(*) AS number FROM invoice_comparisons WHERE finding = 'equal' AND reported IN (120, 7)) c \
                 WHERE number = 2";
    world.advance_until_found(equal).await;
    world.finish().await;
}
