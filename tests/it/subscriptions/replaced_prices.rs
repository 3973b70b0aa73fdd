//! The price of an item that is replaced in Stripe's dashboard by one that charges no configured meter, and that comes
//! back. The item and its billing period stay.

use chrono::{DateTime, TimeDelta, Utc};
use fake_stripe::NewPrice;
use usage_client::{ReportState, Subscription};

use crate::support::world::{
    World, at,
    billing::{BASIC, PRO, SEATS},
    on_both_engines,
};

on_both_engines!(
    a_licensed_price_ends_what_is_charged,
    a_price_of_another_meter_ends_what_is_charged,
    a_price_that_comes_back_charges_from_then_on,
    another_price_charges_from_then_on,
    the_invoice_of_a_licensed_price_is_no_billing_period,
    a_price_that_comes_back_in_a_later_period_charges_from_then_on,
);

const NOW: &str = "2027-03-20T08:30:10Z";
const START: &str = "2027-03-10T13:12:34Z";
const END: &str = "2027-04-10T13:12:34Z";

async fn begin(world: &mut World) -> DateTime<Utc> {
    let now = at(NOW);
    world.start_subscribed(now, &[BASIC], at(START)).await;
    world.count("acct", 4, now).await;
    world.report_all().await;
    world.wait_until_all_sent().await;
    now
}

async fn replace_price(
    world: &World,
    price: &str,
    is_found: impl Fn(&Subscription) -> bool,
) -> DateTime<Utc> {
    let item = world.stripe().subscriptions().await.unwrap()[0].items[0]
        .id
        .clone();
    let swap = [("items[0][id]", item.as_str()), ("items[0][price]", price)];
    world
        .call_stripe("POST", "/v1/subscriptions/sub_acct", &swap)
        .await;
    world.move_clocks(world.now() + TimeDelta::minutes(2)).await;
    world.wait_until_subscription("acct", is_found).await;
    world.now()
}

fn has_ended(known: &Subscription, now: DateTime<Utc>) -> bool {
    known.periods.iter().all(|period| period.period.end <= now)
}

/// The quantities of the account's reports in a state.
async fn in_state(world: &World, state: ReportState) -> Vec<i64> {
    let reports = world.reports("acct").await;
    let of_state = reports.iter().filter(|report| report.state == state);
    of_state.map(|report| report.quantity).collect()
}

async fn assert_uncharged_after(world: &World, price: &str) {
    let now = world.now() + TimeDelta::minutes(2);
    replace_price(world, price, |known| has_ended(known, now)).await;
    world.count("acct", 7, world.now()).await;
    // For an hour, the next period may not be visible yet.
    let later = world.now() + TimeDelta::minutes(62);
    world.move_clocks(later).await;
    world.report_all().await;
    world
        .wait_until("a decision on what nothing charges", async || {
            in_state(world, ReportState::Uncharged).await == [7]
        })
        .await;
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 4);
}

async fn a_licensed_price_ends_what_is_charged(mut world: World) {
    begin(&mut world).await;
    assert_uncharged_after(&world, SEATS).await;
    world.finish().await;
}

async fn a_price_of_another_meter_ends_what_is_charged(mut world: World) {
    begin(&mut world).await;
    let meter = world.stripe().create_meter("pages").await.unwrap();
    let price = NewPrice::volume("price_pages", "prod_pages", &meter, &[(None, "2")]);
    world.stripe().create_price(&price).await.unwrap();
    assert_uncharged_after(&world, "price_pages").await;
    world.finish().await;
}

async fn a_price_that_comes_back_charges_from_then_on(world: World) {
    charges_again_at(world, BASIC).await;
}

async fn another_price_charges_from_then_on(world: World) {
    charges_again_at(world, PRO).await;
}

async fn charges_again_at(mut world: World, price: &str) {
    begin(&mut world).await;
    assert_uncharged_after(&world, SEATS).await;
    let back = replace_price(&world, price, |known| {
        known
            .periods
            .iter()
            .any(|period| period.period.end == at(END))
    })
    .await;
    world.count("acct", 5, back + TimeDelta::seconds(1)).await;
    world.report_all().await;
    world
        .wait_until("a decision on what nothing charged", async || {
            in_state(&world, ReportState::TooLate).await == [7]
        })
        .await;
    world.wait_until_all_sent().await;
    world.advance_past_draft(at(END)).await;
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 9);
    world
        .advance_until_found(
            "(SELECT COUNT(*) AS number FROM invoice_comparisons WHERE finding = 'equal') c \
             WHERE number = 2",
        )
        .await;
    world.finish().await;
}

async fn the_invoice_of_a_licensed_price_is_no_billing_period(mut world: World) {
    begin(&mut world).await;
    assert_uncharged_after(&world, SEATS).await;
    world.receive_webhooks().await;
    // Its invoice charges seats of the next period in advance.
    world.advance_past_draft(at(END)).await;
    world.count("acct", 8, world.now()).await;
    world.report_all().await;
    world
        .wait_until("a decision on what nothing charges", async || {
            in_state(&world, ReportState::Uncharged).await.contains(&8)
        })
        .await;
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 4);
    assert_eq!(
        world
            .count_rows("billing_periods WHERE price = 'price_seats'")
            .await,
        0
    );
    world.finish().await;
}

async fn a_price_that_comes_back_in_a_later_period_charges_from_then_on(mut world: World) {
    begin(&mut world).await;
    assert_uncharged_after(&world, SEATS).await;
    world.advance_past(at(END), TimeDelta::hours(30)).await;
    world.count("acct", 8, world.now()).await;
    world.report_all().await;
    let end = at("2027-05-10T13:12:34Z");
    let back = replace_price(&world, BASIC, |known| {
        known.periods.iter().any(|period| period.period.end == end)
    })
    .await;
    world.count("acct", 5, back + TimeDelta::seconds(1)).await;
    world.report_all().await;
    world
        .wait_until("a decision on what nothing charged", async || {
            let mut late = in_state(&world, ReportState::TooLate).await;
            late.sort_unstable();
            late == [7, 8]
        })
        .await;
    world.wait_until_all_sent().await;
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 9);
    world.finish().await;
}
