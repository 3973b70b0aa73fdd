//! A price that was replaced at Stripe before the sync found it: the usage between is charged at the new price. Nothing is
//! lost, and no advice is to bill it again.

use chrono::TimeDelta;
use fake_stripe::Fault;
use usage_client::InvoiceFinding;
use usage_server::commands::doctor::Severity;

use super::{END, USED, begin, of_both_prices};
use crate::support::world::{
    World, at,
    billing::{BASIC, PRO},
    on_both_engines,
};

on_both_engines!(
    a_price_replaced_before_the_sync_found_it_loses_nothing,
    a_price_replaced_in_a_period_that_has_ended_loses_nothing,
    a_loss_at_a_replaced_price_is_still_told,
    a_period_known_by_its_invoice_alone_has_the_price_of_its_line,
);

/// Replaces the price of the only item as in Stripe's dashboard.
async fn replace_price(world: &World, price: &str) {
    let item = world.stripe().subscriptions().await.unwrap()[0].items[0]
        .id
        .clone();
    let swap = [("items[0][id]", item.as_str()), ("items[0][price]", price)];
    world
        .call_stripe("POST", "/v1/subscriptions/sub_acct", &swap)
        .await;
}

/// Usage at the old price, and after a replacement that the sync cannot read.
async fn begin_without_sync(world: &mut World) {
    begin(world, &[BASIC]).await;
    world.count("acct", USED, world.now()).await;
    world.report_all().await;
    let broken = Fault::status(500).on_path("/v1/subscriptions");
    let broken = broken.on_method("GET").always();
    world.stripe().script(broken).await.unwrap();
    replace_price(world, PRO).await;
    // In another window.
    world
        .move_clocks(world.now() + TimeDelta::minutes(70))
        .await;
    world.count("acct", 7, world.now()).await;
    world.report_all().await;
}

async fn let_sync_find(world: &World) {
    world.stripe().clear_faults().await.unwrap();
    world.move_clocks(world.now() + TimeDelta::minutes(2)).await;
    world
        .wait_until_subscription("acct", |known| {
            known.periods.iter().any(|period| period.price == PRO)
        })
        .await;
}

/// Asserts that the doctor tells a split, and no loss.
async fn assert_only_split(world: &World) {
    let (severity, line) = world.doctor_says(None, "price splits").await;
    assert_eq!(severity, Severity::Warn);
    assert!(
        line.contains("price_split: 127 reported, 120 invoiced"),
        "{line}"
    );
    assert!(line.contains("charge nothing again"), "{line}");
    let (severity, line) = world.doctor_says(None, "invoices").await;
    assert_eq!(severity, Severity::Ok, "{line}");
    let losses = "invoice_comparisons WHERE finding = 'differs'";
    assert_eq!(world.count_rows(losses).await, 0);
}

async fn a_price_replaced_before_the_sync_found_it_loses_nothing(mut world: World) {
    begin_without_sync(&mut world).await;
    let_sync_find(&world).await;
    world.count("acct", 5, world.now()).await;
    world.advance_past_draft(at(END)).await;
    let split = InvoiceFinding::PriceSplit;
    assert_eq!(
        of_both_prices(&world).await,
        [(split, USED + 7, Some(USED)), (split, 5, Some(12))]
    );
    assert_only_split(&world).await;
    world.finish().await;
}

async fn a_price_replaced_in_a_period_that_has_ended_loses_nothing(mut world: World) {
    begin_without_sync(&mut world).await;
    for minutes in [-20, 1, 40, 70, 80] {
        world
            .move_clocks(at(END) + TimeDelta::minutes(minutes))
            .await;
    }
    // Nothing is said before the subscription was read again.
    world.wait_until_compared().await;
    assert_eq!(world.count_rows("invoice_comparisons").await, 0);
    let (_, line) = world.doctor_says(None, "comparisons").await;
    assert!(line.contains("was not read since"), "{line}");
    let_sync_find(&world).await;
    let split =
        "invoice_comparisons WHERE finding = 'price_split' AND reported = 127 AND invoiced = 120";
    world.advance_until_found(split).await;
    assert_only_split(&world).await;
    world.finish().await;
}

async fn a_loss_at_a_replaced_price_is_still_told(mut world: World) {
    begin_without_sync(&mut world).await;
    let_sync_find(&world).await;
    world.advance_past(at(END), TimeDelta::minutes(20)).await;
    super::change_invoice(&world, "finalize", &[]).await;
    // It joins no invoice any more.
    world.count("acct", 6, at(END) - TimeDelta::hours(2)).await;
    world.report_all().await;
    let differs = InvoiceFinding::Differs;
    assert_eq!(
        of_both_prices(&world).await,
        [(differs, USED + 7, Some(USED)), (differs, 6, Some(7))]
    );
    world.finish().await;
}

async fn send_foreign(world: &World, value: &str) {
    let event = [
        ("event_name", "api_calls"),
        ("payload[stripe_customer_id]", "cus_acct"),
        ("payload[value]", value),
    ];
    world
        .call_stripe("POST", "/v1/billing/meter_events", &event)
        .await;
}

async fn a_period_known_by_its_invoice_alone_has_the_price_of_its_line(mut world: World) {
    begin(&mut world, &[BASIC]).await;
    world.stop().await;
    // Two periods pass without a sync. In the first one the price is replaced, and something else sends usage.
    world.move_clocks(at(END) + TimeDelta::days(8)).await;
    send_foreign(&world, "4").await;
    world.move_clocks(at(END) + TimeDelta::days(10)).await;
    replace_price(&world, PRO).await;
    world.move_clocks(at(END) + TimeDelta::days(12)).await;
    send_foreign(&world, "9").await;
    world.move_clocks(at(END) + TimeDelta::days(36)).await;
    world.start_server().await;
    world.wait_until_idle().await;
    let periods_of = |price: &str| {
        let after = at(END).timestamp_millis();
        format!("billing_periods WHERE period_start >= {after} AND price = '{price}'")
    };
    // The invoices are read at the next poll.
    world.advance_until_found(&periods_of(BASIC)).await;
    assert_eq!(world.count_rows(&periods_of(BASIC)).await, 1);
    for (price, units) in [(BASIC, 4), (PRO, 9)] {
        let found = format!(
            "invoice_comparisons WHERE finding = 'differs' AND reported = 0 AND invoiced = {units} AND price = '{price}'"
        );
        world.advance_until_found(&found).await;
    }
    assert!(world.count_rows(&periods_of(PRO)).await >= 2);
    world.finish().await;
}
