//! Billing periods: usage is on the invoice of its period, even with faults around the period's end.

use chrono::TimeDelta;
use fake_stripe::Fault;
use usage_client::{InvoiceState, PutAccount, ReportState};

use crate::support::world::{
    World, at,
    billing::{BASIC, SEATS},
    on_both_engines,
};

on_both_engines!(
    usage_around_a_boundary_inside_an_hour_is_on_two_invoices,
    usage_before_the_link_in_the_same_period_is_billed,
    late_usage_joins_the_draft_invoice,
    usage_before_the_subscription_needs_a_decision,
    reports_near_their_deadline_are_counted,
);

/// Twelve minutes and some seconds past an hour, so that the boundary is inside the hour.
const ANCHOR: &str = "2027-03-10T13:12:34Z";

async fn usage_around_a_boundary_inside_an_hour_is_on_two_invoices(mut world: World) {
    let end = at("2027-04-10T13:12:34Z");
    world.with_prices_at(end - TimeDelta::days(2)).await;
    world.subscribe("acct", &[BASIC, SEATS], at(ANCHOR)).await;
    let account = world.link_to_subscription("acct").await;
    assert_eq!(
        account.valid_from,
        at(ANCHOR),
        "it bills since the period began"
    );
    let known = world.subscription("acct").await.unwrap();
    assert_eq!(
        (known.status.as_str(), known.billing_mode.as_str()),
        ("active", "flexible")
    );
    assert_eq!(known.periods.len(), 1, "seats are not synced");
    assert_eq!(known.periods[0].period.end, end);

    world.move_clocks(end).await;
    world
        .count("acct", 7, end - TimeDelta::milliseconds(1))
        .await;
    world.count("acct", 20, end).await;
    world
        .advance_to(end + TimeDelta::minutes(6), TimeDelta::minutes(2))
        .await;
    assert_eq!(
        world.stripe_total("cus_acct", "api_calls").await,
        27,
        "flushed by our own clock"
    );
    world.advance_past_draft(end).await;
    world.assert_invoiced(&[7]).await;
    let known = world.subscription("acct").await.unwrap();
    assert_eq!(known.periods[1].invoice_state, InvoiceState::Final);

    let next = at("2027-05-10T13:12:34Z");
    world.move_clocks(next).await;
    world.advance_past_draft(next).await;
    world.assert_invoiced(&[7, 20]).await;
    world.finish().await;
}

async fn usage_before_the_link_in_the_same_period_is_billed(mut world: World) {
    let start = at(ANCHOR);
    world.with_prices_at(start + TimeDelta::days(3)).await;
    world.count("acct", 100, start - TimeDelta::hours(2)).await;
    world.count("acct", 3, start).await;
    world.count("acct", 4, start + TimeDelta::days(2)).await;
    world.subscribe("acct", &[BASIC], start).await;
    world.link_to_subscription("acct").await;
    let end = at("2027-04-10T13:12:34Z");
    world.advance_to(end, TimeDelta::days(5)).await;
    world.advance_past_draft(end).await;
    world.assert_invoiced(&[7]).await;
    world.finish().await;
}

async fn late_usage_joins_the_draft_invoice(mut world: World) {
    let end = at("2027-04-10T13:12:34Z");
    world
        .start_subscribed(end - TimeDelta::days(1), &[BASIC], at(ANCHOR))
        .await;
    world.count("acct", 5, end - TimeDelta::hours(25)).await;
    world.advance_past(end, TimeDelta::minutes(40)).await;
    world.count("acct", 6, end - TimeDelta::hours(2)).await;
    world
        .advance_to(end + TimeDelta::minutes(80), TimeDelta::minutes(5))
        .await;
    world.assert_invoiced(&[11]).await;
    world.finish().await;
}

async fn usage_before_the_subscription_needs_a_decision(mut world: World) {
    let start = at(ANCHOR);
    world.with_prices_at(start + TimeDelta::days(3)).await;
    world.count("acct", 100, start - TimeDelta::hours(2)).await;
    world.count("acct", 3, start).await;
    world.report_all().await;
    world.subscribe("acct", &[BASIC], start).await;
    let put = PutAccount::stripe("acct", "cus_acct").bill_from(start - TimeDelta::days(1));
    world.client().put_account(put).await.unwrap();
    world.report_all().await;
    let undecided = world.reports("acct").await.pop().unwrap();
    assert_eq!(
        (undecided.quantity, undecided.state),
        (100, ReportState::TooLate),
        "no invoice charges it: an admin decides"
    );
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 3);
    world.finish().await;
}

async fn reports_near_their_deadline_are_counted(mut world: World) {
    let end = at("2027-04-10T13:12:34Z");
    world
        .start_subscribed(end - TimeDelta::days(1), &[BASIC], at(ANCHOR))
        .await;
    world.count("acct", 5, world.now()).await;
    let down = Fault::status(503)
        .on_path("/v1/billing/meter_events")
        .always();
    world.stripe().script(down).await.unwrap();
    world.advance_past(end, TimeDelta::minutes(40)).await;
    for (deadline, near) in [
        ("draft_end", end + TimeDelta::minutes(50)),
        ("33_days", end + TimeDelta::days(33)),
    ] {
        let before = warnings(&world, deadline).await;
        world.move_clocks(near).await;
        world
            .wait_until(deadline, async || warnings(&world, deadline).await > before)
            .await;
    }
    world.finish().await;
}

/// The number of reports that were near a deadline.
async fn warnings(world: &World, deadline: &str) -> u64 {
    let (_, metrics) = world.http_get("/metrics").await;
    let name = format!("usage_deadline_warnings_total{{deadline=\"{deadline}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
    line.map_or(0, |number| number.parse().unwrap())
}
